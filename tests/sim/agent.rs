//! One host's agent: its life, the loop around `decide::step`, and the actions that end at once. Tasks: `tasks.rs`.

use crate::attack::Attack;
use crate::events::{Cure, Ev, Input};
use crate::mutation::Mutation;
use crate::redis::{Redis, Upstream, announce};
use crate::rng::Rng;
use crate::trace::label;
use crate::world::{Agent, HANG_AFTER, Host, Inst, LEASE, MS, Ns, Shape, World, group_at, host_at, place};
use mainstay::cluster::{Epoch, GroupName, Local, NodeId, State};
use mainstay::decide::{Action, GroupPolicy, Policy, step};
use mainstay::view::{Event, Item, Outcome, Sight, Stamp, Task, View, VipSight, What};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// The VIP's lifetime that goes with the lease.
const VIP_LIFETIME: Ns = 2000 * MS;

/// The number of a host's node.
pub fn id(host: usize) -> NodeId {
    NodeId(host as u64 + 1)
}

/// The host of a node.
pub fn host_of(node: NodeId) -> usize {
    usize::try_from(node.0).unwrap_or(1).saturating_sub(1)
}

/// A host before its first start.
pub fn host(rng: &mut Rng, index: usize, shape: &Shape, names: &[GroupName]) -> Host {
    let priority = if rng.permille(100) && index > 1 { 0 } else { 100 + u32::try_from(rng.below(3)).unwrap_or(0) };
    // Somebody of each group may be promoted.
    let least = |group: usize| if shape.members[group].iter().min() == Some(&index) { 100 } else { 0 };
    let own = |group: usize| GroupPolicy {
        announce: announce(place(index, group)),
        priority: priority.max(least(group)),
        durability: shape.durability,
        vip: true,
    };
    let mine = |group: &usize| shape.members[*group].contains(&index);
    let groups = (0..names.len()).filter(mine).map(|group| (names[group].clone(), own(group))).collect();
    Host {
        joined: index < shape.first,
        up: index < shape.first,
        agent: None,
        stalled: false,
        inbox: VecDeque::new(),
        policy: Policy { address: format!("10.0.0.{}:7400", index + 1), lease: LEASE, hang_after: HANG_AFTER, groups },
        disk: Local::default(),
        applied: 0,
        clock_base: 0,
        clock_rate: i64::try_from(rng.below(2 * shape.drift + 1)).unwrap_or(0)
            - i64::try_from(shape.drift).unwrap_or(0),
        quarantine: rng.permille(400),
        slow_disk: false,
        slow_redis: false,
        excused_until: 0,
        generation: 1,
        superseded: false,
        mindless_since: None,
        locked_out_until: 0,
    }
}

/// An instance before its first start.
pub fn inst(rng: &mut Rng, place: usize, shape: &Shape) -> Inst {
    let (host, group) = (host_at(place), group_at(place));
    let member = shape.members[group].contains(&host);
    let fresh = rng.draw();
    let mut redis = Redis::born(place as u64, fresh);
    if fresh.is_multiple_of(4) {
        redis.backlog = 64;
    }
    redis.alive = member && host < shape.first;
    Inst {
        member,
        redis,
        stamp: None,
        vip_until: 0,
        newest_told: 0,
        hung_since: None,
        told_to_follow: None,
        in_turn: false,
    }
}

impl World {
    /// The places of a host.
    pub fn places(&self, host: usize) -> impl Iterator<Item = usize> + use<> {
        (0..self.names.len()).map(move |group| place(host, group))
    }

    /// A reboot sets the clock back and forgets what is not on disk.
    pub fn reboot(&mut self, host: usize) {
        self.hosts[host].clock_base = self.now;
        for at in self.places(host) {
            self.insts[at].stamp = None;
            self.insts[at].vip_until = 0;
        }
    }

    /// The number of a group.
    pub fn group_of(&self, name: &GroupName) -> usize {
        self.names.iter().position(|known| known == name).unwrap_or(0)
    }

    /// The name of a place's group.
    pub fn name_at(&self, place: usize) -> GroupName {
        self.names[group_at(place)].clone()
    }

    /// The agent's process starts.
    pub fn start_agent(&mut self, host: usize) {
        self.lives += 1;
        let (life, now, nodes) = (self.lives, self.now, self.hosts.len());
        let state = Arc::clone(&self.raft.states[self.hosts[host].applied]);
        let stamps: BTreeMap<GroupName, Stamp> = self
            .places(host)
            .filter_map(|at| self.insts[at].stamp.clone().map(|stamp| (self.name_at(at), stamp)))
            .collect();
        let (stamps, local) = self.start_mutation(host, stamps);
        let own = &mut self.hosts[host];
        let mine: BTreeSet<GroupName> = own.policy.groups.keys().cloned().collect();
        let quarantine = if own.quarantine { mine.clone() } else { BTreeSet::new() };
        let mut view = View::new(id(host), own.clock(now), state, local, &stamps, mine);
        view.quarantine = quarantine;
        let carried = self.names.iter().any(|name| view.lease_live(name));
        own.inbox.clear();
        own.stalled = false;
        own.excused_until = now + 150 * MS;
        own.mindless_since = None;
        if self.plan.and_then(|plan| plan.attack) == Some(Attack::LockedOut) && !self.healed {
            own.locked_out_until = now + 1500 * MS;
        }
        let (tasks, marking, link) = (vec![None; self.names.len()], vec![false; self.names.len()], vec![true; nodes]);
        own.agent = Some(Agent { life, view, tasks, marking, writing: None, link, carried });
        tr!(self, "agent {}: starts{}", host + 1, if carried { ", within the stamped lease" } else { "" });
        let first = self.rng.below(self.tick);
        self.at(first, Ev::Agent { host, life, what: Input::Tick });
        for at in self.places(host) {
            if self.insts[at].member {
                self.at(first, Ev::Agent { host, life, what: Input::Look(group_at(at)) });
            }
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
        for at in self.places(host) {
            let seat = agent.view.seats.get(&self.names[group_at(at)]);
            if let Some(seat) = seat.filter(|_| agent.marking[group_at(at)])
                && self.rng.permille(500)
                && self.mutation != Some(Mutation::MarkAfterSurrender)
            {
                self.insts[at].stamp = Some(Stamp::Surrendered { epoch: seat.lease.epoch });
            }
        }
        self.hosts[host].excused_until = Ns::MAX;
        self.hosts[host].mindless_since.get_or_insert(self.now);
        self.hosts[host].stalled = false;
        self.hosts[host].inbox.clear();
    }

    /// Something for an agent's loop; while it is frozen it waits.
    pub fn input(&mut self, host: usize, life: u64, what: Input) {
        if self.hosts[host].agent.as_ref().is_none_or(|agent| agent.life != life) {
            return;
        }
        if self.hosts[host].stalled {
            let same = |known: &Input| match (known, &what) {
                (Input::Tick, Input::Tick) => true,
                (Input::Look(known), Input::Look(group)) => known == group,
                _ => false,
            };
            let keep = !self.hosts[host].inbox.iter().any(same);
            if keep {
                self.hosts[host].inbox.push_back(what);
            }
            return;
        }
        match what {
            Input::Tick => {
                let again = self.tick + self.rng.below(MS);
                self.at(again, Ev::Agent { host, life, what: Input::Tick });
                self.step(host, What::Tick { unix_ms: self.now / MS });
            }
            Input::Look(group) => self.look(place(host, group), life),
            Input::Step(at, task) => self.task_step(at, life, task),
            Input::Applied(index) => {
                if index > self.hosts[host].applied {
                    self.hosts[host].applied = index;
                    let state = Arc::clone(&self.raft.states[index]);
                    self.step(host, What::Applied(state));
                }
            }
            Input::VipGone(at) => {
                if self.insts[at].vip_until <= self.now {
                    self.step(host, What::Vip { group: self.name_at(at), seen: VipSight::Removed });
                }
            }
            Input::What(mut what) => {
                if self.is_old_news(host, &what) {
                    return;
                }
                self.event_mutation(host, &mut what);
                self.step(host, *what);
            }
        }
    }

    /// Who leads is read from a place that holds the newest word only: one that comes late was replaced there.
    fn is_old_news(&self, host: usize, what: &What) -> bool {
        let What::Leadership(said) = what else { return false };
        let leader = said.leader.map(crate::agent::host_of);
        self.raft.told[host] != Some((said.term, leader, said.leading))
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
        self.before_mutation(host, &what);
        let (heard, lineages) = (self.promises_in(&what), self.lineages(host, &what));
        let own = &mut self.hosts[host];
        let Some(agent) = own.agent.as_mut() else { return };
        let before = Arc::clone(&agent.view.state);
        let decision = step(&mut agent.view, &own.policy, Event { at, what });
        let after = &agent.view.state;
        let back = self.names.iter().any(|name| {
            let version = |state: &State| state.groups.get(name).map(|group| group.version);
            version(&before) > version(after)
        });
        if back {
            self.violate("applied-monotonic", format!("agent {} went back to an older state", host + 1));
        }
        self.note_vacancy(host);
        self.lease_mutation(host, &heard);
        let actions = self.action_mutation(host, &lineages, decision.actions);
        for action in actions {
            self.perform(host, action);
        }
    }

    /// A look at the instance: asked now, answered later.
    fn look(&mut self, at: usize, life: u64) {
        let host = host_at(at);
        let again = self.look + self.rng.below(10 * MS);
        self.at(again, Ev::Agent { host, life, what: Input::Look(group_at(at)) });
        let asked = self.hosts[host].clock(self.now);
        let slow = self.hosts[host].slow_redis;
        let redis = &self.insts[at].redis;
        let hung = self.now < redis.hung_until;
        let seen = if !redis.alive {
            Sight::Gone
        } else if self.now < self.hosts[host].locked_out_until {
            Sight::Unusable { why: "WRONGPASS".to_owned() }
        } else if hung {
            Sight::Silent { length: std::time::Duration::from_millis(100), progress: false }
        } else if self.now < redis.loading_until {
            Sight::Loading
        } else {
            Sight::Info(redis.info(asked, self.now))
        };
        let info = matches!(seen, Sight::Info(_));
        let delay = if slow { self.rng.between(50, 900) * MS } else { MS / 5 + self.rng.below(3 * MS) };
        self.tell(host, delay, What::Instance { group: self.name_at(at), seen });
        if info {
            self.tell_newest(at, host);
        }
    }

    /// The watcher sees a process die: its connection is closed and a new one refused (S7).
    pub fn tell_gone(&mut self, at: usize) {
        let delay = MS + self.rng.below(3 * MS);
        self.tell(host_at(at), delay, What::Instance { group: self.name_at(at), seen: Sight::Gone });
    }

    fn perform(&mut self, host: usize, action: Action) {
        if self.tracing {
            let text = crate::trace::action(&action);
            if !text.is_empty() {
                tr!(self, "agent {}: -> {text}", host + 1);
            }
        }
        let at = crate::trace::group_of(&action).map_or(host, |name| place(host, self.group_of(name)));
        match action {
            Action::Save(local) => self.save(host, local),
            Action::Stamp { epoch, run_id, until, .. } => {
                let marked = matches!(self.insts[at].stamp, Some(Stamp::Surrendered { epoch: e }) if e >= epoch);
                if !marked {
                    self.insts[at].stamp = Some(Stamp::Leased { epoch, run_id, until });
                }
            }
            Action::Mark { epoch, .. } => self.mark(at, epoch),
            Action::HoldVip { until, .. } => self.hold_vip(at, until),
            Action::DropVip { group } => {
                self.insts[at].vip_until = 0;
                self.tell(host, MS, What::Vip { group, seen: VipSight::Removed });
            }
            Action::Send { to, items } => self.send(host, host_of(to), items),
            Action::Propose { topic, command } => self.propose(host, topic, command),
            Action::SealRemote { epoch, addresses, .. } => {
                let Some(agent) = &self.hosts[host].agent else { return };
                let life = agent.life;
                let delay = MS + self.rng.below(10 * MS);
                let to = addresses.iter().filter_map(|address| crate::redis::place_of(address)).collect();
                self.at(delay, Ev::RemoteSeal { from: host, life, to, epoch });
            }
            Action::Exit => {
                self.end_agent(host);
                // ExecStopPost: the stop was asked for, so the host is fenced (S8).
                for at in self.places(host) {
                    self.insts[at].vip_until = 0;
                    if self.insts[at].redis.answers(self.now) {
                        self.command(at, 0, crate::redis::Command::Nowhere { close: true });
                    }
                }
                if self.told.is_none() {
                    let pause = self.rng.between(300, 3000) * MS;
                    self.at(pause, Ev::Cure(Cure::Agent(host)));
                }
            }
            other => self.begin_task(at, other),
        }
    }

    fn save(&mut self, host: usize, local: Local) {
        let slow = self.hosts[host].slow_disk;
        let delay = if slow { self.rng.between(20, 1200) * MS } else { MS / 10 + self.rng.below(4 * MS) };
        let full = self.unkind.full(host);
        let Some(agent) = self.hosts[host].agent.as_mut() else { return };
        let life = agent.life;
        if full {
            self.hold_record(host, life, local);
            return;
        }
        agent.writing = Some(local.clone());
        self.at(delay, Ev::Written { host, life, local });
    }

    /// The record is on disk, whether or not the agent can hear of it.
    pub fn written(&mut self, host: usize, life: u64, local: Local) {
        let Some(agent) = self.hosts[host].agent.as_mut().filter(|agent| agent.life == life) else { return };
        agent.writing = None;
        self.hosts[host].disk = local.clone();
        self.tell(host, 0, What::Saved(local));
    }

    fn mark(&mut self, at: usize, epoch: Epoch) {
        let delay = MS / 10 + self.rng.below(if self.hosts[host_at(at)].slow_disk { 300 * MS } else { 2 * MS });
        let Some(agent) = self.hosts[host_at(at)].agent.as_mut() else { return };
        if std::mem::replace(&mut agent.marking[group_at(at)], true) {
            return;
        }
        let life = agent.life;
        if self.mark_mutation(at, life, epoch, delay) {
            return;
        }
        self.at(delay, Ev::MarkWritten { place: at, life, epoch });
    }

    /// One rename replaces the stamp by the mark (S2).
    pub fn mark_written(&mut self, at: usize, life: u64, epoch: Epoch) {
        let Some(agent) = self.hosts[host_at(at)].agent.as_mut().filter(|agent| agent.life == life) else { return };
        agent.marking[group_at(at)] = false;
        self.insts[at].stamp = Some(Stamp::Surrendered { epoch });
        self.tell(host_at(at), 0, What::Marked { group: self.name_at(at), epoch });
    }

    fn hold_vip(&mut self, at: usize, until: mainstay::view::Moment) {
        let host = host_at(at);
        self.check_hold_vip(at);
        if self.hosts[host].clock(self.now) >= until {
            let why = "the lease is over".to_owned();
            self.tell(host, 0, What::Vip { group: self.name_at(at), seen: VipSight::Failed { why } });
            return;
        }
        if self.insts[at].vip_until <= self.now || self.vip_owner[group_at(at)].is_none() {
            self.vip_owner[group_at(at)] = Some(host);
        }
        let window = crate::leash::window(self.now, VIP_LIFETIME);
        let leash = crate::leash::moment(window, self.rng.draw()) - self.now;
        let leash = self.leash_mutation(leash);
        self.insts[at].vip_until = self.now + leash;
        let Some(agent) = &self.hosts[host].agent else { return };
        let life = agent.life;
        self.at(leash + MS, Ev::Agent { host, life, what: Input::VipGone(at) });
        self.tell(host, MS / 2, What::Vip { group: self.name_at(at), seen: VipSight::Held });
    }

    fn send(&mut self, from: usize, to: usize, items: Vec<Item>) {
        for item in &items {
            self.check_said(from, item);
        }
        if to >= self.hosts.len() {
            return;
        }
        if let Some(delay) = self.net.delay(&mut self.rng, from, to) {
            if let Some(later) = self.repeated() {
                self.at(delay + later, Ev::Deliver { from, to, items: items.clone() });
            }
            self.at(delay, Ev::Deliver { from, to, items });
        }
    }

    /// A message arrives.
    pub fn deliver(&mut self, from: usize, to: usize, items: Vec<Item>) {
        let checked = self.mutation != Some(Mutation::GenerationUnchecked);
        if checked && self.hosts[from].generation != self.hosts[to].generation {
            return;
        }
        let Some(agent) = &self.hosts[to].agent else { return };
        let life = agent.life;
        self.input(to, life, Input::What(Box::new(What::Heard { from: id(from), items })));
    }

    /// S8: the leader's agent seals other hosts' instances; no report comes of it.
    pub fn remote_seal(&mut self, from: usize, life: u64, to: &[usize], epoch: Epoch) {
        let Some(first) = to.first() else { return };
        let group = self.name_at(*first);
        let (reached, silent): (Vec<usize>, Vec<usize>) =
            to.iter().partition(|to| self.net.both(from, host_at(**to)) && self.insts[**to].redis.answers(self.now));
        self.note_unreached(to, &silent);
        for to in reached {
            self.command(to, 0, crate::redis::Command::Nowhere { close: true });
        }
        let (outcome, delay) = if silent.is_empty() {
            (Outcome::Dead, MS)
        } else {
            (Outcome::Failed { why: "no answer".to_owned() }, 300 * MS)
        };
        let done = What::Done { group, task: Task::SealRemote, epoch, outcome };
        self.at(delay, Ev::Agent { host: from, life, what: Input::What(Box::new(done)) });
    }

    /// An agent's command for an instance: executed, or queued while the instance is frozen.
    pub fn command(&mut self, at: usize, task: u64, command: crate::redis::Command) {
        let redis = &mut self.insts[at].redis;
        if !redis.answers(self.now) {
            if redis.alive {
                redis.queue.push_back((task, command));
            }
            return;
        }
        let was = redis.upstream;
        redis.execute(command, self.now, &mut self.rng);
        let is = self.insts[at].redis.upstream;
        if was != is {
            tr!(self, "redis {}: {} at offset {}", label(at), command.text(), self.insts[at].redis.offset);
        }
        if is.is_none() && was.is_some() {
            self.check_promotion(at);
        }
        if was != is && is == Some(Upstream::Nowhere) {
            self.seal_mutation(at);
            self.check_detached(at);
        }
        if was == Some(Upstream::Nowhere) && matches!(is, Some(Upstream::Host(_))) {
            self.insts[at].told_to_follow = self.expects_full(at);
            self.covered.rejoins += u64::from(self.runs > self.first_runs);
        }
    }
}
