//! Tables over full resynchronisations one after the other, and the backlog that spares them.

use super::*;

/// Node 2's agent, detached in epoch 1, after the primary's renewal.
fn detached(seen: Info, full: Slot, backlog: u64) -> View {
    let local = Local { longest_lease: LEASE, ..Local::default() };
    let mut state = state(3);
    state.groups.get_mut(&name()).unwrap().members.get_mut(&NodeId(2)).unwrap().adopted = true;
    let mut view = view(2, &state, local, None);
    at(&mut view, 1010, What::Instance { group: name(), seen: Sight::Info(Info { asked: ms(1010), ..seen }) });
    let offer = Serving { full, backlog: Offset(backlog), ..serving(900).unwrap() };
    heard(&mut view, 1020, 1, Item::Renew(Renewal { serving: Some(offer), ..renewal(1, 1) }));
    view
}

#[test]
fn who_continues_waits_for_nobody_and_who_does_not_for_its_turn() {
    let seen = |replid: &str, offset| info(2, Some(NOWHERE), replid, offset);
    for (why, seen, full, backlog, follows, asks) in [
        ("the same history", seen("id1", 500), Slot::Only(None), 400, true, false),
        ("of before the promotion", seen("id0", 100), Slot::Only(None), 50, true, false),
        ("beyond where it parted", seen("id0", 101), Slot::Only(None), 50, false, true),
        ("another history", seen("x", 5), Slot::Only(Some(NodeId(3))), 0, false, true),
        ("its turn", seen("x", 5), Slot::Only(Some(NodeId(2))), 0, true, true),
        ("there is nothing to send", seen("x", 5), Slot::Free, 0, true, true),
        ("older than the backlog", seen("id1", 300), Slot::Only(None), 400, false, true),
        ("no backlog yet, after a cold start", seen("id1", 500), Slot::Only(None), 0, false, true),
        ("just not", seen("id1", 399), Slot::Only(None), 400, true, false),
    ] {
        let view = detached(seen, full, backlog);
        assert_eq!((view.follow_target(&name()).is_some(), view.wants_full(&name())), (follows, asks), "{why}");
    }
}

/// Found in the lab: a node that had joined a new generation anew was no member with adopted data any more, and never asked.
#[test]
fn who_joined_anew_asks_and_who_holds_foreign_data_does_not() {
    for once in [true, false] {
        let mut view = detached(info(2, Some(NOWHERE), "x", 5), Slot::Only(None), 0);
        let state = Arc::make_mut(&mut view.state);
        state.groups.get_mut(&name()).unwrap().members.get_mut(&NodeId(2)).unwrap().adopted = false;
        let (run_id, replid) = (RunId::from("run0"), crate::cluster::Replid::from("old"));
        let attached = Attached { run_id, epoch: Epoch(1), from: replid.clone(), replid, home: Some(Epoch(0)) };
        view.local.groups.entry(name()).or_default().attached = once.then_some(attached);
        assert_eq!((view.wants_full(&name()), view.foreign_keys(&name()).is_some()), (once, !once));
    }
}

#[test]
fn who_follows_already_is_not_detached_for_it() {
    let mut view = detached(info(2, Some(NOWHERE), "id1", 500), Slot::Only(None), 400);
    let followed = Outcome::Done { info: info(2, Some(PRIMARY), "id1", 500), clean: true };
    at(&mut view, 1030, What::Done { group: name(), task: Task::Follow, epoch: Epoch(1), outcome: followed });
    let offer = Serving { full: Slot::Only(None), backlog: Offset(9000), ..serving(9900).unwrap() };
    heard(&mut view, 1040, 1, Item::Renew(Renewal { serving: Some(offer), ..renewal(1, 2) }));
    assert!(view.follow_target(&name()).is_some(), "however far it is behind");
}

/// Node 1 serves epoch 1; which replicas are being synchronised, and which have what it has.
fn served(view: &mut View, time: u64, syncing: &[u64], online: &[u64]) {
    let row = |n: u64, online: bool| ReplicaRow {
        address: format!("10.0.0.{n}:6379"),
        online,
        syncing: !online,
        offset: Offset(0),
    };
    let replicas = syncing.iter().map(|n| row(*n, false)).chain(online.iter().map(|n| row(*n, true))).collect();
    looked(view, time, Info { keys: 5, replicas, ..info(1, None, "id1", 900) });
    view.seats.get_mut(&name()).unwrap().instance.posture = Posture::Serving(Epoch(1));
    tick(view, time);
}

fn asks(view: &mut View, time: u64, node: u64, full: bool) {
    let said = Health {
        group: name(),
        epoch: Epoch(1),
        posture: "sealed".to_owned(),
        offset: None,
        lineage: None,
        reason: String::new(),
        vip: false,
        full,
        note: String::new(),
        vip_trouble: String::new(),
    };
    heard(view, time, node, Item::Health(said));
}

#[test]
fn the_primary_lets_one_after_the_other() {
    let mut view = view(1, &state(3), long_lease(), None);
    let turn = |view: &View| view.serving(&name()).map(|serving| serving.full);
    let only = |node: Option<u64>| Some(Slot::Only(node.map(NodeId)));
    served(&mut view, 1010, &[], &[]);
    assert_eq!(turn(&view), only(None));
    asks(&mut view, 1020, 2, true);
    asks(&mut view, 1020, 3, true);
    assert_eq!(turn(&view), only(Some(2)));
    asks(&mut view, 1050, 2, false);
    asks(&mut view, 1050, 3, true);
    assert_eq!(turn(&view), only(Some(2)), "it attaches, which INFO does not show yet");
    served(&mut view, 1100, &[2], &[]);
    asks(&mut view, 1110, 3, true);
    assert_eq!(turn(&view), only(Some(2)), "it is being synchronised");
    served(&mut view, 1200, &[], &[2]);
    assert_eq!(turn(&view), only(Some(3)), "done: the next one");
    // One that does not begin has had its turn.
    asks(&mut view, 1210, 2, true);
    for time in (1300..5400).step_by(100) {
        asks(&mut view, time, 2, true);
        asks(&mut view, time, 3, true);
    }
    assert_eq!(turn(&view), only(Some(2)));
    looked(&mut view, 5500, Info { keys: 0, ..info(1, None, "id1", 900) });
    assert_eq!(turn(&view), Some(Slot::Free), "nothing to send");
}

#[test]
fn a_turn_ends_with_the_reign_that_gave_it() {
    let mut view = view(1, &state(3), long_lease(), None);
    served(&mut view, 1010, &[], &[]);
    asks(&mut view, 1020, 2, true);
    assert!(view.seats[&name()].full.is_some());
    let mut later = sealing(3);
    applied(&mut view, 1100, &later);
    assert!(view.seats[&name()].full.is_some(), "it may serve on, as after a switchover that was called off");
    apply(&mut later, promotion(1, 900));
    applied(&mut view, 1200, &later);
    assert_eq!(view.seats[&name()].full, None);
}

#[test]
fn a_backlog_too_short_for_the_rate_is_said_once_and_taken_back_late() {
    let mut view = view(1, &state(3), long_lease(), None);
    served(&mut view, 1000, &[], &[]);
    let mut offset = 900;
    let mut write = |view: &mut View, from: u64, bytes: u64| {
        for second in 0..20 {
            offset += bytes;
            let backlog = (Offset(1), 1_000_000);
            let seen = Info { keys: 5, backlog, ..info(1, None, "id1", offset) };
            looked(view, from + second * 1000, seen);
        }
        view.short_backlog(&name())
    };
    // 14 s of writing (five leases, and a restart of ten) must fit.
    assert_eq!(write(&mut view, 2000, 60_000), None);
    let (size, need) = write(&mut view, 30_000, 100_000).unwrap();
    assert!(size == 1_000_000 && (1_300_000..1_400_000).contains(&need), "{need}");
    assert!(write(&mut view, 60_000, 60_000).is_some(), "not clearly over yet");
    assert_eq!(write(&mut view, 90_000, 20_000), None);
}
