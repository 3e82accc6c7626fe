//! openraft's state machine: [`State`](crate::cluster::State) in memory, durable before anybody hears of it.
//!
//! Every batch of applied entries is stored with the state it led to, in the environment that holds the log, and only
//! then answered and published; a restarted node therefore never shows a state older than it showed before. A snapshot
//! is the applied state, sealed; it needs no place of its own on disk, since the applied state already has one.

use super::codec;
use super::disk::{Thread, Write};
use super::error::StoreError;
use super::log::shared;
use super::open::{AppliedRecord, KEY_APPLIED};
use super::types::{Applied, LogId, Snapshot, SnapshotMeta, StoredMembership, TypeConfig, boottime};
use crate::cluster::State;
use futures_util::{Stream, StreamExt};
use openraft::OptionalSend;
use openraft::entry::EntryPayload;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

const SNAPSHOT_KEY: &[u8] = b"snapshot";

/// Raft's state machine.
pub struct Machine {
    pub(super) thread: Thread,
    pub(super) applied: watch::Sender<Applied>,
    pub(super) snapshot: Arc<Mutex<Option<Snapshot>>>,
}

impl Machine {
    /// Makes an applied state durable, then publishes it.
    async fn settle(
        &self,
        last: Option<LogId>,
        membership: Arc<StoredMembership>,
        state: Arc<State>,
    ) -> Result<(), io::Error> {
        let record = AppliedRecordRef { last, membership: &membership, state: &state };
        let value = codec::seal(KEY_APPLIED, &record).map_err(StoreError::from)?;
        self.thread.write(vec![Write::Put { key: KEY_APPLIED.to_vec(), value }]).await.map_err(shared)?;
        self.applied.send_replace(Applied { state, last, membership, at: boottime() });
        Ok(())
    }
}

/// [`AppliedRecord`] without owning its parts.
#[derive(serde::Serialize)]
struct AppliedRecordRef<'a> {
    last: Option<LogId>,
    membership: &'a StoredMembership,
    state: &'a State,
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = Vec<u8>;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let applied = self.applied.borrow();
        Ok((applied.last, (*applied.membership).clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let Applied { mut state, mut last, mut membership, .. } = self.applied.borrow().clone();
        let mut answers = Vec::new();
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let outcome = match entry.payload {
                EntryPayload::Blank => Ok(()),
                EntryPayload::Normal(proposal) => Arc::make_mut(&mut state).apply(&proposal.0),
                EntryPayload::Membership(next) => {
                    membership = Arc::new(StoredMembership::new(Some(entry.log_id), next));
                    Ok(())
                }
            };
            last = Some(entry.log_id);
            answers.extend(responder.map(|responder| (responder, outcome)));
        }
        self.settle(last, membership, state).await?;
        for (responder, outcome) in answers {
            responder.send(outcome);
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        Builder { applied: self.applied.borrow().clone(), slot: self.snapshot.clone() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Vec<u8>) -> Result<(), io::Error> {
        let state: State = codec::open(SNAPSHOT_KEY, &snapshot).map_err(StoreError::from)?;
        self.settle(meta.last_log_id, Arc::new(meta.last_membership.clone()), Arc::new(state)).await?;
        *self.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = Some(Snapshot { meta: meta.clone(), snapshot });
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        Ok(self.snapshot.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// Builds a snapshot of the state as it was when the builder was made.
pub struct Builder {
    applied: Applied,
    slot: Arc<Mutex<Option<Snapshot>>>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = Vec<u8>;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let data = codec::seal(SNAPSHOT_KEY, &*self.applied.state).map_err(StoreError::from)?;
        let meta = SnapshotMeta { last_log_id: self.applied.last, last_membership: (*self.applied.membership).clone() };
        let snapshot = Snapshot { meta, snapshot: data };
        *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(snapshot.clone());
        Ok(snapshot)
    }
}

// The two must encode alike.
const _: fn(AppliedRecord) -> (Option<LogId>, StoredMembership, State) =
    |record| (record.last, record.membership, record.state);
