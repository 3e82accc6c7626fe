//! openraft's log storage: the log in memory, each write also on disk.
//!
//! The log is short (a snapshot follows every few hundred entries), so reading never touches the disk; writing goes to
//! the storage thread in order, and nothing is reported to Raft before it is durable. A vote counts only then, too.

use super::codec;
use super::disk::{Done, Thread, Write};
use super::error::StoreError;
use super::open::{KEY_PURGED, KEY_VOTE, log_key};
use super::types::{Entry, LogId, TypeConfig, Vote};
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{LogIdOptionExt, OptionalSend};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Default)]
pub(super) struct LogMemory {
    pub(super) entries: BTreeMap<u64, Entry>,
    pub(super) vote: Option<Vote>,
    pub(super) purged: Option<LogId>,
}

/// Raft's log and vote.
#[derive(Clone)]
pub struct LogStore {
    pub(super) thread: Thread,
    pub(super) memory: Arc<Mutex<LogMemory>>,
}

impl LogStore {
    /// Nothing that holds the lock can leave the memory half changed, so a poisoned lock is as good as any.
    pub(super) fn memory(&self) -> MutexGuard<'_, LogMemory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn write(&self, writes: Vec<Write>) -> Result<(), io::Error> {
        self.thread.write(writes).await.map_err(shared)
    }
}

pub(super) fn shared(error: Arc<StoreError>) -> io::Error {
    let kind = match &*error {
        StoreError::Full { .. } => io::ErrorKind::StorageFull,
        StoreError::Closed => io::ErrorKind::BrokenPipe,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        Ok(self.memory().entries.range(range).map(|(_, entry)| entry.clone()).collect())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.memory().vote)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let memory = self.memory();
        let last = memory.entries.last_key_value().map(|(_, entry)| entry.log_id);
        Ok(LogState { last_purged_log_id: memory.purged, last_log_id: last.or(memory.purged) })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let value = codec::seal(KEY_VOTE, vote).map_err(StoreError::from)?;
        self.write(vec![Write::Put { key: KEY_VOTE.to_vec(), value }]).await?;
        self.memory().vote = Some(*vote);
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let mut writes = Vec::with_capacity(entries.len());
        for entry in &entries {
            let key = log_key(entry.log_id.index);
            let value = codec::seal(&key, entry).map_err(StoreError::from)?;
            writes.push(Write::Put { key, value });
        }
        self.memory().entries.extend(entries.into_iter().map(|entry| (entry.log_id.index, entry)));
        let done: Done = Box::new(move |result| callback.io_completed(result.map_err(shared)));
        Ok(self.thread.send(writes, done).await?)
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let first_gone = last_log_id.next_index();
        self.memory().entries.split_off(&first_gone);
        self.write(vec![Write::Delete { from: log_key(first_gone), until: log_key(u64::MAX) }]).await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        let first_kept = log_id.index + 1;
        let value = codec::seal(KEY_PURGED, &log_id).map_err(StoreError::from)?;
        let writes = vec![
            Write::Put { key: KEY_PURGED.to_vec(), value },
            Write::Delete { from: log_key(0), until: log_key(first_kept) },
        ];
        {
            let mut memory = self.memory();
            memory.purged = memory.purged.max(Some(log_id));
            memory.entries = memory.entries.split_off(&first_kept);
        }
        self.write(writes).await
    }
}
