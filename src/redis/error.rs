//! The ways in which a request to an instance fails, told apart as the protocol needs them (S7).
//!
//! Loading and busy are alive, gone is dead, a timeout is neither: the caller acts differently on each, so none
//! may be folded into another. Every message names the place and, where there is one, the remedy.

use super::info::InfoError;
use redis::{RedisError, ServerError, Value};
use std::time::Duration;

/// How it is known that the instance is gone: nothing serves there now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GoneKind {
    /// The connection closed, or there was none, and a new one was refused.
    Refused,
    /// The instance's own process, verified before, has exited.
    ProcessExited,
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No answer before the caller's deadline. What was sent may still be executed later.
    #[error("{target}: no answer to {command} in {after:?}; the request may still take effect")]
    Timeout {
        /// The instance.
        target: String,
        /// What was asked.
        command: &'static str,
        /// How long was waited.
        after: Duration,
    },
    /// The connection was refused or the process has exited.
    #[error("{target}: nothing is there ({kind:?})")]
    Gone {
        /// The instance.
        target: String,
        /// How that is known.
        kind: GoneKind,
    },
    /// The instance closed the connection before it answered; whether the request took effect is unknown.
    #[error("{target}: connection closed before the answer to {command}")]
    Closed {
        /// The instance.
        target: String,
        /// What was asked.
        command: &'static str,
    },
    /// The address cannot be reached for another reason than a refusal.
    #[error("{target}: cannot connect: {detail}")]
    Unreachable {
        /// The instance.
        target: String,
        /// The system's words and the remedy.
        detail: String,
    },
    /// It loads its data set: alive, not serving.
    #[error("{target}: is loading its data set; wait until it has finished")]
    Loading {
        /// The instance.
        target: String,
    },
    /// A script or function runs beyond its time limit: alive, refusing everything else.
    #[error("{target}: a script blocks it; SCRIPT KILL ends one that has not written")]
    Busy {
        /// The instance.
        target: String,
    },
    /// It has no connection to spare.
    #[error("{target}: maxclients is reached; raise maxclients or close idle clients")]
    Full {
        /// The instance.
        target: String,
    },
    /// Login refused.
    #[error("{target}: login refused: {detail}; check redis_username and redis_password_file")]
    Auth {
        /// The instance.
        target: String,
        /// The instance's words.
        detail: String,
    },
    /// An ACL or a renamed command stands in the way.
    #[error("{target}: may not run {command}: {detail}; allow it to this user and do not rename it")]
    Denied {
        /// The instance.
        target: String,
        /// The command.
        command: &'static str,
        /// The instance's words.
        detail: String,
    },
    /// A `CONFIG SET` was refused.
    #[error("{target}: CONFIG SET {setting} refused: {detail}; {remedy}")]
    SettingRefused {
        /// The instance.
        target: String,
        /// The setting.
        setting: &'static str,
        /// The instance's words.
        detail: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Another process answers than the one that was meant (S6).
    #[error("{target}: run id is {found}, expected {expected}: it restarted; nothing was changed")]
    RunIdMismatch {
        /// The instance.
        target: String,
        /// The run id that was meant.
        expected: String,
        /// The run id that answers.
        found: String,
    },
    /// A fence began after this command did; the rest of the command was not sent (S9).
    #[error("{target}: overtaken by a fence, {command} was not sent")]
    Fenced {
        /// The instance.
        target: String,
        /// What was not sent.
        command: &'static str,
    },
    /// The command was accepted but the instance does not show its effect.
    #[error("{target}: {command} was accepted, yet the instance says: {found}")]
    NotConfirmed {
        /// The instance.
        target: String,
        /// The command.
        command: &'static str,
        /// What the instance says instead.
        found: String,
    },
    /// INFO could not be read.
    #[error("{target}: {source}")]
    Info {
        /// The instance.
        target: String,
        /// What was wrong.
        #[source]
        source: InfoError,
    },
    /// An answer that the protocol does not foresee.
    #[error("{target}: unexpected answer to {command}: {answer}")]
    Unexpected {
        /// The instance.
        target: String,
        /// The command.
        command: &'static str,
        /// The answer, shortened.
        answer: String,
    },
}

/// An answer or a foreign text, shortened so that no log line or event grows without bound.
pub(super) fn shorten(text: &str) -> String {
    const LIMIT: usize = 200;
    if text.chars().count() <= LIMIT {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(LIMIT).collect();
    short.push('…');
    short
}

/// The words of an error answer, code first as the instance sent them.
pub(super) fn server_words(err: &ServerError) -> String {
    shorten(&format!("{} {}", err.code(), err.details().unwrap_or_default()))
}

/// Maps an error answer to what it means for the caller.
pub(super) fn from_server(target: &str, command: &'static str, err: &ServerError) -> Error {
    let target = target.to_owned();
    let detail = server_words(err);
    match err.code() {
        "LOADING" => Error::Loading { target },
        "BUSY" => Error::Busy { target },
        "NOAUTH" | "WRONGPASS" | "DENIED" => Error::Auth { target, detail },
        "NOPERM" => Error::Denied { target, command, detail },
        _ if detail.contains("unknown command") => Error::Denied { target, command, detail },
        _ if detail.contains("max number of clients") => Error::Full { target },
        _ => Error::Unexpected { target, command, answer: detail },
    }
}

/// Maps a failure of the client library.
pub(super) fn from_redis(target: &str, command: &'static str, err: RedisError) -> Error {
    use redis::ErrorKind;
    let target_name = target.to_owned();
    let words = shorten(&err.to_string());
    if let Some(code) = err.code() {
        let detail = err.detail().unwrap_or_default();
        return match code {
            "LOADING" => Error::Loading { target: target_name },
            "BUSY" => Error::Busy { target: target_name },
            "NOAUTH" | "WRONGPASS" | "DENIED" => Error::Auth { target: target_name, detail: words },
            "NOPERM" => Error::Denied { target: target_name, command, detail: words },
            _ if detail.contains("max number of clients") => Error::Full { target: target_name },
            _ => Error::Unexpected { target: target_name, command, answer: words },
        };
    }
    match err.kind() {
        ErrorKind::AuthenticationFailed => Error::Auth { target: target_name, detail: words },
        ErrorKind::Io => Error::Closed { target: target_name, command },
        _ => Error::Unexpected { target: target_name, command, answer: words },
    }
}

/// An unforeseen value as an error.
pub(super) fn unexpected(target: &str, command: &'static str, value: &Value) -> Error {
    Error::Unexpected { target: target.to_owned(), command, answer: shorten(&format!("{value:?}")) }
}
