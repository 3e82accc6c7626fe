//! What a disk and the agent's own record prove of an instance's data where there is no lineage (S13, S14).
//!
//! An RDB file keeps replication id and offset: with the record of whom the instance followed they name an epoch's
//! history. An AOF keeps neither. Nothing here judges; `decide` compares what the members report.

use super::View;
use super::event::{Evidence, Info};
use super::seat::Posture;
use crate::cluster::{Epoch, Group, GroupName, LocalGroup, RunId};

impl View {
    /// Before the first promotion: who serves as a primary is remembered over its detachment (S13).
    pub(super) fn fold_adoption(&mut self, name: &GroupName, info: &Info) {
        let first = self.group(name).is_none_or(|group| group.epoch == Epoch(0));
        if first && info.primary && self.seats.contains_key(name) {
            self.local.groups.entry(name.clone()).or_default().found_primary = Some(info.run_id.clone());
        }
    }

    pub(super) fn fold_newest(&mut self, name: &GroupName, run_id: RunId, unix_ms: u64) {
        let Some(seat) = self.seats.get_mut(name) else { return };
        if let Some(report) = seat.membership.report.as_mut().filter(|report| report.run_id == run_id) {
            report.evidence.newest_unix_ms = Some(unix_ms);
            self.urgent = true;
        }
        seat.instance.newest = Some((run_id, unix_ms));
    }

    /// A stop in order leaves the instance detached: its offset is then its last word, until it serves or follows again.
    pub(super) fn settle_rest(&mut self, name: &GroupName) {
        let Some(seat) = self.seats.get(name) else { return };
        let Some(info) = seat.instance.seen() else { return };
        let known = self.local.groups.get(name).and_then(|local| local.rest);
        let rest = match seat.instance.posture {
            Posture::Sealed if self.stopping.is_some() => Some(info.offset),
            Posture::Following(_) | Posture::Serving(_) => None,
            Posture::Sealed | Posture::Unknown => return,
        };
        if known != rest {
            self.local.groups.entry(name.clone()).or_default().rest = rest;
        }
    }

    /// What is proved of the detached instance.
    pub(super) fn evidence(&self, name: &GroupName, info: &Info) -> Evidence {
        let (Some(group), Some(seat)) = (self.group(name), self.seats.get(name)) else { return Evidence::default() };
        let local = self.local.groups.get(name).cloned().unwrap_or_default();
        let newest = seat.instance.newest.as_ref().filter(|(run_id, _)| *run_id == info.run_id);
        Evidence {
            primary: local.found_primary.as_ref() == Some(&info.run_id),
            second: info.second.map(|second| (info.replid2.clone(), second)),
            history: history(group, &local, info),
            role: local.attached.as_ref().map(|attached| attached.epoch),
            rest: local.rest,
            newest_unix_ms: newest.map(|(_, unix_ms)| *unix_ms),
        }
    }
}

/// The epoch whose data the replication id and the offset name: below an epoch's start it is still the one before (S4).
pub(super) fn history(group: &Group, local: &LocalGroup, info: &Info) -> Option<Epoch> {
    let attached = local.attached.as_ref()?;
    let named = if info.replid == attached.replid {
        Some(attached.epoch)
    } else {
        attached.home.filter(|_| info.replid == attached.from)
    };
    named.map(|epoch| {
        let (mut epoch, starts) = (epoch, &group.starts);
        while let Some(start) = starts.get(&epoch).filter(|start| info.offset < start.offset) {
            epoch = start.data.filter(|data| *data < epoch).unwrap_or_else(|| before(group, epoch));
        }
        epoch
    })
}

/// The epoch before that one.
pub(super) fn before(group: &Group, epoch: Epoch) -> Epoch {
    group.starts.range(..epoch).next_back().map_or(Epoch(0), |(before, _)| *before)
}
