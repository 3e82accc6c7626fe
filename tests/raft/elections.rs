//! Who leads, what survives, and what a fault must not cause.

use super::*;

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
