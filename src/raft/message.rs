//! What agents ask of each other on the request lanes. postcard inside the wire's frames; the wire version covers it.

use crate::cluster::{Command, Incarnation, NodeId};
use crate::store::{Outcome, Peer, SnapshotMeta, Vote};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Kinds of request between members.
pub(super) mod kind {
    pub(in crate::raft) const APPEND: u8 = 1;
    pub(in crate::raft) const VOTE: u8 = 2;
    pub(in crate::raft) const PRE_VOTE: u8 = 3;
    pub(in crate::raft) const SNAPSHOT: u8 = 4;
    pub(in crate::raft) const TRANSFER: u8 = 5;
    pub(in crate::raft) const PROPOSE: u8 = 6;
    pub(in crate::raft) const CONTROL: u8 = 7;
    pub(in crate::raft) const LEAVE: u8 = 8;
    /// Kinds a guest may ask for.
    pub(in crate::raft) const IDENTIFY: u8 = 32;
    pub(in crate::raft) const FORM: u8 = 33;
    pub(in crate::raft) const JOIN: u8 = 34;
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SnapshotRequest {
    pub(super) vote: Vote,
    pub(super) meta: SnapshotMeta,
    pub(super) data: Vec<u8>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ProposeRequest {
    pub(super) command: Command,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ProposeReply {
    Done(Outcome),
    NotLeader,
    /// Raft stopped there.
    Failed(String),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct LeaveRequest {
    pub(super) name: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum LeaveReply {
    Done,
    NotLeader,
    Refused(String),
}

/// First start: who are you?
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct IdentifyRequest {
    pub(super) name: String,
    pub(super) incarnation: Incarnation,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct IdentifyReply {
    pub(super) name: String,
    pub(super) incarnation: Incarnation,
    /// It belongs to a cluster that stands.
    pub(super) formed: bool,
    pub(super) knows: Knows,
    /// The members its file lists; empty if it is to join.
    pub(super) members: Vec<(String, String)>,
}

/// What a member of a standing cluster knows of who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Knows {
    /// This very store.
    You,
    /// Another store of that name.
    YourName,
    Nothing,
}

/// First start: take this number and wait for the first of us to begin.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct FormRequest {
    pub(super) generation: u64,
    pub(super) node_id: NodeId,
    pub(super) incarnation: Incarnation,
    pub(super) members: Vec<(String, String)>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct JoinRequest {
    pub(super) name: String,
    pub(super) address: String,
    pub(super) incarnation: Incarnation,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum JoinReply {
    Joined {
        node_id: NodeId,
        generation: u64,
        members: Vec<(NodeId, Peer)>,
    },
    /// Ask there.
    GoTo {
        address: String,
    },
    /// Not now.
    Later {
        why: String,
    },
    /// Not as things stand.
    Refused {
        why: String,
    },
}

pub(super) fn encode<T: Serialize>(value: &T) -> Option<Bytes> {
    postcard::to_stdvec(value).ok().map(Bytes::from)
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Some(value),
        _ => None,
    }
}
