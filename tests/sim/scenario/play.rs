//! Plays a story: sets its world up, carries out its steps at their times, and hands back its outcome.
//!
//! The world is the simulator's, with a generator that knows no chance: every delay is the middle one. All its
//! invariants are checked; a story that breaks one has no outcome.

use super::client::Client;
use super::finish::finish;
use super::parse::{Persistence, Story};
use super::tale::Tale;
use super::words::Step;
use crate::agent::{host_of, id};
use crate::events::Cure;
use crate::redis::Link;
use crate::rng::Rng;
use crate::world::{MS, Ns, Shape, Told, World, place};
use mainstay::cluster::{Command, GroupCommand, GroupName, Pause, Why};
use mainstay::view::What;
use std::sync::Arc;
use std::time::Duration;

const SEED: u64 = 1;
/// Written before the story begins, so that there is something to lose.
const BEFORE: u64 = 100;
/// The longest a new cluster may take to be ready.
const READY: Ns = 15_000 * MS;

struct Play<'a> {
    story: &'a Story,
    world: World,
    tale: Tale,
    clients: Vec<Client>,
    begin: Ns,
    /// By place: so many writes are in its RDB; its link at the last look.
    saved: Vec<usize>,
    links: Vec<Link>,
}

/// Tells a story; its outcome, or why there is none.
pub fn play(story: &Story) -> Result<String, String> {
    let tracing = std::env::var_os("MAINSTAY_SIM_SCENARIO").is_some();
    let mut play = Play::begin(story, tracing)?;
    let outcome = play.go_on();
    if tracing {
        play.world.trace.iter().for_each(|line| println!("{line}"));
    }
    outcome?;
    let mut out = play.tale.lines.join("\n");
    out.push('\n');
    out.push_str(&finish(&play.world, &story.names, &play.clients, play.begin));
    Ok(out)
}

fn set_up(story: &Story, tracing: bool) -> World {
    let shape = Shape {
        nodes: story.names.len(),
        first: story.first,
        members: story.groups.iter().map(|group| group.members.clone()).collect(),
        durability: story.durability,
        drift: 0,
        start: crate::starts::Start::Empty,
    };
    let names: Vec<GroupName> = story.groups.iter().map(|group| GroupName(group.name.clone())).collect();
    let mut world = World::with(Rng::steady(SEED), names, &shape, None, tracing);
    world.told = Some(Told { found: vec![(0, false); world.insts.len()], waited: Vec::new() });
    let state = Arc::make_mut(&mut world.raft.states[0]);
    for (node, record) in &mut state.nodes {
        record.name.clone_from(&story.names[host_of(*node)]);
    }
    let state = Arc::clone(&world.raft.states[0]);
    for (number, host) in world.hosts.iter_mut().enumerate() {
        let priority = story.priorities.get(&number).copied().unwrap_or(100);
        host.policy.groups.values_mut().for_each(|group| group.priority = priority);
        host.quarantine = story.quarantine.contains(&number);
        if let Some(agent) = host.agent.as_mut() {
            agent.view.state = Arc::clone(&state);
            agent.view.quarantine =
                if host.quarantine { host.policy.groups.keys().cloned().collect() } else { Default::default() };
        }
    }
    world
}

impl<'a> Play<'a> {
    /// The cluster starts for the first time, and settles with some data.
    fn begin(story: &'a Story, tracing: bool) -> Result<Self, String> {
        let mut world = set_up(story, tracing);
        settle(&mut world)?;
        for group in 0..world.names.len() {
            let Some(host) = world.primary_host(group) else { continue };
            for _ in 0..BEFORE {
                world.writes += 1;
                let write = world.writes;
                world.insts[place(host, group)].redis.write(write);
            }
        }
        world.run_until(world.now + 1000 * MS);
        settle(&mut world)?;
        let begin = world.now;
        let tale = Tale::new(&world, &story.names);
        let saved = world.insts.iter().map(|inst| inst.redis.data.len()).collect();
        let links = world.insts.iter().map(|inst| inst.redis.link).collect();
        Ok(Self { story, world, tale, clients: Vec::new(), begin, saved, links })
    }

    fn go_on(&mut self) -> Result<(), String> {
        let (story, mut next) = (self.story, 0);
        loop {
            let time = self.world.now - self.begin;
            while let Some((_, step, words)) = story.steps.get(next).filter(|(at, _, _)| *at <= time) {
                if *step == Step::End {
                    let now = self.world.now;
                    self.clients.iter_mut().filter(|client| !client.stopped).for_each(|client| client.stop(now));
                    return Ok(());
                }
                self.tale.say(self.world.now, ">", words);
                self.step(step);
                next += 1;
            }
            self.world.run_until(self.world.now + MS);
            if let Some(violation) = self.world.violation.take() {
                let at = (self.world.now - self.begin) / MS;
                return Err(format!("breaks `{}` after {at} ms: {}", violation.name, violation.text));
            }
            self.tale.watch(&self.world);
            for client in &mut self.clients {
                if let Some(text) = client.step(&mut self.world) {
                    self.tale.say(self.world.now, "client", &text);
                }
            }
            self.keep_disks();
        }
    }

    /// What each instance would find if its process died now.
    fn keep_disks(&mut self) {
        let Some(told) = &mut self.world.told else { return };
        for (at, inst) in self.world.insts.iter().enumerate().filter(|(_, inst)| inst.redis.alive) {
            let held = inst.redis.data.len();
            let loads = |link: &Link| matches!(link, Link::Loading { .. });
            let synchronised = loads(&inst.redis.link) && !loads(&self.links[at]);
            if synchronised || held < self.saved[at] {
                self.saved[at] = held;
            }
            self.links[at] = inst.redis.link;
            told.found[at] = match self.story.persistence {
                Persistence::None => (0, false),
                Persistence::Rdb => (self.saved[at], true),
                Persistence::Aof => (held, false),
            };
        }
    }

    fn step(&mut self, step: &Step) {
        let world = &mut self.world;
        match *step {
            Step::Kill { host, group, stays } => {
                if stays {
                    world.lost.insert(place(host, group));
                }
                world.kill_instance(place(host, group));
            }
            Step::Start { host, group } => {
                world.lost.remove(&place(host, group));
                world.restart_instance(place(host, group));
            }
            Step::Hang { host, group, length } => world.hang_until(place(host, group), world.now + length),
            Step::Save { host, group } => {
                let at = place(host, group);
                self.saved[at] = world.insts[at].redis.data.len();
            }
            Step::Lag { host, group, on } => world.insts[place(host, group)].redis.narrow = on,
            Step::AgentKilled(host) => world.end_agent(host),
            Step::AgentStarts(host) => world.cure(Cure::Agent(host)),
            Step::AgentFreezes(host) => world.freeze(host),
            Step::AgentThaws(host) => world.thaw(host),
            Step::AgentStops(host) => world.tell(host, 0, What::Stopping),
            Step::Split(ref hosts) => world.net.split(hosts),
            Step::Part(one, other) => {
                world.net.set(one, other, true);
                world.net.set(other, one, true);
            }
            Step::OneWay(from, to) => world.net.set(from, to, true),
            Step::Mute(host) => world.net.mute(host),
            Step::Mend => world.net.heal(),
            Step::Lead(host) => world.lead(host),
            Step::Client { group, beside, wait } => {
                self.clients.push(Client::new(group, beside, wait, world.now));
            }
            Step::ClientStops => {
                let now = world.now;
                self.clients.iter_mut().filter(|client| !client.stopped).for_each(|client| client.stop(now));
            }
            Step::PowerOff(ref hosts) => self.everywhere(hosts, World::cut_power),
            Step::PowerOn(ref hosts) => self.everywhere(hosts, |world, host| world.cure(Cure::Host(host))),
            _ => self.operator(step),
        }
    }

    fn everywhere(&mut self, hosts: &[usize], act: impl Fn(&mut World, usize)) {
        for host in 0..self.world.hosts.len() {
            let meant = hosts.contains(&host) || hosts == [usize::MAX];
            if meant && self.world.hosts[host].joined {
                act(&mut self.world, host);
            }
        }
    }

    fn operator(&mut self, step: &Step) {
        match *step {
            Step::Switch { to, group } => {
                self.order(group, GroupCommand::Switch { to: id(to), why: Why::Operator });
            }
            Step::Pause { group, length } => {
                let length = length.map(Duration::from_nanos);
                self.order(group, GroupCommand::Pause(Pause { length, reason: "work on the hosts".to_owned() }));
            }
            Step::Resume { group } => self.order(group, GroupCommand::Resume),
            Step::Force { to, group } => self.order(group, GroupCommand::Force { node: id(to) }),
            Step::Priority { host, group, priority } => {
                self.order(group, GroupCommand::SetPriority { node: id(host), priority });
            }
            Step::Remove(host) => {
                if !self.world.leave(host) {
                    self.tale.say(self.world.now, "operator", "refused: it is primary, or another change is under way");
                }
            }
            Step::Join { host, ref name } => self.join(host, name.clone()),
            _ => {}
        }
    }

    /// An operator's word, and what becomes of it.
    fn order(&mut self, group: usize, change: GroupCommand) {
        let world = &mut self.world;
        let name = world.names[group].clone();
        let leader = world.raft.leader.filter(|leader| world.quorum_at(*leader, |_, _| true));
        let found = world.committed().groups.get(&name).map(mainstay::cluster::Group::expect);
        let (Some(leader), Some(expect)) = (leader, found) else {
            self.tale.say(world.now, "operator", "refused: no Raft leader with a majority");
            return;
        };
        let command = Command::Group { group: name, expect, change };
        match world.committed().clone().apply(&command) {
            Ok(()) => {
                world.append(leader, &command);
            }
            Err(why) => self.tale.say(world.now, "operator", &format!("refused: {why}")),
        }
    }

    fn join(&mut self, host: usize, name: String) {
        let world = &mut self.world;
        let Some(leader) = world.raft.leader.filter(|leader| world.quorum_at(*leader, |_, _| true)) else {
            self.tale.say(world.now, "operator", "refused: no Raft leader with a majority");
            return;
        };
        let record = crate::raft::record(host, name);
        let command = Command::AddNode { node: id(host), record };
        if let Err(why) = world.committed().clone().apply(&command) {
            self.tale.say(world.now, "operator", &format!("refused: {why}"));
            return;
        }
        world.append(leader, &command);
        world.raft.members.insert(host);
        (world.hosts[host].joined, world.hosts[host].up) = (true, true);
        for at in world.places(host) {
            world.insts[at].redis.alive = world.insts[at].member;
        }
        world.start_agent(host);
    }
}

fn settle(world: &mut World) -> Result<(), String> {
    let mut last = Ok(());
    while world.now < READY && world.violation.is_none() {
        world.run_until(world.now + 100 * MS);
        last = world.check_settled();
        if last.is_ok() && world.now >= 3000 * MS {
            return Ok(());
        }
    }
    match world.violation.take() {
        Some(violation) => Err(format!("breaks `{}` before it begins: {}", violation.name, violation.text)),
        None => Err(format!("the cluster is not ready: {}", last.err().unwrap_or_default())),
    }
}
