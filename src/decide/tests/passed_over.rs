//! Tables over who is passed over, and who is taken all the same (S4, S14).

use super::choose::{choice, chosen, report};
use super::*;
use crate::cluster::Ground;
use crate::view::Health;

fn health(node: u64, posture: &str) -> (NodeId, Health) {
    let said = Health {
        group: name(),
        epoch: Epoch(1),
        posture: posture.to_owned(),
        offset: None,
        lineage: None,
        reason: String::new(),
        vip: false,
        full: false,
        note: String::new(),
        vip_trouble: String::new(),
    };
    (NodeId(node), said)
}

/// Else the group waited for ever for the restart of an agent that was stopped and whose instance died then.
#[test]
fn s4_a_stopped_agents_report_ends_with_its_process() {
    let state = changed(3, &[seal(Why::Shutdown)]);
    // Started again, the agent has not seen its instance yet: it may be well, and have the best data.
    for (posture, found) in
        [("sealed", None), ("unseen", None), ("unusable", None), ("down", Some((2, Guarantee::BestReached)))]
    {
        let adjust = |agent: &mut Agent| {
            agent.seat().reports.get_mut(&NodeId(1)).unwrap().stopping = true;
            agent.seat().health.extend([health(1, posture)]);
        };
        let all = [(1, Some(1), 90), (2, Some(0), 50)];
        assert_eq!(chosen(choice(&state, &all, 5000, adjust)), found, "{posture}");
    }
}

#[test]
fn s14_a_living_agent_with_a_dead_instance_is_not_waited_for() {
    let state = changed(3, &[seal(Why::PrimarySilent)]);
    // Node 3's agent answers; what it says of its instance; whether the start waits for it after 30 s.
    for (posture, found) in
        [("down", Some((2, Guarantee::ColdStart(Ground::Offset)))), ("sealed", None), ("unseen", None)]
    {
        let adjust = |agent: &mut Agent| {
            agent.at(1001, What::Link { node: NodeId(3), up: true });
            agent.seat().health.extend([health(3, posture)]);
        };
        let all = [(1, None, 50), (2, None, 70)];
        assert_eq!(chosen(choice(&state, &all, 30_000, adjust)), found, "{posture}");
        assert_eq!(chosen(choice(&state, &all, 29_000, adjust)), None, "{posture}: it may come back till then");
    }
}

#[test]
fn s4_priority_0_is_not_promoted_because_another_failed_to_serve() {
    let barred = |node| GroupCommand::SetPriority { node: NodeId(node), priority: 0 };
    let all = [(1, Some(1), 90), (2, Some(1), 50), (3, Some(1), 50)];
    for why in [Why::NeverServed, Why::InstanceFailed] {
        let one = changed(3, &[barred(2), seal(why)]);
        assert_eq!(chosen(choice(&one, &all, 0, |_| {})), Some((3, Guarantee::Kept)), "{why:?}: the other one");
        let both = changed(3, &[barred(2), barred(3), seal(why)]);
        assert_eq!(chosen(choice(&both, &all, 0, |_| {})), Some((1, Guarantee::Kept)), "{why:?}: itself again");
    }
}

/// One of three is lost, and one of the two that are left cannot serve: the other holds as much, so that the proof, which
/// needs both, is its own.
#[test]
fn s4_who_cannot_serve_is_passed_over_for_one_that_holds_as_much() {
    for why in [Why::NeverServed, Why::InstanceFailed] {
        let state = changed(3, &[seal(why)]);
        let chosen = |other| chosen(choice(&state, &[(1, Some(1), 50), (3, Some(1), other)], 0, |_| {}));
        assert_eq!(chosen(50), Some((3, Guarantee::Kept)), "{why:?}");
        assert_eq!(chosen(49), Some((1, Guarantee::Kept)), "{why:?}: a write that counts may be in what it lacks");
    }
}

/// Found by the simulator (`LateAnswers`, seed 8): each promotion that did not come to serve gave the node one more epoch
/// of lineage, in which nothing was written, and so it was chosen again without end.
#[test]
fn s4_an_epoch_in_which_nothing_was_written_makes_no_data_better() {
    for quorum in [false, true] {
        let mut state = changed(3, &[seal(Why::NeverServed)]);
        let group = state.groups.get_mut(&name()).unwrap();
        group.starts.get_mut(&Epoch(1)).unwrap().data = Some(Epoch(0));
        group.durability = if quorum { Durability::Quorum } else { Durability::Available };
        let chosen = |first, second| chosen(choice(&state, &[(1, Some(1), first), (2, Some(0), second)], 0, |_| {}));
        assert_eq!(chosen(100, 100), Some((2, Guarantee::Kept)));
        assert_eq!(chosen(101, 100), Some((1, Guarantee::Kept)), "it wrote");
        assert_eq!(chosen(100, 99), Some((1, Guarantee::Kept)), "it holds more");
    }
}

#[test]
fn s14_half_replaced_data_is_not_promoted_while_whole_data_is_there() {
    // §6 trace 22: a full resynchronisation was cut off in node 3, which seems to be the furthest.
    let state = changed(3, &[seal(Why::PrimarySilent)]);
    let voided = |agent: &mut Agent| agent.seat().reports.get_mut(&NodeId(3)).unwrap().voided = true;
    let all = [(1, None, 50), (2, None, 70), (3, None, 90)];
    let kept = Some((2, Guarantee::ColdStart(Ground::Offset)));
    assert_eq!(chosen(choice(&state, &all, 0, voided)), kept, "all have reported");
    // While anybody is missing, it is not chosen even if it alone holds anything.
    let empty = |agent: &mut Agent| {
        voided(agent);
        agent.seat().reports.get_mut(&NodeId(2)).unwrap().keys = 0;
    };
    let two = [(2, None, 70), (3, None, 90)];
    assert_eq!(chosen(choice(&state, &two, 60_000, empty)), None);
    let only = Some((2, Guarantee::ColdStart(Ground::OnlyData)));
    assert_eq!(chosen(choice(&state, &two, 60_000, voided)), only, "the whole one of two");
    // Nobody has anything better, and all have spoken.
    let alone = |agent: &mut Agent| {
        voided(agent);
        for node in [1, 2] {
            agent.seat().reports.insert(NodeId(node), Report { keys: 0, ..report(node, None, 0) });
        }
    };
    assert_eq!(chosen(choice(&state, &all, 0, alone)), Some((3, Guarantee::ColdStart(Ground::OnlyData))));
}

#[test]
fn an_instance_that_was_not_seen_yet_is_not_said_to_be_down() {
    let condition = |sight: Option<Sight>| {
        let mut agent = Agent::new(2, &state(3), None);
        if let Some(seen) = sight {
            agent.at(1000, What::Instance { group: name(), seen });
        }
        let health = super::super::talk::health_of(&agent.view, &Decision::default(), &name());
        health.expect("a member").posture
    };
    let silent = Sight::Silent { length: Duration::from_millis(100), progress: false };
    let refused = Sight::Unusable { why: "WRONGPASS".to_owned() };
    for (sight, word) in [
        (None, "unseen"),
        (Some(Sight::Loading), "unseen"),
        (Some(silent), "unseen"),
        (Some(Sight::Gone), "down"),
        (Some(refused), "unusable"),
    ] {
        assert_eq!(condition(sight.clone()), word, "{sight:?}");
    }
}

/// A primary that came from its disk has no backlog before its first replica attaches: its offset stands still.
#[test]
fn s4_who_may_have_written_at_its_start_offset_is_not_passed_over() {
    for (guarantee, found) in
        [(Guarantee::Kept, Some((2, Guarantee::Kept))), (Guarantee::ColdStart(Ground::OnlyData), None)]
    {
        let mut state = state(3);
        let group = state.groups.get_mut(&name()).unwrap();
        group.history.iter_mut().for_each(|change| change.guarantee = guarantee);
        let start = group.starts.get_mut(&Epoch(1)).unwrap();
        start.data = Some(Epoch(0));
        let offset = start.offset.0;
        apply(&mut state, seal(Why::Shutdown));
        let stops = |agent: &mut Agent| agent.seat().reports.get_mut(&NodeId(1)).unwrap().stopping = true;
        let all = [(1, Some(1), offset), (2, Some(0), offset)];
        assert_eq!(chosen(choice(&state, &all, 0, stops)), found, "{guarantee:?}");
    }
}

/// Data of the latest epoch that only one of priority 0 and one that is being stopped hold: the second is soon back.
#[test]
fn s4_who_may_not_be_promoted_does_not_speak_for_the_latest_data() {
    let state = changed(3, &[seal(Why::Shutdown)]);
    for (priority, found) in [(0, None), (1, Some((3, Guarantee::Kept)))] {
        let mut state = state.clone();
        state.groups.get_mut(&name()).unwrap().members.get_mut(&NodeId(3)).unwrap().priority = priority;
        let stops = |agent: &mut Agent| agent.seat().reports.get_mut(&NodeId(1)).unwrap().stopping = true;
        let all = [(1, Some(1), 90), (2, Some(0), 70), (3, Some(1), 90)];
        assert_eq!(chosen(choice(&state, &all, 0, stops)), found, "priority {priority}");
    }
}
