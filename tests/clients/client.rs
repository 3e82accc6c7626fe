//! Every client of the table: how it is started, stopped and asked what it did.
//!
//! Libraries of Python and Node run as processes of their own, with what `install.sh` put into `target/clients`; the
//! others are threads. All of them live on the lab's client host, and print or record the same things.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::lab::{ms, secs, wait_for};
use crate::net::inside;
use crate::record::{Record, Shared};
use crate::replay::go_redis::GoRedis;
use crate::replay::jedis::Jedis;
use crate::replay::lettuce::{Lettuce, Plain};
use crate::replay::stackexchange::StackExchange;
use crate::session::{Place, RedisCli, RedisCrate, Session, drive};

/// From one write to the next.
const PACE: Duration = ms(10);
/// From one write to the next where each is a process.
const SLOW: Duration = ms(25);

/// A client of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    pub name: &'static str,
    how: How,
    /// Whether it reads from replicas at all.
    pub reads: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Python(&'static str),
    Node(&'static str),
    RedisCrate,
    RedisCli,
    Jedis,
    Lettuce,
    LettuceReplicas,
    GoRedis,
    StackExchange,
}

pub const KINDS: [Kind; 12] = [
    Kind { name: "redis-py", how: How::Python("redis_py.py"), reads: true },
    Kind { name: "redis-py-asyncio", how: How::Python("redis_py_asyncio.py"), reads: true },
    Kind { name: "kombu", how: How::Python("kombu_queue.py"), reads: false },
    Kind { name: "ioredis", how: How::Node("ioredis.js"), reads: true },
    Kind { name: "node-redis", how: How::Node("node_redis.js"), reads: true },
    Kind { name: "redis-rs", how: How::RedisCrate, reads: true },
    Kind { name: "redis-cli", how: How::RedisCli, reads: true },
    Kind { name: "jedis", how: How::Jedis, reads: false },
    Kind { name: "lettuce", how: How::Lettuce, reads: false },
    Kind { name: "lettuce-replicas", how: How::LettuceReplicas, reads: true },
    Kind { name: "go-redis", how: How::GoRedis, reads: true },
    Kind { name: "stackexchange", how: How::StackExchange, reads: true },
];

/// Writes into a list, not to keys.
pub const QUEUE: &str = "kombu";

/// A running client; dropping it ends it.
pub struct Running {
    pub kind: Kind,
    pub record: Shared,
    stop: Arc<AtomicBool>,
    child: Arc<Mutex<Option<Child>>>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(child) = self.child.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            let _ = child.kill();
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// Where `install.sh` puts the libraries.
fn installed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients")
}

fn command(kind: Kind, mode: &str, place: &Place) -> Command {
    let (program, script) = match kind.how {
        How::Python(script) => (installed().join("venv/bin/python"), script),
        How::Node(script) => (PathBuf::from("node"), script),
        _ => unreachable!("{} is no process", kind.name),
    };
    let at = installed();
    assert!(
        at.join("venv/bin/python").exists() && at.join("node_modules").exists(),
        "the client libraries are not in {}: sh tests/clients/install.sh puts them there",
        at.display()
    );
    let sentinels: Vec<String> = place.sentinels.iter().map(ToString::to_string).collect();
    let mut command = Command::new(program);
    command
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/drivers").join(script))
        .args([mode, kind.name, place.group, &place.password, &PACE.as_millis().to_string(), &sentinels.join(",")])
        .env("NODE_PATH", at.join("node_modules"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    inside(&mut command, place.netns());
    command
}

/// Reads what a process prints until it ends. The thread that calls it must live as long as the process.
fn follow(mut command: Command, record: &Shared, child: &Mutex<Option<Child>>) {
    let mut spawned = command.spawn().unwrap_or_else(|e| panic!("{:?}: {e}", command.get_program()));
    let out = spawned.stdout.take().expect("piped");
    *child.lock().unwrap_or_else(PoisonError::into_inner) = Some(spawned);
    for line in BufReader::new(out).lines().map_while(Result::ok) {
        let taken = record.lock().take(&line);
        if let Err(line) = taken {
            record.lock().fails.push((crate::record::now(), format!("printed `{line}`")));
        }
    }
    if let Some(child) = child.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn session(kind: Kind, place: &Place) -> Result<Box<dyn Session>, String> {
    Ok(match kind.how {
        How::RedisCrate => Box::new(RedisCrate::new(place)),
        How::RedisCli => Box::new(RedisCli::new(place)),
        How::Jedis => Box::new(Jedis::new(place)?),
        How::Lettuce => Box::new(Plain::new(place)),
        How::LettuceReplicas => Box::new(Lettuce::new(place)?),
        How::GoRedis => Box::new(GoRedis::new(place)),
        How::StackExchange => Box::new(StackExchange::new(place)?),
        How::Python(_) | How::Node(_) => unreachable!("{} is a process", kind.name),
    })
}

/// Starts it writing.
pub fn start(kind: Kind, place: &Place) -> Running {
    let (record, stop, child) = (Shared::default(), Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(None)));
    let (theirs, asked, slot, place) = (record.clone(), Arc::clone(&stop), Arc::clone(&child), place.clone());
    let body = move || match kind.how {
        How::Python(_) | How::Node(_) => follow(command(kind, "write", &place), &theirs, &slot),
        _ => {
            place.netns().enter().expect("setns");
            let mut client = wait_for(kind.name, secs(20), || session(kind, &place));
            let pace = if kind.how == How::RedisCli { SLOW } else { PACE };
            drive(&mut *client, kind.name, pace, &theirs, &asked);
        }
    };
    let thread = std::thread::Builder::new().name(kind.name.into()).spawn(body).expect("a thread");
    Running { kind, record, stop, child, thread: Some(thread) }
}

/// What a client makes of a wrong password: what it says, or nothing if it was let in.
pub fn refused(kind: Kind, place: &Place) -> Option<String> {
    let wrong = Place { password: "wrong".into(), ..place.clone() };
    if let How::Python(_) | How::Node(_) = kind.how {
        let record = Shared::default();
        follow(command(kind, "refuse", &wrong), &record, &Mutex::new(None));
        let verdict = record.lock().verdict.clone();
        let verdict = verdict.unwrap_or_else(|| panic!("{} says nothing: {:?}", kind.name, record.lock()));
        return verdict.strip_prefix("refused ").map(str::to_owned);
    }
    let ask = move || {
        wrong.netns().enter().expect("setns");
        session(kind, &wrong).and_then(|mut client| client.write("never", 0)).err()
    };
    std::thread::spawn(ask).join().expect("it does not panic")
}

/// All of them, and what they did.
pub struct Clients {
    pub all: Vec<Running>,
}

impl Clients {
    /// Starts them and waits until each has written.
    ///
    /// # Panics
    /// When one does not within half a minute.
    pub fn start(kinds: &[Kind], place: &Place) -> Self {
        let clients = Self { all: kinds.iter().map(|kind| start(*kind, place)).collect() };
        for client in &clients.all {
            wait_for(&format!("acknowledged write of {}", client.kind.name), secs(30), || {
                let record = client.record.lock();
                record.last().map(drop).ok_or_else(|| record.complaints(0))
            });
        }
        clients
    }

    pub fn each(&self, mut look: impl FnMut(Kind, &Record)) {
        for client in &self.all {
            look(client.kind, &client.record.lock());
        }
    }
}
