//! The connections to the other members: one for requests, one for gossip, each to every known peer.
//!
//! The set follows the membership. Nothing here waits: a peer whose link is down fails at once, and what was meant for
//! it is not kept for later. Links that come and go are told to the agent and to whoever watches [`Peers::up`].

use super::roster::{Expecting, Roster};
use super::{Gossip, LinkEvent};
use crate::cluster::NodeId;
use crate::store::boottime;
use crate::wire::{
    CallError, ClientOptions, GossipClient, GossipSent, Lane, LinkState, Local, RefusalCode, RpcClient, WireError,
};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

struct Links {
    rpc: RpcClient,
    gossip: GossipClient,
    watcher: AbortHandle,
}

impl Drop for Links {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

/// All peers.
pub(super) struct Peers {
    me: String,
    roster: Arc<Roster>,
    local: Local,
    options: ClientOptions,
    table: Mutex<BTreeMap<NodeId, Links>>,
    up: watch::Sender<BTreeMap<NodeId, bool>>,
    refusal: watch::Sender<Option<String>>,
    superseded: watch::Sender<Option<String>>,
    events: mpsc::Sender<LinkEvent>,
    gossip: mpsc::Sender<Gossip>,
}

impl Peers {
    pub(super) fn new(
        roster: Arc<Roster>,
        local: Local,
        options: ClientOptions,
        events: mpsc::Sender<LinkEvent>,
        gossip: mpsc::Sender<Gossip>,
    ) -> Self {
        let me = local.hello().node;
        let (up, refusal, superseded) = (watch::Sender::default(), watch::Sender::default(), watch::Sender::default());
        Self { me, roster, local, options, table: Mutex::default(), up, refusal, superseded, events, gossip }
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<NodeId, Links>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connects to exactly these nodes; this one is left out.
    pub(super) fn follow(self: &Arc<Self>, addresses: &BTreeMap<NodeId, (String, String)>) {
        let mut table = self.table();
        table.retain(|id, _| addresses.get(id).is_some_and(|(name, _)| *name != self.me));
        for (id, (name, address)) in addresses {
            if *name == self.me {
                continue;
            }
            match table.get(id) {
                Some(links) => {
                    links.rpc.set_addr(address);
                    links.gossip.set_addr(address);
                }
                None => {
                    table.insert(*id, self.connect(*id, address));
                }
            }
        }
        self.up.send_if_modified(|up| {
            let before = up.len();
            up.retain(|id, _| table.contains_key(id));
            before != up.len()
        });
    }

    /// Drops every connection.
    pub(super) fn clear(&self) {
        self.table().clear();
        self.up.send_replace(BTreeMap::new());
    }

    fn connect(self: &Arc<Self>, id: NodeId, address: &str) -> Links {
        let admission = Arc::new(Expecting { roster: self.roster.clone(), node: id });
        let rpc = RpcClient::spawn(address, Lane::Rpc, self.local.clone(), admission.clone(), self.options);
        let gossip = GossipClient::spawn(address, self.local.clone(), admission, self.options);
        let watcher = tokio::spawn(watch_link(self.clone(), id, rpc.link())).abort_handle();
        Links { rpc, gossip, watcher }
    }

    /// Who is connected, and its changes.
    pub(super) fn up(&self) -> watch::Receiver<BTreeMap<NodeId, bool>> {
        self.up.subscribe()
    }

    /// What a member last said to turn this node away for good; gone once any takes it.
    pub(super) fn refusal(&self) -> watch::Receiver<Option<String>> {
        self.refusal.subscribe()
    }

    /// That the cluster has gone on in a newer generation, by the word of one of its nodes: never taken back.
    pub(super) fn superseded(&self) -> watch::Receiver<Option<String>> {
        self.superseded.subscribe()
    }

    pub(super) fn is_up(&self, id: NodeId) -> bool {
        self.up.borrow().get(&id).copied().unwrap_or(false)
    }

    /// One request to one peer. None: it is no peer of this node.
    pub(super) async fn call(
        &self,
        to: NodeId,
        kind: u8,
        body: Bytes,
        timeout: Duration,
    ) -> Option<Result<Bytes, CallError>> {
        let rpc = self.table().get(&to)?.rpc.clone();
        Some(rpc.call(kind, body, timeout).await)
    }

    /// Sends gossip; never waits.
    pub(super) fn gossip(&self, to: NodeId, kind: u8, body: Bytes) -> GossipSent {
        self.table().get(&to).map_or(GossipSent::Down, |links| links.gossip.try_send(kind, body))
    }

    fn tell(&self, node: NodeId, state: &LinkState) {
        let up = state.is_up();
        match state {
            LinkState::Up { .. } => tracing::info!(%node, "peer link is up"),
            LinkState::Down { reason } => tracing::info!(%node, %reason, "peer link is down"),
        }
        self.up.send_modify(|all| {
            all.insert(node, up);
        });
        // The agent reads these or looks at the whole with `links`.
        let _ = self.events.try_send(LinkEvent { node, up, at: boottime() });
    }

    /// Gossip that came. An agent that does not read loses it: newer will come.
    pub(super) fn deliver(&self, gossip: Gossip) {
        let _ = self.gossip.try_send(gossip);
    }
}

async fn watch_link(peers: Arc<Peers>, node: NodeId, mut link: watch::Receiver<LinkState>) {
    let mut was = false;
    loop {
        let state = link.borrow_and_update().clone();
        match &state {
            LinkState::Up { .. } => {
                peers.refusal.send_if_modified(|refusal| refusal.take().is_some());
            }
            LinkState::Down { reason } => {
                if let WireError::Refused(refusal) = &**reason
                    && refusal.code == RefusalCode::Superseded
                {
                    peers.superseded.send_replace(Some(refusal.to_string()));
                }
                if let Some(refusal) = turned_away(reason) {
                    peers.refusal.send_replace(Some(refusal));
                }
            }
        }
        let up = state.is_up();
        if up != was {
            was = up;
            peers.tell(node, &state);
        }
        if link.changed().await.is_err() {
            return;
        }
    }
}

/// A refusal that redialling does not mend.
fn turned_away(reason: &WireError) -> Option<String> {
    let lasting = [RefusalCode::Cluster, RefusalCode::Generation, RefusalCode::Node, RefusalCode::Incarnation];
    match reason {
        WireError::Refused(refusal) if lasting.contains(&refusal.code) => Some(refusal.to_string()),
        _ => None,
    }
}
