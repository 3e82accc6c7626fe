//! Removing a node, in the one order that is safe whatever fails in between.
//!
//! First it no longer votes, then it is no longer a guardian (the agent's primary must have renewed under both sets,
//! S12), then it leaves F and its groups, then the state forgets it, and last Raft does. A primary is never removed.
//! Every step can be asked for again; a leader that finds a node forgotten by the state finishes the rest.

use super::duty::{self, Step};
use super::message::{self, LeaveReply, LeaveRequest, kind};
use super::{Inner, LeaveError, Raft, locked, propose};
use crate::cluster::{Command, Durability, Group, GroupCommand, GroupName, NodeId, majority};
use openraft::Instant as _;
use openraft::type_config::async_runtime::watch::WatchReceiver;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

const PAUSE: Duration = Duration::from_millis(20);
/// For the guardians to follow, and for the whole of what one caller waits for.
const GUARDIANS_BOUND: Duration = Duration::from_secs(10);
const BOUND: Duration = Duration::from_secs(15);
/// For all others to hold what the node that leaves has acknowledged.
const PROOF_BOUND: Duration = Duration::from_secs(4);

/// Asks the leader, wherever it is.
pub(super) async fn ask(inner: &Arc<Inner>, name: &str) -> Result<(), LeaveError> {
    let end = Instant::now() + BOUND;
    let request = LeaveRequest { name: name.to_owned() };
    loop {
        let leader = inner.leadership.borrow().leader;
        let reply = match leader {
            Some(id) if Some(id) == inner.id() => answer(inner, request.clone()).await,
            Some(id) => there(inner, id, &request, end).await,
            None => LeaveReply::NotLeader,
        };
        match reply {
            LeaveReply::Done => return Ok(()),
            LeaveReply::Refused(why) => return Err(LeaveError::Refused(why)),
            LeaveReply::NotLeader if Instant::now() >= end => return Err(LeaveError::NoLeader),
            LeaveReply::NotLeader => sleep(PAUSE).await,
        }
    }
}

async fn there(inner: &Inner, leader: NodeId, request: &LeaveRequest, end: Instant) -> LeaveReply {
    let Some(body) = message::encode(request) else { return LeaveReply::NotLeader };
    let left = end.saturating_duration_since(Instant::now());
    match inner.peers.call(leader, kind::LEAVE, body, left).await {
        Some(Ok(bytes)) => message::decode(&bytes).unwrap_or(LeaveReply::NotLeader),
        _ => LeaveReply::NotLeader,
    }
}

/// As the leader.
pub(super) async fn answer(inner: &Arc<Inner>, request: LeaveRequest) -> LeaveReply {
    let Some(raft) = inner.raft().filter(|_| inner.leadership.borrow().leading) else { return LeaveReply::NotLeader };
    let state = inner.store.applied().borrow().state.clone();
    let Some(id) = state.nodes.iter().find(|(_, node)| node.name == request.name).map(|(id, _)| *id) else {
        return LeaveReply::Refused(format!("no node is named {}; see `mainstay members`", request.name));
    };
    if Some(id) == inner.id() {
        return hand_over(inner, &request.name).await;
    }
    match remove(inner, raft, id).await {
        Ok(()) => LeaveReply::Done,
        Err(why) => LeaveReply::Refused(why),
    }
}

/// The leader itself is to leave: another one must remove it.
async fn hand_over(inner: &Inner, name: &str) -> LeaveReply {
    let leadership = inner.leadership.borrow().clone();
    let mut others: Vec<_> =
        leadership.voters.iter().filter(|id| Some(**id) != inner.id() && inner.peers.is_up(**id)).collect();
    others.sort_by_key(|id| leadership.lag.get(id).copied().unwrap_or(u64::MAX));
    let Some(next) = others.first() else {
        return LeaveReply::Refused(format!("{name} leads and no other voter is connected that could"));
    };
    match propose::transfer(inner, **next).await {
        Ok(()) => LeaveReply::NotLeader,
        Err(error) => LeaveReply::Refused(format!("{name} leads, and leadership could not be handed over: {error}")),
    }
}

struct Leaving<'a>(&'a Inner, NodeId);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        locked(&self.0.leaving).remove(&self.1);
    }
}

/// Removes a node that is not this one.
pub(super) async fn remove(inner: &Arc<Inner>, raft: &Raft, id: NodeId) -> Result<(), String> {
    refuse_primary(inner, id)?;
    locked(&inner.leaving).insert(id);
    let _until_done = Leaving(inner, id);
    {
        let _alone = inner.changing.lock().await;
        let voters: Vec<_> = raft.metrics().borrow_watched().membership_config.membership().voter_ids().collect();
        if voters == [id] {
            return Err("it is the only voter".to_owned());
        }
        if voters.contains(&id) {
            answered_without(inner, raft, &voters, id).await?;
            duty::take(inner, raft, Step::Demote(id)).await?;
        }
    }
    guardians_without(inner, id).await?;
    let _alone = inner.changing.lock().await;
    leave_groups(inner, raft, id).await?;
    let known = inner.store.applied().borrow().state.nodes.contains_key(&id);
    if known {
        duty::take(inner, raft, Step::Propose(Command::RemoveNode { node: id })).await?;
    }
    duty::take(inner, raft, Step::Forget(id)).await
}

/// Right after an election nobody has answered yet, so a leader asks for a lease.
async fn answered_without(inner: &Inner, raft: &Raft, voters: &[NodeId], leaving: NodeId) -> Result<(), String> {
    let end = tokio::time::Instant::now() + inner.timings.lease;
    loop {
        match stands_without(inner, raft, voters, leaving) {
            Err(_) if tokio::time::Instant::now() < end => sleep(PAUSE).await,
            stands => return stands,
        }
    }
}

/// A change that only the absent could commit would stop the cluster, and cannot be taken back: a majority of the voters
/// that stay must answer right now.
fn stands_without(inner: &Inner, raft: &Raft, voters: &[NodeId], leaving: NodeId) -> Result<(), String> {
    let heard = raft.metrics().borrow_watched().heartbeat.clone().unwrap_or_default();
    let lately =
        |id: &NodeId| heard.get(id).copied().flatten().is_some_and(|at| at.elapsed() <= inner.timings.lease / 2);
    let stay = || voters.iter().filter(|id| **id != leaving);
    let silent: Vec<NodeId> = stay().filter(|id| inner.id() != Some(**id) && !lately(id)).copied().collect();
    let staying = stay().count();
    if staying - silent.len() >= majority(staying) {
        return Ok(());
    }
    let members = inner.roster.members();
    let names = silent.iter().map(|id| members.get(id).map_or_else(|| id.to_string(), |peer| peer.name.clone()));
    let names = names.collect::<Vec<_>>().join(", ");
    Err(format!(
        "too few voters would be left that answer: {names} is silent; bring it back, or remove it first if it is gone for good"
    ))
}

fn refuse_primary(inner: &Inner, id: NodeId) -> Result<(), String> {
    let state = inner.store.applied().borrow().state.clone();
    match state.groups.iter().find(|(_, group)| group.primary_node() == Some(id)) {
        Some((name, _)) => Err(format!("it is the primary of {name}; run `mainstay switchover --group {name}` first")),
        None => Ok(()),
    }
}

/// Waits until the guardians have followed the voters.
async fn guardians_without(inner: &Inner, id: NodeId) -> Result<(), String> {
    let mut applied = inner.store.applied();
    let gone = applied.wait_for(|applied| {
        let guardians = &applied.state.guardians;
        !guardians.all().contains(&id) && guardians.next.is_none()
    });
    match tokio::time::timeout(GUARDIANS_BOUND, gone).await {
        Ok(Ok(_)) => Ok(()),
        _ => Err(format!(
            "it no longer votes, but the guardians have not followed within {GUARDIANS_BOUND:?}: every primary must hold a lease under the old and the new set; see `mainstay status`, then ask again"
        )),
    }
}

/// Takes the node out of F by the operator's word (S5), then out of its groups.
async fn leave_groups(inner: &Inner, raft: &Raft, id: NodeId) -> Result<(), String> {
    refuse_primary(inner, id)?;
    let state = inner.store.applied().borrow().state.clone();
    for (name, group) in &state.groups {
        if group.followers.contains_key(&id) {
            if group.durability == Durability::Quorum && inner.peers.is_up(id) {
                leave_proved(inner, raft, name, id).await;
            }
            // What could not be proved is dropped by the operator's word, and counts in R until it is (S5).
            if let Some(group) = now(inner, name)
                && let Some(follower) = group.followers.get(&id)
            {
                let drop = GroupCommand::Drop { node: id, since: follower.since };
                duty::take(inner, raft, Step::Propose(of_group(name, &group, drop))).await?;
            }
        }
        if let Some(group) = now(inner, name).filter(|group| group.members.contains_key(&id)) {
            let remove = GroupCommand::RemoveMember { node: id };
            duty::take(inner, raft, Step::Propose(of_group(name, &group, remove))).await?;
        }
    }
    Ok(())
}

fn now(inner: &Inner, name: &GroupName) -> Option<Group> {
    inner.store.applied().borrow().state.groups.get(name).cloned()
}

/// S5: asks the primary, by the first of the two commits, to let it go, and waits for the second.
async fn leave_proved(inner: &Inner, raft: &Raft, name: &GroupName, id: NodeId) {
    let Some(group) = now(inner, name) else { return };
    let Some(follower) = group.followers.get(&id) else { return };
    if follower.leaving.is_none() {
        let leaving = GroupCommand::Leaving { node: id, since: follower.since };
        if let Err(why) = duty::take(inner, raft, Step::Propose(of_group(name, &group, leaving))).await {
            tracing::info!(group = %name, why, "the node leaves without proof that the others hold what it acknowledged");
            return;
        }
    }
    let mut applied = inner.store.applied();
    let gone = applied
        .wait_for(|applied| applied.state.groups.get(name).is_none_or(|group| !group.followers.contains_key(&id)));
    // Not in time: the caller goes on without the proof.
    let _ = tokio::time::timeout(PROOF_BOUND, gone).await;
}

fn of_group(name: &GroupName, group: &Group, change: GroupCommand) -> Command {
    Command::Group { group: name.clone(), expect: group.expect(), change }
}
