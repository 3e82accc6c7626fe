//! Elections: hurried when the leader's link drops, held back while a restarted node must be silent.
//!
//! A nudge is a pre-vote: it changes nothing as long as a majority still hears the leader, so asking often is free, and
//! losing leader and primary together costs little more than losing the primary.

use super::{Inner, Raft};
use crate::cluster::NodeId;
use openraft::ServerState;
use openraft::type_config::async_runtime::watch::WatchReceiver;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// Between two nudges.
const PACE: Duration = Duration::from_millis(20);

/// Lets this node stand for election once it may answer votes (S2).
pub(super) async fn end_silence(inner: Arc<Inner>, raft: Raft) {
    if let Some(until) = inner.silent_until {
        sleep_until(until).await;
    }
    raft.runtime_config().elect(true);
}

pub(super) async fn run(inner: Arc<Inner>, raft: Raft) {
    let mut links = inner.peers.up();
    let mut before = links.borrow_and_update().clone();
    while links.changed().await.is_ok() {
        let now = links.borrow_and_update().clone();
        let back: Vec<NodeId> =
            now.iter().filter(|(id, up)| **up && before.get(id) != Some(&true)).map(|(id, _)| *id).collect();
        let gone = |id: &NodeId| before.get(id) == Some(&true) && now.get(id) != Some(&true);
        let leader = raft.metrics().borrow_watched().current_leader.filter(gone);
        before = now;
        // An error means that Raft has stopped; then there is nothing to hurry.
        if !back.is_empty() && raft.trigger().reset_backoff(back).await.is_err() {
            return;
        }
        if let Some(leader) = leader
            && nudge(&inner, &raft, leader).await.is_none()
        {
            return;
        }
    }
}

/// Asks for a pre-vote until there is another leader or the old one is back, for two election time-outs at most.
/// None: Raft has stopped.
async fn nudge(inner: &Inner, raft: &Raft, leader: NodeId) -> Option<()> {
    let end = Instant::now() + 2 * inner.timings.election_max;
    while Instant::now() < end && !inner.peers.is_up(leader) {
        let (votes, settled) = {
            let metrics = raft.metrics();
            let metrics = metrics.borrow_watched();
            let votes = metrics.membership_config.membership().voter_ids().any(|id| id == metrics.id);
            let settled =
                metrics.state == ServerState::Leader || metrics.current_leader.is_some_and(|now| now != leader);
            (votes, settled)
        };
        if settled || !votes {
            return Some(());
        }
        if !inner.is_silent() {
            inner.nudges.fetch_add(1, Ordering::Relaxed);
            raft.trigger().elect(true).await.ok()?;
        }
        sleep(PACE).await;
    }
    Some(())
}
