//! One message per pair of nodes and tick: renewals, promises, surrenders, polls, seals, reports, health.
//!
//! S2: nothing is said that is not on disk yet. A promise waits for the longest lease to be recorded, a seal and a
//! report for their own record, a surrender for its mark.

use super::choose::own_report;
use super::coordinate::vacant;
use super::{Action, COLD_START_WAIT, Decision, RENEWALS_PER_LEASE};
use crate::cluster::{Epoch, GroupName, NodeId, Phase};
use crate::view::{Condition, Health, Item, Moment, Posture, Renewal, Seat, View};
use std::collections::BTreeMap;
use std::time::Duration;

/// An instance that is gone, in [`Health::posture`].
pub(super) const DOWN: &str = "down";
/// One that cannot be logged in to, or has made no progress for longer than a cold start waits and was not killed.
pub(super) const UNUSABLE: &str = "unusable";

pub(super) fn talk(view: &View, decision: &mut Decision) {
    let step = view.lease() / RENEWALS_PER_LEASE;
    // With a promise, or with a renewal, if its time has nearly come: one message instead of two.
    let company = view.seats.values().any(|seat| !seat.owed.is_empty()) || renews(view, step);
    let pace = if company { step / 2 } else { step };
    let regular = view.told_at.is_none_or(|at| view.now.since(at) >= pace);
    let mut common = renewals(view, decision);
    if view.urgent || regular {
        common.extend(standing(view));
    }
    if regular {
        common.extend(health(view, decision));
        common.extend(view.sentinel.iter().cloned().map(|address| Item::Sentinel { address }));
    }
    if decision.noted.polled {
        common.push(Item::Poll { id: view.poll.as_ref().map_or(1, |poll| poll.id + 1) });
    }
    let mut single = answers(view, decision);
    for node in view.state.nodes.keys().filter(|node| **node != view.me) {
        let mut items = common.clone();
        items.extend(single.remove(node).unwrap_or_default());
        if !items.is_empty() {
            decision.actions.push(Action::Send { to: *node, items });
        }
    }
    decision.noted.told = view.urgent || regular;
}

/// When the next regular message or renewal is due.
pub(super) fn next_message(view: &View) -> Option<Moment> {
    let step = view.lease() / RENEWALS_PER_LEASE;
    let renewing = view.seats.iter().filter(|(name, _)| may_renew(view, name));
    let last = renewing.filter_map(|(_, seat)| seat.lease.renewed_at).chain(view.told_at).min();
    last.filter(|_| !step.is_zero()).map(|at| at + step)
}

/// Whether a renewal goes out now.
fn renews(view: &View, step: Duration) -> bool {
    view.seats.iter().any(|(name, seat)| renewal_due(view, seat, step) && may_renew(view, name))
}

fn renewal_due(view: &View, seat: &Seat, step: Duration) -> bool {
    seat.lease.renew_now || seat.lease.renewed_at.is_none_or(|at| view.now.since(at) >= step)
}

/// S1: what the primary asks of the guardians, and tells its followers, five times per lease.
fn renewals(view: &View, decision: &mut Decision) -> Vec<Item> {
    let step = view.lease() / RENEWALS_PER_LEASE;
    let mut items = Vec::new();
    for (name, seat) in &view.seats {
        let Some(group) = view.group(name).filter(|_| may_renew(view, name)) else { continue };
        if !renewal_due(view, seat, step) || decision.noted.fences.iter().any(|(fenced, _, _)| fenced == name) {
            continue;
        }
        decision.noted.renewals.push((name.clone(), group.epoch));
        items.push(Item::Renew(Renewal {
            group: name.clone(),
            epoch: group.epoch,
            sent_at: view.now,
            lease: view.lease(),
            left: view.lease_end(name).map(|end| end.since(view.now)).unwrap_or_default(),
            version: seat.instance.version,
            guardians: view.state.guardians.version,
            serving: view.serving(name),
        }));
    }
    items
}

/// S2, S6: only the promoted process's agent renews, never for an epoch it gave up or whose seal it knows of.
fn may_renew(view: &View, name: &GroupName) -> bool {
    let (Some(group), Some(seat)) = (view.group(name), view.seats.get(name)) else { return false };
    let Some(primary) = group.primary.as_ref().filter(|primary| primary.node == view.me) else { return false };
    let given_up =
        seat.lease.given_up.is_some_and(|(given, _)| given >= group.epoch) || seat.lease.marked >= group.epoch;
    let same = match seat.instance.run_id() {
        Some(run_id) => *run_id == primary.run_id,
        None => seat.lease.stamped.is_some() && seat.instance.condition != Condition::Gone,
    };
    let sealed = view.local.groups.get(name).is_some_and(|local| local.member_sealed > group.epoch);
    same && !given_up && !sealed && !matches!(group.phase, Phase::Sealing { .. }) && !view.lease().is_zero()
}

/// What is repeated while it holds.
fn standing(view: &View) -> Vec<Item> {
    let mut items = Vec::new();
    for (name, seat) in &view.seats {
        let Some(group) = view.group(name) else { continue };
        let mine = group.primary_node() == Some(view.me);
        if let Some((epoch, why)) = seat.surrendered.filter(|_| mine && seat.lease.marked >= group.epoch)
            && epoch == group.epoch
        {
            items.push(Item::Surrender { group: name.clone(), epoch, why });
        }
        if let Some(version) = view.rested(name) {
            items.push(Item::Rested { group: name.clone(), version });
        }
        let Phase::Sealing { next, .. } = group.phase else { continue };
        if view.saved.groups.get(name).is_some_and(|saved| saved.guardian_sealed >= next) {
            items.push(Item::Sealed { group: name.clone(), next });
        }
        items.extend(own_report(view, name).filter(|report| report.next == next).cloned().map(Item::Report));
    }
    items
}

/// To single peers: promises owed, and answers to polls.
fn answers(view: &View, decision: &mut Decision) -> BTreeMap<NodeId, Vec<Item>> {
    let mut single: BTreeMap<NodeId, Vec<Item>> = BTreeMap::new();
    if view.saved.longest_lease >= view.local.longest_lease {
        for (name, seat) in &view.seats {
            for (to, epoch, sent_at) in &seat.owed {
                let promise = Item::Promise { group: name.clone(), epoch: *epoch, sent_at: *sent_at };
                single.entry(*to).or_default().push(promise);
            }
        }
        decision.noted.promised = true;
    }
    for (from, id) in &view.polled {
        let groups: Vec<(GroupName, Epoch)> = view
            .state
            .groups
            .iter()
            .filter(|(name, _)| vacant(view, name))
            .map(|(name, group)| (name.clone(), group.epoch))
            .collect();
        single.entry(*from).or_default().push(Item::Vacant { id: *id, groups });
    }
    single
}

fn health(view: &View, decision: &Decision) -> Vec<Item> {
    view.seats.keys().filter_map(|name| health_of(view, decision, name)).map(Item::Health).collect()
}

/// This node's part of a group, for status.
pub(super) fn health_of(view: &View, decision: &Decision, name: &GroupName) -> Option<Health> {
    let (group, seat) = (view.group(name)?, view.seats.get(name)?);
    let posture = match (view.mine.contains(name), seat.instance.posture) {
        (false, _) => "witness",
        (true, Posture::Serving(epoch)) if epoch == group.epoch && view.lease_live(name) => "serving",
        (true, Posture::Following(_)) => "following",
        (true, Posture::Sealed) => "sealed",
        (true, _) if seat.instance.seen().is_none() => match seat.instance.condition {
            Condition::Gone => DOWN,
            // It may live and have the best data, and nobody but an operator brings it to say so.
            Condition::Unusable { .. } => UNUSABLE,
            Condition::Silent { still: Some(since) } if view.now.since(since) >= COLD_START_WAIT => UNUSABLE,
            // The agent has just started, or nothing answers INFO: it may live, and report.
            _ => "unseen",
        },
        (true, _) => "sealed",
    };
    Some(Health {
        group: name.clone(),
        epoch: group.epoch,
        posture: posture.to_owned(),
        offset: seat.instance.seen().map(|info| info.offset),
        lineage: seat.instance.seen().and_then(|info| view.lineage_of(name, info)),
        reason: decision.reasons.get(name).map(ToString::to_string).unwrap_or_default(),
        vip: seat.vip.held,
        full: view.wants_full(name),
        note: note(view, name),
        vip_trouble: seat.vip.wrong(view.now).unwrap_or_default(),
    })
}

/// What an operator should know of this node's part besides its posture.
fn note(view: &View, name: &GroupName) -> String {
    view.short_backlog(name).map(|(size, need)| backlog_text(size, need)).unwrap_or_default()
}

/// A backlog too short for the rate of writes, in words.
pub fn backlog_text(size: u64, need: u64) -> String {
    format!(
        "repl-backlog-size is {size} bytes, too little for the rate of writes: a replica that restarts is synchronised in \
         full; {need} bytes would do"
    )
}
