//! Clusters as one node sees them, built by hand so that nothing but the report is under test.

use crate::cluster::{
    Change, Durability, Epoch, Follower, Group, GroupName, Guarantee, Incarnation, Incumbent, Local, Member, Node,
    NodeId, Offset, Phase, RunId, State, Version, Why,
};
use crate::ctl::report::StatusReport;
use crate::ctl::status::{HostFacts, RaftFacts, status};
use crate::decide::{Decision, Reason};
use crate::view::{Health, Info, Leadership, Moment, Peer, Posture, Seat, View};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub(super) const LEASE: Duration = Duration::from_millis(800);
const NOW: Moment = Moment(1_000_000_000_000);

pub(super) struct Fixture {
    pub(super) view: View,
    pub(super) decision: Decision,
    pub(super) raft: RaftFacts,
    pub(super) host: HostFacts,
}

pub(super) fn name() -> GroupName {
    GroupName::from("mymaster")
}

impl Fixture {
    pub(super) fn report(&self) -> StatusReport {
        status(&self.view, &self.decision, &self.raft, &self.host)
    }

    pub(super) fn seat(&mut self) -> &mut Seat {
        self.view.seats.get_mut(&name()).expect("the fixture has this group")
    }

    pub(super) fn change(&mut self, change: impl FnOnce(&mut State)) {
        let mut state = (*self.view.state).clone();
        change(&mut state);
        self.view.state = Arc::new(state);
    }

    pub(super) fn group(&mut self, change: impl FnOnce(&mut Group)) {
        self.change(|state| change(state.groups.get_mut(&name()).expect("the fixture has this group")));
    }

    /// The node was last heard so long ago.
    pub(super) fn silent(&mut self, node: u64, length: Duration) {
        let heard = Some(NOW - length);
        self.view.peers.insert(NodeId(node), Peer { heard, ..Peer::default() });
        self.raft.reachable.insert(NodeId(node), false);
    }

    pub(super) fn health(&mut self, node: u64, change: impl FnOnce(&mut Health)) {
        change(self.seat().health.get_mut(&NodeId(node)).expect("the fixture has this node"));
    }

    /// A node more, heard just now.
    pub(super) fn add_node(&mut self, node: u64) {
        self.change(|state| {
            state.nodes.insert(NodeId(node), record(node));
        });
        self.view.peers.insert(NodeId(node), Peer { heard: Some(NOW), link: true, ..Peer::default() });
    }
}

fn record(node: u64) -> Node {
    Node {
        name: format!("n{node}"),
        address: format!("10.0.0.{node}:7400"),
        incarnation: Incarnation(u128::from(node)),
        introduced: true,
    }
}

fn following(offset: u64) -> Health {
    Health {
        group: name(),
        epoch: Epoch(3),
        posture: "following".to_owned(),
        offset: Some(Offset(offset)),
        lineage: Some(Epoch(3)),
        reason: "following n1".to_owned(),
        vip: false,
        full: false,
        note: String::new(),
        vip_trouble: String::new(),
    }
}

fn state() -> State {
    let mut group = Group::new(Durability::Available);
    group.epoch = Epoch(3);
    group.version = Version(20);
    group.phase = Phase::Stable;
    group.primary = Some(Incumbent { node: NodeId(1), run_id: RunId::from("r1") });
    group.quorum = 2;
    for node in 1..=3 {
        let member = Member { announce: format!("10.0.0.{node}:6379"), priority: 100, adopted: true };
        group.members.insert(NodeId(node), member);
    }
    for node in 2..=3 {
        let run_id = RunId(format!("r{node}"));
        group.followers.insert(NodeId(node), Follower { since: Version(18), run_id, leaving: None });
    }
    group.history.push_back(Change {
        cause: None,
        epoch: Epoch(3),
        from: Some(NodeId(2)),
        to: NodeId(1),
        why: Why::InstanceCrashed,
        guarantee: Guarantee::Kept,
        at_unix_ms: 1_700_000_000_000,
        diverged: BTreeMap::new(),
    });
    let mut state = State { lease: LEASE, next_node: NodeId(4), ..State::default() };
    state.nodes = (1..=3).map(|node| (NodeId(node), record(node))).collect();
    state.guardians.now = (1..=3).map(NodeId).collect();
    state.groups.insert(name(), group);
    state
}

/// n1 serves epoch 3 and leads, n2 and n3 follow; seen by n1.
pub(super) fn trio() -> Fixture {
    let started = NOW - Duration::from_secs(100);
    let state = Arc::new(state());
    let mut view = View::new(NodeId(1), started, state, Local::default(), &BTreeMap::new(), [name()].into());
    view.now = NOW;
    view.unix_ms = 1_700_000_000_000 + 250_000;
    view.leadership =
        Leadership { term: 7, leader: Some(NodeId(1)), leading: true, voters: (1..=3).map(NodeId).collect() };
    for node in 2..=3 {
        view.peers
            .insert(NodeId(node), Peer { heard: Some(NOW - Duration::from_millis(90)), link: true, ..Peer::default() });
    }
    let seat = view.seats.get_mut(&name()).expect("the state has this group");
    seat.lease.promised = (1..=3).map(|node| (NodeId(node), NOW + LEASE)).collect();
    seat.instance.posture = Posture::Serving(Epoch(3));
    let info = Info { run_id: RunId::from("r1"), primary: true, offset: Offset(1_204_331), ..Info::default() };
    seat.instance.info = Some((NOW, info));
    seat.vip.held = true;
    seat.health.insert(NodeId(2), following(1_204_331));
    seat.health.insert(NodeId(3), following(1_204_317));
    let mut decision = Decision::default();
    decision.reasons.insert(name(), Reason::Serving);
    let raft = RaftFacts {
        term: 7,
        leader: Some(NodeId(1)),
        voters: (1..=3).map(NodeId).collect(),
        reachable: (2..=3).map(|node| (NodeId(node), true)).collect(),
        ..RaftFacts::default()
    };
    let host = HostFacts { vips: [(name(), "10.0.0.100/24".to_owned())].into(), warnings: Vec::new() };
    Fixture { view, decision, raft, host }
}

/// The trio whose primary's instance crashed: sealed for epoch 4, n3 has not reported yet.
pub(super) fn no_primary() -> Fixture {
    let mut fixture = trio();
    fixture.group(|group| group.phase = Phase::Sealing { next: Epoch(4), why: Why::InstanceCrashed, to: None });
    let seat = fixture.seat();
    seat.instance.info = None;
    seat.instance.posture = Posture::Unknown;
    seat.vip.held = false;
    for health in seat.health.values_mut() {
        health.posture = "sealed".to_owned();
        health.reason = "sealed for epoch 4".to_owned();
    }
    fixture.decision.reasons.insert(name(), Reason::Surrendered(Why::InstanceCrashed));
    fixture.decision.waits.insert(name(), Reason::AwaitingReports(vec!["n3".to_owned()]));
    fixture
}

/// The trio with a fourth node, which stays a learner.
pub(super) fn learner() -> Fixture {
    let mut fixture = trio();
    fixture.add_node(4);
    fixture.raft.learners = [NodeId(4)].into();
    fixture.group(|group| {
        let member = Member { announce: "10.0.0.4:6379".to_owned(), priority: 0, adopted: true };
        group.members.insert(NodeId(4), member);
        group.followers.insert(NodeId(4), Follower { since: Version(19), run_id: RunId::from("r4"), leaving: None });
    });
    fixture.seat().health.insert(NodeId(4), following(1_204_331));
    fixture
}

/// Two members and n3 without an instance.
pub(super) fn witness() -> Fixture {
    let mut fixture = trio();
    fixture.group(|group| {
        group.members.remove(&NodeId(3));
        group.followers.remove(&NodeId(3));
    });
    fixture.health(3, |health| {
        health.posture = "witness".to_owned();
        health.offset = None;
        health.lineage = None;
        health.reason = "witness: no instance here".to_owned();
    });
    fixture
}

/// The trio while an operator works on it.
pub(super) fn paused() -> Fixture {
    let mut fixture = trio();
    fixture.group(|group| {
        let reason = "kernel upgrade on n3".to_owned();
        group.pause = Some(crate::cluster::Pause { length: Some(Duration::from_secs(600)), reason });
    });
    fixture.seat().pause_seen = Some(NOW - Duration::from_secs(30));
    fixture
}

/// The trio without n3.
pub(super) fn node_down() -> Fixture {
    let mut fixture = trio();
    fixture.silent(3, Duration::from_millis(3200));
    fixture
}
