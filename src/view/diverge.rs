//! What an instance that comes back holds and the group's data lacks (S11).
//!
//! Judged once the instance is detached, its offset final and a serving primary heard, before anything is recorded that
//! lets it follow: a full resynchronisation throws that data away. It must never call data "nothing lost" that it
//! cannot compare; what nothing tells is said to be unknown.

use super::View;
use super::event::{Info, Serving};
use super::seat::{Condition, Posture, Seat};
use crate::cluster::{
    Diverged, Epoch, Group, GroupCommand, GroupName, Guarantee, LocalGroup, Lost, Offset, Phase, RunId,
};

/// What the group's data lacks of an instance's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lack {
    Nothing,
    Bytes(u64),
    Unknown,
}

impl View {
    /// The record of this node's diverged data that is still to be saved before the instance may follow. None without
    /// `quarantine`.
    pub fn to_quarantine(&self, name: &GroupName) -> Option<&Diverged> {
        let (group, seat) = (self.group(name)?, self.seats.get(name)?);
        let found = self.local.groups.get(name)?.diverged.as_ref()?;
        let due = self.quarantine.contains(name)
            && found.epoch == group.epoch
            && found.file.is_some()
            && !found.saved
            && seat.instance.run_id() == Some(&found.run_id);
        due.then_some(found)
    }

    /// The note of diverged data that the change's event lacks yet; with `quarantine` only once it is saved.
    pub fn untold_loss(&self, name: &GroupName) -> Option<GroupCommand> {
        let group = self.group(name)?;
        let found = self.local.groups.get(name)?.diverged.as_ref()?;
        if self.to_quarantine(name).is_some() {
            return None;
        }
        let file = found.file.clone().filter(|_| found.saved);
        let lost = Lost { bytes: found.bytes, file };
        let change = group.history.iter().find(|change| change.epoch == found.epoch)?;
        let untold = change.diverged.get(&self.me) != Some(&lost);
        untold.then_some(GroupCommand::Diverged { node: self.me, epoch: found.epoch, lost })
    }

    /// A detached instance: what other data lacked is not in its change's event yet. There is one record, and this may
    /// need it.
    pub(super) fn owes_older_loss(&self, name: &GroupName, seat: &Seat) -> bool {
        let found = self.local.groups.get(name).and_then(|local| local.diverged.as_ref());
        let Some((found, info)) = found.zip(seat.instance.seen()) else { return false };
        seat.instance.posture == Posture::Sealed
            && (found.run_id != info.run_id || found.replid != info.replid)
            && self.untold_loss(name).is_some()
    }

    /// S13: how many keys this instance holds that are not the group's. Data that was never the group's and is not kin to
    /// the primary's is not thrown away.
    pub fn foreign_keys(&self, name: &GroupName) -> Option<u64> {
        let group = self.group(name)?;
        let seat = self.seats.get(name)?;
        let info = seat.instance.seen()?;
        let member = group.members.get(&self.me)?;
        let (_, renewal) = seat.renewal.as_ref()?;
        let serving = renewal.serving.as_ref()?;
        let kin = info.replid == serving.replid || info.replid == serving.replid2;
        // By this node's own record its instance held the group's data before: it joined anew.
        let once = self.local.groups.get(name).is_some_and(|local| local.attached.is_some());
        (!member.adopted && !once && info.keys > 0 && !kin).then_some(info.keys)
    }

    /// Judges the detached instance's data against what the serving primary says of the group's.
    pub(super) fn settle_divergence(&mut self, name: &GroupName, group: &Group) {
        let Some((info, offset, serving)) = self.judged(name, group) else { return };
        let local = self.local.groups.get(name).cloned().unwrap_or_default();
        let attached = local.attached.as_ref();
        let here = attached.is_some_and(|known| known.run_id == info.run_id && known.epoch == group.epoch);
        // One that a full resynchronisation was to replace, in an earlier epoch, is judged anew: the old data stays until
        // the new has come whole.
        if here {
            return;
        }
        let lack = lacking(group, &local, &info, offset, &serving);
        // The same data, in another process perhaps that found it on its disk.
        let same = |known: &&Diverged| known.replid == info.replid && known.offset == offset;
        let known = local.diverged.as_ref().filter(same);
        if known.is_some_and(|known| known.epoch == group.epoch && known.run_id == info.run_id) {
            return;
        }
        if known.is_none() && self.untold_loss(name).is_some() {
            return;
        }
        // What an earlier epoch lacked of the same data a later one does not bring back.
        let before = known.map(|known| known.bytes);
        let bytes = match (lack, before) {
            (Lack::Nothing, None) => return,
            (Lack::Unknown, _) | (_, Some(None)) => None,
            (Lack::Nothing, Some(before)) => before,
            (Lack::Bytes(bytes), before) => Some(before.flatten().map_or(bytes, |before| before.max(bytes))),
        };
        let wanted = self.quarantine.contains(name).then(|| file_name(name, group, self.unix_ms));
        let record = Diverged {
            run_id: info.run_id,
            replid: info.replid,
            offset,
            epoch: group.epoch,
            bytes,
            file: known.filter(|known| known.saved).and_then(|known| known.file.clone()).or(wanted),
            saved: known.is_some_and(|known| known.saved),
        };
        self.local.groups.entry(name.clone()).or_default().diverged = Some(record);
    }

    /// The file is complete and on disk.
    pub(super) fn note_saved(&mut self, name: &GroupName, run_id: &RunId) {
        if let Some(local) = self.local.groups.get_mut(name)
            && let Some(found) = local.diverged.as_mut().filter(|found| found.run_id == *run_id)
        {
            found.saved = found.file.is_some();
        }
        if let Some(seat) = self.seats.get_mut(name) {
            seat.membership.save_failures = 0;
        }
    }

    /// The detached instance, its final offset, and what the serving primary says; None while there is nothing to judge.
    fn judged(&self, name: &GroupName, group: &Group) -> Option<(Info, Offset, Serving)> {
        let seat = self.seats.get(name)?;
        group.members.get(&self.me)?;
        let settled = !matches!(group.phase, Phase::Sealing { .. }) && group.primary_node() != Some(self.me);
        let detached = seat.instance.posture == Posture::Sealed && seat.instance.condition == Condition::Up;
        let (heard, renewal) = seat.renewal.as_ref()?;
        let fresh = renewal.epoch == group.epoch && self.now.since(*heard) < self.lease();
        let serving = renewal.serving.as_ref().filter(|_| settled && detached && fresh)?;
        let info = seat.instance.seen()?;
        // Foreign data is not thrown away at all (S13).
        let ours = self.foreign_keys(name).is_none();
        ours.then(|| (info.clone(), final_offset(seat, info), serving.clone()))
    }
}

/// A look that was under way while it was detached may show less than its final offset.
fn final_offset(seat: &Seat, info: &Info) -> Offset {
    let sealed = seat.instance.sealed_at.as_ref().filter(|(run_id, _)| *run_id == info.run_id);
    sealed.map_or(info.offset, |(_, offset)| info.offset.max(*offset))
}

/// Compares by replication history: what an instance holds under a history that a later epoch branched off from is
/// lacking as far as it lies beyond that branch.
fn lacking(group: &Group, local: &LocalGroup, info: &Info, offset: Offset, serving: &Serving) -> Lack {
    let beyond = |branch: Offset| match offset.0.saturating_sub(branch.0) {
        0 => Lack::Nothing,
        bytes => Lack::Bytes(bytes),
    };
    if info.replid == serving.replid {
        return Lack::Nothing;
    }
    let unknown = if info.keys == 0 { Lack::Nothing } else { Lack::Unknown };
    if info.replid == serving.replid2
        && let Some(start) = group.starts.get(&group.epoch)
    {
        return if start.data.is_none() && unproved(group) { unknown } else { beyond(start.offset) };
    }
    let Some(attached) = &local.attached else { return unknown };
    let home = if info.replid == attached.replid {
        attached.epoch
    } else if info.replid == attached.from {
        // It was to follow that epoch's primary and never did.
        let Some(home) = attached.home else { return unknown };
        home
    } else if attached.epoch == group.epoch {
        // It followed this very primary; an AOF keeps the data and not its history.
        return Lack::Nothing;
    } else {
        return unknown;
    };
    if home >= group.epoch {
        return Lack::Nothing;
    }
    branch(group, home).map_or(unknown, beyond)
}

/// Up to where the data of an epoch is the group's too. Each epoch goes on from the data of an earlier one, not always of
/// the one before it: what both go back to ends at the earliest start on the way. None where nothing tells.
fn branch(group: &Group, home: Epoch) -> Option<Offset> {
    let (mut ours, mut theirs) = (home, group.epoch);
    let mut least: Option<Offset> = None;
    while ours != theirs {
        if ours > theirs && !counts_writes(group, ours) {
            return None;
        }
        let later = if ours > theirs { &mut ours } else { &mut theirs };
        let start = group.starts.get(later)?;
        least = Some(least.map_or(start.offset, |least| least.min(start.offset)));
        // Before the first promotion there may have been several sets of data: the group's is the one that it took up.
        let known = |earlier: &Epoch| *earlier > Epoch(0) || *later == Epoch(1);
        *later = start.data.filter(|earlier| *earlier < *later && known(earlier))?;
    }
    least
}

/// Whether the epoch began with data whose offset need not say what it holds: a full resynchronisation that was cut off
/// leaves half of anything, and an operator, or a cold start without anything better, may have chosen it.
fn unproved(group: &Group) -> bool {
    let change = group.history.iter().find(|change| change.epoch == group.epoch);
    change.is_none_or(|change| matches!(change.guarantee, Guarantee::Forced | Guarantee::ColdStart(_)))
}

/// Whether an epoch's offsets count its writes from its start on. An instance that was promoted as its disk left it has no
/// backlog before its first replica attaches, and until then its offset stands still; so it does for the same process in
/// the epochs after that, as far as is known here.
pub fn counts_writes(group: &Group, epoch: Epoch) -> bool {
    let mut epoch = epoch;
    loop {
        let change = group.history.iter().find(|change| change.epoch == epoch);
        if !change.is_some_and(|change| matches!(change.guarantee, Guarantee::Kept | Guarantee::BestReached)) {
            return false;
        }
        let own = group.starts.get(&epoch).map(|start| &start.run_id);
        let before = group.starts.range(..epoch).next_back();
        match before.filter(|(_, start)| Some(&start.run_id) == own) {
            Some((before, _)) => epoch = *before,
            None => return true,
        }
    }
}

fn file_name(name: &GroupName, group: &Group, unix_ms: u64) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    let word: String = name.0.chars().map(plain).take(100).collect();
    format!("mainstay-quarantine-{word}-e{}-{}.rdb", group.epoch, unix_ms / 1000)
}

/// For status and log: who held how much that the epoch lacks, in words.
pub fn loss_text(node: &str, lost: &Lost) -> String {
    let much = match lost.bytes {
        Some(1) => "up to 1 byte".to_owned(),
        Some(bytes) => format!("up to {bytes} bytes"),
        None => "an unknown number of bytes".to_owned(),
    };
    let saved = match &lost.file {
        Some(file) => format!("saved on {node} as {file}"),
        None => "not saved".to_owned(),
    };
    format!("{node} came back with {much} that this epoch lacks, {saved}")
}
