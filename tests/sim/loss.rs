//! S11: nothing lost in silence. Checked where a full resynchronisation replaces the data of an instance.
//!
//! - `loss-told`: what the new data lacks of the old was on record, on that node's disk, before it was thrown away.
//! - `quarantine-first`: with `quarantine` every write of it had been saved.
//! - `loss-in-event`: at the end each record is in the event of its change.

use crate::agent::{host_of, id};
use crate::trace::label;
use crate::world::{World, group_at, host_at};
use mainstay::cluster::{Epoch, Guarantee, NodeId};
use std::collections::{BTreeSet, HashSet};

/// What the invariants remember of one group.
#[derive(Debug, Default)]
pub struct Losses {
    /// Writes that are in a quarantined file, by host.
    rescued: BTreeSet<(usize, u64)>,
    /// To be told: who, the epoch that lacks it, how many writes.
    owed: Vec<(NodeId, Epoch, u64)>,
}

impl World {
    /// The detached instance's data was saved.
    pub fn note_rescued(&mut self, at: usize) {
        let (host, data) = (host_at(at), self.insts[at].redis.data.clone());
        let losses = &mut self.books[group_at(at)].losses;
        losses.rescued.extend(data.into_iter().map(|write| (host, write)));
    }

    /// The instance's data is replaced by that of a primary.
    pub fn check_replaced(&mut self, at: usize, primary: usize) {
        let (own, host, number) = (&self.insts[at].redis, host_at(at), group_at(at));
        let fresh: HashSet<u64> = self.insts[primary].redis.data.iter().copied().collect();
        let lost: Vec<u64> = own.data.iter().copied().filter(|write| !fresh.contains(write)).collect();
        // Where an agent is frozen its instance goes on following an address, whoever that has become a replica of: there is
        // nobody to record anything, and the other has told its own loss.
        if lost.is_empty() || self.insts[primary].redis.upstream.is_some() {
            return;
        }
        let saved = self.hosts[host].disk.groups.get(&self.names[number]).cloned().unwrap_or_default();
        let attached = saved.attached.as_ref().map(|attached| attached.epoch);
        // An operator's force may put old data where a host's instance follows by itself, its agent being dead or frozen:
        // nobody is there to record it, and the prompt has named that host as silent.
        let history = self.committed().groups.get(&self.names[number]).map(|group| &group.history);
        let forced = history.into_iter().flatten().any(|change| {
            change.guarantee == Guarantee::Forced && attached.is_none_or(|attached| change.epoch > attached)
        });
        if forced && (self.hosts[host].agent.is_none() || self.hosts[host].stalled) {
            return;
        }
        self.covered.losses += 1;
        let count = lost.len() as u64;
        // Cut short and begun again, by a restarted process or in a later epoch, it was on record for the first time.
        let known = saved.diverged.filter(|known| {
            let same = known.run_id == own.run_id() && known.offset.0 == own.offset;
            (Some(known.epoch) == attached || same) && known.bytes.is_none_or(|bytes| bytes >= count)
        });
        let Some(known) = known else {
            let text =
                format!("{} loses {count} writes, the first is {}, and its node has no record", label(at), lost[0]);
            self.violate("loss-told", text);
            return;
        };
        let losses = &mut self.books[number].losses;
        losses.owed.push((id(host), known.epoch, count));
        if self.hosts[host].quarantine
            && let Some(write) = lost.iter().find(|write| !losses.rescued.contains(&(host, **write)))
        {
            let text = format!("{} loses {count} writes, and {write} was not saved before", label(at));
            self.violate("quarantine-first", text);
        }
    }

    /// What is still to be told.
    pub fn untold(&self) -> Option<String> {
        self.books.iter().enumerate().find_map(|(number, book)| {
            let group = self.committed().groups.get(&self.names[number])?;
            book.losses.owed.iter().find_map(|(node, epoch, count)| {
                let change = group.history.iter().find(|change| change.epoch == *epoch)?;
                let told = change.diverged.get(node);
                let enough = told.is_some_and(|lost| lost.bytes.is_none_or(|bytes| bytes >= *count));
                let here = group.members.contains_key(node) && self.hosts[host_of(*node)].joined;
                (here && !enough).then(|| format!("node {node} lost {count} writes, and epoch {epoch} says {told:?}"))
            })
        })
    }
}
