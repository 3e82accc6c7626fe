//! Asking the person at the terminal for what the command line left out.

use super::SetupError;
use std::fmt::Display;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::str::FromStr;

/// An answer that is none is asked for again so often.
const TRIES: usize = 3;

/// Whether there is somebody to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asker {
    somebody: bool,
}

impl Asker {
    pub(super) fn new(silent: bool) -> Self {
        Self { somebody: !silent && io::stdin().is_terminal() && io::stderr().is_terminal() }
    }

    /// The value, if one was given; else what is answered; else the default. `flag` is named where nobody answers.
    pub(super) fn value<T>(
        &self,
        given: Option<T>,
        question: &str,
        flag: &str,
        usual: Option<T>,
    ) -> Result<T, SetupError>
    where
        T: FromStr + Display,
        T::Err: Display,
    {
        if let Some(given) = given {
            return Ok(given);
        }
        if !self.somebody {
            let remedy = format!("give {flag}, or run it in a terminal to be asked");
            return usual.ok_or_else(|| SetupError::wanted(format!("not known: {question}"), remedy));
        }
        for _ in 0..TRIES {
            let hint = usual.as_ref().map(|usual| format!(" [{usual}]")).unwrap_or_default();
            let answer = ask(&format!("{question}{hint}: "))?;
            match (answer.is_empty(), answer.parse::<T>()) {
                (true, _) if usual.is_some() => break,
                (false, Ok(value)) => return Ok(value),
                (false, Err(error)) => eprintln!("{answer:?} {error}"),
                (true, _) => eprintln!("an answer is needed"),
            }
        }
        usual.ok_or_else(|| SetupError::wanted(format!("not known: {question}"), format!("give {flag}")))
    }

    /// As [`value`](Self::value), where an empty answer is one.
    pub(super) fn optional<T>(&self, given: Option<T>, question: &str) -> Result<Option<T>, SetupError>
    where
        T: FromStr,
        T::Err: Display,
    {
        if given.is_some() || !self.somebody {
            return Ok(given);
        }
        for _ in 0..TRIES {
            let answer = ask(&format!("{question} (empty for none): "))?;
            if answer.is_empty() {
                return Ok(None);
            }
            match answer.parse::<T>() {
                Ok(value) => return Ok(Some(value)),
                Err(error) => eprintln!("{answer:?} {error}"),
            }
        }
        Err(SetupError::wanted(format!("not known: {question}"), "see `mainstay init --help`"))
    }

    /// Whether anybody can be asked.
    pub(super) fn somebody(&self) -> bool {
        self.somebody
    }
}

fn ask(question: &str) -> Result<String, SetupError> {
    let fault = |source| SetupError::Io { path: "the terminal".into(), what: "asking", source };
    let mut err = io::stderr();
    err.write_all(question.as_bytes()).and_then(|()| err.flush()).map_err(fault)?;
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer).map_err(fault)?;
    if read == 0 {
        return Err(SetupError::wanted("the answers ended early", "run it again; nothing was written"));
    }
    Ok(answer.trim().to_owned())
}
