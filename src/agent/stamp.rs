//! The lease stamp beside the control socket (S1, S2): until when this host's agent may serve, or that it gave up.
//!
//! It lies in a directory that a reboot empties, carries the boot id, and is replaced in one rename, so a reader sees
//! the old or the new one whole. An agent restarted within the lease it finds carries on; one that finds a surrender
//! mark never serves that epoch again. It must never be trusted beyond the lease that is replicated.
//!
//! A thread of its own writes, since the socket may lie on a disk, and a disk may hang: the newest stamps wait in one
//! place, and older ones that were not written yet are forgotten. A stamp that comes late only says less.

use super::clock;
use crate::cluster::{Epoch, GroupName, RunId};
use crate::view::{Moment, Stamp};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// First line of the file: what it is and in which version.
const HEADER: &str = "mainstay lease stamp 1";
/// Last line: the file is whole.
const END: &str = "end";

/// How long after a failure it is written again: at first, and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// All groups' stamps of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamps {
    path: PathBuf,
    boot: String,
    stamps: BTreeMap<GroupName, Stamp>,
}

/// Writes the stamps. Dropping it lets the thread write what waits, and end.
#[derive(Debug)]
pub struct Keeper {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    slot: Mutex<Slot>,
    news: Condvar,
}

#[derive(Debug)]
struct Slot {
    stamps: Stamps,
    written: bool,
    closed: bool,
}

/// Where the stamp lies: beside the control socket.
pub fn path_beside(socket: &Path) -> PathBuf {
    socket.with_extension("lease")
}

/// What the stamps beside a control socket say now: for `mainstay fence`, which runs without an agent.
///
/// # Errors
/// As [`Stamps::open`].
pub fn read(socket: &Path) -> io::Result<BTreeMap<GroupName, Stamp>> {
    Ok(Stamps::open(socket)?.stamps)
}

impl Stamps {
    /// Reads what the agent before this one left. A stamp of another boot, or one that is no stamp, says nothing.
    ///
    /// # Errors
    /// This boot's id cannot be read: no stamp can be told from that of another boot.
    pub fn open(socket: &Path) -> io::Result<Self> {
        let boot = clock::boot_id()?;
        let path = path_beside(socket);
        let stamps = fs::read_to_string(&path).ok().and_then(|text| parse(&text, &boot)).unwrap_or_default();
        Ok(Self { path, boot, stamps })
    }

    /// What it says.
    pub fn all(&self) -> &BTreeMap<GroupName, Stamp> {
        &self.stamps
    }

    fn write(&self) -> io::Result<()> {
        let fresh = self.path.with_extension("lease-new");
        fs::write(&fresh, render(&self.stamps, &self.boot))?;
        fs::rename(&fresh, &self.path)
    }
}

impl Keeper {
    /// `marked` is told of every surrender mark once it is in place (S2).
    ///
    /// # Errors
    /// There can be no further thread.
    pub fn start(stamps: Stamps, marked: impl Fn(GroupName, Epoch) + Send + 'static) -> io::Result<Self> {
        let slot = Slot { stamps, written: true, closed: false };
        let shared = Arc::new(Shared { slot: Mutex::new(slot), news: Condvar::new() });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("stamp".into()).stack_size(128 * 1024);
        thread.spawn(move || theirs.keep(&marked))?;
        Ok(Self { shared })
    }

    /// Replaces one group's stamp; written as soon as the disk allows.
    pub fn put(&self, group: &GroupName, stamp: Stamp) {
        let mut slot = self.shared.lock();
        if slot.stamps.stamps.get(group) != Some(&stamp) {
            slot.stamps.stamps.insert(group.clone(), stamp);
            slot.written = false;
            self.shared.news.notify_one();
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.news.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest that is not written; None at the end.
    fn next(&self) -> Option<Stamps> {
        let mut slot = self.lock();
        while slot.written && !slot.closed {
            slot = self.news.wait(slot).unwrap_or_else(PoisonError::into_inner);
        }
        let waits = !std::mem::replace(&mut slot.written, true);
        waits.then(|| slot.stamps.clone())
    }

    fn keep(&self, marked: &dyn Fn(GroupName, Epoch)) {
        let mut told: BTreeSet<(GroupName, Epoch)> = BTreeSet::new();
        let mut wait = RETRY.0;
        while let Some(stamps) = self.next() {
            if let Err(error) = stamps.write() {
                if wait == RETRY.0 {
                    let path = stamps.path.display();
                    tracing::error!(error = %error, "the lease stamp {path} cannot be written; trying again");
                }
                std::thread::sleep(wait);
                wait = (wait * 2).min(RETRY.1);
                let mut slot = self.lock();
                if slot.closed {
                    return;
                }
                slot.written = false;
                continue;
            }
            wait = RETRY.0;
            for (group, stamp) in stamps.stamps {
                if let Stamp::Surrendered { epoch } = stamp
                    && told.insert((group.clone(), epoch))
                {
                    marked(group, epoch);
                }
            }
        }
    }
}

fn render(stamps: &BTreeMap<GroupName, Stamp>, boot: &str) -> String {
    let mut text = format!("{HEADER}\nboot {boot}\n");
    for (group, stamp) in stamps {
        // Writing to a String cannot fail.
        let _ = match stamp {
            Stamp::Leased { epoch, run_id, until } => writeln!(text, "leased {group} {epoch} {run_id} {}", until.0),
            Stamp::Surrendered { epoch } => writeln!(text, "surrendered {group} {epoch}"),
        };
    }
    text.push_str(END);
    text.push('\n');
    text
}

fn parse(text: &str, boot: &str) -> Option<BTreeMap<GroupName, Stamp>> {
    let mut lines = text.lines();
    let known = lines.next()? == HEADER && lines.next()?.strip_prefix("boot ")? == boot;
    let mut stamps = BTreeMap::new();
    for line in lines {
        if line == END {
            return known.then_some(stamps);
        }
        let words: Vec<&str> = line.split(' ').collect();
        let (group, stamp) = match words.as_slice() {
            ["leased", group, epoch, run_id, until] => {
                let until = Moment(until.parse().ok()?);
                let stamp = Stamp::Leased { epoch: Epoch(epoch.parse().ok()?), run_id: RunId::from(*run_id), until };
                (group, stamp)
            }
            ["surrendered", group, epoch] => (group, Stamp::Surrendered { epoch: Epoch(epoch.parse().ok()?) }),
            _ => return None,
        };
        stamps.insert(GroupName::from(*group), stamp);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamps() -> BTreeMap<GroupName, Stamp> {
        let leased = Stamp::Leased { epoch: Epoch(7), run_id: RunId::from("abc"), until: Moment(123_456) };
        BTreeMap::from([(GroupName::from("a"), leased), (GroupName::from("b"), Stamp::Surrendered { epoch: Epoch(3) })])
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(parse(&render(&stamps(), "boot"), "boot"), Some(stamps()));
    }

    #[test]
    fn another_boot_or_a_cut_or_foreign_file_says_nothing() {
        let text = render(&stamps(), "boot");
        assert_eq!(parse(&text, "other"), None);
        assert_eq!(parse(text.trim_end().strip_suffix(END).unwrap_or_default(), "boot"), None);
        assert_eq!(parse("", "boot"), None);
        assert_eq!(parse(&text.replace("leased a 7", "leased a x"), "boot"), None);
    }

    /// Waits until the keeper has nothing left to write.
    fn written(keeper: &Keeper, socket: &Path, wanted: &BTreeMap<GroupName, Stamp>) {
        for _ in 0..500 {
            if Stamps::open(socket).expect("a boot id").all() == wanted {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("not written: {keeper:?}");
    }

    #[test]
    fn replaced_in_one_rename_and_found_again_and_a_mark_is_told_of_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("m.sock");
        let found = Stamps::open(&socket).expect("a boot id");
        assert!(found.all().is_empty());
        let (said, told) = std::sync::mpsc::channel();
        let keeper = Keeper::start(found, move |group, epoch| {
            let _ = said.send((group, epoch));
        })
        .expect("a thread");
        for (group, stamp) in stamps() {
            keeper.put(&group, stamp.clone());
            keeper.put(&group, stamp);
        }
        written(&keeper, &socket, &stamps());
        drop(keeper);
        let all: Vec<_> = told.iter().collect();
        assert_eq!(all, [(GroupName::from("b"), Epoch(3))]);
    }

    #[test]
    fn what_cannot_be_written_is_neither_told_of_nor_forgotten() {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("later/m.sock");
        let (said, told) = std::sync::mpsc::channel();
        let keeper = Keeper::start(Stamps::open(&socket).expect("a boot id"), move |group, epoch| {
            let _ = said.send((group, epoch));
        })
        .expect("a thread");
        stamps().into_iter().for_each(|(group, stamp)| keeper.put(&group, stamp));
        assert!(told.recv_timeout(Duration::from_millis(100)).is_err(), "told of a mark that is not there");
        fs::create_dir(dir.path().join("later")).expect("a directory");
        written(&keeper, &socket, &stamps());
        assert_eq!(told.recv_timeout(Duration::from_secs(5)), Ok((GroupName::from("b"), Epoch(3))));
    }
}
