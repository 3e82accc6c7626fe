//! openraft's network over the peers' request lanes. Every call has the time-out openraft asks for (`soft_ttl`).

use super::message::{self, SnapshotRequest, kind};
use super::peers::Peers;
use crate::cluster::NodeId;
use crate::store::{Peer, Snapshot, TypeConfig, Vote};
use crate::wire::CallError;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

pub(super) struct Networks {
    pub(super) peers: Arc<Peers>,
    pub(super) id: NodeId,
}

impl RaftNetworkFactory<TypeConfig> for Networks {
    type Network = Network;

    async fn new_client(&mut self, target: NodeId, _: &Peer) -> Network {
        Network { peers: self.peers.clone(), id: self.id, target }
    }
}

/// Calls one peer.
pub(super) struct Network {
    peers: Arc<Peers>,
    id: NodeId,
    target: NodeId,
}

type RpcResult<T> = Result<T, RPCError<TypeConfig>>;

impl Network {
    async fn call<Q: Serialize, A: DeserializeOwned>(
        &self,
        action: RPCTypes,
        kind: u8,
        body: &Q,
        timeout: Duration,
    ) -> RpcResult<A> {
        let unreadable = || RPCError::Network(NetworkError::from_string("a message does not encode or decode"));
        let body = message::encode(body).ok_or_else(unreadable)?;
        match self.peers.call(self.target, kind, body, timeout).await {
            None => Err(RPCError::Unreachable(Unreachable::from_string("no such peer"))),
            Some(Ok(answer)) => message::decode(&answer).ok_or_else(unreadable),
            Some(Err(CallError::Timeout { after })) => {
                Err(RPCError::Timeout(Timeout { action, id: self.id, target: self.target, timeout: after }))
            }
            Some(Err(error)) => Err(RPCError::Unreachable(Unreachable::new(&error))),
        }
    }
}

impl RaftNetworkV2<TypeConfig> for Network {
    type SnapshotData = Vec<u8>;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<AppendEntriesResponse<TypeConfig>> {
        self.call(RPCTypes::AppendEntries, kind::APPEND, &rpc, option.soft_ttl()).await
    }

    async fn vote(&mut self, rpc: VoteRequest<TypeConfig>, option: RPCOption) -> RpcResult<VoteResponse<TypeConfig>> {
        self.call(RPCTypes::Vote, kind::VOTE, &rpc, option.soft_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<VoteResponse<TypeConfig>> {
        self.call(RPCTypes::Vote, kind::PRE_VOTE, &rpc, option.soft_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let body = SnapshotRequest { vote, meta: snapshot.meta, data: snapshot.snapshot };
        tokio::select! {
            closed = cancel => Err(closed.into()),
            answer = self.call(RPCTypes::InstallSnapshot, kind::SNAPSHOT, &body, option.soft_ttl()) => answer.map_err(StreamingError::from),
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<TransferLeaderResponse<TypeConfig>> {
        self.call(RPCTypes::TransferLeader, kind::TRANSFER, &req, option.soft_ttl()).await
    }
}
