//! A model of one Redis instance, as far as replication goes.
//!
//! It keeps what Redis 7 keeps: `run_id`, role, the two replication ids with the second's offset, the offset, a backlog,
//! the attached replicas with what they acknowledged, `min-replicas-to-write`, a write pause. The data is the list of
//! the writes it holds, so that "acknowledged and lost" can be read off exactly. One byte of offset is one write or ping.
//! Between instances, see `replication.rs`; held to a real Redis, see `real/`.
//!
//! Left out on purpose: bytes within a command; that the backlog is trimmed block by block (and freed after an hour without replicas,
//! which the shells forbid); that an AOF still holds the old data until it is written anew after a full resynchronisation; clients' writes
//! that wait in a frozen instance's sockets; `MISCONF` and all else that no agent causes or looks at.

use crate::rng::Rng;
use crate::world::{MS, Ns, group_at, host_at, place};
use mainstay::cluster::{Offset, Replid, RunId};
use mainstay::view::{Info, Moment, ReplicaRow};
use std::collections::{BTreeMap, VecDeque};

/// Where it replicates from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upstream {
    /// Sealed: an address where nobody listens.
    Nowhere,
    /// The instance at another place.
    Host(usize),
}

/// The link to the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Not connected.
    Down,
    /// A full resynchronisation: the data are on their way until that time, and its own still there.
    Syncing(Ns),
    /// It loads them in place of its own, until that time and whatever becomes of the connection.
    Loading {
        /// When it is done.
        until: Ns,
        /// The history that they belong to.
        replid: u64,
        /// Where in it.
        offset: u64,
    },
    /// Streaming.
    Up,
}

/// An attached replica, as the primary sees it.
#[derive(Debug, Clone, Copy)]
pub struct Attached {
    /// Tells this connection from the ones before.
    pub connection: u64,
    /// The stream from here on is kept for it.
    pub needs: u64,
    /// Whether it streams, as opposed to being synchronised.
    pub online: bool,
    /// The offset it acknowledged.
    pub acked: u64,
    /// When it did.
    pub acked_at: Ns,
}

/// A client that waits for replicas.
#[derive(Debug, Clone, Copy)]
pub struct Waiting {
    /// The write.
    pub write: u64,
    /// The offset to reach.
    pub offset: u64,
    /// By how many.
    pub need: usize,
}

/// Why a client's write is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// No process.
    Gone,
    /// It answers nothing.
    Silent,
    /// `NOREPLICAS`
    NoReplicas,
    /// `READONLY`
    ReadOnly,
    /// `LOADING`
    Loading,
    /// Paused: no answer for the time being.
    Held,
}

/// The RDB file on disk, in terms of what the instance holds now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Saved {
    /// How many of its first writes are in it.
    pub kept: usize,
    /// The replication id and the offset that it names.
    pub history: Option<(u64, u64)>,
}

/// What an agent's connection asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// `REPLICAOF NO ONE` and `min-replicas-to-write`.
    NoOne(u32),
    /// Read-only, `REPLICAOF` nowhere.
    Nowhere {
        /// A fence: writes go on (to be refused), client and replica connections are closed.
        close: bool,
    },
    /// `REPLICAOF` the instance at a place.
    ReplicaOf(usize),
    /// `CLIENT PAUSE ... WRITE` up to that time.
    Pause(Ns),
    /// `CLIENT UNPAUSE`.
    Unpause,
    /// `min-replicas-to-write`.
    Tune(u32),
}

impl Command {
    /// What is left of it while `REPLICAOF` is refused.
    fn while_loading(self) -> Option<Self> {
        match self {
            Command::NoOne(min) => Some(Command::Tune(min)),
            Command::Nowhere { .. } | Command::ReplicaOf(_) => Some(Command::Unpause),
            Command::Pause(_) | Command::Unpause | Command::Tune(_) => None,
        }
    }
}

/// One process.
#[derive(Debug, Clone)]
pub struct Redis {
    /// Whether it runs.
    pub alive: bool,
    /// Which process this is, counted over the whole run.
    pub run: u64,
    /// Frozen until then.
    pub hung_until: Ns,
    /// Loads until then.
    pub loading_until: Ns,
    /// None: it is a primary.
    pub upstream: Option<Upstream>,
    /// To the upstream.
    pub link: Link,
    /// It may ask for a partial resynchronisation: until the data of a full one replace its own, as Redis keeps its
    /// cached master up to there.
    pub resumable: bool,
    /// Its connection to the upstream.
    pub connection: u64,
    /// Replication ids; the second holds up to `second_offset`.
    pub replid: u64,
    pub replid2: u64,
    pub second_offset: u64,
    /// Earlier ids and up to where each held: an RDB keeps the one of its time.
    pub former: Vec<(u64, u64)>,
    /// `master_repl_offset`.
    pub offset: u64,
    /// The writes it holds.
    pub data: Vec<u64>,
    /// What can be sent again: bytes from `stream_base` on. None: no backlog, and the offset stands still.
    pub stream: Option<Vec<u64>>,
    pub stream_base: u64,
    /// How much of it is kept (`repl-backlog-size`).
    pub backlog: usize,
    /// Attached replicas by host.
    pub replicas: BTreeMap<usize, Attached>,
    pub min_replicas: u32,
    /// As a replica it gets a byte now and then only.
    pub narrow: bool,
    /// As a replica it takes clients' writes: `replica-read-only no`.
    pub writable: bool,
    pub paused_until: Ns,
    /// Came in while it was frozen, with the number of the task that sent it.
    pub queue: VecDeque<(u64, Command)>,
    pub waiting: Vec<Waiting>,
    /// The offset that each write of `data` ended at, for those of the present replication history.
    pub marks: Vec<u64>,
    /// The offset that the data had before the first of these.
    pub origin: u64,
    /// Its RDB file.
    pub saved: Option<Saved>,
    /// Synchronisations that it served since it started, full and partial (`sync_full`, `sync_partial_ok`).
    pub served: (u64, u64),
}

impl Redis {
    /// A first start: empty, sealed.
    pub fn born(run: u64, replid: u64) -> Self {
        Self {
            alive: true,
            run,
            hung_until: 0,
            loading_until: 0,
            upstream: Some(Upstream::Nowhere),
            link: Link::Down,
            resumable: false,
            connection: 0,
            replid,
            replid2: 0,
            second_offset: 0,
            former: Vec::new(),
            offset: 0,
            data: Vec::new(),
            stream: None,
            stream_base: 0,
            backlog: usize::MAX,
            replicas: BTreeMap::new(),
            min_replicas: 0,
            narrow: false,
            writable: false,
            paused_until: 0,
            queue: VecDeque::new(),
            waiting: Vec::new(),
            marks: Vec::new(),
            origin: 0,
            saved: None,
            served: (0, 0),
        }
    }

    /// The process dies. What it held stays only as far as `reborn` finds it.
    pub fn die(&mut self) {
        self.alive = false;
        self.replicas.clear();
        self.queue.clear();
        self.waiting.clear();
        if let Link::Loading { replid, offset, .. } = self.link {
            // What was being loaded is in its file.
            (self.replid, self.replid2, self.offset, self.resumable) = (replid, 0, offset, true);
        }
        self.link = Link::Down;
    }

    /// A full resynchronisation is under way.
    pub fn syncing(&self) -> bool {
        matches!(self.link, Link::Syncing(_) | Link::Loading { .. })
    }

    /// What came takes the place of its own data.
    pub fn begin_load(&mut self, from: &Self, until: Ns) {
        self.data.clone_from(&from.data);
        self.marks.clear();
        self.former.clear();
        self.origin = from.offset;
        self.replicas.clear();
        self.stream = None;
        self.resumable = false;
        self.saved = Some(Saved { kept: self.data.len(), history: Some((from.replid, from.offset)) });
        self.link = Link::Loading { until, replid: from.replid, offset: from.offset };
        self.loading_until = Ns::MAX;
    }

    /// Started anew, sealed by its command line (S6), with `kept` of its writes. With an RDB that is replication id and
    /// offset too; an AOF keeps neither.
    pub fn reborn(&mut self, run: u64, replid: u64, kept: usize, rdb: bool, loading_until: Ns) {
        let file = if rdb { self.file(kept) } else { Saved { kept, history: None } };
        self.load(run, replid, file, loading_until);
    }

    /// What an RDB file with so many of its writes says.
    fn file(&self, kept: usize) -> Saved {
        let counted = kept.checked_sub(self.data.len() - self.marks.len()).filter(|_| self.has_history());
        let history = counted.map(|counted| {
            let offset = counted.checked_sub(1).map_or(self.origin, |last| self.marks[last]);
            let former = self.former.iter().find(|(_, end)| offset < *end);
            (former.map_or(self.replid, |(replid, _)| *replid), offset)
        });
        Saved { kept, history }
    }

    /// Started anew, sealed, from that file.
    pub fn load(&mut self, run: u64, replid: u64, file: Saved, loading_until: Ns) {
        let old = std::mem::replace(self, Self::born(run, replid));
        let before = old.data.len() - old.marks.len();
        self.backlog = old.backlog;
        self.data = old.data;
        self.data.truncate(file.kept);
        if let Some((replid, offset)) = file.history {
            (self.replid, self.offset) = (replid, offset);
            self.marks = old.marks[..file.kept.saturating_sub(before)].to_vec();
            self.origin = old.origin;
            self.former = old.former;
            self.former.retain(|(_, end)| *end <= offset);
            self.resumable = true;
        }
        self.saved = Some(file);
        self.loading_until = loading_until;
    }

    /// Whether an RDB file of it names a replication id.
    fn has_history(&self) -> bool {
        if self.upstream.is_none() { self.stream.is_some() } else { self.resumable }
    }

    /// `SAVE`: replication id and offset go along where it could continue from them.
    pub fn save(&mut self) {
        let history = self.has_history().then_some((self.replid, self.offset));
        self.saved = Some(Saved { kept: self.data.len(), history });
    }

    /// An empty backlog that begins here.
    pub fn new_stream(&mut self) {
        self.stream_base = self.offset;
        self.stream = Some(Vec::new());
    }

    /// A diskless load throws the old data away first.
    pub fn empty(&mut self) {
        self.data.clear();
        self.marks.clear();
        self.resumable = false;
        self.stream = None;
    }

    pub fn run_id(&self) -> RunId {
        RunId(format!("run{}", self.run))
    }

    /// Whether it answers at all.
    pub fn answers(&self, now: Ns) -> bool {
        self.alive && now >= self.hung_until
    }

    /// Whether it answers commands.
    pub fn ready(&self, now: Ns) -> bool {
        self.answers(now) && now >= self.loading_until
    }

    /// Replicas that `min-replicas-to-write` with max-lag 1 counts.
    pub fn good_replicas(&self, now: Ns) -> usize {
        self.replicas.values().filter(|r| r.online && now.saturating_sub(r.acked_at) <= 1500 * MS).count()
    }

    /// Whether a write would be accepted now.
    pub fn accepts(&self, now: Ns) -> bool {
        self.refuses(now).is_none()
    }

    /// Why a write would not be, in the order in which Redis looks.
    pub fn refuses(&self, now: Ns) -> Option<Refusal> {
        let few = self.upstream.is_none() && self.good_replicas(now) < self.min_replicas as usize;
        match () {
            () if !self.alive => Some(Refusal::Gone),
            () if !self.answers(now) => Some(Refusal::Silent),
            () if few => Some(Refusal::NoReplicas),
            () if self.upstream.is_some() && !self.writable => Some(Refusal::ReadOnly),
            () if !self.ready(now) => Some(Refusal::Loading),
            () if now < self.paused_until => Some(Refusal::Held),
            () => None,
        }
    }

    /// Takes a write or a ping (0).
    pub fn write(&mut self, id: u64) {
        if let Some(stream) = &mut self.stream {
            stream.push(id);
            self.offset += 1;
            self.trim();
        }
        if id == 0 {
            return;
        }
        self.data.push(id);
        self.marks.push(self.offset);
        if self.stream.is_none() {
            // It is in no history.
            self.marks.clear();
            self.origin = self.offset;
        }
    }

    /// Forgets what is beyond the backlog's size, but for what an attached replica has still to get.
    pub fn trim(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        let behind = self.replicas.values().map(|replica| replica.needs.max(replica.acked)).min();
        let needed = behind.unwrap_or(u64::MAX).saturating_sub(self.stream_base);
        let gone = stream.len().saturating_sub(self.backlog).min(usize::try_from(needed).unwrap_or(usize::MAX));
        stream.drain(..gone);
        self.stream_base += gone as u64;
    }

    /// What an answer to INFO says.
    pub fn info(&self, asked: Moment, now: Ns) -> Info {
        let row = |(host, replica): (&usize, &Attached)| ReplicaRow {
            address: announce(*host),
            syncing: !replica.online,
            online: replica.online && now.saturating_sub(replica.acked_at) <= 1500 * MS,
            offset: Offset(replica.acked),
        };
        // The shell leaves out a replica that has not acknowledged for two seconds: Redis itself shows it for
        // `repl-timeout`.
        let known =
            |(_, replica): &(&usize, &Attached)| !replica.online || now.saturating_sub(replica.acked_at) <= 2000 * MS;
        Info {
            asked,
            run_id: self.run_id(),
            primary: self.upstream.is_none(),
            replid: replid_text(self.replid),
            replid2: replid_text(self.replid2),
            second: (self.replid2 != 0).then_some(Offset(self.second_offset)),
            // While it loads, its link has none yet.
            offset: Offset(if matches!(self.link, Link::Loading { .. }) { 0 } else { self.offset }),
            backlog: self.stream.as_ref().map(|_| (Offset(self.stream_base + 1), 0)).unwrap_or_default(),
            upstream: self.upstream.map(|upstream| match upstream {
                Upstream::Nowhere => "127.0.0.1:1".to_owned(),
                Upstream::Host(host) => announce(host),
            }),
            link_up: self.link == Link::Up,
            syncing: self.syncing(),
            loading: now < self.loading_until,
            keys: self.data.len() as u64,
            replicas: self.replicas.iter().filter(known).map(row).collect(),
        }
    }

    /// Executes a command of an agent. The caller looks after what it means for the others. False: `LOADING` was the
    /// answer to a `REPLICAOF`; the rest is done.
    pub fn execute(&mut self, command: Command, now: Ns, rng: &mut Rng) -> bool {
        if now < self.loading_until
            && let Some(rest) = command.while_loading()
        {
            if command == (Command::Nowhere { close: true }) {
                self.replicas.clear();
            }
            self.execute(rest, self.loading_until, rng);
            return false;
        }
        match command {
            Command::NoOne(min_replicas) => {
                self.min_replicas = min_replicas;
                if self.upstream.take().is_some() {
                    self.former.push((self.replid, self.offset));
                    self.replid2 = self.replid;
                    self.second_offset = self.offset;
                    self.replid = rng.draw();
                    self.replicas.clear();
                    self.link = Link::Down;
                }
            }
            Command::Nowhere { close } => {
                self.resumable |= self.upstream.is_none();
                self.writable = false;
                self.upstream = Some(Upstream::Nowhere);
                self.link = Link::Down;
                self.waiting.clear();
                if close {
                    self.paused_until = 0;
                    self.replicas.clear();
                }
            }
            Command::ReplicaOf(host) => {
                self.resumable |= self.upstream.is_none();
                if self.upstream != Some(Upstream::Host(host)) {
                    self.upstream = Some(Upstream::Host(host));
                    self.link = Link::Down;
                    self.waiting.clear();
                }
            }
            Command::Pause(until) => self.paused_until = until,
            Command::Unpause => self.paused_until = 0,
            Command::Tune(min_replicas) => self.min_replicas = min_replicas,
        }
        true
    }

    /// From here on offsets count: what it holds has none of its own.
    pub fn begin_history(&mut self) {
        self.new_stream();
        self.marks.clear();
        self.former.clear();
        self.origin = self.offset;
    }

    /// Whether a replica that asks for `replid` from `offset` on is served from the backlog (PSYNC).
    pub fn continues(&self, replid: u64, offset: u64) -> bool {
        let known = replid == self.replid || (replid == self.replid2 && offset <= self.second_offset);
        let Some(stream) = &self.stream else { return false };
        known && offset >= self.stream_base && offset <= self.stream_base + stream.len() as u64
    }
}

/// `host:port` of the instance at a place.
pub fn announce(place: usize) -> String {
    format!("10.0.0.{}:{}", host_at(place) + 1, 6379 + group_at(place))
}

/// The place with that address.
pub fn place_of(address: &str) -> Option<usize> {
    let (host, port) = address.strip_prefix("10.0.0.")?.split_once(':')?;
    let (host, port) = (host.parse::<usize>().ok()?, port.parse::<usize>().ok()?);
    Some(place(host.checked_sub(1)?, port.checked_sub(6379)?))
}

fn replid_text(id: u64) -> Replid {
    Replid(format!("{id:016x}"))
}
