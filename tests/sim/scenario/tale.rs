//! The timeline of a story: what operators would see of it, each when it changes.
//!
//! Events, reasons and waits are the core's own words (`decide`, `view`); the rest is read off the modelled instances,
//! kernels and Raft. What lasts less than a tenth of a second is no news, but for fences and events.

use crate::agent::{host_of, id};
use crate::redis::{Link, Upstream};
use crate::world::{MS, Ns, World, group_at, host_at, place};
use mainstay::cluster::{Epoch, Group, Lost, NodeId, Phase};
use mainstay::decide::{Reason, change_text, decide, vacant_text};
use mainstay::view::loss_text;
use std::collections::{BTreeMap, BTreeSet};

/// What is told only when it lasts.
const LASTS: Ns = 100 * MS;

/// Something that is told once it has lasted.
#[derive(Debug, Default, Clone)]
struct Standing {
    text: String,
    since: Ns,
    told: bool,
}

impl Standing {
    /// The text to tell now, if any.
    fn look(&mut self, now: Ns, text: String, at_once: bool) -> Option<String> {
        if self.text != text {
            *self = Self { text, since: now, told: false };
        }
        let due = !self.told && !self.text.is_empty() && (at_once || now - self.since >= LASTS);
        self.told |= due;
        due.then(|| self.text.clone())
    }
}

#[derive(Debug, Default, Clone)]
struct Seen {
    epoch: Epoch,
    phase: Option<Phase>,
    paused: bool,
    primary: Option<NodeId>,
    followers: BTreeSet<NodeId>,
    /// With the names that they had.
    members: BTreeMap<NodeId, String>,
    quorum: u32,
    losses: BTreeMap<(Epoch, NodeId), Lost>,
    waits: Standing,
}

#[derive(Debug, Default, Clone)]
struct Place {
    alive: bool,
    run: u64,
    upstream: Option<Upstream>,
    link: Option<Link>,
    vip: bool,
    min: u32,
    reason: Standing,
}

/// The lines so far, and what was seen last.
#[derive(Debug, Default)]
pub struct Tale {
    pub lines: Vec<String>,
    names: Vec<String>,
    begin: Ns,
    groups: Vec<Seen>,
    places: Vec<Place>,
    leader: Option<usize>,
    voters: BTreeSet<usize>,
    agents: Vec<bool>,
    silent: bool,
}

/// A node's name, as the cluster knows it.
pub fn name_of(world: &World, node: NodeId) -> String {
    let known = world.committed().nodes.get(&node).map(|node| node.name.clone());
    known.unwrap_or_else(|| format!("node {node}"))
}

impl Tale {
    /// Begins now; what is seen now is no news.
    pub fn new(world: &World, names: &[String]) -> Self {
        let mut tale = Self {
            names: names.to_vec(),
            begin: world.now,
            groups: vec![Seen::default(); world.names.len()],
            places: vec![Place::default(); world.insts.len()],
            agents: vec![false; world.hosts.len()],
            silent: true,
            ..Self::default()
        };
        tale.watch(world);
        tale.silent = false;
        tale
    }

    /// One line.
    pub fn say(&mut self, now: Ns, who: &str, text: &str) {
        if !self.silent {
            let at = (now - self.begin) as f64 / 1e9;
            self.lines.push(format!("{at:>7.2}  {who:<8} {text}"));
        }
    }

    fn host(&self, world: &World, at: usize) -> String {
        let (host, group) = (&self.names[host_at(at)], group_at(at));
        if world.names.len() == 1 { host.clone() } else { format!("{host}/{}", world.names[group]) }
    }

    /// Everything that changed since the last look.
    pub fn watch(&mut self, world: &World) {
        for group in 0..world.names.len() {
            self.watch_group(world, group);
        }
        let leader = world.raft.leader.filter(|leader| world.quorum_at(*leader, |_, _| true));
        if leader != self.leader {
            let text = leader.map_or_else(|| "nobody leads".to_owned(), |host| format!("{} leads", self.names[host]));
            self.say(world.now, "raft", &text);
            self.leader = leader;
        }
        if world.raft.voters != self.voters {
            let names: Vec<&str> = world.raft.voters.iter().map(|host| self.names[*host].as_str()).collect();
            let text = format!("{} vote", names.join(", "));
            self.say(world.now, "raft", &text);
            self.voters.clone_from(&world.raft.voters);
        }
        for host in 0..world.hosts.len() {
            let runs = world.hosts[host].agent.is_some();
            if runs != self.agents[host] {
                let carried = world.hosts[host].agent.as_ref().is_some_and(|agent| agent.carried);
                let text = match (runs, carried) {
                    (false, _) => "the agent is gone",
                    (true, false) => "the agent starts",
                    (true, true) => "the agent starts within its lease and carries on",
                };
                self.say(world.now, &self.names[host].clone(), text);
                self.agents[host] = runs;
            }
            self.watch_reasons(world, host);
        }
        for at in (0..world.insts.len()).filter(|at| world.insts[*at].member) {
            self.watch_instance(world, at);
            self.watch_vip(world, at);
        }
    }

    fn watch_group(&mut self, world: &World, number: usize) {
        let (now, who) = (world.now, world.names[number].0.clone());
        let Some(group) = world.committed().groups.get(&world.names[number]) else { return };
        let mut seen = std::mem::take(&mut self.groups[number]);
        if seen.phase.as_ref() != Some(&group.phase) {
            match &group.phase {
                Phase::Sealing { why, .. } => self.say(now, &who, &vacant_text(*why)),
                Phase::Switching { to, .. } => {
                    self.say(now, &who, &format!("the primary is asked to hand over to {}", name_of(world, *to)));
                }
                Phase::Stable if matches!(seen.phase, Some(Phase::Switching { .. })) => {
                    self.say(now, &who, "the switchover is called off");
                }
                Phase::Stable => {}
            }
            seen.phase = Some(group.phase.clone());
        }
        for change in group.history.iter().filter(|change| change.epoch > seen.epoch) {
            let (from, to) = (change.from.map(|from| name_of(world, from)), name_of(world, change.to));
            let text = change_text(from.as_deref(), &to, change.guarantee);
            self.say(now, &who, &format!("epoch {}: {text}", change.epoch));
        }
        seen.epoch = group.epoch;
        self.watch_sets(world, &who, group, &mut seen);
        for change in &group.history {
            for (node, lost) in &change.diverged {
                if seen.losses.insert((change.epoch, *node), lost.clone()).as_ref() != Some(lost) {
                    let text = loss_text(&name_of(world, *node), lost);
                    self.say(now, &who, &format!("epoch {}: {text}", change.epoch));
                }
            }
        }
        self.groups[number] = seen;
    }

    fn watch_sets(&mut self, world: &World, who: &str, group: &Group, seen: &mut Seen) {
        let now = world.now;
        if group.pause.is_some() != seen.paused {
            seen.paused = group.pause.is_some();
            self.say(now, who, if seen.paused { "automatic promotion is paused" } else { "the pause is over" });
        }
        let members: BTreeMap<NodeId, String> =
            group.members.keys().map(|node| (*node, name_of(world, *node))).collect();
        for (_, name) in seen.members.iter().filter(|(node, _)| !members.contains_key(node)) {
            self.say(now, who, &format!("{name} is no member any more"));
        }
        for (_, name) in members.iter().filter(|(node, _)| !seen.members.contains_key(node)) {
            self.say(now, who, &format!("{name} is a member"));
        }
        seen.members.extend(members.clone());
        seen.members.retain(|node, _| members.contains_key(node));
        if group.quorum != seen.quorum {
            self.say(now, who, &format!("a write counts as acknowledged on {} members", group.quorum));
            seen.quorum = group.quorum;
        }
        let followers: BTreeSet<NodeId> = group.followers.keys().copied().collect();
        for node in followers.symmetric_difference(&seen.followers) {
            // A change of primary swaps the two.
            if group.primary_node() == Some(*node) || seen.primary == Some(*node) {
                continue;
            }
            let text = if followers.contains(node) { "is let in as a follower" } else { "is no follower any more" };
            let name = seen.members.get(node).cloned().unwrap_or_else(|| name_of(world, *node));
            self.say(now, who, &format!("{name} {text}"));
        }
        (seen.followers, seen.primary) = (followers, group.primary_node());
    }

    fn watch_reasons(&mut self, world: &World, host: usize) {
        let own = &world.hosts[host];
        let Some(agent) = own.agent.as_ref().filter(|_| !own.stalled) else { return };
        let decision = decide(&agent.view, &own.policy);
        for number in 0..world.names.len() {
            let (name, at) = (&world.names[number], place(host, number));
            let reason = decision.reasons.get(name).filter(|reason| is_news(reason));
            let text = reason.map(ToString::to_string).unwrap_or_default();
            let at_once = matches!(reason, Some(Reason::Fencing(_) | Reason::HandingOver(_)));
            if let Some(text) = self.places[at].reason.look(world.now, text, at_once) {
                self.say(world.now, &self.host(world, at), &text);
            }
            if world.raft.leader == Some(host) {
                let text = decision.waits.get(name).map(ToString::to_string).unwrap_or_default();
                if let Some(text) = self.groups[number].waits.look(world.now, text, false) {
                    self.say(world.now, &name.0, &text);
                }
            }
        }
    }

    fn watch_instance(&mut self, world: &World, at: usize) {
        let redis = &world.insts[at].redis;
        let mut seen = std::mem::take(&mut self.places[at]);
        let (now, who) = (world.now, self.host(world, at));
        if seen.alive != redis.alive || seen.run != redis.run {
            let held = redis.data.len();
            let text = if redis.alive {
                format!("redis starts, sealed, with {held} writes")
            } else {
                "redis is dead".to_owned()
            };
            self.say(now, &who, &text);
            (seen.alive, seen.run) = (redis.alive, redis.run);
            (seen.upstream, seen.link, seen.min) = (redis.upstream, Some(redis.link), redis.min_replicas);
        }
        if seen.upstream != redis.upstream {
            match redis.upstream {
                None => self.say(now, &who, &format!("redis is primary, min-replicas-to-write {}", redis.min_replicas)),
                Some(Upstream::Nowhere) => self.say(now, &who, "redis is sealed"),
                Some(Upstream::Host(_)) => {}
            }
            if redis.upstream.is_none() {
                seen.min = redis.min_replicas;
            }
            (seen.upstream, seen.link) = (redis.upstream, None);
        }
        if seen.min != redis.min_replicas && redis.upstream.is_none() {
            self.say(now, &who, &format!("min-replicas-to-write {}", redis.min_replicas));
        }
        seen.min = redis.min_replicas;
        if seen.link != Some(redis.link)
            && let Some(Upstream::Host(primary)) = redis.upstream
        {
            let primary = &self.names[host_at(primary)];
            let text = match (seen.link, redis.link) {
                (Some(Link::Syncing(_) | Link::Loading { .. }), Link::Up) => {
                    "full resynchronisation is done".to_owned()
                }
                (_, Link::Up) => format!("redis follows {primary}: partial resynchronisation"),
                (_, Link::Loading { .. }) => String::new(),
                (_, Link::Syncing(_)) => format!("redis follows {primary}: full resynchronisation begins"),
                (Some(Link::Syncing(_)), Link::Down) => "full resynchronisation is cut short".to_owned(),
                (Some(Link::Up), Link::Down) if redis.alive => format!("redis has lost its link to {primary}"),
                _ => String::new(),
            };
            if !text.is_empty() {
                self.say(now, &who, &text);
            }
        }
        seen.link = Some(redis.link);
        self.places[at] = seen;
    }

    fn watch_vip(&mut self, world: &World, at: usize) {
        let vip = world.insts[at].vip_until > world.now;
        if vip != self.places[at].vip {
            self.places[at].vip = vip;
            self.say(world.now, &self.host(world, at), if vip { "the VIP is here" } else { "the VIP is gone" });
        }
    }
}

/// What an operator would look twice at.
fn is_news(reason: &Reason) -> bool {
    matches!(
        reason,
        Reason::Fencing(_)
            | Reason::Surrendered(_)
            | Reason::HandingOver(_)
            | Reason::PrimaryUnheard
            | Reason::AwaitingLease
            | Reason::AwaitingTurn
            | Reason::Leaving
            | Reason::ForeignData { .. }
            | Reason::Quarantining { .. }
            | Reason::InstanceSilent
            | Reason::InstanceBusy
            | Reason::Trouble(_)
    )
}

/// A host's number by its node, for those that are there.
pub fn node_host(world: &World, node: NodeId) -> Option<usize> {
    Some(host_of(node)).filter(|host| *host < world.hosts.len() && id(*host) == node)
}
