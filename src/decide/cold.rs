//! Who is promoted where no lineage proves anything: the group's first start (S13), and a start after all instances went
//! down (S14).
//!
//! A first start adopts what runs and never guesses between data that are not kin. A cold start compares what the disks
//! and the agents' records prove, in the order of [`Ground`], and never takes an empty instance while another holds data.

use super::choose::{Choice, chosen, is_mute};
use super::{COLD_START_WAIT, Reason};
use crate::cluster::{Change, Durability, Epoch, Ground, Group, Guarantee, NodeId, Offset};
use crate::view::{Report, Seat, View};
use std::cmp::Reverse;
use std::collections::BTreeMap;

type Reports<'a> = BTreeMap<NodeId, &'a Report>;
type Entry<'a> = (NodeId, &'a Report);

fn priority(group: &Group, node: NodeId) -> u32 {
    group.members.get(&node).map_or(0, |member| member.priority)
}

fn missing_reports(view: &View, group: &Group, reports: &Reports<'_>) -> Option<Choice> {
    let late = group.members.keys().filter(|node| !reports.contains_key(node));
    let late: Vec<String> = late.map(|node| view.name_of(*node)).collect();
    (!late.is_empty()).then_some(Choice::Wait(Reason::AwaitingReports(late)))
}

/// S13, first start: everybody's word is needed. The instance that runs as a primary stays it, if all other data is kin
/// to its own and none of it lies beyond.
pub(super) fn choose_first(view: &View, group: &Group, reports: &Reports<'_>) -> Choice {
    if let Some(reason) = awaited_introductions(view, group) {
        return Choice::Wait(reason);
    }
    if let Some(wait) = missing_reports(view, group, reports) {
        return wait;
    }
    let holding: Vec<Entry<'_>> = reports.iter().filter(|(_, r)| r.keys > 0).map(|(node, r)| (*node, *r)).collect();
    if let Some(node) = group.bootstrap {
        return bootstrapped(view, group, reports, &holding, node);
    }
    let names = |all: &[Entry<'_>]| all.iter().map(|(node, _)| view.name_of(*node)).collect();
    let primaries: Vec<Entry<'_>> = holding.iter().filter(|(_, report)| report.evidence.primary).copied().collect();
    if primaries.len() > 1 {
        return Choice::Wait(Reason::TwoDataSets(names(&primaries)));
    }
    let best = holding.iter().max_by_key(|(node, r)| (r.offset, priority(group, *node), Reverse(*node)));
    let Some(source) = primaries.first().or(best) else { return first_of_empty(group, reports) };
    let mut apart: Vec<Entry<'_>> = holding.iter().filter(|(_, other)| !is_kin(other, source.1)).copied().collect();
    if !apart.is_empty() {
        apart.insert(0, *source);
        return Choice::Wait(Reason::TwoDataSets(names(&apart)));
    }
    if priority(group, source.0) > 0 {
        return Choice::Promote(chosen(source.0, source.1, Guarantee::Fresh));
    }
    let equal = holding.iter().filter(|(node, r)| priority(group, *node) > 0 && same_data(r, source.1));
    match equal.max_by_key(|(node, _)| (priority(group, *node), Reverse(*node))) {
        Some((node, report)) => Choice::Promote(chosen(*node, report, Guarantee::Fresh)),
        None => Choice::Wait(Reason::NobodyPromotable),
    }
}

/// The operator's word: what the others hold is given up. Not for an empty instance: that would give up everything.
fn bootstrapped(view: &View, group: &Group, reports: &Reports<'_>, holding: &[Entry<'_>], node: NodeId) -> Choice {
    let Some(report) = reports.get(&node) else { return Choice::Wait(Reason::NobodyPromotable) };
    let others: Vec<String> =
        holding.iter().filter(|(other, _)| *other != node).map(|(other, _)| view.name_of(*other)).collect();
    if report.keys == 0 && !others.is_empty() {
        return Choice::Wait(Reason::EmptyChoice { chosen: view.name_of(node), holding: others });
    }
    if priority(group, node) == 0 {
        return Choice::Wait(Reason::NobodyPromotable);
    }
    Choice::Promote(chosen(node, report, Guarantee::Fresh))
}

/// All are empty: who runs as a primary, if any, then priority, then the lower number.
fn first_of_empty(group: &Group, reports: &Reports<'_>) -> Choice {
    let fit = reports.iter().filter(|(node, _)| priority(group, **node) > 0);
    let best = fit.max_by_key(|(node, report)| (report.evidence.primary, priority(group, **node), Reverse(**node)));
    match best {
        Some((node, report)) => Choice::Promote(chosen(*node, report, Guarantee::Fresh)),
        None => Choice::Wait(Reason::NobodyPromotable),
    }
}

/// Whether `source` holds all that `other` does, by replication history.
fn is_kin(other: &Report, source: &Report) -> bool {
    let second = source.evidence.second.as_ref();
    let before = second.is_some_and(|(replid, end)| other.replid == *replid && other.offset <= *end);
    (other.replid == source.replid && other.offset <= source.offset) || before
}

fn same_data(one: &Report, other: &Report) -> bool {
    one.replid == other.replid && one.offset == other.offset
}

/// S14, cold start. All members must have reported; under `available`, after a wait, all that can be reached, and then
/// neither an empty one is taken, nor one that a full resynchronisation has half replaced.
pub(super) fn choose_cold(view: &View, group: &Group, seat: &Seat, reports: &Reports<'_>) -> Choice {
    // What is not repeated is of a process that is no more: its host may come back with more than that held, or with less.
    let said = |node: &NodeId| seat.reported_at.get(node).is_some_and(|at| view.now.since(*at) < view.lease());
    let reports: Reports<'_> =
        reports.iter().filter(|(node, _)| **node == view.me || said(node)).map(|(node, r)| (*node, *r)).collect();
    let wait = missing_reports(view, group, &reports);
    if let Some(wait) = &wait
        && !may_go_on(view, group, seat, &reports)
    {
        return wait.clone();
    }
    // Data that never was the group's is no candidate.
    let ours = |node: &NodeId| group.members.get(node).is_some_and(|member| member.adopted);
    let holds = |report: &Report| report.keys > 0;
    let all = || reports.iter().filter(|(node, _)| ours(node)).map(|(node, report)| (*node, *report));
    let mut holding: Vec<Entry<'_>> = all().filter(|(_, report)| holds(report) && !report.voided).collect();
    match wait {
        Some(wait) if holding.is_empty() => return wait,
        None if holding.is_empty() => holding = all().filter(|(_, report)| holds(report)).collect(),
        _ => {}
    }
    if holding.is_empty() {
        let fit = all().filter(|(node, _)| priority(group, *node) > 0);
        let last = group.primary_node();
        let best = fit.max_by_key(|(node, _)| (Some(*node) == last, priority(group, *node), Reverse(*node)));
        return promote(best, Ground::AllEmpty);
    }
    let only = holding.len() == 1;
    holding.retain(|(node, _)| priority(group, *node) > 0);
    if holding.is_empty() {
        return Choice::Wait(Reason::NobodyPromotable);
    }
    if only {
        return promote(holding.first().copied(), Ground::OnlyData);
    }
    compare(view, group, last_primary(group, &reports), &holding)
}

/// `available`, the wait is over, and whoever is missing cannot be reached or has nothing to report.
fn may_go_on(view: &View, group: &Group, seat: &Seat, reports: &Reports<'_>) -> bool {
    let waited = view.now.since(seat.sealing_at) >= COLD_START_WAIT && view.now.since(view.started) >= COLD_START_WAIT;
    // A member whose agent lives and whose instance is gone, or nobody can ask, has nothing to report and is not waited for.
    let alive = |node: &NodeId| view.peers.get(node).is_some_and(|peer| peer.link) && !is_mute(seat, *node);
    let mut reachable = group.members.keys().filter(|node| !reports.contains_key(node) && alive(node));
    group.durability == Durability::Available && waited && reachable.next().is_none()
}

/// The order of [`Ground`].
fn compare(view: &View, group: &Group, last: Option<NodeId>, holding: &[Entry<'_>]) -> Choice {
    let kin = holding.iter().all(|(_, report)| report.replid == holding[0].1.replid);
    let named = holding.iter().all(|(_, report)| report.evidence.history.is_some());
    let rank = |node: NodeId| (priority(group, node), Reverse(node));
    if kin || named {
        let history = |report: &Report| if kin { None } else { report.evidence.history };
        let best = holding.iter().max_by_key(|(node, report)| (history(report), report.offset, rank(*node)));
        return promote(best.copied(), Ground::Offset);
    }
    if let Some(last) = holding.iter().find(|(node, _)| Some(*node) == last) {
        return promote(Some(*last), Ground::LastPrimary);
    }
    let record = |report: &Report| (report.evidence.role, stopped(report));
    let latest = holding.iter().map(|(_, report)| record(report)).max();
    let tied: Vec<Entry<'_>> = holding.iter().filter(|(_, report)| Some(record(report)) == latest).copied().collect();
    if tied.len() == 1 {
        return promote(tied.first().copied(), Ground::RoleRecord);
    }
    if latest.is_none_or(|(role, _)| role.is_none()) {
        let names = tied.iter().map(|(node, _)| view.name_of(*node)).collect();
        return Choice::Wait(Reason::NothingProves(names));
    }
    let newest = |report: &Report| report.evidence.newest_unix_ms;
    let best = tied.iter().max_by_key(|(_, report)| newest(report));
    let alone = best.is_some_and(|best| tied.iter().filter(|(_, r)| newest(r) == newest(best.1)).count() == 1);
    if alone && tied.iter().all(|(_, report)| newest(report).is_some()) {
        return promote(best.copied(), Ground::NewestWrite);
    }
    let most = tied.iter().max_by_key(|(node, report)| (report.keys, rank(*node)));
    promote(most.copied(), Ground::Equal)
}

/// The last primary that served, as far as the agents' records tell. Who was promoted and died before it served may hold less
/// than the one before it, unless its promotion proved that it does not, or was an operator's word.
fn last_primary(group: &Group, reports: &Reports<'_>) -> Option<NodeId> {
    let promoted = group.primary_node()?;
    let role = |report: &&Report| report.evidence.role;
    let latest = reports.values().filter_map(role).max();
    let unproved = |change: &Change| matches!(change.guarantee, Guarantee::BestReached | Guarantee::ColdStart(_));
    let doubted = group.history.iter().any(|change| change.epoch == group.epoch && unproved(change));
    if !doubted || latest >= Some(group.epoch) || reports.get(&promoted).and_then(role).is_none() {
        return Some(promoted);
    }
    latest.and_then(|epoch| group.starts.get(&epoch)).map(|start| start.successor)
}

/// Of two with the same last role, one that was not stopped in order went on for longer; of two that were, the offset
/// tells.
fn stopped(report: &Report) -> (bool, Offset) {
    report.evidence.rest.map_or((true, Offset(0)), |offset| (false, offset))
}

fn promote(best: Option<Entry<'_>>, ground: Ground) -> Choice {
    match best {
        Some((node, report)) => Choice::Promote(chosen(node, report, Guarantee::ColdStart(ground))),
        None => Choice::Wait(Reason::NobodyPromotable),
    }
}

/// In words, for log and status.
pub fn ground_text(ground: Ground) -> &'static str {
    match ground {
        Ground::OnlyData => "it alone holds data",
        Ground::Offset => "its replication offset, as its RDB kept it, is the greatest",
        Ground::LastPrimary => "it was the last primary",
        Ground::RoleRecord => "its agent's record of its last role or stop is the latest",
        Ground::NewestWrite => "its newest write on disk is the latest",
        Ground::Equal => "nothing tells the members' data apart, and it has the most keys",
        Ground::AllEmpty => "all members are there and none holds data",
    }
}

/// A first start waits for everybody's introduction, and detaches nobody before.
pub(super) fn awaited_introductions(view: &View, group: &Group) -> Option<Reason> {
    let strangers = view.state.nodes.iter().filter(|(_, node)| !node.introduced);
    let strangers: Vec<String> = strangers.map(|(_, node)| node.name.clone()).collect();
    (group.epoch == Epoch(0) && !strangers.is_empty()).then_some(Reason::AwaitingIntroductions(strangers))
}
