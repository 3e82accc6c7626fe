//! How a command ends: with 0, with what `status` found (1, 2), or with a code of sysexits.h and a remedy.
//!
//! A [`Failure`] is all that is printed of an error: what is wrong and what to do, on stderr. Nothing in here prints;
//! `main` does, once.

use super::protocol::{RefusalKind, Refused};
use std::fmt;

/// Codes of sysexits.h that mainstay uses. `status` has its own (0, 1, 2) beside them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// `status`: no quorum, no leader, or no agent to ask.
    NoQuorum = 2,
    /// The command line is wrong.
    Usage = 64,
    /// What it names does not exist.
    DataErr = 65,
    /// A file to read is not there.
    NoInput = 66,
    /// No agent answers, or an instance or the kernel did not do its part.
    Unavailable = 69,
    /// A defect.
    Software = 70,
    /// A file or socket cannot be created.
    CantCreat = 73,
    /// Reading or writing failed.
    IoErr = 74,
    /// Not now; try again.
    TempFail = 75,
    /// The user may not do that.
    NoPerm = 77,
    /// The config is wrong.
    Config = 78,
}

/// An error with its causes, but for those that have said themselves already.
pub fn in_words(error: &(dyn std::error::Error + 'static)) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !words.contains(&more) {
            words = format!("{words}: {more}");
        }
        cause = error.source();
    }
    words
}

/// Why a command failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Failure {
    /// The exit code.
    pub code: u8,
    /// What is wrong.
    pub what: String,
    /// What to do; empty where `what` says it all.
    pub remedy: String,
}

impl Failure {
    /// A failure with its remedy.
    pub fn new(code: Code, what: impl fmt::Display, remedy: impl fmt::Display) -> Self {
        Self { code: code as u8, what: what.to_string(), remedy: remedy.to_string() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if !self.remedy.is_empty() {
            write!(f, "\n{}", self.remedy)?;
        }
        Ok(())
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        let code = match refused.kind {
            RefusalKind::Wrong => Code::DataErr,
            RefusalKind::NotNow | RefusalKind::Unfinished => Code::TempFail,
            RefusalKind::Internal => Code::Software,
        };
        Self::new(code, refused.why, refused.remedy)
    }
}
