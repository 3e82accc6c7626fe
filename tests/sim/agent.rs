//! One host's agent: its life, the loop around `decide::step`, and the actions that end at once. Tasks: `tasks.rs`.

use crate::mutation::Mutation;
use crate::redis::{Redis, Upstream, announce};
use crate::rng::Rng;
use crate::world::{Agent, Cure, Ev, HANG_AFTER, Host, Input, LEASE, MS, Ns, Shape, World};
use mainstay::cluster::{Epoch, GroupName, Local, NodeId};
use mainstay::decide::{Action, GroupPolicy, Policy, step};
use mainstay::view::{Event, Item, Outcome, Sight, Stamp, Task, View, VipSight, What};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// The number of a host's node.
pub fn id(host: usize) -> NodeId {
    NodeId(host as u64 + 1)
}

/// The host of a node.
pub fn host_of(node: NodeId) -> usize {
    usize::try_from(node.0).unwrap_or(1).saturating_sub(1)
}

/// A host before its first start.
pub fn host(rng: &mut Rng, index: usize, shape: Shape, group: &GroupName) -> Host {
    let member = index < shape.members;
    let priority = if rng.permille(100) && index > 1 { 0 } else { 100 + u32::try_from(rng.below(3)).unwrap_or(0) };
    let own = GroupPolicy { announce: announce(index), priority, durability: shape.durability, vip: true };
    let groups = if member { BTreeMap::from([(group.clone(), own)]) } else { BTreeMap::new() };
    let mut redis = Redis::born(index as u64, rng.draw());
    redis.alive = member;
    Host {
        up: true,
        agent: None,
        stalled: false,
        inbox: VecDeque::new(),
        redis,
        member,
        policy: Policy { address: format!("10.0.0.{}:7400", index + 1), lease: LEASE, hang_after: HANG_AFTER, groups },
        disk: Local::default(),
        applied: 0,
        stamp: None,
        vip_until: 0,
        clock_base: 0,
        clock_rate: i64::try_from(rng.below(1001)).unwrap_or(0) - 500,
        slow_disk: false,
        slow_redis: false,
        excused_until: 0,
    }
}

impl Host {
    /// A reboot sets the clock back and forgets what is not on disk.
    pub fn reboot(&mut self, now: Ns) {
        self.clock_base = now;
        self.stamp = None;
        self.vip_until = 0;
    }
}

impl World {
    /// The agent's process starts.
    pub fn start_agent(&mut self, host: usize) {
        self.lives += 1;
        let (life, now, nodes) = (self.lives, self.now, self.hosts.len());
        let state = Arc::clone(&self.raft.states[self.hosts[host].applied]);
        let own = &mut self.hosts[host];
        let stamps: BTreeMap<GroupName, Stamp> =
            own.stamp.iter().map(|stamp| (self.group.clone(), stamp.clone())).collect();
        let mine: BTreeSet<GroupName> = own.policy.groups.keys().cloned().collect();
        let mut local = own.disk.clone();
        if self.mutation == Some(Mutation::ForgetsSilence) {
            local.longest_lease = std::time::Duration::ZERO;
        }
        let view = View::new(id(host), own.clock(now), state, local, &stamps, mine);
        let carried = view.lease_live(&self.group);
        own.inbox.clear();
        own.stalled = false;
        own.excused_until = now + 150 * MS;
        let (task, writing, link) = (None, None, vec![true; nodes]);
        own.agent = Some(Agent { life, view, task, marking: false, writing, link, carried });
        tr!(self, "agent {}: starts{}", host + 1, if carried { ", within the stamped lease" } else { "" });
        let first = self.rng.below(self.tick);
        self.at(first, Ev::Agent { host, life, what: Input::Tick });
        if self.hosts[host].member {
            self.at(first, Ev::Agent { host, life, what: Input::Look });
        }
        self.raft.told[host] = None;
        self.raft.sent[host] = self.hosts[host].applied;
    }

    /// The agent's process ends, killed or by itself.
    pub fn end_agent(&mut self, host: usize) {
        let Some(agent) = self.hosts[host].agent.take() else { return };
        tr!(self, "agent {}: ends", host + 1);
        if let Some(local) = agent.writing
            && self.rng.permille(500)
        {
            self.hosts[host].disk = local;
        }
        if agent.marking && self.rng.permille(500) && self.mutation != Some(Mutation::MarkAfterSurrender) {
            self.hosts[host].stamp = Some(Stamp::Surrendered { epoch: agent.view.seats[&self.group].lease.epoch });
        }
        self.hosts[host].excused_until = Ns::MAX;
        self.hosts[host].stalled = false;
        self.hosts[host].inbox.clear();
    }

    /// Something for an agent's loop; while it is frozen it waits.
    pub fn input(&mut self, host: usize, life: u64, what: Input) {
        if self.hosts[host].agent.as_ref().is_none_or(|agent| agent.life != life) {
            return;
        }
        if self.hosts[host].stalled {
            let keep = !matches!(what, Input::Tick | Input::Look)
                || !self.hosts[host]
                    .inbox
                    .iter()
                    .any(|known| std::mem::discriminant(known) == std::mem::discriminant(&what));
            if keep {
                self.hosts[host].inbox.push_back(what);
            }
            return;
        }
        match what {
            Input::Tick => {
                let again = self.tick + self.rng.below(MS);
                self.at(again, Ev::Agent { host, life, what: Input::Tick });
                self.tick_mutation(host);
                self.step(host, What::Tick { unix_ms: self.now / MS });
            }
            Input::Look => self.look(host, life),
            Input::Step(task) => self.task_step(host, life, task),
            Input::Applied(index) => {
                if index > self.hosts[host].applied {
                    self.hosts[host].applied = index;
                    let state = Arc::clone(&self.raft.states[index]);
                    self.step(host, What::Applied(state));
                }
            }
            Input::VipGone => {
                if self.hosts[host].vip_until <= self.now {
                    self.step(host, What::Vip { group: self.group.clone(), seen: VipSight::Removed });
                }
            }
            Input::What(mut what) => {
                self.heard_mutation(host, &mut what);
                self.step(host, *what);
            }
        }
    }

    /// Tells the host's agent, if it is the same and when it gets to it.
    pub fn tell(&mut self, host: usize, delay: Ns, what: What) {
        let Some(agent) = &self.hosts[host].agent else { return };
        let life = agent.life;
        self.at(delay, Ev::Agent { host, life, what: Input::What(Box::new(what)) });
    }

    /// One round of the core.
    pub fn step(&mut self, host: usize, what: What) {
        let at = self.hosts[host].clock(self.now);
        if self.tracing && !matches!(what, What::Tick { .. } | What::Heard { .. }) {
            let text = crate::trace::event(&what);
            if !text.is_empty() {
                tr!(self, "agent {}: <- {text}", host + 1);
            }
        }
        let own = &mut self.hosts[host];
        let Some(agent) = own.agent.as_mut() else { return };
        let before = agent.view.state.groups.get(&self.group).map(|group| group.version);
        let decision = step(&mut agent.view, &own.policy, Event { at, what });
        let after = agent.view.state.groups.get(&self.group).map(|group| group.version);
        if before > after {
            self.violate("applied-monotonic", format!("agent {} went back from {before:?} to {after:?}", host + 1));
        }
        for action in decision.actions {
            self.perform(host, action);
        }
    }

    /// A look at the instance: asked now, answered later.
    fn look(&mut self, host: usize, life: u64) {
        let again = self.look + self.rng.below(10 * MS);
        self.at(again, Ev::Agent { host, life, what: Input::Look });
        let asked = self.hosts[host].clock(self.now);
        let slow = self.hosts[host].slow_redis;
        let redis = &self.hosts[host].redis;
        let hung = self.now < redis.hung_until;
        let seen = if !redis.alive {
            Sight::Gone
        } else if hung {
            Sight::Silent { length: std::time::Duration::from_millis(100), progress: false }
        } else if self.now < redis.loading_until {
            Sight::Loading
        } else {
            Sight::Info(redis.info(asked, self.now))
        };
        let delay = if slow { self.rng.between(50, 900) * MS } else { MS / 5 + self.rng.below(3 * MS) };
        self.tell(host, delay, What::Instance { group: self.group.clone(), seen });
    }

    /// The watcher sees a process die: its connection is closed and a new one refused (S7).
    pub fn tell_gone(&mut self, host: usize) {
        let delay = MS + self.rng.below(3 * MS);
        self.tell(host, delay, What::Instance { group: self.group.clone(), seen: Sight::Gone });
    }

    fn perform(&mut self, host: usize, action: Action) {
        if self.tracing {
            let text = crate::trace::action(&action);
            if !text.is_empty() {
                tr!(self, "agent {}: -> {text}", host + 1);
            }
        }
        match action {
            Action::Save(local) => self.save(host, local),
            Action::Stamp { epoch, run_id, until, .. } => {
                let marked = matches!(self.hosts[host].stamp, Some(Stamp::Surrendered { epoch: e }) if e >= epoch);
                if !marked {
                    self.hosts[host].stamp = Some(Stamp::Leased { epoch, run_id, until });
                }
            }
            Action::Mark { epoch, .. } => self.mark(host, epoch),
            Action::HoldVip { until, .. } => self.hold_vip(host, until),
            Action::DropVip { .. } => {
                self.hosts[host].vip_until = 0;
                self.tell(host, MS, What::Vip { group: self.group.clone(), seen: VipSight::Removed });
            }
            Action::Send { to, items } => self.send(host, host_of(to), items),
            Action::Propose { topic, command } => self.propose(host, topic, command),
            Action::SealRemote { epoch, address, .. } => {
                let Some(agent) = &self.hosts[host].agent else { return };
                let (life, to) = (agent.life, crate::redis::host_of(&address).unwrap_or(0));
                let delay = MS + self.rng.below(10 * MS);
                self.at(delay, Ev::RemoteSeal { from: host, life, to, epoch });
            }
            Action::Exit => {
                self.end_agent(host);
                // ExecStopPost: the stop was asked for, so the host is fenced (S8).
                self.hosts[host].vip_until = 0;
                if self.hosts[host].redis.answers(self.now) {
                    self.command(host, 0, crate::redis::Command::Nowhere { close: true });
                }
                let pause = self.rng.between(300, 3000) * MS;
                self.at(pause, Ev::Cure(Cure::Agent(host)));
            }
            other => self.begin_task(host, other),
        }
    }

    fn save(&mut self, host: usize, local: Local) {
        let slow = self.hosts[host].slow_disk;
        let delay = if slow { self.rng.between(20, 1200) * MS } else { MS / 10 + self.rng.below(4 * MS) };
        let Some(agent) = self.hosts[host].agent.as_mut() else { return };
        agent.writing = Some(local.clone());
        let life = agent.life;
        if self.mutation == Some(Mutation::SaidBeforeSaved) {
            self.tell(host, 0, What::Saved(local.clone()));
        }
        self.at(delay, Ev::Written { host, life, local });
    }

    /// The record is on disk, whether or not the agent can hear of it.
    pub fn written(&mut self, host: usize, life: u64, local: Local) {
        let Some(agent) = self.hosts[host].agent.as_mut().filter(|agent| agent.life == life) else { return };
        agent.writing = None;
        self.hosts[host].disk = local.clone();
        if self.mutation != Some(Mutation::SaidBeforeSaved) {
            self.tell(host, 0, What::Saved(local));
        }
    }

    fn mark(&mut self, host: usize, epoch: Epoch) {
        let delay = MS / 10 + self.rng.below(if self.hosts[host].slow_disk { 300 * MS } else { 2 * MS });
        let Some(agent) = self.hosts[host].agent.as_mut() else { return };
        if std::mem::replace(&mut agent.marking, true) {
            return;
        }
        let life = agent.life;
        if self.mutation == Some(Mutation::MarkAfterSurrender) {
            self.tell(host, 0, What::Marked { group: self.group.clone(), epoch });
            self.at(delay + 500 * MS, Ev::MarkWritten { host, life, epoch });
            return;
        }
        self.at(delay, Ev::MarkWritten { host, life, epoch });
    }

    /// One rename replaces the stamp by the mark (S2).
    pub fn mark_written(&mut self, host: usize, life: u64, epoch: Epoch) {
        let Some(agent) = self.hosts[host].agent.as_mut().filter(|agent| agent.life == life) else { return };
        agent.marking = false;
        self.hosts[host].stamp = Some(Stamp::Surrendered { epoch });
        self.tell(host, 0, What::Marked { group: self.group.clone(), epoch });
    }

    fn hold_vip(&mut self, host: usize, until: mainstay::view::Moment) {
        if self.hosts[host].clock(self.now) >= until {
            let why = "the lease is over".to_owned();
            self.tell(host, 0, What::Vip { group: self.group.clone(), seen: VipSight::Failed { why } });
            return;
        }
        if self.hosts[host].vip_until <= self.now || self.vip_owner.is_none() {
            self.vip_owner = Some(host);
        }
        let leash = 2000 * MS + self.rng.below(900 * MS);
        self.hosts[host].vip_until = self.now + leash;
        let Some(agent) = &self.hosts[host].agent else { return };
        let life = agent.life;
        self.at(leash + MS, Ev::Agent { host, life, what: Input::VipGone });
        self.tell(host, MS / 2, What::Vip { group: self.group.clone(), seen: VipSight::Held });
    }

    fn send(&mut self, from: usize, to: usize, items: Vec<Item>) {
        for item in &items {
            self.check_said(from, item);
        }
        if let Some(delay) = self.net.delay(&mut self.rng, from, to) {
            self.at(delay, Ev::Deliver { from, to, items });
        }
    }

    /// A message arrives.
    pub fn deliver(&mut self, from: usize, to: usize, items: Vec<Item>) {
        let Some(agent) = &self.hosts[to].agent else { return };
        let life = agent.life;
        self.input(to, life, Input::What(Box::new(What::Heard { from: id(from), items })));
    }

    /// S8: the leader's agent seals another host's instance; no report comes of it.
    pub fn remote_seal(&mut self, from: usize, life: u64, to: usize, epoch: Epoch) {
        let reach = self.net.both(from, to) && self.hosts[to].redis.answers(self.now);
        let outcome = if reach {
            self.command(to, 0, crate::redis::Command::Nowhere { close: true });
            let asked = self.hosts[from].clock(self.now);
            Outcome::Done { info: self.hosts[to].redis.info(asked, self.now), clean: true }
        } else {
            Outcome::Failed { why: "no answer".to_owned() }
        };
        let done = What::Done { group: self.group.clone(), task: Task::SealRemote, epoch, outcome };
        let delay = if reach { MS } else { 300 * MS };
        self.at(delay, Ev::Agent { host: from, life, what: Input::What(Box::new(done)) });
    }

    /// An agent's command for an instance: executed, or queued while the instance is frozen.
    pub fn command(&mut self, host: usize, task: u64, command: crate::redis::Command) {
        let redis = &mut self.hosts[host].redis;
        if !redis.answers(self.now) {
            if redis.alive {
                redis.queue.push_back((task, command));
            }
            return;
        }
        let was = redis.upstream;
        redis.execute(command, &mut self.rng);
        let is = self.hosts[host].redis.upstream;
        if was != is {
            tr!(self, "redis {}: {command:?} at offset {}", host + 1, self.hosts[host].redis.offset);
        }
        if is.is_none() && was.is_some() {
            self.check_promotion(host);
        }
        if was == Some(Upstream::Nowhere)
            && matches!(is, Some(Upstream::Host(_)))
            && self.runs > self.hosts.len() as u64
        {
            self.covered.rejoins += 1;
        }
    }
}
