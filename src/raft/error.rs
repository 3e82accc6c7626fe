//! Why something asked of [`RaftNode`](super::RaftNode) was not done.

use crate::cluster::NodeId;
use crate::wire::{CallError, WireError};

/// Why Raft cannot start.
#[derive(Debug, thiserror::Error)]
pub enum RaftError {
    /// The listening socket.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The lease is too short to derive timings from.
    #[error("the lease gives no usable timings: {0}; set [timing] lease_ms to 200 or more")]
    Timings(#[from] openraft::ConfigError),
    /// Raft stopped, or never began.
    #[error("Raft has stopped: {0}; see the store's error before this one, then restart the agent")]
    Stopped(String),
    /// It was removed before it ever took part, and taken in again.
    #[error("the cluster has given this node the new number {0}; restart the agent")]
    Renumbered(NodeId),
    /// The store failed.
    #[error("{0}")]
    Store(#[from] std::sync::Arc<crate::store::StoreError>),
}

/// Why a proposal has no outcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This node is no member yet.
    #[error("this node is no member of a cluster yet")]
    NotMember,
    /// No leader was found in time; nothing was committed by this proposal.
    #[error("no leader within {0:?}; a majority of voters must run and reach each other")]
    NoLeader(std::time::Duration),
    /// The leader did not answer in time: it may have been committed.
    #[error("the leader did not confirm within {0:?}; the command may have been committed all the same")]
    Unconfirmed(std::time::Duration),
    /// Raft stopped.
    #[error("Raft has stopped: {0}")]
    Stopped(String),
}

/// Why a peer's agent did not answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RequestError {
    /// No such peer.
    #[error("node {0} is no peer of this one")]
    Unknown(NodeId),
    /// The call failed.
    #[error(transparent)]
    Call(#[from] CallError),
}

/// Why leadership was not handed over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// Only the leader can.
    #[error("this node does not lead")]
    NotLeading,
    /// Not a voter, or this node itself.
    #[error("node {0} is no other voter")]
    NotVoter(NodeId),
    /// Not connected, or it lacks entries.
    #[error("node {node} lacks {lag} entries or is not connected")]
    Behind {
        /// Who.
        node: NodeId,
        /// How many entries.
        lag: u64,
    },
    /// It did not take over in time.
    #[error("node {0} did not take over in time")]
    Timeout(NodeId),
    /// Raft stopped.
    #[error("Raft has stopped: {0}")]
    Stopped(String),
}

/// Why a node was not removed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaveError {
    /// As things stand it must not be, or a step did not end in time; the reason says which, and what to do.
    #[error("{0}")]
    Refused(String),
    /// No leader answered.
    #[error("no leader answered; a majority of voters must run and reach each other")]
    NoLeader,
}
