//! Tables over the pause: nobody is promoted while it lasts, it lasts its whole time whoever leads, and then it ends.

use super::*;
use crate::cluster::Pause;

fn pause(seconds: Option<u64>) -> GroupCommand {
    GroupCommand::Pause(Pause { length: seconds.map(Duration::from_secs), reason: "work".to_owned() })
}

fn proposed(actions: &[Action]) -> Vec<GroupCommand> {
    let change = |action: &Action| match action {
        Action::Propose { command: Command::Group { change, .. }, .. } => Some(change.clone()),
        _ => None,
    };
    actions.iter().filter_map(change).collect()
}

fn surrender(agent: &mut Agent, time: u64, why: Why) -> Vec<GroupCommand> {
    proposed(&agent.heard(time, 1, Item::Surrender { group: name(), epoch: Epoch(1), why }))
}

/// A leader that sees the pause from `seen` on.
fn paused(seconds: Option<u64>, seen: u64) -> (State, Agent) {
    let mut agent = leader(&state(3));
    let state = changed(3, &[pause(seconds)]);
    agent.at(seen, What::Applied(Arc::new(state.clone())));
    (state, agent)
}

#[test]
fn while_paused_only_an_operators_word_ends_an_epoch() {
    for (why, ends) in
        [(Why::InstanceCrashed, false), (Why::PrimarySilent, false), (Why::Operator, true), (Why::Shutdown, true)]
    {
        let (_, mut agent) = paused(None, 2000);
        let found = surrender(&mut agent, 3000, why);
        assert_eq!(found.contains(&GroupCommand::Seal { why }), ends, "{why:?}");
        let waits = decide(&agent.view, &agent.policy).waits.get(&name()).cloned();
        assert_eq!(waits, (!ends).then(|| Reason::Paused("work".to_owned())), "{why:?}");
    }
}

#[test]
fn it_lasts_its_time_and_no_longer() {
    let (state, mut agent) = paused(Some(10), 2000);
    assert_eq!(surrender(&mut agent, 3000, Why::InstanceCrashed), []);
    assert_eq!(proposed(&agent.tick(11_999)), []);
    assert_eq!(proposed(&agent.tick(12_000)), [GroupCommand::Seal { why: Why::InstanceCrashed }]);
    // With a healthy primary it is only taken away; a newer pause is not.
    let (_, mut agent) = paused(Some(10), 2000);
    let over = GroupCommand::PauseOver { since: state.groups[&name()].paused_at };
    assert_eq!(proposed(&agent.tick(12_000)), std::slice::from_ref(&over));
    let mut again = state.clone();
    apply(&mut again, pause(Some(10)));
    let expect = again.groups[&name()].expect();
    let late = Command::Group { group: name(), expect, change: over };
    assert!(again.clone().apply(&late).is_err() && again.groups[&name()].pause.is_some());
}

#[test]
fn a_second_pause_and_another_leader_count_anew() {
    let (mut state, mut agent) = paused(Some(10), 2000);
    apply(&mut state, pause(Some(10)));
    agent.at(9000, What::Applied(Arc::new(state.clone())));
    assert_eq!(surrender(&mut agent, 12_000, Why::InstanceCrashed), [], "the first one is over, not the second");
    assert_eq!(proposed(&agent.tick(18_999)), []);
    assert_eq!(proposed(&agent.tick(19_000)).len(), 1);
    let (_, mut agent) = paused(Some(10), 2000);
    let led = agent.view.leadership.clone();
    agent.at(8000, What::Leadership(Leadership { leading: false, ..led.clone() }));
    agent.at(9000, What::Leadership(led));
    assert_eq!(surrender(&mut agent, 12_000, Why::InstanceCrashed), [], "it may last longer, never shorter");
    assert_eq!(proposed(&agent.tick(19_000)).len(), 1);
}
