//! The membership: hosts join and are removed while the faults go on, as `raft::duty` and `raft::leave` do it.
//!
//! A joining host is a learner first; learners that have caught up become voters while their number stays odd; the
//! guardians follow the voters (S12). A removed host votes no more, then is no guardian, then leaves F and its groups,
//! then is forgotten. Its name may come back with another number and an empty disk.

use crate::agent::{host_of, id};
use crate::events::Ev;
use crate::world::{MS, World};
use mainstay::cluster::{Command, Durability, GroupCommand, GuardianChange, NodeId, majority};
use std::collections::BTreeSet;

impl World {
    /// The leader's next step, five times a second.
    pub fn duty(&mut self) {
        self.at(200 * MS, Ev::Duty);
        let Some(leader) = self.raft.leader.filter(|leader| self.quorum_at(*leader, |_, _| true)) else { return };
        let voters: BTreeSet<NodeId> = self.raft.voters.iter().copied().map(id).collect();
        let guardians = self.committed().guardians.clone();
        if guardians.next.is_some() {
            return;
        }
        if guardians.now != voters {
            tr!(self, "raft: the guardians follow the voters");
            self.covered.guardian_changes += 1;
            self.append(leader, &Command::Guardians(GuardianChange::Begin { next: voters }));
            return;
        }
        if let Some((host, since)) = self.raft.leaving {
            let late = self.now - since > 15_000 * MS;
            if late || !self.remove_step(leader, host) {
                self.raft.leaving = None;
            }
            return;
        }
        let fit = |host: &usize| {
            let caught_up = self.hosts[*host].applied + 16 >= self.raft.states.len();
            self.awake(*host) && self.net.both(leader, *host) && caught_up
        };
        let able: Vec<usize> = self.raft.members.difference(&self.raft.voters).copied().filter(fit).collect();
        let most = self.raft.voters.len() + able.len();
        let wanted = if most % 2 == 1 { most } else { most.saturating_sub(1) };
        let more: Vec<usize> = able.into_iter().take(wanted.saturating_sub(self.raft.voters.len())).collect();
        let next: BTreeSet<usize> = self.raft.voters.iter().copied().chain(more.iter().copied()).collect();
        if !more.is_empty() && self.majority_reached(leader, &next) {
            tr!(self, "raft: {more:?} (from 0) vote");
            self.raft.voters = next;
        }
    }

    /// Raft's own joint step: both majorities must answer.
    fn majority_reached(&self, leader: usize, voters: &BTreeSet<usize>) -> bool {
        voters.iter().filter(|v| self.awake(**v) && self.net.both(leader, **v)).count() >= majority(voters.len())
    }

    /// Operator: a new host joins, under the name of a removed one if there is any.
    pub fn join(&mut self) -> bool {
        let leader = self.raft.leader.filter(|leader| self.quorum_at(*leader, |_, _| true));
        let host = host_of(self.committed().next_node);
        let room = host < self.hosts.len() && !self.founding_on();
        let (Some(leader), true) = (leader, room) else { return false };
        let known: BTreeSet<String> = self.committed().nodes.values().map(|node| node.name.clone()).collect();
        let name = (0..=host).map(|n| format!("n{}", n + 1)).find(|name| !known.contains(name)).unwrap_or_default();
        tr!(self, "operator: host {} joins as {name}", host + 1);
        let record = crate::raft::record(host, name);
        if !self.append(leader, &Command::AddNode { node: id(host), record }) {
            return false;
        }
        self.raft.members.insert(host);
        self.hosts[host].joined = true;
        self.hosts[host].generation = self.generation;
        self.hosts[host].up = true;
        for at in self.places(host) {
            self.insts[at].redis.alive = self.insts[at].member;
            if self.insts[at].member && self.told.is_none() && self.rng.permille(250) {
                self.join_with_data(at);
            }
        }
        self.start_agent(host);
        self.covered.joins += 1;
        true
    }

    /// Operator: a host is removed for good. A primary is refused.
    pub fn leave(&mut self, host: usize) -> bool {
        let primary = self.committed().groups.values().any(|group| group.primary_node() == Some(id(host)));
        let fit = self.raft.members.contains(&host) && self.raft.voters.len() > 2 && self.raft.leaving.is_none();
        let thin = self.gone.is_some() || self.founding_on();
        if primary || !fit || thin {
            return false;
        }
        if self.raft.leader == Some(host) {
            let other = self.raft.voters.iter().copied().find(|v| *v != host && self.quorum_at(*v, |_, _| true));
            let Some(other) = other else { return false };
            self.lead(other);
        }
        tr!(self, "operator: host {} is to leave for good", host + 1);
        self.raft.leaving = Some((host, self.now));
        self.raft.proof_since = None;
        true
    }

    /// False: given up or done.
    fn remove_step(&mut self, leader: usize, host: usize) -> bool {
        let primary = self.committed().groups.values().any(|group| group.primary_node() == Some(id(host)));
        if primary || leader == host {
            return false;
        }
        let mut without = self.raft.voters.clone();
        if without.remove(&host) {
            if self.majority_reached(leader, &without) {
                tr!(self, "raft: {} votes no more", host + 1);
                self.raft.voters = without;
            }
            return true;
        }
        if self.committed().guardians.all().contains(&id(host)) {
            return true;
        }
        let node = id(host);
        for name in self.names.clone() {
            let Some(group) = self.committed().groups.get(&name) else { continue };
            let expect = group.expect();
            let (follower, proved) = (group.followers.get(&node).cloned(), group.durability == Durability::Quorum);
            let member = group.members.contains_key(&node);
            let of = |change| Command::Group { group: name.clone(), expect, change };
            if let Some(follower) = follower {
                let since = follower.since;
                // S5, two commits, where the durability asks for them; what is not proved in time goes without.
                let begun = *self.raft.proof_since.get_or_insert(self.now);
                if proved && self.awake(host) && self.now - begun < 4000 * MS {
                    if follower.leaving.is_none() {
                        self.append(leader, &of(GroupCommand::Leaving { node, since }));
                    }
                    return true;
                }
                if !self.append(leader, &of(GroupCommand::Drop { node, since })) {
                    return true;
                }
            }
            if member && !self.append(leader, &of(GroupCommand::RemoveMember { node })) {
                return true;
            }
        }
        if !self.append(leader, &Command::RemoveNode { node }) {
            return true;
        }
        self.raft.members.remove(&host);
        self.covered.leaves += 1;
        tr!(self, "host {} is gone for good", host + 1);
        self.end_agent(host);
        self.hosts[host].joined = false;
        self.hosts[host].up = false;
        for at in self.places(host) {
            self.insts[at].vip_until = 0;
            self.insts[at].redis.die();
        }
        false
    }
}
