//! Tables over the leaving of F: how a stopping follower goes, and who proposes the second commit (S5).

use super::*;
use crate::cluster::Epoch;

fn durable(changes: &[GroupCommand]) -> State {
    let mut state = changed(3, &[GroupCommand::SetDurability(Durability::Quorum)]);
    changes.iter().for_each(|change| apply(&mut state, change.clone()));
    state
}

fn since(state: &State, n: u64) -> Version {
    state.groups[&name()].followers[&NodeId(n)].since
}

fn proposed(actions: &[Action]) -> Vec<GroupCommand> {
    let change = |action: &Action| match action {
        Action::Propose { command: Command::Group { change, .. }, .. } => Some(change.clone()),
        _ => None,
    };
    actions.iter().filter_map(change).collect()
}

/// The primary's renewal that was sent at `sent`.
fn renewed(agent: &mut Agent, sent: u64) -> Vec<Action> {
    let Item::Renew(renewal) = renewal(true) else { unreachable!() };
    agent.heard(sent, 1, Item::Renew(crate::view::Renewal { sent_at: ms(sent), ..renewal }))
}

/// Node 2, which has followed for a while.
fn follower(state: &State) -> Agent {
    let mut agent = Agent::new(2, state, None);
    let lineage = Some(Lineage { run_id: "run2".into(), epoch: Epoch(1) });
    agent.view.local.groups.insert(name(), LocalGroup { lineage, ..LocalGroup::default() });
    renewed(&mut agent, 1000);
    agent.looked(1001, info(2, Some(NOWHERE)));
    agent.done(1002, Task::Follow, 1, good(info(2, Some(PRIMARY))));
    agent.looked(1003, info(2, Some(PRIMARY)));
    assert_eq!(agent.seat().instance.posture, Posture::Following(Epoch(1)));
    agent
}

#[test]
fn a_stopping_follower_leaves_by_the_durability_of_its_group() {
    let drop = drop_of(2);
    let leave = GroupCommand::Leaving { node: NodeId(2), since: since(&durable(&[]), 2) };
    for (state, wanted) in [(state(3), drop), (durable(&[]), leave)] {
        let mut agent = follower(&state);
        assert_eq!(proposed(&agent.at(1100, What::Stopping)), [wanted]);
    }
}

#[test]
fn a_stopped_follower_under_quorum_is_sealed_tells_and_ends_when_it_has_left() {
    let mut state = durable(&[]);
    let mut agent = follower(&state);
    agent.at(1100, What::Stopping);
    let leaving = GroupCommand::Leaving { node: NodeId(2), since: since(&state, 2) };
    apply(&mut state, leaving);
    renewed(&mut agent, 1900);
    let actions = agent.at(1905, What::Applied(Arc::new(state.clone())));
    assert!(actions.iter().any(|action| matches!(action, Action::Seal { .. })), "{actions:?}");
    let actions = agent.done(1910, Task::Seal, 0, good(info(2, Some(NOWHERE))));
    let version = state.groups[&name()].version;
    let told = |action: &Action| matches!(action, Action::Send { items, .. } if items.contains(&Item::Rested { group: name(), version }));
    assert!(actions.iter().any(told), "{actions:?}");
    assert!(!actions.contains(&Action::Exit), "the others may lack what it acknowledged");
    let left = GroupCommand::Left { node: NodeId(2), since: since(&state, 2) };
    apply(&mut state, left);
    let actions = agent.at(1950, What::Applied(Arc::new(state.clone())));
    assert!(actions.contains(&Action::Exit), "{actions:?}");
}

/// Nobody answers its wish: it vanishes, and R counts it on.
#[test]
fn a_stopped_follower_under_quorum_does_not_wait_for_ever() {
    let mut agent = follower(&durable(&[]));
    agent.at(1100, What::Stopping);
    renewed(&mut agent, 3900);
    assert!(!agent.tick(4050).iter().any(|action| matches!(action, Action::Exit | Action::Seal { .. })));
    assert!(agent.tick(4100).iter().any(|action| matches!(action, Action::Seal { .. })));
    let actions = agent.done(4110, Task::Seal, 0, good(info(2, Some(NOWHERE))));
    assert!(actions.contains(&Action::Exit), "{actions:?}");
}

/// Trace 19: what left to be stopped comes back by a new commit; what is being removed does not.
#[test]
fn a_restarted_follower_asks_to_be_let_in_again() {
    let mut state = durable(&[]);
    let mut running = follower(&state);
    let leaving = GroupCommand::Leaving { node: NodeId(2), since: since(&state, 2) };
    apply(&mut state, leaving);
    running.at(1100, What::Applied(Arc::new(state.clone())));
    renewed(&mut running, 1900);
    assert_eq!(proposed(&running.looked(1910, info(2, Some(NOWHERE)))), []);
    let mut restarted = Agent::new(2, &state, None);
    renewed(&mut restarted, 1000);
    let again = GroupCommand::Follow { node: NodeId(2), run_id: "run2".into() };
    assert_eq!(proposed(&restarted.looked(1010, info(2, Some(NOWHERE)))), [again]);
}

#[test]
fn the_primary_proposes_the_second_commit_and_settles_departures() {
    let leaving = |state: &mut State| {
        let change = GroupCommand::Leaving { node: NodeId(2), since: since(state, 2) };
        apply(state, change);
    };
    let dropping = |state: &mut State| apply(state, drop_of(2));
    for (before, change) in [(durable(&[]), &leaving as &dyn Fn(&mut State)), (state(3), &dropping)] {
        let mut state = before;
        change(&mut state);
        let mut agent = serving(&state);
        let version = state.groups[&name()].version;
        agent.heard(1100, 2, Item::Rested { group: name(), version });
        let row = |n, offset| ReplicaRow {
            address: format!("10.0.0.{n}:6379"),
            online: true,
            syncing: false,
            offset: Offset(offset),
        };
        let lacking = Info { replicas: vec![row(3, 100)], ..info(1, None) };
        assert_eq!(proposed(&agent.looked(1110, lacking)), [], "3 lacks what 2 may have acknowledged");
        let whole = Info { replicas: vec![row(3, 200)], ..info(1, None) };
        let found = state.groups[&name()].followers.get(&NodeId(2)).map_or(
            GroupCommand::Settled { node: NodeId(2), since: version },
            |follower| GroupCommand::Left { node: NodeId(2), since: follower.since },
        );
        assert_eq!(proposed(&agent.looked(1120, whole)), [found]);
    }
    // The primary alone is fewer than W.
    let mut alone = state(3);
    for n in [3, 2] {
        let since = since(&alone, n);
        apply(&mut alone, GroupCommand::Drop { node: NodeId(n), since });
    }
    let mut agent = serving(&alone);
    agent.heard(1100, 2, Item::Rested { group: name(), version: alone.groups[&name()].version });
    assert_eq!(proposed(&agent.looked(1110, info(1, None))), []);
}

/// S5: `min-replicas-to-write` is W-1 under `quorum`, whoever is attached, and rises with W at once.
#[test]
fn min_replicas_under_quorum() {
    let tuned = |state: &State| {
        let mut agent = Agent::new(1, state, None);
        agent.seat().lease.held = false;
        agent.looked(1000, info(1, Some(NOWHERE)));
        agent.heard(1002, 2, promise(1000));
        let actions = agent.heard(1002, 3, promise(1000));
        actions.iter().find_map(|action| match action {
            Action::Serve { min_replicas, .. } => Some(*min_replicas),
            _ => None,
        })
    };
    assert_eq!(tuned(&durable(&[])), Some(1));
    let mut grown = durable(&[]);
    let witness = NodeId(4);
    assert_eq!(grown.apply(&policy(4).introduction(witness)), Ok(()));
    assert_eq!(tuned(&grown), Some(2));
}

/// S5: an agent that is started again while it serves knows of nobody who was online. What the one before it set stands
/// until somebody is, or until nobody is in F.
#[test]
fn min_replicas_over_a_restart() {
    let tuned = |actions: &[Action]| {
        actions.iter().find_map(|action| match action {
            Action::Tune { min_replicas, .. } => Some(*min_replicas),
            _ => None,
        })
    };
    let started = || {
        let stamp = Stamp::Leased { epoch: Epoch(1), run_id: "run1".into(), until: ms(1600) };
        let mut agent = Agent::new(1, &state(3), Some(stamp));
        let alone = Info { replicas: Vec::new(), ..info(1, None) };
        assert_eq!(tuned(&agent.looked(1002, alone)), None, "both are in F, and one may have been online");
        agent
    };
    let mut emptied = started();
    let empty = changed(3, &[drop_of(2), drop_of(3)]);
    assert_eq!(tuned(&emptied.at(1040, What::Applied(Arc::new(empty)))), Some(0));
    let mut joined = started();
    let row = ReplicaRow { address: "10.0.0.2:6379".to_owned(), syncing: false, online: true, offset: Offset(100) };
    assert_eq!(tuned(&joined.looked(1040, Info { replicas: vec![row], ..info(1, None) })), Some(1));
}
