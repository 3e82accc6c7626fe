//! The changes of primary that the agents told of in their logs, and what they said came back of data that was left behind.
//!
//! Every agent tells of every change that it sees; one that was down, or got several at once by a snapshot, may miss
//! some, so all hosts' logs together are read.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};

use crate::cluster::Cluster;
use crate::switch::HostNo;

/// One change of primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub words: String,
}

impl Change {
    /// Who is primary since, by the host's name.
    pub fn to(&self) -> &str {
        self.words.strip_prefix("primary is ").and_then(|rest| rest.split(',').next()).unwrap_or_default()
    }

    /// The agents say that every write that W members held is kept.
    pub fn kept(&self) -> bool {
        self.words.contains("every write that a write quorum held is kept") || self.words.contains("first promotion")
    }
}

/// Reads on where it stopped.
#[derive(Default)]
pub struct Events {
    read: BTreeMap<HostNo, u64>,
    pub changes: BTreeMap<u64, Change>,
    /// How often something was said to have come back that an epoch lacks; agents repeat each other.
    pub came_back: usize,
}

impl Events {
    /// Takes in what was logged since; the epochs that are new.
    pub fn update(&mut self, c: &Cluster) -> Vec<u64> {
        let before: Vec<u64> = self.changes.keys().copied().collect();
        for host in c.hosts.values() {
            let from = self.read.entry(host.no).or_default();
            let mut text = Vec::new();
            let read = std::fs::File::open(host.files.agent_log()).and_then(|mut file| {
                file.seek(SeekFrom::Start(*from))?;
                file.read_to_end(&mut text)
            });
            // A line under way is read with the next update.
            let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            if read.is_ok() {
                *from += whole as u64;
            }
            for line in String::from_utf8_lossy(&text[..whole]).lines() {
                self.came_back += usize::from(is_return(line));
                if let Some((epoch, change)) = parse(line) {
                    self.changes.entry(epoch).or_insert(change);
                }
            }
        }
        self.changes.keys().copied().filter(|epoch| !before.contains(epoch)).collect()
    }
}

fn is_return(line: &str) -> bool {
    line.contains(" came back with ") && line.contains(" that this epoch lacks")
}

fn parse(line: &str) -> Option<(u64, Change)> {
    let at = line.find("primary is ")?;
    let words = line[at..].to_owned();
    if !words.contains(", before it ") {
        return None;
    }
    let epoch = line.split("epoch=").nth(1)?;
    let digits: String = epoch.chars().take_while(char::is_ascii_digit).collect();
    Some((digits.parse().ok()?, Change { words }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_read_and_anything_else_is_not() {
        let line = "12:00:00 INFO primary is n2, before it n1; every write that a write quorum held is kept \
                    group=mymaster epoch=7";
        let (epoch, change) = parse(line).expect("a change");
        assert_eq!(epoch, 7);
        assert!(change.kept());
        assert_eq!(change.to(), "n2");
        assert_eq!(parse("INFO the primary is n2 epoch=7"), None);
        assert!(is_return(
            "WARN node 1 came back with up to 4840 bytes that this epoch lacks, saved on node 1 as x.rdb"
        ));
        assert!(!is_return(line));
    }
}
