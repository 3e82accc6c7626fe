//! This host's own instance and VIP: no lease, no service. Runs first, on every node.
//!
//! It converges: it compares the posture that the view shows with the one the state calls for, and hands out the one
//! task that leads there. A fence is never held back by a task under way; every other task waits for it.

use super::{Action, Decision, Policy, Reason};
use crate::cluster::{Attached, Diverged, Durability, Epoch, Group, GroupName, Phase, Why};
use crate::view::{Condition, FollowTarget, Posture, Seat, Task, UnitSight, View};
use std::time::Duration;

/// What the state calls for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Want {
    /// Nothing to do.
    Stay,
    Seal(Epoch),
    Fence(Epoch, Why),
    Mark(Epoch),
    Serve,
    Follow(FollowTarget),
    Quarantine(Diverged),
    Handover,
    Kill,
    ScriptKill,
    Start,
}

pub(super) fn protect(view: &View, policy: &Policy, name: &GroupName, decision: &mut Decision) {
    let Some(seat) = view.seats.get(name) else { return };
    let Some(group) = view.group(name) else {
        decision.reasons.insert(name.clone(), Reason::NoGroup);
        return;
    };
    let (want, reason) =
        if view.mine.contains(name) { want(view, policy, name, group, seat) } else { (Want::Stay, Reason::Witness) };
    let (want, reason) = start_again(view, name, seat, want, reason);
    let reason = match &seat.instance.trouble {
        Some(trouble) if want != Want::Stay => Reason::Trouble(trouble.clone()),
        _ => reason,
    };
    decision.reasons.insert(name.clone(), reason);
    // What is about to be fenced is not put on once more.
    if !matches!(want, Want::Fence(..)) {
        keep_vip(view, policy, name, group, seat, decision);
    }
    stamp(view, name, group, seat, decision);
    act(view, name, group, seat, want, decision);
}

/// A unit that failed, and that nobody starts any more, is started; one that was stopped on purpose never is.
fn start_again(view: &View, name: &GroupName, seat: &Seat, want: Want, reason: Reason) -> (Want, Reason) {
    let down = matches!(seat.instance.condition, Condition::Gone | Condition::Unknown);
    if want != Want::Stay || !down || !view.mine.contains(name) {
        return (want, reason);
    }
    match seat.instance.unit.seen {
        Some(unit) if unit.meant() => (Want::Stay, Reason::InstanceStopped),
        Some(UnitSight::Failed) if view.stopping.is_none() => {
            let due = view.now >= seat.instance.unit.start_at;
            (if due { Want::Start } else { Want::Stay }, Reason::UnitFailed)
        }
        _ => (want, reason),
    }
}

fn want(view: &View, policy: &Policy, name: &GroupName, group: &Group, seat: &Seat) -> (Want, Reason) {
    let incumbent = group.primary.as_ref().is_some_and(|primary| primary.node == view.me);
    if incumbent {
        want_as_primary(view, policy, name, group, seat)
    } else {
        want_as_other(view, policy, name, group, seat)
    }
}

/// The primary of the epoch: serve while the lease holds, and not a moment longer (S1, S6).
fn want_as_primary(view: &View, policy: &Policy, name: &GroupName, group: &Group, seat: &Seat) -> (Want, Reason) {
    let epoch = group.epoch;
    let lease = &seat.lease;
    if let Some((given, why)) = lease.given_up.filter(|(given, _)| *given >= epoch) {
        if lease.fenced < given {
            return (Want::Fence(given, why), Reason::Fencing(why));
        }
        if lease.marked < given {
            return (Want::Mark(given), Reason::Fencing(why));
        }
    }
    if lease.marked >= epoch {
        // It may be asked for a report (S3), which one that hangs never gives. The fence may just have killed it: whatever
        // came after that is given its own time.
        let later = view.now.since(seat.lease.fenced_at) >= policy.hang_after;
        if later && to_be_killed(view, policy, seat) {
            return (Want::Kill, Reason::InstanceSilent);
        }
        let why = seat.surrendered.map_or(Why::LeaseLapsed, |(_, why)| why);
        let (want, reason) = want_sealed(group, seat);
        let calm = matches!(reason, Reason::Sealed(_)) && matches!(group.phase, Phase::Stable);
        return (want, if calm { Reason::Surrendered(why) } else { reason });
    }
    if let Some(why) = cause_to_give_up(view, policy, name, group, seat) {
        return (Want::Fence(epoch, why), Reason::Fencing(why));
    }
    if !view.lease_live(name) {
        return (Want::Stay, Reason::AwaitingLease);
    }
    if let Condition::Busy { .. } = seat.instance.condition {
        let want = if seat.instance.script_killed { Want::Stay } else { Want::ScriptKill };
        return (want, Reason::InstanceBusy);
    }
    match (seat.instance.posture, &group.phase) {
        (Posture::Serving(at), Phase::Switching { to, .. }) if at == epoch => {
            if seat.membership.handover_failed.as_ref().is_some_and(|(failed, _)| *failed == epoch) {
                return (Want::Stay, Reason::Serving);
            }
            (Want::Handover, Reason::HandingOver(view.name_of(*to)))
        }
        (Posture::Serving(at), _) if at == epoch => (Want::Stay, serving_reason(&seat.instance.condition)),
        _ if seat.instance.seen().is_none() => (Want::Stay, condition_reason(&seat.instance.condition)),
        _ => (Want::Serve, Reason::Promoting),
    }
}

fn serving_reason(condition: &Condition) -> Reason {
    match condition {
        Condition::Up | Condition::Unknown => Reason::Serving,
        other => condition_reason(other),
    }
}

/// S1, S2, S6, S7: what ends the primary's place. None of these waits for anything.
fn cause_to_give_up(view: &View, policy: &Policy, name: &GroupName, group: &Group, seat: &Seat) -> Option<Why> {
    let incumbent = group.primary.as_ref()?;
    if let Phase::Sealing { why, .. } = group.phase {
        return Some(why);
    }
    if seat.fence_ordered == Some(group.epoch) {
        return Some(Why::Operator);
    }
    if seat.instance.condition == Condition::Gone {
        let meant = seat.instance.unit.seen.is_some_and(UnitSight::meant) || view.releasing_since(name).is_some();
        return Some(if meant { Why::InstanceStopped } else { Why::InstanceCrashed });
    }
    if seat.membership.handed_over == Some(group.epoch)
        && let Phase::Switching { why, .. } = group.phase
    {
        return Some(why);
    }
    if seat.instance.run_id().is_some_and(|run_id| *run_id != incumbent.run_id) {
        return Some(Why::InstanceRestarted);
    }
    if hung(view, policy, seat) {
        return Some(Why::InstanceHung);
    }
    if view.stopping.is_some_and(|since| must_fence_to_stop(view, group, since)) {
        return Some(Why::Shutdown);
    }
    if view.lease_live(name) {
        return never_promoted(view, group, seat).then_some(Why::InstanceFailed);
    }
    if seat.lease.held {
        return Some(Why::LeaseLapsed);
    }
    (view.now.since(seat.promoted_at) >= view.lease()).then_some(Why::NeverServed)
}

/// The lease holds, the instance answers, and still it cannot be made primary: a refused setting, a missing right.
fn never_promoted(view: &View, group: &Group, seat: &Seat) -> bool {
    seat.instance.posture != Posture::Serving(group.epoch)
        && seat.instance.condition == Condition::Up
        && seat.instance.failures >= super::SERVE_TRIES
        && view.now.since(seat.promoted_at) >= view.lease() * super::SERVE_LEASES
}

/// A stopping primary hands over if there is somebody to hand over to and time; else it fences.
fn must_fence_to_stop(view: &View, group: &Group, since: crate::view::Moment) -> bool {
    let somebody = matches!(group.phase, Phase::Switching { .. }) || super::own::stop_target(view, group).is_some();
    !somebody || view.now.since(since) >= super::STOP_HANDOVER
}

/// S7: silent for `hang_after` while its process made no progress.
fn hung(view: &View, policy: &Policy, seat: &Seat) -> bool {
    match seat.instance.condition {
        Condition::Silent { still: Some(since) } => view.now.since(since) >= policy.hang_after,
        _ => false,
    }
}

/// S7: one that hangs and serves nobody. One that is being stopped is its unit's: it has a time-out of its own.
fn to_be_killed(view: &View, policy: &Policy, seat: &Seat) -> bool {
    hung(view, policy, seat) && !seat.instance.unit.seen.is_some_and(UnitSight::meant)
}

/// Anybody else: never primary; sealed while the group is sealed; following while a primary is heard (S3, S8).
fn want_as_other(view: &View, policy: &Policy, name: &GroupName, group: &Group, seat: &Seat) -> (Want, Reason) {
    if seat.lease.epoch > Epoch(0) && seat.lease.fenced < seat.lease.epoch {
        let why = seat.lease.given_up.map_or(Why::LeaseLapsed, |(_, why)| why);
        return (Want::Fence(seat.lease.epoch, why), Reason::Fencing(why));
    }
    if group.epoch > Epoch(0) && seat.instance.seen().is_some_and(|info| info.primary) {
        return (Want::Fence(group.epoch, Why::LeaseLapsed), Reason::Sealing);
    }
    if to_be_killed(view, policy, seat) {
        return (Want::Kill, Reason::InstanceSilent);
    }
    if matches!(seat.instance.condition, Condition::Busy { .. }) && !seat.instance.script_killed {
        return (Want::ScriptKill, Reason::InstanceBusy);
    }
    if let Some(reason) = super::cold::awaited_introductions(view, group) {
        return (Want::Stay, reason);
    }
    if matches!(group.phase, Phase::Sealing { .. }) {
        return want_sealed(group, seat);
    }
    let left = !group.followers.contains_key(&view.me) || super::own::leaving_for(view, name) >= super::STOP_LEAVE;
    if view.leaving_since(name).is_some() && left {
        let alone = view.stopping.is_none();
        return detached(seat, if alone { Reason::InstanceStopped } else { Reason::Surrendered(Why::Shutdown) });
    }
    if let Some(found) = view.to_quarantine(name) {
        return want_quarantine(view, name, seat, found);
    }
    if let Some(target) = view.follow_target(name) {
        return want_following(view, name, seat, target);
    }
    let grace = view.now.since(view.started) < view.lease();
    if grace && matches!(seat.instance.posture, Posture::Following(_)) {
        return (Want::Stay, Reason::Following(primary_name(view, group)));
    }
    detached(seat, why_detached(view, name, group, seat))
}

fn want_following(view: &View, name: &GroupName, seat: &Seat, target: FollowTarget) -> (Want, Reason) {
    let primary = view.name_of(target.node);
    if seat.instance.posture == Posture::Following(target.epoch) {
        let syncing = seat.instance.seen().is_some_and(|info| info.syncing || info.loading);
        let linked = seat.instance.seen().is_some_and(|info| info.link_up);
        let reason = match (syncing, linked) {
            (true, _) => Reason::Synchronising(primary),
            (false, true) => Reason::Following(primary),
            (false, false) => Reason::Attaching(primary),
        };
        return (Want::Stay, reason);
    }
    // Of this very process: an agent that starts anew goes by what is on disk.
    let own = |attached: &&Attached| seat.instance.run_id() == Some(&attached.run_id);
    let recorded = view.saved.groups.get(name).and_then(|local| local.attached.as_ref()).filter(own);
    if recorded.is_some_and(|attached| attached.epoch == target.epoch && attached.replid == target.replid) {
        return (Want::Follow(target), Reason::Attaching(primary));
    }
    if recorded.is_none_or(|attached| attached.epoch != target.epoch) {
        return detached(seat, Reason::Attaching(primary));
    }
    (Want::Stay, Reason::Attaching(primary))
}

/// S11: its data is saved before it follows; the record of what it holds is on disk before that is begun.
fn want_quarantine(view: &View, name: &GroupName, seat: &Seat, found: &Diverged) -> (Want, Reason) {
    let reason = Reason::Quarantining { bytes: found.bytes };
    let recorded = view.saved.groups.get(name).and_then(|local| local.diverged.as_ref()) == Some(found);
    match detached(seat, reason) {
        (Want::Stay, reason) if recorded && seat.instance.posture == Posture::Sealed => {
            (Want::Quarantine(found.clone()), reason)
        }
        other => other,
    }
}

/// The group is being sealed: the instance is detached for that very epoch and has reported (S3).
fn want_sealed(group: &Group, seat: &Seat) -> (Want, Reason) {
    let Phase::Sealing { next, .. } = group.phase else { return detached(seat, Reason::Sealed(group.epoch)) };
    if seat.membership.report.as_ref().is_some_and(|report| report.next == next) {
        return (Want::Stay, Reason::Sealed(next));
    }
    if unreachable(&seat.instance.condition) {
        return (Want::Stay, condition_reason(&seat.instance.condition));
    }
    (Want::Seal(next), Reason::Sealing)
}

fn detached(seat: &Seat, reason: Reason) -> (Want, Reason) {
    if unreachable(&seat.instance.condition) {
        return (Want::Stay, condition_reason(&seat.instance.condition));
    }
    match seat.instance.posture {
        Posture::Sealed => (Want::Stay, reason),
        _ => (Want::Seal(Epoch(0)), Reason::Sealing),
    }
}

fn unreachable(condition: &Condition) -> bool {
    matches!(condition, Condition::Unknown | Condition::Gone | Condition::Unusable { .. } | Condition::Loading)
}

fn condition_reason(condition: &Condition) -> Reason {
    match condition {
        Condition::Unknown | Condition::Up => Reason::InstanceUnknown,
        Condition::Gone => Reason::InstanceDown,
        Condition::Loading => Reason::InstanceLoading,
        Condition::Busy { .. } => Reason::InstanceBusy,
        Condition::Silent { .. } => Reason::InstanceSilent,
        Condition::Unusable { why } => Reason::InstanceUnusable(why.clone()),
    }
}

fn why_detached(view: &View, name: &GroupName, group: &Group, seat: &Seat) -> Reason {
    if group.followers.get(&view.me).is_some_and(|follower| follower.leaving.is_some()) {
        return Reason::Leaving;
    }
    if let Some(keys) = view.foreign_keys(name) {
        return Reason::ForeignData { keys };
    }
    if view.must_wait(name) {
        return Reason::AwaitingTurn;
    }
    let heard = seat.renewal.as_ref().is_some_and(|(at, renewal)| {
        renewal.serving.is_some() && renewal.epoch == group.epoch && view.now.since(*at) < view.lease()
    });
    if heard { Reason::AwaitingAdmission } else { Reason::PrimaryUnheard }
}

fn primary_name(view: &View, group: &Group) -> String {
    group.primary_node().map(|node| view.name_of(node)).unwrap_or_default()
}

fn act(view: &View, name: &GroupName, group: &Group, seat: &Seat, want: Want, decision: &mut Decision) {
    let group_name = name.clone();
    let running = seat.instance.task.map(|(task, _, _)| task);
    if let Want::Fence(epoch, why) = want {
        // Only a fence that was tried already waits for its next try; what else failed holds none back.
        let tried = seat.lease.given_up.is_some_and(|(given, _)| given >= epoch);
        if running != Some(Task::Fence) && (!tried || view.now >= seat.instance.retry_at) {
            decision.noted.fences.push((group_name.clone(), epoch, why));
            decision.task(name, Task::Fence, epoch, Action::Fence { group: group_name, epoch, why });
        }
        return;
    }
    if let Want::Mark(epoch) = want {
        decision.actions.push(Action::Mark { group: group_name, epoch });
        return;
    }
    let sealing = matches!(want, Want::Seal(_));
    let interruptible = matches!(running, Some(Task::Follow | Task::Serve | Task::Tune | Task::Quarantine));
    if (running.is_some() && !(sealing && interruptible)) || view.now < seat.instance.retry_at {
        return;
    }
    match want {
        Want::Seal(epoch) => decision.task(name, Task::Seal, epoch, Action::Seal { group: group_name, epoch }),
        Want::Serve => {
            let Some(primary) = &group.primary else { return };
            let Some(until) = view.lease_end(name) else { return };
            let action = Action::Serve {
                group: group_name,
                epoch: group.epoch,
                run_id: primary.run_id.clone(),
                until,
                min_replicas: min_replicas(group, seat),
            };
            decision.noted.tuning.push((name.clone(), primary.run_id.clone(), min_replicas(group, seat)));
            decision.task(name, Task::Serve, group.epoch, action);
        }
        Want::Follow(target) => {
            decision.task(name, Task::Follow, target.epoch, Action::Follow { group: group_name, target });
        }
        Want::Quarantine(found) if view.now >= seat.membership.save_at => {
            let epoch = found.epoch;
            decision.task(name, Task::Quarantine, epoch, Action::Quarantine { group: group_name, found });
        }
        Want::Handover => handover(view, name, group, decision),
        Want::Kill => decision.task(name, Task::Kill, Epoch(0), Action::Kill { group: group_name }),
        Want::Start => decision.task(name, Task::Start, Epoch(0), Action::Start { group: group_name }),
        Want::ScriptKill => {
            decision.task(name, Task::ScriptKill, Epoch(0), Action::ScriptKill { group: group_name });
        }
        Want::Stay => tune(name, group, seat, decision),
        Want::Quarantine(_) | Want::Fence(..) | Want::Mark(_) => {}
    }
}

fn handover(view: &View, name: &GroupName, group: &Group, decision: &mut Decision) {
    let Phase::Switching { to, .. } = group.phase else { return };
    let Some(member) = group.members.get(&to) else { return };
    let bound = (view.lease() * 2).min(Duration::from_secs(5));
    let action = Action::Handover { group: name.clone(), epoch: group.epoch, to: member.announce.clone(), bound };
    decision.task(name, Task::Handover, group.epoch, action);
}

/// S5, `available`: 1 while any follower is in F and has been online since it last joined, else 0. `quorum`: W-1.
fn min_replicas(group: &Group, seat: &Seat) -> u32 {
    match group.durability {
        Durability::Quorum => group.quorum.saturating_sub(1),
        Durability::Available => u32::from(!seat.membership.online.is_empty() || unsure_of_online(group, seat)),
    }
}

/// Restarted while it served, and nobody is online now: what the agent before this one set stands until somebody is, or
/// until nobody is in F. It may have known one online that is cut off now, and only the commit that takes it out of F makes
/// 1 into 0.
fn unsure_of_online(group: &Group, seat: &Seat) -> bool {
    let available = group.durability == Durability::Available;
    available && seat.membership.inherited && seat.membership.online.is_empty() && !group.followers.is_empty()
}

fn tune(name: &GroupName, group: &Group, seat: &Seat, decision: &mut Decision) {
    let serving = seat.instance.posture == Posture::Serving(group.epoch);
    let Some(run_id) = seat.instance.run_id() else { return };
    let wanted = min_replicas(group, seat);
    let up = seat.instance.condition == Condition::Up;
    let sure = !unsure_of_online(group, seat);
    if serving && up && sure && seat.instance.tuned.as_ref() != Some(&(run_id.clone(), wanted)) {
        let action = Action::Tune { group: name.clone(), epoch: group.epoch, min_replicas: wanted };
        decision.noted.tuning.push((name.clone(), run_id.clone(), wanted));
        decision.task(name, Task::Tune, group.epoch, action);
    }
}

/// S8: the kernel holds the leash. Refreshed only after a fresh majority renewal; taken off where nothing is served.
fn keep_vip(view: &View, policy: &Policy, name: &GroupName, group: &Group, seat: &Seat, decision: &mut Decision) {
    if !policy.groups.get(name).is_some_and(|configured| configured.vip) {
        return;
    }
    let given_up = seat.lease.given_up.is_some_and(|(given, _)| given >= group.epoch);
    let serves = seat.instance.posture == Posture::Serving(group.epoch) && !given_up;
    let Some(until) = view.lease_end(name).filter(|end| serves && *end > view.now) else {
        let fencing = matches!(seat.instance.task, Some((Task::Fence, _, _)));
        let over = group.primary_node() != Some(view.me) || seat.lease.fenced >= group.epoch;
        if seat.vip.held && over && !fencing && !vip_lingers(view, group, seat) {
            decision.actions.push(Action::DropVip { group: name.clone() });
        }
        return;
    };
    let lease = view.lease();
    let confirmed = until - lease * 5 / 6;
    let due = match seat.vip.refreshed_at {
        None => true,
        Some(at) => view.now.since(at) >= lease / 2 && confirmed > at,
    };
    if due {
        decision.noted.vips.push(name.clone());
        decision.actions.push(Action::HoldVip { group: name.clone(), until });
    }
}

/// On an instance that is dead or sealed the VIP stays until the successor serves, but for a part of a lease at most: a
/// client that reconnects meanwhile is refused at once, instead of losing its SYN to a host that is silent.
fn vip_lingers(view: &View, group: &Group, seat: &Seat) -> bool {
    let dead_or_sealed = seat.lease.given_up.is_some_and(|(_, why)| why.vip_lingers());
    let served = group.primary_node() != Some(view.me)
        && seat.renewal.as_ref().is_some_and(|(_, renewal)| renewal.epoch == group.epoch && renewal.serving.is_some());
    let brief = view.now.since(seat.lease.fenced_at) < view.lease() / super::VIP_LINGER_PART;
    dead_or_sealed && brief && !served
}

/// S1: the lease's end is mirrored, so that an agent killed and restarted within it carries on unfelt.
fn stamp(view: &View, name: &GroupName, group: &Group, seat: &Seat, decision: &mut Decision) {
    let Some(primary) = &group.primary else { return };
    let Some(until) = view.lease_end(name).filter(|end| *end > view.now && *end > seat.lease.written) else { return };
    decision.noted.stamped.push((name.clone(), until));
    decision.actions.push(Action::Stamp {
        group: name.clone(),
        epoch: group.epoch,
        run_id: primary.run_id.clone(),
        until,
    });
}
