//! What can happen to a node, and what nodes tell each other.
//!
//! Every event carries its time. Items travel between agents in one message per pair and tick; each is idempotent,
//! carries its epoch, and is repeated while it holds, so that loss, delay and reordering cost time only.

use super::moment::Moment;
use crate::cluster::{Epoch, GroupName, Local, NodeId, Offset, Replid, RunId, State, Version, Why};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Something happened at `at`, by this host's CLOCK_BOOTTIME.
#[derive(Debug, Clone)]
pub struct Event {
    /// When.
    pub at: Moment,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum What {
    /// Time passed. `unix_ms` is the wall clock, for people only.
    Tick {
        /// Milliseconds since 1970.
        unix_ms: u64,
    },
    /// The log was applied up to this state, which is durable.
    Applied(Arc<State>),
    /// What Raft says of its leadership.
    Leadership(Leadership),
    /// This record is on disk.
    Saved(Local),
    /// The surrender mark for this epoch has replaced the lease stamp (S2).
    Marked {
        /// The group.
        group: GroupName,
        /// The epoch given up.
        epoch: Epoch,
    },
    /// A peer's message came.
    Heard {
        /// The peer.
        from: NodeId,
        /// What it said.
        items: Vec<Item>,
    },
    /// The connection to a peer came up or went down.
    Link {
        /// The peer.
        node: NodeId,
        /// Whether it is up.
        up: bool,
    },
    /// The local instance of a group was looked at.
    Instance {
        /// The group.
        group: GroupName,
        /// What was seen.
        seen: Sight,
    },
    /// The time of the newest write on the instance's disk was looked up (S14).
    Newest {
        /// The group.
        group: GroupName,
        /// The process that had just loaded it.
        run_id: RunId,
        /// Wall clock of this host, milliseconds since 1970.
        unix_ms: u64,
    },
    /// The VIP of a group was looked at.
    Vip {
        /// The group.
        group: GroupName,
        /// What was seen.
        seen: VipSight,
    },
    /// A task of the shell ended.
    Done {
        /// The group.
        group: GroupName,
        /// Which task.
        task: Task,
        /// The epoch it carried.
        epoch: Epoch,
        /// How it ended.
        outcome: Outcome,
    },
    /// A proposal ended: committed, refused or given up.
    Proposed {
        /// What it was about.
        topic: Topic,
        /// Whether it was committed and changed the state.
        accepted: bool,
    },
    /// The decision's actions were handed to the shells.
    Decided(Noted),
    /// The agent was asked to stop (SIGTERM).
    Stopping,
    /// The service manager said something of the instance's unit.
    Unit {
        /// The group.
        group: GroupName,
        /// What.
        seen: super::UnitSight,
    },
    /// The instance's process is about to be stopped on purpose.
    Releasing {
        /// The group.
        group: GroupName,
    },
    /// How the reign that this node had in an epoch ended, as its host or the instance's unit tell it.
    Cause {
        /// The group.
        group: GroupName,
        /// The epoch.
        epoch: Epoch,
        /// For people.
        text: String,
    },
    /// An operator's word for this host: drop the VIP and seal the instance now.
    FenceOrdered {
        /// The group.
        group: GroupName,
    },
}

/// What Raft says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The Raft term.
    pub term: u64,
    /// The leader as this node knows it.
    pub leader: Option<NodeId>,
    /// Whether this node leads and a quorum acknowledged that recently.
    pub leading: bool,
    /// The voters.
    pub voters: BTreeSet<NodeId>,
}

/// What a look at the instance gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sight {
    /// An answer to INFO.
    Info(Info),
    /// It answers LOADING: alive, not serving, never killed (S7).
    Loading,
    /// A script runs; it answers BUSY.
    Busy,
    /// No answer to a question asked so long ago.
    Silent {
        /// How long.
        length: Duration,
        /// Whether its process got processor time meanwhile. True as well when that cannot be told.
        progress: bool,
    },
    /// A sure crash: process dead, or socket closed and connection refused (S7).
    Gone,
    /// It cannot be watched: wrong password, nonsense, a forbidden command. Says what to do.
    Unusable {
        /// For the operator.
        why: String,
    },
}

/// What INFO said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Info {
    /// When it was asked for, on this host's CLOCK_BOOTTIME: what it says is no older than that.
    pub asked: Moment,
    /// The process.
    pub run_id: RunId,
    /// Whether its role is primary.
    pub primary: bool,
    /// Its replication id.
    pub replid: Replid,
    /// The id it had before the last change, up to `second_offset`.
    pub replid2: Replid,
    /// Up to which offset that one holds, if there is one.
    pub second: Option<Offset>,
    /// Its offset: of the last write it holds.
    pub offset: Offset,
    /// The oldest offset of its backlog, and the backlog's capacity in bytes; 0 without one.
    pub backlog: (Offset, u64),
    /// `host:port` it replicates from; None on a primary.
    pub upstream: Option<String>,
    /// Whether the link to that is up.
    pub link_up: bool,
    /// Whether a full resynchronisation is under way (S4).
    pub syncing: bool,
    /// Whether it loads data.
    pub loading: bool,
    /// Number of keys.
    pub keys: u64,
    /// On a primary: its replicas by address.
    pub replicas: Vec<ReplicaRow>,
}

/// One replica as the primary's INFO shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaRow {
    /// `host:port` as the replica announces itself.
    pub address: String,
    /// Whether its state is `online`.
    pub online: bool,
    /// Whether it is being synchronised in full.
    pub syncing: bool,
    /// The offset it acknowledged last.
    pub offset: Offset,
}

/// What a look at the VIP gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VipSight {
    /// It was put on or refreshed.
    Held,
    /// It is not on the interface any more.
    Removed,
    /// Another host answers for it.
    Conflict {
        /// Its hardware address.
        mac: String,
    },
    /// It could not be put on. Says why.
    Failed {
        /// For the operator.
        why: String,
    },
}

/// Long actions on one group's instance, at most one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Task {
    /// Detach and read the final offset.
    Seal,
    /// S9.
    Fence,
    /// Attach to the primary.
    Follow,
    /// Become the primary.
    Serve,
    /// S10, up to the frozen offset reached by the successor.
    Handover,
    /// Set min-replicas-to-write.
    Tune,
    /// Kill a hung process.
    Kill,
    /// Stop a script that blocks the instance.
    ScriptKill,
    /// Have the service manager start the instance's failed unit.
    Start,
    /// Save the detached instance's diverged data (S11).
    Quarantine,
    /// Seal another node's instance over the network (S8).
    SealRemote,
}

/// How a task ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Done, and this is what the instance says now. `clean` is false if, before a seal, a full resynchronisation or a
    /// load was seen under way.
    Done {
        /// INFO afterwards.
        info: Info,
        /// See above.
        clean: bool,
    },
    /// Done, and there is no instance to ask: it is dead.
    Dead,
    /// Not done; a handover that failed had not frozen the primary yet.
    Failed {
        /// For the operator.
        why: String,
    },
}

/// What a proposal is about: one at a time each.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    /// This node's introduction.
    Introduce,
    /// The guardians.
    Guardians,
    /// A group, as its coordinator.
    Group(GroupName),
    /// This node's own wish for a group.
    Own(GroupName),
}

/// What `decide` handed out, for the view to remember.
#[derive(Debug, Clone, Default)]
pub struct Noted {
    /// Tasks begun: group, task, epoch.
    pub tasks: Vec<(GroupName, Task, Epoch)>,
    /// Other nodes' instances that are being sealed: group, epoch to come, whose.
    pub remote: Vec<(GroupName, Epoch, BTreeSet<NodeId>)>,
    /// `min-replicas-to-write` that a task begun sets: group, process, value.
    pub tuning: Vec<(GroupName, RunId, u32)>,
    /// Fences begun: group, epoch, reason.
    pub fences: Vec<(GroupName, Epoch, Why)>,
    /// Groups for which it is being committed that this primary renews under both majorities.
    pub renewed: Vec<GroupName>,
    /// Proposals begun.
    pub topics: Vec<Topic>,
    /// A record is being saved.
    pub saving: Option<Local>,
    /// Renewals sent: group, epoch.
    pub renewals: Vec<(GroupName, Epoch)>,
    /// A poll was begun.
    pub polled: bool,
    /// Promises owed were sent.
    pub promised: bool,
    /// The regular message went to all peers.
    pub told: bool,
    /// The VIP was refreshed.
    pub vips: Vec<GroupName>,
    /// The lease stamp was written up to this moment: group.
    pub stamped: Vec<(GroupName, Moment)>,
}

/// One thing a node tells another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Item {
    /// The primary asks for promises (S1).
    Renew(Renewal),
    /// A guardian promises; echoes when the renewal was sent, by the primary's clock.
    Promise {
        /// The group.
        group: GroupName,
        /// The epoch.
        epoch: Epoch,
        /// Echo.
        sent_at: Moment,
    },
    /// The primary has given the epoch up, completely and for good (S2).
    Surrender {
        /// The group.
        group: GroupName,
        /// The epoch.
        epoch: Epoch,
        /// Why.
        why: Why,
    },
    /// The leader asks who holds a live promise (S3).
    Poll {
        /// To tell answers apart.
        id: u64,
    },
    /// A guardian's answer: the groups and epochs for which it holds none.
    Vacant {
        /// Echo.
        id: u64,
        /// The groups.
        groups: Vec<(GroupName, Epoch)>,
    },
    /// A guardian has durably joined the seal for `next` (S2).
    Sealed {
        /// The group.
        group: GroupName,
        /// The epoch to come.
        next: Epoch,
    },
    /// A member has durably sealed its instance for an epoch (S3).
    Report(Report),
    /// A member that may not follow any more, or not yet again, has its instance detached, and it stays so until a later
    /// commit lets it in (S5).
    Rested {
        /// The group.
        group: GroupName,
        /// The group's version that it had applied.
        version: Version,
    },
    /// How this node's part of a group does: for status, and for nothing that safety hangs on.
    Health(Health),
    /// Where Sentinel clients reach this node's agent, `host:port`.
    Sentinel {
        /// Where.
        address: String,
    },
}

/// A primary's renewal, with what its followers need to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewal {
    /// The group.
    pub group: GroupName,
    /// The epoch.
    pub epoch: Epoch,
    /// When it was sent, by the primary's clock; echoed.
    pub sent_at: Moment,
    /// How long the promise is to hold.
    pub lease: Duration,
    /// How long the primary's own lease still held when this was sent: so long its word that it serves is good.
    pub left: Duration,
    /// The group's version that the primary had applied when it read `serving`.
    pub version: Version,
    /// The guardians' version it counts under (S12).
    pub guardians: Version,
    /// Set once it serves.
    pub serving: Option<Serving>,
}

/// What a serving primary says of its data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serving {
    /// Its replication id in this epoch.
    pub replid: Replid,
    /// The one before: shows that a newcomer's data is kin (S13).
    pub replid2: Replid,
    /// Its offset, read after `version` was applied.
    pub offset: Offset,
    /// Replicas attached, online or being synchronised, by its INFO: whether online, and the offset acknowledged.
    pub followers: BTreeMap<NodeId, (bool, Offset)>,
    /// The oldest offset in its backlog; 0 without one.
    pub backlog: Offset,
    /// Who may synchronise in full now.
    pub full: Slot,
}

/// Whose turn it is to synchronise in full: one after the other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Slot {
    /// Everybody's: there is nothing to send.
    #[default]
    Free,
    /// Only this node's, if any's.
    Only(Option<NodeId>),
}

/// A member's sealed instance (S3, S4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The group.
    pub group: GroupName,
    /// The epoch it is sealed for.
    pub next: Epoch,
    /// The process.
    pub run_id: RunId,
    /// The epoch of its data, if that is proved.
    pub lineage: Option<Epoch>,
    /// Its final offset.
    pub offset: Offset,
    /// Its replication id: what a cold start compares (S14).
    pub replid: Replid,
    /// How many keys it holds.
    pub keys: u64,
    /// Whether a full resynchronisation was cut off in it: what it holds may be half of anything.
    pub voided: bool,
    /// Its agent is being stopped: promoted, it would give the epoch up at once.
    pub stopping: bool,
    /// What else its disk and its agent's record prove, where there is no lineage.
    pub evidence: Evidence,
}

/// What is compared where nobody has lineage (S13, S14).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// At the group's first start: it was found serving as a primary.
    pub primary: bool,
    /// The replication id before its present one, and up to which offset it holds.
    pub second: Option<(Replid, Offset)>,
    /// The epoch whose replication history its id and offset continue, if they are of one.
    pub history: Option<Epoch>,
    /// The epoch in which it last served or was attached, by its agent's record.
    pub role: Option<Epoch>,
    /// Its offset when its agent was last stopped in order, if nothing happened since.
    pub rest: Option<Offset>,
    /// When its newest write went to disk: its host's wall clock, milliseconds since 1970.
    pub newest_unix_ms: Option<u64>,
}

/// For status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The group.
    pub group: GroupName,
    /// The group's epoch as that node knows it: what it says of an older one is out of date.
    pub epoch: Epoch,
    /// The posture in one word, as `status --json` gives it; `unseen` and `unusable`, which that shows as `down`, where the
    /// instance may live.
    pub posture: String,
    /// Offset, if the instance answers.
    pub offset: Option<Offset>,
    /// Lineage, if any.
    pub lineage: Option<Epoch>,
    /// In words.
    pub reason: String,
    /// Whether this node holds the VIP.
    pub vip: bool,
    /// Whether it waits for its turn to synchronise in full.
    pub full: bool,
    /// What an operator should know besides; empty if nothing.
    pub note: String,
    /// What is wrong with the VIP on this node; empty if nothing.
    pub vip_trouble: String,
}
