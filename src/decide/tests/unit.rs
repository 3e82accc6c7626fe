//! Tables over the instance's unit: a stop on purpose is handed over, never fought and no fault; a failed unit is started
//! again; a crash's own words reach the change's event.

use super::*;
use crate::view::UnitSight;

fn unit(agent: &mut Agent, time: u64, seen: UnitSight) -> Vec<Action> {
    agent.at(time, What::Unit { group: name(), seen })
}

fn starts(actions: &[Action]) -> usize {
    actions.iter().filter(|action| matches!(action, Action::Start { .. })).count()
}

#[test]
fn what_is_stopped_on_purpose_is_no_crash_and_no_fault() {
    for (seen, why) in [
        (None, Why::InstanceCrashed),
        (Some(UnitSight::Running), Why::InstanceCrashed),
        (Some(UnitSight::Starting), Why::InstanceCrashed),
        (Some(UnitSight::Failed), Why::InstanceCrashed),
        (Some(UnitSight::Stopping), Why::InstanceStopped),
        (Some(UnitSight::Stopped), Why::InstanceStopped),
    ] {
        let mut agent = serving(&state(3));
        if let Some(seen) = seen {
            unit(&mut agent, 1100, seen);
        }
        assert_eq!(fences(&agent.saw(1110, Sight::Gone)), Some(why), "{seen:?}");
    }
    assert!(Why::InstanceStopped.planned() && !Why::InstanceCrashed.planned());
}

#[test]
fn an_announced_stop_is_handed_over_first_and_only_while_it_is_the_same_process() {
    let mut agent = serving(&state(3));
    let actions = agent.at(1100, What::Releasing { group: name() });
    let change = proposed(&actions);
    assert!(
        matches!(change, Some(GroupCommand::Switch { why: Why::InstanceStopped, .. })),
        "{change:?} of {actions:?}"
    );
    assert_eq!(fences(&actions), None, "it serves until the successor has everything");
    // Another process in its place has nothing to do with that.
    agent.looked(1120, info(9, Some(NOWHERE)));
    assert_eq!(agent.view.releasing_since(&name()), None);
}

#[test]
fn with_nobody_to_hand_over_to_an_announced_stop_changes_nothing() {
    let mut agent = serving(&changed(3, &[]));
    let alone = Info { replicas: Vec::new(), ..info(1, None) };
    agent.looked(1090, alone);
    let actions = agent.at(1100, What::Releasing { group: name() });
    assert_eq!((proposed(&actions), fences(&actions)), (None, None), "{actions:?}");
    assert_eq!(fences(&agent.saw(1110, Sight::Gone)), Some(Why::InstanceStopped), "no crash all the same");
}

#[test]
fn a_follower_that_is_about_to_be_stopped_leaves_first_and_comes_back_with_its_process() {
    let state = state(3);
    let mut agent = Agent::new(2, &state, None);
    agent.looked(1000, info(2, Some(NOWHERE)));
    let actions = agent.at(1100, What::Releasing { group: name() });
    assert!(matches!(proposed(&actions), Some(GroupCommand::Drop { node: NodeId(2), .. })), "{actions:?}");
}

#[test]
fn a_failed_unit_is_started_ever_later_and_a_stopped_one_never() {
    let mut agent = Agent::new(2, &state(3), None);
    agent.saw(1000, Sight::Gone);
    let mut begun = starts(&unit(&mut agent, 1000, UnitSight::Failed));
    assert_eq!(begun, 0, "not at once");
    begun += starts(&agent.tick(2000));
    assert_eq!(begun, 1, "after a second");
    assert_eq!(agent.seat().instance.task.map(|(task, _, _)| task), Some(Task::Start));
    agent.done(2010, Task::Start, 0, Outcome::Failed { why: "no".to_owned() });
    assert_eq!(starts(&agent.pass(2010, 3900)), 0, "the next one is two seconds later");
    assert_eq!(starts(&agent.tick(4020)), 1);

    for seen in [UnitSight::Stopped, UnitSight::Stopping, UnitSight::Starting, UnitSight::Running] {
        let mut agent = Agent::new(2, &state(3), None);
        agent.saw(1000, Sight::Gone);
        unit(&mut agent, 1000, seen);
        assert_eq!(starts(&agent.pass(1000, 9000)), 0, "{seen:?}");
    }
}

#[test]
fn one_that_is_being_stopped_is_not_killed_for_its_silence() {
    for (seen, kills) in [(UnitSight::Running, 1), (UnitSight::Stopping, 0)] {
        let mut agent = Agent::new(2, &state(3), None);
        agent.looked(1000, info(2, Some(NOWHERE)));
        unit(&mut agent, 1000, seen);
        let silent = |length| Sight::Silent { length: Duration::from_millis(length), progress: false };
        let mut actions = agent.saw(1300, silent(300));
        for time in (1500..7000).step_by(200) {
            actions.extend(agent.saw(time, silent(time - 1000)));
        }
        let found = actions.iter().filter(|action| matches!(action, Action::Kill { .. })).count();
        assert_eq!(found, kills, "{seen:?}");
    }
}

#[test]
fn how_a_reign_ended_is_told_once_by_the_one_who_had_it() {
    let mut state = changed(3, &[seal(Why::InstanceCrashed), promotion(2)]);
    let cause = || What::Cause { group: name(), epoch: Epoch(1), text: "killed by SIGKILL".to_owned() };
    let mut agent = Agent::new(1, &state, None);
    let told = proposed(&agent.at(1000, cause()));
    let change = GroupCommand::Explained { node: NodeId(1), epoch: Epoch(2), cause: "killed by SIGKILL".to_owned() };
    assert_eq!(told, Some(change.clone()));
    apply(&mut state, change);
    let kept = state.groups[&name()].history.back().and_then(|change| change.cause.clone());
    assert_eq!(kept.as_deref(), Some("killed by SIGKILL"));
    agent.at(1200, What::Applied(Arc::new(state.clone())));
    assert_eq!(agent.view.untold_cause(&name()), None);
    let mut other = Agent::new(3, &state, None);
    other.at(1000, cause());
    assert_eq!(other.view.untold_cause(&name()), None, "another's reign is not its to explain");
}

#[test]
fn a_cause_is_kept_short() {
    let mut state = changed(3, &[seal(Why::InstanceCrashed), promotion(2)]);
    let cause = "\u{e9}".repeat(crate::cluster::CAUSE_LIMIT);
    apply(&mut state, GroupCommand::Explained { node: NodeId(1), epoch: Epoch(2), cause });
    let kept = state.groups[&name()].history.back().and_then(|change| change.cause.clone()).unwrap_or_default();
    assert_eq!(kept.len(), crate::cluster::CAUSE_LIMIT);
}
