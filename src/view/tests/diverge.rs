//! Tables over what an instance that comes back holds and the group's data lacks (S11).

use super::*;
use crate::cluster::{Diverged, Ground, Lost};

/// Node 1 was primary of epoch 1 up to offset 100, node 2 is of epoch 2 from offset 200, node 3 of epoch 3 from 300.
fn later(epoch: u64) -> State {
    let mut state = state(3);
    for (successor, start) in [(2, 200), (3, 300)].into_iter().take(usize::try_from(epoch).unwrap() - 1) {
        apply(&mut state, GroupCommand::Seal { why: Why::PrimarySilent });
        apply(&mut state, promotion(successor, start));
    }
    state
}

/// Node 1's agent after it heard the primary of `epoch`, its instance detached.
fn back(state: &State, local: LocalGroup, quarantine: bool, seen: Info) -> View {
    let epoch = state.groups[&name()].epoch.0;
    let local = Local { longest_lease: LEASE, groups: [(name(), local)].into() };
    let mut view = view(1, state, local, None);
    if quarantine {
        view.quarantine.insert(name());
    }
    let id = |epoch: u64| format!("id{epoch}").as_str().into();
    let offer = Serving { replid: id(epoch), replid2: id(epoch - 1), ..serving(900).unwrap() };
    at(&mut view, 1010, What::Instance { group: name(), seen: Sight::Info(Info { asked: ms(1010), ..seen }) });
    heard(&mut view, 1020, epoch, Item::Renew(Renewal { serving: Some(offer), ..renewal(epoch, 1) }));
    view
}

fn attached(epoch: u64, replid: &str, from: &str) -> Option<Attached> {
    Some(Attached {
        run_id: "run1".into(),
        epoch: Epoch(epoch),
        replid: replid.into(),
        from: from.into(),
        home: Some(Epoch(epoch - 1)),
    })
}

fn found(view: &View) -> Option<Option<u64>> {
    view.local.groups[&name()].diverged.as_ref().map(|found| found.bytes)
}

#[test]
fn s11_lacking_bytes_are_counted_from_where_the_histories_part() {
    let primary = || attached(1, "id1", "id1");
    let sealed = |replid: &str, offset| Info { keys: 5, ..info(1, Some(NOWHERE), replid, offset) };
    let restarted = |replid: &str, offset| Info { run_id: "run9".into(), ..sealed(replid, offset) };
    let two = || attached(2, "id2", "id1");
    type Case = (&'static str, u64, Option<Attached>, Info, Option<Option<u64>>);
    let cases: [Case; 16] = [
        ("the old primary, ahead", 2, primary(), sealed("id1", 257), Some(Some(57))),
        ("pings are bytes too", 2, primary(), sealed("id1", 201), Some(Some(1))),
        ("nothing lacks", 2, primary(), sealed("id1", 200), None),
        ("behind", 2, primary(), sealed("id1", 150), None),
        ("two epochs later", 3, primary(), sealed("id1", 257), Some(Some(57))),
        ("two epochs later, nothing", 3, primary(), sealed("id1", 190), None),
        ("a follower of the epoch between", 3, two(), sealed("id2", 310), Some(Some(10))),
        ("it never got there", 3, two(), sealed("id1", 250), Some(Some(50))),
        ("restarted, with its history", 2, primary(), restarted("id1", 257), Some(Some(57))),
        (
            "restarted, with what its file held before it was promoted",
            2,
            attached(1, "own", "id0"),
            restarted("id0", 90),
            None,
        ),
        ("restarted, without", 2, primary(), restarted("new", 0), Some(None)),
        (
            "restarted with an AOF, recorded and not yet followed",
            3,
            attached(2, "id2", "new").map(|known| Attached { home: None, ..known }),
            restarted("new", 0),
            Some(None),
        ),
        ("restarted and empty", 2, primary(), Info { keys: 0, ..restarted("new", 0) }, None),
        ("a restarted follower of this very epoch", 2, two(), restarted("new", 0), None),
        ("it continues", 2, primary(), sealed("id2", 500), None),
        ("nobody knows", 3, None, sealed("old", 10), Some(None)),
    ];
    for (why, epoch, attached, seen, bytes) in cases {
        let mut state = later(epoch);
        // Node 3 is a member of long standing in the cases where node 1 never led.
        state.groups.get_mut(&name()).unwrap().members.get_mut(&NodeId(1)).unwrap().adopted = true;
        let view = back(&state, LocalGroup { attached, ..LocalGroup::default() }, false, seen);
        assert_eq!(found(&view), bytes, "{why}");
    }
}

/// Where an operator took what a full resynchronisation had half replaced, its offset says nothing of what it holds.
#[test]
fn s11_what_a_half_replaced_primary_lacks_is_unknown() {
    let forced = |data: Option<u64>, guarantee| {
        let mut state = state(3);
        apply(&mut state, GroupCommand::Seal { why: Why::Operator });
        let GroupCommand::Promote { successor, run_id, start, at_unix_ms, .. } = promotion(2, 200) else {
            unreachable!()
        };
        let data = data.map(Epoch);
        apply(&mut state, GroupCommand::Promote { successor, run_id, start, data, guarantee, at_unix_ms });
        state
    };
    let primary = || LocalGroup { attached: attached(1, "id1", "id1"), ..LocalGroup::default() };
    let cold = Guarantee::ColdStart(Ground::Offset);
    for (data, guarantee, keys, bytes) in [
        (Some(1), Guarantee::Forced, 5, None),
        (None, Guarantee::Forced, 5, Some(None)),
        (None, cold, 5, Some(None)),
        (None, Guarantee::Forced, 0, None),
        (Some(1), cold, 5, None),
    ] {
        let below = Info { keys, ..info(1, Some(NOWHERE), "id1", 150) };
        let view = back(&forced(data, guarantee), primary(), false, below);
        assert_eq!(found(&view), bytes, "{data:?} {guarantee:?} {keys}");
    }
}

/// Node 1 led epoch 2 from 100 on; node 3 leads epoch 3 with data of epoch 1 up to 110.
#[test]
fn s11_a_successor_from_before_an_epoch_lacks_all_of_it() {
    let sealed = |offset| Info { keys: 5, ..info(1, Some(NOWHERE), "mine", offset) };
    let led = |guarantee: Guarantee, data: Option<u64>, offset| {
        let mut state = state(3);
        for (successor, start, data, guarantee) in [(1, 100, Some(1), guarantee), (3, 110, data, Guarantee::Kept)] {
            apply(&mut state, GroupCommand::Seal { why: Why::PrimarySilent });
            let GroupCommand::Promote { run_id, .. } = promotion(successor, start) else { unreachable!() };
            let (successor, start, data) = (NodeId(successor), Offset(start), data.map(Epoch));
            apply(&mut state, GroupCommand::Promote { successor, run_id, start, data, guarantee, at_unix_ms: 0 });
        }
        let local = LocalGroup { attached: attached(2, "mine", "id1"), ..LocalGroup::default() };
        found(&back(&state, local, false, Info { replid2: "id1".into(), ..sealed(offset) }))
    };
    let told = |data, offset| led(Guarantee::Kept, data, offset);
    assert_eq!(told(Some(1), 105), Some(Some(5)), "below the successor's offset, and not its data");
    assert_eq!(told(Some(1), 120), Some(Some(20)));
    assert_eq!(told(Some(1), 100), None);
    assert_eq!(told(None, 105), Some(None), "nothing tells");
    // Promoted as its disk left it, without a backlog: what it wrote before a replica came moved no offset.
    assert_eq!(led(Guarantee::ColdStart(Ground::Offset), Some(1), 100), Some(None));
    assert_eq!(led(Guarantee::Forced, Some(1), 105), Some(None));
}

#[test]
fn s11_a_look_from_before_the_seal_does_not_shorten_it() {
    let state = later(2);
    let local = LocalGroup { attached: attached(1, "id1", "id1"), ..LocalGroup::default() };
    let stale = info(1, Some(NOWHERE), "id1", 200);
    let mut view = back(&state, local.clone(), false, stale.clone());
    assert_eq!(found(&view), None);
    view.local.groups.insert(name(), local);
    view.seats.get_mut(&name()).unwrap().instance.sealed_at = Some(("run1".into(), Offset(260)));
    looked(&mut view, 1030, stale);
    assert_eq!(found(&view), Some(Some(60)));
}

#[test]
fn s11_the_same_data_is_told_again_to_an_epoch_that_does_not_bring_it_back() {
    // Epoch 2 lacked 57 bytes of it. It never followed epoch 2's primary, whose history is longer.
    let told = Diverged {
        run_id: "run1".into(),
        replid: "id1".into(),
        offset: Offset(257),
        epoch: Epoch(2),
        bytes: Some(57),
        file: Some("f.rdb".to_owned()),
        saved: true,
    };
    for run in [1, 9] {
        let local =
            LocalGroup { attached: attached(2, "id2", "id1"), diverged: Some(told.clone()), ..LocalGroup::default() };
        let seen = Info { keys: 5, ..info(run, Some(NOWHERE), "id1", 257) };
        let view = back(&later(3), local, true, seen);
        assert_eq!(found(&view), Some(Some(57)), "process {run}");
        let lost = Lost { bytes: Some(57), file: Some("f.rdb".to_owned()) };
        let change = GroupCommand::Diverged { node: NodeId(1), epoch: Epoch(3), lost };
        assert_eq!(view.untold_loss(&name()), Some(change), "the file that was saved holds it");
    }
}

/// There is one record: what it says of other data is in its event before it is written over.
#[test]
fn s11_a_loss_that_is_not_told_yet_is_not_written_over() {
    let mut state = later(3);
    let older = Diverged {
        run_id: "run0".into(),
        replid: "id0".into(),
        offset: Offset(44),
        epoch: Epoch(2),
        bytes: Some(19),
        file: None,
        saved: false,
    };
    let local = LocalGroup { attached: attached(1, "id1", "id1"), diverged: Some(older), ..LocalGroup::default() };
    let seen = || Info { keys: 5, ..info(1, Some(NOWHERE), "id1", 257) };
    let view = back(&state, local.clone(), false, seen());
    assert_eq!(found(&view), Some(Some(19)));
    let Some(told @ GroupCommand::Diverged { epoch: Epoch(2), .. }) = view.untold_loss(&name()) else {
        panic!("the older loss is to be told first: {:?}", view.untold_loss(&name()))
    };
    assert!(view.owes_older_loss(&name(), &view.seats[&name()]), "and until then it follows nobody");
    apply(&mut state, told);
    let view = back(&state, local, false, seen());
    assert_eq!(found(&view), Some(Some(57)), "what the next primary lacks now");
    assert!(!view.owes_older_loss(&name(), &view.seats[&name()]));
}

#[test]
fn s11_it_follows_only_once_its_data_is_saved() {
    let state = later(2);
    let local = LocalGroup { attached: attached(1, "id1", "id1"), ..LocalGroup::default() };
    let seen = info(1, Some(NOWHERE), "id1", 257);
    let mut view = back(&state, local.clone(), true, seen.clone());
    let record: Diverged = view.to_quarantine(&name()).unwrap().clone();
    assert_eq!((record.bytes, record.saved), (Some(57), false));
    assert!(view.follow_target(&name()).is_none() && view.untold_loss(&name()).is_none());
    assert_eq!(view.local.groups[&name()].attached, local.attached, "what proves it stays");
    // An agent that dies meanwhile finds the same name again.
    let again = view.local.groups[&name()].clone();
    assert_eq!(back(&state, again, true, seen.clone()).to_quarantine(&name()), Some(&record));
    let failed = Outcome::Failed { why: "no room".to_owned() };
    at(&mut view, 1030, What::Done { group: name(), task: Task::Quarantine, epoch: Epoch(2), outcome: failed });
    assert!(view.follow_target(&name()).is_none());
    let outcome = Outcome::Done { info: seen, clean: true };
    at(&mut view, 1040, What::Done { group: name(), task: Task::Quarantine, epoch: Epoch(2), outcome });
    assert!(view.follow_target(&name()).is_some());
    let lost = Lost { bytes: Some(57), file: record.file };
    assert_eq!(
        view.untold_loss(&name()),
        Some(GroupCommand::Diverged { node: NodeId(1), epoch: Epoch(2), lost: lost.clone() })
    );
    let mut noted = state;
    apply(&mut noted, GroupCommand::Diverged { node: NodeId(1), epoch: Epoch(2), lost });
    applied(&mut view, 1050, &noted);
    assert_eq!(view.untold_loss(&name()), None, "told once");
}

#[test]
fn s11_without_quarantine_it_is_told_and_waits_for_nothing() {
    let local = LocalGroup { attached: attached(1, "id1", "id1"), ..LocalGroup::default() };
    let view = back(&later(2), local, false, info(1, Some(NOWHERE), "id1", 257));
    assert!(view.follow_target(&name()).is_some());
    let lost = Lost { bytes: Some(57), file: None };
    assert_eq!(view.untold_loss(&name()), Some(GroupCommand::Diverged { node: NodeId(1), epoch: Epoch(2), lost }));
}

/// Found by the simulator, seed 84887: while it hung, it was recorded as attached to the new epoch, and never judged.
#[test]
fn s11_an_instance_that_does_not_answer_is_not_attached_unjudged() {
    let state = later(2);
    let mut view = back(&state, LocalGroup { attached: attached(1, "id1", "id1"), ..LocalGroup::default() }, false, {
        Info { keys: 5, ..info(1, Some(NOWHERE), "id1", 257) }
    });
    let mut silent = view.clone();
    silent.local.groups.get_mut(&name()).unwrap().attached = attached(1, "id1", "id1");
    silent.local.groups.get_mut(&name()).unwrap().diverged = None;
    let hung = Sight::Silent { length: Duration::from_millis(100), progress: false };
    let epoch = |view: &View| view.local.groups[&name()].attached.as_ref().map(|attached| attached.epoch.0);
    let mut member = state.clone();
    apply(&mut member, GroupCommand::Follow { node: NodeId(1), run_id: "run1".into() });
    at(&mut silent, 1025, What::Instance { group: name(), seen: hung });
    applied(&mut silent, 1030, &member);
    assert_eq!(epoch(&silent), Some(1));
    assert_eq!(found(&silent), None);
    applied(&mut view, 1030, &member);
    assert_eq!((epoch(&view), found(&view)), (Some(2), Some(Some(57))), "it answers: judged, then attached");
}

/// A node that joins anew after another generation counted the same epochs: what it holds under that number is not this
/// epoch's, and not called nothing lost.
#[test]
fn s11_what_another_generation_counted_is_unknown() {
    let mut state = later(2);
    state.groups.get_mut(&name()).unwrap().members.get_mut(&NodeId(1)).unwrap().adopted = false;
    let former = LocalGroup { attached: attached(2, "theirs", "id1"), ..LocalGroup::default() };
    let former = Local { longest_lease: LEASE, groups: [(name(), former)].into() };
    let kept = former.kept_to_join();
    assert_eq!(kept.longest_lease, LEASE);
    let of = |replid: &str, offset| {
        let seen = Info { keys: 5, ..info(1, Some(NOWHERE), replid, offset) };
        found(&back(&state, kept.groups[&name()].clone(), false, seen))
    };
    assert_eq!(of("theirs", 400), Some(None));
    assert_eq!(of("id1", 257), Some(Some(57)), "the present primary knows this history itself");
    assert_eq!(of("id2", 400), None);
}
