//! Sentinel clients: what they are told through a crash, a failover that they ask for and the loss of a host, and by
//! every agent; and that many of them cost the agent neither its lease nor memory.
//!
//! A prober asks every agent for the primary as fast as it can and goes there at once: who is named must say that it is
//! the primary. How long an agent went on naming one that was not is measured, and bounded.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::cluster::{ASK, Cluster, Options};
use crate::lab::{in_lab, ms, secs, wait_for};
use crate::net::{HostNet, address};
use crate::resp::{Client, Reply, encode};
use crate::switch::HostNo;

pub(crate) const PORT: u16 = 26379;
const NAME: &str = "mymaster";

/// A connection from the client's host to an agent.
pub(crate) fn agent(net: &HostNet, no: HostNo) -> io::Result<Client> {
    Client::over(net.connect((address(no), PORT).into(), ms(100))?, ASK)
}

/// One of many, who must be patient.
fn one_of_many(net: &HostNet, no: HostNo) -> Client {
    Client::over(net.connect((address(no), PORT).into(), secs(5)).expect("a connection"), secs(10))
        .expect("a connection")
}

/// Whom an agent names: the host, if any.
pub(crate) fn named(client: &mut Client) -> io::Result<Option<SocketAddr>> {
    match client.command(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME])? {
        Reply::Nil => Ok(None),
        Reply::Array(words) if words.len() == 2 => {
            let text = format!("{}:{}", words[0].text(), words[1].text());
            text.parse().map(Some).map_err(|_| io::Error::other(text))
        }
        other => Err(io::Error::other(format!("{other:?}"))),
    }
}

fn wait_named(c: &Cluster, no: HostNo, primary: HostNo) {
    let meant: SocketAddr = (address(primary), 6379).into();
    wait_for("the primary's address", secs(10), || {
        match agent(&c.client, no).and_then(|mut client| named(&mut client)) {
            Ok(Some(found)) if found == meant => Ok(()),
            other => Err(format!("n{no}: {other:?}")),
        }
    });
}

/// One message: when, on which channel, what.
type Told = (Instant, String, String);

/// Listens to everything that an agent publishes; connects again when it has to.
struct Listener {
    told: Arc<Mutex<Vec<Told>>>,
    quit: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    fn start(net: &Arc<HostNet>, no: HostNo) -> Self {
        let (told, quit) = (Arc::<Mutex<Vec<Told>>>::default(), Arc::new(AtomicBool::new(false)));
        let (net, log, over) = (Arc::clone(net), Arc::clone(&told), Arc::clone(&quit));
        let thread = std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                if let Ok(mut client) = agent(&net, no) {
                    let _ = listen(&mut client, &log, &over);
                }
                std::thread::sleep(ms(20));
            }
        });
        Self { told, quit, thread: Some(thread) }
    }

    fn switches(&self) -> Vec<(Instant, String)> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.iter()
            .filter(|(_, channel, _)| channel == "+switch-master")
            .map(|(at, _, text)| (*at, text.clone()))
            .collect()
    }

    fn channels(&self) -> Vec<String> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.iter().map(|(_, channel, _)| channel.clone()).collect()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.quit.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

fn listen(client: &mut Client, log: &Mutex<Vec<Told>>, over: &AtomicBool) -> io::Result<()> {
    client.command(&["PSUBSCRIBE", "*"])?;
    while !over.load(Ordering::Relaxed) {
        match client.reply() {
            Ok(message) => {
                let words: Vec<String> = message.items().iter().map(Reply::text).collect();
                let [_, _, channel, text] = words.as_slice() else {
                    return Err(io::Error::other(format!("{words:?}")));
                };
                let told = (Instant::now(), channel.clone(), text.clone());
                log.lock().unwrap_or_else(PoisonError::into_inner).push(told);
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// When, whom, and whether it was the primary.
type Seen = Arc<Mutex<Vec<(Instant, Option<SocketAddr>, bool)>>>;

/// What one agent named over time, and whether the named one was the primary when it was gone to at once.
struct Prober {
    seen: Seen,
    quit: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

fn is_primary(net: &HostNet, at: SocketAddr) -> bool {
    let role = net.connect(at, ms(50)).and_then(|stream| Client::over(stream, ms(50))?.command(&["ROLE"]));
    role.is_ok_and(|role| role.items().first().map(Reply::text).as_deref() == Some("master"))
}

impl Prober {
    fn start(net: &Arc<HostNet>, no: HostNo) -> Self {
        let (seen, quit) = (Arc::<Mutex<Vec<_>>>::default(), Arc::new(AtomicBool::new(false)));
        let (net, log, over) = (Arc::clone(net), Arc::clone(&seen), Arc::clone(&quit));
        let thread = std::thread::spawn(move || {
            let mut client = None;
            while !over.load(Ordering::Relaxed) {
                std::thread::sleep(ms(5));
                if client.is_none() {
                    client = agent(&net, no).ok();
                }
                let Some(Ok(found)) = client.as_mut().map(named) else {
                    client = None;
                    continue;
                };
                let at = Instant::now();
                let right = found.is_some_and(|found| is_primary(&net, found));
                log.lock().unwrap_or_else(PoisonError::into_inner).push((at, found, right));
            }
        });
        Self { seen, quit, thread: Some(thread) }
    }

    /// The longest time for which one was named that was no primary; and how often somebody was named.
    fn longest_stale(&self) -> (Duration, usize) {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut longest, mut since) = (Duration::ZERO, None);
        for (at, found, right) in seen.iter() {
            if found.is_some() && !right {
                longest = longest.max(at.duration_since(*since.get_or_insert(*at)));
            } else {
                since = None;
            }
        }
        (longest, seen.iter().filter(|(_, found, _)| found.is_some()).count())
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.quit.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

/// Everybody has told this switch once, and names the new primary.
fn everybody_switched(c: &Cluster, listeners: &[Listener], count: usize, old: HostNo, new: HostNo) {
    let (from, to) = (address(old), address(new));
    let meant = format!("{NAME} {from} 6379 {to} 6379");
    for (no, listener) in (1..).zip(listeners) {
        if !c.host(no).is_on() {
            continue;
        }
        wait_for("the switch", secs(5), || {
            let switches = listener.switches();
            let last = switches.last().map(|(_, text)| text.clone());
            if switches.len() == count && last.as_ref() == Some(&meant) {
                Ok(())
            } else {
                Err(format!("n{no}: {switches:?}"))
            }
        });
        wait_named(c, no, new);
    }
}

#[test]
fn sentinel_clients_are_told_of_every_change_and_never_sent_astray() {
    in_lab(|| {
        let c = Cluster::start(Options::new(2).with_witnesses(1));
        let first = c.wait_healthy(secs(40));
        let second = 3 - first;
        (1..=3).for_each(|no| wait_named(&c, no, first));
        let listeners: Vec<Listener> = (1..=3).map(|no| Listener::start(&c.client, no)).collect();
        let probers: Vec<Prober> = (1..=3).map(|no| Prober::start(&c.client, no)).collect();
        let load = c.load();
        std::thread::sleep(ms(500));

        assert!(c.host(first).redis().kill());
        assert_eq!(c.wait_new_primary(first, secs(10)), second);
        everybody_switched(&c, &listeners, 1, first, second);
        let stale: Vec<_> = probers.iter().map(Prober::longest_stale).collect();
        println!("FIGURE crash: an agent named one that was no primary for at most {stale:?}");
        assert!(stale.iter().all(|(longest, named)| *longest < ms(200) && *named > 0), "{stale:?}");

        // The witness is asked for a failover: lossless, back to the first.
        c.wait_healthy(secs(40));
        let mut client = agent(&c.client, 3).expect("the witness answers");
        wait_for("a failover", secs(10), || match client.command(&["SENTINEL", "FAILOVER", NAME]) {
            Ok(Reply::Simple(ok)) if ok == "OK" => Ok(()),
            other => Err(format!("{other:?}")),
        });
        assert_eq!(c.wait_new_primary(second, secs(10)), first);
        everybody_switched(&c, &listeners, 2, second, first);
        let stale: Vec<_> = probers.iter().map(Prober::longest_stale).collect();
        println!("FIGURE crash and failover asked for: stale for at most {stale:?}");
        assert!(stale.iter().all(|(longest, _)| *longest < ms(200)), "{stale:?}");
        let history = load.stop();
        assert!(history.two_servers().is_empty(), "{:#?}", history.two_servers());
        let leaders =
            listeners.iter().filter(|listener| listener.channels().iter().any(|said| said == "+failover-end"));
        assert!(leaders.count() >= 1, "nobody led");

        // A whole host is lost: until its lease has run out nobody can know.
        c.wait_healthy(secs(40));
        c.kill_host(first);
        assert_eq!(c.wait_new_primary(first, secs(12)), second);
        everybody_switched(&c, &listeners, 3, first, second);
        let stale: Vec<_> = probers.iter().map(Prober::longest_stale).collect();
        println!("FIGURE host lost: stale for at most {stale:?}, of which the lease is {:?}", c.options.lease);
        assert!(stale.iter().all(|(longest, _)| *longest < c.options.lease), "{stale:?}");
    });
}

fn memory(pid: u32, field: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the agent runs");
    let line = status.lines().find(|line| line.starts_with(field)).expect("a field");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

/// A cluster, and what its primary's agent was before a crowd came.
struct Watched {
    c: Cluster,
    primary: HostNo,
    /// The group's epoch.
    before: serde_json::Value,
    pid: u32,
    /// KiB.
    rss: usize,
}

fn watched() -> Watched {
    let c = Cluster::start(Options::new(2).with_witnesses(1));
    let primary = c.wait_healthy(secs(40));
    wait_named(&c, primary, primary);
    let before = c.status(primary).expect("status")["groups"][0]["epoch"].clone();
    let pid = c.host(primary).agent().pid().expect("it runs");
    // The most from now on, not from the start.
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("the peak is forgotten");
    let rss = memory(pid, "VmRSS");
    Watched { c, primary, before, pid, rss }
}

fn busy(mut clients: Vec<Client>, end: Instant) -> io::Result<usize> {
    let mut requests = Vec::new();
    for _ in 0..4 {
        encode(&mut requests, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME]);
        encode(&mut requests, &["SENTINEL", "REPLICAS", NAME]);
    }
    let mut answered = 0;
    while Instant::now() < end {
        for client in &mut clients {
            client.send(&requests)?;
        }
        for client in &mut clients {
            for _ in 0..8 {
                let reply = client.reply()?;
                assert!(!reply.items().is_empty(), "{reply:?}");
                answered += 1;
            }
        }
    }
    Ok(answered)
}

/// 1,000 idle and 200 busy clients on the primary's own agent.
#[test]
fn a_crowd_of_sentinel_clients_costs_neither_lease_nor_memory() {
    in_lab(|| {
        use nix::sys::resource::{Resource, getrlimit, setrlimit};
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
        setrlimit(Resource::RLIMIT_NOFILE, hard.min(8192), hard).expect("more files");
        let Watched { c, primary, before, pid, rss } = watched();
        let load = c.load();
        let began = Instant::now();
        let idle: Vec<Client> = (0..1000).map(|_| one_of_many(&c.client, primary)).collect();
        let mut crowd: Vec<Vec<Client>> = Vec::new();
        for _ in 0..4 {
            crowd.push((0..50).map(|_| one_of_many(&c.client, primary)).collect());
        }
        let cut = Instant::now();
        let end = cut + secs(8);
        let threads: Vec<_> = crowd.into_iter().map(|clients| std::thread::spawn(move || busy(clients, end))).collect();
        let answered: usize = threads.into_iter().map(|one| one.join().expect("a thread").expect("answers")).sum();
        let served = Instant::now();
        let (now, peak) = (memory(pid, "VmRSS"), memory(pid, "VmHWM"));
        // The idle ones are served as ever.
        let mut last = idle.into_iter().last().expect("a client");
        assert_eq!(last.command(&["PING"]).map(|reply| reply.text()).ok().as_deref(), Some("PONG"));
        let history = load.stop();
        let gap = history.by("vip").gap(cut..served);
        println!(
            "FIGURE 1,000 idle and 200 busy clients: {answered} answers in 8 s, RSS {rss} KiB before, {now} after, \
             {peak} at most; writes waited {gap:?}; connected after {:?}",
            cut.duration_since(began)
        );
        let after = c.status(primary).expect("status");
        assert_eq!(after["groups"][0]["epoch"], before, "the primary changed");
        assert_eq!(after["groups"][0]["primary"], format!("n{primary}"));
        assert!(answered > 1000, "{answered} answers");
        assert!(peak.saturating_sub(rss) <= 10 * 1024, "{} KiB more", peak - rss);
        assert!(gap < c.options.lease, "writes waited {gap:?}");
    });
}

/// Ask for much and read nothing, and listen and read nothing: what lies about for all of them together is bounded.
#[test]
fn sentinel_clients_that_do_not_read_cost_little() {
    in_lab(|| {
        use std::io::Write as _;
        let Watched { c, primary, before, pid, rss } = watched();
        let load = c.load();
        let mut greedy = Vec::new();
        encode(&mut greedy, &["PSUBSCRIBE", "*"]);
        encode(&mut greedy, &["HELLO", "3"]);
        (0..2000).for_each(|_| encode(&mut greedy, &["CLIENT", "LIST"]));
        let began = Instant::now();
        let deaf: Vec<_> = (0..400)
            .map(|_| {
                let mut stream = c.client.connect((address(primary), PORT).into(), secs(5)).expect("connect");
                stream.set_nonblocking(true).expect("it can");
                // As much of it as is taken, for nothing of the answer is.
                let _ = stream.write(&greedy);
                stream
            })
            .collect();
        std::thread::sleep(secs(8));
        let (now, peak) = (memory(pid, "VmRSS"), memory(pid, "VmHWM"));
        // Somebody who reads is answered meanwhile.
        let mut other = one_of_many(&c.client, primary);
        assert_eq!(other.command(&["PING"]).map(|reply| reply.text()).ok().as_deref(), Some("PONG"));
        let gap = load.stop().by("vip").gap(began..Instant::now());
        println!(
            "FIGURE {} that do not read: RSS {rss} KiB before, {now} after, {peak} at most; writes waited {gap:?}",
            deaf.len()
        );
        assert_eq!(c.status(primary).expect("status")["groups"][0]["epoch"], before, "the primary changed");
        assert!(peak.saturating_sub(rss) <= 10 * 1024, "{} KiB more", peak - rss);
        assert!(gap < c.options.lease, "writes waited {gap:?}");
    });
}
