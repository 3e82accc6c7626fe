//! What keeps the storage thread from finishing: a disk without room, or one that does not answer.
//!
//! A disk without room is waited for and nothing is given up: what was asked for becomes durable once there is room, and
//! until then nobody is told that it is. Everybody else can see that it waits, and for how long; what must not hang on
//! the disk (leases, fences) does not ask. Closing ends the waiting.

use super::error::StoreError;
use super::types::boottime;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Between two tries of a write that found no room.
const WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_millis(500);
/// LMDB reports a write that was cut short as an input/output error: with less than this free it was for lack of room.
const HARDLY_ANY: u64 = 1 << 20;

/// The storage thread has been at one write for so long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stall {
    /// How long.
    pub length: Duration,
    /// What the system says, and the remedy; None while the disk simply has not answered.
    pub why: Option<String>,
}

/// Shared by the storage thread and those who wait for it.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    closing: AtomicBool,
    /// CLOCK_BOOTTIME in ms at which the write under way began; 0 while there is none.
    since: AtomicU64,
    why: Mutex<Option<String>>,
}

fn now_ms() -> u64 {
    u64::try_from(boottime().as_millis()).unwrap_or(u64::MAX).max(1)
}

impl Pulse {
    pub(super) fn begin(&self) {
        self.since.store(now_ms(), Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        self.since.store(0, Ordering::Relaxed);
    }

    /// From now on nothing is waited for.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    pub(super) fn stalled(&self) -> Option<Stall> {
        let since = self.since.load(Ordering::Relaxed);
        let why = self.why.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (since > 0).then(|| Stall { length: Duration::from_millis(now_ms().saturating_sub(since)), why })
    }

    /// Tries until there is room, or something else is wrong, or the store is being closed.
    pub(super) fn patiently(
        &self,
        path: &Path,
        mut commit: impl FnMut() -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut wait = WAIT;
        loop {
            let result = commit();
            let lacking = result.as_ref().err().and_then(|error| lack_of_room(path, error));
            let mut known = self.why.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(why) = lacking.filter(|_| !self.closing.load(Ordering::Relaxed)) else {
                if known.take().is_some() && result.is_ok() {
                    tracing::info!("there is room on the disk again; what waited is written");
                }
                return result;
            };
            if known.is_none() {
                tracing::error!("{why}; nothing is recorded until there is room, what is served goes on");
            }
            *known = Some(why);
            drop(known);
            std::thread::sleep(wait);
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }
}

/// The error in words, if it is one that more room would mend.
fn lack_of_room(path: &Path, error: &StoreError) -> Option<String> {
    let StoreError::Io { source, what, .. } = error else { return None };
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Some(error.to_string()),
        _ if source.raw_os_error() == Some(libc::EIO) && free_space(path).is_ok_and(|free| free < HARDLY_ANY) => {
            let source = io::Error::from_raw_os_error(libc::ENOSPC);
            let remedy = super::open::remedy_of(&source);
            Some(StoreError::Io { path: path.to_owned(), what, source, remedy }.to_string())
        }
        _ => None,
    }
}

/// Bytes that an ordinary user may still write where `path` is. Blocks as long as the file system does.
///
/// # Errors
/// The system's.
pub fn free_space(path: &Path) -> io::Result<u64> {
    let found = nix::sys::statvfs::statvfs(path)?;
    Ok(found.blocks_available().saturating_mul(found.fragment_size()))
}
