//! Full resynchronisations one after the other, and whether the backlog spares them.
//!
//! A full resynchronisation costs the primary a fork, its disk or network, and the replica its data: after a promotion not
//! all replicas that need one may have it at once. The primary says in its renewals whose turn it is; who can continue
//! waits for nobody. An instance that follows already is never detached for this.

use super::View;
use super::event::{Info, Serving, Slot};
use super::moment::Moment;
use super::seat::{Condition, Posture, Rate};
use crate::cluster::{Group, GroupName, NodeId, Offset, Phase};
use std::time::Duration;

/// Whose turn it is has so many leases to begin.
const TURN_LEASES: u32 = 5;
/// What a replica's restart may take, beside [`AWAY_LEASES`].
const RESTART: Duration = Duration::from_secs(10);
/// See [`RESTART`].
const AWAY_LEASES: u32 = 5;
/// The rate is measured over at least this.
const MEASURE: Duration = Duration::from_secs(1);

impl View {
    /// Whether the detached instance here would be synchronised in full and it is not its turn.
    pub(super) fn must_queue(&self, name: &GroupName) -> bool {
        let Some((group, serving)) = self.offered(name) else { return false };
        match serving.full {
            Slot::Free => false,
            Slot::Only(turn) => turn != Some(self.me) && self.needs_full(name, group, serving),
        }
    }

    /// Whether something is to be done before the detached instance may be let in and lose its data.
    pub fn must_wait(&self, name: &GroupName) -> bool {
        self.to_quarantine(name).is_some() || self.must_queue(name)
    }

    /// Whether this node asks for its turn.
    pub fn wants_full(&self, name: &GroupName) -> bool {
        let Some((group, serving)) = self.offered(name) else { return false };
        let Some(seat) = self.seats.get(name) else { return false };
        let ready = seat.instance.condition == Condition::Up
            && self.stopping.is_none()
            && !matches!(group.phase, Phase::Sealing { .. })
            && group.members.contains_key(&self.me)
            && seat.instance.seen().is_some()
            // Foreign data is not thrown away (S13).
            && self.foreign_keys(name).is_none();
        ready && self.to_quarantine(name).is_none() && self.needs_full(name, group, serving)
    }

    /// Whether the detached instance here would be synchronised in full, by what the primary said last.
    pub(super) fn expects_full(&self, name: &GroupName) -> bool {
        self.offered(name).is_none_or(|(group, serving)| self.needs_full(name, group, serving))
    }

    fn offered(&self, name: &GroupName) -> Option<(&Group, &Serving)> {
        let group = self.group(name)?;
        let (heard, renewal) = self.seats.get(name)?.renewal.as_ref()?;
        let fresh = renewal.epoch == group.epoch && self.now.since(*heard) < self.lease();
        renewal
            .serving
            .as_ref()
            .filter(|_| fresh && group.primary_node() != Some(self.me))
            .map(|serving| (group, serving))
    }

    fn needs_full(&self, name: &GroupName, group: &Group, serving: &Serving) -> bool {
        let Some(seat) = self.seats.get(name) else { return false };
        let Some(info) = seat.instance.seen().filter(|_| seat.instance.posture == Posture::Sealed) else {
            return false;
        };
        let start = group.starts.get(&group.epoch).map(|start| start.offset);
        let kin = info.replid == serving.replid
            || (info.replid == serving.replid2 && start.is_some_and(|start| info.offset <= start));
        // One that was restarted and promoted before anybody followed it has no backlog: nobody can continue from it.
        !kin || serving.backlog == Offset(0) || info.offset.next() < serving.backlog
    }

    /// As the primary: whose turn it is.
    pub(super) fn settle_full(&mut self, name: &GroupName, group: &Group) {
        let (now, lease, me) = (self.now, self.state.lease, self.me);
        let heard = |node: &NodeId| {
            self.peers.get(node).and_then(|peer| peer.heard).is_some_and(|heard| now.since(heard) < lease)
        };
        let Some(seat) = self.seats.get(name) else { return };
        let serves = group.primary_node() == Some(me) && seat.instance.posture == Posture::Serving(group.epoch);
        let Some(info) = seat.instance.seen().filter(|_| serves) else { return };
        let node_of = |address: &String| group.members.iter().find(|(_, member)| member.announce == *address);
        let busy: Vec<NodeId> = info
            .replicas
            .iter()
            .filter(|row| row.syncing)
            .filter_map(|row| node_of(&row.address).map(|(node, _)| *node))
            .collect();
        let asks = |node: &NodeId| {
            heard(node) && seat.health.get(node).is_some_and(|health| health.full && health.epoch == group.epoch)
        };
        // Between its last asking and the first INFO that shows it attached, it has its turn all the same.
        let attached = |node: &NodeId| {
            let address = group.members.get(node).map(|member| &member.announce);
            info.replicas.iter().any(|row| Some(&row.address) == address)
        };
        let begins = |node: &NodeId, since: Moment| {
            heard(node) && (asks(node) || !attached(node)) && now.since(since) < lease * TURN_LEASES
        };
        let kept = seat.full.filter(|(node, since)| busy.contains(node) || begins(node, *since));
        let before = seat.full.map_or(seat.full_before, |(node, _)| node);
        let next = || {
            let asking: Vec<NodeId> = group.members.keys().filter(|node| asks(node)).copied().collect();
            let turn = asking.iter().find(|node| **node > before).or(asking.first());
            turn.filter(|_| busy.is_empty()).map(|node| (*node, now))
        };
        let turn = kept.or_else(next);
        if let Some(seat) = self.seats.get_mut(name)
            && seat.full != turn
        {
            seat.full_before = before;
            seat.full = turn;
            seat.lease.renew_now = true;
        }
    }

    /// What this primary says in its renewals: an empty data set costs nothing.
    pub(super) fn slot(&self, name: &GroupName, info: &Info) -> Slot {
        let turn = self.seats.get(name).and_then(|seat| seat.full).map(|(node, _)| node);
        if info.keys == 0 { Slot::Free } else { Slot::Only(turn) }
    }

    /// The backlog that this primary's rate of writing asks for, where its own is too short.
    pub fn short_backlog(&self, name: &GroupName) -> Option<(u64, u64)> {
        let seat = self.seats.get(name)?;
        let (_, size) = seat.instance.seen()?.backlog;
        seat.instance.rate.short.then(|| (size, needed(seat.instance.rate.bytes, self.lease())))
    }
}

fn needed(rate: u64, lease: Duration) -> u64 {
    let away = lease * AWAY_LEASES + RESTART;
    rate.saturating_mul(u64::try_from(away.as_millis()).unwrap_or(u64::MAX)) / 1000
}

impl Rate {
    /// A look at the serving primary.
    pub(super) fn measure(&mut self, now: Moment, lease: Duration, info: &Info) {
        let same = self.from.take().filter(|(run_id, _, before)| *run_id == info.run_id && *before <= info.offset);
        let Some((run_id, since, before)) = same else {
            *self = Self { from: Some((info.run_id.clone(), now, info.offset)), ..Self::default() };
            return;
        };
        let length = now.since(since);
        if length < MEASURE {
            self.from = Some((run_id, since, before));
            return;
        }
        let grown = info.offset.0 - before.0;
        let bytes = u64::try_from(u128::from(grown) * 1000 / length.as_millis().max(1)).unwrap_or(u64::MAX);
        self.bytes = (self.bytes / 4).saturating_mul(3).saturating_add(bytes / 4);
        self.from = Some((run_id, now, info.offset));
        let (need, size) = (needed(self.bytes, lease), info.backlog.1);
        // Said once, and taken back only when it is clearly over.
        self.short = size > 0 && if self.short { need.saturating_mul(2) > size } else { need > size };
    }
}
