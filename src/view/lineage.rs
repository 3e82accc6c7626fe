//! Lineage: which epoch's data an instance holds, and when that is proved (S4, S5).
//!
//! It belongs to one process. A restart, a full resynchronisation, or having been outside the followers set ends it; it
//! is regained at the offset that the primary had after the commit that let the process in was applied there.

use super::View;
use super::event::{Info, Renewal, Report};
use super::seat::Posture;
use crate::cluster::{Epoch, Group, GroupName, Lineage, LocalGroup, Phase};

impl View {
    /// The lineage that `info` proves with what is recorded here.
    pub fn lineage_of(&self, name: &GroupName, info: &Info) -> Option<Epoch> {
        let group = self.group(name)?;
        if group.primary.as_ref().is_some_and(|p| p.node == self.me && p.run_id == info.run_id) {
            return Some(group.epoch);
        }
        data_epoch(group, self.local.groups.get(name)?, info)
    }

    /// A full resynchronisation voids lineage from the first sight of it (S4).
    pub(super) fn void_lineage(&mut self, name: &GroupName) {
        let version = self.group(name).map(|group| group.version).unwrap_or_default();
        let local = self.local.groups.entry(name.clone()).or_default();
        if local.lineage.take().is_some()
            && let Some(seat) = self.seats.get_mut(name)
        {
            seat.membership.lost_at = version;
            seat.membership.mark = None;
        }
    }

    /// Called with every INFO: voids, and regains.
    pub(super) fn fold_lineage(&mut self, name: &GroupName, info: &Info) {
        let Some(group) = self.group(name).cloned() else { return };
        if !self.seats.contains_key(name) {
            return;
        }
        let local = self.local.groups.get(name).cloned().unwrap_or_default();
        if local.lineage.as_ref().is_some_and(|lineage| lineage.run_id != info.run_id) {
            self.void_lineage(name);
            return;
        }
        let attached = local.attached.as_ref().filter(|attached| attached.run_id == info.run_id);
        let follows = info.upstream.is_some() && attached.is_some();
        if follows && (info.syncing || info.loading) && info.upstream.as_deref() != Some(super::fold::NOWHERE) {
            self.note_half(name, info);
            return;
        }
        let arrived = follows && info.link_up && attached.is_some_and(|attached| attached.replid == info.replid);
        if !arrived {
            return;
        }
        // A full resynchronisation is complete, whether or not its data is proved yet.
        let newer = self.seats.get(name).is_some_and(|seat| info.asked > seat.membership.voided_at);
        if local.voided.as_ref() == Some(&info.run_id) && newer {
            self.local.groups.entry(name.clone()).or_default().voided = None;
            self.note_whole(name, info);
        }
        // Between two looks a small full resynchronisation can begin and end; it leaves no second replication id.
        if attached.is_some_and(|attached| attached.from != info.replid && attached.from != info.replid2) {
            self.void_lineage(name);
            let local = self.local.groups.entry(name.clone()).or_default();
            if let Some(attached) = &mut local.attached {
                attached.from = info.replid.clone();
                attached.home = Some(attached.epoch);
            }
        }
        self.regain_lineage(name, &group, info);
    }

    /// A seal found it synchronising or loading. A process that was attached to nobody yet was loading its own file: that
    /// stays as whole as it is.
    pub(super) fn note_cut_off(&mut self, name: &GroupName, info: &Info) {
        self.void_lineage(name);
        let record = self.local.groups.get(name).and_then(|local| local.attached.as_ref());
        if record.is_some_and(|attached| attached.run_id == info.run_id) {
            self.note_half(name, info);
        }
    }

    /// A full resynchronisation is under way, or was cut off: what is there may be half of anything.
    fn note_half(&mut self, name: &GroupName, info: &Info) {
        self.void_lineage(name);
        self.local.groups.entry(name.clone()).or_default().voided = Some(info.run_id.clone());
        if let Some(seat) = self.seats.get_mut(name) {
            seat.membership.voided_at = seat.membership.voided_at.max(info.asked);
        }
    }

    /// A slow instance's answer of before the seal comes after the report: what it holds is whole, and may be the best that
    /// is left after a cold start (S14). The seal's own look found no further resynchronisation under way.
    fn note_whole(&mut self, name: &GroupName, info: &Info) {
        let report = self.seats.get_mut(name).and_then(|seat| seat.membership.report.as_mut());
        if let Some(report) = report.filter(|report| report.run_id == info.run_id && report.voided) {
            report.voided = false;
            self.urgent = true;
        }
    }

    fn regain_lineage(&mut self, name: &GroupName, group: &Group, info: &Info) {
        let Some(seat) = self.seats.get(name) else { return };
        let local = self.local.groups.entry(name.clone()).or_default();
        let Some(follower) = group.followers.get(&self.me) else { return };
        let admitted =
            follower.run_id == info.run_id && follower.since > seat.membership.lost_at && follower.leaving.is_none();
        let marked = seat.membership.mark.is_some_and(|(epoch, since, offset)| {
            epoch == group.epoch && since == follower.since && info.offset >= offset
        });
        // Recorded as soon as it is seen: the primary may take a new replication id within its epoch.
        let reached = data_epoch(group, local, info);
        if let (Some(lineage), Some(reached)) = (&mut local.lineage, reached) {
            lineage.epoch = lineage.epoch.max(reached);
        }
        let here = local.attached.as_ref().is_some_and(|attached| attached.epoch == group.epoch);
        if local.lineage.is_none() && admitted && marked && here {
            local.lineage = Some(Lineage { run_id: info.run_id.clone(), epoch: group.epoch });
            local.voided = None;
            self.urgent = true;
        }
    }

    /// The first renewal that was written after the commit that let this process in gives the offset to reach.
    pub(super) fn fold_mark(&mut self, name: &GroupName, renewal: &Renewal) {
        let Some(group) = self.group(name) else { return };
        let (Some(follower), Some(serving)) = (group.followers.get(&self.me), &renewal.serving) else { return };
        let (since, epoch) = (follower.since, group.epoch);
        if renewal.epoch != epoch || renewal.version < since {
            return;
        }
        let offset = serving.offset;
        if let Some(seat) = self.seats.get_mut(name)
            && seat.membership.mark.is_none_or(|(known, at, _)| (known, at) != (epoch, since))
        {
            seat.membership.mark = Some((epoch, since, offset));
        }
    }

    /// The instance was just sealed: settle its lineage, record the seal, and prepare the report (S3).
    pub(super) fn note_sealed(&mut self, name: &GroupName) {
        let Some(group) = self.group(name) else { return };
        let Phase::Sealing { next, .. } = group.phase else { return };
        let Some(info) = self.seats.get(name).and_then(|seat| seat.instance.seen()).cloned() else { return };
        let lineage = self.lineage_of(name, &info);
        let local = self.local.groups.entry(name.clone()).or_default();
        local.member_sealed = local.member_sealed.max(next);
        local.lineage = lineage.map(|epoch| Lineage { run_id: info.run_id.clone(), epoch });
        let voided = local.voided.as_ref() == Some(&info.run_id);
        let evidence = self.evidence(name, &info);
        let stopping = self.leaving_since(name).is_some();
        if let Some(seat) = self.seats.get_mut(name) {
            seat.instance.posture = Posture::Sealed;
            seat.membership.report = Some(Report {
                group: name.clone(),
                next,
                run_id: info.run_id,
                lineage,
                offset: info.offset,
                replid: info.replid,
                keys: info.keys,
                voided,
                stopping,
                evidence,
            });
        }
    }
}

/// Data at or above an epoch's start offset, in that epoch's history, is that epoch's; what lies below is still the
/// earlier one's, whatever the replication id says (S4). An instance left alone by its agent goes on following an address
/// whose instance may have been promoted once more: under a replication id that nobody recorded here, data beyond a
/// later epoch's start is of no epoch that could be told. To claim the earlier one would be as wrong as the later.
pub(super) fn data_epoch(group: &Group, local: &LocalGroup, info: &Info) -> Option<Epoch> {
    let lineage = local.lineage.as_ref().filter(|lineage| lineage.run_id == info.run_id)?;
    let Some(attached) = local.attached.as_ref().filter(|attached| attached.run_id == info.run_id) else {
        return Some(lineage.epoch);
    };
    let begun = group.starts.get(&attached.epoch).is_some_and(|start| info.offset >= start.offset);
    let reached = if begun { lineage.epoch.max(attached.epoch) } else { lineage.epoch };
    if info.replid == attached.replid {
        return Some(reached);
    }
    if info.replid == attached.from {
        return Some(lineage.epoch);
    }
    let known = lineage.epoch.max(attached.epoch);
    let beyond = group.starts.range(known.next()..).any(|(_, start)| start.offset < info.offset);
    if beyond {
        return None;
    }
    Some(if info.replid2 == attached.replid { reached } else { lineage.epoch })
}
