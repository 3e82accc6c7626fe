//! What a watcher tells, and the bounded way it is told.
//!
//! The watcher must never wait for its listener, and no event that matters may be lost. So each kind of event has
//! at most one place in the outbox: a newer one takes the older one's place at the end of the line. A slow
//! listener therefore sees fewer INFOs, always the newest, and always that the instance was gone.

use super::error::GoneKind;
use super::info::{Info, LoadingProgress};
use crate::view::Moment;
use std::collections::VecDeque;
use std::mem::discriminant;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};

/// No answer so far to a request that has been sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Silence {
    /// Since the unanswered request was sent.
    pub since: Duration,
    /// Whether its process has had processor time since then, or since the silence was told last; `None` if the process
    /// is on another host or not known.
    pub progress: Option<bool>,
}

/// What a watcher saw.
#[derive(Clone, PartialEq, Debug)]
pub enum InstanceEvent {
    /// An INFO answer.
    Info {
        /// What it said.
        info: Box<Info>,
        /// When the question was sent, by CLOCK_BOOTTIME: the state is no older.
        asked: Moment,
    },
    /// Loading its data set (S7: alive, not serving). Told beside `Info` when INFO answers, alone when even INFO
    /// is refused (then without progress).
    Loading(LoadingProgress),
    /// A script blocks it and it refuses everything but SCRIPT KILL.
    Busy,
    /// A request is unanswered; repeated while that lasts.
    Silent(Silence),
    /// A sure crash; told once, until the instance has answered again.
    Gone(GoneKind),
    /// Login refused; repeated at each try.
    AuthFailed {
        /// The instance's words and the remedy.
        detail: String,
    },
    /// Something answers, but not as a Redis or Valkey does; or this user may not run INFO.
    ProtocolNonsense {
        /// What was wrong and the remedy.
        detail: String,
    },
    /// It cannot be reached for a reason that is no proof of a crash (permission, route, maxclients).
    Unreachable {
        /// The reason and the remedy.
        detail: String,
    },
}

/// The queue between a watcher and its pump: one place per kind of event.
#[derive(Clone, Default)]
pub(super) struct Outbox {
    queue: Arc<Mutex<VecDeque<InstanceEvent>>>,
    filled: Arc<Notify>,
}

impl Outbox {
    pub(super) fn put(&self, event: InstanceEvent) {
        {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.retain(|queued| discriminant(queued) != discriminant(&event));
            queue.push_back(event);
        }
        self.filled.notify_one();
    }

    fn take(&self) -> Option<InstanceEvent> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// Hands events on until the listener is gone.
    pub(super) async fn pump(self, events: mpsc::Sender<InstanceEvent>) {
        loop {
            // The place is reserved first, so that coalescing goes on until there is room.
            let Ok(place) = events.reserve().await else {
                return;
            };
            let event = loop {
                if let Some(event) = self.take() {
                    break event;
                }
                tokio::select! {
                    () = self.filled.notified() => {}
                    () = events.closed() => return,
                }
            };
            place.send(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slow_listener_loses_no_crash_and_gets_the_newest_of_each_kind() {
        let outbox = Outbox::default();
        let silent = |ms| InstanceEvent::Silent(Silence { since: Duration::from_millis(ms), progress: None });
        outbox.put(InstanceEvent::Gone(GoneKind::Refused));
        for ms in 0..10_000 {
            outbox.put(silent(ms));
        }
        outbox.put(InstanceEvent::Busy);
        assert_eq!(outbox.queue.lock().unwrap().len(), 3, "one place per kind");

        let (tx, mut rx) = mpsc::channel(1);
        let pump = tokio::spawn(outbox.pump(tx));
        assert_eq!(rx.recv().await, Some(InstanceEvent::Gone(GoneKind::Refused)));
        assert_eq!(rx.recv().await, Some(silent(9_999)));
        assert_eq!(rx.recv().await, Some(InstanceEvent::Busy));
        drop(rx);
        tokio::time::timeout(Duration::from_secs(1), pump).await.expect("the pump ends with its listener").unwrap();
    }
}
