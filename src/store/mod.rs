//! What a node must not forget: Raft's log, vote, applied state and snapshots, and the node's own durable record.
//!
//! One LMDB environment holds all of it. Every value carries a schema version and a checksum; a store that is cut off,
//! altered, emptied, another node's or in use elsewhere is refused with the file's name and the remedy, never repaired
//! by guess. Commits run on a thread of their own, one fsync for all that waits, and nothing is reported before it. A
//! full disk is waited for.
//!
//! It must never let a node take part with its memory lost, nor show an applied state that a restart could take back.
//!
//! Upholds S2 (seals and the longest promised lease are durable before they are reported) and what every rule about
//! commits rests on.

mod codec;
mod disk;
mod error;
mod log;
mod machine;
mod open;
mod pages;
#[doc(hidden)]
pub mod probe;
mod rewrite;
mod room;
mod types;

pub use codec::SCHEMA;
pub use error::StoreError;
pub use log::LogStore;
pub use machine::{Builder, Machine};
pub use rewrite::{found_generation, set_aside};
pub use room::{Stall, free_space};
pub use types::{
    Applied, Entry, Identity, LogId, Outcome, Peer, Proposal, Snapshot, SnapshotMeta, StoredMembership, TypeConfig,
    Vote, boottime,
};

use crate::cluster::{Local, NodeId};
use disk::{Thread, Write};
use log::LogMemory;
use open::{Found, KEY_IDENTITY, KEY_LOCAL, Opening};
use std::path::Path;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// An open store. Clones share it.
#[derive(Clone)]
pub struct Store {
    thread: Thread,
    log: Arc<Mutex<LogMemory>>,
    applied: watch::Sender<Applied>,
    snapshot: Arc<Mutex<Option<Snapshot>>>,
    identity: watch::Sender<Identity>,
    local: watch::Sender<Local>,
    /// Held while a record of the node itself is written, so that the last one asked for is the one that stays.
    own_write: Arc<tokio::sync::Mutex<()>>,
}

impl Store {
    /// Opens the store of `node` in `dir`, or creates it where there is none. Blocks: call it before the runtime's
    /// work begins.
    ///
    /// # Errors
    /// Each names the file and the remedy; a store that is refused is left as it was.
    pub fn open(dir: &Path, cluster: &str, node: &str) -> Result<Self, StoreError> {
        let (disk, found) = Opening::new(dir, cluster, node).run()?;
        let Found { identity, local, vote, purged, log, applied } = found;
        Ok(Self {
            thread: disk.start()?,
            log: Arc::new(Mutex::new(LogMemory { entries: log, vote, purged })),
            applied: watch::Sender::new(applied),
            snapshot: Arc::default(),
            identity: watch::Sender::new(identity),
            local: watch::Sender::new(local),
            own_write: Arc::default(),
        })
    }

    /// Who the store belongs to.
    pub fn identity(&self) -> Identity {
        self.identity.borrow().clone()
    }

    /// Whether Raft never wrote here: such a node has promised and voted nothing.
    pub fn is_pristine(&self) -> bool {
        let log = self.log();
        let memory = log.memory();
        memory.vote.is_none()
            && memory.purged.is_none()
            && memory.entries.is_empty()
            && self.applied.borrow().last.is_none()
    }

    /// Records the number the cluster gave this node and the cluster's generation. Durable when it returns.
    ///
    /// # Errors
    /// The store cannot be written.
    pub async fn enrol(&self, node_id: NodeId, generation: u64) -> Result<(), Arc<StoreError>> {
        let _alone = self.own_write.lock().await;
        let identity = Identity { node_id: Some(node_id), generation, ..self.identity() };
        self.put(KEY_IDENTITY, &identity).await?;
        self.identity.send_replace(identity);
        Ok(())
    }

    /// Records that the cluster has gone on without this node. Durable when it returns.
    ///
    /// # Errors
    /// The store cannot be written.
    pub async fn supersede(&self, why: &str) -> Result<(), Arc<StoreError>> {
        let _alone = self.own_write.lock().await;
        let identity = Identity { superseded: Some(why.to_owned()), ..self.identity() };
        self.put(KEY_IDENTITY, &identity).await?;
        self.identity.send_replace(identity);
        Ok(())
    }

    /// The node's own record.
    pub fn local(&self) -> Local {
        self.local.borrow().clone()
    }

    /// Replaces the node's own record. Durable when it returns.
    ///
    /// # Errors
    /// The store cannot be written.
    pub async fn save_local(&self, local: &Local) -> Result<(), Arc<StoreError>> {
        let _alone = self.own_write.lock().await;
        self.put(KEY_LOCAL, local).await?;
        self.local.send_replace(local.clone());
        Ok(())
    }

    async fn put<T: serde::Serialize>(&self, key: &[u8], value: &T) -> Result<(), Arc<StoreError>> {
        let value = codec::seal(key, value).map_err(|flaw| Arc::new(flaw.into()))?;
        self.thread.write(vec![Write::Put { key: key.to_vec(), value }]).await
    }

    /// The applied state, each time it has become durable. A slow reader sees the newest only.
    pub fn applied(&self) -> watch::Receiver<Applied> {
        self.applied.subscribe()
    }

    /// For openraft.
    pub fn log(&self) -> LogStore {
        LogStore { thread: self.thread.clone(), memory: self.log.clone() }
    }

    /// For openraft; one only.
    pub fn machine(&self) -> Machine {
        Machine { thread: self.thread.clone(), applied: self.applied.clone(), snapshot: self.snapshot.clone() }
    }

    /// How long the write under way has taken, if there is one: a disk that is full, or does not answer.
    pub fn stalled(&self) -> Option<Stall> {
        self.thread.stalled()
    }

    /// Finishes what is queued and closes the files; later writes fail, as do those that wait for room on the disk.
    pub async fn close(&self) {
        self.thread.close().await;
    }
}

#[cfg(test)]
mod tests;
