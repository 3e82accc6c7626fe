//! What goes wrong: chosen by the seed, often aimed at the primary, several at a time; all mended at the end.

use crate::agent::host_of;
use crate::events::{Cure, Ev, Input};
use crate::redis::Command as Order;
use crate::trace::label;
use crate::world::{MS, Ns, World, host_at, place};
use mainstay::cluster::{Command, GroupCommand, Pause, Why};
use mainstay::view::What;
use std::time::Duration;

/// When faults come.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// None begins after this.
    pub end: Ns,
    /// The longest pause between two.
    pub pause: Ns,
    /// Only this kind, aimed at the primary: a directed attack.
    pub attack: Option<crate::attack::Attack>,
}

impl World {
    /// The host of a group's primary.
    pub fn primary_host(&self, group: usize) -> Option<usize> {
        self.committed().groups.get(&self.names[group]).and_then(|group| group.primary_node()).map(host_of)
    }

    /// One more fault.
    pub fn fault(&mut self) {
        let Some(plan) = self.plan.filter(|_| !self.healed) else { return };
        if self.now >= plan.end {
            return;
        }
        let pause = self.rng.between(50, plan.pause / MS) * MS;
        self.at(pause, Ev::Fault);
        let group = self.rng.index(self.names.len());
        let primary = self.primary_host(group);
        let any = self.rng.index(self.hosts.len());
        let host = primary.filter(|_| self.rng.permille(500)).unwrap_or(any);
        // Only where there are numbers left to join under.
        if self.raft.members.len() + 2 < self.hosts.len() && self.rng.permille(60) && self.lose_all_but(any) {
            return;
        }
        if let Some(attack) = plan.attack.filter(|_| !self.delicate() && self.rng.permille(400)) {
            self.attack(attack, group, host);
            return;
        }
        let at = place(host, group);
        if self.delicate() {
            return;
        }
        match self.rng.below(36) {
            0..=3 => self.crash_agent(host),
            4..=7 => self.stall(host),
            8..=9 => self.crash_host(host),
            10..=12 => {
                tr!(self, "FAULT instance {} crashes", label(at));
                self.kill_instance(at);
            }
            13..=14 => self.hang(at),
            15..=18 => self.break_net(host),
            19 => self.slow(host),
            20..=22 => self.order_switch(group),
            23 => {
                tr!(self, "FAULT agent {} is asked to stop", host + 1);
                self.tell(host, 0, What::Stopping);
            }
            24..=25 => self.order_seal(group),
            26 => self.forgetful(host, group),
            27 => self.new_leader(any),
            28 => self.order_pause(group),
            29..=30 => {
                self.join();
            }
            31 => {
                self.leave(any);
            }
            32 => {
                if self.rng.permille(150) {
                    self.power_cut();
                }
            }
            33..=34 => self.order_force(group),
            _ => match self.rng.below(8) {
                0 => self.power_cut_for_good(any),
                1..=5 => {
                    self.lose_all_but(any);
                }
                _ => {}
            },
        }
    }

    /// All hosts lose power at once.
    pub fn power_cut(&mut self) {
        tr!(self, "FAULT power cut");
        for host in 0..self.hosts.len() {
            self.crash_host(host);
        }
    }

    pub fn new_leader(&mut self, to: usize) {
        let Some(leader) = self.raft.leader.filter(|_| self.awake(to)) else { return };
        if self.net.both(leader, to) && self.quorum_at(to, |_, _| true) {
            tr!(self, "FAULT the leader steps down");
            self.lead(to);
        }
    }

    fn order_pause(&mut self, group: usize) {
        let length = Some(Duration::from_millis(self.rng.between(200, 4000)));
        let Some(found) = self.committed().groups.get(&self.names[group]) else { return };
        let expect = found.expect();
        let change = GroupCommand::Pause(Pause { length, reason: "work".to_owned() });
        tr!(self, "operator: pauses for {length:?}");
        self.covered.pauses += 1;
        self.order(&Command::Group { group: self.names[group].clone(), expect, change });
    }

    pub fn crash_agent(&mut self, host: usize) {
        if self.hosts[host].agent.is_none() {
            return;
        }
        tr!(self, "FAULT agent {} is killed", host + 1);
        self.end_agent(host);
        let pause = if self.rng.permille(500) { self.rng.between(20, 300) } else { self.rng.between(300, 3000) };
        self.at(pause * MS, Ev::Cure(Cure::Agent(host)));
    }

    pub fn stall(&mut self, host: usize) {
        if self.hosts[host].stalled || self.hosts[host].agent.is_none() {
            return;
        }
        tr!(self, "FAULT agent {} freezes", host + 1);
        self.freeze(host);
        let pause = self.rng.between(50, 4000) * MS;
        self.at(pause, Ev::Cure(Cure::Thaw(host)));
    }

    /// Its agent hears and does nothing until it thaws.
    pub fn freeze(&mut self, host: usize) {
        self.hosts[host].stalled = true;
        self.hosts[host].mindless_since.get_or_insert(self.now);
    }

    pub fn crash_host(&mut self, host: usize) {
        if !self.hosts[host].up {
            return;
        }
        self.cut_power(host);
        let pause = self.rng.between(700, 6000) * MS;
        self.at(pause, Ev::Cure(Cure::Host(host)));
    }

    /// Host, kernel and memory are gone at once.
    pub fn cut_power(&mut self, host: usize) {
        tr!(self, "FAULT host {} loses power", host + 1);
        self.end_agent(host);
        self.hosts[host].up = false;
        for at in self.places(host) {
            self.insts[at].vip_until = 0;
            self.insts[at].stamp = None;
            self.insts[at].redis.die();
        }
    }

    /// The process dies and is started again by its supervisor.
    pub fn kill_instance(&mut self, at: usize) {
        if !self.insts[at].redis.alive {
            return;
        }
        self.covered.kills += 1;
        self.insts[at].redis.die();
        self.tell_gone(at);
        let pause = self.rng.between(20, 2500) * MS;
        self.at(pause, Ev::Cure(Cure::Instance(at)));
    }

    pub fn restart_instance(&mut self, at: usize) {
        let host = &self.hosts[host_at(at)];
        if self.lost.contains(&at) || self.insts[at].redis.alive || !host.up || !host.joined || !self.insts[at].member {
            return;
        }
        let held = self.insts[at].redis.data.len();
        let (kept, rdb) = self.disk.found(&mut self.rng, held);
        let (kept, rdb) = self.told.as_ref().map_or((kept, rdb), |told| told.found[at]);
        let loading = self.rng.below(400) * MS;
        self.bear_instance(at, kept, rdb, loading);
    }

    /// Started anew with the first `kept` of its writes: found in an RDB, or in an AOF, which keeps no offset.
    pub fn bear_instance(&mut self, at: usize, kept: usize, rdb: bool, loading: Ns) {
        self.runs += 1;
        let (run, fresh, until) = (self.runs, self.rng.draw(), self.now + loading);
        let held = self.insts[at].redis.data.len();
        let before = self.insts[at].redis.run;
        self.insts[at].redis.reborn(run, fresh, kept, rdb, until);
        self.birth_mutation(at, before);
        tr!(self, "redis {}: born sealed as run{run} with {kept} of {held} writes, rdb {rdb}", label(at));
    }

    pub fn hang(&mut self, at: usize) {
        if !self.insts[at].redis.ready(self.now) {
            return;
        }
        let until = self.now + self.rng.between(50, 4500) * MS;
        self.hang_until(at, until);
    }

    /// It answers nothing until then.
    pub fn hang_until(&mut self, at: usize, until: Ns) {
        tr!(self, "FAULT instance {} hangs for {} ms", label(at), (until - self.now) / MS);
        self.insts[at].redis.hung_until = until;
        let run = self.insts[at].redis.run;
        self.at(until - self.now, Ev::Cure(Cure::Unhang(at, run)));
    }

    pub fn break_net(&mut self, host: usize) {
        let other = (host + 1 + self.rng.index(self.hosts.len() - 1)) % self.hosts.len();
        match self.rng.below(7) {
            0 => {
                tr!(self, "FAULT nothing from {} comes to {}", host + 1, other + 1);
                self.net.set(host, other, true);
            }
            1 => {
                tr!(self, "FAULT {} and {} are cut off from each other", host + 1, other + 1);
                self.net.set(host, other, true);
                self.net.set(other, host, true);
            }
            2 => {
                tr!(self, "FAULT {} is cut off", host + 1);
                self.net.split(&[host]);
            }
            3 => {
                tr!(self, "FAULT {} and {} are cut off from the rest", host + 1, other + 1);
                self.net.split(&[host, other]);
            }
            4 => {
                tr!(self, "FAULT nobody hears {}", host + 1);
                self.net.mute(host);
            }
            5 => {
                // Answers come late, and then nothing is asked any more.
                self.net.lag[host] = self.rng.between(100, 600) * MS;
                tr!(self, "FAULT what comes to {} comes {} ms late", host + 1, self.net.lag[host] / MS);
                let pause = self.rng.between(300, 1200) * MS;
                self.at(pause, Ev::Cure(Cure::Mute(host)));
                let mended = pause + self.rng.between(500, 3000) * MS;
                self.at(mended, Ev::Cure(Cure::Net));
                return;
            }
            _ => {
                self.net.loss = self.rng.below(400);
                self.net.jitter = self.rng.between(1, 250) * MS;
                tr!(self, "FAULT loss {}, delay up to {} ms", self.net.loss, self.net.jitter / MS);
            }
        }
        let pause = self.rng.between(100, 4000) * MS;
        self.at(pause, Ev::Cure(Cure::Net));
    }

    pub fn slow(&mut self, host: usize) {
        if self.rng.permille(500) {
            if !self.fill_disk(host) {
                tr!(self, "FAULT disk {} is slow", host + 1);
                self.hosts[host].slow_disk = true;
            }
        } else {
            tr!(self, "FAULT instance {} answers slowly", host + 1);
            self.hosts[host].slow_redis = true;
        }
        let pause = self.rng.between(500, 5000) * MS;
        self.at(pause, Ev::Cure(Cure::Slow(host)));
    }

    pub fn order_switch(&mut self, group: usize) {
        let name = self.names[group].clone();
        let Some(found) = self.committed().groups.get(&name) else { return };
        let members: Vec<_> = found.members.keys().copied().collect();
        let expect = found.expect();
        let to = members[self.rng.index(members.len())];
        let change = GroupCommand::Switch { to, why: Why::Operator };
        tr!(self, "operator: switchover to {to}");
        self.order(&Command::Group { group: name, expect, change });
    }

    /// Directed (S2): the primary is cut off with a fresh lease, every guardian but its own restarts and has forgotten
    /// its promise, and an operator seals.
    pub fn forgetful(&mut self, host: usize, group: usize) {
        tr!(self, "FAULT {} is cut off, and all the others forget", host + 1);
        self.net.split(&[host]);
        for other in 0..self.hosts.len() {
            if other != host && self.hosts[other].agent.is_some() {
                self.end_agent(other);
                self.at(10 * MS, Ev::Cure(Cure::Agent(other)));
            }
        }
        for pause in [30, 80, 160, 320, 480] {
            self.at(pause * MS, Ev::Cure(Cure::Seal(group)));
        }
        let pause = self.rng.between(700, 3000) * MS;
        self.at(pause, Ev::Cure(Cure::Net));
    }

    /// An operator's word ends the epoch though the primary is well (S3).
    pub fn order_seal(&mut self, group: usize) {
        let name = self.names[group].clone();
        let Some(found) = self.committed().groups.get(&name) else { return };
        let (expect, change) = (found.expect(), GroupCommand::Seal { why: Why::Operator });
        tr!(self, "operator: seals {name}");
        self.order(&Command::Group { group: name, expect, change });
    }

    /// A fault ends.
    pub fn cure(&mut self, cure: Cure) {
        match cure {
            Cure::Agent(host) => {
                if self.hosts[host].up && self.hosts[host].joined && self.hosts[host].agent.is_none() {
                    self.start_agent(host);
                    let carried = self.hosts[host].agent.as_ref().is_some_and(|agent| agent.carried);
                    self.covered.carried_on += u64::from(carried);
                }
            }
            Cure::Thaw(host) => self.thaw(host),
            Cure::Host(host) => {
                if !self.hosts[host].up && self.hosts[host].joined {
                    tr!(self, "host {} boots", host + 1);
                    self.hosts[host].up = true;
                    self.reboot(host);
                    let first = self.rng.below(500) * MS;
                    self.at(first, Ev::Cure(Cure::Agent(host)));
                    for at in self.places(host) {
                        let second = self.rng.below(500) * MS;
                        self.at(second, Ev::Cure(Cure::Instance(at)));
                    }
                }
            }
            Cure::Instance(at) => self.restart_instance(at),
            Cure::Unhang(at, run) => self.unhang(at, run),
            Cure::Bootstrap(group) => self.bootstrap(group),
            Cure::Mute(host) if !self.healed && !self.delicate() => self.net.mute(host),
            Cure::Mute(_) => {}
            Cure::Seal(group) if !self.healed => self.order_seal(group),
            Cure::Seal(_) => {}
            Cure::Net => self.net.heal(),
            Cure::Slow(host) => {
                self.hosts[host].slow_disk = false;
                self.hosts[host].slow_redis = false;
                self.empty_disk(host);
            }
            step if !self.healed => self.attack_step(step),
            _ => {}
        }
    }

    pub fn thaw(&mut self, host: usize) {
        if !self.hosts[host].stalled {
            return;
        }
        tr!(self, "agent {} thaws", host + 1);
        self.hosts[host].stalled = false;
        self.hosts[host].mindless_since = None;
        self.hosts[host].excused_until = self.now + 150 * MS;
        let Some(agent) = &self.hosts[host].agent else { return };
        let life = agent.life;
        let mut waiting: Vec<Input> = self.hosts[host].inbox.drain(..).collect();
        if self.rng.permille(300) {
            waiting.reverse();
        }
        // It works through what waited, and other things happen meanwhile.
        for (place, what) in waiting.into_iter().enumerate() {
            self.at(place as Ns * MS / 5, Ev::Agent { host, life, what });
        }
    }

    pub fn unhang(&mut self, at: usize, run: u64) {
        let redis = &mut self.insts[at].redis;
        if redis.run != run || !redis.alive {
            return;
        }
        redis.hung_until = redis.hung_until.min(self.now);
        if self.rng.permille(500) {
            self.drain(at);
        }
        let redis = &mut self.insts[at].redis;
        let mut queue: Vec<(u64, Order)> = redis.queue.drain(..).collect();
        self.queue_mutation(&mut queue);
        tr!(self, "instance {} goes on", label(at));
        for (task, command) in queue {
            self.command(at, task, command);
        }
    }

    /// All faults end.
    pub fn heal(&mut self) {
        tr!(self, "HEAL");
        self.healed = true;
        self.net.heal();
        for inst in &mut self.insts {
            inst.redis.narrow = false;
        }
        for host in 0..self.hosts.len() {
            self.cure(Cure::Slow(host));
            if !self.hosts[host].up {
                self.cure(Cure::Host(host));
            }
            self.cure(Cure::Thaw(host));
            self.cure(Cure::Agent(host));
            for at in self.places(host) {
                self.cure(Cure::Unhang(at, self.insts[at].redis.run));
                self.cure(Cure::Instance(at));
            }
        }
        // Every other time the operator lets a pause run out that does so.
        self.resume((self.now / MS).is_multiple_of(2));
    }

    /// The operator ends the pauses: but for those that run out, if told so. Tried again by [`settle`](crate::runs::settle).
    pub fn resume(&mut self, but_for_timed: bool) {
        for name in self.names.clone() {
            let Some(group) = self.committed().groups.get(&name) else { continue };
            let Some(pause) = &group.pause else { continue };
            if but_for_timed && pause.length.is_some() {
                continue;
            }
            let expect = group.expect();
            self.order(&Command::Group { group: name, expect, change: GroupCommand::Resume });
        }
    }
}
