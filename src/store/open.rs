//! Everything that is checked before a store is used, and its creation.
//!
//! A store that is refused is left as it was. The `identity` file is written last at creation: where it stands, data
//! must stand too, so a node whose data file was emptied is never mistaken for a new one and never votes with its
//! memory lost (S2). The data file itself is checked page by page before it is mapped, value by value after.

use super::codec::{self, Flaw, SCHEMA};
use super::disk::{DATA_FILE, Disk, Write};
use super::error::StoreError;
use super::pages::{self, PageFault};
use super::types::{Applied, Entry, Identity, LogId, StoredMembership, Vote, boottime};
use crate::cluster::{Incarnation, Local, State};
use nix::fcntl::{FallocateFlags, Flock, FlockArg};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Says, beside the data, whose they are.
pub(super) const MARKER_FILE: &str = "identity";

pub(super) const KEY_IDENTITY: &[u8] = b"i";
pub(super) const KEY_LOCAL: &[u8] = b"l";
pub(super) const KEY_VOTE: &[u8] = b"v";
pub(super) const KEY_PURGED: &[u8] = b"p";
pub(super) const KEY_APPLIED: &[u8] = b"a";
const LOG_PREFIX: u8 = b'e';

/// Blocks set aside at creation, so that a full disk is met then and not in the middle of a failover.
const RESERVE: i64 = 4 << 20;

/// Key of the log's entry `index`.
pub(super) fn log_key(index: u64) -> Vec<u8> {
    let mut key = vec![LOG_PREFIX];
    key.extend_from_slice(&index.to_be_bytes());
    key
}

/// The applied state as it is stored.
#[derive(Serialize, Deserialize)]
pub(super) struct AppliedRecord {
    pub(super) last: Option<LogId>,
    pub(super) membership: StoredMembership,
    pub(super) state: State,
}

/// What was found on disk, all of it: the log is short.
pub(super) struct Found {
    pub(super) identity: Identity,
    pub(super) local: Local,
    pub(super) vote: Option<Vote>,
    pub(super) purged: Option<LogId>,
    pub(super) log: BTreeMap<u64, Entry>,
    pub(super) applied: Applied,
}

/// What an operator can do about an error of the system.
pub(super) fn remedy_of(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "give the user that runs mainstay read and write access",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free space there",
        io::ErrorKind::ReadOnlyFilesystem => "mount that file system for writing",
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => "correct data_dir in the configuration",
        _ => "look for faults of the disk in the kernel's log",
    }
}

fn system(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { path, what, remedy: remedy_of(&source), source }
}

/// Takes the directory's lock.
pub(super) fn lock(dir: &Path) -> Result<Flock<File>, StoreError> {
    let handle = File::open(dir).map_err(system(dir, "open the directory"))?;
    Flock::lock(handle, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        nix::errno::Errno::EWOULDBLOCK => StoreError::Busy { path: dir.to_owned() },
        other => system(dir, "lock the directory")(other.into()),
    })
}

fn refuse_world_writable(path: &Path) -> Result<(), StoreError> {
    match fs::metadata(path) {
        Ok(meta) if meta.permissions().mode() & 0o002 != 0 => {
            Err(StoreError::WorldWritable { path: path.to_owned(), mode: meta.permissions().mode() & 0o7777 })
        }
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(system(path, "look at the file")(error)),
    }
}

/// One directory being opened for one node.
pub(super) struct Opening<'a> {
    dir: &'a Path,
    cluster: &'a str,
    node: &'a str,
    data: PathBuf,
    marker: PathBuf,
}

impl<'a> Opening<'a> {
    pub(super) fn new(dir: &'a Path, cluster: &'a str, node: &'a str) -> Self {
        Self { dir, cluster, node, data: dir.join(DATA_FILE), marker: dir.join(MARKER_FILE) }
    }

    /// Checks, then opens or creates.
    pub(super) fn run(&self) -> Result<(Disk, Found), StoreError> {
        if !self.dir.exists() {
            let mut builder = fs::DirBuilder::new();
            builder.recursive(true).mode(0o700);
            builder.create(self.dir).map_err(system(self.dir, "create the directory"))?;
        }
        for path in [self.dir, &self.data, &self.marker] {
            refuse_world_writable(path)?;
        }
        let lock = lock(self.dir)?;
        let marker = self.read_marker()?;
        let size = match fs::metadata(&self.data) {
            Ok(meta) => Some(meta.len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(system(&self.data, "look at the file")(error)),
        };
        match (&marker, size) {
            (Some(_), None) => return Err(self.lost("missing")),
            (Some(_), Some(0)) => return Err(self.lost("empty")),
            (None, None | Some(0)) => {}
            (_, Some(_)) => self.check_pages()?,
        }
        let disk = Disk::open(self.dir, lock)?;
        let found = match self.decode(disk.load()?)? {
            Some(found) => found,
            None if marker.is_some() => return Err(self.lost("without records")),
            None => self.create(&disk)?,
        };
        self.check_owner(&self.data, &found.identity.node, &found.identity.cluster)?;
        match marker {
            Some(marker) if marker.incarnation != found.identity.incarnation.0 => {
                return Err(self.damaged(&self.data, "it is not the file that the identity file beside it speaks of"));
            }
            Some(_) => {}
            None => self.write_marker(&found.identity)?,
        }
        Ok((disk, found))
    }

    fn lost(&self, state: &'static str) -> StoreError {
        StoreError::Lost {
            path: self.data.clone(),
            state,
            marker: self.marker.clone(),
            dir: self.dir.to_owned(),
            node: self.node.to_owned(),
        }
    }

    fn damaged(&self, path: &Path, what: impl Into<String>) -> StoreError {
        StoreError::Damaged {
            path: path.to_owned(),
            what: what.into(),
            dir: self.dir.to_owned(),
            node: self.node.to_owned(),
        }
    }

    fn flawed(&self, what: &str, flaw: Flaw) -> StoreError {
        match flaw {
            Flaw::Schema(found) => StoreError::Schema { path: self.data.clone(), found, known: SCHEMA },
            flaw => self.damaged(&self.data, format!("{what} {flaw}")),
        }
    }

    fn check_owner(&self, path: &Path, node: &str, cluster: &str) -> Result<(), StoreError> {
        if node == self.node && cluster == self.cluster {
            return Ok(());
        }
        Err(StoreError::Foreign {
            path: path.to_owned(),
            found_node: node.to_owned(),
            found_cluster: cluster.to_owned(),
            node: self.node.to_owned(),
            cluster: self.cluster.to_owned(),
        })
    }

    fn read_marker(&self) -> Result<Option<Marker>, StoreError> {
        let text = match fs::read(&self.marker) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(system(&self.marker, "read the identity")(error)),
        };
        let parsed = serde_json::from_slice::<Marker>(&text).ok().filter(|marker| marker.crc32 == marker.checksum());
        let Some(marker) = parsed else {
            let what = "it is no identity file; if the data beside it are whole, removing it alone lets them be used";
            return Err(self.damaged(&self.marker, what));
        };
        if marker.schema != SCHEMA {
            return Err(StoreError::Schema { path: self.marker.clone(), found: marker.schema, known: SCHEMA });
        }
        self.check_owner(&self.marker, &marker.node, &marker.cluster)?;
        Ok(Some(marker))
    }

    fn write_marker(&self, identity: &Identity) -> Result<(), StoreError> {
        let mut marker = Marker {
            about: "whose data lie beside this file; checked at every start, never edit or remove it".to_owned(),
            cluster: identity.cluster.clone(),
            node: identity.node.clone(),
            incarnation: identity.incarnation.0,
            schema: SCHEMA,
            crc32: 0,
        };
        marker.crc32 = marker.checksum();
        let fresh = self.dir.join("identity.new");
        let write = || -> io::Result<()> {
            let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
            file.write_all(&serde_json::to_vec_pretty(&marker)?)?;
            file.sync_all()?;
            fs::rename(&fresh, &self.marker)?;
            File::open(self.dir)?.sync_all()
        };
        write().map_err(system(&self.marker, "write the identity"))
    }

    fn check_pages(&self) -> Result<(), StoreError> {
        let file =
            File::options().read(true).write(true).open(&self.data).map_err(system(&self.data, "open the data"))?;
        pages::check(&file).map_err(|fault| match fault {
            PageFault::Io(error) => system(&self.data, "read the data")(error),
            PageFault::Damage(what) => self.damaged(&self.data, what),
        })
    }

    fn create(&self, disk: &Disk) -> Result<Found, StoreError> {
        let mut random = [0; 16];
        getrandom::fill(&mut random)
            .map_err(|error| system(self.dir, "draw a random number")(io::Error::other(error.to_string())))?;
        let identity = Identity {
            cluster: self.cluster.to_owned(),
            node: self.node.to_owned(),
            node_id: None,
            incarnation: Incarnation(u128::from_le_bytes(random)),
            generation: 0,
            superseded: None,
        };
        self.reserve()?;
        let value = codec::seal(KEY_IDENTITY, &identity)?;
        disk.commit([Write::Put { key: KEY_IDENTITY.to_vec(), value }].iter())?;
        Ok(Found {
            identity,
            local: Local::default(),
            vote: None,
            purged: None,
            log: BTreeMap::new(),
            applied: AppliedRecord { last: None, membership: StoredMembership::default(), state: State::default() }
                .into(),
        })
    }

    /// Sets blocks aside without changing the file's size, where the file system can.
    fn reserve(&self) -> Result<(), StoreError> {
        let file = File::options().write(true).open(&self.data).map_err(system(&self.data, "open the data"))?;
        match nix::fcntl::fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, RESERVE) {
            Ok(()) | Err(nix::errno::Errno::EOPNOTSUPP | nix::errno::Errno::ENOSYS) => Ok(()),
            Err(errno) => Err(system(&self.data, "reserve space for the data")(errno.into())),
        }
    }

    /// None: there is nothing at all.
    fn decode(&self, records: super::disk::Records) -> Result<Option<Found>, StoreError> {
        if records.is_empty() {
            return Ok(None);
        }
        let mut log = BTreeMap::new();
        let mut named = BTreeMap::new();
        for (key, value) in records {
            match key.split_first() {
                Some((&LOG_PREFIX, index)) => {
                    let index =
                        index.try_into().map(u64::from_be_bytes).map_err(|_| self.flawed("a key", Flaw::Malformed))?;
                    let entry: Entry =
                        codec::open(&key, &value).map_err(|flaw| self.flawed(&format!("log entry {index}"), flaw))?;
                    log.insert(index, entry);
                }
                _ => {
                    named.insert(key, value);
                }
            }
        }
        let Some(identity) = self.take(&mut named, KEY_IDENTITY, "the identity")? else {
            return Err(self.damaged(&self.data, "it has no identity record"));
        };
        let local = self.take(&mut named, KEY_LOCAL, "the local record")?.unwrap_or_default();
        let vote = self.take(&mut named, KEY_VOTE, "the vote")?;
        let purged = self.take::<LogId>(&mut named, KEY_PURGED, "the purge mark")?;
        let applied = self.take::<AppliedRecord>(&mut named, KEY_APPLIED, "the applied state")?;
        if let Some(key) = named.keys().next() {
            return Err(self.damaged(&self.data, format!("it holds an unknown record {key:?}")));
        }
        let applied: Applied = applied
            .unwrap_or_else(|| AppliedRecord {
                last: None,
                membership: StoredMembership::default(),
                state: State::default(),
            })
            .into();
        let found = Found { identity, local, vote, purged, log, applied };
        self.check_order(&found)?;
        Ok(Some(found))
    }

    fn take<T: DeserializeOwned>(
        &self,
        from: &mut BTreeMap<Vec<u8>, Vec<u8>>,
        key: &[u8],
        what: &str,
    ) -> Result<Option<T>, StoreError> {
        from.remove(key).map(|value| codec::open(key, &value).map_err(|flaw| self.flawed(what, flaw))).transpose()
    }

    /// No hole in the log, each entry where it says it is, nothing purged that was not applied.
    fn check_order(&self, found: &Found) -> Result<(), StoreError> {
        let mut next = found.purged.map(|id| id.index + 1);
        for (index, entry) in &found.log {
            if next.is_some_and(|next| next != *index) || entry.log_id.index != *index {
                return Err(self.damaged(&self.data, format!("the log has a hole before entry {index}")));
            }
            next = Some(index + 1);
        }
        if found.purged.is_some_and(|purged| purged.index > found.applied.index()) {
            return Err(self.damaged(&self.data, "entries are gone that were never applied"));
        }
        Ok(())
    }
}

/// The identity file: JSON for people, with a checksum.
#[derive(Serialize, Deserialize)]
struct Marker {
    about: String,
    cluster: String,
    node: String,
    #[serde(with = "hex")]
    incarnation: u128,
    schema: u8,
    crc32: u32,
}

impl Marker {
    fn checksum(&self) -> u32 {
        let text = format!("{:?} {:?} {:032x} {}", self.cluster, self.node, self.incarnation, self.schema);
        crc32fast::hash(text.as_bytes())
    }
}

mod hex {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &u128, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{value:032x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u128, D::Error> {
        let text = String::deserialize(deserializer)?;
        u128::from_str_radix(&text, 16).map_err(serde::de::Error::custom)
    }
}

impl From<AppliedRecord> for Applied {
    fn from(record: AppliedRecord) -> Self {
        Self {
            state: Arc::new(record.state),
            last: record.last,
            membership: Arc::new(record.membership),
            at: boottime(),
        }
    }
}
