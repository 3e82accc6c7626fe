//! Clients that write without pause and remember what they were told.
//!
//! A writer is a thread inside a host's namespace with one connection. It
//! writes `SET <writer>:<n> "<n> …"` with rising n, singly or in pipelined
//! batches, connects again at once after any I/O error, and never retries an
//! n: every attempt is one record. Before the first write of a connection, and
//! again after any refusal, it asks INFO whom it talks to (run_id, and the
//! replid of a primary), so each acknowledgement belongs to one reign. That
//! rests on a fence closing the connections of the reign it ends (S9).

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::history::{History, Log, Outcome, Reign, Write};
use crate::lab::ms;
use crate::net::{HostNet, Netns};
use crate::resp::{Client, Reply, encode};

/// Attempts one writer records before it stops: some minutes at full speed.
const WRITES_MAX: usize = 10_000_000;

#[derive(Debug, Clone)]
pub struct WriterOptions {
    /// Time from one attempt's start to the next one's.
    pub pace: Duration,
    pub connect: Duration,
    pub reply: Duration,
    /// Follow every write with `WAIT replicas ms`.
    pub wait: Option<(i64, u64)>,
    /// Writes sent together before their replies are read.
    pub batch: usize,
    /// Bytes of padding in a value.
    pub padding: usize,
    /// Said to the instance first, where it wants one.
    pub password: Option<String>,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self { pace: ms(1), connect: ms(100), reply: ms(300), wait: None, batch: 1, padding: 0, password: None }
    }
}

impl WriterOptions {
    /// For one writer beside each instance.
    pub fn gentle() -> Self {
        Self { pace: ms(5), ..Self::default() }
    }

    /// As fast as one pipelined connection goes.
    pub fn bulk() -> Self {
        Self { pace: Duration::ZERO, reply: ms(1000), batch: 200, padding: 64, ..Self::default() }
    }

    /// `WAIT replicas 100` after every write.
    pub fn waiting(replicas: i64) -> Self {
        Self { wait: Some((replicas, 100)), ..Self::default() }
    }
}

/// A running writer; dropping it ends the thread.
pub struct Writer {
    log: Arc<Mutex<Log>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts writing to `to` from inside `net`. The name must be unique in the
    /// lab: it is the keys' first part.
    pub fn start(name: &str, net: &Arc<HostNet>, to: SocketAddr, options: WriterOptions) -> Self {
        let log = Arc::new(Mutex::new(Log { writer: name.into(), ..Log::default() }));
        let stop = Arc::new(AtomicBool::new(false));
        let mut body =
            Body { net: Arc::clone(net), to, options, log: Arc::clone(&log), entered: None, connection: None, n: 0 };
        let asked = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name(format!("writer {name}"))
            .spawn(move || body.run(&asked))
            .expect("a thread");
        Self { log, stop, thread: Some(thread) }
    }

    /// What happened so far.
    pub fn so_far(&self) -> Log {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the writer after its attempt under way.
    pub fn stop(mut self) -> Log {
        self.end();
        std::mem::take(&mut *self.log.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.end();
    }
}

/// Several writers as one.
#[derive(Default)]
pub struct Load {
    pub writers: Vec<Writer>,
}

impl Load {
    pub fn with(mut self, writer: Writer) -> Self {
        self.writers.push(writer);
        self
    }

    pub fn so_far(&self) -> History {
        History::of(self.writers.iter().map(Writer::so_far))
    }

    pub fn stop(self) -> History {
        for writer in &self.writers {
            writer.stop.store(true, Ordering::Relaxed);
        }
        History::of(self.writers.into_iter().map(Writer::stop))
    }
}

/// The address of an instance for a writer on its own host.
pub fn own_instance() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 6379).into()
}

struct Connection {
    client: Client,
    /// Whom it talks to; `None`: to be asked before the next write.
    reign: Option<Reign>,
}

struct Body {
    net: Arc<HostNet>,
    to: SocketAddr,
    options: WriterOptions,
    log: Arc<Mutex<Log>>,
    entered: Option<Arc<Netns>>,
    connection: Option<Connection>,
    n: u64,
}

impl Body {
    fn run(&mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            let start = Instant::now();
            if let Err(error) = self.ensure_connection() {
                self.connection = None;
                self.record_one(start, Outcome::NoConnection(error.kind()));
            } else if self.write_batch(start).is_err() {
                self.connection = None;
            }
            if self.log.lock().unwrap_or_else(PoisonError::into_inner).writes.len() >= WRITES_MAX {
                return;
            }
            // Even a bulk writer pauses a little while nobody lets it in.
            let pace = match self.connection {
                Some(_) => self.options.pace,
                None => self.options.pace.max(ms(1)),
            };
            std::thread::sleep((start + pace).saturating_duration_since(Instant::now()));
        }
    }

    /// A connection from the host's present boot, and whom it leads to.
    fn ensure_connection(&mut self) -> io::Result<()> {
        let ns = self.net.netns()?;
        if !self.entered.as_ref().is_some_and(|entered| Arc::ptr_eq(entered, &ns)) {
            self.connection = None;
            ns.enter()?;
            self.entered = Some(ns);
        }
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(Connection {
                client: Client::connect(self.to, self.options.connect, self.options.reply)?,
                reign: None,
            }),
        };
        if connection.reign.is_none() {
            if let Some(password) = &self.options.password {
                connection.client.command(&["AUTH", password])?;
            }
            connection.reign = Some(who(&mut connection.client)?);
        }
        Ok(())
    }

    fn write_batch(&mut self, sent: Instant) -> io::Result<()> {
        let Some(mut connection) = self.connection.take() else {
            return Ok(());
        };
        let mut request = Vec::new();
        let numbers: Vec<u64> = (0..self.options.batch as u64).map(|i| self.n + i).collect();
        self.n += self.options.batch as u64;
        {
            let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
            for &n in &numbers {
                let value = format!("{n} {:.<1$}", "", self.options.padding);
                encode(&mut request, &["SET", &log.key(n), &value]);
                if let Some((replicas, bound)) = self.options.wait {
                    encode(&mut request, &["WAIT", &replicas.to_string(), &bound.to_string()]);
                }
            }
        }
        let mut failed = connection.client.send(&request).err();
        let mut writes = Vec::with_capacity(numbers.len());
        let mut refused = false;
        for n in numbers {
            let outcome = match &failed {
                Some(error) => Outcome::Unknown(error.kind()),
                None => read_outcome(&mut connection.client, self.options.wait.is_some()).unwrap_or_else(|error| {
                    let outcome = Outcome::Unknown(error.kind());
                    failed = Some(error);
                    outcome
                }),
            };
            refused |= matches!(outcome, Outcome::Refused(_));
            writes.push(Write { n, sent, done: Instant::now(), outcome, reign: None });
        }
        let by_a_replica = connection.reign.as_ref().is_some_and(|r| r.replid.is_none());
        if failed.is_none() && by_a_replica && writes.iter().any(Write::acked) {
            // Promoted between the question and the write, or a replica that
            // takes writes: ask again, the second answer tells.
            connection.reign = Some(who(&mut connection.client)?);
        }
        self.record(writes, connection.reign.clone());
        if refused {
            connection.reign = None;
        }
        match failed {
            Some(error) => Err(error),
            None => {
                self.connection = Some(connection);
                Ok(())
            }
        }
    }

    fn record_one(&mut self, sent: Instant, outcome: Outcome) {
        let write = Write { n: self.n, sent, done: Instant::now(), outcome, reign: None };
        self.n += 1;
        self.record(vec![write], None);
    }

    fn record(&self, writes: Vec<Write>, reign: Option<Reign>) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let reign = reign.map(|reign| log.reign(reign));
        log.writes
            .extend(writes.into_iter().map(|write| Write { reign: if write.acked() { reign } else { None }, ..write }));
    }
}

fn who(client: &mut Client) -> io::Result<Reign> {
    let info = client.info(&["server", "replication"])?;
    let primary = info.get("role").is_some_and(|role| role == "master");
    Ok(Reign {
        run_id: info.get("run_id").cloned().unwrap_or_default(),
        replid: info.get("master_replid").filter(|_| primary).cloned(),
    })
}

fn read_outcome(client: &mut Client, wait: bool) -> io::Result<Outcome> {
    let set = client.reply()?;
    let waited = if wait { Some(client.reply()?) } else { None };
    Ok(match (set, waited) {
        (Reply::Simple(_), Some(Reply::Int(n))) => Outcome::Acked { replicas: Some(n) },
        (Reply::Simple(_), _) => Outcome::Acked { replicas: None },
        (refusal, _) => Outcome::Refused(refusal.text()),
    })
}
