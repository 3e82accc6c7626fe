//! What ends the agent by itself: a Raft that has stopped, or members that turn this node away and still do after a
//! while.
//!
//! Restarted, it tries its disk, or the cluster, anew. It must never end while it serves: a lease that is being renewed
//! needs no Raft, and a host that serves is worth more than a log (S1).

use crate::raft::Formation;
use crate::view::View;
use std::time::Duration;
use tokio::time::Instant;

/// How long members may turn this node away before the agent ends: one of them may be new itself.
const TURNED_AWAY: Duration = Duration::from_secs(5);

/// Why the agent is to end, and from when on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ending {
    from: Instant,
    why: String,
    superseded: bool,
}

impl Ending {
    /// What the standing of this node in the cluster calls for.
    pub(super) fn of(formation: Formation, now: Instant) -> Option<Self> {
        match formation {
            Formation::Failed { why } => {
                Some(Self { from: now, why: format!("Raft has stopped: {why}"), superseded: false })
            }
            Formation::Refused { why } => Some(Self { from: now + TURNED_AWAY, why, superseded: false }),
            Formation::Superseded { why } => Some(Self { from: now, why, superseded: true }),
            Formation::Waiting { .. } | Formation::Member { .. } => None,
        }
    }

    /// In words.
    pub(super) fn why(&self) -> &str {
        &self.why
    }

    /// Whether the cluster went on without this node.
    pub(super) fn superseded(&self) -> bool {
        self.superseded
    }

    /// Whether it is time, and nothing is served here. Nor is a healthy group broken up by a node that was told in error
    /// to go on alone.
    pub(super) fn is_due(&self, view: &View, now: Instant) -> bool {
        now >= self.from && !serves(view) && !(self.superseded && hears_a_primary(view))
    }
}

/// Whether this host serves a group.
pub(super) fn serves(view: &View) -> bool {
    view.mine.iter().any(|name| view.lease_live(name))
}

fn hears_a_primary(view: &View) -> bool {
    view.seats.iter().any(|(name, seat)| view.group(name).is_some_and(|group| view.serving_heard(seat, group)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{
        Command, Durability, Epoch, GroupCommand, GroupIntro, GroupName, Guarantee, GuardianChange, Incarnation, Local,
        Node, NodeId, Offset, RunId, State,
    };
    use crate::view::{Event, Moment, Stamp, What};
    use std::collections::BTreeMap;
    use std::sync::Arc;

    const LEASE: Duration = Duration::from_millis(800);

    /// One node, promoted, with its lease stamped until 1.5 s.
    fn serving() -> View {
        let (id, group, run_id) = (NodeId(1), GroupName::from("g"), RunId::from("run1"));
        let mut state = State::default();
        let (name, address) = ("n1".to_owned(), "h:1".to_owned());
        let record = Node { name, address: address.clone(), incarnation: Incarnation(1), introduced: false };
        state.apply(&Command::AddNode { node: id, record }).unwrap();
        state.apply(&Command::Guardians(GuardianChange::Begin { next: [id].into() })).unwrap();
        let announce = "h:2".to_owned();
        let intro = GroupIntro { group: group.clone(), announce, priority: 1, durability: Durability::Available };
        state.apply(&Command::Introduce { node: id, address, lease: LEASE, groups: vec![intro] }).unwrap();
        let change = GroupCommand::Promote {
            successor: id,
            run_id: run_id.clone(),
            start: Offset(0),
            data: None,
            guarantee: Guarantee::Fresh,
            at_unix_ms: 0,
        };
        let expect = state.groups[&group].expect();
        state.apply(&Command::Group { group: group.clone(), expect, change }).unwrap();
        let stamp = Stamp::Leased { epoch: Epoch(1), run_id, until: Moment(1_500_000_000) };
        let stamps = BTreeMap::from([(group.clone(), stamp)]);
        View::new(id, Moment(1_000_000_000), Arc::new(state), Local::default(), &stamps, [group].into())
    }

    fn at(view: &mut View, ms: u64) {
        view.observe(Event { at: Moment(ms * 1_000_000), what: What::Tick { unix_ms: 0 } });
    }

    #[tokio::test]
    async fn a_serving_agent_does_not_end_whatever_becomes_of_raft() {
        let now = Instant::now();
        let why = || "disk".to_owned();
        for (formation, wait) in
            [(Formation::Failed { why: why() }, Duration::ZERO), (Formation::Refused { why: why() }, TURNED_AWAY)]
        {
            let ending = Ending::of(formation, now).unwrap();
            assert!(ending.why().contains("disk"));
            let mut view = serving();
            assert!(!ending.is_due(&view, now + Duration::from_secs(60)), "it serves");
            at(&mut view, 1501);
            assert!(ending.is_due(&view, now + wait), "it serves nothing any more");
            assert_eq!(ending.is_due(&view, now), wait.is_zero(), "who is turned away waits for a second word");
        }
        assert_eq!(Ending::of(Formation::Member { id: NodeId(1) }, now), None, "taken back in");
    }
}
