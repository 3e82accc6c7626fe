//! The request to start or kill a unit, or for its last lines in the journal, at both its ends.
//!
//! The agent's user may do none of that. It connects to a socket behind which the service manager starts `mainstay
//! unit-request` as root for each connection: one line in (`start GROUP`, `kill GROUP` or `last GROUP`), one line out, or
//! the lines asked for. Only units that root's own config names can be meant. An agent that runs as root itself goes to
//! the bus and the journal directly where no such socket is.

use super::UnitHandle;
use super::bus::Manager;
use super::cause;
use crate::config::Config;
use std::io::{self, BufRead as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Where requests are taken.
const SOCKET: &str = "/run/mainstay-unit.sock";
/// A request is no longer, and an answer.
const MAX_LINE: u64 = 1024;
const MAX_ANSWER: u64 = 4096;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
const DONE: &str = "done";

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::agent) enum Verb {
    /// Start the unit.
    Start,
    /// Kill its main process.
    Kill,
    /// Quote its last lines in the journal.
    Last,
}

impl Verb {
    fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Kill => "kill",
            Self::Last => "last",
        }
    }
}

/// Has the unit started or killed. What could not be done, in words.
pub(in crate::agent) async fn ask(unit: &Arc<UnitHandle>, verb: Verb) -> Result<(), String> {
    let answer = asked(unit, verb).await?;
    if answer.trim_end() == DONE {
        return Ok(());
    }
    Err(format!("{} {}: {}", verb.word(), unit.name, answer.trim_end()))
}

/// The last lines in the journal of the unit, and about it; none if they cannot be had.
pub(super) async fn last_lines(unit: &Arc<UnitHandle>) -> Vec<String> {
    let answer = asked(unit, Verb::Last).await;
    let answer = answer
        .inspect_err(|why| tracing::info!(target: crate::DETAIL, "{}: its last lines: {why}", unit.name))
        .unwrap_or_default();
    let mut lines = answer.lines();
    // Anything else is a refusal.
    if lines.next() == Some(DONE) { lines.map(str::to_owned).collect() } else { Vec::new() }
}

async fn asked(unit: &Arc<UnitHandle>, verb: Verb) -> Result<String, String> {
    let line = format!("{} {}\n", verb.word(), unit.group);
    match timeout(PATIENCE, ask_at(Path::new(SOCKET), &line)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) if nobody(&error) && nix::unistd::geteuid().is_root() => {
            let name = unit.name.clone();
            let done = tokio::task::spawn_blocking(move || carry_out(verb, &name)).await;
            done.map_err(|error| error.to_string())?
        }
        Ok(Err(error)) => Err(format!(
            "{SOCKET}: {error}; systemctl enable --now mainstay-unit.socket lets the agent {} it",
            verb.word()
        )),
        Err(_) => Err(format!("{SOCKET}: no answer within {PATIENCE:?}")),
    }
}

fn nobody(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

async fn ask_at(socket: &Path, line: &str) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(line.as_bytes()).await?;
    stream.shutdown().await?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut answer).await?;
    Ok(answer)
}

/// The answer.
fn carry_out(verb: Verb, unit: &str) -> Result<String, String> {
    if verb == Verb::Last {
        let lines = cause::last_lines(unit).map_err(|error| format!("the journal: {error}"))?;
        return Ok(std::iter::once(DONE.to_owned()).chain(lines).collect::<Vec<_>>().join("\n"));
    }
    let mut manager = Manager::connect().map_err(|error| error.to_string())?;
    let done = if verb == Verb::Start { manager.start(unit) } else { manager.kill(unit) };
    done.map(|()| DONE.to_owned()).map_err(|error| error.to_string())
}

/// `mainstay unit-request`: one request from `input`, its answer to `output`. True if it was done.
///
/// # Errors
/// Reading or writing failed.
pub(in crate::agent) fn serve(config: &Config, input: impl io::Read, mut output: impl io::Write) -> io::Result<bool> {
    let mut line = String::new();
    io::BufReader::new(input.take(MAX_LINE)).read_line(&mut line)?;
    let done = meant(config, &line).and_then(|(verb, unit)| carry_out(verb, unit));
    let (Ok(answer) | Err(answer)) = &done;
    writeln!(output, "{answer}")?;
    Ok(done.is_ok())
}

/// The unit that a request means: one of this host's config.
fn meant<'a>(config: &'a Config, line: &str) -> Result<(Verb, &'a str), String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [verb, group] = words[..] else {
        return Err("a request is `start GROUP`, `kill GROUP` or `last GROUP`".to_owned());
    };
    let verb = match verb {
        "start" => Verb::Start,
        "kill" => Verb::Kill,
        "last" => Verb::Last,
        other => return Err(format!("{other:?} is neither `start` nor `kill` nor `last`")),
    };
    let found = config.groups.iter().find(|known| known.name == group);
    let unit = found.and_then(|found| found.unit.as_deref());
    unit.map(|unit| (verb, unit)).ok_or_else(|| format!("the config names no redis_unit of a group {group:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        let text = "[node]\nname = \"n1\"\naddress = \"10.0.0.1:7400\"\n[cluster]\nname = \"c\"\n\
            members = { n1 = \"10.0.0.1:7400\" }\n[[group]]\nname = \"g\"\nredis = \"127.0.0.1:6379\"\n\
            announce = \"10.0.0.1:6379\"\nredis_unit = \"redis-server.service\"\n";
        crate::config::parse(text, "test").expect("a config").0
    }

    #[test]
    fn only_units_of_the_config_are_meant() {
        let config = config();
        assert_eq!(meant(&config, "kill g\n"), Ok((Verb::Kill, "redis-server.service")));
        assert_eq!(meant(&config, "start g"), Ok((Verb::Start, "redis-server.service")));
        assert_eq!(meant(&config, "last g\n"), Ok((Verb::Last, "redis-server.service")));
        for line in
            ["", "kill", "kill g h", "stop g", "kill ssh.service", "last ssh.service", "start redis-server.service"]
        {
            assert!(meant(&config, line).is_err(), "{line:?}");
        }
    }

    #[tokio::test]
    async fn a_refusal_is_answered_in_words() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let server = tokio::task::spawn_blocking(move || serve(&config(), &theirs, &theirs));
        ours.set_nonblocking(true).expect("not blocking");
        let mut stream = UnixStream::from_std(ours).expect("a stream");
        stream.write_all(b"kill other\n").await.expect("sent");
        assert!(!server.await.expect("served").expect("answered"));
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("read");
        assert_eq!(answer, "the config names no redis_unit of a group \"other\"\n");
    }
}
