//! What a change of the replicated state means for the volatile part: a new epoch begins with nothing heard yet.

use super::View;
use super::event::Topic;
use super::fold::PROPOSAL_BACKOFF;
use super::moment::Moment;
use super::seat::{Lease, Seat};
use crate::cluster::{Group, GroupName, NodeId, Phase, State};
use std::sync::Arc;

impl View {
    pub(super) fn fold_applied(&mut self, state: Arc<State>) {
        let back =
            state.groups.iter().any(|(name, group)| self.group(name).is_some_and(|old| old.version > group.version));
        if back {
            return;
        }
        let before = std::mem::replace(&mut self.state, state);
        let after = Arc::clone(&self.state);
        if after.guardians.next.is_none() {
            self.seats.values_mut().for_each(|seat| seat.lease.counts_both = false);
        }
        for (name, group) in &after.groups {
            let old = before.groups.get(name);
            if old.is_some_and(|old| old.version == group.version) {
                continue;
            }
            let (now, me) = (self.now, self.me);
            let seat = self.seats.entry(name.clone()).or_default();
            if let Some(old) = old {
                seat.note_faults(now, after.lease, old, group);
            }
            apply_group(seat, me, now, old, group);
            self.urgent = true;
            if let Some(old) = old {
                self.fold_departure(name, old, group);
            }
            for topic in [Topic::Group(name.clone()), Topic::Own(name.clone())] {
                // An answered proposal only waited for this; one that is under way is still waited for.
                if let Some(free_at) = self.proposed.get_mut(&topic).filter(|at| **at <= now + PROPOSAL_BACKOFF) {
                    *free_at = now;
                }
            }
        }
    }

    /// S4: what was outside the followers set has no lineage, also when it left and came back in one step. A follower
    /// dropped again and again before it caught up asks ever later to be let in.
    fn fold_departure(&mut self, name: &GroupName, old: &Group, new: &Group) {
        let Some(was) = old.followers.get(&self.me) else { return };
        let is = new.followers.get(&self.me);
        if new.primary_node() == Some(self.me) || is.is_some_and(|is| is.since == was.since) {
            return;
        }
        let (now, lease) = (self.now, self.state.lease);
        let caught_up = self.local.groups.entry(name.clone()).or_default().lineage.take().is_some();
        let Some(seat) = self.seats.get_mut(name) else { return };
        seat.membership.lost_at = seat.membership.lost_at.max(old.version);
        seat.membership.mark = None;
        if is.is_none() {
            seat.membership.drops = if caught_up { 0 } else { (seat.membership.drops + 1).min(ASK_DOUBLINGS) };
            seat.membership.ask_at = now + lease / 2 * (1 << seat.membership.drops);
        }
    }
}

/// How often the wait of a follower that is dropped again and again is doubled at most.
const ASK_DOUBLINGS: u32 = 4;

/// What a change of the replicated group means for the volatile part.
fn apply_group(seat: &mut Seat, me: NodeId, now: Moment, old: Option<&Group>, new: &Group) {
    seat.applied_at = now;
    if old.is_none_or(|old| old.epoch != new.epoch) {
        seat.promoted_at = now;
        seat.reports.clear();
        seat.missing.clear();
        seat.remote_seal = None;
        seat.leave_marks.clear();
        seat.full = None;
        seat.membership.mark = None;
        seat.membership.report = None;
        seat.membership.online.clear();
        seat.membership.inherited = false;
        seat.membership.handover_failed = None;
        if seat.renewal.as_ref().is_some_and(|(_, renewal)| renewal.epoch < new.epoch) {
            seat.renewal = None;
        }
        if old.is_none() {
            seat.membership.lost_at = new.version;
        }
        if new.primary_node() == Some(me) {
            let (fenced, marked) = (seat.lease.fenced, seat.lease.marked);
            seat.lease = Lease { epoch: new.epoch, fenced, marked, renew_now: true, ..Lease::default() };
        }
    }
    let sealing = |group: &Group| matches!(group.phase, Phase::Sealing { .. });
    if sealing(new) && !old.is_some_and(|old| sealing(old) && old.epoch == new.epoch) {
        seat.sealing_at = now;
        seat.sealed_at = None;
        seat.membership.report = None;
        seat.instance.retry_at = now;
    }
    if new.forced.is_some() && old.is_none_or(|old| old.forced != new.forced) {
        seat.forced_at = now;
    }
    let switching = |group: &Group| matches!(group.phase, Phase::Switching { .. });
    if switching(new) && !old.is_some_and(switching) {
        seat.switching_at = now;
        seat.membership.handover_failed = None;
        seat.membership.handed_over = None;
    }
    for (node, follower) in &new.followers {
        if old.and_then(|old| old.followers.get(node)).is_none_or(|known| known.since != follower.since) {
            seat.missing.remove(node);
        }
    }
}
