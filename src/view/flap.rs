//! Flap protection: who gave the primary's place up again and again, by faults, and for how long it is passed over.
//!
//! Counted by every node for itself, by its own clock, from the changes it applies; a restart forgets it. It only orders
//! candidates: it must never be what keeps the only one from being promoted, which is `decide`'s care.

use super::moment::Moment;
use super::seat::Seat;
use crate::cluster::{Group, NodeId, Why};
use std::time::Duration;

/// So many faults in a row are an accident.
const FORGIVEN: u32 = 1;
/// The first penance, in leases; doubled with each further fault.
const PENANCE_LEASES: u32 = 10;
/// The longest.
const LONGEST: Duration = Duration::from_secs(600);

/// The faults of one node as the primary.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// In a row, each before the penance for those before was over twice.
    pub count: u32,
    /// The last one.
    pub last: Moment,
}

impl Faults {
    /// How long the node is passed over after its last fault.
    pub fn penance(&self, lease: Duration) -> Duration {
        match self.count.checked_sub(FORGIVEN + 1) {
            None => Duration::ZERO,
            Some(doubled) => (lease * PENANCE_LEASES * (1 << doubled.min(16))).min(LONGEST),
        }
    }
}

impl Why {
    fn is_fault(self) -> bool {
        !matches!(self, Why::FirstStart | Why::Operator | Why::Shutdown | Why::InstanceStopped)
    }
}

impl Seat {
    /// Whether a node is passed over now, while another candidate proves as much.
    pub fn flaps(&self, node: NodeId, now: Moment, lease: Duration) -> bool {
        self.faults.get(&node).is_some_and(|faults| now.since(faults.last) < faults.penance(lease))
    }

    /// Counts the changes that were applied since `old`.
    pub(super) fn note_faults(&mut self, now: Moment, lease: Duration, old: &Group, new: &Group) {
        for change in new.history.iter().filter(|change| change.epoch > old.epoch && change.why.is_fault()) {
            let Some(node) = change.from else { continue };
            let faults = self.faults.entry(node).or_default();
            let grace = (faults.penance(lease) * 2).max(lease * PENANCE_LEASES * 2);
            let again = faults.count > 0 && now.since(faults.last) < grace;
            faults.count = if again { faults.count.saturating_add(1) } else { 1 };
            faults.last = now;
        }
    }
}
