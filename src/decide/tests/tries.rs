//! Tables over tries that fail: what a failure holds back, when it is tried again, and when it is given up (S1, S6, S7,
//! S8, S10).

use super::*;

fn failed() -> Outcome {
    Outcome::Failed { why: "refused".to_owned() }
}

/// Every promise given holds until then.
fn keep_lease(agent: &mut Agent, until: u64) {
    agent.seat().lease.promised.values_mut().for_each(|end| *end = ms(until));
}

#[test]
fn s1_only_a_fence_that_was_tried_waits_for_its_next_try() {
    let mut agent = serving(&state(3));
    // Five failures of another task in a row: the next ordinary try is far off.
    for time in 1030..1035 {
        agent.seat().instance.tuned = None;
        agent.seat().instance.retry_at = ms(0);
        agent.tick(time);
        agent.done(time, Task::Tune, 1, failed());
    }
    assert!(agent.seat().instance.retry_at > ms(1300), "{:?}", agent.seat().instance.retry_at);
    assert_eq!(fences(&agent.saw(1100, Sight::Gone)), Some(Why::InstanceCrashed), "at once");
    // The fence itself failed: it has its own tries, from the shortest wait on.
    let actions = agent.done(1110, Task::Fence, 1, failed());
    assert_eq!(fences(&actions), None);
    assert_eq!(fences(&agent.tick(1129)), None);
    assert_eq!(fences(&agent.tick(1130)), Some(Why::InstanceCrashed));
    assert_eq!(fences(&agent.tick(1200)), None, "one at a time");
}

#[test]
fn s7_a_kill_ends_whatever_the_epoch_is() {
    let mut agent = Agent::new(2, &state(3), None);
    agent.looked(1001, info(2, Some(PRIMARY)));
    agent.saw(1100, Sight::Silent { length: Duration::from_millis(100), progress: false });
    agent.seat().instance.task = None;
    agent.pass(1100, 6000);
    assert_eq!(agent.seat().instance.task, Some((Task::Kill, Epoch(0), ms(6000))));
    agent.done(6010, Task::Kill, 0, Outcome::Dead);
    assert_eq!(agent.seat().instance.task, None);
    // It comes back, and what it is to do next is not held up.
    agent.heard(7020, 1, renewal(true));
    let actions = agent.looked(7030, info(8, Some(NOWHERE)));
    assert_eq!(proposed(&actions), Some(GroupCommand::Follow { node: NodeId(2), run_id: "run8".into() }));
    assert_eq!(agent.seat().instance.condition, Condition::Up);
}

#[test]
fn s7_a_script_kill_ends_whatever_the_epoch_is() {
    let mut agent = serving(&state(3));
    agent.saw(1100, Sight::Busy);
    assert_eq!(agent.seat().instance.task, Some((Task::ScriptKill, Epoch(0), ms(1100))));
    agent.done(1120, Task::ScriptKill, 0, good(info(1, None)));
    assert_eq!(agent.seat().instance.task, None);
    assert!(agent.seat().instance.script_killed, "once only");
}

/// A primary with a live lease whose instance refuses to be made primary `tries` times.
fn refused(tries: u32, at: u64, condition: Sight) -> Option<Why> {
    let mut agent = Agent::new(1, &state(3), None);
    agent.seat().lease.held = false;
    agent.looked(1000, info(1, Some(NOWHERE)));
    agent.heard(1002, 2, promise(1000));
    agent.heard(1002, 3, promise(1000));
    keep_lease(&mut agent, 60_000);
    let mut time = 1003;
    for _ in 0..tries {
        agent.seat().instance.retry_at = ms(0);
        let actions = agent.tick(time);
        let tried = |action: &Action| matches!(action, Action::Serve { .. });
        assert!(actions.iter().any(tried) || agent.seat().instance.task.is_some());
        assert_eq!(fences(&agent.done(time, Task::Serve, 1, failed())), None, "not within the first moments");
        time += 1;
    }
    agent.saw(time, condition);
    fences(&agent.tick(at))
}

#[test]
fn s4_one_that_cannot_be_made_primary_gives_up_after_enough_tries_and_time() {
    let up = || Sight::Info(Info { asked: ms(1003), ..info(1, Some(NOWHERE)) });
    // Promoted at 1000; three leases of 800 ms.
    for (why, tries, at, seen, found) in [
        ("enough of both", SERVE_TRIES, 3400, up(), Some(Why::InstanceFailed)),
        ("too early", SERVE_TRIES, 3399, up(), None),
        ("too few tries", SERVE_TRIES - 1, 3400, up(), None),
        ("it loads: alive", SERVE_TRIES, 3400, Sight::Loading, None),
    ] {
        assert_eq!(refused(tries, at, seen), found, "{why}");
    }
}

#[test]
fn s10_a_handover_that_froze_is_an_operators_even_if_the_process_is_another_now() {
    let switch = GroupCommand::Switch { to: NodeId(2), why: Why::Operator };
    for after in [info(9, Some(NOWHERE)), Info::default()] {
        let mut agent = serving(&state(3));
        agent.at(1100, What::Applied(Arc::new(changed(3, std::slice::from_ref(&switch)))));
        let actions = agent.done(1150, Task::Handover, 1, good(after.clone()));
        assert_eq!(fences(&actions), Some(Why::Operator), "{after:?}");
    }
    let mut unasked = serving(&state(3));
    assert_eq!(fences(&unasked.looked(1150, info(9, Some(NOWHERE)))), Some(Why::InstanceRestarted));
}

fn seals_remotely(actions: &[Action]) -> Option<String> {
    actions.iter().find_map(|action| match action {
        Action::SealRemote { addresses, .. } => Some(addresses.join(" ")),
        _ => None,
    })
}

/// The guardians' seals, as if they had been heard of before they fell silent.
fn sealed_by_others(agent: &mut Agent) {
    agent.seat().seals.extend([1, 3].map(|node| (NodeId(node), Epoch(2))));
}

/// Its agent may be alive, with a lease, and serve on.
#[test]
fn s8_nothing_is_sealed_remotely_before_a_majority_has_sealed() {
    let mut agent = lonely_leader(&state(3));
    let sealing = Arc::new(changed(3, &[seal(Why::PrimarySilent)]));
    assert_eq!(seals_remotely(&agent.at(2000, What::Applied(Arc::clone(&sealing)))), None);
    sealed_by_others(&mut agent);
    assert!(seals_remotely(&agent.tick(2010)).is_some());
    assert_eq!(seals_remotely(&agent.tick(2011)), None, "once");
    // Other guardians: another majority, and those of it that had not sealed may have let it serve on.
    agent.seat().seals.clear();
    assert_eq!(seals_remotely(&agent.tick(2012)), None);
    sealed_by_others(&mut agent);
    assert!(seals_remotely(&agent.tick(2013)).is_some());
}

#[test]
fn s8_members_seal_a_silent_agents_instance_for_a_leader_that_is_a_witness() {
    let sealing = changed(3, &[seal(Why::PrimarySilent)]);
    let led_by =
        |leader| Leadership { term: 1, leader: Some(NodeId(leader)), leading: false, voters: Default::default() };
    for (leader, asked) in [(4, Some("10.0.0.1:6379 10.0.0.3:6379")), (3, None)] {
        let mut agent = Agent::new(2, &state(3), None);
        agent.at(1000, What::Leadership(led_by(leader)));
        let actions = agent.at(2000, What::Applied(Arc::new(sealing.clone())));
        assert_eq!(seals_remotely(&actions).as_deref(), asked, "led by {leader}");
        assert_eq!(seals_remotely(&agent.tick(2010)), None, "once");
        sealed_by_others(&mut agent);
        assert_eq!(seals_remotely(&agent.tick(2011)).as_deref(), asked, "and once more after the guardians' majority");
        assert_eq!(seals_remotely(&agent.tick(2012)), None);
    }
    // The old primary's agent gave up, and the other is heard: there is nothing to do in their place.
    let mut agent = Agent::new(2, &state(3), None);
    agent.at(1000, What::Leadership(led_by(4)));
    agent.heard(1500, 1, Item::Surrender { group: name(), epoch: Epoch(1), why: Why::Operator });
    agent.heard(1601, 3, Item::Sealed { group: name(), next: Epoch(1) });
    sealed_by_others(&mut agent);
    assert_eq!(seals_remotely(&agent.at(2000, What::Applied(Arc::new(sealing.clone())))), None);
    let late = seals_remotely(&agent.tick(2001));
    assert_eq!(late.as_deref(), Some("10.0.0.3:6379"), "but not for half a lease");
    // The witness itself has no credentials, but gives the members the time for it.
    let mut witness = leader(&sealing);
    assert_eq!(seals_remotely(&witness.tick(1010)), None);
}

/// A leader that is a member, started in `state`, and has heard of nobody for longer than a lease.
fn lonely_leader(state: &State) -> Agent {
    let mut agent = Agent::new(2, state, None);
    let led = Leadership { term: 1, leader: Some(NodeId(2)), leading: true, voters: Default::default() };
    agent.at(1000, What::Leadership(led));
    agent.looked(1999, info(2, Some(NOWHERE)));
    agent
}

#[test]
fn s8_who_reports_while_it_is_being_sealed_is_promoted_only_after_that() {
    let sealing = changed(3, &[seal(Why::PrimarySilent)]);
    let promoted = |actions: &[Action]| {
        actions.iter().any(|action| match action {
            Action::Propose { command: Command::Group { change, .. }, .. } => {
                matches!(change, GroupCommand::Promote { .. })
            }
            _ => false,
        })
    };
    for (ended, till) in [(false, 2400), (true, 2021)] {
        let mut agent = lonely_leader(&state(3));
        sealed_by_others(&mut agent);
        let actions = agent.at(2000, What::Applied(Arc::new(sealing.clone())));
        assert_eq!(seals_remotely(&actions).as_deref(), Some("10.0.0.1:6379 10.0.0.3:6379"));
        for node in [1, 3] {
            let offset = if node == 1 { 90 } else { 50 };
            let said = Item::Report(super::choose::report(node, Some(1), offset));
            assert!(!promoted(&agent.heard(2011, node, said)), "n1 is the best, and is being sealed");
        }
        if ended {
            let over = What::Done { group: name(), task: Task::SealRemote, epoch: Epoch(2), outcome: Outcome::Dead };
            assert!(promoted(&agent.at(till, over)), "all of them answered");
        } else {
            assert!(!promoted(&agent.tick(till - 1)));
            assert!(promoted(&agent.tick(till)), "it cannot last longer");
        }
    }
}

/// What runs beside agents that are not all there yet is left alone (S13).
#[test]
fn s13_nobody_is_sealed_over_the_network_before_the_first_promotion() {
    let mut unborn = state(3);
    let group = unborn.groups.get_mut(&name()).unwrap();
    let members = std::mem::take(&mut group.members);
    *group = crate::cluster::Group::new(Durability::Available);
    group.members = members;
    let mut agent = lonely_leader(&unborn);
    agent.tick(9000);
    assert_eq!(agent.seat().remote_seal, None);
}

#[test]
fn s5_one_that_is_dropped_again_and_again_asks_ever_later() {
    let mut agent = Agent::new(2, &state(3), None);
    agent.looked(1001, info(2, Some(NOWHERE)));
    let mut now = state(3);
    let mut time = 2000;
    // Half a lease, doubled each time it was dropped before it had caught up, four times at most.
    for wait in [800, 1600, 3200, 6400, 6400] {
        drop_second(&mut now);
        agent.at(time, What::Applied(Arc::new(now.clone())));
        assert_eq!(proposed(&agent.heard(time + wait - 1, 1, later(time + wait - 1))), None, "{wait}");
        let asked = proposed(&agent.heard(time + wait, 1, later(time + wait)));
        assert_eq!(asked, Some(GroupCommand::Follow { node: NodeId(2), run_id: "run2".into() }), "{wait}");
        apply(&mut now, GroupCommand::Follow { node: NodeId(2), run_id: "run2".into() });
        agent.at(time + wait + 1, What::Applied(Arc::new(now.clone())));
        agent.at(time + wait + 2, What::Proposed { topic: Topic::Own(name()), accepted: true });
        time += wait + 2000;
    }
    // Once it has caught up it is as good as new.
    let lineage = Some(Lineage { run_id: "run2".into(), epoch: Epoch(1) });
    agent.view.local.groups.entry(name()).or_default().lineage = lineage;
    drop_second(&mut now);
    agent.at(time, What::Applied(Arc::new(now)));
    assert_eq!(proposed(&agent.heard(time + 399, 1, later(time + 399))), None);
    assert!(proposed(&agent.heard(time + 400, 1, later(time + 400))).is_some());
}

fn drop_second(state: &mut State) {
    let since = state.groups[&name()].followers[&NodeId(2)].since;
    apply(state, GroupCommand::Drop { node: NodeId(2), since });
}

/// The serving primary's renewal, sent then by its clock.
fn later(sent: u64) -> Item {
    let Item::Renew(sound) = renewal(true) else { unreachable!() };
    Item::Renew(Renewal { sent_at: ms(sent), ..sound })
}
