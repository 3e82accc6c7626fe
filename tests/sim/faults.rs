//! What goes wrong: chosen by the seed, often aimed at the primary, several at a time; all mended at the end.

use crate::agent::{host_of, id};
use crate::redis::Command as Order;
use crate::world::{Cure, Ev, Input, MS, Ns, World};
use mainstay::cluster::{Command, GroupCommand, Why};
use mainstay::view::What;

/// When faults come.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// None begins after this.
    pub end: Ns,
    /// The longest pause between two.
    pub pause: Ns,
}

impl World {
    /// One more fault.
    pub fn fault(&mut self) {
        let Some(plan) = self.plan.filter(|_| !self.healed) else { return };
        if self.now >= plan.end {
            return;
        }
        let pause = self.rng.between(50, plan.pause / MS) * MS;
        self.at(pause, Ev::Fault);
        let primary = self.committed().groups.get(&self.group).and_then(|group| group.primary_node()).map(host_of);
        let any = self.rng.index(self.hosts.len());
        let host = primary.filter(|_| self.rng.permille(500)).unwrap_or(any);
        match self.rng.below(29) {
            0..=3 => self.crash_agent(host),
            4..=7 => self.stall(host),
            8..=9 => self.crash_host(host),
            10..=12 => {
                tr!(self, "FAULT instance {} crashes", host + 1);
                self.kill_instance(host);
            }
            13..=14 => self.hang(host),
            15..=18 => self.break_net(host),
            19 => self.slow(host),
            20..=22 => self.order_switch(),
            23 => {
                tr!(self, "FAULT agent {} is asked to stop", host + 1);
                self.tell(host, 0, What::Stopping);
            }
            24..=25 => self.order_seal(),
            26 => self.forgetful(host),
            27 => {
                if let Some(leader) = self.raft.leader.filter(|_| self.hosts[any].agent.is_some()) {
                    let fit = !self.hosts[any].stalled && self.net.both(leader, any);
                    if fit && self.may_lead(any) {
                        tr!(self, "FAULT the leader steps down");
                        self.lead(any);
                    }
                }
            }
            _ => {
                if self.rng.permille(150) {
                    tr!(self, "FAULT power cut");
                    for host in 0..self.hosts.len() {
                        self.crash_host(host);
                    }
                }
            }
        }
    }

    fn may_lead(&self, host: usize) -> bool {
        let n = self.hosts.len();
        let reached =
            (0..n).filter(|v| self.hosts[*v].agent.is_some() && !self.hosts[*v].stalled && self.net.both(host, *v));
        reached.count() > n / 2
    }

    fn crash_agent(&mut self, host: usize) {
        if self.hosts[host].agent.is_none() {
            return;
        }
        tr!(self, "FAULT agent {} is killed", host + 1);
        self.end_agent(host);
        let pause = if self.rng.permille(500) { self.rng.between(20, 300) } else { self.rng.between(300, 3000) };
        self.at(pause * MS, Ev::Cure(Cure::Agent(host)));
    }

    fn stall(&mut self, host: usize) {
        if self.hosts[host].stalled || self.hosts[host].agent.is_none() {
            return;
        }
        tr!(self, "FAULT agent {} freezes", host + 1);
        self.hosts[host].stalled = true;
        let pause = self.rng.between(50, 4000) * MS;
        self.at(pause, Ev::Cure(Cure::Thaw(host)));
    }

    fn crash_host(&mut self, host: usize) {
        if !self.hosts[host].up {
            return;
        }
        tr!(self, "FAULT host {} loses power", host + 1);
        self.end_agent(host);
        self.hosts[host].up = false;
        self.hosts[host].vip_until = 0;
        self.hosts[host].stamp = None;
        self.hosts[host].redis.die();
        let pause = self.rng.between(700, 6000) * MS;
        self.at(pause, Ev::Cure(Cure::Host(host)));
    }

    /// The process dies and is started again by its supervisor.
    pub fn kill_instance(&mut self, host: usize) {
        if !self.hosts[host].redis.alive {
            return;
        }
        self.covered.kills += 1;
        self.hosts[host].redis.die();
        self.tell_gone(host);
        let pause = self.rng.between(20, 2500) * MS;
        self.at(pause, Ev::Cure(Cure::Instance(host)));
    }

    fn restart_instance(&mut self, host: usize) {
        if self.hosts[host].redis.alive || !self.hosts[host].up || !self.hosts[host].member {
            return;
        }
        self.runs += 1;
        let run = self.runs;
        let held = self.hosts[host].redis.data.len();
        let kept = match self.rng.below(4) {
            0 => 0,
            1 => held,
            _ => self.rng.index(held + 1),
        };
        let (fresh, rdb) = (self.rng.draw(), self.rng.permille(700));
        let loading = self.now + self.rng.below(400) * MS;
        self.hosts[host].redis.reborn(run, fresh, kept, rdb, loading);
        tr!(self, "redis {}: born sealed as run{run} with {kept} of {held} writes, rdb {rdb}", host + 1);
    }

    fn hang(&mut self, host: usize) {
        if !self.hosts[host].redis.ready(self.now) {
            return;
        }
        tr!(self, "FAULT instance {} hangs", host + 1);
        let until = self.now + self.rng.between(50, 4500) * MS;
        self.hosts[host].redis.hung_until = until;
        let run = self.hosts[host].redis.run;
        self.at(until - self.now, Ev::Cure(Cure::Unhang(host, run)));
    }

    fn break_net(&mut self, host: usize) {
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

    fn slow(&mut self, host: usize) {
        if self.rng.permille(500) {
            tr!(self, "FAULT disk {} is slow", host + 1);
            self.hosts[host].slow_disk = true;
        } else {
            tr!(self, "FAULT instance {} answers slowly", host + 1);
            self.hosts[host].slow_redis = true;
        }
        let pause = self.rng.between(500, 5000) * MS;
        self.at(pause, Ev::Cure(Cure::Slow(host)));
    }

    fn order_switch(&mut self) {
        let members = self.hosts.iter().filter(|host| host.member).count();
        let to = id(self.rng.index(members));
        let Some(group) = self.committed().groups.get(&self.group) else { return };
        let (expect, change) = (group.expect(), GroupCommand::Switch { to, why: Why::Operator });
        tr!(self, "operator: switchover to {to}");
        self.order(&Command::Group { group: self.group.clone(), expect, change });
    }

    /// Directed (S2): the primary is cut off with a fresh lease, every guardian but its own restarts and has forgotten
    /// its promise, and an operator seals.
    fn forgetful(&mut self, host: usize) {
        tr!(self, "FAULT {} is cut off, and all the others forget", host + 1);
        self.net.split(&[host]);
        for other in 0..self.hosts.len() {
            if other != host && self.hosts[other].agent.is_some() {
                self.end_agent(other);
                self.at(10 * MS, Ev::Cure(Cure::Agent(other)));
            }
        }
        for pause in [30, 80, 160, 320, 480] {
            self.at(pause * MS, Ev::Cure(Cure::Seal));
        }
        let pause = self.rng.between(700, 3000) * MS;
        self.at(pause, Ev::Cure(Cure::Net));
    }

    /// An operator's word ends the epoch though the primary is well (S3).
    fn order_seal(&mut self) {
        let Some(group) = self.committed().groups.get(&self.group) else { return };
        let (expect, change) = (group.expect(), GroupCommand::Seal { why: Why::Operator });
        tr!(self, "operator: seals");
        self.order(&Command::Group { group: self.group.clone(), expect, change });
    }

    /// A fault ends.
    pub fn cure(&mut self, cure: Cure) {
        match cure {
            Cure::Agent(host) => {
                if self.hosts[host].up && self.hosts[host].agent.is_none() {
                    self.start_agent(host);
                    let carried = self.hosts[host].agent.as_ref().is_some_and(|agent| agent.carried);
                    self.covered.carried_on += u64::from(carried);
                }
            }
            Cure::Thaw(host) => self.thaw(host),
            Cure::Host(host) => {
                if !self.hosts[host].up {
                    tr!(self, "host {} boots", host + 1);
                    self.hosts[host].up = true;
                    let now = self.now;
                    self.hosts[host].reboot(now);
                    let (first, second) = (self.rng.below(500) * MS, self.rng.below(500) * MS);
                    self.at(first, Ev::Cure(Cure::Agent(host)));
                    self.at(second, Ev::Cure(Cure::Instance(host)));
                }
            }
            Cure::Instance(host) => self.restart_instance(host),
            Cure::Unhang(host, run) => self.unhang(host, run),
            Cure::Mute(host) if !self.healed => self.net.mute(host),
            Cure::Mute(_) => {}
            Cure::Seal if !self.healed => self.order_seal(),
            Cure::Seal => {}
            Cure::Net => self.net.heal(),
            Cure::Slow(host) => {
                self.hosts[host].slow_disk = false;
                self.hosts[host].slow_redis = false;
            }
        }
    }

    fn thaw(&mut self, host: usize) {
        if !self.hosts[host].stalled {
            return;
        }
        tr!(self, "agent {} thaws", host + 1);
        self.hosts[host].stalled = false;
        self.hosts[host].excused_until = self.now + 150 * MS;
        let Some(agent) = &self.hosts[host].agent else { return };
        let life = agent.life;
        let mut waiting: Vec<Input> = self.hosts[host].inbox.drain(..).collect();
        if self.rng.permille(300) {
            waiting.reverse();
        }
        for what in waiting {
            self.input(host, life, what);
        }
    }

    fn unhang(&mut self, host: usize, run: u64) {
        let redis = &mut self.hosts[host].redis;
        if redis.run != run || !redis.alive {
            return;
        }
        redis.hung_until = 0;
        let queue: Vec<(u64, Order)> = redis.queue.drain(..).collect();
        tr!(self, "instance {} goes on", host + 1);
        for (task, command) in queue {
            self.command(host, task, command);
        }
    }

    /// All faults end.
    pub fn heal(&mut self) {
        tr!(self, "HEAL");
        self.healed = true;
        self.net.heal();
        for host in 0..self.hosts.len() {
            self.cure(Cure::Slow(host));
            if !self.hosts[host].up {
                self.cure(Cure::Host(host));
            }
            self.cure(Cure::Thaw(host));
            self.cure(Cure::Unhang(host, self.hosts[host].redis.run));
            self.cure(Cure::Agent(host));
            self.cure(Cure::Instance(host));
        }
    }
}
