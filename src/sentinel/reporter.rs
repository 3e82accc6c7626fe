//! Makes pictures of the view, and remembers what a picture needs beyond it: since when something is so.

use super::picture::{Address, Agent, Group, Instance, Picture, Role, Stage};
use crate::cluster::{self, GroupName, NodeId, Phase, RunId, Why};
use crate::view::{Condition, Moment, Posture, Seat, View};
use std::collections::BTreeMap;
use std::time::Duration;

/// Everybody speaks five times in a lease; who was not heard for so many leases is down.
const SILENT_LEASES: u32 = 2;

/// Since when what is known of a node or an instance is so.
#[derive(Debug, Clone, Default)]
struct Since {
    down: Option<Moment>,
    apart: Option<Moment>,
    /// The epoch in which it was last in step.
    step: cluster::Epoch,
    role: (Role, Moment),
    run_id: RunId,
}

/// Since when what is known of a group is so.
#[derive(Debug, Clone, Default)]
struct Held {
    down: Option<Moment>,
    sealing: Option<Moment>,
    members: BTreeMap<NodeId, Since>,
}

/// Makes pictures.
#[derive(Debug, Clone)]
pub struct Reporter {
    cluster: String,
    groups: BTreeMap<GroupName, Held>,
    agents: BTreeMap<NodeId, Option<Moment>>,
}

impl Reporter {
    /// Of the cluster of that name.
    #[must_use]
    pub fn new(cluster: &str) -> Self {
        Self { cluster: cluster.to_owned(), groups: BTreeMap::new(), agents: BTreeMap::new() }
    }

    /// What the view holds now.
    pub fn picture(&mut self, view: &View) -> Picture {
        let guardians = view.state.guardians.all();
        let limit = silence(view);
        let mut agents: Vec<Agent> = Vec::new();
        self.agents.retain(|node, _| view.state.nodes.contains_key(node));
        for (node, record) in &view.state.nodes {
            let (heard, silent) = heard(view, *node, limit);
            let down = self.agents.entry(*node).or_default();
            *down = silent.then(|| down.unwrap_or(view.now));
            let said = if *node == view.me { view.sentinel.as_ref() } else { sentinel_of(view, *node) };
            agents.push(Agent {
                node: *node,
                name: record.name.clone(),
                id: agent_id(record.incarnation, &self.cluster),
                address: said.and_then(|address| Address::read(address)),
                heard,
                down: *down,
            });
        }
        let up = |node: &NodeId| agents.iter().any(|agent| agent.node == *node && agent.down.is_none());
        let heard = guardians.iter().filter(|node| up(node)).count();
        let me = agents.iter().position(|agent| agent.node == view.me).map(|at| agents.remove(at));
        self.groups.retain(|name, _| view.state.groups.contains_key(name));
        let groups: Vec<Group> =
            view.state.groups.iter().filter_map(|(name, group)| self.group(view, name, group, limit)).collect();
        Picture {
            at: view.now,
            lease: view.lease(),
            epoch: groups.iter().map(|group| group.epoch).max().unwrap_or_default(),
            me: me.unwrap_or_default(),
            others: agents,
            quorum: cluster::majority(guardians.len()),
            guardians: guardians.len(),
            heard,
            groups,
        }
    }

    fn group(&mut self, view: &View, name: &GroupName, group: &cluster::Group, limit: Duration) -> Option<Group> {
        let primary = group.primary_node()?;
        let now = view.now;
        let held = self.groups.entry(name.clone()).or_default();
        held.members.retain(|node, _| group.members.contains_key(node));
        let holder = view.holder(name).map(|(_, until)| until);
        held.down = if holder.is_some() { None } else { held.down.or(Some(now)) };
        let stage = stage(&group.phase);
        let sealing = matches!(stage, Stage::Sealing { .. });
        held.sealing = sealing.then(|| held.sealing.unwrap_or(now));
        let nothing = Seat::default();
        let look =
            Look { view, name, group, seat: view.seats.get(name).unwrap_or(&nothing), served: holder.is_some(), limit };
        let online = look.online();
        let mut replicas = Vec::new();
        let mut first = None;
        for node in group.members.keys() {
            let since = held.members.entry(*node).or_default();
            let instance = look.instance(*node, primary, &online, since);
            if *node == primary { first = Some(instance) } else { replicas.push(instance) }
        }
        Some(Group {
            name: name.0.clone(),
            epoch: group.epoch,
            stage,
            until: holder,
            primary: first?,
            replicas,
            down: held.down,
            sealing: held.sealing,
        })
    }
}

/// One group, looked at.
struct Look<'a> {
    view: &'a View,
    name: &'a GroupName,
    group: &'a cluster::Group,
    seat: &'a Seat,
    served: bool,
    limit: Duration,
}

/// What is said of one member.
#[derive(Default)]
struct Said {
    alive: bool,
    role: Role,
    follows: bool,
    offset: Option<u64>,
    run_id: Option<RunId>,
    heard: Option<Moment>,
}

impl Look<'_> {
    /// Replicas that the serving primary lists as in step.
    fn online(&self) -> Vec<NodeId> {
        let served = self.view.served(self.name).map(|(_, serving)| serving.followers).unwrap_or_default();
        served.into_iter().filter(|(_, (online, _))| *online).map(|(node, _)| node).collect()
    }

    fn instance(&self, node: NodeId, primary: NodeId, online: &[NodeId], since: &mut Since) -> Instance {
        let now = self.view.now;
        let member = self.group.members.get(&node);
        let said = if node == self.view.me { self.own() } else { self.other(node) };
        if said.alive && said.role != Role::Unknown && said.role != since.role.0 {
            since.role = (said.role, now);
        }
        since.down = if said.alive { None } else { since.down.or(Some(now)) };
        let in_step = said.alive && said.follows && online.contains(&node);
        if in_step {
            since.step = self.group.epoch;
        }
        since.apart = match self.served && !in_step && node != primary {
            true => since.apart.or(Some(now)),
            false => None,
        };
        let promoted = self.group.primary.as_ref().filter(|primary| primary.node == node);
        let recorded = promoted.map(|primary| &primary.run_id);
        let recorded = recorded.or_else(|| self.group.followers.get(&node).map(|follower| &follower.run_id));
        if let Some(run_id) = said.run_id.as_ref().or(recorded) {
            since.run_id = run_id.clone();
        }
        Instance {
            node,
            address: member.and_then(|member| Address::read(&member.announce)).unwrap_or_default(),
            run_id: since.run_id.0.clone(),
            priority: member.map_or(0, |member| member.priority),
            offset: said.offset.unwrap_or_default(),
            role: since.role,
            heard: said.heard,
            down: since.down,
            apart: since.apart,
            joined: since.step == self.group.epoch,
            follows: said.follows,
        }
    }

    /// Of this host's instance.
    fn own(&self) -> Said {
        let instance = &self.seat.instance;
        let alive = match instance.condition {
            Condition::Up | Condition::Loading | Condition::Busy { .. } => instance.seen().is_some(),
            _ => false,
        };
        let role = match instance.posture {
            Posture::Serving(_) => Role::Primary,
            Posture::Sealed | Posture::Following(_) => Role::Replica,
            Posture::Unknown => Role::Unknown,
        };
        Said {
            alive,
            role,
            follows: matches!(instance.posture, Posture::Following(epoch) if epoch == self.group.epoch),
            offset: instance.seen().map(|info| info.offset.0),
            run_id: instance.run_id().cloned(),
            heard: instance.info.as_ref().map(|(at, _)| *at),
        }
    }

    /// Of another host's, by its agent's word.
    fn other(&self, node: NodeId) -> Said {
        let (heard, silent) = heard(self.view, node, self.limit);
        let Some(health) = self.seat.health.get(&node) else { return Said { heard, ..Said::default() } };
        let role = match health.posture.as_str() {
            "serving" => Role::Primary,
            "following" | "sealed" => Role::Replica,
            _ => Role::Unknown,
        };
        // What its agent says still is of the epoch before, until it has applied the new one.
        let follows = health.posture == "following" && health.epoch == self.group.epoch;
        let offset = health.offset.map(|offset| offset.0);
        Said { alive: !silent && role != Role::Unknown, role, follows, offset, run_id: None, heard }
    }
}

fn silence(view: &View) -> Duration {
    if view.lease().is_zero() { Duration::from_secs(2) } else { view.lease() * SILENT_LEASES }
}

/// When a node was heard, and whether it is silent.
fn heard(view: &View, node: NodeId, limit: Duration) -> (Option<Moment>, bool) {
    if node == view.me {
        return (Some(view.now), false);
    }
    let heard = view.peers.get(&node).and_then(|peer| peer.heard);
    (heard, heard.is_none_or(|heard| view.now.since(heard) > limit))
}

fn sentinel_of(view: &View, node: NodeId) -> Option<&String> {
    view.peers.get(&node).and_then(|peer| peer.sentinel.as_ref())
}

/// As long as a Sentinel's id: the store's own number, and the cluster's name in short.
fn agent_id(incarnation: cluster::Incarnation, cluster: &str) -> String {
    format!("{incarnation}{:08x}", crc32fast::hash(cluster.as_bytes()))
}

fn stage(phase: &Phase) -> Stage {
    match phase {
        Phase::Stable => Stage::Stable,
        Phase::Switching { to, .. } => Stage::Switching(*to),
        Phase::Sealing { why, .. } => Stage::Sealing { planned: matches!(why, Why::Operator | Why::Shutdown) },
    }
}
