//! What the leader does for the membership, a step at a time and each step so that another leader can carry on.
//!
//! The replicated state and Raft's membership are brought together: a node in one is taken into the other; learners
//! that have caught up become voters when their number stays odd; the guardians follow the voters (S12). Numbers are
//! never used again, so what was removed is told from what is not yet known.

use super::message::{JoinReply, JoinRequest};
use super::{Inner, Leadership, Raft, leave, locked};
use crate::cluster::{Command, GuardianChange, Node, NodeId, State};
use crate::store::{Peer, Proposal};
use openraft::ChangeMembers;
use openraft::type_config::async_runtime::watch::WatchReceiver;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{interval, timeout};

/// Entries a learner may lack and still be called caught up: it gets them before its first vote counts.
const CAUGHT_UP: u64 = 16;
/// Between two looks at the membership.
const PACE: Duration = Duration::from_millis(200);

pub(super) async fn run(inner: Arc<Inner>, raft: Raft) {
    let mut tick = interval(PACE.min(inner.timings.lease / 4));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut leadership = inner.leadership.subscribe();
    let mut led = false;
    let mut trouble = None;
    loop {
        tokio::select! {
            _ = tick.tick(), if led => {}
            changed = leadership.changed() => if changed.is_err() { return },
        }
        let leads = leadership.borrow_and_update().leading;
        if !leads {
            led = false;
            continue;
        }
        if !led {
            led = true;
            tracing::info!("this node leads");
        }
        let _alone = inner.changing.lock().await;
        if let Some(step) = next_step(&inner, &raft) {
            if trouble.is_none() {
                tracing::info!(?step, "membership");
            }
            let failed = take(&inner, &raft, step).await.err();
            // Once for each reason, not five times a second.
            if let Some(why) = failed.as_ref().filter(|_| failed != trouble) {
                tracing::warn!(why, "a change of the membership was not done, trying again");
            }
            trouble = failed;
        }
    }
}

/// One change of the membership or of its record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Propose(Command),
    AddLearner(NodeId, Peer),
    Promote(BTreeSet<NodeId>),
    Demote(NodeId),
    Forget(NodeId),
}

/// What a leader knows when it decides on a step.
pub(super) struct Facts<'a> {
    pub(super) state: &'a State,
    pub(super) members: &'a BTreeMap<NodeId, Peer>,
    pub(super) voters: &'a BTreeSet<NodeId>,
    /// Learners that could vote: connected and caught up.
    pub(super) fit: &'a BTreeSet<NodeId>,
    pub(super) leaving: &'a BTreeSet<NodeId>,
}

impl Facts<'_> {
    /// The first thing that is not as it should be.
    pub(super) fn step(&self) -> Option<Step> {
        self.record().or_else(|| self.learner()).or_else(|| self.guardians()).or_else(|| self.promotion())
    }

    /// Members that the state does not know: not yet, in order of their numbers, or not any more.
    fn record(&self) -> Option<Step> {
        let (id, peer) = self.members.iter().find(|(id, _)| !self.state.nodes.contains_key(id))?;
        if *id >= self.state.next_node {
            let record = Node {
                name: peer.name.clone(),
                address: peer.address.clone(),
                incarnation: peer.incarnation,
                introduced: false,
            };
            return Some(Step::Propose(Command::AddNode { node: *id, record }));
        }
        Some(if self.voters.contains(id) { Step::Demote(*id) } else { Step::Forget(*id) })
    }

    fn learner(&self) -> Option<Step> {
        let (id, node) = self.state.nodes.iter().find(|(id, _)| !self.members.contains_key(id))?;
        let peer = Peer { name: node.name.clone(), address: node.address.clone(), incarnation: node.incarnation };
        Some(Step::AddLearner(*id, peer))
    }

    fn guardians(&self) -> Option<Step> {
        let guardians = &self.state.guardians;
        let differ = guardians.next.is_none() && guardians.now != *self.voters;
        differ.then(|| Step::Propose(Command::Guardians(GuardianChange::Begin { next: self.voters.clone() })))
    }

    fn promotion(&self) -> Option<Step> {
        if self.state.guardians.next.is_some() {
            return None;
        }
        let able: Vec<_> = self.fit.difference(self.leaving).copied().collect();
        let most = self.voters.len() + able.len();
        let wanted = if most % 2 == 1 { most } else { most.saturating_sub(1) };
        let more = wanted.saturating_sub(self.voters.len());
        (more > 0).then(|| Step::Promote(able.into_iter().take(more).collect()))
    }
}

fn next_step(inner: &Inner, raft: &Raft) -> Option<Step> {
    let metrics = raft.metrics().borrow_watched().clone();
    let settled = metrics.membership_config == metrics.committed_membership_config;
    let membership = metrics.membership_config.membership();
    if !settled || membership.get_joint_config().len() != 1 {
        return None;
    }
    let members = Inner::members_of(&metrics);
    let voters = membership.voter_ids().collect();
    let leadership = inner.leadership.borrow().clone();
    let fit = membership.learner_ids().filter(|id| is_fit(inner, &leadership, *id)).collect();
    let leaving = locked(&inner.leaving).clone();
    let applied = inner.store.applied();
    let state = applied.borrow().state.clone();
    Facts { state: &state, members: &members, voters: &voters, fit: &fit, leaving: &leaving }.step()
}

fn is_fit(inner: &Inner, leadership: &Leadership, id: NodeId) -> bool {
    inner.peers.is_up(id) && leadership.lag.get(&id).is_some_and(|lag| *lag <= CAUGHT_UP)
}

/// Does one step, within a bound.
pub(super) async fn take(inner: &Inner, raft: &Raft, step: Step) -> Result<(), String> {
    let bound = 4 * inner.timings.lease;
    let done = async {
        match step {
            Step::Propose(command) => {
                let response = raft.client_write(Proposal(command)).await.map_err(|error| error.to_string())?;
                response.data.map_err(|rejection| rejection.to_string())
            }
            Step::AddLearner(id, peer) => {
                raft.add_learner(id, peer, false).await.map(|_| ()).map_err(|error| error.to_string())
            }
            Step::Promote(ids) => change(raft, ChangeMembers::AddVoterIds(ids)).await,
            Step::Demote(id) => change(raft, ChangeMembers::RemoveVoters([id].into())).await,
            Step::Forget(id) => change(raft, ChangeMembers::RemoveNodes([id].into())).await,
        }
    };
    timeout(bound, done).await.unwrap_or_else(|_| Err(format!("not committed within {bound:?}")))
}

async fn change(raft: &Raft, members: ChangeMembers<NodeId, Peer>) -> Result<(), String> {
    raft.change_membership(members, true).await.map(|_| ()).map_err(|error| error.to_string())
}

/// Answers a node that asks to be taken in.
pub(super) async fn take_in(inner: &Arc<Inner>, request: JoinRequest) -> JoinReply {
    let leadership = inner.leadership.borrow().clone();
    let Some(raft) = inner.raft().filter(|_| leadership.leading) else {
        let leader = leadership.leader.filter(|id| Some(*id) != inner.id());
        let members = inner.roster.members();
        return match leader.and_then(|id| members.get(&id)) {
            Some(peer) => JoinReply::GoTo { address: address_of(inner, leader, peer) },
            None => JoinReply::Later { why: format!("{} knows no leader at the moment", inner.name) },
        };
    };
    let state = inner.store.applied().borrow().state.clone();
    let namesake =
        state.nodes.iter().find(|(_, node)| node.name == request.name).map(|(id, node)| (*id, node.incarnation));
    match namesake {
        Some((id, incarnation)) if incarnation != request.incarnation => {
            if inner.peers.is_up(id) || Some(id) == inner.id() {
                let why = format!(
                    "another node named {} is in the cluster and answers; give this one another name",
                    request.name
                );
                return JoinReply::Refused { why };
            }
            tracing::info!(
                name = request.name,
                "a new store joins under the name of a node that is gone: removing that one"
            );
            if let Err(why) = leave::remove(inner, raft, id).await {
                return JoinReply::Later { why: format!("the former {} cannot be removed yet: {why}", request.name) };
            }
        }
        _ => {}
    }
    let _alone = inner.changing.lock().await;
    add(inner, raft, &request).await.unwrap_or_else(|why| JoinReply::Later { why })
}

fn address_of(inner: &Inner, id: Option<NodeId>, peer: &Peer) -> String {
    let state = inner.store.applied().borrow().state.clone();
    let told = id.and_then(|id| state.nodes.get(&id)).map(|node| node.address.clone());
    told.unwrap_or_else(|| peer.address.clone())
}

async fn add(inner: &Inner, raft: &Raft, request: &JoinRequest) -> Result<JoinReply, String> {
    let state = inner.store.applied().borrow().state.clone();
    let metrics = raft.metrics().borrow_watched().clone();
    let members = Inner::members_of(&metrics);
    let (id, recorded) = number_of(&state, &members, request)?;
    if !recorded {
        let record = Node {
            name: request.name.clone(),
            address: request.address.clone(),
            incarnation: request.incarnation,
            introduced: false,
        };
        take(inner, raft, Step::Propose(Command::AddNode { node: id, record })).await?;
    }
    if !members.contains_key(&id) {
        let peer =
            Peer { name: request.name.clone(), address: request.address.clone(), incarnation: request.incarnation };
        take(inner, raft, Step::AddLearner(id, peer)).await?;
    }
    let metrics = raft.metrics().borrow_watched().clone();
    let members = Inner::members_of(&metrics).into_iter().collect();
    Ok(JoinReply::Joined { node_id: id, generation: inner.store.identity().generation, members })
}

/// The number of a node that joins, and whether it is recorded already. A number is given out only when all lower ones
/// are recorded: a founder below it that is not would be taken for one that was removed.
fn number_of(state: &State, members: &BTreeMap<NodeId, Peer>, request: &JoinRequest) -> Result<(NodeId, bool), String> {
    let known =
        state.nodes.iter().find(|(_, node)| node.name == request.name && node.incarnation == request.incarnation);
    if let Some((id, _)) = known {
        return Ok((*id, true));
    }
    if members.values().any(|peer| peer.name == request.name) {
        return Err(format!("{} is being taken in or removed", request.name));
    }
    if members.keys().any(|id| *id >= state.next_node) {
        return Err("the first members are being recorded".to_owned());
    }
    Ok((state.next_node, false))
}

/// Why a node does not vote, for people.
pub(super) fn why_learner(inner: &Inner, id: NodeId) -> Option<String> {
    let leadership = inner.leadership.borrow().clone();
    if !leadership.learners.contains(&id) {
        return None;
    }
    let guardians_busy = inner.store.applied().borrow().state.guardians.next.is_some();
    Some(if guardians_busy {
        "a change of guardians is under way".to_owned()
    } else if leadership.leading && !is_fit(inner, &leadership, id) {
        "it is not connected, or has not caught up".to_owned()
    } else {
        let voters = leadership.voters.len();
        format!(
            "with it the number of voters, {voters} now, would be even, which survives no more failures; it votes once another node joins"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Incarnation;

    fn ids(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    fn peer(id: u64) -> Peer {
        Peer { name: format!("n{id}"), address: format!("h{id}:1"), incarnation: Incarnation(u128::from(id)) }
    }

    fn state(nodes: &[u64], guardians: &[u64]) -> State {
        let mut state = State::default();
        for id in nodes {
            let peer = peer(*id);
            let record =
                Node { name: peer.name, address: peer.address, incarnation: peer.incarnation, introduced: false };
            state.apply(&Command::AddNode { node: NodeId(*id), record }).unwrap();
        }
        if !guardians.is_empty() {
            state.apply(&Command::Guardians(GuardianChange::Begin { next: ids(guardians) })).unwrap();
        }
        state
    }

    fn step(state: &State, members: &[u64], voters: &[u64], fit: &[u64], leaving: &[u64]) -> Option<Step> {
        let members = members.iter().map(|id| (NodeId(*id), peer(*id))).collect();
        Facts { state, members: &members, voters: &ids(voters), fit: &ids(fit), leaving: &ids(leaving) }.step()
    }

    #[test]
    fn a_first_start_is_completed_by_whoever_leads() {
        let mut now = state(&[], &[]);
        let mut names = Vec::new();
        while let Some(Step::Propose(command)) = step(&now, &[1, 2, 3], &[1, 2, 3], &[], &[]) {
            if let Command::AddNode { node, .. } = &command {
                names.push(node.0);
            }
            now.apply(&command).unwrap();
        }
        assert_eq!(names, [1, 2, 3]);
        assert_eq!(now.guardians.now, ids(&[1, 2, 3]));
        assert_eq!(step(&now, &[1, 2, 3], &[1, 2, 3], &[], &[]), None);
    }

    /// One that asks to join while a first start is being recorded must not make the founders look removed.
    #[test]
    fn who_joins_waits_until_the_founders_are_recorded() {
        let members = [1, 2, 3].map(|id| (NodeId(id), peer(id))).into();
        let request = JoinRequest { name: "n4".into(), address: "h4:1".into(), incarnation: Incarnation(4) };
        for recorded in [&[][..], &[1], &[1, 2]] {
            assert!(number_of(&state(recorded, &[]), &members, &request).is_err(), "{recorded:?}");
        }
        assert_eq!(number_of(&state(&[1, 2, 3], &[]), &members, &request), Ok((NodeId(4), false)));
        assert_eq!(number_of(&state(&[1, 2, 3, 4], &[]), &members, &request), Ok((NodeId(4), true)));
        let members = [1, 2, 3, 4].map(|id| (NodeId(id), peer(id))).into();
        assert!(number_of(&state(&[1, 2, 3], &[]), &members, &request).is_err(), "half removed");
    }

    #[test]
    fn voters_stay_odd() {
        let three = state(&[1, 2, 3], &[1]);
        assert_eq!(step(&three, &[1, 2, 3], &[1], &[2], &[]), None);
        assert_eq!(step(&three, &[1, 2, 3], &[1], &[2, 3], &[]), Some(Step::Promote(ids(&[2, 3]))));
        assert_eq!(step(&three, &[1, 2, 3], &[1], &[2, 3], &[3]), None);
        let four = state(&[1, 2, 3, 4], &[1, 2, 3]);
        assert_eq!(step(&four, &[1, 2, 3, 4], &[1, 2, 3], &[4], &[]), None);
        let five = state(&[1, 2, 3, 4, 5], &[1, 2, 3]);
        assert_eq!(step(&five, &[1, 2, 3, 4, 5], &[1, 2, 3], &[4, 5], &[]), Some(Step::Promote(ids(&[4, 5]))));
        let after_a_loss = state(&[1, 2, 4], &[1, 2]);
        assert_eq!(step(&after_a_loss, &[1, 2, 4], &[1, 2], &[4], &[]), Some(Step::Promote(ids(&[4]))));
    }

    #[test]
    fn guardians_follow_before_anybody_else_is_promoted() {
        let mut now = state(&[1, 2, 3], &[1]);
        let begin = step(&now, &[1, 2, 3], &[1, 2, 3], &[], &[]);
        let Some(Step::Propose(command)) = begin else { panic!("{begin:?}") };
        now.apply(&command).unwrap();
        assert_eq!(now.guardians.next, Some(ids(&[1, 2, 3])));
        assert_eq!(step(&now, &[1, 2, 3], &[1, 2, 3], &[], &[]), None);
    }

    #[test]
    fn a_half_done_join_or_removal_is_carried_on() {
        let joining = state(&[1, 2], &[1]);
        assert_eq!(step(&joining, &[1], &[1], &[], &[]), Some(Step::AddLearner(NodeId(2), peer(2))));
        let mut removed = state(&[1, 2], &[1]);
        removed.apply(&Command::RemoveNode { node: NodeId(2) }).unwrap();
        assert_eq!(step(&removed, &[1, 2], &[1], &[], &[]), Some(Step::Forget(NodeId(2))));
        assert_eq!(step(&removed, &[1, 2], &[1, 2], &[], &[]), Some(Step::Demote(NodeId(2))));
    }
}
