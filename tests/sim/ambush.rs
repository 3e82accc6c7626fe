//! Directed faults where two rules meet: beyond the traces that broke earlier wordings. The sound core passes them all.

use crate::agent::id;
use crate::events::{Cure, Ev};
use crate::redis::Link;
use crate::trace::label;
use crate::world::{MS, World, place};
use mainstay::cluster::{Command, GroupCommand, Pause};

/// Which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ambush {
    /// Automatic promotion is paused, then all hosts lose power (S14).
    PausedPowerCut,
    /// All agents are stopped in order, then all hosts lose power (S14).
    StoppedPowerCut,
    /// One replica is cut off from the primary, the other is down; then the primary's agent is started again, freezes
    /// and is cut off (S5, S8).
    Inherit,
    /// The primary gives its epoch up, and its host reboots: the mark is gone (S2).
    MarkLost,
    /// A follower leaves, agents are started again at any moment, and the primary's host dies (S5).
    LeaveRestart,
    /// Guardians change, the primary is cut off, and an operator forces one (S12).
    JointForce,
    /// Who must not be promoted holds the most data when the primary's host dies (S4, S5).
    BarredHoldsMost,
    /// The same in a cold start (S14).
    BarredPowerCut,
    /// The primary's agent is killed, or its host dies, in the middle of a handover (S10).
    SwitchBroken,
    /// Epochs end as soon as they begin, and instances die meanwhile (S4).
    SealStorm,
    /// The primary is cut off, writes on, comes back; its successor dies before that has synchronised (S4, S11).
    PingPong,
    /// The primary is cut off and writes on; when it comes back its disk is full, and its successor dies (S11).
    SaveFails,
    /// Each follower leaves in turn, under `quorum`, and the primary's host dies at any moment (S5).
    LeaveInTurn,
    /// Members join and leave while the primary changes (S5, S12).
    Churn,
    /// All hosts but one are lost, and that one has not heard of the last change: its generation counts the same epoch anew,
    /// and the lost ones come back with what they wrote in theirs (S11).
    StaleSurvivor,
}

/// All of them.
pub const ALL: &[Ambush] = &[
    Ambush::PausedPowerCut,
    Ambush::StoppedPowerCut,
    Ambush::Inherit,
    Ambush::MarkLost,
    Ambush::LeaveRestart,
    Ambush::JointForce,
    Ambush::BarredHoldsMost,
    Ambush::BarredPowerCut,
    Ambush::SwitchBroken,
    Ambush::SealStorm,
    Ambush::PingPong,
    Ambush::SaveFails,
    Ambush::LeaveInTurn,
    Ambush::Churn,
    Ambush::StaleSurvivor,
];

impl Ambush {
    /// Under which number of hosts and members it makes sense, as `runs::shape` counts them.
    pub fn kind(self, seed: u64) -> u64 {
        match self {
            Ambush::Inherit | Ambush::LeaveRestart | Ambush::LeaveInTurn => 0,
            Ambush::JointForce | Ambush::Churn | Ambush::StaleSurvivor => 3,
            _ => [0, 1, 2, 0][usize::try_from(seed % 4).unwrap_or(0)],
        }
    }

    /// Only under that durability.
    pub fn quorum(self) -> Option<bool> {
        match self {
            Ambush::Inherit => Some(false),
            Ambush::LeaveRestart | Ambush::LeaveInTurn => Some(true),
            _ => None,
        }
    }
}

impl World {
    /// One of them begins.
    pub fn ambush(&mut self, ambush: Ambush, group: usize, primary: usize, other: usize) {
        tr!(self, "ATTACK {ambush:?}: primary {}, other {}", primary + 1, other + 1);
        match ambush {
            Ambush::PausedPowerCut => {
                self.order_long_pause(group);
                self.soon(1, 200, Cure::PowerCut);
            }
            Ambush::StoppedPowerCut => {
                (0..self.hosts.len()).for_each(|host| self.soon(0, 400, Cure::Stop(host)));
                self.soon(200, 5000, Cure::PowerCut);
            }
            Ambush::Inherit => self.ambush_inherit(group, primary, other),
            Ambush::MarkLost => {
                self.soon(0, 1, Cure::FenceOrder(place(primary, group)));
                if let Some(leader) = self.raft.leader.filter(|leader| *leader != primary) {
                    self.net.set(primary, leader, true);
                }
                self.soon(1, 60, Cure::Crash(primary));
                self.soon(700, 1500, Cure::Net);
            }
            Ambush::LeaveRestart => {
                self.soon(0, 1, Cure::Stop(other));
                for _ in 0..8 {
                    let host = self.rng.index(self.hosts.len());
                    self.soon(50, 2500, Cure::Restart(host));
                }
                self.soon(300, 3000, Cure::Crash(primary));
            }
            Ambush::JointForce => self.ambush_joint(group, primary, other),
            Ambush::BarredHoldsMost | Ambush::BarredPowerCut => self.ambush_barred(ambush, group, primary, other),
            Ambush::SwitchBroken => {
                self.soon(0, 1, Cure::Switch(group));
                let step = match self.rng.below(4) {
                    0 => Cure::Restart(primary),
                    1 => Cure::Crash(primary),
                    2 => Cure::Kill(place(other, group)),
                    _ => Cure::Freeze(primary),
                };
                self.soon(5, 400, step);
                self.soon(1500, 2500, Cure::Thaw(primary));
            }
            Ambush::SealStorm => {
                for _ in 0..12 {
                    self.soon(0, 1500, Cure::Seal(group));
                }
                for _ in 0..3 {
                    let host = self.rng.index(self.hosts.len());
                    self.soon(0, 1500, Cure::Kill(place(host, group)));
                }
            }
            Ambush::PingPong | Ambush::SaveFails => self.ambush_back(ambush, group, primary, other),
            Ambush::LeaveInTurn => {
                let others: Vec<usize> = (0..self.hosts.len()).filter(|host| *host != primary).collect();
                for host in others {
                    self.soon(0, 2500, Cure::Stop(host));
                }
                self.soon(100, 4000, Cure::Crash(primary));
            }
            Ambush::Churn => self.ambush_churn(group, primary),
            Ambush::StaleSurvivor => {
                let others = self.raft.voters.iter().copied().filter(|host| *host != primary);
                let Some(survivor) = others.max_by_key(|host| (Some(*host) != self.raft.leader, *host)) else { return };
                self.unkind.on = true;
                self.net.split(&[survivor]);
                self.soon(20, 300, Cure::Seal(group));
                self.soon(1000, 2000, Cure::LoseAllBut(survivor));
            }
        }
    }

    fn soon(&mut self, from: u64, to: u64, cure: Cure) {
        let pause = self.rng.between(from, to) * MS;
        self.at(pause, Ev::Cure(cure));
    }

    /// Until an operator ends it.
    fn order_long_pause(&mut self, group: usize) {
        let Some(found) = self.committed().groups.get(&self.names[group]) else { return };
        let expect = found.expect();
        let change = GroupCommand::Pause(Pause { length: None, reason: "work".to_owned() });
        tr!(self, "operator: pauses until further notice");
        self.covered.pauses += 1;
        self.order(&Command::Group { group: self.names[group].clone(), expect, change });
    }

    /// An operator sets a priority.
    pub fn order_priority(&mut self, group: usize, host: usize, priority: u32) {
        let Some(found) = self.committed().groups.get(&self.names[group]) else { return };
        let expect = found.expect();
        let change = GroupCommand::SetPriority { node: id(host), priority };
        tr!(self, "operator: {} has priority {priority}", label(place(host, group)));
        self.order(&Command::Group { group: self.names[group].clone(), expect, change });
    }

    fn ambush_inherit(&mut self, group: usize, primary: usize, other: usize) {
        let third = (0..self.hosts.len()).find(|host| *host != primary && *host != other);
        let following = |host: usize| self.insts[place(host, group)].redis.link == Link::Up;
        let Some(third) = third.filter(|third| following(*third) && following(other)) else { return };
        let down = place(other, group);
        self.insts[down].redis.die();
        self.tell_gone(down);
        self.at(9_000 * MS, Ev::Cure(Cure::Instance(down)));
        self.net.set(primary, third, true);
        self.net.set(third, primary, true);
        let restart = self.rng.between(1500, 2600);
        self.at(restart * MS, Ev::Cure(Cure::Restart(primary)));
        let frozen = restart + self.rng.between(60, 300);
        self.at(frozen * MS, Ev::Cure(Cure::Freeze(primary)));
        self.at(frozen * MS, Ev::Cure(Cure::Split(primary, primary)));
        self.at((frozen + 5) * MS, Ev::Cure(Cure::Mend(other, third)));
        self.at((frozen + 7_000) * MS, Ev::Cure(Cure::Thaw(primary)));
        self.at((frozen + 7_200) * MS, Ev::Cure(Cure::Net));
    }

    fn ambush_joint(&mut self, group: usize, primary: usize, other: usize) {
        self.join();
        self.join();
        let apart = self.rng.below(900);
        self.at(apart * MS, Ev::Cure(Cure::Split(primary, other)));
        for _ in 0..3 {
            let host = self.rng.index(self.hosts.len());
            let pause = apart + self.rng.below(1200);
            self.at(pause * MS, Ev::Cure(Cure::Force(group, host)));
        }
        self.soon(1500, 3500, Cure::Net);
    }

    fn ambush_barred(&mut self, ambush: Ambush, group: usize, primary: usize, other: usize) {
        let able = |host: &usize| {
            let found = self.committed().groups.get(&self.names[group]);
            let member = found.and_then(|found| found.members.get(&id(*host)));
            *host != other && member.is_some_and(|member| member.priority > 0)
        };
        let others: Vec<usize> = (0..self.hosts.len()).filter(able).collect();
        if others.is_empty() {
            return;
        }
        self.order_priority(group, other, 0);
        for host in others {
            self.insts[place(host, group)].redis.narrow = true;
            self.at(3000 * MS, Ev::Cure(Cure::Narrow(place(host, group), false)));
        }
        let strike = if ambush == Ambush::BarredPowerCut { Cure::PowerCut } else { Cure::Crash(primary) };
        self.soon(200, 1200, strike);
        let before = self.hosts[other].policy.groups.get(&self.names[group]).map_or(0, |own| own.priority);
        self.soon(5000, 9000, Cure::Priority(group, other, before));
    }

    fn ambush_back(&mut self, ambush: Ambush, group: usize, primary: usize, other: usize) {
        self.net.split(&[primary]);
        let back = self.rng.between(900, 1800);
        self.at(back * MS, Ev::Cure(Cure::Net));
        if ambush == Ambush::SaveFails {
            self.unkind.on = true;
            while !self.fill_disk(primary) {}
            self.at((back + 3000) * MS, Ev::Cure(Cure::Slow(primary)));
        }
        for host in (0..self.hosts.len()).filter(|host| *host != primary) {
            if self.rng.permille(500) {
                let pause = back + self.rng.below(700);
                self.at(pause * MS, Ev::Cure(Cure::Kill(place(host, group))));
            }
        }
        let pause = back + self.rng.between(200, 1500);
        self.at(pause * MS, Ev::Cure(Cure::Crash(other)));
    }

    fn ambush_churn(&mut self, group: usize, primary: usize) {
        self.join();
        let (one, another) = (self.rng.index(self.hosts.len()), self.rng.index(self.hosts.len()));
        self.soon(0, 1500, Cure::Seal(group));
        self.soon(0, 1500, Cure::Kill(place(one, group)));
        self.soon(200, 2000, Cure::Crash(primary));
        self.leave(another);
        self.join();
    }
}
