//! Tables over lineage: what ends it, what brings it back, and what a report claims (S3, S4).

use super::*;

/// A follower attached to epoch 1's primary, with or without lineage.
pub(super) fn follower(with: bool) -> View {
    let lineage = with.then(|| Lineage { run_id: "run2".into(), epoch: Epoch(1) });
    let attached = Some(Attached {
        run_id: "run2".into(),
        epoch: Epoch(1),
        replid: "id1".into(),
        from: "id0".into(),
        home: Some(Epoch(0)),
    });
    let group = LocalGroup { lineage, attached, ..LocalGroup::default() };
    view(2, &state(3), Local { longest_lease: LEASE, groups: [(name(), group)].into() }, None)
}

#[test]
fn s4_lineage_ends_with_the_process_and_with_a_full_resynchronisation() {
    let attached = |info: Info| Info { link_up: false, ..info };
    for (why, info, kept) in [
        ("nothing changed", info(2, Some(PRIMARY), "id1", 150), true),
        ("another process", info(7, Some(PRIMARY), "id1", 150), false),
        ("a full resynchronisation", Info { syncing: true, ..attached(info(2, Some(PRIMARY), "id1", 150)) }, false),
        ("a load on its behalf", Info { loading: true, ..attached(info(2, Some(PRIMARY), "id1", 150)) }, false),
        (
            "a full resynchronisation between two looks",
            Info { replid2: "0000".into(), ..info(2, Some(PRIMARY), "id1", 150) },
            false,
        ),
        ("the link is down", attached(info(2, Some(PRIMARY), "id1", 150)), true),
        ("sealed", info(2, Some(NOWHERE), "id1", 150), true),
    ] {
        let mut view = follower(true);
        looked(&mut view, 1100, info);
        assert_eq!(lineage(&view).is_some(), kept, "{why}");
    }
}

/// What a full resynchronisation has replaced whole is no half of anything, long before its lineage is proved.
#[test]
fn s14_a_completed_resynchronisation_is_whole_data() {
    let mut view = follower(true);
    let syncing = Info { syncing: true, link_up: false, ..info(2, Some(PRIMARY), "id0", 90) };
    looked(&mut view, 1100, syncing);
    assert_eq!(view.local.groups[&name()].voided, Some("run2".into()), "under way");
    looked(&mut view, 1150, Info { link_up: false, ..info(2, Some(NOWHERE), "id0", 90) });
    assert_eq!(view.local.groups[&name()].voided, Some("run2".into()), "cut off");
    looked(&mut view, 1200, Info { replid2: "0000".into(), ..info(2, Some(PRIMARY), "id1", 150) });
    assert_eq!((view.local.groups[&name()].voided.clone(), lineage(&view)), (None, None), "whole, and not yet proved");
}

/// A slow instance: its answer of before the seal comes after the report was made.
#[test]
fn s14_a_late_answer_tells_that_the_reported_data_is_whole() {
    let voided = |late: u64| {
        let mut view = follower(true);
        let syncing = Info { syncing: true, link_up: false, ..info(2, Some(PRIMARY), "id0", 90) };
        looked(&mut view, 1100, syncing);
        applied(&mut view, 1200, &sealing(3));
        let outcome =
            Outcome::Done { info: Info { asked: ms(1200), ..info(2, Some(NOWHERE), "id1", 160) }, clean: true };
        at(&mut view, 1210, What::Done { group: name(), task: Task::Seal, epoch: Epoch(2), outcome });
        let claimed = |view: &View| view.seats[&name()].membership.report.as_ref().unwrap().voided;
        assert!(claimed(&view), "nobody has seen its end");
        let late = Info { asked: ms(late), ..info(2, Some(PRIMARY), "id1", 155) };
        at(&mut view, 1220, What::Instance { group: name(), seen: Sight::Info(late) });
        (claimed(&view), view.local.groups[&name()].voided.is_some())
    };
    assert_eq!(voided(1150), (false, false), "asked for after the resynchronisation was seen: that is over");
    assert_eq!(voided(1050), (true, true), "asked for before it: that says nothing of its end");
}

/// Trace 22: nobody has looked since it began; the seal itself finds it half done.
#[test]
fn s14_what_a_seal_cut_off_is_no_whole_data() {
    let mut view = follower(true);
    looked(&mut view, 1100, info(2, Some(PRIMARY), "id1", 150));
    applied(&mut view, 1200, &sealing(3));
    let outcome = Outcome::Done { info: info(2, Some(NOWHERE), "id1", 150), clean: false };
    at(&mut view, 1210, What::Done { group: name(), task: Task::Seal, epoch: Epoch(2), outcome });
    let report = view.seats[&name()].membership.report.clone().unwrap();
    assert_eq!((report.lineage, report.voided), (None, true));
    assert_eq!(view.local.groups[&name()].voided, Some("run2".into()));
}

#[test]
fn s11_a_complete_resynchronisation_leaves_data_of_its_own_proved_or_not() {
    let mut view = follower(true);
    let syncing = Info { syncing: true, link_up: false, ..info(2, Some(PRIMARY), "id1", 150) };
    let voided = |view: &View| view.local.groups[&name()].voided.clone();
    looked(&mut view, 1100, syncing);
    assert_eq!(voided(&view), Some("run2".into()));
    looked(&mut view, 1150, Info { link_up: false, ..info(2, Some(PRIMARY), "id1", 150) });
    assert_eq!(voided(&view), Some("run2".into()), "cut short");
    looked(&mut view, 1200, Info { replid2: "0000".into(), ..info(2, Some(PRIMARY), "id1", 200) });
    assert_eq!((lineage(&view), voided(&view)), (None, None));
}

#[test]
fn an_answer_that_a_task_overtook_does_not_bring_back_what_was_before() {
    let mut view = follower(true);
    looked(&mut view, 1050, info(2, Some(PRIMARY), "id1", 150));
    applied(&mut view, 1100, &sealing(3));
    let outcome = Outcome::Done { info: info(2, Some(NOWHERE), "id1", 160), clean: true };
    at(&mut view, 1110, What::Done { group: name(), task: Task::Seal, epoch: Epoch(2), outcome });
    view.seats.get_mut(&name()).unwrap().instance.task_ended = ms(1110);
    let late = Info { asked: ms(1105), ..info(2, Some(PRIMARY), "id1", 155) };
    at(&mut view, 1120, What::Instance { group: name(), seen: Sight::Info(late.clone()) });
    let offset = |view: &View| view.seats[&name()].instance.seen().unwrap().offset;
    assert_eq!(offset(&view), Offset(160));
    let syncing = Info { syncing: true, link_up: false, ..late };
    at(&mut view, 1130, What::Instance { group: name(), seen: Sight::Info(syncing) });
    assert_eq!((offset(&view), lineage(&view)), (Offset(160), None), "but what ends lineage ends it");
    looked(&mut view, 1140, info(2, Some(NOWHERE), "id1", 170));
    assert_eq!(offset(&view), Offset(170));
}

#[test]
fn s4_lineage_is_regained_at_the_mark_after_the_commit() {
    // The process is let in after this agent started; the primary applied that, and had offset 300.
    let run = |version_ahead: bool, offset: u64| {
        let mut view = follower(false);
        looked(&mut view, 1050, info(2, Some(PRIMARY), "id1", 90));
        let mut next = state(3);
        apply(&mut next, GroupCommand::Follow { node: NodeId(2), run_id: "run2".into() });
        applied(&mut view, 1100, &next);
        let since = next.groups[&name()].version;
        let version = if version_ahead { since } else { Version(since.0 - 1) };
        let renewal = Renewal { version, serving: serving(300), ..renewal(1, 1) };
        heard(&mut view, 1110, 1, Item::Renew(renewal));
        looked(&mut view, 1120, info(2, Some(PRIMARY), "id1", offset));
        lineage(&view)
    };
    assert_eq!(run(true, 299), None, "not all there yet");
    assert_eq!(run(true, 300), Some(Epoch(1)));
    assert_eq!(run(false, 400), None, "that offset was read before the commit was applied");
}

#[test]
fn s4_data_below_the_start_offset_is_the_earlier_epochs() {
    // §6 trace 1: the new replication id comes before the bytes.
    let mut next = sealing(3);
    apply(&mut next, promotion(3, 200));
    let attached = Some(Attached {
        run_id: "run2".into(),
        epoch: Epoch(2),
        replid: "id2".into(),
        from: "id1".into(),
        home: Some(Epoch(1)),
    });
    let lineage = Some(Lineage { run_id: "run2".into(), epoch: Epoch(1) });
    let group = LocalGroup { lineage, attached, ..LocalGroup::default() };
    let local = Local { longest_lease: LEASE, groups: [(name(), group)].into() };
    let view = view(2, &next, local, None);
    let second = |replid: &str, replid2: &str, offset| Info {
        replid2: replid2.into(),
        ..info(2, Some("10.0.0.3:6379"), replid, offset)
    };
    for (info, epoch) in [
        (second("id2", "id1", 199), Some(Epoch(1))),
        (second("id2", "id1", 200), Some(Epoch(2))),
        (second("id1", "id0", 250), Some(Epoch(1))),
        // The primary took a new id within its epoch.
        (second("id3", "id2", 250), Some(Epoch(2))),
        // A name nobody knows, but no later epoch: at least what was there.
        (second("id9", "id8", 250), Some(Epoch(1))),
        (Info { run_id: "run9".into(), ..second("id2", "id1", 250) }, None),
    ] {
        assert_eq!(view.lineage_of(&name(), &info), epoch, "{info:?}");
    }
}

#[test]
fn s4_left_alone_it_may_have_followed_into_a_later_epoch() {
    // Its agent died in epoch 1; the same primary was promoted again at 200; the instance went on following it.
    let mut next = sealing(3);
    apply(&mut next, promotion(1, 200));
    let attached = Some(Attached {
        run_id: "run2".into(),
        epoch: Epoch(1),
        replid: "id1".into(),
        from: "id0".into(),
        home: Some(Epoch(0)),
    });
    let lineage = Some(Lineage { run_id: "run2".into(), epoch: Epoch(1) });
    let group = LocalGroup { lineage, attached, ..LocalGroup::default() };
    let view = view(2, &next, Local { longest_lease: LEASE, groups: [(name(), group)].into() }, None);
    let seen = |replid: &str, replid2: &str, offset| Info { replid2: replid2.into(), ..info(2, None, replid, offset) };
    for (info, epoch) in [
        (seen("id2", "id1", 250), None),
        (seen("id2", "id1", 200), Some(Epoch(1))),
        (seen("id1", "id0", 250), Some(Epoch(1))),
        (seen("id0", "idx", 250), Some(Epoch(1))),
    ] {
        assert_eq!(view.lineage_of(&name(), &info), epoch, "{info:?}");
    }
}

#[test]
fn s4_a_full_resynchronisation_that_must_come_voids_before_it_begins() {
    // Replication id and offset of the instance, where the backlog begins; whether +CONTINUE can be expected (start offset of
    // epoch 1 is 100).
    let cases = [
        ("id1", 150, 1, true),
        ("id0", 100, 101, true),
        ("id0", 101, 1, false),
        ("idx", 50, 1, false),
        ("id1", 150, 152, false),
        ("id1", 150, 0, false),
    ];
    for (replid, offset, backlog, kept) in cases {
        let lineage_before = Some(Lineage { run_id: "run2".into(), epoch: Epoch(0) });
        let group = LocalGroup { lineage: lineage_before, ..LocalGroup::default() };
        let local = Local { longest_lease: LEASE, groups: [(name(), group)].into() };
        let mut view = view(2, &state(3), local, None);
        looked(&mut view, 1050, info(2, Some(NOWHERE), replid, offset));
        let offer = Serving { backlog: Offset(backlog), ..serving(400).unwrap() };
        heard(&mut view, 1100, 1, Item::Renew(Renewal { serving: Some(offer), ..renewal(1, 1) }));
        let attached = view.local.groups[&name()].attached.clone();
        assert_eq!(attached.map(|attached| attached.epoch), Some(Epoch(1)), "{replid} {offset} {backlog}");
        assert_eq!(lineage(&view).is_some(), kept, "{replid} {offset} {backlog}");
    }
}

#[test]
fn s4_a_promoted_instance_has_its_epochs_lineage_even_if_it_never_seals_in_it() {
    let local = Local { longest_lease: LEASE, ..Local::default() };
    let mut view = view(1, &state(3), local, None);
    looked(&mut view, 1050, info(1, None, "id1", 150));
    assert_eq!(lineage(&view), Some(Epoch(1)));
    let mut later = sealing(3);
    apply(&mut later, promotion(3, 120));
    applied(&mut view, 5000, &later);
    assert_eq!(lineage(&view), Some(Epoch(1)), "it slept through the seal");
    let mut other = self::view(1, &state(3), Local::default(), None);
    looked(&mut other, 1050, info(9, None, "id1", 150));
    assert_eq!(lineage(&other), None, "another process than was promoted");
}

#[test]
fn s3_the_report_is_of_the_sealed_instance() {
    let mut view = follower(true);
    looked(&mut view, 1050, info(2, Some(PRIMARY), "id1", 150));
    applied(&mut view, 1100, &sealing(3));
    assert_eq!(view.seats[&name()].membership.report, None);
    let done = |info, clean| {
        let outcome = Outcome::Done { info, clean };
        What::Done { group: name(), task: Task::Seal, epoch: Epoch(2), outcome }
    };
    at(&mut view, 1110, done(info(2, Some(NOWHERE), "id1", 160), true));
    let report = view.seats[&name()].membership.report.clone().unwrap();
    assert_eq!((report.next, report.lineage, report.offset), (Epoch(2), Some(Epoch(1)), Offset(160)));
    assert_eq!(view.local.groups[&name()].member_sealed, Epoch(2));
    // §6 trace 15: a full resynchronisation was under way.
    let mut unclean = follower(true);
    applied(&mut unclean, 1100, &sealing(3));
    at(&mut unclean, 1110, done(info(2, Some(NOWHERE), "id1", 160), false));
    assert_eq!(unclean.seats[&name()].membership.report.clone().unwrap().lineage, None);
    // §6 trace 12: another process, and the report is void.
    looked(&mut view, 1200, info(8, Some(NOWHERE), "id1", 160));
    assert_eq!(view.seats[&name()].membership.report, None);
}

/// Found by the simulator, seed 58624: the agent was killed before the attachment of a new process was on disk, and took
/// it, following, for one whose lineage would be proved some day.
#[test]
fn s4_a_follower_counts_as_attached_only_if_that_is_recorded_of_its_process() {
    for (run, following) in [("run2", true), ("run8", false)] {
        let attached = Attached {
            run_id: run.into(),
            epoch: Epoch(1),
            replid: "id1".into(),
            from: "id1".into(),
            home: Some(Epoch(0)),
        };
        let own = LocalGroup { attached: Some(attached), ..LocalGroup::default() };
        let local = Local { longest_lease: LEASE, groups: [(name(), own)].into() };
        let mut view = view(2, &state(3), local, None);
        looked(&mut view, 1050, info(2, Some(PRIMARY), "id1", 150));
        assert_eq!(view.seats[&name()].instance.posture == Posture::Following(Epoch(1)), following, "{run}");
    }
}
