//! The report that `status --json` prints: every node and group as one node sees them.
//!
//! [`status`] is pure: the view, the last decision and what Raft says go in, plain data comes out. It invents nothing:
//! what is said of another node is what that node said of itself, and once it is silent for two leases that is said
//! instead.
//!
//! It also settles what "healthy" means, once for exit code, page and probe: a serving primary with its VIP in every
//! group, every member following with lineage, every node reachable.

use super::protocol::GroupHistory;
use super::report::{
    ChangeStatus, GroupStatus, Health, InstanceStatus, LossStatus, NodeStatus, PauseStatus, PhaseWord, PostureWord,
    Role, StatusReport,
};
use super::silence::silence;
use crate::cluster::{Change, Durability, Epoch, Group, GroupName, Guarantee, Lost, NodeId, Offset, Phase};
use crate::decide::{self, Choice, Decision};
use crate::view::{Health as Said, Seat, View, loss_text};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How many of the last changes the report carries.
pub const CHANGES_SHOWN: usize = 5;

/// What Raft says, handed in by the agent.
#[derive(Debug, Clone, Default)]
pub struct RaftFacts {
    /// The term.
    pub term: u64,
    /// The leader as this node knows it.
    pub leader: Option<NodeId>,
    /// The voters of the membership in force.
    pub voters: BTreeSet<NodeId>,
    /// The learners of the membership in force.
    pub learners: BTreeSet<NodeId>,
    /// Where each node's agent is reached, `host:port`; where none is given the replicated record is used.
    pub addresses: BTreeMap<NodeId, String>,
    /// Whether the connection to each node is up; one not listed counts as up. A silent node is not reached either way.
    pub reachable: BTreeMap<NodeId, bool>,
    /// Why a node is still a learner, where the agent knows better than the usual reason (S12).
    pub learner_reasons: BTreeMap<NodeId, String>,
    /// What this node waits for before it takes part at all, such as being taken in.
    pub waiting: Option<String>,
}

/// What only this host knows.
#[derive(Debug, Clone, Default)]
pub struct HostFacts {
    /// The VIPs of this node's file, `address/prefix`.
    pub vips: BTreeMap<GroupName, String>,
    /// What the operator should look at: config warnings, settings that differ from the replicated ones.
    pub warnings: Vec<String>,
}

/// The report.
pub fn status(view: &View, decision: &Decision, raft: &RaftFacts, host: &HostFacts) -> StatusReport {
    let quorum = quorum(view, raft);
    let nodes = nodes(view, raft);
    let mut problems: Vec<String> = quorum.as_ref().err().cloned().into_iter().collect();
    problems.extend(raft.waiting.iter().cloned());
    let silent = nodes.iter().filter(|node| !node.reachable);
    problems.extend(silent.map(|node| match node.reason.is_empty() {
        true => format!("{} is not reached at {}", node.name, node.address),
        false => format!("{} is not reached at {}: {}", node.name, node.address, node.reason),
    }));
    let groups: Vec<GroupStatus> = view
        .state
        .groups
        .iter()
        .map(|(name, group)| group_status(view, decision, host, name, group, quorum.is_ok()))
        .collect();
    if groups.is_empty() {
        problems.push("the cluster knows no group yet".to_owned());
    }
    let mut report = StatusReport {
        node: view.name_of(view.me),
        leader: quorum.as_ref().ok().map(|leader| view.name_of(*leader)),
        term: raft.term,
        groups,
        nodes,
        health: Health::Healthy,
        has_quorum: quorum.is_ok(),
        problems,
        waiting: raft.waiting.clone(),
        warnings: host.warnings.clone(),
        lease_ms: millis(view.lease()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        now_unix_ms: view.unix_ms,
    };
    report.health = report.judge();
    report
}

/// The leader, if this node has ground to believe that it has a majority behind it.
fn quorum(view: &View, raft: &RaftFacts) -> Result<NodeId, String> {
    let Some(leader) = raft.leader else {
        let voters: Vec<String> = raft.voters.iter().map(|id| view.name_of(*id)).collect();
        let need = crate::cluster::majority(raft.voters.len());
        return Err(match voters.len() {
            0 => "no Raft leader: this node belongs to no cluster yet".to_owned(),
            all => {
                format!("no Raft leader is known here: {need} of the {all} voters ({}) are needed", voters.join(", "))
            }
        });
    };
    if leader == view.me {
        let known = "this node led, but a majority of the voters has not answered it lately";
        return if view.leadership.leading { Ok(leader) } else { Err(known.to_owned()) };
    }
    match silence(view, leader) {
        None => Ok(leader),
        Some(silent) => Err(format!("the Raft leader {} is {silent}", view.name_of(leader))),
    }
}

fn nodes(view: &View, raft: &RaftFacts) -> Vec<NodeStatus> {
    let mut all: BTreeSet<NodeId> = view.state.nodes.keys().copied().collect();
    all.extend(raft.voters.iter().chain(&raft.learners));
    let status = |id: NodeId| {
        let record = view.state.nodes.get(&id).map(|node| node.address.clone());
        let silent = silence(view, id);
        let reachable = id == view.me || (silent.is_none() && raft.reachable.get(&id).copied().unwrap_or(true));
        let voter = raft.voters.contains(&id);
        let mut reason = silent.unwrap_or_default();
        if !voter {
            let learner = learner_reason(raft, id);
            reason = if reason.is_empty() { learner } else { format!("{reason}; {learner}") };
        }
        NodeStatus {
            name: view.name_of(id),
            address: raft.addresses.get(&id).cloned().or(record).unwrap_or_default(),
            role: if voter { Role::Voter } else { Role::Learner },
            reachable,
            reason,
        }
    };
    all.into_iter().map(status).collect()
}

/// S12: a node that would make the number even stays a learner.
fn learner_reason(raft: &RaftFacts, id: NodeId) -> String {
    if let Some(reason) = raft.learner_reasons.get(&id) {
        return reason.clone();
    }
    let coming = raft.voters.len() + 1;
    if !raft.learners.contains(&id) {
        return "not yet taken into Raft".to_owned();
    }
    if coming.is_multiple_of(2) {
        let ordinal = if coming == 2 { "2nd".to_owned() } else { format!("{coming}th") };
        return format!("a {ordinal} voter would make the number even: the next node makes both voters");
    }
    "receiving the log before it may vote".to_owned()
}

fn group_status(
    view: &View,
    decision: &Decision,
    host: &HostFacts,
    name: &GroupName,
    group: &Group,
    quorum: bool,
) -> GroupStatus {
    let nothing = Seat::default();
    let seat = view.seats.get(name).unwrap_or(&nothing);
    let instances = instances(view, decision, name, group, seat);
    let sealing = matches!(group.phase, Phase::Sealing { .. });
    let last_primary = group.primary_node().map(|node| view.name_of(node));
    let holders: Vec<&str> = instances.iter().filter(|found| found.vip).map(|found| found.node.as_str()).collect();
    // A fenced host keeps the VIP until its successor serves: for a moment two may say that they hold it.
    let holder = holders.iter().find(|holder| last_primary.as_deref() == Some(**holder)).or(holders.first());
    let mut status = GroupStatus {
        name: name.clone(),
        epoch: group.epoch,
        phase: phase_word(&group.phase),
        primary: last_primary.clone().filter(|_| !sealing),
        vip: host.vips.get(name).cloned(),
        vip_holder: holder.map(|holder| (*holder).to_owned()),
        paused: group.pause.is_some(),
        pause: pause_status(view, group, seat),
        reason: String::new(),
        waits: None,
        notes: notes(view, decision, name, group, seat),
        problems: Vec::new(),
        last_primary,
        durability: durability_word(group.durability).to_owned(),
        quorum: group.quorum,
        reports_needed: group.reports_needed(),
        followers: group.followers.keys().map(|node| view.name_of(*node)).collect(),
        changes: group.history.iter().rev().take(CHANGES_SHOWN).map(|change| change_status(view, change)).collect(),
        instances: Vec::new(),
    };
    status.reason = group_reason(view, group, &instances);
    status.waits = waits(view, decision, name, group, seat, quorum);
    status.problems = group_problems(&status, &instances, &holders);
    status.problems.extend(departures(view, group));
    status.problems.extend(vip_troubles(view, decision, name, seat));
    status.instances = instances;
    status
}

/// What the primary's agent says besides, while it is heard.
fn notes(view: &View, decision: &Decision, name: &GroupName, group: &Group, seat: &Seat) -> Vec<String> {
    let Some(primary) = group.primary_node().filter(|node| silence(view, *node).is_none()) else { return Vec::new() };
    let own = decide::health(view, decision, name);
    let said = if primary == view.me { own.as_ref() } else { seat.health.get(&primary) };
    let note = said.map(|said| said.note.clone()).unwrap_or_default();
    if note.is_empty() { Vec::new() } else { vec![format!("{}: {note}", view.name_of(primary))] }
}

fn instances(view: &View, decision: &Decision, name: &GroupName, group: &Group, seat: &Seat) -> Vec<InstanceStatus> {
    let guardians = view.state.guardians.all();
    let witnesses = guardians.iter().filter(|id| !group.members.contains_key(id));
    let own = decide::health(view, decision, name);
    let said = |id: NodeId| if id == view.me { own.as_ref() } else { seat.health.get(&id) };
    let fresh = |id: NodeId| said(id).filter(|_| silence(view, id).is_none());
    let primary = group.primary_node().and_then(fresh).and_then(|said| said.offset);
    let ids = group.members.keys().chain(witnesses);
    ids.map(|id| {
        let priority = group.members.get(id).map(|member| member.priority);
        instance_status(view, *id, said(*id), (group.epoch, priority, primary))
    })
    .collect()
}

fn instance_status(
    view: &View,
    id: NodeId,
    said: Option<&Said>,
    (epoch, priority, primary): (Epoch, Option<u32>, Option<Offset>),
) -> InstanceStatus {
    let witness = priority.is_none();
    let mut status = InstanceStatus {
        node: view.name_of(id),
        posture: if witness { PostureWord::Witness } else { PostureWord::Down },
        offset: None,
        lag_bytes: None,
        lineage: None,
        priority,
        reason: "has said nothing of this group yet".to_owned(),
        vip: false,
    };
    if let Some(silent) = silence(view, id) {
        status.posture = PostureWord::Down;
        let before = said.filter(|_| !witness).map(|said| format!("; was {}", said.posture)).unwrap_or_default();
        status.reason = format!("{silent}{before}");
        return status;
    }
    let Some(said) = said else { return status };
    status.posture = PostureWord::read(&said.posture);
    status.reason = said.reason.clone();
    status.vip = said.vip;
    if said.epoch < epoch && status.posture == PostureWord::Serving {
        status.posture = PostureWord::Sealed;
        status.vip = false;
        status.reason = format!("served epoch {} when it was last heard", said.epoch);
    }
    if !witness {
        status.offset = said.offset;
        status.lineage = said.lineage;
        let attached = matches!(status.posture, PostureWord::Serving | PostureWord::Following);
        let lag = primary.zip(said.offset).filter(|_| attached);
        status.lag_bytes = lag.map(|(primary, own)| primary.0.saturating_sub(own.0));
    }
    status
}

fn group_reason(view: &View, group: &Group, instances: &[InstanceStatus]) -> String {
    let primary = group.primary_node().map(|node| view.name_of(node)).unwrap_or_default();
    match &group.phase {
        Phase::Sealing { next, why, .. } => format!("no primary: sealed for epoch {next}, {}", decide::why_text(*why)),
        Phase::Switching { to, .. } => format!("{primary} is handing over to {}", view.name_of(*to)),
        Phase::Stable => {
            let row = instances.iter().find(|found| found.node == primary);
            match row {
                Some(row) if row.posture == PostureWord::Serving => format!("{primary} serves"),
                Some(row) => format!("{primary} is the primary but does not serve: {}", row.reason),
                None => format!("{primary} is the primary and no member of the group"),
            }
        }
    }
}

/// What the group waits for: the leader's word; while sealed, any node can tell from the reports it heard itself.
fn waits(
    view: &View,
    decision: &Decision,
    name: &GroupName,
    group: &Group,
    seat: &Seat,
    quorum: bool,
) -> Option<String> {
    if let Some(reason) = decision.waits.get(name) {
        return Some(reason.to_string());
    }
    if let Some(pause) = group.pause.as_ref().filter(|_| group.forced.is_none() && !view.serving_heard(seat, group)) {
        return Some(decide::Reason::Paused(pause.reason.clone()).to_string());
    }
    if !matches!(group.phase, Phase::Sealing { .. }) {
        return None;
    }
    if !quorum {
        return Some("waiting for a Raft leader: nothing is promoted without a majority".to_owned());
    }
    match decide::choose(view, name, group, seat) {
        Choice::Wait(reason) => Some(reason.to_string()),
        Choice::Promote(chosen) => {
            Some(format!("waiting for the promotion of {} to be committed", view.name_of(chosen.node)))
        }
    }
}

fn group_problems(status: &GroupStatus, instances: &[InstanceStatus], holders: &[&str]) -> Vec<String> {
    let mut problems = Vec::new();
    let serving: Vec<&InstanceStatus> =
        instances.iter().filter(|found| found.posture == PostureWord::Serving).collect();
    let serves = serving.iter().any(|found| Some(&found.node) == status.primary.as_ref());
    if !serves || status.phase == PhaseWord::Switching {
        problems.push(status.reason.clone());
    }
    if serving.len() > 1 {
        let names: Vec<&str> = serving.iter().map(|found| found.node.as_str()).collect();
        problems.push(format!("{} each say that they serve", names.join(" and ")));
    }
    if holders.len() > 1 {
        problems.push(format!("{} each say that they hold the VIP", holders.join(" and ")));
    }
    if let (Some(vip), Some(primary), true) = (&status.vip, &status.primary, serves)
        && !holders.contains(&primary.as_str())
    {
        problems.push(format!("the VIP {vip} is not on the primary {primary}"));
    }
    for found in instances.iter().filter(|found| Some(&found.node) != status.primary.as_ref()) {
        match found.posture {
            PostureWord::Following if found.lineage.is_none() => {
                problems.push(format!("{} follows, but its data is not proved yet", found.node));
            }
            PostureWord::Following | PostureWord::Witness | PostureWord::Serving => {}
            PostureWord::Sealed | PostureWord::Down => {
                problems.push(format!("{} is {}: {}", found.node, found.posture.as_str(), found.reason));
            }
        }
    }
    problems
}

/// What the agents say of the VIP on their own hosts.
fn vip_troubles(view: &View, decision: &Decision, name: &GroupName, seat: &Seat) -> Vec<String> {
    let own = decide::health(view, decision, name);
    let others = seat.health.iter().filter(|(node, _)| **node != view.me && silence(view, **node).is_none());
    let all = others.map(|(node, said)| (*node, said)).chain(own.iter().map(|said| (view.me, said)));
    let wrong = all.filter(|(_, said)| !said.vip_trouble.is_empty());
    wrong.map(|(node, said)| format!("the VIP on {}: {}", view.name_of(node), said.vip_trouble)).collect()
}

/// S5: who left without proof still counts, so that another loss could not be proved safe.
fn departures(view: &View, group: &Group) -> Option<String> {
    let left = group.departed.keys().filter(|node| !group.followers.contains_key(node));
    let names: Vec<String> = left.map(|node| view.name_of(*node)).collect();
    (!names.is_empty()).then(|| {
        format!(
            "what {} may have acknowledged is not yet known to be on every follower: another loss could not be proved safe",
            names.join(" and ")
        )
    })
}

fn pause_status(view: &View, group: &Group, seat: &Seat) -> Option<PauseStatus> {
    let pause = group.pause.as_ref()?;
    let left = pause.length.zip(seat.pause_seen).map(|(length, seen)| length.saturating_sub(view.now.since(seen)));
    Some(PauseStatus { reason: pause.reason.clone(), length_ms: pause.length.map(millis), left_ms: left.map(millis) })
}

/// All replicated changes of a group, or of every group, oldest first.
pub fn history(view: &View, group: Option<&GroupName>) -> Vec<GroupHistory> {
    let wanted = view.state.groups.iter().filter(|(name, _)| group.is_none_or(|wanted| wanted == *name));
    wanted
        .map(|(name, found)| GroupHistory {
            group: name.clone(),
            changes: found.history.iter().map(|change| change_status(view, change)).collect(),
        })
        .collect()
}

fn change_status(view: &View, change: &Change) -> ChangeStatus {
    let guarantee = match change.guarantee {
        Guarantee::Fresh => "first promotion",
        Guarantee::Kept => "every acknowledged write kept",
        Guarantee::BestReached => "best data that could be reached; acknowledged writes may be lost",
        Guarantee::ColdStart(ground) => &format!("cold start: {}", decide::ground_text(ground)),
        Guarantee::Forced => "by an operator's word, without proof",
    };
    ChangeStatus {
        epoch: change.epoch,
        from: change.from.map(|node| view.name_of(node)),
        to: view.name_of(change.to),
        why: decide::why_text(change.why).to_owned(),
        guarantee: guarantee.to_owned(),
        at_unix_ms: change.at_unix_ms,
        cause: change.cause.clone(),
        diverged: change.diverged.iter().map(|(node, lost)| loss_status(view.name_of(*node), lost)).collect(),
    }
}

fn loss_status(node: String, lost: &Lost) -> LossStatus {
    let text = loss_text(&node, lost);
    LossStatus { node, bytes: lost.bytes, file: lost.file.clone(), text }
}

fn phase_word(phase: &Phase) -> PhaseWord {
    match phase {
        Phase::Stable => PhaseWord::Stable,
        Phase::Sealing { .. } => PhaseWord::Sealing,
        Phase::Switching { .. } => PhaseWord::Switching,
    }
}

fn durability_word(durability: Durability) -> &'static str {
    match durability {
        Durability::Available => "available",
        Durability::Quorum => "quorum",
    }
}

fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}
