//! Tables over `choose`: best data wins (S4), and what proves that nothing acknowledged is lost (S5, S14).

use super::*;
use crate::cluster::Ground;
use crate::view::Evidence;

/// A report's lineage and offset.
pub(super) type Said = (u64, Option<u64>, u64);

pub(super) fn report(node: u64, lineage: Option<u64>, offset: u64) -> Report {
    Report {
        group: name(),
        next: Epoch(2),
        run_id: RunId(format!("run{node}")),
        lineage: lineage.map(Epoch),
        offset: Offset(offset),
        replid: "id1".into(),
        keys: 5,
        voided: false,
        stopping: false,
        evidence: Evidence::default(),
    }
}

/// The choice of a witness that leads, `waited` after the seal, all guardians having sealed.
pub(super) fn choice(state: &State, reports: &[Said], waited: u64, adjust: impl Fn(&mut Agent)) -> Choice {
    let mut agent = leader(state);
    let seat = agent.seat();
    for guardian in [1, 2, 3] {
        seat.seals.insert(NodeId(guardian), Epoch(2));
    }
    for (node, lineage, offset) in reports {
        seat.reports.insert(NodeId(*node), report(*node, *lineage, *offset));
    }
    adjust(&mut agent);
    // They are said again and again.
    let now = ms(1000 + waited);
    let seat = agent.seat();
    seat.reported_at = seat.reports.keys().map(|node| (*node, now)).collect();
    agent.view.now = now;
    let (view, group) = (&agent.view, agent.view.group(&name()).unwrap());
    choose(view, &name(), group, &view.seats[&name()])
}

pub(super) fn chosen(choice: Choice) -> Option<(u64, Guarantee)> {
    match choice {
        Choice::Promote(chosen) => Some((chosen.node.0, chosen.guarantee)),
        Choice::Wait(_) => None,
    }
}

#[test]
fn s4_lineage_then_offset_then_target_then_priority_then_lower_id() {
    let priority = |node, priority| GroupCommand::SetPriority { node: NodeId(node), priority };
    let operator = GroupCommand::Switch { to: NodeId(3), why: Why::Operator };
    let plain = vec![seal(Why::PrimarySilent)];
    let preferred = vec![priority(3, 200), seal(Why::PrimarySilent)];
    let barred = vec![priority(2, 0), seal(Why::PrimarySilent)];
    let planned = vec![priority(2, 200), operator, seal(Why::Operator)];
    let cases: [(&str, &[GroupCommand], &[Said], u64); 8] = [
        ("lineage before offset", &plain, &[(2, Some(1), 50), (3, Some(0), 900)], 2),
        ("offset before priority", &preferred, &[(2, Some(1), 51), (3, Some(1), 50)], 2),
        ("priority among equals", &preferred, &[(2, Some(1), 50), (3, Some(1), 50)], 3),
        ("lower id at last", &plain, &[(2, Some(1), 50), (3, Some(1), 50)], 2),
        ("the old primary too", &plain, &[(1, Some(1), 60), (2, Some(1), 50)], 1),
        ("priority 0 never", &barred, &[(2, Some(1), 90), (3, Some(1), 50)], 3),
        ("the target before priority", &planned, &[(2, Some(1), 50), (3, Some(1), 50)], 3),
        ("but not before the data", &planned, &[(2, Some(1), 51), (3, Some(1), 50)], 2),
    ];
    for (why, changes, reports, node) in cases {
        let found = chosen(choice(&changed(3, changes), reports, 0, |_| {}));
        assert_eq!(found.map(|(node, _)| node), Some(node), "{why}");
    }
}

#[test]
fn s4_the_sentence_is_not_kept_where_the_best_may_not_be_promoted() {
    let barred = GroupCommand::SetPriority { node: NodeId(2), priority: 0 };
    let state = changed(3, &[barred, seal(Why::PrimarySilent)]);
    let found = |second| chosen(choice(&state, &[(2, Some(1), 90), (3, Some(1), second)], 0, |_| {}));
    assert_eq!(found(50), Some((3, Guarantee::BestReached)));
    assert_eq!(found(90), Some((3, Guarantee::Kept)));
}

#[test]
fn s5_under_quorum_what_one_of_priority_zero_holds_alone_is_not_given_up() {
    let barred = GroupCommand::SetPriority { node: NodeId(2), priority: 0 };
    let quorum = GroupCommand::SetDurability(crate::cluster::Durability::Quorum);
    let state = changed(3, &[quorum, barred, seal(Why::PrimarySilent)]);
    let two: [Said; 2] = [(2, Some(1), 90), (3, Some(1), 50)];
    assert_eq!(choice(&state, &two, 5000, |_| {}), Choice::Wait(Reason::AwaitingProof { have: 1, need: 2 }));
    // Nobody else has it: too few hold it for it to have been acknowledged.
    let all: [Said; 3] = [(1, Some(1), 50), (2, Some(1), 90), (3, Some(1), 50)];
    assert_eq!(chosen(choice(&state, &all, 0, |_| {})), Some((1, Guarantee::Kept)));
}

#[test]
fn s4_one_that_never_served_is_passed_over_if_the_proof_holds() {
    let state = changed(3, &[seal(Why::NeverServed)]);
    let all: [Said; 3] = [(1, Some(1), 90), (2, Some(1), 50), (3, Some(1), 50)];
    assert_eq!(chosen(choice(&state, &all, 0, |_| {})), Some((2, Guarantee::Kept)));
    assert_eq!(chosen(choice(&state, &all[..2], 0, |_| {})), Some((1, Guarantee::Kept)), "one other proves nothing");
}

#[test]
fn s4_s5_another_with_the_same_data_takes_over_from_one_that_never_served() {
    let all: [Said; 2] = [(1, Some(0), 90), (2, Some(0), 90)];
    let state = changed(3, &[seal(Why::InstanceFailed)]);
    assert_eq!(chosen(choice(&state, &all, 0, |_| {})), Some((2, Guarantee::Kept)));
    assert_eq!(chosen(choice(&state, &all[..1], 800, |_| {})), Some((1, Guarantee::BestReached)), "it alone is there");
}

/// Found by telling a story: five nodes under quorum, and the primary, never gone, waited for the lost ones' proof.
#[test]
fn s5_the_primary_itself_proves_what_it_acknowledged() {
    let quorum = GroupCommand::SetDurability(Durability::Quorum);
    let lapsed = |changes: &[GroupCommand]| changed(3, &[changes, &[seal(Why::LeaseLapsed)]].concat());
    let restarted = |agent: &mut Agent| agent.seat().reports.get_mut(&NodeId(1)).unwrap().run_id = "run9".into();
    let awaited = Choice::Wait(Reason::AwaitingProof { have: 1, need: 2 });
    for state in [lapsed(&[]), lapsed(&[quorum])] {
        let said = |lineage| [(1, Some(lineage), 90)];
        assert_eq!(chosen(choice(&state, &said(1), 0, |_| {})), Some((1, Guarantee::Kept)));
        assert_eq!(choice(&state, &said(1), 0, restarted), awaited, "another process");
        assert_eq!(choice(&state, &said(0), 0, |_| {}), awaited, "of an earlier epoch");
    }
    // What it holds alone, and may not be promoted for, is not kept.
    let barred = lapsed(&[GroupCommand::SetPriority { node: NodeId(1), priority: 0 }]);
    let found = |second| chosen(choice(&barred, &[(1, Some(1), 90), (2, Some(1), second)], 0, |_| {}));
    assert_eq!(found(90), Some((2, Guarantee::Kept)));
    assert_eq!(found(89), Some((2, Guarantee::BestReached)));
}

#[test]
fn s4_one_that_is_being_stopped_is_passed_over() {
    let state = changed(3, &[seal(Why::Shutdown)]);
    let stops = |agent: &mut Agent| agent.seat().reports.get_mut(&NodeId(1)).unwrap().stopping = true;
    let all: [Said; 3] = [(1, Some(1), 90), (2, Some(1), 50), (3, Some(1), 50)];
    assert_eq!(chosen(choice(&state, &all, 0, stops)), Some((2, Guarantee::Kept)));
    // It alone has the data: its agent comes back.
    let behind: [Said; 2] = [(1, Some(1), 90), (2, Some(0), 50)];
    let awaited = Choice::Wait(Reason::AwaitingRestart("n1".to_owned()));
    assert_eq!(choice(&state, &behind, 0, stops), awaited);
    assert_eq!(choice(&state, &behind, 5000, stops), awaited);
}

#[test]
fn s3_no_promotion_before_a_majority_of_guardians_has_sealed() {
    let state = changed(3, &[seal(Why::PrimarySilent)]);
    let all: [Said; 3] = [(1, Some(1), 90), (2, Some(1), 50), (3, Some(1), 50)];
    for (sealed, enough) in [(vec![], false), (vec![1], false), (vec![1, 2], false), (vec![1, 2, 3], true)] {
        let found = choice(&state, &all, 0, |agent| {
            agent.seat().seals.retain(|node, _| sealed.contains(&node.0));
        });
        assert_eq!(matches!(found, Choice::Promote(_)), enough, "{sealed:?}");
    }
    let old = choice(&state, &all, 0, |agent| agent.seat().seals.values_mut().for_each(|seal| *seal = Epoch(1)));
    assert!(matches!(old, Choice::Wait(Reason::AwaitingSeals(_))), "a seal of before: {old:?}");
}

#[test]
fn s5_reports_that_prove() {
    let quorum = GroupCommand::SetDurability(Durability::Quorum);
    let (available, durable) =
        (changed(3, &[seal(Why::PrimarySilent)]), changed(3, &[quorum, seal(Why::PrimarySilent)]));
    let one: [Said; 1] = [(2, Some(1), 50)];
    let two: [Said; 2] = [(2, Some(1), 50), (3, Some(1), 40)];
    let none: [Said; 2] = [(2, Some(1), 50), (3, None, 900)];
    let kept = Some((2, Guarantee::Kept));
    let best = Some((2, Guarantee::BestReached));
    for (why, state, reports, waited, found) in [
        ("R reports", &available, &two[..], 0, kept),
        ("one short: up to a lease", &available, &one[..], 799, None),
        ("then the best there is", &available, &one[..], 800, best),
        ("without lineage it does not count", &available, &none[..], 0, None),
        ("quorum waits for ever", &durable, &one[..], 60_000, None),
        ("quorum, proved", &durable, &two[..], 0, kept),
    ] {
        assert_eq!(chosen(choice(state, reports, waited, |_| {})), found, "{why}");
    }
}

#[test]
fn s5_who_left_without_two_commits_counts_in_the_sentence() {
    let state = changed(3, &[drop_of(3), seal(Why::PrimarySilent)]);
    let found = |reports: &[Said]| chosen(choice(&state, reports, 0, |_| {}));
    assert_eq!(found(&[(2, Some(1), 50)]), Some((2, Guarantee::BestReached)));
    assert_eq!(found(&[(2, Some(1), 50), (1, Some(1), 50)]), Some((1, Guarantee::Kept)));
    // Outside F it is not promoted, whatever it says it has.
    assert_eq!(found(&[(2, Some(1), 50), (3, Some(1), 900)]), Some((2, Guarantee::BestReached)));
}

#[test]
fn s14_cold_start() {
    let state = changed(3, &[seal(Why::PrimarySilent)]);
    let found = |reports: &[Said], waited, adjust: &dyn Fn(&mut Agent)| chosen(choice(&state, reports, waited, adjust));
    let all: [Said; 3] = [(1, None, 50), (2, None, 70), (3, None, 60)];
    let nothing = |_: &mut Agent| {};
    assert_eq!(found(&all, 0, &nothing), Some((2, Guarantee::ColdStart(Ground::Offset))), "kin: the greatest offset");
    assert_eq!(found(&all[..2], 29_000, &nothing), None);
    assert_eq!(found(&all[..2], 30_000, &nothing), Some((2, Guarantee::ColdStart(Ground::Offset))));
    let empty = |agent: &mut Agent| agent.seat().reports.values_mut().for_each(|report| report.keys = 0);
    assert_eq!(found(&all[..2], 60_000, &empty), None, "an empty one only if all have reported");
    let reached = |agent: &mut Agent| {
        agent.at(1001, What::Link { node: NodeId(3), up: true });
    };
    assert_eq!(found(&all[..2], 60_000, &reached), None, "who can be reached is waited for");
    let strangers = |agent: &mut Agent| {
        for (node, report) in &mut agent.seat().reports {
            report.replid = format!("id of {node}").into_replid();
        }
    };
    assert_eq!(
        found(&all, 0, &strangers),
        Some((1, Guarantee::ColdStart(Ground::LastPrimary))),
        "not kin: the last primary"
    );
    assert_eq!(found(&all[1..], 60_000, &strangers), None, "not kin, and no last primary: nobody guesses");
    let lineage: [Said; 3] = [(1, None, 50), (2, None, 70), (3, Some(1), 10)];
    let proved = found(&lineage, 800, &nothing);
    assert_eq!(proved.map(|(node, _)| node), Some(3), "§6 trace 10: who has lineage goes before");
}

trait IntoReplid {
    fn into_replid(self) -> crate::cluster::Replid;
}

impl IntoReplid for String {
    fn into_replid(self) -> crate::cluster::Replid {
        crate::cluster::Replid(self)
    }
}
