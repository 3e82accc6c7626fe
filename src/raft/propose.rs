//! Proposals to the leader, wherever it is, and handing leadership over.

use super::message::{self, ProposeReply, ProposeRequest, kind};
use super::{Inner, ProposeError, Raft, TransferError};
use crate::cluster::{Command, NodeId};
use crate::store::{Outcome, Proposal};
use crate::wire::CallError;
use openraft::errors::{ClientWriteError, RaftError as OpenraftError};
use openraft::type_config::async_runtime::watch::WatchReceiver;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// Before asking again who leads: right after an election the new leader does not know it yet.
const PAUSE: Duration = Duration::from_millis(10);

/// What one attempt came to.
enum Attempt {
    Done(Outcome),
    /// Nothing was committed by it; another may do better.
    NoLeader,
    /// It may have been committed.
    Unknown,
    Stopped(String),
}

/// A repeated command is harmless: every one is compare-and-set.
pub(super) async fn propose(inner: &Inner, command: Command, bound: Duration) -> Result<Outcome, ProposeError> {
    let raft = inner.raft().ok_or(ProposeError::NotMember)?;
    let end = Instant::now() + bound;
    let mut sent = false;
    loop {
        let leader = raft.metrics().borrow_watched().current_leader;
        let attempt = match leader {
            Some(id) if Some(id) == inner.id() => here(raft, &command, end).await,
            Some(id) => there(inner, id, &command, end).await,
            None => Attempt::NoLeader,
        };
        match attempt {
            Attempt::Done(outcome) => return Ok(outcome),
            Attempt::Stopped(why) => return Err(ProposeError::Stopped(why)),
            Attempt::Unknown => sent = true,
            Attempt::NoLeader => {}
        }
        if Instant::now() + PAUSE >= end {
            return Err(if sent { ProposeError::Unconfirmed(bound) } else { ProposeError::NoLeader(bound) });
        }
        sleep(PAUSE).await;
    }
}

async fn here(raft: &Raft, command: &Command, end: Instant) -> Attempt {
    match timeout_at(end, raft.client_write(Proposal(command.clone()))).await {
        Err(_) => Attempt::Unknown,
        Ok(Ok(response)) => Attempt::Done(response.data),
        Ok(Err(OpenraftError::Fatal(fatal))) => Attempt::Stopped(fatal.to_string()),
        Ok(Err(OpenraftError::APIError(ClientWriteError::LogEntryDiscarded(_)))) => Attempt::Unknown,
        Ok(Err(OpenraftError::APIError(_))) => Attempt::NoLeader,
    }
}

async fn there(inner: &Inner, leader: NodeId, command: &Command, end: Instant) -> Attempt {
    let Some(body) = message::encode(&ProposeRequest { command: command.clone() }) else {
        return Attempt::Stopped("a command does not encode".to_owned());
    };
    let left = end.saturating_duration_since(Instant::now());
    match inner.peers.call(leader, kind::PROPOSE, body, left).await {
        Some(Ok(answer)) => match message::decode(&answer) {
            Some(ProposeReply::Done(outcome)) => Attempt::Done(outcome),
            Some(ProposeReply::NotLeader) => Attempt::NoLeader,
            Some(ProposeReply::Failed(_)) | None => Attempt::Unknown,
        },
        Some(Err(CallError::Busy { .. } | CallError::TooLarge { .. } | CallError::Fault(_))) | None => {
            Attempt::NoLeader
        }
        Some(Err(_)) => Attempt::Unknown,
    }
}

/// A peer's proposal: only if this node leads, and never passed on again.
pub(super) async fn answer(inner: &Inner, command: Command) -> ProposeReply {
    let Some(raft) = inner.raft() else { return ProposeReply::NotLeader };
    if raft.metrics().borrow_watched().current_leader != inner.id() {
        return ProposeReply::NotLeader;
    }
    match here(raft, &command, Instant::now() + inner.timings.lease).await {
        Attempt::Done(outcome) => ProposeReply::Done(outcome),
        Attempt::NoLeader => ProposeReply::NotLeader,
        Attempt::Unknown => ProposeReply::Failed("not confirmed in time".to_owned()),
        Attempt::Stopped(why) => ProposeReply::Failed(why),
    }
}

pub(super) async fn transfer(inner: &Inner, to: NodeId) -> Result<(), TransferError> {
    let raft = inner.raft().ok_or(TransferError::NotLeading)?;
    let leadership = inner.leadership.borrow().clone();
    if !leadership.leading {
        return Err(TransferError::NotLeading);
    }
    if !leadership.voters.contains(&to) || Some(to) == inner.id() {
        return Err(TransferError::NotVoter(to));
    }
    let end = Instant::now() + inner.timings.lease;
    // A failed hand-over costs an election: the target must have everything before it begins.
    loop {
        let lag = inner.leadership.borrow().lag.get(&to).copied();
        if lag == Some(0) && inner.peers.is_up(to) {
            break;
        }
        if Instant::now() >= end {
            return Err(TransferError::Behind { node: to, lag: lag.unwrap_or(0) });
        }
        sleep(PAUSE).await;
    }
    raft.trigger().transfer_leader(to).await.map_err(|fatal| TransferError::Stopped(fatal.to_string()))?;
    let end = Instant::now() + inner.timings.lease;
    let mut metrics = raft.metrics();
    loop {
        if metrics.borrow_watched().current_leader == Some(to) {
            return Ok(());
        }
        match timeout_at(end, metrics.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(TransferError::Stopped("it was shut down".to_owned())),
            Err(_) => return Err(TransferError::Timeout(to)),
        }
    }
}
