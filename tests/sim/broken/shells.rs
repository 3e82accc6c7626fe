//! Breakages of the shells: disk, stamp, VIP, the commands to the instance, Raft's votes.

use crate::events::{Cure, Ev};
use crate::mutation::Mutation;
use crate::redis::Command;
use crate::world::{MS, Ns, World, group_at, host_at};
use mainstay::cluster::Epoch;
use mainstay::view::{Outcome, Task, What};

impl World {
    /// Whether the surrender mark is written in a broken way.
    pub fn mark_mutation(&mut self, at: usize, life: u64, epoch: Epoch, delay: Ns) -> bool {
        let host = host_at(at);
        let marked = What::Marked { group: self.name_at(at), epoch };
        match self.mutation {
            Some(Mutation::MarkAfterSurrender) => {
                self.tell(host, 0, marked);
                self.at(delay + 500 * MS, Ev::MarkWritten { place: at, life, epoch });
                true
            }
            Some(Mutation::StampErased) => {
                if let Some(agent) = self.hosts[host].agent.as_mut() {
                    agent.marking[group_at(at)] = false;
                }
                self.insts[at].stamp = None;
                self.tell(host, delay, marked);
                true
            }
            Some(Mutation::StampOverMark) => {
                // The stamp that was being written is renamed after the mark.
                if let Some(stamp) = self.insts[at].stamp.clone() {
                    self.at(delay + 10 * MS, Ev::Cure(Cure::Stamp(at, stamp)));
                }
                false
            }
            _ => false,
        }
    }

    /// The VIP's lifetime.
    pub fn leash_mutation(&self, leash: Ns) -> Ns {
        if self.mutation == Some(Mutation::VipForEver) { leash * 1000 } else { leash }
    }

    /// An instance was started anew.
    pub fn birth_mutation(&mut self, at: usize, before: u64) {
        let redis = &mut self.insts[at].redis;
        match self.mutation {
            Some(Mutation::BornPrimary) => redis.upstream = None,
            Some(Mutation::BornWritable) => redis.writable = true,
            Some(Mutation::LineageOverRestart) => redis.run = before,
            _ => {}
        }
    }

    /// A fence that is said to be done at once, and is done later.
    pub fn fence_mutation(&mut self, at: usize, task: Task, epoch: Epoch) -> Ns {
        if self.mutation != Some(Mutation::SurrenderBeforeFence) || task != Task::Fence {
            return 0;
        }
        let host = host_at(at);
        let asked = self.hosts[host].clock(self.now);
        let outcome = Outcome::Done { info: self.insts[at].redis.info(asked, self.now), clean: true };
        self.tell(host, MS, What::Done { group: self.name_at(at), task, epoch, outcome });
        60 * MS
    }

    /// Whether a handover counts the successor as drained before it is, or pings once more after it is.
    pub fn handover_mutation(&mut self, at: usize) -> Option<Command> {
        match self.mutation {
            Some(Mutation::HandoverUnfrozen) => Some(Command::Unpause),
            Some(Mutation::PingAfterDrain) => {
                self.insts[at].redis.write(0);
                Some(Command::Nowhere { close: true })
            }
            _ => None,
        }
    }

    /// An instance was detached. With `maxmemory` and `replica-ignore-maxmemory no` keys go without a word, and the offset
    /// says nothing of it.
    pub fn seal_mutation(&mut self, at: usize) {
        if self.mutation == Some(Mutation::SealedEvicts) {
            let redis = &mut self.insts[at].redis;
            redis.data.clear();
            redis.marks.clear();
            redis.origin = redis.offset;
        }
    }

    /// In which order a thawed instance finds what came in meanwhile.
    pub fn queue_mutation(&self, queue: &mut [(u64, Command)]) {
        if self.mutation == Some(Mutation::LateNoOne) {
            queue.sort_by_key(|(_, command)| matches!(command, Command::NoOne(_)));
        }
    }
}
