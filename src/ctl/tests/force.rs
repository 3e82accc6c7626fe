//! What is said before a promotion by force.

use super::fixture::{self, Fixture, name};
use crate::cluster::{Epoch, Incumbent, NodeId, Offset, Replid, RunId, Version};
use crate::ctl::force::risks;
use crate::ctl::insist::given_up;
use crate::view::{Evidence, Moment, Renewal, Report, Serving, Slot};
use std::time::Duration;

fn said(fixture: &Fixture, to: u64) -> String {
    risks(&fixture.view, &fixture.decision, &name(), NodeId(to)).join("\n")
}

fn report(node: u64, lineage: Option<u64>, offset: u64, keys: u64) -> Report {
    Report {
        group: name(),
        next: Epoch(4),
        run_id: RunId(format!("r{node}")),
        lineage: lineage.map(Epoch),
        offset: Offset(offset),
        replid: Replid::from("id"),
        keys,
        voided: false,
        evidence: Evidence::default(),
        stopping: false,
    }
}

#[test]
fn a_bootstrap_names_whose_data_goes() {
    let text = given_up(&fixture::no_primary().report(), None, "n2");
    assert!(text.contains("n2's data becomes the group's; what n1, n3 hold that it lacks is given up"), "{text}");
    assert_eq!(given_up(&fixture::no_primary().report(), Some(&"other".into()), "n2"), "");
}

#[test]
fn a_serving_primary_is_better_switched() {
    let text = said(&fixture::trio(), 2);
    assert!(text.contains("`mainstay switchover --to n2` would lose nothing"), "{text}");
    let behind = said(&fixture::trio(), 3);
    assert!(behind.contains("n3 lacks up to 14 bytes that n1 held"), "{behind}");
}

#[test]
fn what_is_missing_is_named_with_its_size() {
    let mut fixture = fixture::no_primary();
    fixture.silent(2, Duration::from_secs(12));
    fixture.seat().reports.insert(NodeId(3), report(3, Some(2), 100, 7));
    let text = said(&fixture, 3);
    assert!(text.contains("n2 is not heard for 12.0 s: writes that only it holds are lost"), "{text}");
    assert!(text.contains("the data of n3 is 1 epoch older than that of n2"), "{text}");
    assert!(text.contains("n1 tells nothing of its data"), "its instance is dead: {text}");
    assert!(!text.contains("switchover"), "{text}");
}

#[test]
fn an_empty_unproved_or_half_replaced_target_is_called_that() {
    let mut fixture = fixture::no_primary();
    fixture.seat().reports.insert(NodeId(3), report(3, None, 100, 0));
    let text = said(&fixture, 3);
    assert!(text.contains("n3 is EMPTY") && text.contains("nothing proves"), "{text}");
    let half = crate::view::Report { voided: true, ..report(3, None, 100, 5) };
    fixture.seat().reports.insert(NodeId(3), half);
    let text = said(&fixture, 3);
    assert!(text.contains("half of anything") && !text.contains("EMPTY"), "{text}");
    fixture.silent(3, Duration::from_secs(12));
    assert!(said(&fixture, 3).contains("it cannot be promoted before it answers"));
}

/// Who fell silent a moment ago may be dead already, though status does not call it down yet.
#[test]
fn a_short_silence_is_named_too() {
    let mut fixture = fixture::trio();
    fixture.silent(2, Duration::from_millis(1100));
    let text = said(&fixture, 3);
    assert!(text.contains("n2 is not heard for 1.1 s: writes that only it holds are lost"), "{text}");
    assert!(said(&fixture, 2).contains("n2 itself is not heard for 1.1 s"), "of the named one, too");
}

/// A former primary that was started anew proves nothing, and may still hold the newest writes.
#[test]
fn data_of_an_earlier_epoch_is_called_that_though_nobody_proves_a_later_one() {
    let mut fixture = fixture::no_primary();
    fixture.seat().reports.insert(NodeId(3), report(3, Some(2), 63, 7));
    fixture.seat().reports.insert(NodeId(2), report(2, None, 94, 9));
    let text = said(&fixture, 3);
    assert!(text.contains("the data of n3 is of epoch 2, and the group came to epoch 3"), "{text}");
    assert!(text.contains("nothing proves which epoch the data of n2 belongs to: it may hold what n3 lacks"), "{text}");
}

/// The primary's last renewal speaks of the instance before; started anew, it may hold more than it said then, or less.
#[test]
fn what_a_primary_said_before_its_restart_proves_nothing_now() {
    let mut fixture = fixture::no_primary();
    fixture.group(|group| group.primary = Some(Incumbent { node: NodeId(2), run_id: RunId::from("before") }));
    let now = fixture.view.now;
    let serving = |offset| Serving {
        replid: Replid::from("id"),
        replid2: Replid::default(),
        offset: Offset(offset),
        followers: std::collections::BTreeMap::new(),
        backlog: Offset(1),
        full: Slot::default(),
    };
    let renewal = |offset| Renewal {
        group: name(),
        epoch: Epoch(3),
        sent_at: Moment(0),
        lease: Duration::from_millis(800),
        left: Duration::ZERO,
        version: Version(20),
        guardians: Version(0),
        serving: Some(serving(offset)),
    };
    fixture.seat().reports.insert(NodeId(3), report(3, Some(3), 129, 7));
    fixture.seat().reports.insert(NodeId(2), report(2, None, 0, 9));
    fixture.seat().renewal = Some((now, renewal(93)));
    let text = said(&fixture, 3);
    assert!(text.contains("nothing proves which epoch the data of n2 belongs to: it may hold what n3 lacks"), "{text}");
    fixture.seat().reports.insert(NodeId(2), report(2, None, 0, 0));
    let text = said(&fixture, 3);
    assert!(text.contains("n2 came back empty: what it acknowledged and n3 does not hold is lost"), "{text}");
    fixture.group(|group| group.followers.clear());
    fixture.group(|group| group.primary = Some(Incumbent { node: NodeId(1), run_id: RunId::from("r1") }));
    assert!(!said(&fixture, 3).contains("n2"), "a newcomer that never counted");
    fixture.group(|group| group.primary = Some(Incumbent { node: NodeId(2), run_id: RunId::from("before") }));
    fixture.seat().renewal = Some((now, renewal(193)));
    let text = said(&fixture, 3);
    assert!(text.contains("n3 lacks up to 64 bytes that n2 held when last heard"), "{text}");
}
