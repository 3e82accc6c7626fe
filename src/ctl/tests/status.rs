//! What counts as healthy, what is said of a silent node, and the keys that scripts drive.

use super::fixture::{self, LEASE, name};
use crate::cluster::{Epoch, NodeId, Offset, Phase, Why};
use crate::ctl::report::{Health, PhaseWord, PostureWord, Role};
use std::time::Duration;

#[test]
fn the_stable_keys_are_there() {
    let json = serde_json::to_value(fixture::trio().report()).expect("a report is JSON");
    assert_eq!(json["node"], "n1");
    assert_eq!(json["leader"], "n1");
    assert_eq!(json["term"], 7);
    let group = &json["groups"][0];
    assert_eq!(group["name"], "mymaster");
    assert_eq!(group["epoch"], 3);
    assert_eq!(group["phase"], "stable");
    assert_eq!(group["primary"], "n1");
    assert_eq!(group["vip"], "10.0.0.100/24");
    assert_eq!(group["vip_holder"], "n1");
    assert_eq!(group["paused"], false);
    let postures: Vec<&str> = (0..3).filter_map(|row| group["instances"][row]["posture"].as_str()).collect();
    assert_eq!(postures, ["serving", "following", "following"]);
    let row = &group["instances"][2];
    assert_eq!(row["node"], "n3");
    assert_eq!(row["offset"], 1_204_317);
    assert_eq!(row["lag_bytes"], 14);
    assert_eq!(row["lineage"], 3);
    assert_eq!(row["priority"], 100);
    assert_eq!(row["reason"], "following n1");
    let node = &json["nodes"][1];
    assert_eq!(node["name"], "n2");
    assert_eq!(node["address"], "10.0.0.2:7400");
    assert_eq!(node["role"], "voter");
    assert_eq!(node["reachable"], true);
}

#[test]
fn a_trio_that_lacks_nothing_is_healthy() {
    let report = fixture::trio().report();
    assert_eq!((report.health, report.exit_code()), (Health::Healthy, 0));
    assert!(report.problems.is_empty() && report.groups[0].problems.is_empty());
    assert_eq!(fixture::witness().report().exit_code(), 0);
    assert_eq!(fixture::learner().report().exit_code(), 0);
    assert_eq!(fixture::paused().report().exit_code(), 0);
}

#[test]
fn each_lack_degrades() {
    type Lack = fn(&mut fixture::Fixture);
    let lacks: [(&str, Lack); 6] = [
        ("VIP", |f| f.seat().vip.held = false),
        ("lease", |f| f.seat().lease.promised.clear()),
        ("lineage", |f| f.health(2, |health| health.lineage = None)),
        ("follower", |f| f.health(3, |health| health.posture = "sealed".to_owned())),
        ("link", |f| {
            f.raft.reachable.insert(NodeId(2), false);
        }),
        ("one VIP", |f| f.health(2, |health| health.vip = true)),
    ];
    for (what, lack) in lacks {
        let mut fixture = fixture::trio();
        lack(&mut fixture);
        let report = fixture.report();
        assert_eq!(report.exit_code(), 1, "{what}");
        let problems = report.problems.len() + report.groups[0].problems.len();
        assert!(problems > 0, "{what} has no words");
    }
}

/// Until all hold what it may have acknowledged, one more loss is one too many: nobody should call that healthy.
#[test]
fn who_left_without_proof_degrades_until_it_is_settled() {
    let mut fixture = fixture::trio();
    fixture.group(|group| {
        let announce = "10.0.0.3:6379".to_owned();
        group.departed.insert(NodeId(3), crate::cluster::Departed { since: group.version, announce });
    });
    assert_eq!(fixture.report().health, Health::Healthy, "it follows again");
    fixture.group(|group| drop(group.followers.remove(&NodeId(3))));
    let report = fixture.report();
    assert_eq!(report.health, Health::Degraded);
    assert!(report.groups[0].problems[0].starts_with("what n3 may have acknowledged"), "{report:?}");
}

#[test]
fn of_two_that_hold_the_vip_the_primary_is_named() {
    let mut fixture = fixture::trio();
    fixture.health(2, |health| health.vip = true);
    fixture.group(|group| group.primary.as_mut().expect("it has one").node = NodeId(2));
    assert_eq!(fixture.report().groups[0].vip_holder.as_deref(), Some("n2"));
    fixture.group(|group| group.primary.as_mut().expect("it has one").node = NodeId(3));
    assert_eq!(fixture.report().groups[0].vip_holder.as_deref(), Some("n1"));
}

#[test]
fn a_silent_node_is_down_whatever_it_said_last() {
    let mut fixture = fixture::trio();
    fixture.silent(3, LEASE * 2);
    let row = fixture.report().groups[0].instances[2].clone();
    assert_eq!(row.posture, PostureWord::Following);
    fixture.silent(3, Duration::from_millis(3200));
    fixture.health(3, |health| health.vip = true);
    let report = fixture.report();
    let row = &report.groups[0].instances[2];
    assert_eq!((row.posture, row.offset, row.lag_bytes, row.vip), (PostureWord::Down, None, None, false));
    assert_eq!(row.reason, "not heard for 3.2 s; was following");
    assert!(!report.nodes[2].reachable);
    assert_eq!(report.exit_code(), 1);
}

#[test]
fn a_node_whose_link_is_up_but_who_is_silent_is_not_reached() {
    let mut fixture = fixture::trio();
    fixture.silent(3, Duration::from_secs(5));
    fixture.raft.reachable.insert(NodeId(3), true);
    assert!(!fixture.report().nodes[2].reachable);
}

#[test]
fn a_sealed_group_has_no_primary_but_remembers_it() {
    let report = fixture::no_primary().report();
    let group = &report.groups[0];
    assert_eq!(group.primary, None);
    assert_eq!(group.last_primary.as_deref(), Some("n1"));
    assert_eq!(group.phase, PhaseWord::Sealing);
    assert_eq!(group.waits.as_deref(), Some("waiting for reports from n3"));
    assert_eq!(report.exit_code(), 1);
}

#[test]
fn a_follower_of_raft_tells_itself_what_is_waited_for() {
    let mut fixture = fixture::no_primary();
    fixture.decision.waits.clear();
    fixture.raft.leader = Some(NodeId(2));
    fixture.view.leadership.leading = false;
    let waits = fixture.report().groups[0].waits.clone().unwrap_or_default();
    assert!(waits.contains("n2") && waits.contains("promises"), "{waits}");
    fixture.raft.leader = None;
    let waits = fixture.report().groups[0].waits.clone().unwrap_or_default();
    assert!(waits.contains("majority"), "{waits}");
}

#[test]
fn a_leader_nobody_answers_is_no_leader() {
    let mut fixture = fixture::trio();
    fixture.view.leadership.leading = false;
    let report = fixture.report();
    assert_eq!((report.leader.as_deref(), report.exit_code()), (None, 2));
    fixture.raft.leader = Some(NodeId(2));
    assert_eq!(fixture.report().leader.as_deref(), Some("n2"));
    fixture.silent(2, Duration::from_secs(3));
    let report = fixture.report();
    assert_eq!((report.leader.as_deref(), report.exit_code()), (None, 2));
    assert!(report.problems[0].contains("n2 is not heard for 3.0 s"), "{:?}", report.problems);
    fixture.raft.leader = None;
    assert!(fixture.report().problems[0].contains("2 of the 3 voters (n1, n2, n3)"));
}

#[test]
fn a_learner_says_why() {
    let report = fixture::learner().report();
    let node = &report.nodes[3];
    assert_eq!(node.role, Role::Learner);
    assert_eq!(node.reason, "a 4th voter would make the number even: the next node makes both voters");
    let mut fixture = fixture::learner();
    fixture.raft.voters = [NodeId(1)].into();
    fixture.raft.learners = [NodeId(2), NodeId(4)].into();
    assert!(fixture.report().nodes[1].reason.starts_with("a 2nd voter"));
    fixture.raft.learner_reasons.insert(NodeId(2), "lags by 900 entries".to_owned());
    assert_eq!(fixture.report().nodes[1].reason, "lags by 900 entries");
}

#[test]
fn two_that_say_they_serve_are_named() {
    let mut fixture = fixture::trio();
    fixture.health(2, |health| health.posture = "serving".to_owned());
    let problems = &fixture.report().groups[0].problems;
    assert!(problems.iter().any(|problem| problem == "n1 and n2 each say that they serve"), "{problems:?}");
}

#[test]
fn a_switchover_under_way_is_said() {
    let mut fixture = fixture::trio();
    fixture.group(|group| group.phase = Phase::Switching { to: NodeId(2), why: Why::Operator });
    let report = fixture.report();
    assert_eq!(report.groups[0].reason, "n1 is handing over to n2");
    assert_eq!((report.groups[0].phase, report.exit_code()), (PhaseWord::Switching, 1));
}

#[test]
fn one_group_alone_decides_the_exit_code() {
    let mut fixture = fixture::trio();
    let other = crate::cluster::GroupName::from("other");
    fixture.change(|state| {
        let group = state.groups[&name()].clone();
        state.groups.insert(other.clone(), group);
    });
    let report = fixture.report();
    assert_eq!(report.exit_code(), 1, "nobody has said anything of the other group");
    assert_eq!(report.clone().only(&name()).map(|report| report.exit_code()), Some(0));
    assert_eq!(report.clone().only(&other).map(|report| report.exit_code()), Some(1));
    assert!(report.only(&"none".into()).is_none());
}

#[test]
fn a_lag_is_never_negative() {
    let mut fixture = fixture::trio();
    fixture.health(2, |health| health.offset = Some(Offset(2_000_000)));
    assert_eq!(fixture.report().groups[0].instances[1].lag_bytes, Some(0));
}

#[test]
fn a_report_of_another_version_is_still_read() {
    let mut json = serde_json::to_value(fixture::trio().report()).expect("a report is JSON");
    json["a_key_of_tomorrow"] = 1.into();
    let group = json["groups"][0].as_object_mut().expect("a group is an object");
    for key in ["reason", "problems", "changes", "quorum", "reports_needed", "followers", "durability"] {
        group.remove(key);
    }
    let read: crate::ctl::report::StatusReport = serde_json::from_value(json).expect("it is read");
    assert_eq!(read.groups[0].epoch, Epoch(3));
}
