//! What a node proposes for itself: its introduction, its admission as a follower, its leaving. Any node may; the
//! command is compare-and-set like every other.

use super::{Action, Decision, Policy, STOP_LEAVE, STOP_LIMIT};
use crate::cluster::{
    Command, Durability, Follower, Group, GroupCommand, GroupName, GuardianChange, NodeId, Phase, Why,
};
use crate::view::{Condition, Posture, Seat, Topic, View};
use std::time::Duration;

pub(super) fn propose(view: &View, policy: &Policy, decision: &mut Decision) {
    introduce(view, policy, decision);
    for (name, seat) in &view.seats {
        let Some(group) = view.group(name).filter(|_| view.mine.contains(name)) else { continue };
        if let Some(command) = renewed_jointly(view, name, group) {
            // Counted from before it is said: the commit may be acted on before it is known here.
            decision.noted.renewed.push(name.clone());
            decision.propose(view, Topic::Own(name.clone()), command);
        } else if let Some(command) = own_wish(view, name, group, seat) {
            decision.propose(view, Topic::Own(name.clone()), command);
        }
    }
}

/// Told once, and again when the file's address or groups are not what is replicated.
fn introduce(view: &View, policy: &Policy, decision: &mut Decision) {
    let Some(node) = view.state.nodes.get(&view.me) else { return };
    let known = node.introduced
        && node.address == policy.address
        && !view.state.lease.is_zero()
        && policy.groups.iter().all(|(name, configured)| {
            let member = view.group(name).and_then(|group| group.members.get(&view.me));
            member.is_some_and(|member| member.announce == configured.announce)
        });
    if !known && view.stopping.is_none() {
        decision.propose(view, Topic::Introduce, policy.introduction(view.me));
    }
}

/// S12: commits that this primary renews under both majorities.
fn renewed_jointly(view: &View, name: &GroupName, group: &Group) -> Option<Command> {
    let guardians = &view.state.guardians;
    let open = guardians.next.is_some()
        && !guardians.renewed.contains(name)
        && !matches!(group.phase, Phase::Sealing { .. })
        && group.primary_node() == Some(view.me)
        && view.seats.get(name).is_some_and(|seat| seat.lease.promised_live(group.epoch, guardians, view.now));
    open.then(|| {
        Command::Guardians(GuardianChange::Renewed {
            group: name.clone(),
            epoch: group.epoch,
            version: guardians.version,
        })
    })
}

fn own_wish(view: &View, name: &GroupName, group: &Group, seat: &Seat) -> Option<Command> {
    let sealing = matches!(group.phase, Phase::Sealing { .. });
    let change = if let Some(loss) = view.untold_loss(name).filter(|_| !sealing) {
        Some(loss)
    } else if let Some(cause) = view.untold_cause(name).filter(|_| !sealing) {
        Some(cause)
    } else if group.primary_node() == Some(view.me) {
        primary_wish(view, name, group, seat)
    } else {
        follower_wish(view, name, group, seat)
    };
    change.map(|change| Command::Group { group: name.clone(), expect: group.expect(), change })
}

fn primary_wish(view: &View, name: &GroupName, group: &Group, seat: &Seat) -> Option<GroupCommand> {
    match group.phase {
        Phase::Switching { .. } => {
            seat.membership.handover_failed.as_ref().filter(|(epoch, _)| *epoch == group.epoch)?;
            Some(GroupCommand::SwitchOff)
        }
        Phase::Stable
            if view.leaving_since(name).is_some() && seat.instance.posture == Posture::Serving(group.epoch) =>
        {
            seat.membership.handover_failed.is_none().then_some(())?;
            let why = if view.stopping.is_some() { Why::Shutdown } else { Why::InstanceStopped };
            stop_target(view, group).map(|to| GroupCommand::Switch { to, why })
        }
        Phase::Stable if seat.instance.posture == Posture::Serving(group.epoch) => settle_departure(view, group, seat),
        _ => None,
    }
}

/// S5: whoever was sealed to leave, or left without proof, no longer counts once all of F holds what it may have
/// acknowledged. Told by the primary, whose own INFO shows it.
fn settle_departure(view: &View, group: &Group, seat: &Seat) -> Option<GroupCommand> {
    let passed = |leaver: &NodeId| view.passed_without(group, seat, *leaver);
    let left = group.followers.iter().find(|(node, follower)| follower.leaving.is_some() && passed(node));
    if let Some((node, follower)) = left {
        return Some(GroupCommand::Left { node: *node, since: follower.since });
    }
    let (node, departed) = group.departed.iter().find(|(node, _)| passed(node) && group.enough_without(**node))?;
    Some(GroupCommand::Settled { node: *node, since: departed.since })
}

/// The follower that a stopping primary hands over to: online, promotable, with the most data.
pub(super) fn stop_target(view: &View, group: &Group) -> Option<NodeId> {
    let serving = view.state.groups.iter().find(|(_, found)| std::ptr::eq(*found, group));
    let serving = serving.and_then(|(name, _)| view.serving(name))?;
    let fit = |node: &NodeId| {
        group.followers.get(node).is_some_and(|follower| follower.leaving.is_none())
            && group.members.get(node).is_some_and(|member| member.priority > 0)
    };
    let online = serving.followers.iter().filter(|(node, (online, _))| *online && fit(node));
    online.max_by_key(|(node, (_, offset))| (*offset, std::cmp::Reverse(**node))).map(|(node, _)| *node)
}

fn follower_wish(view: &View, name: &GroupName, group: &Group, seat: &Seat) -> Option<GroupCommand> {
    if matches!(group.phase, Phase::Sealing { .. }) || !group.members.contains_key(&view.me) {
        return None;
    }
    let inside = group.followers.get(&view.me);
    if view.leaving_since(name).is_some() {
        return inside.and_then(|follower| leave_to_stop(view.me, group.durability, follower));
    }
    let info = seat.instance.seen().filter(|_| seat.instance.condition == Condition::Up)?;
    let serving = seat.renewal.as_ref().is_some_and(|(at, renewal)| {
        renewal.epoch == group.epoch && renewal.serving.is_some() && view.now.since(*at) < view.lease()
    });
    let lineage = view.local.groups.get(name).and_then(|local| local.lineage.as_ref());
    let admitted = inside.is_some_and(|follower| {
        match follower.leaving {
            // An agent that left to be stopped and was started again comes back; one that is being removed does not.
            Some(at) => at > seat.membership.began,
            None => follower.run_id == info.run_id && (lineage.is_some() || follower.since > seat.membership.lost_at),
        }
    });
    let wanted = serving
        && !admitted
        && view.now >= seat.membership.ask_at
        && !view.must_wait(name)
        && view.foreign_keys(name).is_none();
    wanted.then(|| GroupCommand::Follow { node: view.me, run_id: info.run_id.clone() })
}

/// `available`: out of F at once, and proved later. `quorum`: by the two commits.
fn leave_to_stop(node: NodeId, durability: Durability, follower: &Follower) -> Option<GroupCommand> {
    let since = follower.since;
    match durability {
        Durability::Available => Some(GroupCommand::Drop { node, since }),
        Durability::Quorum => follower.leaving.is_none().then_some(GroupCommand::Leaving { node, since }),
    }
}

/// A stopping agent ends when its part is done, or its time is up.
pub(super) fn leave(view: &View, decision: &mut Decision) {
    let Some(since) = view.stopping else { return };
    let done = view.seats.iter().all(|(name, seat)| match view.group(name) {
        Some(group) if view.mine.contains(name) => rested(view, group, seat),
        _ => true,
    });
    if done || view.now.since(since) >= STOP_LIMIT {
        decision.actions.push(Action::Exit);
    }
}

/// How long the agent has been stopping.
pub(super) fn stopped_for(view: &View) -> Duration {
    view.stopping.map_or(Duration::ZERO, |since| view.now.since(since))
}

/// How long a group's instance here has been on its way out, with its agent or alone.
pub(super) fn leaving_for(view: &View, name: &GroupName) -> Duration {
    view.leaving_since(name).map_or(Duration::ZERO, |since| view.now.since(since))
}

fn rested(view: &View, group: &Group, seat: &Seat) -> bool {
    // The record of a stop in order is on disk (S14).
    if view.local != view.saved {
        return false;
    }
    let dead = matches!(seat.instance.condition, Condition::Gone | Condition::Unknown | Condition::Unusable { .. });
    if group.primary_node() == Some(view.me) {
        let alone = group.followers.is_empty();
        return seat.lease.marked >= group.epoch && alone && !seat.vip.held;
    }
    let detached = seat.instance.posture == Posture::Sealed || dead;
    let told = view.now.since(seat.applied_at) >= view.lease() / 2;
    let left = match group.followers.get(&view.me) {
        // It vanishes, and counts on: what it acknowledged is not yet known to be on all the others.
        Some(_) => group.durability == Durability::Quorum && stopped_for(view) >= STOP_LEAVE,
        None => told || !group.departed.contains_key(&view.me),
    };
    !seat.vip.held && detached && (left || matches!(group.phase, Phase::Sealing { .. }))
}
