//! What Raft knows, told to the agent: leadership that is believed only while a quorum confirms it.

use super::{Formation, Inner, Leadership, Metrics, Raft, propose};
use crate::store::boottime;
use openraft::type_config::async_runtime::watch::WatchReceiver;
use openraft::{Instant as _, ServerState};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub(super) async fn run(inner: Arc<Inner>, raft: Raft) {
    let mut metrics = raft.metrics();
    let mut applied = inner.store.applied();
    let mut tick = tokio::time::interval(inner.timings.heartbeat);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut membership, mut reachable) = (None, addresses(&inner));
    let mut handed_over: Option<tokio::time::Instant> = None;
    loop {
        // Borrowed, for it changes with every heartbeat's answer.
        let (leadership, index) = {
            let now = metrics.borrow_watched();
            if let Err(fatal) = &now.running_state {
                inner.formation.send_replace(Formation::Failed { why: fatal.to_string() });
            }
            (read(&inner, &now), now.membership_config.log_id().as_ref().map(|id| id.index))
        };
        let due = handed_over.is_none_or(|at| at.elapsed() >= 2 * inner.timings.lease);
        if leadership.leading && due && inner.is_stalled() {
            handed_over = Some(tokio::time::Instant::now());
            inner.spawn(hand_over(inner.clone(), leadership.clone()));
        }
        let leads = leadership.leading;
        inner.leadership.send_if_modified(|last| {
            let changed = news(last, &leadership);
            *last = leadership;
            changed
        });
        if membership != Some(index) {
            membership = Some(index);
            inner.follow_members();
        }
        tokio::select! {
            changed = metrics.changed() => if changed.is_err() { return },
            changed = applied.changed() => {
                if changed.is_err() {
                    return;
                }
                let now = addresses(&inner);
                if now != reachable {
                    reachable = now;
                    inner.follow_members();
                }
            }
            // A quorum's word ages; only a leader has one.
            _ = tick.tick(), if leads => {}
        }
    }
}

/// Whether anybody need be woken: not by every heartbeat that moves the time of the quorum's word or a follower's lag.
fn news(last: &Leadership, now: &Leadership) -> bool {
    let said = |of: &Leadership| (of.term, of.leader, of.leading, of.last_applied);
    said(last) != said(now) || last.voters != now.voters || last.learners != now.learners
}

impl Inner {
    /// Whether the disk has kept this node's log waiting for a whole lease.
    pub(super) fn is_stalled(&self) -> bool {
        self.store.stalled().is_some_and(|stall| stall.length >= self.timings.lease)
    }
}

/// A leader whose disk does not answer cannot apply what it commits: it would lead, and lead nowhere. Another one does
/// better, and what this host serves does not hang on it.
async fn hand_over(inner: Arc<Inner>, leadership: Leadership) {
    let fit = |id: &&crate::cluster::NodeId| Some(**id) != inner.id() && inner.peers.is_up(**id);
    let best = leadership.voters.iter().filter(fit).min_by_key(|id| leadership.lag.get(id).copied());
    let Some(to) = best else { return };
    match propose::transfer(&inner, *to).await {
        Ok(()) => tracing::warn!(%to, "the disk keeps the log waiting: another node leads now"),
        Err(error) => tracing::warn!(%error, "the disk keeps the log waiting, and nobody else took the lead"),
    }
}

fn addresses(inner: &Inner) -> Vec<String> {
    inner.store.applied().borrow().state.nodes.values().map(|node| node.address.clone()).collect()
}

fn read(inner: &Inner, metrics: &Metrics) -> Leadership {
    let membership = metrics.membership_config.membership();
    let voters: std::collections::BTreeSet<_> = membership.voter_ids().collect();
    let leads = metrics.state == ServerState::Leader && metrics.running_state.is_ok();
    let alone = voters.len() == 1 && voters.contains(&metrics.id);
    let age = if alone { Some(Duration::ZERO) } else { metrics.last_quorum_acked.map(|at| at.elapsed()) };
    let age = age.filter(|_| leads);
    let last = metrics.last_log_index.unwrap_or(0);
    let lag: BTreeMap<_, _> = metrics
        .replication
        .iter()
        .flatten()
        .filter(|(id, _)| **id != metrics.id)
        .map(|(id, matched)| (*id, last.saturating_sub(matched.as_ref().map_or(0, |at| at.index))))
        .collect();
    Leadership {
        term: metrics.current_term,
        leader: metrics.current_leader,
        leading: age.is_some_and(|age| age < inner.timings.election_max),
        quorum_acked_at: age.map(|age| boottime().saturating_sub(age)),
        learners: membership.learner_ids().collect(),
        voters,
        last_applied: metrics.last_applied.map_or(0, |id| id.index),
        lag,
    }
}
