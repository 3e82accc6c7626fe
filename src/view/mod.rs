//! What one node knows: events folded into a [`View`], hysteresis included.
//!
//! `observe` folds; it never acts, reads no clock and draws no random number: the same events give the same view. What
//! depends on time alone (a promise that runs out while the group is being sealed) is settled with the time that the
//! next event carries. The one thing it holds that no message may contradict is [`View::local`], which
//! [`crate::decide`] has saved before anything that depends on it is said.
//!
//! Upholds S1 (lease counted from when the answered renewal was sent), S2 (promises, seals, surrender), S4 and S5
//! (lineage), S7 (crash, hang, loading and busy told apart).

mod applied;
mod diverge;
mod event;
mod evidence;
mod flap;
mod fold;
mod full;
mod holder;
mod leave;
mod lineage;
mod moment;
mod seat;
mod settle;
mod unit;

pub use diverge::{counts_writes, loss_text};
pub use event::{
    Event, Evidence, Health, Info, Item, Leadership, Noted, Outcome, Renewal, ReplicaRow, Report, Serving, Sight, Slot,
    Task, Topic, VipSight, What,
};
pub use flap::Faults;
pub use holder::Word;
pub use moment::Moment;
pub use seat::{Condition, Instance, Lease, Membership, Posture, Promise, RemoteSeal, Seat, VipState};
pub use settle::FollowTarget;
pub use unit::{Unit, UnitSight};

use crate::cluster::{Epoch, Group, GroupName, Local, NodeId, RunId, State, Why};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// What the stamp beside the control socket said at start (S1, S2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stamp {
    /// The agent before this one held the lease until then.
    Leased {
        /// The epoch.
        epoch: Epoch,
        /// The process that served.
        run_id: RunId,
        /// The end of the lease on this host's CLOCK_BOOTTIME, same boot.
        until: Moment,
    },
    /// It gave the epoch up.
    Surrendered {
        /// The epoch.
        epoch: Epoch,
    },
}

/// No event for so long: the agent itself stood still, for of a silent instance it hears five times a second.
const STALL: Duration = Duration::from_millis(500);

/// One node's knowledge.
#[derive(Debug, Clone)]
pub struct View {
    /// This node.
    pub me: NodeId,
    /// When the agent started.
    pub started: Moment,
    /// The time of the last event.
    pub now: Moment,
    /// The wall clock at the last tick, for people only.
    pub unix_ms: u64,
    /// The applied state.
    pub state: Arc<State>,
    /// What Raft says.
    pub leadership: Leadership,
    /// This node's durable record as it should be.
    pub local: Local,
    /// The record that is on disk.
    pub saved: Local,
    /// The record being written.
    pub saving: Option<Local>,
    /// Peers.
    pub peers: BTreeMap<NodeId, Peer>,
    /// The groups.
    pub seats: BTreeMap<GroupName, Seat>,
    /// The leader's poll.
    pub poll: Option<Poll>,
    /// The polls to answer.
    pub polled: BTreeMap<NodeId, u64>,
    /// Proposals made: until when the topic is not proposed on again.
    pub proposed: BTreeMap<Topic, Moment>,
    /// Something was learnt that the peers wait for.
    pub urgent: bool,
    /// When the regular message went out.
    pub told_at: Option<Moment>,
    /// The agent is to stop.
    pub stopping: Option<Moment>,
    /// Groups this node has an instance of, by its file.
    pub mine: BTreeSet<GroupName>,
    /// Groups whose diverged data this node saves before its instance follows, by its file (S11).
    pub quarantine: BTreeSet<GroupName>,
    /// Where Sentinel clients reach this agent, `host:port`, if it has such an endpoint.
    pub sentinel: Option<String>,
}

/// A peer.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    /// When it was last heard.
    pub heard: Option<Moment>,
    /// Whether the connection is up.
    pub link: bool,
    /// Where Sentinel clients reach its agent, as it says.
    pub sentinel: Option<String>,
}

/// The leader's question whether anybody holds a live promise (S3).
#[derive(Debug, Clone, Default)]
pub struct Poll {
    /// Tells answers apart.
    pub id: u64,
    /// When it was sent.
    pub sent_at: Moment,
    /// Guardians that said they hold none, by group and epoch.
    pub vacant: BTreeMap<(GroupName, Epoch), BTreeSet<NodeId>>,
}

impl View {
    /// A node that just started, with what its disk and its stamp say.
    pub fn new(
        me: NodeId,
        started: Moment,
        state: Arc<State>,
        local: Local,
        stamps: &BTreeMap<GroupName, Stamp>,
        mine: BTreeSet<GroupName>,
    ) -> Self {
        let mut view = Self {
            me,
            started,
            now: started,
            unix_ms: 0,
            state: Arc::default(),
            leadership: Leadership::default(),
            saved: local.clone(),
            local,
            saving: None,
            peers: BTreeMap::new(),
            seats: BTreeMap::new(),
            poll: None,
            polled: BTreeMap::new(),
            proposed: BTreeMap::new(),
            urgent: false,
            told_at: None,
            stopping: None,
            mine,
            quarantine: BTreeSet::new(),
            sentinel: None,
        };
        for (name, group) in &state.groups {
            view.seats.insert(name.clone(), restarted_seat(me, started, state.lease, group, stamps.get(name)));
        }
        for name in stamps.keys().chain(view.mine.iter()) {
            view.seats.entry(name.clone()).or_default();
        }
        view.state = state;
        view.settle();
        view
    }

    /// Folds one event.
    pub fn observe(&mut self, event: Event) {
        let gap = event.at.since(self.now);
        if gap >= STALL {
            self.forgive(gap);
        }
        self.now = self.now.max(event.at);
        self.fold(event.what);
        self.settle();
    }

    /// S7: while this agent itself stood still nobody was asked, so that time is no silence.
    fn forgive(&mut self, gap: Duration) {
        for seat in self.seats.values_mut() {
            if let Condition::Silent { still: Some(since) } = &mut seat.instance.condition {
                *since = *since + gap;
            }
        }
    }

    /// The replicated part of a group.
    pub fn group(&self, name: &GroupName) -> Option<&Group> {
        self.state.groups.get(name)
    }

    /// The replicated lease; before any is set, nothing is renewed.
    pub fn lease(&self) -> Duration {
        self.state.lease
    }

    /// Until when this restarted guardian seals nothing, having forgotten what it promised (S2).
    pub fn silent_until(&self) -> Moment {
        self.started + self.saved.longest_lease
    }

    /// The end of this node's lease on a group, if it is the primary of its epoch and has one (S1).
    pub fn lease_end(&self, name: &GroupName) -> Option<Moment> {
        let group = self.group(name)?;
        let seat = self.seats.get(name)?;
        let counted = seat.lease.counted(name, &self.state.guardians);
        (group.primary_node() == Some(self.me)).then(|| seat.lease.end(group.epoch, &counted)).flatten()
    }

    /// Whether this node may serve the group now: the one question safety hangs on (S1, S2, S6).
    pub fn lease_live(&self, name: &GroupName) -> bool {
        self.lease_end(name).is_some_and(|end| end > self.now)
    }

    /// Names of nodes, for people.
    pub fn name_of(&self, node: NodeId) -> String {
        self.state.nodes.get(&node).map_or_else(|| format!("node {node}"), |found| found.name.clone())
    }
}

/// S1: found within the stamped lease it carries on; else the epoch it was primary of counts as once held, so that it
/// fences before anything else. S2: a surrender mark is final.
fn restarted_seat(me: NodeId, started: Moment, lease: Duration, group: &Group, stamp: Option<&Stamp>) -> Seat {
    let mut seat = Seat {
        promoted_at: started,
        sealing_at: started,
        sealed_at: None,
        switching_at: started,
        forced_at: started,
        ..Seat::default()
    };
    seat.membership.lost_at = group.version;
    seat.membership.began = group.version;
    if group.primary_node() != Some(me) {
        return seat;
    }
    seat.lease.epoch = group.epoch;
    seat.lease.held = true;
    seat.lease.counts_both = true;
    seat.membership.inherited = true;
    match stamp {
        Some(Stamp::Surrendered { epoch }) => {
            seat.lease.marked = *epoch;
            seat.lease.fenced = *epoch;
            seat.surrendered = Some((*epoch, Why::LeaseLapsed));
        }
        Some(Stamp::Leased { epoch, run_id, until })
            if *epoch == group.epoch && group.primary.as_ref().is_some_and(|p| p.run_id == *run_id) =>
        {
            seat.lease.stamped = Some((*until).min(started + lease));
            seat.instance.posture = Posture::Serving(*epoch);
        }
        _ => {}
    }
    seat
}

#[cfg(test)]
mod tests;
