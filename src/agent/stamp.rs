//! The lease stamp beside the control socket (S1, S2): until when this host's agent may serve, or that it gave up.
//!
//! It lies in a directory that a reboot empties, carries the boot id, and is replaced in one rename, so a reader sees
//! the old or the new one whole. An agent restarted within the lease it finds carries on; one that finds a surrender
//! mark never serves that epoch again. It must never be trusted beyond the lease that is replicated.

use super::clock;
use crate::cluster::{Epoch, GroupName, RunId};
use crate::view::{Moment, Stamp};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// First line of the file: what it is and in which version.
const HEADER: &str = "mainstay lease stamp 1";
/// Last line: the file is whole.
const END: &str = "end";

/// All groups' stamps of this host.
#[derive(Debug)]
pub struct Stamps {
    path: PathBuf,
    boot: String,
    stamps: BTreeMap<GroupName, Stamp>,
}

/// Where the stamp lies: beside the control socket.
pub fn path_beside(socket: &Path) -> PathBuf {
    socket.with_extension("lease")
}

/// What the stamps beside a control socket say now: for `mainstay fence`, which runs without an agent.
pub fn read(socket: &Path) -> BTreeMap<GroupName, Stamp> {
    Stamps::open(socket).stamps
}

impl Stamps {
    /// Reads what the agent before this one left. A stamp of another boot, or one that is no stamp, says nothing.
    pub fn open(socket: &Path) -> Self {
        let boot = clock::boot_id();
        let path = path_beside(socket);
        let stamps = fs::read_to_string(&path).ok().and_then(|text| parse(&text, &boot)).unwrap_or_default();
        Self { path, boot, stamps }
    }

    /// What it says.
    pub fn all(&self) -> &BTreeMap<GroupName, Stamp> {
        &self.stamps
    }

    /// Replaces one group's stamp, in one rename.
    ///
    /// # Errors
    /// The file could not be written; the old one stands.
    pub fn put(&mut self, group: &GroupName, stamp: Stamp) -> io::Result<()> {
        let old = self.stamps.insert(group.clone(), stamp);
        let written = self.write();
        if written.is_err() {
            match old {
                Some(old) => self.stamps.insert(group.clone(), old),
                None => self.stamps.remove(group),
            };
        }
        written
    }

    fn write(&self) -> io::Result<()> {
        let fresh = self.path.with_extension("lease-new");
        fs::write(&fresh, render(&self.stamps, &self.boot))?;
        fs::rename(&fresh, &self.path)
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

    #[test]
    fn replaced_in_one_rename_and_found_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("m.sock");
        let mut found = Stamps::open(&socket);
        assert!(found.all().is_empty());
        for (group, stamp) in stamps() {
            found.put(&group, stamp).expect("written");
        }
        assert_eq!(Stamps::open(&socket).all(), &stamps());
    }
}
