//! What the whole group needs. Only the Raft leader gets here.

use super::choose::{Choice, choose};
use super::{Decision, POLL_PART, REMOTE_SEAL_PART, Reason};
use crate::cluster::{
    Command, Durability, Epoch, Group, GroupCommand, GroupName, Guarantee, GuardianChange, NodeId, Offset, Phase, Why,
};
use crate::view::{Moment, Seat, Task, Topic, View};
use std::collections::BTreeSet;

pub(super) fn coordinate(view: &View, decision: &mut Decision) {
    let mut suspicion = false;
    for (name, group) in &view.state.groups {
        let Some(seat) = view.seats.get(name) else { continue };
        let change = match group.phase {
            Phase::Sealing { .. } => promote(view, name, group, seat, decision),
            Phase::Stable | Phase::Switching { .. } => {
                suspicion |= suspect(view, name);
                end_epoch(view, name, group, seat, decision).or_else(|| keep_followers(view, name, group, seat))
            }
        };
        if let Some(change) = change {
            let command = Command::Group { group: name.clone(), expect: group.expect(), change };
            decision.propose(view, Topic::Group(name.clone()), command);
        }
    }
    let stale = view.poll.as_ref().is_none_or(|poll| view.now.since(poll.sent_at) >= view.lease() / POLL_PART);
    decision.noted.polled = suspicion && stale && !view.lease().is_zero();
    finish_guardians(view, decision);
}

/// S12: only the new majority counts once every group's primary renews under both.
fn finish_guardians(view: &View, decision: &mut Decision) {
    let guardians = &view.state.guardians;
    let ready = guardians.next.is_some() && view.state.groups.keys().all(|name| guardians.renewed.contains(name));
    if ready {
        let finish = GuardianChange::Finish { version: guardians.version };
        decision.propose(view, Topic::Guardians, Command::Guardians(finish));
    }
}

/// Whether this guardian, the leader, would say that it holds no live promise: then it is worth asking the others.
fn suspect(view: &View, name: &GroupName) -> bool {
    vacant(view, name) || !view.state.guardians.all().contains(&view.me)
}

/// S3: no live promise here, and at least one lease since `Promote` was applied or the agent started.
pub(super) fn vacant(view: &View, name: &GroupName) -> bool {
    let (Some(group), Some(seat)) = (view.group(name), view.seats.get(name)) else { return false };
    let settled = view.now.since(seat.promoted_at.max(view.started)) >= view.lease().max(view.saved.longest_lease);
    !matches!(group.phase, Phase::Sealing { .. }) && group.epoch > Epoch(0) && settled && !seat.promise_live(view.now)
}

/// S3: a surrender, or a majority of guardians that, in answer to one fresh poll, hold no live promise.
fn end_epoch(
    view: &View,
    name: &GroupName,
    group: &Group,
    seat: &Seat,
    decision: &mut Decision,
) -> Option<GroupCommand> {
    let surrendered = seat.surrendered.filter(|(epoch, _)| *epoch >= group.epoch).map(|(_, why)| why);
    let polled = view.poll.as_ref().filter(|poll| view.now.since(poll.sent_at) <= view.lease() / POLL_PART);
    let silent = polled.is_some_and(|poll| {
        let said = poll.vacant.get(&(name.clone(), group.epoch));
        view.state.guardians.majority_of(|id| {
            if id == view.me { vacant(view, name) } else { said.is_some_and(|said| said.contains(&id)) }
        })
    });
    let why = surrendered.or(silent.then_some(Why::PrimarySilent))?;
    if let Some(reason) = paused(view, group, seat)
        && !why.planned()
    {
        decision.waits.insert(name.clone(), reason);
        return None;
    }
    Some(GroupCommand::Seal { why })
}

fn paused(view: &View, group: &Group, seat: &Seat) -> Option<Reason> {
    let pause = group.pause.as_ref()?;
    let over = pause.length.zip(seat.pause_seen).is_some_and(|(length, since)| view.now.since(since) >= length);
    (!over).then(|| Reason::Paused(pause.reason.clone()))
}

/// S5: a follower missing at the primary for a lease leaves F (`available`); R counts with the new W once it is proved.
fn keep_followers(view: &View, name: &GroupName, group: &Group, seat: &Seat) -> Option<GroupCommand> {
    if let Some(pause) = &group.pause {
        let over = pause.length.zip(seat.pause_seen).is_some_and(|(length, at)| view.now.since(at) >= length);
        if over {
            return Some(GroupCommand::PauseOver { since: group.paused_at });
        }
    }
    let served = seat.surrendered.is_none_or(|(epoch, _)| epoch < group.epoch)
        && view.now.since(seat.promoted_at) >= view.lease();
    let fresh = view.serving_heard(seat, group);
    if group.durability == Durability::Available && served && fresh {
        let gone = seat.missing.iter().find(|(_, since)| view.now.since(**since) >= view.lease());
        if let Some((node, _)) = gone {
            let since = group.followers.get(node)?.since;
            return Some(GroupCommand::Drop { node: *node, since });
        }
    }
    if !fresh {
        return None;
    }
    let (_, serving) = view.served(name)?;
    let passed = |node: &NodeId, mark: Offset| {
        serving.followers.get(node).is_some_and(|(online, offset)| *online && *offset >= mark)
    };
    if let Some(former) = &group.former_quorum
        && let Some((_, mark)) = seat.quorum_mark.filter(|(since, _)| *since == former.since)
        && group.followers.keys().all(|node| passed(node, mark))
    {
        return Some(GroupCommand::QuorumSettled { since: former.since });
    }
    None
}

/// S8 on a member, when the leader is a witness of the group: seals in its place what has a silent agent.
pub(super) fn assist(view: &View, decision: &mut Decision) {
    for (name, group) in &view.state.groups {
        let Phase::Sealing { next, .. } = group.phase else { continue };
        let witness = view.leadership.leader.is_some_and(|leader| !group.members.contains_key(&leader));
        if witness
            && view.mine.contains(name)
            && let Some(seat) = view.seats.get(name)
        {
            seal_remotely(view, name, group, seat, next, decision);
        }
    }
}

fn promote(view: &View, name: &GroupName, group: &Group, seat: &Seat, decision: &mut Decision) -> Option<GroupCommand> {
    let Phase::Sealing { next, why, .. } = group.phase else { return None };
    if let Some(reason) = paused_promotion(view, group, seat) {
        decision.waits.insert(name.clone(), reason);
        return None;
    }
    // Its own instance, the old primary's or one that strayed, may still take writes.
    if seat.instance.task.is_some_and(|(task, ..)| task == Task::Fence) {
        decision.waits.insert(name.clone(), Reason::Fencing(why));
        return None;
    }
    let over = seal_remotely(view, name, group, seat, next, decision);
    let primary_speaks = group.primary_node().is_none_or(|node| !speechless(view, group, seat, node, next));
    match choose(view, name, group, seat) {
        // Where all that was acknowledged is kept there is nothing for the others to lose that is worth a wait.
        Choice::Promote(chosen)
            if (over || (primary_speaks && chosen.guarantee == Guarantee::Kept))
                && !struck(view, seat, next, chosen.node) =>
        {
            Some(GroupCommand::Promote {
                successor: chosen.node,
                run_id: chosen.run_id,
                start: chosen.offset,
                data: chosen.data,
                guarantee: chosen.guarantee,
                at_unix_ms: view.unix_ms,
            })
        }
        Choice::Promote(_) => {
            decision.waits.insert(name.clone(), Reason::SealingRemotely);
            None
        }
        Choice::Wait(reason) => {
            decision.waits.insert(name.clone(), reason);
            None
        }
    }
}

fn paused_promotion(view: &View, group: &Group, seat: &Seat) -> Option<Reason> {
    let Phase::Sealing { why, .. } = group.phase else { return None };
    paused(view, group, seat).filter(|_| !why.planned() && group.forced.is_none())
}

/// S8: what may still follow or serve by itself, its agent saying nothing, is sealed over the network before anybody is
/// promoted, if the instance answers: the old primary, lest it serves on, and every member that is not heard, lest it throws
/// its data away for that of the next primary with nobody there to tell or save it (S11). Bounded, and no report. True once
/// that is over or not called for.
fn seal_remotely(
    view: &View,
    name: &GroupName,
    group: &Group,
    seat: &Seat,
    next: Epoch,
    decision: &mut Decision,
) -> bool {
    // Before the first promotion nobody is detached who has not been heard of all (S13).
    if group.epoch == Epoch(0) {
        return true;
    }
    let silent = group.members.iter().filter(|(node, _)| speechless(view, group, seat, **node, next));
    let (nodes, addresses): (BTreeSet<NodeId>, Vec<String>) =
        silent.filter(|(_, member)| !member.announce.is_empty()).map(|(node, m)| (*node, m.announce.clone())).unzip();
    if nodes.is_empty() {
        return true;
    }
    let bound = view.lease() / REMOTE_SEAL_PART;
    // Before a majority of guardians had sealed the primary's agent may be alive, with a lease, and serve on. Who does it for a
    // witness may never hear of that majority: it begins at once, and once more when it does.
    let sealed_at = match seat.sealed_at {
        Some(sealed_at) => sealed_at,
        None if view.leadership.leading => return false,
        None => Moment::default(),
    };
    if !view.mine.contains(name) {
        // A witness knows no credentials: the members do it.
        return view.now.since(sealed_at) >= bound;
    }
    match &seat.remote_seal {
        Some(seal) if seal.next == next && seal.since >= sealed_at => seal.over || view.now.since(seal.since) >= bound,
        _ => {
            decision.noted.remote.push((name.clone(), next, nodes));
            decision.actions.push(super::Action::SealRemote { group: name.clone(), epoch: next, addresses });
            false
        }
    }
}

/// Whether a node's instance may still be sealed over the network though it has reported meanwhile: promoted now it would be
/// struck as the primary. The task's own bounds are two eighths of a lease.
fn struck(view: &View, seat: &Seat, next: Epoch, node: NodeId) -> bool {
    let begun = seat.remote_seal.as_ref().filter(|seal| seal.next == next && !seal.over && seal.nodes.contains(&node));
    begun.is_some_and(|seal| view.now.since(seal.since) < view.lease() / 2)
}

/// Another member that neither reported nor, as the old primary, surrendered; who is no primary is given half a lease to
/// say anything at all.
fn speechless(view: &View, group: &Group, seat: &Seat, node: NodeId, next: Epoch) -> bool {
    let reported = seat.reports.get(&node).is_some_and(|report| report.next == next);
    if node == view.me || reported {
        return false;
    }
    if group.primary_node() == Some(node) {
        return seat.surrendered.is_none_or(|(epoch, _)| epoch < group.epoch);
    }
    let heard = view.peers.get(&node).and_then(|peer| peer.heard).unwrap_or(view.started);
    view.now.since(heard) >= view.lease() / 2
}
