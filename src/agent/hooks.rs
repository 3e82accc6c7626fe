//! The command of `[notify]`: run with one event as JSON on its standard input, one after the other.
//!
//! Under systemd each event goes to a socket behind which the service manager starts a unit of its own, so the command
//! has neither the agent's capabilities nor its priority. Without systemd it is a child of the agent. Events that come
//! faster than the command takes them are dropped, counted and said; the agent waits for none of it.

use super::clock;
use super::logging::{self, Told};
use crate::config::Config;
use crate::ctl::catalog;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Behind it the service manager starts the unit.
const SOCKET: &str = "/run/mainstay-notify.sock";
/// Events waiting for the command.
const QUEUE: usize = 64;
/// How long the command may take; its unit ends it a little earlier.
const PATIENCE: Duration = Duration::from_secs(32);
/// One event is no larger.
const MAX_EVENT: u64 = 64 * 1024;

/// The command, which a reload may change.
#[derive(Debug, Clone, Default)]
pub(super) struct Hooks(Arc<Mutex<Option<PathBuf>>>);

impl Hooks {
    /// Starts handing events on.
    pub(super) fn start(config: &Config) -> Self {
        let hooks = Self(Arc::new(Mutex::new(config.notify_command.clone())));
        let (tap, told) = mpsc::channel(QUEUE);
        logging::tap(tap);
        tokio::spawn(hooks.clone().run(told, config.node.name.clone(), config.cluster.name.clone()));
        hooks
    }

    /// From now on this one, or none.
    pub(super) fn set(&self, command: Option<PathBuf>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = command;
    }

    fn command(&self) -> Option<PathBuf> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn run(self, mut told: mpsc::Receiver<Told>, node: String, cluster: String) {
        while let Some(event) = told.recv().await {
            let Some(command) = self.command() else { continue };
            let mut problem = match timeout(PATIENCE, deliver(&command, &json(&event, &node, &cluster))).await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some(format!("it took longer than {PATIENCE:?}")),
            };
            let missed = logging::untold();
            if missed > 0 {
                problem = Some(format!("{missed} events came while it was busy, and were left out"));
            }
            if let Some(problem) = problem {
                let command = command.display();
                tracing::warn!(message_id = catalog::NOTIFY_FAILED, "notify command {command}: {problem}");
            }
        }
    }
}

fn json(told: &Told, node: &str, cluster: &str) -> Vec<u8> {
    let object = serde_json::json!({
        "event": told.kind,
        "group": told.group,
        "epoch": told.epoch.as_ref().and_then(|epoch| epoch.parse::<u64>().ok()),
        "text": told.text,
        "node": node,
        "cluster": cluster,
        "at_unix_ms": clock::unix_ms(),
    });
    let mut line = object.to_string().into_bytes();
    line.push(b'\n');
    line
}

async fn deliver(command: &Path, event: &[u8]) -> io::Result<()> {
    match UnixStream::connect(SOCKET).await {
        Ok(mut unit) => {
            unit.write_all(event).await?;
            unit.shutdown().await?;
            // It closes its end when it is done; what it might say there is nobody's.
            let mut rest = Vec::new();
            unit.take(MAX_EVENT).read_to_end(&mut rest).await.map(|_| ())
        }
        Err(error) if std::env::var_os("INVOCATION_ID").is_some() => {
            let text = format!("{SOCKET}: {error}; systemctl enable --now mainstay-notify.socket");
            Err(io::Error::new(error.kind(), text))
        }
        Err(_) => run_here(command, event).await,
    }
}

/// Without a service manager.
async fn run_here(command: &Path, event: &[u8]) -> io::Result<()> {
    let mut child =
        tokio::process::Command::new(command).stdin(Stdio::piped()).stdout(Stdio::null()).kill_on_drop(true).spawn()?;
    if let Some(mut input) = child.stdin.take() {
        // A command that reads nothing is no fault.
        let _ = input.write_all(event).await;
    }
    judge(child.wait().await?)
}

fn judge(status: std::process::ExitStatus) -> io::Result<()> {
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("it ended with {status}"))) }
}

/// `mainstay notify-event`: the command with the event from stdin. Its exit code.
///
/// # Errors
/// There is no command, or it cannot be run.
pub fn notify_event(config: &Config) -> io::Result<u8> {
    let mut event = Vec::new();
    io::stdin().lock().take(MAX_EVENT).read_to_end(&mut event)?;
    let Some(command) = &config.notify_command else {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the config has no [notify] command any more"));
    };
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", command.display()));
    let mut child = std::process::Command::new(command).stdin(Stdio::piped()).spawn().map_err(named)?;
    if let Some(mut input) = child.stdin.take() {
        let _ = input.write_all(&event);
    }
    let status = child.wait()?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}
