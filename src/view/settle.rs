//! What time and the folded event together settle: the guardian's seal, the record of an attachment, who is missing.

use super::View;
use super::event::{Serving, Task};
use super::evidence::{before, history};
use super::seat::{Condition, Posture, Seat};
use crate::cluster::{Attached, Epoch, Group, GroupName, Lineage, NodeId, Phase, Replid, Version};
use std::sync::Arc;
use std::time::Duration;

/// A task whose end was never reported counts as lost after this; shells bound theirs well below.
const TASK_LIMIT: Duration = Duration::from_secs(30);

/// Saving a large instance's data takes its time.
const SAVE_LIMIT: Duration = Duration::from_secs(6 * 3600);

/// Whom the local instance may follow now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FollowTarget {
    /// The primary's node.
    pub node: NodeId,
    /// Its instance's `host:port`.
    pub announce: String,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its replication id.
    pub replid: Replid,
    /// The one before, which holds up to the epoch's start offset.
    pub replid2: Replid,
}

impl View {
    pub(super) fn settle(&mut self) {
        for seat in self.seats.values_mut() {
            let limit = |task| if task == Task::Quarantine { SAVE_LIMIT } else { TASK_LIMIT };
            if seat.instance.task.is_some_and(|(task, _, since)| self.now.since(since) >= limit(task)) {
                seat.instance.task = None;
            }
        }
        let state = Arc::clone(&self.state);
        for (name, group) in &state.groups {
            self.settle_guardian(name, group);
            self.settle_seals(name, group);
            self.settle_incumbent(name, group);
            self.settle_divergence(name, group);
            self.settle_rest(name);
            self.settle_full(name, group);
            self.settle_attachment(name, group);
            self.settle_leader(name, group);
            self.settle_departures(name, group);
            self.settle_stopping(name);
        }
    }

    /// S4: what was promoted is the epoch's data by definition. Recorded while the state says so: sealed only in a later
    /// epoch, as after a long silence, it would else claim less than it has, and lose against a follower that lacks it.
    fn settle_incumbent(&mut self, name: &GroupName, group: &Group) {
        let Some(primary) = group.primary.as_ref().filter(|primary| primary.node == self.me) else { return };
        let Some(seat) = self.seats.get(name) else { return };
        if seat.instance.run_id().is_some_and(|run_id| *run_id != primary.run_id) {
            return;
        }
        let local = self.local.groups.entry(name.clone()).or_default();
        let known = local.lineage.as_ref().is_some_and(|l| l.run_id == primary.run_id && l.epoch >= group.epoch);
        if !known {
            local.lineage = Some(Lineage { run_id: primary.run_id.clone(), epoch: group.epoch });
        }
        // Its own replication id of this epoch: data under it, however long, is this epoch's. An RDB file of before the
        // promotion has the one that it was known by then.
        if let Some(info) = seat.instance.seen()
            && seat.instance.posture == Posture::Serving(group.epoch)
            && info.primary
        {
            let (run_id, replid, from) = (info.run_id.clone(), info.replid.clone(), info.replid2.clone());
            let first = (group.epoch == Epoch(1)).then_some(Epoch(0));
            let home = group.starts.get(&group.epoch).and_then(|start| start.data).or(first);
            local.attached = Some(Attached { run_id, epoch: group.epoch, replid, from, home });
        }
    }

    /// S3: notes when a majority of guardians has sealed.
    fn settle_seals(&mut self, name: &GroupName, group: &Group) {
        let Phase::Sealing { next, .. } = group.phase else { return };
        let Some(seat) = self.seats.get(name) else { return };
        let sealed = self.state.guardians.majority_of(|id| self.seal_of(name, seat, id) >= next);
        let now = self.now;
        if let Some(seat) = self.seats.get_mut(name) {
            seat.sealed_at = seat.sealed_at.or(Some(now)).filter(|_| sealed);
        }
    }

    /// The durable seal of a guardian as known here; this node's own counts once it is on disk.
    pub fn seal_of(&self, name: &GroupName, seat: &Seat, id: NodeId) -> Epoch {
        if id == self.me {
            return self.saved.groups.get(name).map(|local| local.guardian_sealed).unwrap_or_default();
        }
        seat.seals.get(&id).copied().unwrap_or_default()
    }

    /// S2: seals only after every promise ran out or was surrendered; restarted, only after its longest lease.
    fn settle_guardian(&mut self, name: &GroupName, group: &Group) {
        let Phase::Sealing { next, .. } = group.phase else { return };
        if !self.state.guardians.all().contains(&self.me) {
            return;
        }
        let Some(seat) = self.seats.get_mut(name) else { return };
        let given_up = seat.surrendered.is_some_and(|(epoch, _)| epoch.next() >= next) || group.epoch == Epoch(0);
        let silent_until = self.started + self.saved.longest_lease;
        let free = given_up || (!seat.promise_live(self.now) && self.now >= silent_until);
        let local = self.local.groups.entry(name.clone()).or_default();
        if free && local.guardian_sealed < next {
            seat.owed.retain(|(_, epoch, _)| *epoch >= next);
            local.guardian_sealed = next;
            self.urgent = true;
        }
    }

    /// Whom the local instance may follow: F grows before it follows (S5), a primary is followed only while its
    /// renewals are heard (S8), and nothing below a seal is followed ever (S2).
    pub fn follow_target(&self, name: &GroupName) -> Option<FollowTarget> {
        let group = self.group(name)?;
        let seat = self.seats.get(name)?;
        let primary = group.primary.as_ref().filter(|primary| primary.node != self.me)?;
        let (heard, renewal) = seat.renewal.as_ref()?;
        let serving = renewal.serving.as_ref()?;
        let follower = group.followers.get(&self.me)?;
        let sealed = self.local.groups.get(name).map(|local| local.member_sealed).unwrap_or_default();
        let fit = !matches!(group.phase, Phase::Sealing { .. })
            && renewal.epoch == group.epoch
            && self.now.since(*heard) < self.lease()
            && sealed <= group.epoch
            && follower.leaving.is_none()
            && self.to_quarantine(name).is_none()
            && !self.owes_older_loss(name, seat)
            && !self.must_queue(name)
            && Some(&follower.run_id) == seat.instance.run_id();
        fit.then(|| FollowTarget {
            node: primary.node,
            announce: group.members.get(&primary.node).map(|member| member.announce.clone()).unwrap_or_default(),
            epoch: group.epoch,
            replid: serving.replid.clone(),
            replid2: serving.replid2.clone(),
        })
    }

    /// Records whom the instance is about to follow, with the lineage it has so far; saved before it is done. Where a
    /// full resynchronisation must be expected lineage ends here: it can throw the old data away, be cut off and leave
    /// the old offset standing between two looks (S4). One that attaches again within the epoch keeps it till it is seen to load.
    fn settle_attachment(&mut self, name: &GroupName, group: &Group) {
        let Some(target) = self.follow_target(name) else { return };
        let Some(info) = self.seats.get(name).and_then(|seat| seat.instance.seen()).cloned() else { return };
        let (run_id, from) = (info.run_id.clone(), info.replid.clone());
        let start = group.starts.get(&target.epoch);
        let kin = info.replid == target.replid2 && start.is_some_and(|start| info.offset <= start.offset);
        let home = match self.local.groups.get(name) {
            _ if kin => start.and_then(|start| start.data).or_else(|| Some(before(group, target.epoch))),
            Some(local) => history(group, local, &info),
            None => None,
        };
        let wanted = Attached { run_id, epoch: target.epoch, replid: target.replid, from, home };
        let same = |known: &Attached| {
            (&known.run_id, known.epoch, &known.replid) == (&wanted.run_id, wanted.epoch, &wanted.replid)
        };
        if self.local.groups.get(name).and_then(|local| local.attached.as_ref()).is_some_and(same) {
            return;
        }
        // Its final offset shows what it holds that the group lacks (S11).
        let known = self.local.groups.get(name).and_then(|local| local.attached.as_ref());
        let here = known.is_some_and(|known| known.run_id == wanted.run_id && known.epoch == wanted.epoch);
        let judged = |seat: &Seat| seat.instance.posture == Posture::Sealed && seat.instance.condition == Condition::Up;
        if !here && !self.seats.get(name).is_some_and(judged) {
            return;
        }
        if !here && self.expects_full(name) {
            self.void_lineage(name);
        }
        let local = self.local.groups.entry(name.clone()).or_default();
        let lineage = super::lineage::data_epoch(group, local, &info);
        local.lineage = lineage.map(|epoch| Lineage { run_id: info.run_id.clone(), epoch });
        local.attached = Some(wanted);
        if let Some(seat) = self.seats.get_mut(name)
            && matches!(seat.instance.posture, Posture::Following(_))
        {
            seat.instance.posture = Posture::Unknown;
        }
    }

    /// What this node, serving the group, tells of its data.
    pub fn serving(&self, name: &GroupName) -> Option<Serving> {
        let group = self.group(name)?;
        let instance = &self.seats.get(name)?.instance;
        let info = instance.seen()?;
        let serves = group.primary_node() == Some(self.me) && instance.posture == Posture::Serving(group.epoch);
        let rows = info.replicas.iter().filter_map(|row| {
            let node = group.members.iter().find(|(_, member)| member.announce == row.address)?.0;
            Some((*node, (row.online, row.offset)))
        });
        serves.then(|| Serving {
            replid: info.replid.clone(),
            replid2: info.replid2.clone(),
            offset: info.offset,
            followers: rows.collect(),
            backlog: info.backlog.0,
            full: self.slot(name, info),
        })
    }

    /// What the serving primary says of its data, with the group's version it had applied before: this node's own
    /// word, or the last renewal heard.
    pub fn served(&self, name: &GroupName) -> Option<(Version, Serving)> {
        let (group, seat) = (self.group(name)?, self.seats.get(name)?);
        if let Some(own) = self.serving(name) {
            return Some((seat.instance.version, own));
        }
        let (_, renewal) = seat.renewal.as_ref().filter(|(_, renewal)| renewal.epoch == group.epoch)?;
        renewal.serving.clone().map(|serving| (renewal.version, serving))
    }

    /// Whether the leader knows from the serving primary itself, and freshly, who follows it.
    pub fn serving_heard(&self, seat: &Seat, group: &Group) -> bool {
        if group.primary_node() == Some(self.me) {
            return seat.instance.posture == Posture::Serving(group.epoch);
        }
        seat.renewal.as_ref().is_some_and(|(at, renewal)| {
            renewal.epoch == group.epoch && renewal.serving.is_some() && self.now.since(*at) < self.lease() / 2
        })
    }

    fn settle_leader(&mut self, name: &GroupName, group: &Group) {
        let (me, now, leading) = (self.me, self.now, self.leadership.leading);
        let served = self.served(name);
        let Some(seat) = self.seats.get_mut(name) else { return };
        if group.pause.is_none() || !leading || seat.pause_known != group.paused_at {
            // A leader that has not seen it from the beginning counts anew: longer, never shorter. Another pause runs its
            // own time, also where the one before had run out and was not taken back yet.
            seat.pause_seen = (group.pause.is_some() && leading).then_some(now);
            seat.pause_known = group.paused_at;
        } else {
            seat.pause_seen.get_or_insert(now);
        }
        note_online(seat, me, group);
        if !leading || matches!(group.phase, Phase::Sealing { .. }) {
            seat.missing.clear();
            return;
        }
        if let Some((former, (version, serving))) = group.former_quorum.as_ref().zip(served.as_ref())
            && *version >= former.since
            && seat.quorum_mark.is_none_or(|(since, _)| since != former.since)
        {
            seat.quorum_mark = Some((former.since, serving.offset));
        }
        let present = |node: &NodeId| served.as_ref().is_some_and(|(_, serving)| serving.followers.contains_key(node));
        let absent: Vec<NodeId> = group.followers.keys().filter(|node| !present(node)).copied().collect();
        seat.missing.retain(|node, _| absent.contains(node));
        for node in absent {
            seat.missing.entry(node).or_insert(now);
        }
    }
}

/// As the primary: remembers which followers have been online since they last joined (S5, min-replicas).
fn note_online(seat: &mut Seat, me: NodeId, group: &Group) {
    if group.primary_node() != Some(me) {
        return;
    }
    let Some(info) = seat.instance.seen() else { return };
    for (node, follower) in &group.followers {
        let address = group.members.get(node).map(|member| &member.announce);
        let online = info.replicas.iter().any(|row| row.online && Some(&row.address) == address);
        if online {
            seat.membership.online.insert(*node, follower.since);
        }
    }
    seat.membership.online.retain(|node, since| group.followers.get(node).is_some_and(|f| f.since == *since));
}
