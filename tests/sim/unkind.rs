//! Unkindness that no fault brings by itself, drawn from a stream of its own: commands that an old leader took and a later
//! one commits, messages that come twice, disks that are full.
//!
//! A full disk takes no record and no entry of the log: its node promises a new lease to nobody, seals nothing and does
//! not count for a commit until there is room; what it serves it goes on serving.

use crate::rng::Rng;
use crate::world::{MS, Ns, World};
use mainstay::cluster::{Command, Local};

/// What of it a run has.
#[derive(Debug)]
pub struct Unkind {
    /// Off in told stories, and where a directed fault is to be alone.
    pub on: bool,
    rng: Rng,
    /// By host: full, and the record that waits for room, with the agent that wants it written.
    full: Vec<bool>,
    waiting: Vec<Option<(u64, Local)>>,
    /// A command is being committed that was proposed to an earlier leader: what its proposer knew is old.
    pub late: bool,
}

/// So many proposals are in an old leader's log at most.
const LIMBO: usize = 4;

impl Unkind {
    /// Of a seed, apart from the run's own stream.
    pub fn new(seed: u64, hosts: usize) -> Self {
        Self {
            on: false,
            rng: Rng::new(seed ^ 0x04b1d),
            full: vec![false; hosts],
            waiting: vec![None; hosts],
            late: false,
        }
    }

    /// Whether a host's disk has no room.
    pub fn full(&self, host: usize) -> bool {
        self.full[host]
    }
}

impl World {
    /// A leader that has lost its majority takes a proposal: it is in its log, and perhaps in another voter's.
    pub fn keep_in_limbo(&mut self, from: usize, term: u64, command: &Command) {
        let heard = self.raft.leader.is_some_and(|leader| self.net.both(from, leader) && self.awake(leader));
        let taken = heard && self.raft.term == term && self.raft.limbo.len() < LIMBO;
        if self.unkind.on && taken && self.unkind.rng.permille(500) {
            tr!(self, "raft: in limbo: {}", crate::trace::command(command));
            self.raft.limbo.push(command.clone());
        }
    }

    /// Another leads: of what the one before took it may have a part.
    pub fn lose_limbo(&mut self) {
        let rng = &mut self.unkind.rng;
        self.raft.limbo.retain(|_| rng.permille(500));
    }

    /// What is in the leader's log comes before anything new.
    pub fn commit_limbo(&mut self, leader: usize) {
        if self.unkind.late || self.raft.limbo.is_empty() {
            return;
        }
        self.unkind.late = true;
        for command in std::mem::take(&mut self.raft.limbo) {
            tr!(self, "raft: late");
            self.covered.late_commits += u64::from(self.append(leader, &command));
        }
        self.unkind.late = false;
    }

    /// Whether, and how much later, a message comes a second time.
    pub fn repeated(&mut self) -> Option<Ns> {
        let again = self.unkind.on && self.unkind.rng.permille(15);
        self.covered.repeated += u64::from(again);
        again.then(|| self.unkind.rng.between(1, 500) * MS)
    }

    /// The disk, which was to be slow, is full instead.
    pub fn fill_disk(&mut self, host: usize) -> bool {
        let fills = self.unkind.on && self.unkind.rng.permille(500);
        if fills {
            tr!(self, "FAULT disk {} is full", host + 1);
            self.unkind.full[host] = true;
            self.covered.full_disks += 1;
        }
        fills
    }

    /// The record waits for room.
    pub fn hold_record(&mut self, host: usize, life: u64, local: Local) {
        self.unkind.waiting[host] = Some((life, local));
    }

    /// There is room again.
    pub fn empty_disk(&mut self, host: usize) {
        if std::mem::take(&mut self.unkind.full[host]) {
            tr!(self, "disk {} has room", host + 1);
        }
        if let Some((life, local)) = self.unkind.waiting[host].take() {
            self.at(MS, crate::events::Ev::Written { host, life, local });
        }
    }
}
