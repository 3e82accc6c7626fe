//! Answers what peers and guests ask.
//!
//! Whoever asks is judged anew with each message, since a member may be removed while its connection stands. Guests may
//! only ask who we are and to be taken in. A node in its silence answers no vote (S2): an error is no grant.

use super::message::{self, ProposeRequest, SnapshotRequest, kind};
use super::{Gossip, Inner, Raft, duty, formation, leave, propose};
use crate::cluster::NodeId;
use crate::store::Snapshot;
use crate::wire::{Admission, Fault, Handler, Hello, Lane};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;

pub(super) struct Desk {
    pub(super) inner: Arc<Inner>,
}

type Answer = Result<Bytes, Fault>;

fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, Fault> {
    message::decode(body).ok_or(Fault::BadRequest)
}

/// A fault stands for whatever Raft could not do: the caller's Raft tries again.
fn encode<T: Serialize, E>(answer: Result<T, E>) -> Answer {
    let answer = answer.map_err(|_| Fault::Unavailable)?;
    message::encode(&answer).ok_or(Fault::Unavailable)
}

fn reply<T: Serialize>(answer: T) -> Answer {
    encode::<T, Fault>(Ok(answer))
}

impl Handler for Desk {
    async fn request(&self, peer: &Arc<Hello>, kind: u8, body: Bytes) -> Answer {
        self.inner.roster.admit(peer).map_err(|_| Fault::Unavailable)?;
        match (peer.lane, peer.node_id) {
            (Lane::Rpc, Some(from)) => self.member(NodeId(from), kind, body).await,
            (Lane::Guest, _) => self.guest(kind, body).await,
            _ => Err(Fault::UnknownKind),
        }
    }

    fn one_way(&self, peer: &Arc<Hello>, kind: u8, body: Bytes) {
        if let (Lane::Gossip, Some(from), Ok(())) = (peer.lane, peer.node_id, self.inner.roster.admit(peer)) {
            self.inner.peers.deliver(Gossip { from: NodeId(from), kind, body });
        }
    }
}

impl Desk {
    async fn member(&self, from: NodeId, asked: u8, body: Bytes) -> Answer {
        let inner = &self.inner;
        match asked {
            kind::CONTROL => inner.control.answer(from, body).await,
            kind::PROPOSE => {
                let request: ProposeRequest = decode(&body)?;
                reply(propose::answer(inner, request.command).await)
            }
            kind::LEAVE => reply(leave::answer(inner, decode(&body)?).await),
            _ => self.raft(inner.raft().ok_or(Fault::Unavailable)?, asked, body).await,
        }
    }

    async fn raft(&self, raft: &Raft, asked: u8, body: Bytes) -> Answer {
        // Raft would wait for the disk, and all that is asked of it meanwhile would pile up.
        if self.inner.is_stalled() {
            return Err(Fault::Unavailable);
        }
        let silent = self.inner.is_silent();
        match asked {
            kind::APPEND => encode(raft.append_entries(decode(&body)?).await),
            kind::VOTE | kind::PRE_VOTE | kind::TRANSFER if silent => Err(Fault::Unavailable),
            kind::VOTE => encode(raft.vote(decode(&body)?).await),
            kind::PRE_VOTE => encode(raft.pre_vote(decode(&body)?).await),
            kind::TRANSFER => encode(raft.handle_transfer_leader(decode(&body)?).await),
            kind::SNAPSHOT => {
                let SnapshotRequest { vote, meta, data } = decode(&body)?;
                encode(raft.install_full_snapshot(vote, Snapshot { meta, snapshot: data }).await)
            }
            _ => Err(Fault::UnknownKind),
        }
    }

    async fn guest(&self, asked: u8, body: Bytes) -> Answer {
        match asked {
            kind::IDENTIFY => reply(formation::identify(&self.inner, &decode(&body)?)),
            kind::FORM => reply(formation::form(&self.inner, decode(&body)?).await),
            kind::JOIN => reply(duty::take_in(&self.inner, decode(&body)?).await),
            _ => Err(Fault::UnknownKind),
        }
    }
}
