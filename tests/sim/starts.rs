//! What the agents find when they start for the first time (S13): nothing, a primary with replicas that hold data, two
//! sets of data; and hosts that join with data of their own.
//!
//! - `adoption-never-guesses`: of two sets of data none is promoted before an operator chose one.
//! - `adopted-primary-stays`, `adoption-keeps`: who ran as the primary stays it, and all data is on it.
//! - `adoption-patient`: nobody is detached before every node has introduced itself.
//! - `adoption-continues`: no full resynchronisation of a replica that could continue.
//! - `foreign-data-kept`: data that was never the group's is not thrown away before an operator said so.

use crate::agent::{host_of, id};
use crate::events::{Cure, Ev};
use crate::redis::{Attached, Link, Redis, Upstream};
use crate::rng::Rng;
use crate::trace::label;
use crate::world::{MS, Ns, Shape, World, group_at, host_at, place};
use mainstay::cluster::{Command, Epoch, Group, GroupCommand, Guarantee, NodeId};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// What the instances hold at the first start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Start {
    /// Nothing.
    #[default]
    Empty,
    /// One primary with replicas.
    Adopt,
    /// The same, and one that holds other data.
    TwoSets,
}

/// Until then nothing fails, and what was found is adopted.
pub const CALM: Ns = 3000 * MS;

/// What was found of one group, and what an operator said of it.
#[derive(Debug, Clone, Default)]
pub struct Found {
    pub start: Start,
    pub primary: Option<usize>,
    /// Replicated from it.
    pub replicas: BTreeSet<usize>,
    /// An operator chose at the first start.
    pub chosen: bool,
    /// Primaries that no agent has detached yet.
    pub running: BTreeSet<usize>,
    /// Data that is not the group's, by place, until an operator gives it up or forces that member.
    pub foreign: BTreeMap<usize, Vec<u64>>,
}

/// A seed's start, drawn apart from the run's own stream.
pub fn draw(seed: u64) -> Start {
    match Rng::new(seed ^ 0x5134).below(100) {
        0..15 => Start::Adopt,
        15..22 => Start::TwoSets,
        _ => Start::Empty,
    }
}

impl World {
    /// The instances run already, and hold data.
    pub fn furnish(&mut self, shape: &Shape) {
        if shape.start == Start::Empty {
            return;
        }
        for group in 0..self.names.len() {
            let all = (0..shape.first).map(|host| place(host, group));
            let alive: Vec<usize> = all.filter(|at| self.insts[*at].redis.alive).collect();
            let primary = alive[self.rng.index(alive.len())];
            self.books[group].found = Found { start: shape.start, primary: Some(primary), ..Found::default() };
            self.fill(primary);
            let mut others: Vec<usize> = alive.into_iter().filter(|at| *at != primary).collect();
            if shape.start == Start::TwoSets
                && let Some(apart) = others.pop()
            {
                self.fill(apart);
                self.books[group].found.foreign.insert(apart, self.insts[apart].redis.data.clone());
                let pause = self.rng.between(1500, 2800) * MS;
                self.at(pause, Ev::Cure(Cure::Bootstrap(group)));
            }
            for at in others {
                if self.rng.permille(800) {
                    self.replicate(at, primary);
                }
            }
        }
    }

    /// A primary with data of its own.
    fn fill(&mut self, at: usize) {
        self.books[group_at(at)].found.running.insert(at);
        let redis = &mut self.insts[at].redis;
        redis.upstream = None;
        redis.begin_history();
        for _ in 0..5 + self.rng.below(60) {
            self.writes += 1;
            redis.write(self.writes);
        }
    }

    /// It has been its replica for long.
    fn replicate(&mut self, at: usize, primary: usize) {
        self.connections += 1;
        let (connection, run) = (self.connections, self.insts[at].redis.run);
        let from = self.insts[primary].redis.clone();
        let row = Attached { connection, online: true, acked: from.offset, acked_at: 0, needs: 0 };
        self.insts[primary].redis.replicas.insert(at, row);
        let upstream = Some(Upstream::Host(primary));
        let replicas = BTreeMap::new();
        let stream = Some(Vec::new());
        let stream_base = from.offset;
        self.insts[at].redis =
            Redis { run, upstream, link: Link::Up, resumable: true, connection, replicas, stream, stream_base, ..from };
        let found = &mut self.books[group_at(at)].found;
        found.replicas.insert(at);
    }

    /// A host that joins with data of its own.
    pub fn join_with_data(&mut self, at: usize) {
        self.fill(at);
        let data = self.insts[at].redis.data.clone();
        tr!(self, "redis {}: holds {} writes that are not the group's", label(at), data.len());
        let found = &mut self.books[group_at(at)].found;
        found.foreign.insert(at, data);
        self.covered.foreign += 1;
        let pause = self.rng.between(300, 4000) * MS;
        self.at(pause, Ev::Cure(Cure::Bootstrap(group_at(at))));
    }

    /// A member that by its own record never followed joins anew: what it holds is not the group's.
    pub fn move_foreign(&mut self, from: usize, to: usize) {
        let group = group_at(to);
        self.books[group].found.foreign.remove(&from);
        let local = self.hosts[host_at(to)].disk.groups.get(&self.names[group]);
        let once = local.is_some_and(|local| local.attached.is_some());
        let data = self.insts[from].redis.data.clone();
        if !once && !data.is_empty() {
            self.books[group].found.foreign.insert(to, data);
            let pause = self.rng.between(300, 4000) * MS;
            self.at(pause, Ev::Cure(Cure::Bootstrap(group)));
        }
    }

    /// `mainstay bootstrap --primary`: what else there is is given up.
    pub fn bootstrap(&mut self, group: usize) {
        let name = self.names[group].clone();
        let found = &self.books[group].found;
        let unborn = self.committed().groups.get(&name).is_none_or(|group| group.epoch == Epoch(0));
        let asked = found.start == Start::TwoSets && unborn && !found.chosen;
        if !asked && !self.undecided_in(group) {
            if !self.books[group].found.foreign.is_empty() {
                self.at(300 * MS, Ev::Cure(Cure::Bootstrap(group)));
            }
            return;
        }
        let node = self.committed().groups.get(&name).and_then(|found| self.chosen(group, found));
        let expect = self.committed().groups.get(&name).map(Group::expect);
        // Now and then an operator names an empty one first, and is refused.
        let first = self.committed().groups.get(&name).is_some_and(|group| group.epoch == Epoch(0));
        let empty = (0..self.hosts.len()).find(|host| {
            let at = place(*host, group);
            self.insts[at].redis.alive && self.insts[at].redis.data.is_empty()
        });
        let mistaken = empty.map(id).filter(|_| first && self.rng.permille(300));
        let ordered = mistaken.or(node).zip(expect).is_some_and(|(node, expect)| {
            tr!(self, "operator: bootstrap --primary {node}");
            self.order(&Command::Group { group: name, expect, change: GroupCommand::Bootstrap { node } })
        });
        if ordered && mistaken.is_none() {
            self.books[group].found.chosen = true;
            let members: Vec<usize> =
                self.committed().groups.get(&self.names[group]).map_or_else(Vec::new, |found| {
                    found.members.keys().map(|node| place(host_of(*node), group)).collect()
                });
            self.books[group].found.foreign.retain(|at, _| !members.contains(at));
            self.covered.bootstraps += 1;
        } else {
            self.at(300 * MS, Ev::Cure(Cure::Bootstrap(group)));
        }
    }

    /// The primary, or at the first start any that holds data and may be promoted.
    fn chosen(&self, number: usize, group: &Group) -> Option<NodeId> {
        if group.epoch > Epoch(0) {
            return group.primary_node();
        }
        let fit = |node: &&NodeId| {
            let redis = &self.insts[place(host_of(**node), number)].redis;
            group.members[*node].priority > 0 && redis.alive && !redis.data.is_empty()
        };
        group.members.keys().rfind(fit).copied()
    }

    /// Whether two sets of data wait for an operator, or what a member brought does.
    pub fn undecided(&self) -> bool {
        (0..self.names.len()).any(|group| self.undecided_in(group))
    }

    fn undecided_in(&self, number: usize) -> bool {
        let Some(group) = self.committed().groups.get(&self.names[number]) else { return false };
        let foreign = self.books[number].found.foreign.keys().map(|at| group.members.get(&id(host_at(*at))));
        foreign.flatten().any(|member| !member.adopted)
    }

    /// The first promotion of a group.
    pub fn check_adopted(&mut self, number: usize, old: &Group, successor: NodeId, guarantee: Guarantee) {
        let at = place(host_of(successor), number);
        let found = self.books[number].found.clone();
        self.books[number].found.foreign.remove(&at);
        let held: HashSet<u64> = self.insts[at].redis.data.iter().copied().collect();
        if old.epoch == Epoch(0) && guarantee == Guarantee::Forced && found.primary.is_some() {
            self.leave_apart(number, at, old, &held);
        }
        if old.epoch > Epoch(0) || guarantee != Guarantee::Fresh {
            return;
        }
        let members: Vec<usize> = old.members.keys().map(|node| place(host_of(*node), number)).collect();
        let others = members.iter().map(|at| &self.insts[*at].redis).filter(|redis| redis.alive);
        let missing = others.flat_map(|redis| &redis.data).filter(|write| !held.contains(write)).count();
        if held.is_empty() && missing > 0 {
            self.violate("never-empty-over-data", format!("{} is empty, and another holds data", label(at)));
        }
        let Some(primary) = found.primary else { return };
        self.covered.adoptions += 1;
        if found.start == Start::TwoSets && !found.chosen {
            self.violate("adoption-never-guesses", format!("{} was chosen among two sets of data", label(at)));
        }
        // What an operator chose is his to answer for.
        if found.start != Start::Adopt || found.chosen {
            return;
        }
        if missing > 0 {
            self.violate("adoption-keeps", format!("{} lacks {missing} writes that others hold", label(at)));
        }
        let priority = old.members.get(&id(host_at(primary))).map_or(0, |member| member.priority);
        if at != primary && priority > 0 && self.now < CALM {
            self.violate("adopted-primary-stays", format!("{} took the place of {}", label(at), label(primary)));
        }
    }

    /// Forced before anybody was promoted: what the others hold beyond that stays foreign, until an operator says more.
    fn leave_apart(&mut self, number: usize, successor: usize, old: &Group, held: &HashSet<u64>) {
        for at in old.members.keys().map(|node| place(host_of(*node), number)) {
            let data = &self.insts[at].redis.data;
            let beyond: Vec<u64> = data.iter().copied().filter(|write| !held.contains(write)).collect();
            let kin = self.insts[at].redis.replid == self.insts[successor].redis.replid;
            // Without kinship nobody can tell that it is the same data.
            if !data.is_empty() && !kin {
                self.books[number].found.foreign.insert(at, beyond);
            }
        }
        let pause = self.rng.between(300, 4000) * MS;
        self.at(pause, Ev::Cure(Cure::Bootstrap(number)));
    }

    /// An instance was detached.
    pub fn check_detached(&mut self, at: usize) {
        let group = group_at(at);
        self.books[group].found.running.remove(&at);
        if self.books[group].found.start == Start::Empty || self.now > CALM {
            return;
        }
        let state = self.committed();
        let first = state.groups.get(&self.names[group]).is_none_or(|group| group.epoch == Epoch(0));
        if first && state.nodes.values().any(|node| !node.introduced) {
            self.violate("adoption-patient", format!("{} was detached before all were introduced", label(at)));
        }
    }

    /// A replica attaches, and is to be synchronised in full.
    pub fn check_full_sync(&mut self, at: usize, primary: usize) {
        let found = &self.books[group_at(at)].found;
        let one = found.start == Start::Adopt && found.primary == Some(primary) && found.replicas.contains(&at);
        if one && self.now < CALM {
            self.violate("adoption-continues", format!("{} is synchronised in full", label(at)));
        }
    }

    /// A full resynchronisation replaces what it held.
    pub fn check_foreign(&mut self, at: usize, primary: usize) {
        let found = &self.books[group_at(at)].found;
        let Some(foreign) = found.foreign.get(&at) else { return };
        let kept = &self.insts[primary].redis.data;
        let held = self.insts[at].redis.data.iter().any(|write| foreign.contains(write) && !kept.contains(write));
        if held {
            self.violate("foreign-data-kept", format!("{} lost its own data unasked", label(at)));
        }
    }
}
