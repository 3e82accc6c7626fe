//! The endpoint as the agent has it: pictures and news go in, connections are taken on a thread of their own.
//!
//! A port that cannot be bound is tried again and again, and named in the log: a host's primary must not go without its
//! agent because another program, such as the Sentinel that mainstay takes over from, still has the port.

use super::converse::{Door, converse};
use super::herald::{Herald, News, hello};
use super::house::{House, Login};
use super::picture::Picture;
use super::reporter::Reporter;
use super::session::HELLO;
use crate::cluster::{GroupName, NodeId, Version};
use crate::view::{Moment, View};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot, watch};

/// Clients at a time, at most; fewer where the process may not open so many files.
pub const MAX_CLIENTS: usize = 2500;
/// Files left to everything else: peers, the store, the instance.
const SPARE_FILES: u64 = 512;
/// News that a client may be behind.
const BEHIND: usize = 256;
/// A picture is made anew at least this many times in a lease; and at once when something changed.
const PICTURES_PER_LEASE: u32 = 8;
/// How often Sentinels introduce themselves.
const HELLOS: Duration = Duration::from_secs(2);
/// Between two tries to bind the port: at first, and at most.
const BIND_FIRST: Duration = Duration::from_millis(100);
const BIND_MOST: Duration = Duration::from_secs(10);
/// After a failed accept (no file descriptors left) the listener pauses that long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const BACKLOG: i32 = 511;

/// A client asks for a change of primary.
#[derive(Debug)]
pub struct Failover {
    /// Of this group.
    pub group: GroupName,
    /// Where its outcome goes: begun, or an error in Redis' form, its code first.
    pub answer: oneshot::Sender<Result<(), String>>,
}

/// How the endpoint is to be.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// As whom they must log in, if at all.
    pub login: Option<Login>,
    /// The cluster's name: part of the agents' ids.
    pub cluster: String,
}

/// The agent's end of it. Dropped, it closes the port and all connections.
#[derive(Debug)]
pub struct Endpoint {
    reporter: Reporter,
    herald: Herald,
    pictures: watch::Sender<Arc<Picture>>,
    news: broadcast::Sender<Arc<News>>,
    known: BTreeMap<GroupName, (Version, Option<NodeId>)>,
    made: Option<Moment>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        // It waits for nothing but itself; the next agent in this process finds the port free.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Endpoint {
    /// Starts its thread. Failovers that clients ask for go to `asked`.
    ///
    /// # Errors
    /// The thread or its runtime cannot be made.
    pub fn open(options: Options, asked: mpsc::Sender<Failover>) -> std::io::Result<Self> {
        let most = room();
        let house = House::new(options.login, now(), options.listen.port(), most);
        let (pictures, picture) = watch::channel(Arc::new(Picture::default()));
        let (news, _) = broadcast::channel(BEHIND);
        let (stop, stopped) = oneshot::channel();
        let door = Arc::new(Door { house, picture, news: news.clone(), asked });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let listen = options.listen;
        let thread = std::thread::Builder::new().name("sentinel".to_owned()).spawn(move || {
            step_back();
            runtime.block_on(async move {
                tokio::select! {
                    () = serve(listen, door, most) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self {
            reporter: Reporter::new(&options.cluster),
            herald: Herald::default(),
            pictures,
            news,
            known: BTreeMap::new(),
            made: None,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// After every round of the agent's loop: at once where something changed, else now and then.
    pub fn look(&mut self, view: &View) {
        let fresh = self.made.is_some_and(|made| view.now.since(made) < view.lease() / PICTURES_PER_LEASE);
        if fresh && self.unchanged(view) {
            return;
        }
        self.made = Some(view.now);
        let groups = view.state.groups.iter();
        self.known = groups.map(|(name, group)| (name.clone(), (group.version, holder(view, name)))).collect();
        let picture = Arc::new(self.reporter.picture(view));
        let news = self.herald.tell(&picture, view.leadership.leading);
        // First the picture: who hears of a switch and asks finds the new address.
        self.pictures.send_replace(picture);
        for one in news {
            tracing::info!(target: crate::DETAIL, channel = one.channel, text = %one.text, "told Sentinel clients");
            let _ = self.news.send(Arc::new(one));
        }
    }

    fn unchanged(&self, view: &View) -> bool {
        let groups = &view.state.groups;
        groups.len() == self.known.len()
            && groups.iter().all(|(name, group)| self.known.get(name) == Some(&(group.version, holder(view, name))))
    }
}

fn holder(view: &View, name: &GroupName) -> Option<NodeId> {
    view.holder(name).map(|(node, _)| node)
}

/// Now, by CLOCK_BOOTTIME, as leases are counted.
pub(super) fn now() -> Moment {
    // The call cannot fail on Linux for this clock; at the end of time nobody would be said to serve.
    let read = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).map(Duration::from);
    Moment(read.map_or(u64::MAX, |read| u64::try_from(read.as_nanos()).unwrap_or(u64::MAX)))
}

/// How many clients this process can take, after asking for as many files as that needs.
fn room() -> usize {
    let wanted = MAX_CLIENTS as u64 + SPARE_FILES;
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 64 };
    let raised = wanted.min(hard);
    let soft = if raised > soft && setrlimit(Resource::RLIMIT_NOFILE, raised, hard).is_ok() { raised } else { soft };
    let room = usize::try_from(soft.saturating_sub(SPARE_FILES)).unwrap_or(MAX_CLIENTS).clamp(16, MAX_CLIENTS);
    if room < MAX_CLIENTS {
        tracing::warn!(room, "Sentinel clients are limited by the number of open files, LimitNOFILE");
    }
    room
}

/// The agent may be scheduled before ordinary processes; its clients are not to be served before its lease is.
fn step_back() {
    let ordinary = libc::sched_param { sched_priority: 0 };
    // SAFETY: the call reads one structure that lives as long as it, and concerns this thread alone.
    #[allow(unsafe_code)]
    let done = unsafe { libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const ordinary) };
    if done != 0 {
        tracing::warn!("Sentinel clients are served with the agent's own priority");
    }
}

async fn serve(listen: SocketAddr, door: Arc<Door>, most: usize) {
    let listener = bound(listen).await;
    tracing::info!(%listen, clients = most, "Sentinel clients are served");
    let slots = Arc::new(Semaphore::new(most));
    tokio::spawn(introduce(Arc::clone(&door)));
    let mut next = 1u64;
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            door.house.refused.fetch_add(1, Ordering::Relaxed);
            turn_away(&stream);
            continue;
        };
        let (door, id) = (Arc::clone(&door), next);
        next += 1;
        tokio::spawn(async move {
            converse(stream, peer, id, &door).await;
            drop(slot);
        });
    }
}

/// Without waiting: the one who is turned away must not hold anything up.
fn turn_away(stream: &TcpStream) {
    let _ = stream.try_write(b"-ERR max number of clients reached\r\n");
}

async fn bound(listen: SocketAddr) -> TcpListener {
    let mut wait = BIND_FIRST;
    loop {
        match bind(listen) {
            Ok(listener) => return listener,
            Err(error) => {
                tracing::error!(%listen, error = %error, "Sentinel clients cannot be served yet: [sentinel] listen; trying again");
            }
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(BIND_MOST);
    }
}

fn bind(listen: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(listen), socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&listen.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// What Sentinels say of themselves, for those who listen to it.
async fn introduce(door: Arc<Door>) {
    loop {
        tokio::time::sleep(HELLOS).await;
        if door.news.receiver_count() == 0 {
            continue;
        }
        let picture = Arc::clone(&door.picture.borrow());
        for text in hello(&picture, now()) {
            let _ = door.news.send(Arc::new(News { channel: HELLO, text }));
        }
    }
}
