//! The types Raft is instantiated with, and the records kept beside its log.
//!
//! One leader per term (`leader_id_std`). A node of the membership carries its name, address and incarnation, so that
//! a peer whose store was emptied is told from the member it was. Nothing here does I/O.

use crate::cluster::{Command, Incarnation, NodeId, Rejection, State};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What the membership says of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its unique name.
    pub name: String,
    /// Where its agent is reached, `host:port`.
    pub address: String,
    /// Identity of its store.
    pub incarnation: Incarnation,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.name, self.address)
    }
}

/// A [`Command`] as the log carries it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Proposal(pub Command);

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// What `apply` said: nothing, or why the command changed nothing.
pub type Outcome = Result<(), Rejection>;

openraft::declare_raft_types!(
    /// Raft as mainstay uses it.
    pub TypeConfig:
        D = Proposal,
        R = Outcome,
        NodeId = NodeId,
        Node = Peer,
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, NodeId>,
);

/// Position in the log.
pub type LogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
/// Vote of a term.
pub type Vote = openraft::type_config::alias::VoteOf<TypeConfig>;
/// One entry of the log.
pub type Entry = openraft::type_config::alias::EntryOf<TypeConfig>;
/// A membership and the entry that made it.
pub type StoredMembership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;
/// What a snapshot covers.
pub type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;
/// A snapshot: the state is a few kilobytes, so it travels as one sealed value.
pub type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, Vec<u8>>;

/// Who this store belongs to. Written at creation, beside the data as well, and checked at every open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The cluster's name.
    pub cluster: String,
    /// The node's name.
    pub node: String,
    /// The node's number, once the cluster has given it one.
    pub node_id: Option<NodeId>,
    /// Drawn when the store was created.
    pub incarnation: Incarnation,
    /// Drawn when the cluster was formed: tells it from an earlier one of the same name. 0 until then.
    pub generation: u64,
    /// Set once the cluster was heard to have gone on in a newer generation without this node: by whose word.
    pub superseded: Option<String>,
}

/// The applied state and what it is the result of. Published after it is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The state.
    pub state: Arc<State>,
    /// The last entry in it; none on a new store.
    pub last: Option<LogId>,
    /// The last membership in it.
    pub membership: Arc<StoredMembership>,
    /// When it was applied, on CLOCK_BOOTTIME.
    pub at: Duration,
}

impl Applied {
    /// Index of the last applied entry, 0 if there is none.
    pub fn index(&self) -> u64 {
        self.last.map_or(0, |id| id.index)
    }
}

/// Time since boot, suspend included: what leases count on.
///
/// The clock cannot fail on Linux; if it ever did, zero is a time at which nothing is live any more.
pub fn boottime() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}
