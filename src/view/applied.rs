//! What a change of the replicated state means for the volatile part: a new epoch begins with nothing heard yet.

use super::View;
use super::event::Topic;
use super::fold::PROPOSAL_BACKOFF;
use super::moment::Moment;
use super::seat::{Lease, Seat};
use crate::cluster::{Group, NodeId, Phase, State};
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
        for (name, group) in &after.groups {
            let old = before.groups.get(name);
            if old.is_some_and(|old| old.version == group.version) {
                continue;
            }
            let (now, me) = (self.now, self.me);
            let seat = self.seats.entry(name.clone()).or_default();
            apply_group(seat, me, now, old, group);
            self.urgent = true;
            for topic in [Topic::Group(name.clone()), Topic::Own(name.clone())] {
                // An answered proposal only waited for this; one that is under way is still waited for.
                if let Some(free_at) = self.proposed.get_mut(&topic).filter(|at| **at <= now + PROPOSAL_BACKOFF) {
                    *free_at = now;
                }
            }
        }
    }
}

/// What a change of the replicated group means for the volatile part.
fn apply_group(seat: &mut Seat, me: NodeId, now: Moment, old: Option<&Group>, new: &Group) {
    seat.applied_at = now;
    if old.is_none_or(|old| old.epoch != new.epoch) {
        seat.promoted_at = now;
        seat.reports.clear();
        seat.missing.clear();
        seat.remote_seal = None;
        seat.membership.mark = None;
        seat.membership.report = None;
        seat.membership.online.clear();
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
    if sealing(new) && !old.is_some_and(sealing) {
        seat.sealing_at = now;
        seat.membership.report = None;
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
