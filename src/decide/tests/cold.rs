//! Tables over a first start (S13) and a cold start (S14): what is compared, in which order, and who decides when nothing
//! proves anything.

use super::choose::report;
use super::*;
use crate::cluster::Ground;
use crate::view::Evidence;

/// Three members and a witness before the first promotion.
fn unborn(changes: &[GroupCommand]) -> State {
    let mut state = state(3);
    let group = state.groups.get_mut(&name()).unwrap();
    let members = std::mem::take(&mut group.members);
    *group = crate::cluster::Group::new(Durability::Available);
    group.members = members;
    group.members.values_mut().for_each(|member| member.adopted = false);
    changes.iter().for_each(|change| apply(&mut state, change.clone()));
    state
}

/// The choice of a witness that leads, after all guardians sealed.
fn choice(state: &State, reports: &[Report], waited: u64) -> Choice {
    let next = state.groups[&name()].epoch.next();
    let mut agent = leader(state);
    for guardian in [1, 2, 3] {
        agent.seat().seals.insert(NodeId(guardian), next);
    }
    for (node, report) in (1..).zip(reports) {
        let node = report.run_id.0.strip_prefix("run").map_or(node, |node| node.parse().unwrap());
        agent.seat().reports.insert(NodeId(node), Report { next, ..report.clone() });
        agent.seat().reported_at.insert(NodeId(node), ms(1000 + waited));
    }
    agent.view.now = ms(1000 + waited);
    let (view, group) = (&agent.view, agent.view.group(&name()).unwrap());
    choose(view, &name(), group, &view.seats[&name()])
}

fn held(node: u64, replid: &str, offset: u64, keys: u64) -> Report {
    Report { replid: replid.into(), keys, ..report(node, None, offset) }
}

fn runs(report: Report) -> Report {
    Report { evidence: Evidence { primary: true, ..report.evidence.clone() }, ..report }
}

fn chosen(choice: &Choice) -> Option<(u64, Guarantee)> {
    match choice {
        Choice::Promote(chosen) => Some((chosen.node.0, chosen.guarantee)),
        Choice::Wait(_) => None,
    }
}

fn two(first: u64, second: u64) -> Choice {
    Choice::Wait(Reason::TwoDataSets(vec![format!("n{first}"), format!("n{second}")]))
}

#[test]
fn s13_the_running_topology_is_adopted_or_nothing_is_guessed() {
    let empty = |node| held(node, &format!("id of {node}"), 0, 0);
    let before = |report: Report| {
        let second = Some(("old".into(), Offset(80)));
        Report { evidence: Evidence { second, ..report.evidence.clone() }, ..report }
    };
    let fresh = |node: u64| {
        Choice::Promote(Chosen {
            node: NodeId(node),
            run_id: RunId(format!("run{node}")),
            offset: Offset(0),
            data: None,
            guarantee: Guarantee::Fresh,
        })
    };
    let cases: Vec<(&str, [Report; 3], Choice)> = vec![
        ("all empty: priority, then the lower number", [empty(1), empty(2), empty(3)], fresh(1)),
        ("all empty: who runs as a primary", [empty(1), runs(empty(2)), empty(3)], fresh(2)),
        ("its replicas keep it", [held(1, "a", 90, 5), runs(held(2, "a", 90, 5)), held(3, "a", 70, 5)], fresh(2)),
        (
            "one of before its own promotion",
            [held(1, "old", 80, 5), before(runs(held(2, "a", 90, 5))), empty(3)],
            fresh(2),
        ),
        ("beyond it", [held(1, "old", 81, 5), before(runs(held(2, "a", 90, 5))), empty(3)], two(2, 1)),
        ("two primaries with data", [runs(held(1, "a", 90, 5)), runs(held(2, "b", 10, 5)), empty(3)], two(1, 2)),
        ("two primaries, one empty", [runs(held(1, "a", 90, 5)), runs(empty(2)), empty(3)], fresh(1)),
        ("data that the primary lacks", [held(1, "a", 90, 5), runs(held(2, "b", 99, 9)), empty(3)], two(2, 1)),
        (
            "more of its own history than the primary",
            [held(1, "a", 95, 5), runs(held(2, "a", 90, 5)), empty(3)],
            two(2, 1),
        ),
        ("nobody runs: kin", [held(1, "a", 80, 5), held(2, "a", 90, 5), empty(3)], fresh(2)),
        ("nobody runs: the only one with data", [empty(1), empty(2), held(3, "a", 0, 5)], fresh(3)),
        ("nobody runs: strangers", [held(1, "a", 80, 5), held(2, "b", 90, 5), empty(3)], two(2, 1)),
    ];
    for (why, reports, expected) in cases {
        let found = match choice(&unborn(&[]), &reports, 0) {
            Choice::Promote(chosen) => Choice::Promote(Chosen { offset: Offset(0), data: None, ..chosen }),
            wait => wait,
        };
        assert_eq!(found, expected, "{why}");
    }
    let two_of_three = [empty(1), empty(2)];
    assert_eq!(chosen(&choice(&unborn(&[]), &two_of_three, 60_000)), None, "everybody's word is needed");
}

/// Its host was lost with it, and may come back with more: it is waited for like one that never reported.
#[test]
fn s14_a_report_that_is_not_repeated_is_of_a_process_that_is_gone() {
    let state = changed(3, &[seal(Why::PrimarySilent)]);
    let found = |silent: u64| {
        let mut agent = leader(&state);
        for node in [1, 2, 3] {
            agent.seat().seals.insert(NodeId(node), Epoch(2));
            agent.seat().reports.insert(NodeId(node), report(node, None, 50));
            let at = if node == 3 { 5000 - silent } else { 5000 };
            agent.seat().reported_at.insert(NodeId(node), ms(at));
        }
        agent.view.now = ms(5000);
        let (view, group) = (&agent.view, agent.view.group(&name()).unwrap());
        choose(view, &name(), group, &view.seats[&name()])
    };
    assert!(chosen(&found(799)).is_some());
    assert_eq!(found(800), Choice::Wait(Reason::AwaitingReports(vec!["n3".to_owned()])));
}

#[test]
fn s13_the_operators_choice_settles_it_but_not_for_an_empty_one() {
    let data = [runs(held(1, "a", 90, 5)), runs(held(2, "b", 10, 5)), held(3, "c", 0, 0)];
    let bootstrap = |node| GroupCommand::Bootstrap { node: NodeId(node) };
    let state = unborn(&[bootstrap(2)]);
    assert_eq!(chosen(&choice(&state, &data, 0)), Some((2, Guarantee::Fresh)));
    assert!(state.groups[&name()].members.values().all(|member| member.adopted), "what the others hold is given up");
    let given_up = |node: u64, guarantee| -> Vec<bool> {
        let mut state = state.clone();
        let run_id = RunId(format!("run{node}"));
        let successor = NodeId(node);
        apply(
            &mut state,
            GroupCommand::Promote { successor, run_id, start: Offset(9), data: None, guarantee, at_unix_ms: 0 },
        );
        state.groups[&name()].members.values().map(|member| member.adopted).collect()
    };
    assert_eq!(given_up(2, Guarantee::Fresh), [true; 3]);
    assert_eq!(
        given_up(1, Guarantee::Forced),
        [true, false, false],
        "for the data of n2 it was given up, and for no other"
    );
    let holding = vec!["n1".to_owned(), "n2".to_owned()];
    let refused = Choice::Wait(Reason::EmptyChoice { chosen: "n3".to_owned(), holding });
    assert_eq!(choice(&unborn(&[bootstrap(3)]), &data, 0), refused);
}

/// A member of epoch 1 whose AOF kept neither id nor offset.
fn aof(node: u64, role: Option<u64>, rest: Option<u64>, newest_unix_ms: Option<u64>, keys: u64) -> Report {
    let (role, rest) = (role.map(Epoch), rest.map(Offset));
    let evidence = Evidence { role, rest, newest_unix_ms, ..Evidence::default() };
    Report { evidence, ..held(node, &format!("id of {node}"), 0, keys) }
}

fn rdb(node: u64, history: u64, offset: u64) -> Report {
    let evidence = Evidence { history: Some(Epoch(history)), ..Evidence::default() };
    Report { evidence, ..held(node, &format!("id of epoch {history}"), offset, 5) }
}

type Case = (&'static str, Vec<Report>, Option<(u64, Ground)>);

/// Whom a cold start takes, and on what ground.
fn decides(cases: &[Case]) {
    let state = changed(3, &[seal(Why::PrimarySilent)]);
    for (why, reports, expected) in cases {
        let found = choice(&state, reports, 60_000);
        let expected = expected.map(|(node, ground)| (node, Guarantee::ColdStart(ground)));
        assert_eq!(chosen(&found), expected, "{why}: {found:?}");
    }
}

#[test]
fn s14_the_disks_evidence_in_its_order() {
    let cases: [Case; 13] = [
        ("RDB: the latest epoch", vec![rdb(1, 0, 900), rdb(2, 1, 50), rdb(3, 0, 800)], Some((2, Ground::Offset))),
        ("RDB: then the offset", vec![rdb(1, 1, 40), rdb(2, 1, 50), rdb(3, 1, 60)], Some((3, Ground::Offset))),
        ("RDB: one host never returns", vec![rdb(2, 1, 50), rdb(3, 1, 60)], Some((3, Ground::Offset))),
        (
            "both stopped in order: the offset",
            vec![aof(2, Some(1), Some(70), Some(9), 5), aof(3, Some(1), Some(80), Some(5), 5)],
            Some((3, Ground::RoleRecord)),
        ),
        (
            "one stopped in order: the other went on",
            vec![aof(2, Some(1), Some(70), Some(9), 5), aof(3, Some(1), None, Some(5), 5)],
            Some((3, Ground::RoleRecord)),
        ),
        (
            "the newest write",
            vec![aof(2, Some(1), None, Some(9), 5), aof(3, Some(1), None, Some(5), 6)],
            Some((2, Ground::NewestWrite)),
        ),
        (
            "a time that is not known decides nothing",
            vec![aof(2, Some(1), None, Some(9), 5), aof(3, Some(1), None, None, 6)],
            Some((3, Ground::Equal)),
        ),
        ("nothing at all is known", vec![aof(2, None, None, None, 5), aof(3, None, None, None, 6)], None),
        (
            "only one holds data",
            vec![held(1, "x", 0, 0), held(2, "y", 0, 5), held(3, "z", 0, 0)],
            Some((2, Ground::OnlyData)),
        ),
        (
            "only one of those that came holds data",
            vec![held(1, "x", 0, 0), held(2, "y", 0, 5)],
            Some((2, Ground::OnlyData)),
        ),
        (
            "all are there, and empty",
            vec![held(1, "x", 0, 0), held(2, "y", 0, 0), held(3, "z", 0, 0)],
            Some((1, Ground::AllEmpty)),
        ),
        ("one is missing, the others are empty", vec![held(1, "x", 0, 0), held(2, "y", 0, 0)], None),
        (
            "one is missing, and one is half replaced",
            vec![held(1, "x", 0, 0), Report { voided: true, ..held(2, "y", 9, 5) }],
            None,
        ),
    ];
    decides(&cases);
}

/// Node 1 served epoch 1; node 2 was promoted after it. Who has which record of a last role, and whose write is the newest.
#[test]
fn s14_the_last_primary_is_one_that_served() {
    let promoted = |guarantee| {
        let mut state = changed(3, &[seal(Why::PrimarySilent), promotion(2), seal(Why::InstanceRestarted)]);
        state.groups.get_mut(&name()).unwrap().history.back_mut().unwrap().guarantee = guarantee;
        state
    };
    let [best, kept, forced] = [Guarantee::BestReached, Guarantee::Kept, Guarantee::Forced].map(promoted);
    for (why, state, roles, found) in [
        ("it served", &best, [Some(1), Some(2), Some(1)], 2),
        ("it served, as one that followed it knows", &best, [Some(1), Some(1), Some(2)], 2),
        ("nobody knows", &best, [Some(1), None, Some(1)], 2),
        ("it never did: the one before it", &best, [Some(1), Some(1), Some(1)], 1),
        ("it never did, and lacked nothing", &kept, [Some(1), Some(1), Some(1)], 2),
        ("it never did, and was an operator's word", &forced, [Some(1), Some(1), Some(1)], 2),
    ] {
        let reports: Vec<Report> = (1..)
            .zip(roles)
            .map(|(node, role)| aof(node, role, None, Some(if node == 3 { 9 } else { 5 }), 5))
            .collect();
        let choice = chosen(&choice(state, &reports, 0));
        assert_eq!(choice, Some((found, Guarantee::ColdStart(Ground::LastPrimary))), "{why}");
    }
}

#[test]
fn s14_quorum_waits_for_everybody_and_says_for_whom() {
    let quorum = GroupCommand::SetDurability(Durability::Quorum);
    let state = changed(3, &[quorum, seal(Why::PrimarySilent)]);
    let late = Choice::Wait(Reason::AwaitingReports(vec!["n1".to_owned()]));
    assert_eq!(choice(&state, &[rdb(2, 1, 50), rdb(3, 1, 60)], 600_000), late);
    let all = [rdb(1, 1, 40), rdb(2, 1, 50), rdb(3, 1, 60)];
    assert_eq!(chosen(&choice(&state, &all, 0)), Some((3, Guarantee::ColdStart(Ground::Offset))));
}

#[test]
fn s14_data_that_never_was_the_groups_is_no_candidate() {
    let mut state = changed(3, &[seal(Why::PrimarySilent)]);
    state.groups.get_mut(&name()).unwrap().members.get_mut(&NodeId(3)).unwrap().adopted = false;
    let reports = [held(1, "x", 0, 5), held(2, "y", 0, 5), held(3, "z", 999, 500)];
    assert_eq!(chosen(&choice(&state, &reports, 0)), Some((1, Guarantee::ColdStart(Ground::LastPrimary))));
}
