//! Tables over `apply`: every command accepted and refused, and the arithmetic of W and R.

use super::*;
use std::collections::BTreeSet;
use std::time::Duration;

mod leaving;

const LEASE: Duration = Duration::from_millis(800);

fn name() -> GroupName {
    GroupName::from("g")
}

fn node(n: u64) -> Node {
    let incarnation = Incarnation(u128::from(n));
    Node { name: format!("n{n}"), address: format!("10.0.0.{n}:7400"), incarnation, introduced: false }
}

fn introduction(n: u64, priority: u32) -> Command {
    let intro =
        GroupIntro { group: name(), announce: format!("10.0.0.{n}:6379"), priority, durability: Durability::Available };
    Command::Introduce { node: NodeId(n), address: format!("10.0.0.{n}:7400"), lease: LEASE, groups: vec![intro] }
}

fn ids(nodes: &[u64]) -> BTreeSet<NodeId> {
    nodes.iter().copied().map(NodeId).collect()
}

/// So many nodes, all guardians and members; the last one of five or more has priority 0.
fn cluster(n: u64) -> State {
    let mut state = State::default();
    for id in 1..=n {
        assert_eq!(state.apply(&Command::AddNode { node: NodeId(id), record: node(id) }), Ok(()));
    }
    let next = (1..=n).map(NodeId).collect();
    assert_eq!(state.apply(&Command::Guardians(GuardianChange::Begin { next })), Ok(()));
    for id in 1..=n {
        assert_eq!(state.apply(&introduction(id, if id >= 5 { 0 } else { 100 })), Ok(()));
    }
    state
}

fn group(state: &State) -> &Group {
    &state.groups[&name()]
}

fn change(state: &mut State, change: GroupCommand) -> Result<(), Rejection> {
    let expect = group(state).expect();
    state.apply(&Command::Group { group: name(), expect, change })
}

fn promotion(successor: u64) -> GroupCommand {
    GroupCommand::Promote {
        successor: NodeId(successor),
        run_id: RunId(format!("run{successor}")),
        start: Offset(10),
        data: None,
        guarantee: Guarantee::Kept,
        at_unix_ms: 7,
    }
}

fn follow(n: u64) -> GroupCommand {
    GroupCommand::Follow { node: NodeId(n), run_id: RunId(format!("run{n}")) }
}

/// Node 1 is primary of epoch 1, all others follow.
fn served(n: u64) -> State {
    let mut state = cluster(n);
    assert_eq!(change(&mut state, promotion(1)), Ok(()));
    for id in 2..=n {
        assert_eq!(change(&mut state, follow(id)), Ok(()));
    }
    state
}

/// A refused command changes nothing, not even the version.
fn refused(state: &State, wanted: GroupCommand, why: &Rejection) {
    let mut after = state.clone();
    assert_eq!(change(&mut after, wanted.clone()).as_ref(), Err(why), "{wanted:?}");
    assert_eq!(&after, state, "{wanted:?}");
}

fn accepted(state: &State, wanted: GroupCommand) -> State {
    let mut after = state.clone();
    assert_eq!(change(&mut after, wanted.clone()), Ok(()), "{wanted:?}");
    assert_eq!(group(&after).version, group(state).version.next(), "{wanted:?}");
    after
}

#[test]
fn s5_quorum_and_reports_needed_by_members() {
    // Members, W, R with everybody in F, R with F empty.
    for (members, quorum, all, alone) in [(1, 1, 1, 1), (2, 2, 1, 1), (3, 2, 2, 1), (4, 3, 2, 1), (5, 3, 3, 1)] {
        let state = served(members);
        assert_eq!(group(&state).quorum, quorum, "{members} members");
        assert_eq!(group(&state).reports_needed(), all, "{members} members, all in F");
        let mut empty = group(&state).clone();
        empty.followers.clear();
        assert_eq!(empty.reports_needed(), alone, "{members} members, F empty");
    }
}

#[test]
fn s5_any_quorum_of_acknowledgements_meets_any_proof() {
    // For every size: two sets of W and R out of F and the primary share a node.
    for members in 1..=9_u64 {
        for followers in 0..members {
            let mut found = group(&served(members)).clone();
            found.followers.retain(|id, _| id.0 <= followers + 1);
            let holders = found.followers.len() + 1;
            let acknowledged = (found.quorum as usize).min(holders);
            assert!(acknowledged + found.reports_needed() > holders || (found.quorum as usize) > holders);
        }
    }
}

#[test]
fn s5_old_quorum_counts_until_it_is_settled() {
    let mut state = served(3);
    assert_eq!(state.apply(&Command::AddNode { node: NodeId(4), record: node(4) }), Ok(()));
    assert_eq!(state.apply(&introduction(4, 100)), Ok(()));
    let since = group(&state).former_quorum.as_ref().map(|former| former.since).unwrap();
    assert_eq!((group(&state).quorum, group(&state).reports_needed()), (3, 2));
    let state = accepted(&state, follow(4));
    assert_eq!(group(&state).reports_needed(), 3, "the old W of 2 out of four");
    refused(&state, GroupCommand::QuorumSettled { since: Version(since.0 + 1) }, &Rejection::Nothing);
    let state = accepted(&state, GroupCommand::QuorumSettled { since });
    assert_eq!(group(&state).reports_needed(), 2);
    refused(&state, GroupCommand::QuorumSettled { since }, &Rejection::Nothing);
}

#[test]
fn s3_compare_and_set_on_epoch_and_phase() {
    let state = served(3);
    for (epoch, phase) in [(0, PhaseKind::Stable), (2, PhaseKind::Stable), (1, PhaseKind::Sealing)] {
        let expect = Expect { epoch: Epoch(epoch), phase, paused_at: Version(0) };
        let seal = GroupCommand::Seal { why: Why::PrimarySilent };
        let mut after = state.clone();
        let outcome = after.apply(&Command::Group { group: name(), expect, change: seal });
        assert_eq!(outcome, Err(Rejection::Outdated { epoch: Epoch(1) }));
        assert_eq!(after, state);
    }
    let stranger = Command::Group { group: "x".into(), expect: group(&state).expect(), change: GroupCommand::Resume };
    assert_eq!(state.clone().apply(&stranger), Err(Rejection::NoSuchGroup));
}

#[test]
fn s3_promote_only_out_of_a_seal() {
    let state = served(3);
    refused(&state, promotion(2), &Rejection::Outdated { epoch: Epoch(1) });
    let sealed = accepted(&state, GroupCommand::Seal { why: Why::PrimarySilent });
    refused(&sealed, GroupCommand::Seal { why: Why::PrimarySilent }, &Rejection::Nothing);
    refused(&sealed, promotion(9), &Rejection::NoSuchNode(NodeId(9)));
    let promoted = accepted(&sealed, promotion(2));
    let found = group(&promoted);
    assert_eq!((found.epoch, &found.phase), (Epoch(2), &Phase::Stable));
    assert_eq!(found.primary, Some(Incumbent { node: NodeId(2), run_id: "run2".into() }));
    assert_eq!(found.starts[&Epoch(2)].offset, Offset(10));
    let last = found.history.back().unwrap();
    assert_eq!((last.from, last.to, last.why), (Some(NodeId(1)), NodeId(2), Why::PrimarySilent));
}

#[test]
fn s3_promote_makes_the_followers_set() {
    // F + old primary - successor.
    let sealed = accepted(&served(4), GroupCommand::Seal { why: Why::PrimarySilent });
    let promoted = accepted(&sealed, promotion(3));
    assert_eq!(group(&promoted).followers.keys().copied().collect::<BTreeSet<_>>(), ids(&[1, 2, 4]));
    assert_eq!(group(&promoted).followers[&NodeId(1)].run_id, RunId::from("run1"));
    assert!(group(&promoted).is_candidate(NodeId(3)) && group(&promoted).is_candidate(NodeId(1)));
    // The same instance again: nobody joins and nobody leaves.
    let again = accepted(&sealed, promotion(1));
    assert_eq!(group(&again).followers.keys().copied().collect::<BTreeSet<_>>(), ids(&[2, 3, 4]));
}

#[test]
fn s4_priority_zero_is_never_promoted() {
    let sealed = accepted(&served(5), GroupCommand::Seal { why: Why::PrimarySilent });
    refused(&sealed, promotion(5), &Rejection::NotPromotable(NodeId(5)));
    refused(
        &served(5),
        GroupCommand::Switch { to: NodeId(5), why: Why::Operator },
        &Rejection::NotPromotable(NodeId(5)),
    );
}

#[test]
fn what_is_left_to_one_node_goes_on_with_it_alone() {
    let mut state = served(4);
    let gone = leaving::dropped(&state, 4);
    assert_eq!(change(&mut state, gone), Ok(()));
    let begin = Command::Guardians(GuardianChange::Begin { next: ids(&[1, 2, 3]) });
    assert_eq!(state.apply(&begin), Ok(()));
    let left = state.left_to(NodeId(3));
    let found = group(&left);
    assert_eq!(left.nodes.keys().copied().collect::<Vec<_>>(), [NodeId(3)]);
    assert_eq!((&left.guardians.now, &left.guardians.next), (&ids(&[3]), &None));
    assert!(left.guardians.version > state.guardians.version && found.version > group(&state).version);
    assert_eq!(left.next_node, state.next_node, "a number is never given twice");
    assert_eq!((found.epoch, found.forced, found.quorum), (Epoch(1), Some(NodeId(3)), 1));
    assert!(matches!(found.phase, Phase::Sealing { next: Epoch(2), .. }));
    assert!(found.followers.is_empty() && found.departed.is_empty() && found.members.len() == 1);
    let served = accepted(&left, promotion(3));
    assert_eq!((group(&served).primary_node(), group(&served).followers.len()), (Some(NodeId(3)), 0));
    // The name of one that was dropped is free for its return, under another number.
    let mut again = served;
    let back = Node { incarnation: Incarnation(99), ..node(1) };
    assert_eq!(again.apply(&Command::AddNode { node: NodeId(5), record: back }), Ok(()));
    // A witness serves nothing; what it goes on with has no members until one joins.
    let mut witness = state.clone();
    assert_eq!(witness.apply(&Command::AddNode { node: NodeId(5), record: node(5) }), Ok(()));
    let alone = witness.left_to(NodeId(5));
    assert_eq!((group(&alone).members.len(), group(&alone).forced), (0, None));
}

#[test]
fn force_seals_and_names_the_next() {
    let force = |n| GroupCommand::Force { node: NodeId(n) };
    let state = served(5);
    refused(&state, force(9), &Rejection::NoSuchNode(NodeId(9)));
    refused(&state, force(5), &Rejection::NotPromotable(NodeId(5)));
    let forced = accepted(&state, force(2));
    let sealed = Phase::Sealing { next: Epoch(2), why: Why::Operator, to: None };
    assert_eq!((&group(&forced).phase, group(&forced).forced), (&sealed, Some(NodeId(2))));
    refused(&forced, force(2), &Rejection::Nothing);
    let other = accepted(&forced, force(3));
    assert_eq!((&group(&other).phase, group(&other).forced), (&sealed, Some(NodeId(3))), "the last word counts");
    let promoted = accepted(&other, promotion(3));
    assert_eq!((group(&promoted).epoch, group(&promoted).forced), (Epoch(2), None));
    // Nobody waits for one that is removed.
    let gone =
        accepted(&accepted(&forced, leaving::dropped(&forced, 2)), GroupCommand::RemoveMember { node: NodeId(2) });
    assert_eq!(group(&gone).forced, None);
    // One that nobody ever let in may be the last that has anything.
    let stranger = accepted(&accepted(&state, leaving::dropped(&state, 4)), force(4));
    assert_eq!(group(&accepted(&stranger, promotion(4))).primary_node(), Some(NodeId(4)));
}

#[test]
fn s10_switching_and_back() {
    let state = served(3);
    refused(&state, GroupCommand::SwitchOff, &Rejection::Nothing);
    let to = |n| GroupCommand::Switch { to: NodeId(n), why: Why::Operator };
    refused(&state, to(1), &Rejection::NotPromotable(NodeId(1)));
    let leaving = accepted(&state, leaving::first(&state, 3));
    refused(&leaving, to(3), &Rejection::NotPromotable(NodeId(3)));
    let switching = accepted(&state, to(2));
    assert_eq!(group(&switching).phase, Phase::Switching { to: NodeId(2), why: Why::Operator });
    refused(&switching, to(3), &Rejection::Outdated { epoch: Epoch(1) });
    assert_eq!(group(&accepted(&switching, GroupCommand::SwitchOff)).phase, Phase::Stable);
    let sealed = accepted(&switching, GroupCommand::Seal { why: Why::Operator });
    let wanted = Phase::Sealing { next: Epoch(2), why: Why::Operator, to: Some(NodeId(2)) };
    assert_eq!(group(&sealed).phase, wanted, "the target is remembered");
}

#[test]
fn settings_of_a_group() {
    let state = served(3);
    refused(&state, GroupCommand::Resume, &Rejection::Nothing);
    let pause = Pause { length: None, reason: "work".to_owned() };
    let paused = accepted(&state, GroupCommand::Pause(pause.clone()));
    assert_eq!(group(&paused).pause, Some(pause));
    assert_eq!(group(&accepted(&paused, GroupCommand::Resume)).pause, None);
    refused(&state, GroupCommand::SetPriority { node: NodeId(9), priority: 1 }, &Rejection::NoSuchNode(NodeId(9)));
    let set = accepted(&state, GroupCommand::SetPriority { node: NodeId(2), priority: 5 });
    assert_eq!(group(&set).members[&NodeId(2)].priority, 5);
    let quorum = accepted(&state, GroupCommand::SetDurability(Durability::Quorum));
    assert_eq!(group(&quorum).durability, Durability::Quorum);
    refused(&state, GroupCommand::Bootstrap { node: NodeId(2) }, &Rejection::NotPromotable(NodeId(2)));
    refused(&cluster(2), GroupCommand::Bootstrap { node: NodeId(9) }, &Rejection::NoSuchNode(NodeId(9)));
    assert_eq!(group(&accepted(&cluster(2), GroupCommand::Bootstrap { node: NodeId(2) })).bootstrap, Some(NodeId(2)));
}

#[test]
fn a_member_that_may_hold_acknowledged_writes_stays() {
    let state = served(3);
    for id in [1, 2] {
        refused(&state, GroupCommand::RemoveMember { node: NodeId(id) }, &Rejection::StillNeeded(NodeId(id)));
    }
    refused(&state, GroupCommand::RemoveMember { node: NodeId(9) }, &Rejection::NoSuchNode(NodeId(9)));
    let dropped = accepted(&state, leaving::dropped(&state, 3));
    let gone = accepted(&dropped, GroupCommand::RemoveMember { node: NodeId(3) });
    assert_eq!(group(&gone).quorum, 2);
}

#[test]
fn nodes_are_added_once() {
    let mut state = cluster(2);
    let twin = Node { incarnation: Incarnation(77), ..node(2) };
    let namesake = Node { incarnation: Incarnation(78), ..node(2) };
    let cases = [
        (2, node(2), Rejection::Nothing),
        (2, twin, Rejection::Taken),
        (3, namesake, Rejection::Taken),
        (0, node(9), Rejection::Taken),
    ];
    for (id, record, why) in cases {
        assert_eq!(state.clone().apply(&Command::AddNode { node: NodeId(id), record }), Err(why), "{id}");
    }
    assert_eq!(state.apply(&Command::AddNode { node: NodeId(3), record: node(3) }), Ok(()));
    assert_eq!(state.next_node, NodeId(4));
    assert_eq!(state.apply(&Command::RemoveNode { node: NodeId(9) }), Err(Rejection::NoSuchNode(NodeId(9))));
    assert_eq!(state.apply(&Command::RemoveNode { node: NodeId(2) }), Err(Rejection::StillNeeded(NodeId(2))));
    assert_eq!(state.apply(&Command::RemoveNode { node: NodeId(3) }), Ok(()));
    // A number is never given twice.
    assert_eq!(state.apply(&Command::AddNode { node: NodeId(3), record: node(3) }), Err(Rejection::Taken));
}

#[test]
fn introductions_seed_and_do_not_override() {
    let mut state = cluster(2);
    assert_eq!(state.apply(&introduction(2, 100)), Err(Rejection::Nothing));
    assert_eq!(state.apply(&introduction(9, 100)), Err(Rejection::NoSuchNode(NodeId(9))));
    // Another priority in the file is not the replicated one.
    assert_eq!(state.apply(&introduction(2, 7)), Err(Rejection::Nothing));
    let lease = Duration::from_secs(5);
    let other = Command::Introduce { node: NodeId(2), address: "other:1".to_owned(), lease, groups: Vec::new() };
    assert_eq!(state.apply(&other), Ok(()));
    assert_eq!((state.lease, state.nodes[&NodeId(2)].address.as_str()), (LEASE, "other:1"));
}

#[test]
fn s12_guardians_change_jointly() {
    let begin = |nodes: &[u64]| Command::Guardians(GuardianChange::Begin { next: ids(nodes) });
    let mut state = served(5);
    assert_eq!(state.apply(&begin(&[1, 2, 3, 4, 5])), Err(Rejection::Nothing));
    assert_eq!(state.apply(&begin(&[])), Err(Rejection::Nothing));
    assert_eq!(state.apply(&begin(&[1, 9])), Err(Rejection::NoSuchNode(NodeId(9))));
    assert_eq!(state.apply(&begin(&[3, 4, 5])), Ok(()));
    assert_eq!(state.apply(&begin(&[1, 2])), Err(Rejection::GuardiansBusy), "one at a time");
    let version = state.guardians.version;
    let renewed =
        |epoch, version| Command::Guardians(GuardianChange::Renewed { group: name(), epoch: Epoch(epoch), version });
    let finish = Command::Guardians(GuardianChange::Finish { version });
    assert_eq!(state.apply(&finish), Err(Rejection::GuardiansBusy), "nobody renews under both yet");
    assert_eq!(state.apply(&renewed(2, version)), Err(Rejection::Outdated { epoch: Epoch(1) }));
    assert_eq!(state.apply(&renewed(1, Version(0))), Err(Rejection::GuardiansBusy));
    assert_eq!(state.apply(&renewed(1, version)), Ok(()));
    assert_eq!(state.apply(&renewed(1, version)), Err(Rejection::Nothing));
    assert_eq!(state.apply(&finish), Ok(()));
    assert_eq!((state.guardians.now.clone(), state.guardians.next.clone()), (ids(&[3, 4, 5]), None));
    assert_eq!(state.apply(&finish), Err(Rejection::GuardiansBusy), "an old one does nothing");
}

#[test]
fn s12_majorities_of_both_sets() {
    let joint = Guardians { now: ids(&[1, 2, 3]), next: Some(ids(&[3, 4, 5])), ..Guardians::default() };
    let single = Guardians { next: None, ..joint.clone() };
    // Who said so; majority of the old set alone, of both.
    let cases: [(&[u64], bool, bool); 6] = [
        (&[1, 2], true, false),
        (&[3, 4], false, false),
        (&[1, 3], true, false),
        (&[1, 3, 4], true, true),
        (&[1, 2, 4, 5], true, true),
        (&[], false, false),
    ];
    for (said, alone, both) in cases {
        let said = ids(said);
        assert_eq!(single.majority_of(|id| said.contains(&id)), alone, "{said:?}");
        assert_eq!(joint.majority_of(|id| said.contains(&id)), both, "{said:?}");
    }
    assert!(!Guardians::default().majority_of(|_| true), "no guardians, no majority");
    assert_eq!([1, 2, 3, 4, 5].map(majority), [1, 2, 2, 3, 3]);
}

#[test]
fn histories_are_bounded() {
    let mut state = served(3);
    for _ in 0..START_LIMIT + 10 {
        assert_eq!(change(&mut state, GroupCommand::Seal { why: Why::PrimarySilent }), Ok(()));
        assert_eq!(change(&mut state, promotion(1)), Ok(()));
    }
    let found = group(&state);
    assert_eq!((found.history.len(), found.starts.len()), (HISTORY_LIMIT, START_LIMIT));
    assert!(found.starts.contains_key(&found.epoch));
}
