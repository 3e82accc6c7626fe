//! The one place that touches LMDB: the environment, its growth, and the storage thread.
//!
//! Only the storage thread holds the environment after opening, so no transaction is ever open while the map grows.
//! Jobs are committed in the order they came, as many as are waiting in one transaction: one fsync for all of them,
//! and none is reported before it. Room on the disk is waited for (`room`); after any other failed commit nothing is
//! accepted any more: a later write that succeeded would leave a hole. LMDB's default sync flags stay.

use super::error::StoreError;
use super::room::{Pulse, Stall};
use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvOpenOptions, MdbError, WithoutTls};
use std::fs::File;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Name LMDB gives its file.
pub(super) const DATA_FILE: &str = "data.mdb";
/// Map at first: a thousand times what the state and the kept log need.
const MAP_SIZE: usize = 64 << 20;
/// Beyond this something is wrong, and the store says so.
const MAP_LIMIT: usize = 1 << 30;
/// Jobs waiting for the thread before a sender has to wait.
const QUEUE: usize = 256;
/// Jobs in one transaction.
const BATCH: usize = 64;

/// One change of the disk.
#[derive(Debug)]
pub(super) enum Write {
    Put {
        key: Vec<u8>,
        value: Vec<u8>,
    },
    /// Everything from the first key up to, not including, the second.
    Delete {
        from: Vec<u8>,
        until: Vec<u8>,
    },
}

/// Keys and values.
pub(super) type Records = Vec<(Vec<u8>, Vec<u8>)>;

pub(super) type Done = Box<dyn FnOnce(Result<(), Arc<StoreError>>) + Send>;

/// Changes that belong together, and whom to tell once they are durable.
pub(super) struct Job {
    pub(super) writes: Vec<Write>,
    pub(super) done: Done,
}

enum Order {
    Write(Job),
    Close,
}

/// The way to the storage thread.
#[derive(Clone)]
pub(super) struct Thread {
    orders: mpsc::Sender<Order>,
    ended: Arc<tokio::sync::Mutex<Option<oneshot::Receiver<()>>>>,
    pulse: Arc<Pulse>,
}

impl Thread {
    /// Hands a job over; waits only while the queue is full.
    pub(super) async fn send(&self, writes: Vec<Write>, done: Done) -> Result<(), StoreError> {
        self.orders.send(Order::Write(Job { writes, done })).await.map_err(|_| StoreError::Closed)
    }

    /// Hands a job over and waits until it is durable.
    pub(super) async fn write(&self, writes: Vec<Write>) -> Result<(), Arc<StoreError>> {
        let (tell, told) = oneshot::channel();
        let done: Done = Box::new(move |result| {
            // The one who asked may have given up; the write stands.
            let _ = tell.send(result);
        });
        self.send(writes, done).await.map_err(Arc::new)?;
        told.await.unwrap_or_else(|_| Err(Arc::new(StoreError::Closed)))
    }

    /// How long the write under way has taken, if there is one.
    pub(super) fn stalled(&self) -> Option<Stall> {
        self.pulse.stalled()
    }

    /// Finishes what is queued, closes the files and frees the directory's lock. What waits for room fails.
    pub(super) async fn close(&self) {
        self.pulse.close();
        // A closed queue means that somebody else closes already.
        let _ = self.orders.send(Order::Close).await;
        if let Some(ended) = self.ended.lock().await.take() {
            let _ = ended.await;
        }
    }
}

/// The opened environment, before the thread takes it.
pub(super) struct Disk {
    env: Env<WithoutTls>,
    path: PathBuf,
    limit: usize,
    /// Holds the directory's lock until the thread ends.
    _lock: nix::fcntl::Flock<File>,
}

fn open_data(env: &Env<WithoutTls>) -> heed::Result<Database<'_, Bytes, Bytes>> {
    let rtxn = env.read_txn()?;
    let opened = env.open_databases_and_commit(rtxn, |open, rtxn| {
        open.open_database::<Bytes, Bytes>(rtxn, None).map(CommitOrAbort::<_, ()>::Commit)
    })?;
    // LMDB always has its unnamed database.
    opened.unwrap_commit().ok_or(heed::Error::Mdb(MdbError::NotFound))
}

impl Disk {
    /// Opens or creates the environment in `dir`, whose lock is held.
    pub(super) fn open(dir: &Path, lock: nix::fcntl::Flock<File>) -> Result<Self, StoreError> {
        Self::open_sized(dir, lock, MAP_SIZE, MAP_LIMIT)
    }

    fn open_sized(dir: &Path, lock: nix::fcntl::Flock<File>, size: usize, limit: usize) -> Result<Self, StoreError> {
        let path = dir.join(DATA_FILE);
        let present = std::fs::metadata(&path).map_or(0, |meta| meta.len());
        let mut map_size = size;
        while (map_size as u64) < present.saturating_mul(2) {
            map_size *= 2;
        }
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options.map_size(map_size);
        // SAFETY: the directory's lock keeps every other mainstay process out, the page structure was checked, and
        // nothing but LMDB writes to the file while it is mapped.
        #[allow(unsafe_code)]
        let env = unsafe { options.open(dir) }.map_err(|error| fault(&path, "open the data", error))?;
        Ok(Self { env, path, limit, _lock: lock })
    }

    /// Every key and value.
    pub(super) fn load(&self) -> Result<Records, StoreError> {
        let read = || -> heed::Result<Records> {
            let data = open_data(&self.env)?;
            let rtxn = self.env.read_txn()?;
            data.iter(&rtxn)?.map(|entry| entry.map(|(key, value)| (key.to_vec(), value.to_vec()))).collect()
        };
        read().map_err(|error| fault(&self.path, "read the data", error))
    }

    /// Commits `writes` in one transaction, growing the map if it is full.
    pub(super) fn commit<'a>(&self, writes: impl Iterator<Item = &'a Write> + Clone) -> Result<(), StoreError> {
        loop {
            match self.try_commit(writes.clone()) {
                Ok(()) => return Ok(()),
                Err(heed::Error::Mdb(MdbError::MapFull)) => self.grow()?,
                Err(error) => return Err(fault(&self.path, "write the data", error)),
            }
        }
    }

    fn try_commit<'a>(&self, writes: impl Iterator<Item = &'a Write>) -> heed::Result<()> {
        let data = open_data(&self.env)?;
        let mut wtxn = self.env.write_txn()?;
        for write in writes {
            match write {
                Write::Put { key, value } => data.put(&mut wtxn, key, value)?,
                Write::Delete { from, until } => {
                    let range = (Bound::Included(from.as_slice()), Bound::Excluded(until.as_slice()));
                    data.delete_range(&mut wtxn, &range)?;
                }
            }
        }
        wtxn.commit()
    }

    fn grow(&self) -> Result<(), StoreError> {
        let size = self.env.info().map_size.saturating_mul(2);
        if size > self.limit {
            return Err(StoreError::Full { path: self.path.clone(), limit_mib: self.limit >> 20 });
        }
        // SAFETY: this thread alone holds the environment, and the transaction that found it full has ended.
        #[allow(unsafe_code)]
        unsafe { self.env.resize(size) }.map_err(|error| fault(&self.path, "enlarge the map", error))
    }

    /// Closes the environment, so that it can be opened again in this process.
    pub(super) fn close(self) {
        self.env.prepare_for_closing().wait();
    }

    /// Starts the storage thread.
    pub(super) fn start(self) -> Result<Thread, StoreError> {
        let (orders, queue) = mpsc::channel(QUEUE);
        let (ending, ended) = oneshot::channel();
        let path = self.path.clone();
        let pulse = Arc::new(Pulse::default());
        let own = Arc::clone(&pulse);
        std::thread::Builder::new()
            .name("storage".to_owned())
            .spawn(move || {
                self.run(queue, &own);
                // Nobody may be waiting for the end.
                let _ = ending.send(());
            })
            .map_err(|source| StoreError::Io {
                path,
                what: "start the storage thread",
                source,
                remedy: "raise the limit of processes",
            })?;
        Ok(Thread { orders, ended: Arc::new(tokio::sync::Mutex::new(Some(ended))), pulse })
    }

    fn run(self, mut queue: mpsc::Receiver<Order>, pulse: &Pulse) {
        let mut failed: Option<Arc<StoreError>> = None;
        while let Some(first) = queue.blocking_recv() {
            let mut jobs = Vec::new();
            let mut next = Some(first);
            while let Some(order) = next {
                match order {
                    Order::Write(job) => jobs.push(job),
                    Order::Close => queue.close(),
                }
                next = if jobs.len() < BATCH { queue.try_recv().ok() } else { None };
            }
            pulse.begin();
            let result = match &failed {
                Some(error) => Err(error.clone()),
                None => {
                    let commit = || self.commit(jobs.iter().flat_map(|job| &job.writes));
                    pulse.patiently(&self.path, commit).map_err(Arc::new)
                }
            };
            pulse.end();
            if let Err(error) = &result {
                failed.get_or_insert_with(|| {
                    tracing::error!(%error, "the store cannot be written any more");
                    error.clone()
                });
            }
            for job in jobs {
                (job.done)(result.clone());
            }
        }
        let closing = self.env.prepare_for_closing();
        closing.wait();
    }
}

fn fault(path: &Path, what: &'static str, error: heed::Error) -> StoreError {
    let source = match error {
        heed::Error::Io(source) => source,
        other => std::io::Error::other(other.to_string()),
    };
    StoreError::Io { path: path.to_owned(), what, remedy: super::open::remedy_of(&source), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_map_grows_and_a_limit_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let lock = super::super::open::lock(dir.path()).unwrap();
        let disk = Disk::open_sized(dir.path(), lock, 1 << 20, 8 << 20).unwrap();
        let put = |n: u8, size: usize| Write::Put { key: vec![n], value: vec![n; size] };
        disk.commit([put(1, 3 << 20)].iter()).unwrap();
        assert!(disk.env.info().map_size >= 3 << 20);
        let refused = disk.commit([put(2, 8 << 20)].iter()).unwrap_err();
        assert!(matches!(refused, StoreError::Full { .. }), "{refused}");
        disk.commit([put(3, 10)].iter()).unwrap();
        let keys: Vec<_> = disk.load().unwrap().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, [vec![1], vec![3]]);
    }
}
