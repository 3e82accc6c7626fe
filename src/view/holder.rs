//! Who serves a group, as far as this node may tell clients (S9), and for how long that word is good.
//!
//! Of itself a node knows it by its lease and its instance's ROLE. Of another one it takes the word of the renewals: they
//! are sent only while the lease holds, and say how long it still does. Their time starts when they were sent, which
//! another host's clock does not tell; but what a renewal took longer than the quickest of its epoch, because a link or
//! this agent stood still, is taken off. So the word is never out of date by more than a message's ordinary way, and
//! ends at once with a seal or a surrender.

use super::View;
use super::event::{Renewal, Task};
use super::moment::Moment;
use super::seat::Posture;
use crate::cluster::{Epoch, GroupName, NodeId, Phase};
use std::time::Duration;

/// Two hosts' clocks part by no more than this share of the time, as NTP slews them: half of it.
const DRIFT: i128 = 1000;

/// The last renewals' ways from one primary's clock to this node's.
#[derive(Debug, Clone, Default)]
pub struct Word {
    epoch: Epoch,
    /// This node's clock less the primary's, in nanoseconds, by the quickest renewal, and when that was settled.
    base: Option<(i128, Moment)>,
    /// Until when the last renewal's word is good.
    until: Moment,
}

impl Word {
    /// A renewal was heard, newer than those before.
    pub(super) fn heard(&mut self, now: Moment, renewal: &Renewal) {
        if self.epoch != renewal.epoch {
            // Another process, maybe after a reboot: another clock.
            *self = Self { epoch: renewal.epoch, ..Self::default() };
        }
        let way = i128::from(now.0) - i128::from(renewal.sent_at.0);
        let base = self.base.map(|(base, at)| base + i128::from(now.0.saturating_sub(at.0)) / DRIFT);
        let quickest = base.map_or(way, |base| base.min(way));
        self.base = Some((quickest, now));
        let late = Duration::from_nanos(u64::try_from(way - quickest).unwrap_or(u64::MAX));
        self.until = self.until.max(now + renewal.left.min(renewal.lease).saturating_sub(late));
    }
}

impl View {
    /// Who serves the group, and until when that may be said.
    pub fn holder(&self, name: &GroupName) -> Option<(NodeId, Moment)> {
        let (group, seat) = (self.group(name)?, self.seats.get(name)?);
        let primary = group.primary_node()?;
        let over = seat.surrendered.is_some_and(|(epoch, _)| epoch >= group.epoch);
        if over || matches!(group.phase, Phase::Sealing { .. }) {
            return None;
        }
        let until = if primary == self.me {
            let leaves = seat.instance.task.is_some_and(|(task, ..)| matches!(task, Task::Handover | Task::Fence));
            let serves = seat.instance.posture == Posture::Serving(group.epoch) && !leaves;
            self.lease_end(name).filter(|_| serves)?
        } else {
            let (_, renewal) = seat.renewal.as_ref().filter(|(_, renewal)| renewal.epoch == group.epoch)?;
            renewal.serving.as_ref().filter(|_| seat.word.epoch == group.epoch)?;
            seat.word.until
        };
        (until > self.now).then_some((primary, until))
    }
}
