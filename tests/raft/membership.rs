//! First start, joining, leaving, and stores that are not what they were.

use super::*;

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

/// Whatever the order in which four listed members see each other vote, log and record: none is turned away, none is
/// taken for one that was removed.
#[tokio::test]
async fn a_first_start_of_an_even_list_keeps_everybody() {
    for turn in 0..8 {
        let site = Site::new(4);
        let nodes = futures_util::future::join_all((1..=4).map(|n| site.start(n, site.members()))).await;
        let watched = nodes.iter().map(|node| {
            let mut feed = node.node.formation();
            tokio::spawn(async move {
                let ended = |now: &Formation| matches!(now, Formation::Refused { .. } | Formation::Member { .. });
                feed.wait_for(ended).await.map(|now| now.clone()).ok()
            })
        });
        for (told, n) in futures_util::future::join_all(watched).await.into_iter().zip(1..) {
            let told = told.unwrap();
            assert!(matches!(told, Some(Formation::Member { .. })), "turn {turn}, n{n}: {told:?}");
        }
        until("all are recorded", || nodes.iter().all(|node| node.state().nodes.len() == 4)).await;
        let leader = leader(&nodes).await;
        assert_eq!(nodes[leader].node.leadership().borrow().voters.len(), 3, "turn {turn}");
        stop_all(nodes).await;
    }
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

/// Else the change could only be committed by the node that is down, and nothing else could be, for as long as it is.
#[tokio::test]
async fn nobody_leaves_while_too_few_that_stay_answer() {
    let site = Site::new(3);
    let mut nodes = site.start_all().await;
    let at = leader(&nodes).await;
    let down = (at + 1) % 3;
    let stays = format!("n{}", 6 - (at + 1) - (down + 1));
    nodes.remove(down).stop().await;
    sleep(LEASE).await;
    let refusal = nodes[leader(&nodes).await].node.leave(&stays).await.unwrap_err().to_string();
    assert!(refusal.contains(&format!("n{} is silent", down + 1)), "{refusal}");
    sleep(LEASE).await;
    assert_eq!(nodes[leader(&nodes).await].node.leadership().borrow().voters, ids([1, 2, 3]));
    nodes.push(site.start(down + 1, site.members()).await);
    settled(&nodes).await;
    stop_all(nodes).await;
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
        data: None,
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
