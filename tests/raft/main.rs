//! Three nodes in one process, over real loopback TCP, the real wire and real stores: elections, membership, faults.

mod elections;
mod membership;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use mainstay::cluster::{
    Command, Durability, GroupCommand, GroupIntro, GroupName, Guarantee, GuardianChange, Incarnation, Node, NodeId,
    Offset, RunId, State,
};
use mainstay::raft::{Control, Formation, Founding, Inbox, LeaveError, Options, RaftNode};
use mainstay::store::Store;
use mainstay::wire::{Fault, GossipSent, Keys, generate_key, parse_key_file};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

const LEASE: Duration = Duration::from_millis(800);
/// Where the test is that nothing happens: all nodes share one thread, which a loaded machine may starve for long.
const LONG_LEASE: Duration = Duration::from_millis(2400);
/// For what should take far less: these machines are slow and shared.
const PATIENCE: Duration = Duration::from_secs(30);

struct Echo;

impl Control for Echo {
    fn answer(&self, from: NodeId, body: Bytes) -> BoxFuture<'static, Result<Bytes, Fault>> {
        Box::pin(async move { Ok(Bytes::from(format!("{from}:{}", String::from_utf8_lossy(&body)))) })
    }
}

struct Place {
    name: String,
    address: String,
    dir: PathBuf,
}

/// A cluster's hosts: directories, addresses and a key.
struct Site {
    _dir: TempDir,
    keys: Keys,
    lease: Duration,
    places: Vec<Place>,
}

impl Site {
    fn new(count: usize) -> Self {
        Self::with_lease(count, LEASE)
    }

    fn with_lease(count: usize, lease: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let places = (1..=count)
            .map(|n| Place { name: format!("n{n}"), address: free_address(), dir: dir.path().join(format!("n{n}")) })
            .collect();
        Self { _dir: dir, keys: parse_key_file(&generate_key().unwrap()).unwrap(), lease, places }
    }

    fn members(&self) -> Founding {
        Founding::Members(self.places.iter().map(|place| (place.name.clone(), place.address.clone())).collect())
    }

    async fn start(&self, n: usize, founding: Founding) -> Running {
        self.start_in(n, founding, "edge").await
    }

    async fn start_in(&self, n: usize, founding: Founding, cluster: &str) -> Running {
        let place = &self.places[n - 1];
        let store = Store::open(&place.dir, cluster, &place.name).unwrap();
        let options = Options {
            name: place.name.clone(),
            address: place.address.clone(),
            bind: place.address.clone(),
            keys: self.keys.clone(),
            lease: self.lease,
            founding,
            control: Arc::new(Echo),
        };
        let (node, inbox) = RaftNode::start(options, store.clone()).await.unwrap();
        Running { node, inbox, store }
    }

    async fn start_all(&self) -> Vec<Running> {
        let mut all = Vec::new();
        for n in 1..=self.places.len() {
            all.push(self.start(n, self.members()).await);
        }
        settled(&all).await;
        all
    }

    fn join_first(&self) -> Founding {
        Founding::Join(vec![self.places[0].address.clone()])
    }

    fn dir(&self, n: usize) -> &Path {
        &self.places[n - 1].dir
    }
}

struct Running {
    node: RaftNode,
    inbox: Inbox,
    store: Store,
}

impl Running {
    async fn stop(self) {
        self.node.shutdown().await;
        self.store.close().await;
    }

    fn state(&self) -> Arc<State> {
        self.store.applied().borrow().state.clone()
    }

    fn term(&self) -> u64 {
        self.node.leadership().borrow().term
    }

    fn leads(&self) -> bool {
        self.node.leadership().borrow().leading
    }

    async fn formation(&self, wanted: impl FnMut(&Formation) -> bool) -> Formation {
        let mut feed = self.node.formation();
        let got = timeout(PATIENCE, feed.wait_for(wanted)).await;
        match got {
            Ok(Ok(formation)) => formation.clone(),
            _ => panic!("formation is {:?}", self.node.formation().borrow()),
        }
    }

    async fn member(&self) {
        self.formation(|formation| matches!(formation, Formation::Member { .. })).await;
    }
}

/// Below the ports that the kernel gives to outgoing connections, so that none is taken while a node is stopped.
fn free_address() -> String {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let step = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = 12_000 + (std::process::id() * 31 + step) % 20_000;
        let address = format!("127.0.0.1:{port}");
        if std::net::TcpListener::bind(&address).is_ok() {
            return address;
        }
    }
}

async fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !reached() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

async fn leader(nodes: &[Running]) -> usize {
    let mut found = None;
    until("a leader that all follow", || {
        found = nodes.iter().position(Running::leads);
        let id = found.and_then(|at| nodes[at].node.id());
        id.is_some() && nodes.iter().all(|node| node.node.leadership().borrow().leader == id)
    })
    .await;
    found.unwrap()
}

fn ids(ids: impl IntoIterator<Item = u64>) -> BTreeSet<NodeId> {
    ids.into_iter().map(NodeId).collect()
}

/// All are members and guardians, and agree.
async fn settled(nodes: &[Running]) {
    for node in nodes {
        node.member().await;
    }
    leader(nodes).await;
    let all: BTreeSet<_> = nodes.iter().map(|node| node.node.id().unwrap()).collect();
    until("guardians", || nodes.iter().all(|node| node.state().guardians.now == all)).await;
}

/// A command that changes the state each time.
fn record(n: u64) -> Command {
    let record = Node {
        name: format!("x{n}"),
        address: "192.0.2.1:1".to_owned(),
        incarnation: Incarnation(u128::from(n)),
        introduced: false,
    };
    Command::AddNode { node: NodeId(n), record }
}

/// A command that the state refuses, but the log keeps.
fn refused() -> Command {
    Command::RemoveNode { node: NodeId(1) }
}

async fn propose(node: &Running, command: Command) -> Result<(), mainstay::cluster::Rejection> {
    let end = Instant::now() + PATIENCE;
    loop {
        match node.node.propose(command.clone()).await {
            Ok(outcome) => return outcome,
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
    }
}

/// The agents' part of a change of guardians: primaries renew under both sets, then it ends.
async fn finish_guardians(nodes: &[&Running]) {
    let state = nodes[0].state();
    if state.guardians.next.is_none() {
        return;
    }
    let version = state.guardians.version;
    for (group, found) in &state.groups {
        let renewed = GuardianChange::Renewed { group: group.clone(), epoch: found.epoch, version };
        let _ = propose(nodes[0], Command::Guardians(renewed)).await;
    }
    let _ = propose(nodes[0], Command::Guardians(GuardianChange::Finish { version })).await;
}

async fn guardians(nodes: &[&Running], wanted: BTreeSet<NodeId>) {
    let end = Instant::now() + PATIENCE;
    while nodes.iter().any(|node| node.state().guardians.now != wanted) {
        assert!(Instant::now() < end, "{:?}", nodes[0].state().guardians);
        finish_guardians(nodes).await;
        sleep(Duration::from_millis(20)).await;
    }
}

async fn stop_all(nodes: impl IntoIterator<Item = Running>) {
    for node in nodes {
        node.stop().await;
    }
}

impl Site {
    async fn start_all_again(&self) -> Vec<Running> {
        let mut all = Vec::new();
        for n in 1..=self.places.len() {
            // What the file says of the first start is of no account any more.
            all.push(self.start(n, Founding::Join(vec!["192.0.2.9:1".to_owned()])).await);
        }
        all
    }
}
