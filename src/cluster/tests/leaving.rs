//! Tables over F: who is let in, who leaves by which commit, and what R counts meanwhile (S5, traces 3, 18 and 19).

use super::*;

pub(super) fn first(state: &State, n: u64) -> GroupCommand {
    GroupCommand::Leaving { node: NodeId(n), since: since(state, n) }
}

pub(super) fn second(state: &State, n: u64) -> GroupCommand {
    GroupCommand::Left { node: NodeId(n), since: since(state, n) }
}

pub(super) fn dropped(state: &State, n: u64) -> GroupCommand {
    GroupCommand::Drop { node: NodeId(n), since: since(state, n) }
}

fn settled(state: &State, n: u64) -> GroupCommand {
    GroupCommand::Settled { node: NodeId(n), since: group(state).departed[&NodeId(n)].since }
}

fn since(state: &State, n: u64) -> Version {
    group(state).followers.get(&NodeId(n)).map_or(Version(0), |follower| follower.since)
}

fn quorum(n: u64) -> State {
    accepted(&served(n), GroupCommand::SetDurability(Durability::Quorum))
}

fn needed(state: &State) -> (usize, usize) {
    (group(state).reports_needed(), group(state).reports_to_say_kept())
}

#[test]
fn followers_join_and_leave_by_commit() {
    let state = cluster(3);
    refused(&state, follow(2), &Rejection::Outdated { epoch: Epoch(0) });
    let state = accepted(&state, promotion(1));
    refused(&state, follow(1), &Rejection::Outdated { epoch: Epoch(1) });
    refused(&state, follow(9), &Rejection::NoSuchNode(NodeId(9)));
    let inside = accepted(&state, follow(2));
    assert_eq!(since(&inside, 2), group(&inside).version);
    refused(&inside, second(&inside, 2), &Rejection::Nothing);
    refused(&inside, first(&inside, 3), &Rejection::NoSuchNode(NodeId(3)));
    let leaving = accepted(&inside, first(&inside, 2));
    assert_eq!(group(&leaving).followers[&NodeId(2)].leaving, Some(group(&leaving).version));
    assert!(group(&leaving).is_candidate(NodeId(2)), "R counts it until it left");
    refused(&leaving, first(&leaving, 2), &Rejection::Nothing);
    let alone = accepted(&leaving, second(&leaving, 2));
    assert!(group(&alone).followers.is_empty() && group(&alone).departed.contains_key(&NodeId(2)), "W = 2");
    let two = accepted(&leaving, follow(3));
    let left = accepted(&two, second(&two, 2));
    assert!(group(&left).followers.keys().eq(&[NodeId(3)]) && group(&left).departed.is_empty());
    let sealed = accepted(&state, GroupCommand::Seal { why: Why::PrimarySilent });
    refused(&sealed, follow(2), &Rejection::Outdated { epoch: Epoch(1) });
}

/// Found by the simulator: all had left F, proved by the primary alone to be dispensable; it died, and one that was let in
/// again, with the data of before, made up R by itself. Who leaves is counted until W others hold what it held.
#[test]
fn nobody_stops_counting_while_fewer_than_w_are_left() {
    // 5 members, W 3.
    let mut state = served(5);
    for n in [2, 3, 4, 5] {
        state = accepted(&state, dropped(&state, n));
    }
    for n in [2, 3, 4, 5] {
        refused(&state, settled(&state, n), &Rejection::StillNeeded(NodeId(n)));
    }
    let one = accepted(&state, follow(4));
    refused(&one, settled(&one, 2), &Rejection::StillNeeded(NodeId(2)));
    assert_eq!(needed(&one), (1, 3), "4 alone proves nothing");
    let two = accepted(&one, follow(5));
    assert_eq!(needed(&accepted(&two, settled(&two, 2))), (1, 2));
}

/// Trace 19: it is sealed to leave, its agent restarts, it is let in anew and acknowledges; then the old leave commits.
#[test]
fn an_old_leave_does_not_hit_a_newer_admission() {
    let inside = quorum(3);
    let leaving = accepted(&inside, first(&inside, 2));
    let back = accepted(&leaving, follow(2));
    assert_eq!(group(&back).followers[&NodeId(2)].leaving, None, "to be let in calls the leave off");
    for old in [first(&inside, 2), second(&leaving, 2), dropped(&inside, 2)] {
        refused(&back, old, &Rejection::Nothing);
    }
    let again = accepted(&back, first(&back, 2));
    refused(&again, second(&leaving, 2), &Rejection::Nothing);
    accepted(&again, second(&again, 2));
}

#[test]
fn one_follower_leaves_after_the_other() {
    let state = quorum(4);
    let leaving = accepted(&state, first(&state, 2));
    refused(&leaving, first(&leaving, 3), &Rejection::AnotherLeaves(NodeId(2)));
    let left = accepted(&leaving, second(&leaving, 2));
    accepted(&left, first(&left, 3));
}

#[test]
fn r_counts_a_leaving_follower_until_it_left() {
    // 3 members, W 2.
    let state = quorum(3);
    assert_eq!(needed(&state), (2, 2));
    let leaving = accepted(&state, first(&state, 2));
    assert_eq!(needed(&leaving), (2, 2));
    assert_eq!(needed(&accepted(&leaving, second(&leaving, 2))), (1, 1));
}

/// Trace 18: F = {2, 3}; w is on {1, 2}; 3 leaves, 2 leaves, 3 returns. Who left without proof counts in the sentence,
/// and where nothing is promoted without proof, in the promotion itself.
#[test]
fn what_left_without_the_two_commits_counts() {
    for (durability, during, after_both) in
        [(Durability::Available, (1, 2), (1, 2)), (Durability::Quorum, (2, 2), (2, 2))]
    {
        let state = accepted(&served(3), GroupCommand::SetDurability(durability));
        let without = accepted(&state, dropped(&state, 3));
        assert_eq!(needed(&without), during, "{durability:?}");
        let neither = accepted(&without, dropped(&without, 2));
        let back = accepted(&neither, follow(3));
        assert_eq!(needed(&back), after_both, "{durability:?}: 3 alone proves nothing of w");
        assert!(!group(&back).departed.contains_key(&NodeId(3)), "in F it counts there");
        // 2 was sealed, and 3 has passed the primary's offset of after that.
        assert_eq!(needed(&accepted(&back, settled(&back, 2))), (1, 1), "{durability:?}");
    }
}

#[test]
fn what_was_settled_once_does_not_settle_the_next_departure() {
    let first_time = accepted(&served(3), dropped(&served(3), 2));
    let old = settled(&first_time, 2);
    let back = accepted(&first_time, follow(2));
    let twice = accepted(&back, dropped(&back, 2));
    refused(&twice, old.clone(), &Rejection::Nothing);
    let done = accepted(&first_time, old.clone());
    assert!(group(&done).departed.is_empty());
    refused(&done, old.clone(), &Rejection::NoSuchNode(NodeId(2)));
    // Removed by an operator's word: that it is gone must be seen after that.
    let removed = accepted(&first_time, GroupCommand::RemoveMember { node: NodeId(2) });
    refused(&removed, old, &Rejection::Nothing);
    // The successor is not missing from its own promotion.
    let sealed = accepted(&first_time, GroupCommand::Seal { why: Why::PrimarySilent });
    assert!(group(&accepted(&sealed, promotion(2))).departed.is_empty());
}

/// Trace 3: members 3 -> 4 raise W at once, and a write on {1, 2} would be missed by {3, the empty 4}.
#[test]
fn r_uses_the_old_w_until_growth_is_settled() {
    let mut state = served(3);
    let join = |state: &mut State, n: u64| {
        assert_eq!(state.apply(&Command::AddNode { node: NodeId(n), record: node(n) }), Ok(()));
        assert_eq!(state.apply(&introduction(n, 100)), Ok(()));
    };
    join(&mut state, 4);
    let state4 = accepted(&state, follow(4));
    assert_eq!((group(&state4).quorum, needed(&state4)), (3, (3, 3)), "of 4, 3 must report: one of them has it");
    let grown = group(&state4).former_quorum.clone().expect("the old W counts on");
    assert_eq!((grown.quorum, grown.since < group(&state4).version), (2, true));
    // A second rise before the first is settled: the first W counts until all have passed the last.
    let mut six = state4.clone();
    join(&mut six, 5);
    join(&mut six, 6);
    let six_grown = group(&six).former_quorum.clone().expect("the old W counts on");
    assert_eq!((group(&six).quorum, six_grown.quorum, six_grown.since > grown.since), (4, 2, true));
    refused(&six, GroupCommand::QuorumSettled { since: grown.since }, &Rejection::Nothing);
    let settled = accepted(&six, GroupCommand::QuorumSettled { since: six_grown.since });
    assert_eq!(needed(&settled), (1, 1));
}

/// A lower W needs more reports, at once; it must never be met with the former one.
#[test]
fn r_rises_at_once_when_members_leave() {
    let mut state = served(4);
    assert_eq!((group(&state).quorum, group(&state).former_quorum.as_ref().map(|former| former.quorum)), (3, None));
    state = accepted(&state, dropped(&state, 4));
    state = accepted(&state, settled(&state, 4));
    assert_eq!(needed(&state), (1, 1));
    state = accepted(&state, GroupCommand::RemoveMember { node: NodeId(4) });
    assert_eq!((group(&state).quorum, needed(&state)), (2, (2, 2)));
    // Grown and shrunk again before the growth was settled.
    assert_eq!(state.apply(&Command::AddNode { node: NodeId(5), record: node(5) }), Ok(()));
    assert_eq!(state.apply(&introduction(5, 100)), Ok(()));
    assert!(group(&state).former_quorum.is_some());
    let state = accepted(&state, GroupCommand::RemoveMember { node: NodeId(5) });
    assert_eq!((group(&state).quorum, &group(&state).former_quorum), (2, &None));
}
