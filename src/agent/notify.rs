//! The word to systemd: READY, STATUS, WATCHDOG, STOPPING. Outside systemd it says nothing.

use sd_notify::NotifyState;
use std::time::Duration;
use tokio::time::Instant;

/// Pets this many times per watchdog interval.
const PETS: u32 = 4;
/// How often it would pet if systemd asked for nothing: only paces a wait.
const IDLE: Duration = Duration::from_secs(5);

/// Talks to the service manager.
pub(super) struct Notifier {
    watchdog: Option<Duration>,
    petted: Option<Instant>,
    said: String,
}

impl Notifier {
    pub(super) fn new() -> Self {
        Self { watchdog: sd_notify::watchdog_enabled(), petted: None, said: String::new() }
    }

    /// The agent listens and watches.
    pub(super) fn ready(&mut self) {
        send(&[NotifyState::Ready]);
    }

    /// The agent was asked to stop.
    pub(super) fn stopping(&mut self) {
        send(&[NotifyState::Stopping]);
    }

    /// One line a person understands.
    pub(super) fn status(&mut self, line: &str) {
        if self.said != line {
            line.clone_into(&mut self.said);
            send(&[NotifyState::Status(line)]);
        }
    }

    /// How long to wait between two pets.
    pub(super) fn petting(&self) -> Duration {
        self.watchdog.map_or(IDLE, |interval| interval / PETS)
    }

    /// After a good round (S8).
    pub(super) fn pet(&mut self) {
        if self.watchdog.is_some() {
            self.petted = Some(Instant::now());
            send(&[NotifyState::Watchdog]);
        }
    }

    /// After a good round, but no more often than needed.
    pub(super) fn pet_if_due(&mut self) {
        if self.watchdog.is_some() && self.petted.is_none_or(|at| at.elapsed() >= self.petting()) {
            self.pet();
        }
    }
}

fn send(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(error = %error, "systemd could not be told");
    }
}
