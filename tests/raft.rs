//! Three nodes in one process, over real loopback TCP, the real wire and real stores: elections, membership, faults.

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

#[tokio::test]
async fn first_start_waits_for_every_listed_member() {
    let site = Site::new(3);
    let one = site.start(1, site.members()).await;
    let two = site.start(2, site.members()).await;
    let only_three =
        |formation: &Formation| matches!(formation, Formation::Waiting { missing, .. } if missing == &["n3"]);
    one.formation(only_three).await;
    two.formation(only_three).await;
    sleep(2 * LEASE).await;
    assert!(one.store.is_pristine() && two.store.is_pristine(), "nothing begins before all have answered");
    let three = site.start(3, site.members()).await;
    let nodes = [one, two, three];
    settled(&nodes).await;
    let names: BTreeMap<_, _> = nodes[2].state().nodes.iter().map(|(id, node)| (id.0, node.name.clone())).collect();
    assert_eq!(names, [(1, "n1".to_owned()), (2, "n2".to_owned()), (3, "n3".to_owned())].into());
    assert_eq!(nodes[0].store.identity().generation, nodes[2].store.identity().generation);
    stop_all(nodes).await;
}

#[tokio::test]
async fn a_list_that_differs_is_refused_by_name() {
    let site = Site::new(2);
    let other = BTreeMap::from([
        ("n1".to_owned(), site.places[0].address.clone()),
        ("n2".to_owned(), site.places[1].address.clone()),
        ("n3".to_owned(), free_address()),
    ]);
    let one = site.start(1, site.members()).await;
    let two = site.start(2, Founding::Members(other)).await;
    let told = one.formation(|formation| matches!(formation, Formation::Refused { .. })).await;
    assert!(format!("{told:?}").contains("the file of n2 lists other members"), "{told:?}");
    stop_all([one, two]).await;
}

#[tokio::test]
async fn an_even_list_leaves_the_last_a_learner() {
    let site = Site::new(2);
    let nodes = [site.start(1, site.members()).await, site.start(2, site.members()).await];
    nodes[1].member().await;
    until("n2 is a learner", || nodes[0].node.leadership().borrow().learners == ids([2])).await;
    until("caught up", || nodes[0].node.why_learner(NodeId(2)).is_some_and(|why| why.contains("even"))).await;
    assert_eq!(nodes[0].node.leadership().borrow().voters, ids([1]));
    stop_all(nodes).await;
}

#[tokio::test]
async fn a_lost_leader_is_replaced_and_followers_forward() {
    let site = Site::new(3);
    let mut nodes = site.start_all().await;
    let at = leader(&nodes).await;
    let follower = (at + 1) % 3;
    assert_eq!(propose(&nodes[follower], record(10)).await, Ok(()));
    assert_eq!(propose(&nodes[follower], record(10)).await, Err(mainstay::cluster::Rejection::Nothing));
    until("replicated", || nodes.iter().all(|node| node.state().nodes.contains_key(&NodeId(10)))).await;
    let term = nodes[at].term();
    let gone = nodes.remove(at);
    let since = Instant::now();
    gone.stop().await;
    let at = leader(&nodes).await;
    let nudges: u64 = nodes.iter().map(|node| node.node.nudges()).sum();
    println!("new leader after {:?} of a lease of {LEASE:?}, {nudges} nudges", since.elapsed());
    assert!(nudges > 0, "the survivors did not hurry");
    assert!(nodes[at].term() > term);
    assert_eq!(propose(&nodes[1 - at], record(11)).await, Ok(()));
    stop_all(nodes).await;
}

#[tokio::test]
async fn a_node_that_was_cut_off_disturbs_nobody() {
    let site = Site::with_lease(3, LONG_LEASE);
    let nodes = site.start_all().await;
    let at = leader(&nodes).await;
    let term = nodes[at].term();
    let cut = (at + 1) % 3;
    nodes[cut].node.sever(true);
    sleep(2 * LONG_LEASE).await;
    assert_eq!(propose(&nodes[at], record(10)).await, Ok(()));
    assert_eq!(nodes[cut].term(), term, "pre-vote keeps its term");
    nodes[cut].node.sever(false);
    until("it catches up", || nodes[cut].state().nodes.contains_key(&NodeId(10))).await;
    sleep(LONG_LEASE).await;
    until("it leads", || nodes[at].leads()).await;
    assert_eq!(nodes[at].term(), term, "the leader was disturbed");
    stop_all(nodes).await;
}

#[tokio::test]
async fn a_leader_that_is_cut_off_stops_believing_it() {
    let site = Site::new(3);
    let nodes = site.start_all().await;
    let at = leader(&nodes).await;
    nodes[at].node.sever(true);
    until("it knows", || !nodes[at].leads()).await;
    until("another leads", || (0..3).any(|n| n != at && nodes[n].leads())).await;
    assert!(!nodes[at].leads());
    nodes[at].node.sever(false);
    leader(&nodes).await;
    stop_all(nodes).await;
}

#[tokio::test]
async fn all_restarted_keep_what_was_agreed() {
    let site = Site::new(3);
    let nodes = site.start_all().await;
    assert_eq!(propose(&nodes[0], record(10)).await, Ok(()));
    until("replicated", || nodes.iter().all(|node| node.state().nodes.contains_key(&NodeId(10)))).await;
    let term = nodes[0].term();
    stop_all(nodes).await;
    let nodes = site.start_all_again().await;
    assert!(nodes.iter().all(|node| node.state().nodes.contains_key(&NodeId(10))));
    let at = leader(&nodes).await;
    assert!(nodes[at].term() > term);
    stop_all(nodes).await;
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

#[tokio::test]
async fn a_restarted_voter_is_silent_for_the_longest_lease_it_promised() {
    let site = Site::new(3);
    let nodes = site.start_all().await;
    let silence = Duration::from_secs(3);
    let local = mainstay::cluster::Local { longest_lease: silence, ..Default::default() };
    nodes[0].store.save_local(&local).await.unwrap();
    stop_all(nodes).await;
    let since = Instant::now();
    // n2 may stand soon, but needs n1, which neither stands nor answers.
    let nodes = [site.start(1, site.members()).await, site.start(2, site.members()).await];
    until("a leader", || nodes.iter().any(Running::leads)).await;
    assert!(since.elapsed() >= silence, "a vote was given after {:?}", since.elapsed());
    stop_all(nodes).await;
}

#[tokio::test]
async fn a_node_that_was_away_comes_back_through_a_snapshot() {
    let site = Site::new(3);
    let mut nodes = site.start_all().await;
    let at = leader(&nodes).await;
    let away = (at + 1) % 3;
    nodes.remove(away).stop().await;
    let at = leader(&nodes).await;
    for _ in 0..26 {
        futures_util::future::join_all((0..50).map(|_| propose(&nodes[at], refused()))).await;
    }
    assert_eq!(propose(&nodes[at], record(10)).await, Ok(()));
    let purged = || {
        use openraft::storage::RaftLogStorage;
        let mut log = nodes[at].store.log();
        async move { log.get_log_state().await.unwrap().last_purged_log_id.map_or(0, |id| id.index) }
    };
    let end = Instant::now() + PATIENCE;
    while purged().await < 500 {
        assert!(Instant::now() < end, "the log was not purged");
        sleep(Duration::from_millis(50)).await;
    }
    let back = site.start(away + 1, site.members()).await;
    let had = back.store.applied().borrow().index();
    until("it has the state", || back.state().nodes.contains_key(&NodeId(10))).await;
    let state = openraft::storage::RaftLogStorage::get_log_state(&mut back.store.log()).await.unwrap();
    let purged = state.last_purged_log_id.map_or(0, |id| id.index);
    assert!(purged > had + 100, "it came by a snapshot and not by the log: {purged} after {had}");
    stop_all(nodes).await;
    back.stop().await;
}

#[tokio::test]
async fn one_becomes_three() {
    let site = Site::new(3);
    let alone = Founding::Members(BTreeMap::from([("n1".to_owned(), site.places[0].address.clone())]));
    let one = site.start(1, alone).await;
    one.member().await;
    until("n1 leads", || one.leads()).await;
    let two = site.start(2, site.join_first()).await;
    two.member().await;
    until("n2 learns", || one.node.leadership().borrow().learners == ids([2])).await;
    sleep(2 * LEASE).await;
    assert_eq!(one.node.leadership().borrow().voters, ids([1]), "two voters survive no more than one");
    // A follower names the leader.
    let three = site.start(3, Founding::Join(vec![site.places[1].address.clone()])).await;
    three.member().await;
    until("all vote", || one.node.leadership().borrow().voters == ids([1, 2, 3])).await;
    guardians(&[&one, &two, &three], ids([1, 2, 3])).await;
    let id = three.node.id();
    three.stop().await;
    let three = site.start(3, site.join_first()).await;
    three.member().await;
    assert_eq!(three.node.id(), id, "--join on a later start changes nothing");
    stop_all([one, two, three]).await;
}

#[tokio::test]
async fn a_new_number_needs_a_new_start() {
    let site = Site::new(2);
    let alone = Founding::Members(BTreeMap::from([("n1".to_owned(), site.places[0].address.clone())]));
    let one = site.start(1, alone).await;
    one.member().await;
    // As if it had been taken in as 9, and removed before the log reached it.
    let store = Store::open(site.dir(2), "edge", "n2").unwrap();
    store.enrol(NodeId(9), 1).await.unwrap();
    store.close().await;
    let two = site.start(2, site.join_first()).await;
    let told = two.formation(|formation| matches!(formation, Formation::Failed { .. })).await;
    assert!(format!("{told:?}").contains("new number 2; restart the agent"), "{told:?}");
    two.stop().await;
    let two = site.start(2, site.join_first()).await;
    two.formation(|formation| *formation == Formation::Member { id: NodeId(2) }).await;
    stop_all([one, two]).await;
}

#[tokio::test]
async fn a_wiped_store_is_a_stranger_until_it_joins_anew() {
    let site = Site::new(3);
    let mut nodes = site.start_all().await;
    let at = leader(&nodes).await;
    let wiped = (at + 1) % 3;
    let name = format!("n{}", wiped + 1);
    nodes.remove(wiped).stop().await;
    std::fs::remove_dir_all(site.dir(wiped + 1)).unwrap();
    let stranger = site.start(wiped + 1, site.members()).await;
    let told = stranger.formation(|formation| matches!(formation, Formation::Refused { .. })).await;
    assert!(format!("{told:?}").contains(&format!("mainstay leave {name}")), "{told:?}");
    assert!(stranger.store.is_pristine());
    stranger.stop().await;

    let refs: Vec<&Running> = nodes.iter().collect();
    let leaving = nodes[0].node.leave(&name);
    let finishing = async {
        loop {
            finish_guardians(&refs).await;
            sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        left = leaving => left.unwrap(),
        () = finishing => unreachable!(),
    }
    until("it is forgotten", || nodes.iter().all(|node| node.node.leadership().borrow().voters.len() == 2)).await;
    let other = (0..3).find(|n| *n != wiped).unwrap();
    let anew = site.start(wiped + 1, Founding::Join(vec![site.places[other].address.clone()])).await;
    anew.member().await;
    assert_eq!(anew.node.id(), Some(NodeId(4)), "numbers are not used again");
    until("it votes", || nodes.iter().any(|node| node.node.leadership().borrow().voters.contains(&NodeId(4)))).await;
    stop_all(nodes).await;
    anew.stop().await;
}

#[tokio::test]
async fn a_wiped_store_that_joins_replaces_the_one_that_is_gone() {
    let site = Site::new(3);
    let mut nodes = site.start_all().await;
    let at = leader(&nodes).await;
    let wiped = (at + 1) % 3;
    let twin = Place { name: format!("n{}", wiped + 1), address: free_address(), dir: site.dir(1).join("twin") };
    let mut other =
        Site { _dir: tempfile::tempdir().unwrap(), keys: site.keys.clone(), lease: LEASE, places: vec![twin] };
    let ask = Founding::Join(vec![site.places[at].address.clone()]);
    let impostor = other.start(1, ask.clone()).await;
    let told = impostor.formation(|formation| matches!(formation, Formation::Refused { .. })).await;
    assert!(format!("{told:?}").contains("give this one another name"), "{told:?}");
    impostor.stop().await;
    nodes.remove(wiped).stop().await;
    other.places[0].dir = other._dir.path().join("fresh");
    let anew = other.start(1, ask).await;
    let refs: Vec<&Running> = nodes.iter().collect();
    let finishing = async {
        loop {
            finish_guardians(&refs).await;
            sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = anew.member() => {}
        () = finishing => unreachable!(),
    }
    assert_eq!(anew.node.id(), Some(NodeId(4)));
    stop_all(nodes).await;
    anew.stop().await;
}

#[tokio::test]
async fn leadership_is_handed_over() {
    let site = Site::new(3);
    let nodes = site.start_all().await;
    let at = leader(&nodes).await;
    let to = (at + 1) % 3;
    let since = Instant::now();
    until("no lag", || nodes[at].node.leadership().borrow().lag.values().all(|lag| *lag == 0)).await;
    nodes[at].node.transfer_leader(nodes[to].node.id().unwrap()).await.unwrap();
    println!("handed over after {:?}", since.elapsed());
    until("the other leads", || nodes[to].leads()).await;
    assert!(nodes[at].node.transfer_leader(NodeId(99)).await.is_err());
    stop_all(nodes).await;
}

#[tokio::test]
async fn the_leader_can_leave_and_the_unknown_cannot() {
    let site = Site::new(3);
    let nodes = site.start_all().await;
    let at = leader(&nodes).await;
    let refusal = nodes[at].node.leave("n9").await.unwrap_err();
    assert!(matches!(refusal, LeaveError::Refused(why) if why.contains("no node is named n9")));
    let refs: Vec<&Running> = nodes.iter().enumerate().filter(|(n, _)| *n != at).map(|(_, node)| node).collect();
    let finishing = async {
        loop {
            finish_guardians(&refs).await;
            sleep(Duration::from_millis(20)).await;
        }
    };
    let name = format!("n{}", at + 1);
    tokio::select! {
        left = nodes[at].node.leave(&name) => left.unwrap(),
        () = finishing => unreachable!(),
    }
    until("it is gone", || refs.iter().all(|node| !node.state().nodes.values().any(|node| node.name == name))).await;
    let told = nodes[at].formation(|formation| matches!(formation, Formation::Refused { .. })).await;
    assert!(format!("{told:?}").contains("if it was removed, empty its data_dir"), "{told:?}");
    stop_all(nodes).await;
}

#[tokio::test]
async fn a_primary_cannot_leave_and_a_follower_leaves_its_group() {
    let site = Site::new(3);
    let nodes = site.start_all().await;
    let at = leader(&nodes).await;
    let id = |n: usize| NodeId(n as u64 + 1);
    let (primary, follower) = ((at + 1) % 3, (at + 2) % 3);
    let name = GroupName::from("g");
    for n in 0..3 {
        let group = GroupIntro {
            group: name.clone(),
            announce: format!("h{n}:6379"),
            priority: 100,
            durability: Durability::Available,
        };
        let address = site.places[n].address.clone();
        let intro = Command::Introduce { node: id(n), address, lease: LEASE, groups: vec![group] };
        assert_eq!(propose(&nodes[at], intro).await, Ok(()));
    }
    let change = |n: usize, change: GroupCommand| {
        let expect = nodes[n].state().groups[&name].expect();
        Command::Group { group: name.clone(), expect, change }
    };
    let promote = GroupCommand::Promote {
        successor: id(primary),
        run_id: RunId::from("r"),
        start: Offset(1),
        guarantee: Guarantee::Fresh,
        at_unix_ms: 0,
    };
    assert_eq!(propose(&nodes[at], change(at, promote)).await, Ok(()));
    let follow = GroupCommand::Follow { node: id(follower), run_id: RunId::from("s") };
    assert_eq!(propose(&nodes[at], change(at, follow)).await, Ok(()));

    let refusal = nodes[at].node.leave(&site.places[primary].name).await.unwrap_err();
    assert!(refusal.to_string().contains("run `mainstay switchover --group g` first"), "{refusal}");
    let refs: Vec<&Running> = vec![&nodes[at], &nodes[primary]];
    let finishing = async {
        loop {
            finish_guardians(&refs).await;
            sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        left = nodes[primary].node.leave(&site.places[follower].name) => left.unwrap(),
        () = finishing => unreachable!(),
    }
    let state = nodes[at].state();
    let group = &state.groups[&name];
    assert!(!group.members.contains_key(&id(follower)) && !group.followers.contains_key(&id(follower)));
    assert_eq!(state.guardians.now, BTreeSet::from([id(at), id(primary)]));
    stop_all(nodes).await;
}

#[tokio::test]
async fn gossip_requests_and_link_events_reach_the_agent() {
    let site = Site::new(3);
    let mut nodes = site.start_all().await;
    until("links", || nodes[0].node.links().values().filter(|up| **up).count() == 2).await;
    assert_eq!(nodes[0].node.request(NodeId(2), Bytes::from("hi"), PATIENCE).await.unwrap(), "1:hi");
    until("gossip link", || nodes[0].node.gossip(NodeId(3), 7, "now") == GossipSent::Queued).await;
    let got = timeout(PATIENCE, nodes[2].inbox.gossip.recv()).await.unwrap().unwrap();
    assert_eq!((got.from, got.kind, &got.body[..]), (NodeId(1), 7, &b"now"[..]));
    nodes.remove(1).stop().await;
    let down = async {
        while let Some(event) = nodes[0].inbox.links.recv().await {
            if event.node == NodeId(2) && !event.up {
                return;
            }
        }
    };
    timeout(PATIENCE, down).await.expect("the lost link is told");
    assert_eq!(nodes[0].node.gossip(NodeId(2), 7, "now"), GossipSent::Down);
    stop_all(nodes).await;
}

#[tokio::test]
async fn a_store_that_fails_is_told_to_the_agent() {
    let site = Site::new(3);
    let nodes = site.start_all().await;
    nodes[1].store.close().await;
    assert_eq!(propose(&nodes[0], record(10)).await, Ok(()), "two of three suffice");
    let told = nodes[1].formation(|formation| matches!(formation, Formation::Failed { .. })).await;
    assert!(format!("{told:?}").contains("the store is closed"), "{told:?}");
    stop_all(nodes).await;
}

#[tokio::test]
async fn another_cluster_is_told_so() {
    let site = Site::new(3);
    let alone = Founding::Members(BTreeMap::from([("n1".to_owned(), site.places[0].address.clone())]));
    let one = site.start(1, alone).await;
    one.member().await;
    let lost = site.start_in(2, site.join_first(), "core").await;
    let told = lost
        .formation(|formation| matches!(formation, Formation::Waiting { why, .. } if why.contains("cluster name")))
        .await;
    assert!(format!("{told:?}").contains("cluster name is 'edge', not 'core'"), "{told:?}");
    lost.stop().await;
    let listed = site.start(3, site.members()).await;
    let told = listed.formation(|formation| matches!(formation, Formation::Refused { .. })).await;
    assert!(format!("{told:?}").contains("exists already"), "{told:?}");
    stop_all([one, listed]).await;
}
