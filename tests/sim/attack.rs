//! Directed faults: sequences that a weakened rule needs and that chance seldom brings. The sound core passes them too.

use crate::agent::id;
use crate::ambush::Ambush;
use crate::events::{Cure, Ev};
use crate::trace::label;
use crate::world::{MS, World, group_at, host_at, place};
use mainstay::view::What;

/// A kind of directed fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attack {
    /// The primary is cut off and all others restart and forget; an operator seals (S2).
    Forget,
    /// The primary's agent freezes for long and its host is cut off, alone or with a replica (S8).
    FreezeCut,
    /// The same, always with a replica whose agent is awake.
    FreezePair,
    /// The primary is cut off with a fresh lease, and an operator seals.
    CutAndSeal,
    /// The primary hears its leader no more, its guardians hear the primary, and an operator seals.
    LeaderCut,
    /// The leader loses the primary, and the other guardians do in turn for a while (S3).
    Flaky,
    /// A follower lags; the primary changes; the new one dies before the others but the laggard follow it (S4).
    Lag,
    /// Guardians are added and removed, and the primary is cut off with one other meanwhile (S12).
    Joint,
    /// Members are added; then the primary and its best replica die, and the other one alone reports (S5).
    Grow,
    /// Whoever is promoted freezes at once, for about a lease.
    StallSuccessor,
    /// The primary's agent is killed and comes back within its lease, again and again (S1, S2).
    Restart,
    /// All hosts lose power (S14).
    PowerCut,
    /// A follower misses two epochs, must synchronise in full, and its primary dies meanwhile (S4). The old data is
    /// thrown away first.
    CutSync,
    /// Whatever comes to the primary comes late, for good (S1).
    LateAnswers,
    /// One replica's process stays dead, its agent lives (S5).
    DeadReplica,
    /// A follower is cut off for a while, then the primary dies (S5).
    Shrink,
    /// An instance dies and is back before anybody has seen it gone (S6).
    SwiftRestart,
    /// Switchovers, one after another (S10).
    Switch,
    /// The instance freezes when it is to become primary (S9).
    HangSuccessor,
    /// Instances are killed and come back with part of their data (S4).
    Instances,
    /// A follower leaves and is back before its leaving is complete (S5).
    Leave,
    /// An operator removes a follower that does not hear of it, and acknowledges on (S5).
    DeafLeaver,
    /// A follower leaves that holds more than the other, and the primary's host dies (S5).
    LeaveAhead,
    /// The primary's agent freezes, and nothing else does (S8).
    FreezeAlone,
    /// A new primary writes before anybody follows it, and its agent is stopped (S4).
    StopAhead,
    /// As before, and the agent comes back with a password that its instance refuses for a while (S4).
    LockedOut,
    /// Whoever is primary crashes, again and again (flap protection).
    Flap,
    /// The primary is cut off with a fresh lease, and an operator forces another one.
    ForceCut,
    /// A replica lags, the primary's host dies, and an operator forces the laggard.
    ForceLag,
    /// An operator forces one whose instance is dead for good.
    ForceDead,
    /// All hosts but one are lost, and an operator lets that one go on alone.
    Generation,
    /// All hosts lose power, and one never returns (S14).
    OneGone,
    /// The primary is cut off and writes on; soon after its successor serves all hosts lose power (S14).
    BranchCut,
    /// None of its own: the first start finds a primary with replicas that hold data (S13).
    Adopt,
    /// None of its own: the first start finds two sets of data (S13).
    TwoSets,
    /// Hosts join, some with data of their own (S13).
    Strangers,
    /// One where two rules meet: `ambush.rs`.
    Ambush(Ambush),
}

impl Attack {
    /// By which it is asked for.
    pub fn name(self) -> String {
        match self {
            Attack::Ambush(ambush) => format!("{ambush:?}"),
            attack => format!("{attack:?}"),
        }
    }
}

impl World {
    /// One directed fault.
    pub fn attack(&mut self, attack: Attack, group: usize, host: usize) {
        let primary = self.primary_host(group).unwrap_or(host);
        let n = self.hosts.len();
        let other = (primary + 1 + self.rng.index(n - 1)) % n;
        match attack {
            Attack::Forget => self.forgetful(primary, group),
            Attack::FreezeCut | Attack::FreezePair => {
                tr!(self, "ATTACK {} freezes and is cut off, with {} or alone", primary + 1, other + 1);
                let alone = attack == Attack::FreezeCut && self.rng.permille(500);
                let side = if alone { vec![primary] } else { vec![primary, other] };
                self.net.split(&side);
                if self.awake(primary) {
                    self.freeze(primary);
                }
                self.at(9_000 * MS, Ev::Cure(Cure::Thaw(primary)));
                self.at(9_500 * MS, Ev::Cure(Cure::Net));
            }
            Attack::Joint => self.attack_joint(group, primary, other),
            Attack::StallSuccessor | Attack::HangSuccessor | Attack::StopAhead | Attack::LockedOut => {
                self.order_seal(group)
            }
            Attack::Restart => {
                if let Some(leader) = self.raft.leader.filter(|leader| *leader != primary) {
                    self.net.set(primary, leader, true);
                }
                self.at(0, Ev::Cure(Cure::FenceOrder(place(primary, group))));
                for pause in [40, 70, 110, 160, 240] {
                    self.at(pause * MS, Ev::Cure(Cure::Restart(primary)));
                }
                self.at(700 * MS, Ev::Cure(Cure::Net));
            }
            Attack::CutAndSeal => {
                self.net.split(&[primary]);
                let pause = self.rng.between(1, 150) * MS;
                self.at(pause, Ev::Cure(Cure::Seal(group)));
                let mended = self.rng.between(900, 2600) * MS;
                self.at(mended, Ev::Cure(Cure::Net));
            }
            Attack::LeaderCut => {
                let Some(leader) = self.raft.leader.filter(|leader| *leader != primary && *leader != other) else {
                    return;
                };
                // The promise of one has run out when the seal comes; the primary does not hear of the seal.
                self.at(0, Ev::Cure(Cure::Cut(primary, other)));
                self.at(900 * MS, Ev::Cure(Cure::OneWay(leader, primary)));
                self.at(905 * MS, Ev::Cure(Cure::Seal(group)));
                self.at(935 * MS, Ev::Cure(Cure::Mend(primary, other)));
                self.at(2500 * MS, Ev::Cure(Cure::Net));
            }
            Attack::Flaky => self.attack_flaky(primary),
            Attack::Generation | Attack::OneGone | Attack::BranchCut | Attack::Strangers => {
                self.attack_hosts(attack, primary, other);
            }
            Attack::Ambush(ambush) => self.ambush(ambush, group, primary, other),
            Attack::ForceCut | Attack::ForceLag | Attack::ForceDead => self.attack_force(attack, group, primary, other),
            _ => self.attack_data(attack, group, primary, other),
        }
    }

    /// Those that are about data.
    fn attack_data(&mut self, attack: Attack, group: usize, primary: usize, other: usize) {
        let n = self.hosts.len();
        match attack {
            Attack::Grow => {
                self.join();
                self.join();
                let second = place(other, group);
                let cut = (0..n).find(|h| *h != primary && *h != other && self.insts[place(*h, group)].redis.alive);
                if let Some(cut) = cut {
                    self.net.set(cut, primary, true);
                    self.net.set(primary, cut, true);
                }
                let soon = self.rng.between(50, 400) * MS;
                self.at(soon, Ev::Cure(Cure::Crash(primary)));
                self.at(soon + 5 * MS, Ev::Cure(Cure::Crash(second % crate::world::WIDTH)));
                self.at(soon + 10 * MS, Ev::Cure(Cure::Net));
            }
            Attack::Lag => {
                self.insts[place(other, group)].redis.narrow = true;
                tr!(self, "ATTACK {} lags", other + 1);
                self.at(500 * MS, Ev::Cure(Cure::Seal(group)));
                self.at(1900 * MS, Ev::Cure(Cure::Narrow(place(other, group), false)));
            }
            Attack::PowerCut => self.power_cut(),
            Attack::CutSync => self.attack_sync(group, primary, other),
            Attack::LateAnswers => {
                if self.net.for_good.iter().any(|lag| *lag > 0) {
                    return;
                }
                self.net.for_good[primary] = 700 * MS;
                self.net.lag[primary] = 700 * MS;
                tr!(self, "ATTACK what comes to {} comes 700 ms late for good", primary + 1);
            }
            Attack::DeadReplica if !self.lost.is_empty() || !self.insts[place(other, group)].member => {}
            Attack::DeadReplica => {
                tr!(self, "ATTACK the instance of {} dies for good", other + 1);
                let at = place(other, group);
                self.lost.insert(at);
                self.insts[at].redis.die();
                self.tell_gone(at);
            }
            Attack::Shrink => {
                self.net.split(&[other]);
                let pause = self.rng.between(900, 1800) * MS;
                self.at(pause, Ev::Cure(Cure::Crash(primary)));
                self.at(pause + 50 * MS, Ev::Cure(Cure::Net));
            }
            Attack::SwiftRestart => {
                let at = place(primary, group);
                if self.insts[at].redis.ready(self.now) {
                    self.insts[at].redis.die();
                    let held = self.insts[at].redis.data.len();
                    self.bear_instance(at, held, true, 0);
                }
            }
            Attack::Switch => self.order_switch(group),
            Attack::Leave | Attack::DeafLeaver | Attack::LeaveAhead => {
                self.attack_leave(attack, group, primary, other);
            }
            Attack::FreezeAlone if self.awake(primary) && !self.delicate() => {
                tr!(self, "ATTACK agent {} freezes", primary + 1);
                self.freeze(primary);
                let thaw = self.rng.between(2_500, 5_000) * MS;
                self.at(thaw, Ev::Cure(Cure::Thaw(primary)));
            }
            Attack::Flap => self.kill_instance(place(primary, group)),
            Attack::Instances => {
                let at = place(other, group);
                self.kill_instance(at);
                let pause = self.rng.between(200, 2500) * MS;
                self.at(pause, Ev::Cure(Cure::Crash(primary)));
            }
            _ => {}
        }
    }

    /// The primary keeps only one of the old guardians; the coming ones and the leader are on the other side.
    fn attack_joint(&mut self, group: usize, primary: usize, other: usize) {
        if !self.join() {
            let last = self.raft.members.iter().copied().find(|host| *host != primary && *host != other);
            if let Some(last) = last {
                self.leave(last);
            }
        }
        self.join();
        let pause = self.rng.between(50, 900) * MS;
        self.at(pause, Ev::Cure(Cure::Split(primary, other)));
        for late in [500, 700, 900, 1100] {
            self.at(pause + late * MS, Ev::Cure(Cure::Seal(group)));
        }
        let mended = self.rng.between(2000, 4000) * MS;
        self.at(pause + mended, Ev::Cure(Cure::Net));
    }

    /// Away for less than a lease, so that it stays in F.
    fn attack_sync(&mut self, group: usize, primary: usize, other: usize) {
        if !self.insts[place(other, group)].member {
            return;
        }
        self.diskless = true;
        self.net.split(&[other]);
        tr!(self, "ATTACK {} misses two epochs", other + 1);
        for pause in [30, 330] {
            self.at(pause * MS, Ev::Cure(Cure::Seal(group)));
        }
        self.at(650 * MS, Ev::Cure(Cure::Net));
        let pause = 700 + self.rng.between(40, 350);
        self.at(pause * MS, Ev::Cure(Cure::Crash(primary)));
    }

    fn attack_flaky(&mut self, primary: usize) {
        let Some(leader) = self.raft.leader.filter(|leader| *leader != primary) else { return };
        self.at(0, Ev::Cure(Cure::Cut(primary, leader)));
        let others = (0..self.hosts.len()).filter(|host| *host != primary && *host != leader);
        for (turn, other) in others.enumerate() {
            let begin = 300 + turn as u64 * 1300;
            self.at(begin * MS, Ev::Cure(Cure::Cut(primary, other)));
            self.at((begin + 1100) * MS, Ev::Cure(Cure::Mend(primary, other)));
        }
        self.at(5000 * MS, Ev::Cure(Cure::Net));
    }

    /// The next step of an attack.
    pub fn attack_step(&mut self, step: Cure) {
        match step {
            Cure::Crash(host) => self.crash_host(host),
            Cure::Restart(host) if self.hosts[host].up && self.hosts[host].joined => {
                self.end_agent(host);
                self.start_agent(host);
                self.covered.carried_on += 1;
            }
            Cure::Restart(_) => {}
            Cure::Freeze(host) => {
                if self.awake(host) {
                    self.freeze(host);
                }
            }
            Cure::Cut(one, other) => {
                tr!(self, "ATTACK {} and {} are cut off from each other", one + 1, other + 1);
                self.net.set(one, other, true);
                self.net.set(other, one, true);
            }
            Cure::OneWay(from, to) => self.net.set(from, to, true),
            Cure::Mend(one, other) => {
                self.net.set(one, other, false);
                self.net.set(other, one, false);
            }
            Cure::Narrow(at, on) => self.insts[at].redis.narrow = on,
            Cure::FenceOrder(at) => {
                tr!(self, "ATTACK {} is ordered to fence", label(at));
                self.tell(host_at(at), 0, What::FenceOrdered { group: self.name_at(at) });
            }
            Cure::PowerCut => self.power_cut(),
            Cure::Stop(host) => {
                tr!(self, "ATTACK agent {} is asked to stop", host + 1);
                self.tell(host, 0, What::Stopping);
            }
            Cure::Kill(at) => self.kill_instance(at),
            Cure::Switch(group) => self.order_switch(group),
            Cure::LoseAllBut(host) => {
                self.lose_all_but(host);
            }
            Cure::Priority(group, host, priority) => self.order_priority(group, host, priority),
            Cure::Force(group, host) => {
                self.force_node(group, id(host));
            }
            Cure::Stamp(at, stamp) => self.insts[at].stamp = Some(stamp),
            Cure::Split(one, other) => {
                tr!(self, "ATTACK {} and {} are cut off", one + 1, other + 1);
                self.net.split(&[one, other]);
            }
            _ => {}
        }
    }

    /// At the moment a primary's word of both majorities is committed: it hears of nothing after that, and keeps one
    /// guardian of the old set.
    pub fn attack_renewed(&mut self, name: &mainstay::cluster::GroupName) {
        let attacked = self.plan.and_then(|plan| plan.attack) == Some(Attack::Joint) && !self.healed;
        let Some(primary) = self.primary_host(self.group_of(name)).filter(|_| attacked && self.rng.permille(700))
        else {
            return;
        };
        let others: Vec<usize> = (0..self.hosts.len()).filter(|host| *host != primary).collect();
        let old = others.into_iter().find(|host| {
            let node = crate::agent::id(*host);
            self.committed().guardians.now.contains(&node) && self.raft.leader != Some(*host)
        });
        let Some(old) = old else { return };
        self.at(0, Ev::Cure(Cure::Split(primary, old)));
        self.at(3500 * MS, Ev::Cure(Cure::Net));
    }

    /// What an attack does at the moment of a promotion.
    pub fn attack_promotion(&mut self, host: usize, at: usize) {
        match self.plan.and_then(|plan| plan.attack).filter(|_| !self.healed) {
            Some(Attack::StallSuccessor) if self.awake(host) && !self.delicate() && self.rng.permille(700) => {
                tr!(self, "ATTACK the successor {} freezes", host + 1);
                let pause = self.rng.between(1, 60) * MS;
                self.at(pause, Ev::Cure(Cure::Freeze(host)));
                let thaw = pause + self.rng.between(600, 1400) * MS;
                self.at(thaw, Ev::Cure(Cure::Thaw(host)));
            }
            Some(Attack::StopAhead | Attack::LockedOut) if self.awake(host) => {
                tr!(self, "ATTACK {} alone writes, and its agent is stopped", host + 1);
                let until = self.now + 700 * MS;
                for other in (0..self.hosts.len()).filter(|other| *other != host) {
                    let at = place(other, group_at(at));
                    if self.insts[at].redis.ready(self.now) {
                        self.hang_until(at, until);
                    }
                }
                self.at(300 * MS, Ev::Cure(Cure::Stop(host)));
            }
            Some(Attack::Lag) => {
                let laggard = (0..self.hosts.len()).find(|h| self.insts[place(*h, group_at(at))].redis.narrow);
                let Some(laggard) = laggard.filter(|laggard| *laggard != host) else { return };
                for other in (0..self.hosts.len()).filter(|other| *other != host && *other != laggard) {
                    self.net.set(host, other, true);
                }
                let pause = self.rng.between(40, 250) * MS;
                self.at(pause, Ev::Cure(Cure::Crash(host)));
                self.at(pause + MS, Ev::Cure(Cure::Net));
            }
            Some(Attack::HangSuccessor) if self.insts[at].redis.ready(self.now) => {
                let until = self.now + self.rng.between(600, 1900) * MS;
                self.hang_until(at, until);
            }
            _ => {}
        }
    }
}
