//! Tables over being a member: leaving F and coming back, seals in a row, and what a primary just restarted says (S3,
//! S4, S5, S8).

use super::lineage::follower;
use super::*;

fn changed(changes: &[GroupCommand]) -> State {
    let mut state = state(3);
    for change in changes {
        let change = of_now(&state, change.clone());
        apply(&mut state, change);
    }
    state
}

/// What names an admission is to mean the one that holds now.
fn of_now(state: &State, mut change: GroupCommand) -> GroupCommand {
    use GroupCommand::{Drop, Leaving, Left};
    if let Drop { node, since } | Leaving { node, since } | Left { node, since } = &mut change {
        *since = state.groups[&name()].followers[node].since;
    }
    change
}

fn drop_it() -> GroupCommand {
    GroupCommand::Drop { node: NodeId(2), since: Version(0) }
}

fn let_in() -> GroupCommand {
    GroupCommand::Follow { node: NodeId(2), run_id: "run2".into() }
}

#[test]
fn s4_a_departed_follower_has_no_lineage() {
    let leaving = GroupCommand::Leaving { node: NodeId(2), since: Version(0) };
    let left = GroupCommand::Left { node: NodeId(2), since: Version(0) };
    let third = GroupCommand::Drop { node: NodeId(3), since: Version(0) };
    let promoted = [GroupCommand::Seal { why: Why::PrimarySilent }, promotion(2, 150)];
    for (why, changes, kept) in [
        ("nothing changed for it", &[third][..], true),
        ("dropped", &[drop_it()], false),
        ("left by two commits", &[leaving, left], false),
        // One applied state may stand for several commits: it was outside in between.
        ("dropped and let in again", &[drop_it(), let_in()], false),
        ("let in again under its name", &[let_in()], false),
        ("promoted: no follower, and yet the data", &promoted, true),
    ] {
        let mut view = follower(true);
        looked(&mut view, 1050, info(2, Some(PRIMARY), "id1", 150));
        assert_eq!(lineage(&view), Some(Epoch(1)));
        let before = view.seats[&name()].membership.lost_at;
        let meanwhile = GroupCommand::SetPriority { node: NodeId(3), priority: 5 };
        applied(&mut view, 1060, &changed(std::slice::from_ref(&meanwhile)));
        applied(&mut view, 1100, &changed(&[&[meanwhile], changes].concat()));
        assert_eq!(lineage(&view).is_some(), kept, "{why}");
        assert_eq!(view.seats[&name()].membership.lost_at > before, !kept, "{why}: only a later commit lets it in");
    }
}

#[test]
fn s3_each_of_two_seals_in_a_row_has_its_own_time_and_its_own_report() {
    let first = [GroupCommand::Seal { why: Why::PrimarySilent }];
    let second = [first[0].clone(), promotion(3, 150), GroupCommand::Seal { why: Why::InstanceCrashed }];
    let mut view = follower(true);
    applied(&mut view, 1100, &changed(&first));
    let outcome = Outcome::Done { info: info(2, Some(NOWHERE), "id1", 160), clean: true };
    at(&mut view, 1110, What::Done { group: name(), task: Task::Seal, epoch: Epoch(2), outcome });
    let seat = |view: &View| view.seats[&name()].clone();
    assert!(seat(&view).membership.report.is_some());
    view.seats.get_mut(&name()).unwrap().instance.retry_at = ms(60_000);
    // The state in between, stable under node 3, was never seen here.
    applied(&mut view, 5000, &changed(&second));
    assert_eq!(seat(&view).sealing_at, ms(5000), "waits of this seal count from its own beginning");
    assert_eq!(seat(&view).membership.report, None, "the report of the seal before is not this one's");
    assert_eq!(seat(&view).instance.retry_at, ms(5000), "nor is it held back by what failed before");
    // The same seal, told again with something else changed, goes on as it began.
    let third = [&second[..], &[GroupCommand::SetPriority { node: NodeId(3), priority: 5 }]].concat();
    applied(&mut view, 6000, &changed(&third));
    assert_eq!(seat(&view).sealing_at, ms(5000));
}

#[test]
fn s8_a_primary_whose_agent_was_restarted_keeps_its_followers() {
    let told = |view: &View| view.seats[&name()].renewal.as_ref().unwrap().1.serving.clone();
    let renew = |serving, sent| Item::Renew(Renewal { serving, ..renewal(1, sent) });
    let mut view = follower(true);
    looked(&mut view, 1050, info(2, Some(PRIMARY), "id1", 150));
    heard(&mut view, 2000, 1, renew(serving(300), 1));
    assert!(view.follow_target(&name()).is_some());
    // Its agent is back, and has not looked at the instance yet.
    heard(&mut view, 2700, 1, renew(None, 2));
    assert_eq!(told(&view), serving(300));
    tick(&mut view, 3400);
    assert!(view.follow_target(&name()).is_some(), "heard 700 ms ago");
    tick(&mut view, 3500);
    assert!(view.follow_target(&name()).is_none(), "but not for ever");
    heard(&mut view, 3600, 1, renew(serving(310), 3));
    assert_eq!(told(&view), serving(310), "what it says itself counts again");
    // Another epoch's primary inherits nothing.
    let next = changed(&[GroupCommand::Seal { why: Why::PrimarySilent }, promotion(3, 310)]);
    applied(&mut view, 3700, &next);
    heard(&mut view, 3710, 3, Item::Renew(renewal(2, 1)));
    assert_eq!(told(&view), None);
}

#[test]
fn an_answer_asked_for_before_a_task_ended_does_not_show_what_it_did() {
    let posture = |view: &View| view.seats[&name()].instance.posture;
    let attached = info(2, Some(PRIMARY), "id1", 150);
    let seen = |asked: u64| {
        let mut view = follower(true);
        looked(&mut view, 1050, attached.clone());
        assert_eq!(posture(&view), Posture::Following(Epoch(1)));
        let begun = Noted { tasks: vec![(name(), Task::Seal, Epoch(0))], ..Noted::default() };
        at(&mut view, 1060, What::Decided(begun));
        let outcome = Outcome::Done { info: info(2, Some(NOWHERE), "id1", 150), clean: true };
        at(&mut view, 1100, What::Done { group: name(), task: Task::Seal, epoch: Epoch(0), outcome });
        assert_eq!(posture(&view), Posture::Sealed);
        let late = Sight::Info(Info { asked: ms(asked), ..attached.clone() });
        at(&mut view, 1110, What::Instance { group: name(), seen: late });
        posture(&view)
    };
    assert_eq!(seen(1070), Posture::Sealed, "asked while the seal was under way");
    assert_eq!(seen(1100), Posture::Following(Epoch(1)), "asked after: somebody attached it again");
}
