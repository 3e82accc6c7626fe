//! Watches one instance: INFO at a pace on a connection of its own, and the signs of a crash.
//!
//! One request is outstanding at a time, however long the answer takes, so a hung instance gathers no queue. A
//! crash is told at once when the verified process exits, or when the connection closes and a new one is refused
//! (S7). A connection that was merely killed is replaced. Silence is told, never judged: how long is too long is
//! the core's word. The watcher sends nothing but INFO.

use super::conn::{Conn, Named, command, text_of};
use super::error::{Error, GoneKind, from_server};
use super::info::{Info, InfoError, LoadingProgress};
use super::outbox::{InstanceEvent, Outbox, Silence};
use super::process::{MainPid, ProcRef};
use super::{Endpoint, Target};
use crate::view::Moment;
use std::future::pending;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// No pause is shorter, whatever [`Timing`] says: a zero must not spin.
const SHORTEST: Duration = Duration::from_millis(1);
/// An instance's process is looked for no more often.
const SEARCH_PAUSE: Duration = Duration::from_secs(1);
/// A socket with room in its queue takes a connection at once.
const SEARCH_BOUND: Duration = Duration::from_millis(20);
/// This many logins cut in a row are told.
const CUT_LOGINS: u32 = 5;

/// How a watcher spends its time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timing {
    /// From one INFO to the next; changed later by [`Watcher::set_pace`].
    pub pace: Duration,
    /// A request unanswered for this long is told as silence …
    pub silent_after: Duration,
    /// … and again after each of these.
    pub silent_every: Duration,
    /// First wait before connecting anew; doubles up to `backoff_max`.
    pub backoff_min: Duration,
    /// Longest wait before connecting anew.
    pub backoff_max: Duration,
    /// Wait after a refused login or an answer that makes no sense: nothing that passes by itself in a moment.
    pub backoff_misconfigured: Duration,
    /// A connection silent for this long is replaced, in case it is the connection and not the instance. Doubles
    /// up to 64 times, since a stopped instance keeps every connection in its accept queue.
    pub replace_after: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            pace: Duration::from_millis(100),
            silent_after: Duration::from_millis(100),
            silent_every: Duration::from_millis(200),
            backoff_min: Duration::from_millis(5),
            backoff_max: Duration::from_millis(250),
            backoff_misconfigured: Duration::from_secs(1),
            replace_after: Duration::from_secs(2),
        }
    }
}

/// Asks a watcher for an INFO now; what a [`Commander`](super::Commander) does after each command.
#[derive(Clone, Debug)]
pub struct Poke(Arc<Notify>);

impl Poke {
    /// Polls at once, or right after the answer that is awaited.
    pub fn poll_now(&self) {
        self.0.notify_one();
    }
}

/// A running watcher; dropping it ends it and closes its connection.
#[derive(Debug)]
pub struct Watcher {
    pace: watch::Sender<Duration>,
    poke: Poke,
    process: Arc<Mutex<Option<ProcRef>>>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Watcher {
    /// Starts watching. `main_pid` is the instance's process where a service manager is asked; `events` gets what is
    /// seen, see [`InstanceEvent`] for what a slow listener misses.
    pub fn spawn(endpoint: Endpoint, timing: Timing, main_pid: MainPid, events: mpsc::Sender<InstanceEvent>) -> Self {
        let (pace, pace_rx) = watch::channel(timing.pace);
        let poke = Poke(Arc::default());
        let process: Arc<Mutex<Option<ProcRef>>> = Arc::default();
        let outbox = Outbox::default();
        let watch = Watch {
            endpoint,
            timing,
            outbox: outbox.clone(),
            pace: pace_rx,
            poke: poke.0.clone(),
            shared_process: process.clone(),
            process: None,
            main_pid,
            ticks: None,
            looked_up: None,
            searched: None,
            waiting_since: None,
            gone: false,
            replace_after: timing.replace_after,
            cut_logins: 0,
        };
        Self { pace, poke, process, tasks: [tokio::spawn(watch.run()), tokio::spawn(outbox.pump(events))] }
    }

    /// Changes the time from one INFO to the next; takes effect at once.
    pub fn set_pace(&self, pace: Duration) {
        self.pace.send_replace(pace);
    }

    /// A handle that asks for an INFO now.
    pub fn poke(&self) -> Poke {
        self.poke.clone()
    }

    /// The instance's process, if it runs on this host, was verified and has not exited.
    pub fn process(&self) -> Option<ProcRef> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).clone().filter(ProcRef::is_alive)
    }
}

/// CLOCK_BOOTTIME, which cannot fail on Linux; zero would only make an answer look older than it is.
fn boottime() -> Moment {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).map(Duration::from);
    now.map_or(Moment(0), |now| Moment(0) + now)
}

/// How waiting for something ended.
enum Waited<T> {
    Done(T),
    Exited,
    Expired,
}

/// Why a connection was left.
enum End {
    /// Closed by the other side, or replaced: connect again without delay.
    Closed,
    /// The process exited.
    Exited,
    /// It answers, but badly.
    Misconfigured,
}

struct Watch {
    endpoint: Endpoint,
    timing: Timing,
    outbox: Outbox,
    pace: watch::Receiver<Duration>,
    poke: Arc<Notify>,
    shared_process: Arc<Mutex<Option<ProcRef>>>,
    process: Option<ProcRef>,
    main_pid: MainPid,
    /// The processor time of the process when the oldest request without an answer was sent, or when silence was told.
    ticks: Option<u64>,
    /// The run id whose process was looked up, and the unit's main process then.
    looked_up: Option<(String, Option<u32>)>,
    /// When its process was last looked for because the instance does not tell it.
    searched: Option<Instant>,
    /// When the oldest request without an answer was sent.
    waiting_since: Option<Instant>,
    /// A crash was told and nothing has answered since.
    gone: bool,
    replace_after: Duration,
    /// Logins in a row that ended in a closed connection.
    cut_logins: u32,
}

impl Watch {
    async fn run(mut self) {
        let mut backoff = self.timing.backoff_min;
        loop {
            let pause = match self.connect().await {
                Waited::Done(Ok(conn)) => {
                    let connected = Instant::now();
                    let end = self.watch(conn).await;
                    // A connection that lived is no part of a series of failures.
                    if connected.elapsed() > self.timing.backoff_max {
                        backoff = self.timing.backoff_min;
                    }
                    match end {
                        End::Closed if backoff == self.timing.backoff_min => Duration::ZERO,
                        End::Closed => backoff,
                        End::Exited => self.exited(backoff),
                        End::Misconfigured => self.timing.backoff_misconfigured,
                    }
                }
                Waited::Done(Err(err)) => {
                    if matches!(err, Error::Busy { .. }) {
                        self.search().await;
                    }
                    self.connect_failed(err, backoff)
                }
                Waited::Exited => self.exited(backoff),
                Waited::Expired => backoff,
            };
            backoff = (backoff * 2).min(self.timing.backoff_max);
            let process = self.process.clone();
            tokio::select! {
                () = sleep(pause) => {}
                () = exit_of(process.as_ref()) => { self.exited(pause); }
            }
        }
    }

    async fn connect(&mut self) -> Waited<Result<Conn, Error>> {
        let endpoint = self.endpoint.clone();
        let limit = self.replace_after;
        self.wait(limit, Conn::open_unbounded(&endpoint)).await
    }

    /// Waits for an answer, telling silence meanwhile.
    async fn wait<T>(&mut self, limit: Duration, answer: impl Future<Output = T>) -> Waited<T> {
        let started = Instant::now();
        if self.waiting_since.is_none() {
            self.ticks = self.process.as_ref().and_then(ProcRef::ticks);
        }
        let since = *self.waiting_since.get_or_insert(started);
        let mut tell = started + self.timing.silent_after;
        let process = self.process.clone();
        let mut answer = pin!(answer);
        let mut exit = pin!(exit_of(process.as_ref()));
        loop {
            tokio::select! {
                biased;
                () = &mut exit => return Waited::Exited,
                done = &mut answer => return Waited::Done(done),
                () = sleep_until(tell) => {
                    self.search().await;
                    let ticks = self.process.as_ref().and_then(ProcRef::ticks);
                    let progress = self.ticks.zip(ticks).map(|(before, now)| before != now);
                    self.ticks = ticks;
                    self.outbox.put(InstanceEvent::Silent(Silence { since: since.elapsed(), progress }));
                    if started.elapsed() >= limit {
                        self.replace_after = (self.replace_after * 2).min(self.timing.replace_after * 64);
                        return Waited::Expired;
                    }
                    tell += self.timing.silent_every.max(SHORTEST);
                }
            }
        }
    }

    /// Polls over one connection until it ends.
    async fn watch(&mut self, mut conn: Conn) -> End {
        let question = [command("INFO", &["INFO"])];
        let closed = conn.closed();
        let mut closed = pin!(closed);
        loop {
            match self.poll(&mut conn, &question).await {
                Ok(()) => {}
                Err(end) => return end,
            }
            let process = self.process.clone();
            let asked = Instant::now();
            loop {
                let pace = (*self.pace.borrow_and_update()).max(SHORTEST);
                tokio::select! {
                    biased;
                    () = exit_of(process.as_ref()) => return End::Exited,
                    () = &mut closed => return End::Closed,
                    () = self.poke.notified() => break,
                    () = sleep_until(asked + pace) => break,
                    changed = self.pace.changed() => if changed.is_err() { pending::<()>().await },
                }
            }
        }
    }

    async fn poll(&mut self, conn: &mut Conn, question: &[Named]) -> Result<(), End> {
        let asked = boottime();
        let limit = self.replace_after;
        let answers = match self.wait(limit, conn.batch_unbounded(question)).await {
            Waited::Exited => return Err(End::Exited),
            Waited::Expired => return Err(End::Closed),
            Waited::Done(Err(Error::Closed { .. })) => return Err(End::Closed),
            Waited::Done(Err(err)) => return Err(self.nonsense(&err)),
            Waited::Done(Ok(answers)) => answers,
        };
        self.answered();
        match answers.into_iter().next() {
            Some(Ok(value)) => {
                let parsed = text_of(&value).ok_or(InfoError::NotText).and_then(|text| Info::parse(&text));
                match parsed {
                    Ok(info) => self.tell(conn, info, asked),
                    Err(source) => {
                        let target = conn.target().to_owned();
                        return Err(self.nonsense(&Error::Info { target, source }));
                    }
                }
            }
            Some(Err(refusal)) => match from_server(conn.target(), "INFO", &refusal) {
                Error::Loading { .. } => self.outbox.put(InstanceEvent::Loading(LoadingProgress::default())),
                Error::Busy { .. } => {
                    self.search().await;
                    self.outbox.put(InstanceEvent::Busy);
                }
                err @ Error::Auth { .. } => {
                    self.outbox.put(InstanceEvent::AuthFailed { detail: err.to_string() });
                    return Err(End::Misconfigured);
                }
                err => return Err(self.nonsense(&err)),
            },
            None => return Err(End::Misconfigured),
        }
        Ok(())
    }

    fn tell(&mut self, conn: &Conn, info: Info, asked: Moment) {
        let peer = conn.peer();
        // Looked up once for each start of the instance, and again when its unit has another process; its connection,
        // open now, proves that it lives.
        let main = self.main_pid.get();
        let known = self
            .looked_up
            .as_ref()
            .is_some_and(|(run_id, at)| *run_id == info.run_id && (*at == main || self.process.is_some()));
        if peer.local && !known {
            let pid = peer.pid.unwrap_or(info.pid);
            self.set_process(ProcRef::open(pid, peer.pid.is_some() || main == Some(pid)));
            self.looked_up = Some((info.run_id.clone(), main));
        }
        if info.loading || info.async_loading {
            self.outbox.put(InstanceEvent::Loading(info.loading_progress.unwrap_or_default()));
        }
        self.outbox.put(InstanceEvent::Info { info: Box::new(info), asked });
    }

    /// Looks for the process of an instance that has never told it to this agent: hung or blocked since before the
    /// agent started, it may have to be killed.
    async fn search(&mut self) {
        if self.process.is_some() || self.searched.is_some_and(|at| at.elapsed() < SEARCH_PAUSE) {
            return;
        }
        self.searched = Some(Instant::now());
        let found = match &self.endpoint.target {
            Target::Tcp { host, port } => match own_address(host) {
                Some(ip) => match ProcRef::listening((ip, *port).into()).await {
                    Some(found) => Some(found),
                    None => self.main_pid.get().and_then(|pid| ProcRef::open(pid, true)),
                },
                None => None,
            },
            Target::Unix(path) => match timeout(SEARCH_BOUND, UnixStream::connect(path)).await {
                Ok(Ok(stream)) => stream
                    .peer_cred()
                    .ok()
                    .and_then(|peer| peer.pid())
                    .and_then(|pid| ProcRef::open(pid.cast_unsigned(), true)),
                _ => None,
            },
        };
        if found.is_some() {
            self.set_process(found);
        }
    }

    fn answered(&mut self) {
        self.cut_logins = 0;
        self.waiting_since = None;
        self.gone = false;
        self.replace_after = self.timing.replace_after;
    }

    fn nonsense(&mut self, err: &Error) -> End {
        self.outbox.put(InstanceEvent::ProtocolNonsense { detail: err.to_string() });
        End::Misconfigured
    }

    fn connect_failed(&mut self, err: Error, backoff: Duration) -> Duration {
        let detail = err.to_string();
        match err {
            Error::Gone { kind, .. } => {
                self.crashed(kind);
                backoff
            }
            Error::Auth { .. } => {
                self.answered();
                self.outbox.put(InstanceEvent::AuthFailed { detail });
                self.timing.backoff_misconfigured
            }
            Error::Unreachable { .. } | Error::Full { .. } => {
                self.outbox.put(InstanceEvent::Unreachable { detail });
                backoff
            }
            // The login was cut: it died this moment, then the next try is refused; or a fence closes all; or,
            // when it goes on, maxclients is reached (the instance's words for that can be lost with the close).
            Error::Closed { .. } => {
                self.cut_logins += 1;
                if self.cut_logins >= CUT_LOGINS {
                    let detail = format!("{detail}; if that lasts, maxclients may be reached");
                    self.outbox.put(InstanceEvent::Unreachable { detail });
                }
                backoff
            }
            Error::Loading { .. } => {
                self.answered();
                self.outbox.put(InstanceEvent::Loading(LoadingProgress::default()));
                backoff
            }
            Error::Busy { .. } => {
                self.answered();
                self.outbox.put(InstanceEvent::Busy);
                backoff
            }
            _ => {
                self.outbox.put(InstanceEvent::ProtocolNonsense { detail });
                self.timing.backoff_misconfigured
            }
        }
    }

    fn exited(&mut self, pause: Duration) -> Duration {
        self.crashed(GoneKind::ProcessExited);
        pause
    }

    fn crashed(&mut self, kind: GoneKind) {
        // A process that is still alive and refuses keeps its reference: it may have to be killed.
        if self.process.as_ref().is_some_and(|p| !p.is_alive()) {
            self.set_process(None);
        }
        self.waiting_since = None;
        self.replace_after = self.timing.replace_after;
        if !self.gone {
            self.gone = true;
            self.outbox.put(InstanceEvent::Gone(kind));
        }
    }

    fn set_process(&mut self, process: Option<ProcRef>) {
        self.process.clone_from(&process);
        *self.shared_process.lock().unwrap_or_else(PoisonError::into_inner) = process;
    }
}

/// The address, if it is one of this host's: nobody else's can be bound.
fn own_address(host: &str) -> Option<IpAddr> {
    let address = if host == "localhost" { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { host.parse().ok()? };
    std::net::UdpSocket::bind((address, 0)).is_ok().then_some(address)
}

async fn exit_of(process: Option<&ProcRef>) {
    match process {
        Some(process) => process.exited().await,
        None => pending().await,
    }
}
