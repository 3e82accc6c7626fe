//! Agreement: who is a member, who leads, what is committed, and how the agents reach each other.
//!
//! Holds a node's Raft with the timings the lease gives it, the connections to its peers, first start, joining and
//! leaving, and the leader's own duties: taking members in, keeping the number of voters odd, and letting the guardians
//! follow the voters. It proposes nothing of a group but what removing a node needs; that is the agent's.
//!
//! It must never read leadership from Raft's state alone (a cut-off leader keeps it), never let a restarted node vote
//! before its silence is over, never take a node whose store was emptied for the member it was, and never begin a
//! cluster before every listed member has answered as new.
//! Upholds S2 (vote silence), S12 (guardians change jointly, numbers stay odd).

mod duty;
mod error;
mod feed;
mod formation;
mod leave;
mod message;
mod network;
mod nudge;
mod peers;
#[doc(hidden)]
pub mod probe;
mod propose;
mod roster;
mod serve;
mod timing;

pub use error::{LeaveError, ProposeError, RaftError, RequestError, TransferError};

use crate::cluster::{Command, NodeId, Rejection};
use crate::store::{Machine, Peer, Store, TypeConfig};
use crate::wire::{
    self, Admission, ClientOptions, Conn, Fault, GossipSent, Hello, Keys, ListenOptions, Listener, ServeOptions,
    Timing, WireError,
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use peers::Peers;
use roster::{Roster, is_later};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use timing::Timings;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

type Raft = openraft::Raft<TypeConfig, Machine>;
type Metrics = openraft::RaftMetrics<TypeConfig>;

/// Gossip and link events that may wait for the agent.
const INBOX: usize = 512;
/// How long a clean stop may take.
const STOP_BOUND: Duration = Duration::from_secs(2);

/// How this node comes to be a member. Read at its very first start only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Founding {
    /// All of them, name and `host:port`, the same in every node's file.
    Members(BTreeMap<String, String>),
    /// Ask any of these running members, `host:port`.
    Join(Vec<String>),
}

/// Answers what the agents of peers ask of this one.
pub trait Control: Send + Sync + 'static {
    /// The answer to `body` from member `from`. Dropped if the connection ends.
    fn answer(&self, from: NodeId, body: Bytes) -> BoxFuture<'static, Result<Bytes, Fault>>;
}

/// What [`RaftNode::start`] needs to know.
pub struct Options {
    /// This node's name.
    pub name: String,
    /// Where peers reach it, `host:port`.
    pub address: String,
    /// Where it listens, `host:port`.
    pub bind: String,
    /// The cluster's keys.
    pub keys: Keys,
    /// The lease that the timings are fractions of.
    pub lease: Duration,
    /// How it comes to be a member.
    pub founding: Founding,
    /// The agent.
    pub control: Arc<dyn Control>,
}

/// A one-way message of a peer's agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gossip {
    /// Who sent it.
    pub from: NodeId,
    /// The agent's own kind.
    pub kind: u8,
    /// The message.
    pub body: Bytes,
}

/// A connection to a peer came or went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkEvent {
    /// Which peer.
    pub node: NodeId,
    /// Whether it stands.
    pub up: bool,
    /// When, on CLOCK_BOOTTIME.
    pub at: Duration,
}

/// What comes from outside, for the agent to read. Bounded: what is not read in time is dropped.
#[derive(Debug)]
pub struct Inbox {
    /// Messages of peers.
    pub gossip: mpsc::Receiver<Gossip>,
    /// Connections; [`RaftNode::links`] tells how they stand.
    pub links: mpsc::Receiver<LinkEvent>,
}

/// How far this node is from being a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Formation {
    /// Waiting.
    Waiting {
        /// For these nodes.
        missing: Vec<String>,
        /// What for.
        why: String,
    },
    /// As things stand it will not become a member; it keeps asking.
    Refused {
        /// With the remedy.
        why: String,
    },
    /// It is a member.
    Member {
        /// Its number.
        id: NodeId,
    },
    /// An operator let the cluster go on without this node; it must not take part with what it has.
    Superseded {
        /// By whose word, with the remedy.
        why: String,
    },
    /// Raft has stopped; only a restart of the agent helps.
    Failed {
        /// What stopped it.
        why: String,
    },
}

/// Who leads, as far as this node knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The current term.
    pub term: u64,
    /// Its leader.
    pub leader: Option<NodeId>,
    /// Whether this node leads and a quorum said so within the last half lease.
    pub leading: bool,
    /// When a quorum last acknowledged this node's leadership, on CLOCK_BOOTTIME.
    pub quorum_acked_at: Option<Duration>,
    /// Who votes.
    pub voters: BTreeSet<NodeId>,
    /// Who only listens.
    pub learners: BTreeSet<NodeId>,
    /// Index of the last applied entry.
    pub last_applied: u64,
    /// On the leader: how many entries each other node lacks.
    pub lag: BTreeMap<NodeId, u64>,
}

pub(crate) struct Inner {
    name: String,
    address: String,
    founding: Founding,
    control: Arc<dyn Control>,
    timings: Timings,
    store: Store,
    local: wire::Local,
    roster: Arc<Roster>,
    peers: Arc<Peers>,
    raft: OnceLock<Raft>,
    /// Until then this node answers no vote (S2). None: it never promised anything.
    silent_until: Option<Instant>,
    formation: watch::Sender<Formation>,
    leadership: watch::Sender<Leadership>,
    enrolled: Notify,
    /// Nodes being removed: they are not promoted again meanwhile.
    leaving: Mutex<BTreeSet<NodeId>>,
    /// Membership changes go one by one.
    changing: tokio::sync::Mutex<()>,
    tasks: Mutex<JoinSet<()>>,
    /// Connections that peers and guests made.
    served: Mutex<Vec<(Arc<Hello>, AbortHandle)>>,
    listener: Mutex<Option<Listener>>,
    nudges: std::sync::atomic::AtomicU64,
}

/// This node's part in the cluster. Clones share it; it runs until [`RaftNode::shutdown`].
#[derive(Clone)]
pub struct RaftNode {
    inner: Arc<Inner>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RaftNode {
    /// Listens, and begins to become a member in the background; [`RaftNode::formation`] tells how that goes.
    ///
    /// # Errors
    /// The address cannot be listened on, or the lease is no usable one.
    pub async fn start(options: Options, store: Store) -> Result<(Self, Inbox), RaftError> {
        let (inner, inbox) = Inner::new(options, store)?;
        let bind = inner.1;
        let inner = inner.0;
        let listener = inner.listen(&bind).await?;
        *locked(&inner.listener) = Some(listener);
        inner.spawn(formation::run(inner.clone()));
        Ok((Self { inner }, inbox))
    }

    /// How far this node is from being a member.
    pub fn formation(&self) -> watch::Receiver<Formation> {
        self.inner.formation.subscribe()
    }

    /// This node's number, once it has one.
    pub fn id(&self) -> Option<NodeId> {
        self.inner.store.identity().node_id
    }

    /// Where it listens.
    pub fn listening(&self) -> Option<SocketAddr> {
        locked(&self.inner.listener).as_ref().map(Listener::local_addr)
    }

    /// Who leads. Wakes its readers when that changes, not when merely `quorum_acked_at` or `lag` move.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.subscribe()
    }

    /// Proposes a command to the leader, wherever it is, within one lease.
    ///
    /// # Errors
    /// No leader in time, or no answer: then the command may have been committed all the same.
    pub async fn propose(&self, command: Command) -> Result<Result<(), Rejection>, ProposeError> {
        propose::propose(&self.inner, command, self.inner.timings.lease).await
    }

    /// Sends a message of which only the newest counts. Never waits.
    pub fn gossip(&self, to: NodeId, kind: u8, body: impl Into<Bytes>) -> GossipSent {
        self.inner.peers.gossip(to, kind, body.into())
    }

    /// Asks the agent of a peer; a node is no peer of itself.
    ///
    /// # Errors
    /// No such peer, no connection, no answer in time, or a fault for an answer.
    pub async fn request(&self, to: NodeId, body: Bytes, timeout: Duration) -> Result<Bytes, RequestError> {
        let answer = self.inner.peers.call(to, message::kind::CONTROL, body, timeout).await;
        Ok(answer.ok_or(RequestError::Unknown(to))??)
    }

    /// Hands leadership to `to`, which must have all that is committed.
    ///
    /// # Errors
    /// This node does not lead, or `to` cannot take it, or did not in time.
    pub async fn transfer_leader(&self, to: NodeId) -> Result<(), TransferError> {
        propose::transfer(&self.inner, to).await
    }

    /// Removes a node from the cluster, wherever the leader is.
    ///
    /// # Errors
    /// It is still needed, or a step did not end in time; asking again carries on.
    pub async fn leave(&self, name: &str) -> Result<(), LeaveError> {
        leave::ask(&self.inner, name).await
    }

    /// Why a node does not vote, for people.
    pub fn why_learner(&self, id: NodeId) -> Option<String> {
        duty::why_learner(&self.inner, id)
    }

    /// Who is connected.
    pub fn links(&self) -> BTreeMap<NodeId, bool> {
        self.inner.peers.up().borrow().clone()
    }

    /// How often this node asked for an early election because the leader's link had dropped.
    pub fn nudges(&self) -> u64 {
        self.inner.nudges.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Takes new keys; connections that stand stay.
    pub fn set_keys(&self, keys: Keys) {
        self.inner.local.set_keys(keys);
    }

    /// Cuts this node off from all others, or connects it again: a fault to test with.
    #[doc(hidden)]
    pub fn sever(&self, severed: bool) {
        self.inner.roster.sever(severed);
        if severed {
            self.inner.peers.clear();
            self.inner.hang_up(|_| true);
        } else {
            self.inner.follow_members();
        }
    }

    /// Stops: Raft first, then the connections. Bounded. The store stays open for its owner to close.
    pub async fn shutdown(&self) {
        let inner = &self.inner;
        locked(&inner.tasks).abort_all();
        if let Some(raft) = inner.raft.get() {
            // One that does not stop in time ends with the process.
            let _ = tokio::time::timeout(STOP_BOUND, raft.shutdown()).await;
        }
        locked(&inner.listener).take();
        inner.hang_up(|_| true);
        inner.peers.clear();
        // The sockets close as the runtime drops the tasks that were ended.
        tokio::task::yield_now().await;
    }
}

impl Inner {
    fn new(options: Options, store: Store) -> Result<((Arc<Self>, String), Inbox), RaftError> {
        let Options { name, address, bind, keys, lease, founding, control } = options;
        let timings = Timings::new(lease);
        let identity = store.identity();
        let mut hello = Hello::new(&identity.cluster, identity.generation, &name, identity.incarnation.0);
        hello.node_id = identity.node_id.map(|id| id.0);
        let local = wire::Local::new(hello, keys);
        let applied = store.applied();
        let roster =
            Arc::new(Roster::new(local.clone(), move |id, theirs| is_later(&applied.borrow().state, id, theirs)));
        let known = store.applied().borrow().membership.clone();
        roster.set(known.membership().nodes().map(|(id, peer)| (*id, peer.clone())).collect());
        let wire_timing = wire_timing(lease);
        let client = ClientOptions {
            backoff_min: Duration::from_millis(10),
            backoff_max: (lease / 4).min(Duration::from_secs(1)),
            ..ClientOptions::new(wire_timing)
        };
        let (gossip_in, gossip) = mpsc::channel(INBOX);
        let (events, links) = mpsc::channel(INBOX);
        let peers = Arc::new(Peers::new(roster.clone(), local.clone(), client, events, gossip_in));
        let silence = timings.election_max.max(store.local().longest_lease);
        let silent_until = (!store.is_pristine()).then(|| Instant::now() + silence);
        // Says early what openraft would say late.
        timings.config(&identity.cluster)?;
        let inner = Arc::new(Self {
            name,
            address,
            founding,
            control,
            timings,
            local,
            roster,
            peers,
            raft: OnceLock::new(),
            silent_until,
            formation: watch::Sender::new(Formation::Waiting { missing: Vec::new(), why: "starting".to_owned() }),
            leadership: watch::Sender::default(),
            enrolled: Notify::new(),
            leaving: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            tasks: Mutex::default(),
            served: Mutex::default(),
            listener: Mutex::default(),
            nudges: std::sync::atomic::AtomicU64::new(0),
            store,
        });
        Ok(((inner, bind), Inbox { gossip, links }))
    }

    /// Whoever was removed learns it as it dials again; first the answer to its own request to leave may reach it.
    async fn part_with_strangers(self: Arc<Self>) {
        tokio::time::sleep(self.timings.lease).await;
        self.hang_up(|peer| self.roster.admit(peer).is_err());
    }

    /// Ends the connections of these peers.
    fn hang_up(&self, of: impl Fn(&Hello) -> bool) {
        locked(&self.served).retain(|(peer, serving)| {
            let ends = of(peer);
            if ends {
                serving.abort();
            }
            !ends
        });
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = locked(&self.tasks);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    async fn listen(self: &Arc<Self>, bind: &str) -> Result<Listener, RaftError> {
        let options = ListenOptions::new(wire_timing(self.timings.lease));
        let weak = Arc::downgrade(self);
        let on_conn = move |from: SocketAddr, conn: Result<Conn, WireError>| {
            let Some(inner) = weak.upgrade() else { return };
            match conn {
                Ok(conn) => {
                    let peer = conn.peer().clone();
                    let desk = Arc::new(serve::Desk { inner: inner.clone() });
                    let serving = tokio::spawn(async move {
                        let reason = wire::serve(conn, desk, ServeOptions::default()).await;
                        tracing::info!(target: crate::DETAIL, %from, %reason, "connection ended");
                    });
                    let mut served = locked(&inner.served);
                    served.retain(|(_, serving)| !serving.is_finished());
                    served.push((peer, serving.abort_handle()));
                }
                Err(reason) => tracing::info!(target: crate::DETAIL, %from, %reason, "connection not taken"),
            }
        };
        Ok(wire::listen(bind, self.local.clone(), self.roster.clone(), options, on_conn).await?)
    }

    /// Starts Raft under `id`; once only, since a Raft cannot change its number.
    async fn start_raft(self: &Arc<Self>, id: NodeId) -> Result<Raft, RaftError> {
        if let Some(raft) = self.raft.get() {
            return if *raft.node_id() == id { Ok(raft.clone()) } else { Err(RaftError::Renumbered(id)) };
        }
        let identity = self.store.identity();
        let config = Arc::new(self.timings.config(&identity.cluster)?);
        let networks = network::Networks { peers: self.peers.clone(), id };
        let raft = Raft::new(id, config, networks, self.store.log(), self.store.machine())
            .await
            .map_err(|fatal| RaftError::Stopped(fatal.to_string()))?;
        let raft = self.raft.get_or_init(|| raft).clone();
        self.spawn(feed::run(self.clone(), raft.clone()));
        self.spawn(nudge::run(self.clone(), raft.clone()));
        self.spawn(duty::run(self.clone(), raft.clone()));
        self.spawn(nudge::end_silence(self.clone(), raft.clone()));
        self.spawn(formation::watch_standing(self.clone()));
        Ok(raft)
    }

    fn raft(&self) -> Option<&Raft> {
        self.raft.get()
    }

    fn metrics(&self) -> Option<Metrics> {
        use openraft::type_config::async_runtime::watch::WatchReceiver;
        self.raft().map(|raft| raft.metrics().borrow_watched().clone())
    }

    fn is_silent(&self) -> bool {
        self.silent_until.is_some_and(|until| Instant::now() < until)
    }

    fn id(&self) -> Option<NodeId> {
        self.store.identity().node_id
    }

    /// The members of Raft's newest membership, committed or not.
    fn members_of(metrics: &Metrics) -> BTreeMap<NodeId, Peer> {
        metrics.membership_config.membership().nodes().map(|(id, peer)| (*id, peer.clone())).collect()
    }

    /// Lets roster and connections follow the membership. An address that a node introduced itself with counts more
    /// than the one it was taken in with.
    fn follow_members(self: &Arc<Self>) {
        if let Some(metrics) = self.metrics() {
            let members = Self::members_of(&metrics);
            if !members.is_empty() {
                self.roster.set(members);
                self.spawn(self.clone().part_with_strangers());
            }
        }
        if self.roster.is_severed() {
            return;
        }
        let applied = self.store.applied();
        let state = applied.borrow().state.clone();
        let address = |id: &NodeId, peer: Peer| state.nodes.get(id).map_or(peer.address, |node| node.address.clone());
        let wanted =
            self.roster.members().into_iter().map(|(id, peer)| (id, (peer.name.clone(), address(&id, peer)))).collect();
        self.peers.follow(&wanted);
    }
}

fn wire_timing(lease: Duration) -> Timing {
    // A scheduling hiccup of a short lease's length must not cost the connection: leases run out by themselves.
    Timing { handshake: lease.max(Duration::from_secs(1)), stall: lease.max(Duration::from_millis(500)) }
}
