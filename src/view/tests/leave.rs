//! Tables over the leaving of F: who says that it is detached, and what the primary concludes from it and when (S5).

use super::*;

const PRIMARY: &str = "10.0.0.1:6379";

fn since(state: &State, n: u64) -> Version {
    state.groups[&name()].followers[&NodeId(n)].since
}

pub(super) fn first(state: &State, n: u64) -> GroupCommand {
    GroupCommand::Leaving { node: NodeId(n), since: since(state, n) }
}

pub(super) fn dropped(state: &State, n: u64) -> GroupCommand {
    GroupCommand::Drop { node: NodeId(n), since: since(state, n) }
}

fn version(state: &State) -> Version {
    state.groups[&name()].version
}

/// The primary of three, serving since 1.05 s.
fn primary(state: &State) -> View {
    let mut view = view(1, state, long_lease(), None);
    let seat = view.seats.get_mut(&name()).unwrap();
    seat.instance.posture = Posture::Serving(Epoch(1));
    view
}

/// The primary's INFO, asked for at `time`: its offset, and who has acknowledged what.
fn read(view: &mut View, time: u64, offset: u64, rows: &[(u64, u64)]) {
    let row = |(n, offset): &(u64, u64)| ReplicaRow {
        address: format!("10.0.0.{n}:6379"),
        syncing: false,
        online: true,
        offset: Offset(*offset),
    };
    looked(view, time, Info { replicas: rows.iter().map(row).collect(), ..info(1, None, "id1", offset) });
}

fn passed(view: &View, n: u64) -> bool {
    view.passed_without(view.group(&name()).unwrap(), &view.seats[&name()], NodeId(n))
}

fn rested(view: &mut View, time: u64, from: u64, version: Version) {
    heard(view, time, from, Item::Rested { group: name(), version });
}

#[test]
fn a_member_says_that_it_is_detached_only_where_it_may_not_follow() {
    let run = |change: &dyn Fn(&mut State), upstream: Option<&str>| {
        let mut state = state(3);
        let mut view = view(2, &state, long_lease(), None);
        change(&mut state);
        applied(&mut view, 1010, &state);
        looked(&mut view, 1050, info(2, upstream, "id1", 150));
        view.rested(&name()) == Some(version(&state))
    };
    let leaving = |state: &mut State| {
        let going = first(state, 2);
        apply(state, going)
    };
    let gone = |state: &mut State| {
        let going = dropped(state, 2);
        apply(state, going)
    };
    assert!(run(&leaving, Some(NOWHERE)) && run(&gone, Some(NOWHERE)));
    assert!(!run(&leaving, Some(PRIMARY)) && !run(&gone, Some(PRIMARY)), "it still follows");
    assert!(!run(&|_| {}, Some(NOWHERE)), "it is in F and may follow any moment");
    let back = |state: &mut State| {
        let going = first(state, 2);
        apply(state, going);
        apply(state, GroupCommand::Follow { node: NodeId(2), run_id: "run2".into() });
    };
    assert!(!run(&back, Some(NOWHERE)), "let in again");
    // A task under way may be the one that attaches it; a dead instance acknowledges nothing.
    let mut state = state(3);
    leaving(&mut state);
    let mut view = view(2, &state, long_lease(), None);
    looked(&mut view, 1050, info(2, Some(NOWHERE), "id1", 150));
    let tasks = vec![(name(), Task::Follow, Epoch(1))];
    at(&mut view, 1060, What::Decided(Noted { tasks, ..Noted::default() }));
    assert_eq!(view.rested(&name()), None);
    at(&mut view, 1070, What::Instance { group: name(), seen: Sight::Gone });
    let failed = Outcome::Failed { why: String::new() };
    at(&mut view, 1080, What::Done { group: name(), task: Task::Follow, epoch: Epoch(1), outcome: failed });
    assert_eq!(view.rested(&name()), Some(version(&state)));
}

#[test]
fn the_primary_reads_its_offset_after_the_seal_is_known() {
    let mut state = state(3);
    let leaving = first(&state, 2);
    apply(&mut state, leaving);
    let mut view = primary(&state);
    read(&mut view, 1100, 500, &[(2, 500), (3, 500)]);
    assert!(!passed(&view, 2), "it has not said that it is detached");
    rested(&mut view, 1200, 2, Version(version(&state).0 - 1));
    read(&mut view, 1250, 500, &[(2, 500), (3, 500)]);
    assert!(!passed(&view, 2), "that was before it had applied the first commit");
    rested(&mut view, 1300, 2, version(&state));
    assert!(!passed(&view, 2), "500 was read before: it may have acknowledged more since");
    read(&mut view, 1290, 600, &[(3, 600)]);
    assert!(!passed(&view, 2), "asked for before the word came");
    read(&mut view, 1350, 700, &[(3, 600)]);
    assert!(!passed(&view, 2), "3 lacks what 2 may have acknowledged");
    read(&mut view, 1400, 900, &[(3, 700)]);
    assert!(passed(&view, 2), "3 has passed 700");
    read(&mut view, 1450, 900, &[]);
    assert!(!passed(&view, 2), "3 is not attached any more");
    // Let in again: what was known of the old admission is void.
    apply(&mut state, GroupCommand::Follow { node: NodeId(2), run_id: "run2".into() });
    let leaving = first(&state, 2);
    apply(&mut state, leaving);
    applied(&mut view, 1500, &state);
    read(&mut view, 1550, 900, &[(3, 900)]);
    assert!(!passed(&view, 2));
}

#[test]
fn who_left_without_proof_is_settled_by_its_seal_or_by_its_removal() {
    let mut state = state(3);
    let gone = dropped(&state, 2);
    apply(&mut state, gone);
    let mut view = primary(&state);
    read(&mut view, 1100, 500, &[(3, 500)]);
    assert!(!passed(&view, 2), "its instance may be attached while its agent is silent");
    let mut removed = view.clone();
    rested(&mut view, 1200, 2, version(&state));
    read(&mut view, 1250, 500, &[(3, 500)]);
    assert!(passed(&view, 2));
    apply(&mut state, GroupCommand::RemoveMember { node: NodeId(2) });
    read(&mut removed, 1290, 500, &[(3, 500)]);
    applied(&mut removed, 1300, &state);
    assert!(!passed(&removed, 2), "read before the removal was applied");
    read(&mut removed, 1350, 500, &[(2, 500), (3, 500)]);
    assert!(!passed(&removed, 2), "still attached");
    read(&mut removed, 1400, 500, &[(3, 500)]);
    assert!(passed(&removed, 2));
}

/// A node that lost its store comes back under another number, beside the very instance that was attached all the time.
#[test]
fn who_came_back_under_another_number_counts_there() {
    let mut state = state(3);
    let gone = dropped(&state, 2);
    apply(&mut state, gone);
    apply(&mut state, GroupCommand::RemoveMember { node: NodeId(2) });
    let record = Node {
        name: "n4".to_owned(),
        address: "10.0.0.2:7400".to_owned(),
        incarnation: Incarnation(4),
        introduced: false,
    };
    assert_eq!(state.apply(&Command::AddNode { node: NodeId(4), record }), Ok(()));
    let announce = "10.0.0.2:6379".to_owned();
    let intro = GroupIntro { group: name(), announce, priority: 100, durability: Durability::Available };
    let address = "10.0.0.2:7400".to_owned();
    let command = Command::Introduce { node: NodeId(4), address, lease: LEASE, groups: vec![intro] };
    assert_eq!(state.apply(&command), Ok(()));
    let mut view = primary(&state);
    read(&mut view, 1100, 500, &[(2, 500), (3, 500)]);
    assert!(!passed(&view, 2), "whose the replica is nobody knows");
    apply(&mut state, GroupCommand::Follow { node: NodeId(4), run_id: "run2".into() });
    read(&mut view, 1190, 500, &[(2, 500), (3, 500)]);
    applied(&mut view, 1200, &state);
    assert!(!passed(&view, 2), "read before it was let in");
    let mut two = view.clone();
    read(&mut two, 1250, 600, &[(2, 600), (2, 600), (3, 600)]);
    assert!(!passed(&two, 2), "one of the two may be the old one");
    read(&mut view, 1250, 600, &[(2, 550), (3, 600)]);
    assert!(!passed(&view, 2), "it may have acknowledged up to 600 before");
    read(&mut view, 1300, 700, &[(2, 600), (3, 700)]);
    assert!(passed(&view, 2), "counted as node 4, and all hold it");
}
