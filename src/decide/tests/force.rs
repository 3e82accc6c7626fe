//! Tables over the promotion by an operator's word: whom it reaches, and what it does not skip.

use super::choose::{Said, choice, chosen};
use super::*;

fn forced(node: u64, before: &[GroupCommand]) -> State {
    let mut state = changed(3, before);
    apply(&mut state, GroupCommand::Force { node: NodeId(node) });
    state
}

#[test]
fn force_is_the_way_out_of_every_wait() {
    let quorum = [GroupCommand::SetDurability(Durability::Quorum), seal(Why::PrimarySilent)];
    let paused =
        [GroupCommand::Pause(crate::cluster::Pause { length: None, reason: String::new() }), seal(Why::PrimarySilent)];
    let plain = [seal(Why::PrimarySilent)];
    let found = Some((3, Guarantee::Forced));
    let cases: [(&str, &[GroupCommand], &[Said]); 5] = [
        ("no proof under quorum", &quorum, &[(3, Some(1), 10)]),
        ("the better one is passed over", &plain, &[(1, Some(1), 90), (2, Some(1), 80), (3, Some(1), 10)]),
        ("no lineage, beside one that has it", &plain, &[(2, Some(1), 80), (3, None, 10)]),
        ("cold start, not all have reported", &plain, &[(3, None, 10)]),
        ("paused", &paused, &[(3, Some(1), 10)]),
    ];
    for (why, before, reports) in cases {
        assert_eq!(chosen(choice(&forced(3, before), reports, 0, |_| {})), found, "{why}");
        assert_ne!(chosen(choice(&changed(3, before), reports, 0, |_| {})), found, "{why}: without force");
    }
}

#[test]
fn s3_force_waits_for_the_majority_of_guardians() {
    let state = forced(3, &[]);
    for (sealed, enough) in [(vec![3], false), (vec![2, 3], false), (vec![1, 2, 3], true)] {
        let found = choice(&state, &[(3, Some(1), 10)], 60_000, |agent| {
            agent.seat().seals.retain(|node, _| sealed.contains(&node.0));
        });
        assert_eq!(matches!(found, Choice::Promote(_)), enough, "{sealed:?}");
    }
}

/// Else a typing error, or a node that dies, would leave the group without a primary for good.
#[test]
fn a_forced_node_that_does_not_report_is_given_up() {
    let state = forced(3, &[]);
    let others: [Said; 2] = [(1, Some(1), 50), (2, Some(1), 50)];
    let awaited = Choice::Wait(Reason::AwaitingReports(vec!["n3".to_owned()]));
    assert_eq!(choice(&state, &others, 9_999, |_| {}), awaited);
    assert_eq!(chosen(choice(&state, &others, 10_000, |_| {})), Some((1, Guarantee::Kept)));
}

#[test]
fn a_forced_node_that_is_barred_before_it_has_reported_is_given_up() {
    let mut state = forced(3, &[]);
    apply(&mut state, GroupCommand::SetPriority { node: NodeId(3), priority: 0 });
    let all: [Said; 3] = [(1, Some(1), 50), (2, Some(1), 50), (3, Some(1), 50)];
    assert_eq!(chosen(choice(&state, &all, 0, |_| {})), Some((1, Guarantee::Kept)));
}

/// The leader is the old primary, and its instance may still take writes.
#[test]
fn nobody_is_promoted_while_the_leader_fences_its_own_instance() {
    let state = changed(3, &[seal(Why::PrimarySilent)]);
    for (task, promoted) in [(Some(Task::Fence), false), (Some(Task::Seal), true), (None, true)] {
        let mut agent = leader(&state);
        for guardian in [1, 2, 3] {
            agent.seat().seals.insert(NodeId(guardian), Epoch(2));
            agent.seat().reports.insert(NodeId(guardian), super::choose::report(guardian, Some(1), 10));
        }
        agent.seat().instance.task = task.map(|task| (task, Epoch(1), ms(9000)));
        let proposes = |action: &Action| {
            let Action::Propose { command: Command::Group { change, .. }, .. } = action else { return false };
            matches!(change, GroupCommand::Promote { .. })
        };
        assert_eq!(agent.tick(9000).iter().any(proposes), promoted, "{task:?}");
    }
}

#[test]
fn a_paused_group_is_promoted_by_force_only() {
    let pause = GroupCommand::Pause(crate::cluster::Pause { length: None, reason: String::new() });
    let proposes = |state: &State| {
        let mut agent = leader(state);
        for guardian in [1, 2, 3] {
            agent.seat().seals.insert(NodeId(guardian), Epoch(2));
        }
        agent.seat().reports.insert(NodeId(3), super::choose::report(3, Some(1), 10));
        agent.tick(9000);
        let actions = agent.tick(9100);
        actions.iter().any(|action| {
            matches!(
                action,
                Action::Propose { command: Command::Group { change: GroupCommand::Promote { .. }, .. }, .. }
            )
        })
    };
    assert!(!proposes(&changed(3, &[pause.clone(), seal(Why::PrimarySilent)])));
    assert!(proposes(&forced(3, &[pause, seal(Why::PrimarySilent)])));
}
