//! The few settings an instance must have for the protocol to hold, set at run time and never rewritten to disk.
//!
//! What each prevents: `repl-diskless-load disabled` keeps a cut resync from looking like old data (S4) and keeps
//! INFO answering (S7); `replica-read-only yes` is the fence itself (S9); `replica-ignore-maxmemory yes` keeps a
//! sealed instance from evicting what it was sealed with; `repl-diskless-sync-delay 0` spares a rejoining replica
//! five seconds; `repl-backlog-ttl 0` lets a primary that has been alone for an hour count its writes on, under its name
//! (S11). `repl-timeout` and the ping period are read and reported, not changed: they belong to the
//! operator's network.

use super::Endpoint;
use super::conn::{Answer, Named, command};
use super::error::{Error, from_server, server_words};
use redis::Value;
use std::time::Duration;

/// The address other instances and Sentinel clients reach this instance at; never the VIP.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Announce {
    /// IP address.
    pub ip: String,
    /// Port.
    pub port: u16,
}

/// What an instance is to be set to, beyond what always holds. `masteruser` and `masterauth` come from the
/// endpoint: all hosts of a group share the credentials.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    /// Becomes `replica-announce-ip` and `replica-announce-port`.
    pub announce: Option<Announce>,
}

/// What enforcing found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SettingsReport {
    /// `repl-timeout`: a link silent for this long is dropped.
    pub repl_timeout: Duration,
    /// `repl-ping-replica-period`.
    pub ping_period: Duration,
    /// `repl-timeout` does not exceed the ping period: links will flap. Raise it to 60.
    pub links_will_flap: bool,
}

struct Wanted {
    name: &'static str,
    value: String,
    remedy: &'static str,
}

const ALLOW_CONFIG: &str = "allow +config|set to this user and do not rename CONFIG";
const SET_IN_FILE: &str = "allow +config|set to this user, or set it so in the server's own config file";

fn wanted(endpoint: &Endpoint, settings: &Settings) -> Vec<Wanted> {
    let fixed = [
        ("repl-diskless-load", "disabled"),
        ("replica-read-only", "yes"),
        ("replica-ignore-maxmemory", "yes"),
        ("repl-diskless-sync-delay", "0"),
        ("repl-backlog-ttl", "0"),
    ];
    let mut all: Vec<Wanted> =
        fixed.into_iter().map(|(name, value)| Wanted { name, value: value.to_owned(), remedy: SET_IN_FILE }).collect();
    let mut add = |name, value: String| all.push(Wanted { name, value, remedy: ALLOW_CONFIG });
    let credentials = endpoint.login.get();
    if let Some(password) = &credentials.password {
        add("masteruser", credentials.username.clone().unwrap_or_default());
        add("masterauth", password.expose().to_owned());
    }
    if let Some(announce) = &settings.announce {
        add("replica-announce-ip", announce.ip.clone());
        add("replica-announce-port", announce.port.to_string());
    }
    all
}

/// The commands that enforce the settings and read the two that are only reported.
pub(super) fn commands(endpoint: &Endpoint, settings: &Settings) -> Vec<Named> {
    let mut all: Vec<Named> = wanted(endpoint, settings)
        .iter()
        .map(|w| command("CONFIG SET", &["CONFIG", "SET", w.name, &w.value]))
        .collect();
    for name in ["repl-timeout", "repl-ping-replica-period"] {
        all.push(command("CONFIG GET", &["CONFIG", "GET", name]));
    }
    all
}

/// Judges the answers to [`commands`]. The first refusal is the error.
pub(super) fn judge(
    target: &str,
    endpoint: &Endpoint,
    settings: &Settings,
    answers: Vec<Answer>,
) -> Result<SettingsReport, Error> {
    let mut answers = answers.into_iter();
    for (wanted, answer) in wanted(endpoint, settings).iter().zip(answers.by_ref()) {
        if let Err(err) = answer {
            return Err(refused(target, wanted.name, wanted.remedy, &err));
        }
    }
    let mut seconds = || -> Result<Duration, Error> {
        let value = match answers.next() {
            Some(Ok(value)) => value,
            Some(Err(err)) => return Err(from_server(target, "CONFIG GET", &err)),
            None => Value::Nil,
        };
        config_number(&value)
            .map(Duration::from_secs)
            .ok_or_else(|| super::error::unexpected(target, "CONFIG GET", &value))
    };
    let (repl_timeout, ping_period) = (seconds()?, seconds()?);
    Ok(SettingsReport { repl_timeout, ping_period, links_will_flap: repl_timeout <= ping_period })
}

/// A refused `CONFIG SET`, unless the refusal is about the instance's state and not about the setting.
pub(super) fn refused(target: &str, setting: &'static str, remedy: &'static str, err: &redis::ServerError) -> Error {
    match from_server(target, "CONFIG SET", err) {
        Error::Denied { .. } | Error::Unexpected { .. } => {
            Error::SettingRefused { target: target.to_owned(), setting, detail: server_words(err), remedy }
        }
        other => other,
    }
}

/// The value of a `CONFIG GET name` answer: a map in RESP3, a flat list in RESP2.
fn config_number(value: &Value) -> Option<u64> {
    let text = match value {
        Value::Map(pairs) => &pairs.first()?.1,
        Value::Array(items) => items.get(1)?,
        _ => return None,
    };
    super::conn::text_of(text)?.parse().ok()
}
