//! Bytes as a member or a guest may ask with, read as they are served: for `tests/fuzz` alone.
//!
//! Nothing here is part of what the agent does. It takes anything, must not panic, and holds what was understood
//! against its own encoding.

use super::message::{
    self, FormRequest, IdentifyRequest, JoinReply, JoinRequest, LeaveReply, LeaveRequest, ProposeReply, ProposeRequest,
    SnapshotRequest, kind,
};
use crate::store::TypeConfig;
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Kinds of request, then of answer, that [`understood`] knows.
pub const KINDS: [u8; 13] = [
    kind::APPEND,
    kind::VOTE,
    kind::PRE_VOTE,
    kind::SNAPSHOT,
    kind::TRANSFER,
    kind::PROPOSE,
    kind::LEAVE,
    kind::IDENTIFY,
    kind::FORM,
    kind::JOIN,
    128 + kind::PROPOSE,
    128 + kind::LEAVE,
    128 + kind::JOIN,
];

/// Reads `body` as the request of that kind, or with 128 added as the answer to it. Whether it was understood.
///
/// # Panics
/// What was understood does not survive its own encoding.
pub fn understood(kind: u8, body: &[u8]) -> bool {
    const REPLY: u8 = 128;
    match kind {
        kind::APPEND => one::<AppendEntriesRequest<TypeConfig>>(body),
        kind::VOTE | kind::PRE_VOTE => one::<VoteRequest<TypeConfig>>(body),
        kind::SNAPSHOT => one::<SnapshotRequest>(body),
        kind::TRANSFER => one::<TransferLeaderRequest<TypeConfig>>(body),
        kind::PROPOSE => one::<ProposeRequest>(body),
        kind::LEAVE => one::<LeaveRequest>(body),
        kind::IDENTIFY => one::<IdentifyRequest>(body),
        kind::FORM => one::<FormRequest>(body),
        kind::JOIN => one::<JoinRequest>(body),
        _ if kind == REPLY + kind::PROPOSE => one::<ProposeReply>(body),
        _ if kind == REPLY + kind::LEAVE => one::<LeaveReply>(body),
        _ if kind == REPLY + kind::JOIN => one::<JoinReply>(body),
        _ => false,
    }
}

fn one<T: Serialize + DeserializeOwned>(body: &[u8]) -> bool {
    let Some(value) = message::decode::<T>(body) else { return false };
    let once = message::encode(&value);
    let again = once.as_ref().and_then(|bytes| message::decode::<T>(bytes));
    assert!(once.is_some() && once == again.and_then(|value| message::encode(&value)), "it changes on its way");
    true
}
