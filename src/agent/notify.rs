//! The word to systemd: READY, STATUS, WATCHDOG, STOPPING. Outside systemd it says nothing.
//!
//! The manager's socket blocks its sender when the manager does not read, and it is shared by all services: a thread of
//! its own speaks, so that the loop waits for nobody (S1). What does not fit into its short queue is left out: the newest
//! STATUS is said again with the next pet, and a pet that was left out means what it says.

use sd_notify::NotifyState;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;
use tokio::time::Instant;

/// Pets this many times per watchdog interval.
const PETS: u32 = 4;
/// How often it would pet if systemd asked for nothing: only paces a wait.
const IDLE: Duration = Duration::from_secs(5);

/// Words that wait for the manager to read.
const QUEUE: usize = 16;

/// What is to be said.
enum Word {
    Ready,
    Reloading,
    Stopping,
    Status(String),
    Watchdog,
}

/// Talks to the service manager.
pub(super) struct Notifier {
    watchdog: Option<Duration>,
    petted: Option<Instant>,
    said: String,
    /// The newest STATUS that found no room.
    unsaid: Option<String>,
    /// None outside systemd.
    speaker: Option<SyncSender<Word>>,
}

impl Notifier {
    pub(super) fn new() -> Self {
        let watched = std::env::var_os("NOTIFY_SOCKET").is_some();
        let speaker = watched.then(speaker).flatten();
        Self { watchdog: sd_notify::watchdog_enabled(), petted: None, said: String::new(), unsaid: None, speaker }
    }

    /// The agent listens and watches.
    pub(super) fn ready(&mut self) {
        self.say(Word::Ready);
    }

    /// The config is being read again; [`ready`](Self::ready) says that it was.
    pub(super) fn reloading(&mut self) {
        self.say(Word::Reloading);
    }

    /// The agent was asked to stop.
    pub(super) fn stopping(&mut self) {
        self.say(Word::Stopping);
    }

    /// One line a person understands.
    pub(super) fn status(&mut self, line: &str) {
        if self.said != line {
            line.clone_into(&mut self.said);
            let said = self.say(Word::Status(line.to_owned()));
            self.unsaid = (!said).then(|| line.to_owned());
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
            self.say(Word::Watchdog);
            if let Some(line) = self.unsaid.take()
                && !self.say(Word::Status(line.clone()))
            {
                self.unsaid = Some(line);
            }
        }
    }

    /// After a good round, but no more often than needed.
    pub(super) fn pet_if_due(&mut self) {
        if self.watchdog.is_some() && self.petted.is_none_or(|at| at.elapsed() >= self.petting()) {
            self.pet();
        }
    }

    /// True if it was taken up; without systemd there is nobody to take it up.
    fn say(&self, word: Word) -> bool {
        self.speaker.as_ref().is_none_or(|speaker| speaker.try_send(word).is_ok())
    }
}

/// Ends with the last sender. None if there can be no thread: then nothing is said.
fn speaker() -> Option<SyncSender<Word>> {
    let (words, spoken) = sync_channel(QUEUE);
    let thread = std::thread::Builder::new().name("notify".into()).stack_size(64 * 1024);
    let started = thread.spawn(move || {
        for word in spoken {
            // A manager that knows of reloads waits for one that began after it asked.
            let begun = NotifyState::monotonic_usec_now().ok().filter(|_| matches!(word, Word::Reloading));
            let state = match &word {
                Word::Reloading => NotifyState::Reloading,
                Word::Ready => NotifyState::Ready,
                Word::Stopping => NotifyState::Stopping,
                Word::Status(line) => NotifyState::Status(line),
                Word::Watchdog => NotifyState::Watchdog,
            };
            let states: Vec<NotifyState<'_>> = [Some(state), begun].into_iter().flatten().collect();
            if let Err(error) = sd_notify::notify(&states) {
                tracing::info!(target: crate::DETAIL, error = %error, "systemd could not be told");
            }
        }
    });
    if let Err(error) = &started {
        tracing::warn!(error = %error, "systemd will not be told anything");
    }
    started.ok().map(|_| words)
}
