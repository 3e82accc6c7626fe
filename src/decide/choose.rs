//! Who is promoted: best data wins (S4), and what proves that nothing acknowledged is lost (S5).

use super::cold::{choose_cold, choose_first};
use super::talk::{DOWN, UNUSABLE};
use super::{FORCE_WAIT, Reason};
use crate::cluster::{Durability, Epoch, Group, GroupName, Guarantee, NodeId, Offset, Phase, RunId, Why};
use crate::view::{Report, Seat, View, counts_writes};
use std::collections::BTreeMap;

/// The outcome of the choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// Promote this one.
    Promote(Chosen),
    /// Not yet, or not without an operator.
    Wait(Reason),
}

/// A successor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// Its node.
    pub node: NodeId,
    /// Its process.
    pub run_id: RunId,
    /// Its final offset.
    pub offset: Offset,
    /// The epoch of its data, as far as that is proved.
    pub data: Option<Epoch>,
    /// What holds for acknowledged writes.
    pub guarantee: Guarantee,
}

/// Chooses among the sealed reports this leader has.
pub fn choose(view: &View, name: &GroupName, group: &Group, seat: &Seat) -> Choice {
    let Phase::Sealing { next, .. } = group.phase else { return Choice::Wait(Reason::Serving) };
    let sealed = |id: NodeId| view.seal_of(name, seat, id) >= next;
    if !view.state.guardians.majority_of(sealed) {
        let late = view.state.guardians.all().into_iter().filter(|id| !sealed(*id));
        return Choice::Wait(Reason::AwaitingSeals(late.map(|id| view.name_of(id)).collect()));
    }
    let mut reports = reports(view, name, seat, next);
    // Its agent was stopped, and its process is gone since: a restart brings back neither it nor that report.
    reports.retain(|node, report| !report.stopping || !says(seat, *node, &[DOWN]));
    let choice =
        choose_forced(view, group, seat, &reports).unwrap_or_else(|| choose_among(view, group, seat, &reports));
    match &choice {
        Choice::Promote(chosen) if reports.get(&chosen.node).is_some_and(|report| report.stopping) => {
            Choice::Wait(Reason::AwaitingRestart(view.name_of(chosen.node)))
        }
        _ => choice,
    }
}

/// By an operator's word: that one, once it has reported, whatever it lacks. One that does not report, is being stopped and does
/// not come back, or was barred from promotion since, must not keep the group from choosing by itself for ever.
fn choose_forced(view: &View, group: &Group, seat: &Seat, reports: &BTreeMap<NodeId, &Report>) -> Option<Choice> {
    let node = group.forced.filter(|node| group.members.get(node).is_some_and(|member| member.priority > 0))?;
    let waiting = view.now.since(seat.forced_at) < FORCE_WAIT;
    match reports.get(&node) {
        Some(report) if waiting || !report.stopping => Some(Choice::Promote(chosen(node, report, Guarantee::Forced))),
        _ => waiting.then(|| Choice::Wait(Reason::AwaitingReports(vec![view.name_of(node)]))),
    }
}

fn choose_among(view: &View, group: &Group, seat: &Seat, reports: &BTreeMap<NodeId, &Report>) -> Choice {
    if group.epoch == Epoch(0) {
        return choose_first(view, group, reports);
    }
    let with_lineage: Vec<(NodeId, &Report)> = reports
        .iter()
        .filter(|(node, report)| group.is_candidate(**node) && report.lineage.is_some())
        .map(|(node, report)| (*node, *report))
        .collect();
    if with_lineage.is_empty() {
        return choose_cold(view, group, seat, reports);
    }
    choose_proved(view, group, seat, &with_lineage)
}

fn choose_proved(view: &View, group: &Group, seat: &Seat, all: &[(NodeId, &Report)]) -> Choice {
    let Phase::Sealing { why, to, .. } = group.phase else { return Choice::Wait(Reason::Serving) };
    let need = group.reports_needed();
    let waited = view.now.since(seat.sealing_at) >= view.lease();
    let data = |report: &Report| content(group, report);
    let incumbent = incumbent(group, all).map(data);
    if all.len() < need && incumbent.is_none() && (group.durability == Durability::Quorum || !waited) {
        return Choice::Wait(Reason::AwaitingProof { have: all.len(), need });
    }
    // A planned change waits for the node it was planned for, as long as for the proof.
    if let Some(target) = to.filter(|target| !waited && all.iter().all(|(node, _)| node != target)) {
        return Choice::Wait(Reason::AwaitingReports(vec![view.name_of(target)]));
    }
    // S4: one that failed to serve its last promotion is passed over for one that holds as much, or if the proof holds
    // without it; so is one whose agent is being stopped, but not for data of an earlier epoch: it soon comes back.
    let failed = group.primary_node().filter(|_| matches!(why, Why::NeverServed | Why::InstanceFailed));
    let able = |(node, report): &(NodeId, &Report)| Some(*node) != failed && !report.stopping;
    let others: Vec<(NodeId, &Report)> = all.iter().copied().filter(able).collect();
    let stopping = all.iter().any(|(_, report)| report.stopping);
    let hurry = stopping && waited && group.durability == Durability::Available;
    let priority = |node: NodeId| group.members.get(&node).map_or(0, |member| member.priority);
    let promotable = |(node, _): &&(NodeId, &Report)| priority(*node) > 0;
    let latest = |of: &[(NodeId, &Report)]| of.iter().filter(promotable).map(|(_, report)| report.lineage).max();
    let good = !stopping || latest(&others) == latest(all);
    let most = |of: &[(NodeId, &Report)]| of.iter().filter(promotable).map(|(_, report)| data(report)).max();
    let without = others.len() >= need || hurry;
    let passed_over = most(&others).is_some() && (most(&others) == most(all) || (good && without));
    let pool = if passed_over { &others } else { all };
    // Of two that hold as much, one that gave the place up again and again comes last for a while (flap protection).
    let flaps = |node: NodeId| seat.flaps(node, view.now, view.lease());
    let best = pool.iter().filter(promotable).max_by_key(|(node, report)| {
        let held = (report.lineage, report.offset);
        (held, to == Some(*node), !flaps(*node), priority(*node), std::cmp::Reverse(*node))
    });
    let Some((node, report)) = best else { return Choice::Wait(Reason::NobodyPromotable) };
    // Where one of priority 0 holds more, that counts as if it had not reported: a write beyond the successor's data is
    // on it and on those that said nothing, and they must be fewer than W.
    let have = all.iter().filter(|(_, other)| data(other) <= data(report)).count();
    let all_there = incumbent.is_some_and(|own| own <= data(report));
    if have < need && !all_there && group.durability == Durability::Quorum {
        return Choice::Wait(Reason::AwaitingProof { have, need });
    }
    let proved = all_there || have >= group.reports_to_say_kept();
    let guarantee = if proved { Guarantee::Kept } else { Guarantee::BestReached };
    Choice::Promote(chosen(*node, report, guarantee))
}

/// What a report holds, by the epoch that wrote it: who was promoted and wrote nothing holds no more than it did before. Where
/// its offset may have stood still it may have written.
fn content(group: &Group, report: &Report) -> (Option<Epoch>, Offset) {
    let mut lineage = report.lineage;
    while let Some(epoch) = lineage
        && let Some(start) = group.starts.get(&epoch).filter(|start| start.offset == report.offset)
        && counts_writes(group, epoch)
        && let Some(before) = start.data.filter(|before| *before < epoch)
    {
        lineage = Some(before);
    }
    (lineage, report.offset)
}

/// The primary of the epoch, if it is still the very process and its data the epoch's: whatever was acknowledged was
/// acknowledged by it, so that its report alone proves what the others together would (S5).
fn incumbent<'a>(group: &Group, all: &[(NodeId, &'a Report)]) -> Option<&'a Report> {
    let primary = group.primary.as_ref()?;
    let own = all.iter().find(|(node, report)| *node == primary.node && report.run_id == primary.run_id);
    own.map(|(_, report)| *report).filter(|report| report.lineage == Some(group.epoch))
}

pub(super) fn chosen(node: NodeId, report: &Report, guarantee: Guarantee) -> Chosen {
    // Half of anything, whatever its offset says: what others hold below it may be missing (S11).
    let data = report.lineage.or(report.evidence.history.filter(|_| !report.voided));
    Chosen { node, run_id: report.run_id.clone(), offset: report.offset, data, guarantee }
}

/// Whether the node's agent says that no report can come from its instance. That it has not seen it yet is no such word.
pub(super) fn is_mute(seat: &Seat, node: NodeId) -> bool {
    says(seat, node, &[DOWN, UNUSABLE])
}

fn says(seat: &Seat, node: NodeId, words: &[&str]) -> bool {
    seat.health.get(&node).is_some_and(|health| words.contains(&health.posture.as_str()))
}

/// The reports for this seal, this node's own among them once it is on disk.
pub(super) fn reports<'a>(
    view: &'a View,
    name: &GroupName,
    seat: &'a Seat,
    next: Epoch,
) -> BTreeMap<NodeId, &'a Report> {
    let mut found: BTreeMap<NodeId, &Report> =
        seat.reports.iter().filter(|(_, report)| report.next == next).map(|(node, report)| (*node, report)).collect();
    if let Some(own) = own_report(view, name) {
        found.insert(view.me, own);
    }
    found
}

/// S3: this member's report, once its seal and what it says of lineage are on disk.
pub(super) fn own_report<'a>(view: &'a View, name: &GroupName) -> Option<&'a Report> {
    let seat = view.seats.get(name)?;
    let report = seat.membership.report.as_ref()?;
    let durable = view.saved.groups.get(name) == view.local.groups.get(name)
        || view.saved.groups.get(name).is_some_and(|saved| {
            saved.member_sealed >= report.next && saved.lineage.as_ref().map(|lineage| lineage.epoch) == report.lineage
        });
    durable.then_some(report)
}
