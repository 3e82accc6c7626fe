//! Leaving F (S5): who is detached for good, and when all the others hold what it may have acknowledged.
//!
//! A member that may not follow says so once its instance is detached, with the version of the group that it had
//! applied. The primary then reads its own offset: nothing beyond that was ever acknowledged by the one that leaves, and
//! when every follower has passed it, R can do without. Only the primary's own INFO counts, asked for after the word
//! came: what others repeat of it may be older than the seal.

use super::View;
use super::seat::{Condition, Posture, Seat};
use crate::cluster::{Departed, Group, GroupName, NodeId, Offset, Version};

impl View {
    /// As a member that may not follow: the version of the group in which that is so, once the instance is detached.
    pub fn rested(&self, name: &GroupName) -> Option<Version> {
        let (group, seat) = (self.group(name)?, self.seats.get(name)?);
        if !self.mine.contains(name) || group.primary_node() == Some(self.me) {
            return None;
        }
        let outside = match group.followers.get(&self.me) {
            Some(follower) => follower.leaving.is_some(),
            None => group.departed.contains_key(&self.me),
        };
        let detached = seat.instance.posture == Posture::Sealed || seat.instance.condition == Condition::Gone;
        (outside && detached && seat.instance.task.is_none()).then_some(group.version)
    }

    pub(super) fn fold_rested(&mut self, from: NodeId, name: &GroupName, version: Version) {
        let now = self.now;
        let Some(seat) = self.seats.get_mut(name) else { return };
        if seat.rested.get(&from).is_none_or(|(known, _)| *known < version) {
            seat.rested.insert(from, (version, now));
        }
    }

    /// As the serving primary: notes the offset that bounds what each one that leaves, or left, has acknowledged.
    pub(super) fn settle_departures(&mut self, name: &GroupName, group: &Group) {
        let (me, epoch) = (self.me, group.epoch);
        let Some(seat) = self.seats.get_mut(name) else { return };
        let leavers = leavers(group);
        seat.leave_marks.retain(|node, (version, _)| leavers.contains(&(*node, *version)));
        if group.primary_node() != Some(me) || seat.instance.posture != Posture::Serving(epoch) {
            return;
        }
        for (node, version) in leavers {
            if !seat.leave_marks.contains_key(&node)
                && let Some(offset) = detached_before(group, seat, node, version)
            {
                seat.leave_marks.insert(node, (version, offset));
            }
        }
    }

    /// Whether every other follower is known to hold what `leaver` may have acknowledged, by this primary's INFO.
    pub fn passed_without(&self, group: &Group, seat: &Seat, leaver: NodeId) -> bool {
        let Some((_, mark)) = seat.leave_marks.get(&leaver) else { return false };
        let Some(info) = seat.instance.seen() else { return false };
        let holds = |node: &NodeId| {
            let address = group.members.get(node).map(|member| &member.announce);
            info.replicas.iter().any(|row| Some(&row.address) == address && row.online && row.offset >= *mark)
        };
        group.followers.keys().filter(|node| **node != leaver).all(holds)
    }
}

/// Those that leave by the two commits, and those that left without, by the version from which on they may not follow.
fn leavers(group: &Group) -> Vec<(NodeId, Version)> {
    let leaving = group.followers.iter().filter_map(|(node, follower)| Some((*node, follower.leaving?)));
    let departed = group.departed.iter().filter(|(node, _)| !group.followers.contains_key(node));
    leaving.chain(departed.map(|(node, departed)| (*node, departed.since))).collect()
}

/// The primary's offset, if it was asked for after `node` was known to be detached: by its own word or, once it is no
/// member any more by an operator's word, by its absence from the primary's replicas. Where its address is another
/// member's by now, the one replica there is that member's, and counts in F since it was let in: a node that lost its store
/// comes back under another number beside the very instance that was attached all the time.
fn detached_before(group: &Group, seat: &Seat, node: NodeId, version: Version) -> Option<Offset> {
    let info = seat.instance.seen()?;
    let said = seat.rested.get(&node).is_some_and(|(known, at)| *known >= version && info.asked > *at);
    let removed = !group.members.contains_key(&node)
        && seat.instance.version >= version
        && group.departed.get(&node).is_some_and(|departed| {
            let rows = info.replicas.iter().filter(|row| row.address == departed.announce).count();
            rows == 0 || (rows == 1 && has_heir(group, seat, departed))
        });
    (said || removed).then_some(info.offset)
}

/// Whether a follower that was let in since has the address, and the primary's offset is of after that.
fn has_heir(group: &Group, seat: &Seat, departed: &Departed) -> bool {
    let heir = group.members.iter().find(|(_, member)| member.announce == departed.announce);
    heir.and_then(|(node, _)| group.followers.get(node))
        .is_some_and(|heir| heir.since > departed.since && seat.instance.version >= heir.since)
}
