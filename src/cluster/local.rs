//! What one node must remember of itself across a restart, durable before it is acted on or reported.

use super::words::{Epoch, GroupName, Offset, Replid, RunId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// A node's own durable record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Local {
    /// The longest lease ever promised: how long a restarted guardian, having forgotten its promises, stays silent
    /// (S2).
    pub longest_lease: Duration,
    /// Per group.
    pub groups: BTreeMap<GroupName, LocalGroup>,
}

/// One group's part of [`Local`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalGroup {
    /// As a guardian: it joined the seal for this epoch and promises nothing below it ever after (S2).
    pub guardian_sealed: Epoch,
    /// As a member: its instance was detached for this epoch and never follows or serves an earlier one.
    pub member_sealed: Epoch,
    /// The lineage of this instance's data, if it has any (S4).
    pub lineage: Option<Lineage>,
    /// The process whose data a full resynchronisation has begun to replace and not been seen to complete (S14).
    pub voided: Option<RunId>,
    /// The primary it was last attached to: data at and above that epoch's start offset with that replid is that
    /// epoch's.
    pub attached: Option<Attached>,
    /// What this instance held that the group's data lacks, when it last came back (S11).
    pub diverged: Option<Diverged>,
    /// Before the group's first promotion: the process that was found serving as a primary (S13).
    pub found_primary: Option<RunId>,
    /// The agent was stopped in order, and left the instance detached at this offset (S14).
    pub rest: Option<Offset>,
}

/// Data of an instance that came back and that the group's data lacks (S11). Recorded before the instance may follow,
/// and hence lose it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diverged {
    /// The process that holds it.
    pub run_id: RunId,
    /// Its replication id, while detached.
    pub replid: Replid,
    /// Its final offset.
    pub offset: Offset,
    /// The epoch whose data lacks it.
    pub epoch: Epoch,
    /// Up to how many bytes of its replication history; None where nothing tells.
    pub bytes: Option<u64>,
    /// The name of the file that is to hold it, if `quarantine` is set.
    pub file: Option<String>,
    /// Whether that file is complete and on disk.
    pub saved: bool,
}

/// The epoch of an instance's data (S4). It holds for one process only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// The process.
    pub run_id: RunId,
    /// The epoch its data belongs to at least.
    pub epoch: Epoch,
}

/// Recorded before `REPLICAOF` is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// The process that was attached.
    pub run_id: RunId,
    /// The epoch of the primary.
    pub epoch: Epoch,
    /// That primary's replication id, as its renewals gave it.
    pub replid: Replid,
    /// The instance's own before: a partial resynchronisation keeps it as the second one, a full one does not.
    pub from: Replid,
    /// The epoch of the data under `from`, as far as it was known: a process that read an AOF has a new id, and data of
    /// whatever epoch.
    pub home: Option<Epoch>,
}

impl Local {
    /// What a node that joins anew keeps: what it promised, and for which groups its instance held the group's data once.
    /// Not under which epoch: another generation may have counted another one by that number, and data that seems to be of
    /// the present epoch would be thrown away as if nothing of it could be missing (S11).
    #[must_use]
    pub fn kept_to_join(&self) -> Local {
        let nameless = |known: &Attached| Attached {
            run_id: known.run_id.clone(),
            epoch: Epoch(0),
            replid: Replid::default(),
            from: Replid::default(),
            home: None,
        };
        let kept = |group: &LocalGroup| LocalGroup {
            attached: group.attached.as_ref().map(nameless),
            ..LocalGroup::default()
        };
        let groups = self.groups.iter().map(|(name, group)| (name.clone(), kept(group))).collect();
        Local { longest_lease: self.longest_lease, groups }
    }
}
