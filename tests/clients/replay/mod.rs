//! Libraries of other languages, replayed: what their sources send to a Sentinel, and how they take the answers.
//!
//! Each replay opens connections as its library does (handshake included), asks what it asks, judges the answers by the
//! rules of the library's own parser, and follows a change by what the library listens to. What a library does not
//! need for discovery is left out. No code of theirs is here: only what goes over the wire.

pub mod go_redis;
pub mod jedis;
pub mod lettuce;
pub mod stackexchange;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::lab::ms;
use crate::session::{PATIENCE, Place};
use crate::wire::{Value, Wire};

/// How a library logs in.
pub enum Handshake {
    /// AUTH, if there is a password.
    Resp2,
    /// HELLO 3 with the password in it.
    Resp3,
}

/// Connects, logs in and says who it is.
///
/// # Errors
/// With the refusal, or what failed.
pub fn connect(to: SocketAddr, how: &Handshake, password: Option<&str>, library: &str) -> Result<Wire, String> {
    let mut wire = Wire::connect(to, PATIENCE).map_err(|error| format!("{to}: {error}"))?;
    let mut say = |args: &[&str]| wire.call(args).map_err(|error| format!("{to}: {error}"))?.ok();
    match (how, password) {
        (Handshake::Resp2, Some(password)) => drop(say(&["AUTH", password])?),
        (Handshake::Resp2, None) => {}
        (Handshake::Resp3, Some(password)) => greeted(&say(&["HELLO", "3", "AUTH", "default", password])?)?,
        (Handshake::Resp3, None) => greeted(&say(&["HELLO", "3"])?)?,
    }
    // An old server refuses these, and no library minds.
    let _ = say(&["CLIENT", "SETINFO", "LIB-NAME", library]);
    let _ = say(&["CLIENT", "SETINFO", "LIB-VER", "1.0.0"]);
    Ok(wire)
}

/// What the parsers want of HELLO's answer.
fn greeted(hello: &Value) -> Result<(), String> {
    let Value::Map(_) = hello else { return Err(format!("HELLO 3 answers {hello:?}, not a map")) };
    let fields = hello.fields()?;
    for name in ["server", "version", "proto", "id", "mode"] {
        if !fields.contains_key(name) {
            return Err(format!("HELLO 3 lacks {name}: {fields:?}"));
        }
    }
    Ok(())
}

/// `SENTINEL get-master-addr-by-name`: two strings, or nothing.
///
/// # Errors
/// If the name is unknown, or the answer is no address.
pub fn primary(wire: &mut Wire, group: &str) -> Result<SocketAddr, String> {
    let answer = wire.call(&["SENTINEL", "get-master-addr-by-name", group]).map_err(|error| error.to_string())?.ok()?;
    match answer.items() {
        [host, port] => address(&host.text(), &port.text()),
        _ => Err(format!("no address of {group}: {answer:?}")),
    }
}

/// # Errors
/// If it is no address.
pub fn address(host: &str, port: &str) -> Result<SocketAddr, String> {
    let ip = host.parse().map_err(|_| format!("`{host}` is no address"))?;
    Ok(SocketAddr::new(ip, port.parse().map_err(|_| format!("`{port}` is no port"))?))
}

/// The new address in a message of `+switch-master`, if it is about this group.
pub fn switched(message: &str, group: &str) -> Option<Result<SocketAddr, String>> {
    let parts: Vec<&str> = message.split(' ').collect();
    (parts[0] == group).then(|| match parts[1..] {
        [_, _, host, port] => address(host, port),
        _ => Err(format!("+switch-master says `{message}`")),
    })
}

/// Replicas of a list that are not down, as all of the libraries judge.
///
/// # Errors
/// If it is not a list of maps with addresses and flags.
pub fn replicas(list: &Value) -> Result<Vec<SocketAddr>, String> {
    let Value::Array(items) = list else { return Err(format!("no list of replicas: {list:?}")) };
    let mut up = Vec::new();
    for item in items {
        let fields = item.fields()?;
        let field =
            |name: &str| fields.get(name).cloned().ok_or_else(|| format!("a replica without {name}: {fields:?}"));
        let flags = field("flags")?;
        if !flags.split(',').any(|flag| ["s_down", "o_down", "disconnected"].contains(&flag)) {
            up.push(address(&field("ip")?, &field("port")?)?);
        }
    }
    Ok(up)
}

/// The channel and the text of a message, in either protocol, by channel or by pattern.
pub fn message(value: &Value) -> Option<(String, String)> {
    let words: Vec<String> = value.items().iter().map(Value::text).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["message", channel, text] | ["pmessage", _, channel, text] => Some((channel.to_owned(), text.to_owned())),
        _ => None,
    }
}

/// The connection that writes go over.
#[derive(Default)]
pub struct Writer {
    open: Option<(SocketAddr, Wire)>,
}

impl Writer {
    /// Writes to the instance there, over the connection it has or a new one.
    ///
    /// # Errors
    /// With the refusal, or what failed; the connection is then gone.
    pub fn set(&mut self, to: SocketAddr, key: &str, n: u64) -> Result<(), String> {
        if self.open.as_ref().is_some_and(|(at, _)| *at != to) {
            self.open = None;
        }
        let wire = match &mut self.open {
            Some((_, wire)) => wire,
            none => &mut none.insert((to, Wire::connect(to, PATIENCE).map_err(|e| format!("{to}: {e}"))?)).1,
        };
        let wrote = wire.call(&["SET", key, &n.to_string()]).map_err(|error| format!("{to}: {error}"));
        wrote.and_then(Value::ok).map(drop).inspect_err(|_| self.open = None)
    }

    pub fn close(&mut self) {
        self.open = None;
    }

    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }
}

/// What an instance calls itself, over a new connection.
///
/// # Errors
/// With what failed.
pub fn role_of(at: SocketAddr) -> Result<String, String> {
    let mut wire = Wire::connect(at, PATIENCE).map_err(|error| format!("{at}: {error}"))?;
    let role = wire.call(&["ROLE"]).map_err(|error| format!("{at}: {error}"))?.ok()?;
    role.items().first().map(Value::text).ok_or_else(|| "ROLE is empty".to_owned())
}

/// A value that listeners set and a session reads.
pub struct Cell<T>(Arc<Mutex<T>>);

impl<T> Clone for Cell<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Clone> Cell<T> {
    pub fn new(value: T) -> Self {
        Self(Arc::new(Mutex::new(value)))
    }

    pub fn get(&self) -> T {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set(&self, value: T) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = value;
    }
}

/// Threads that listen to Sentinels; they end with it.
#[derive(Default)]
pub struct Listeners {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Listeners {
    /// Runs `listen` again and again in the client's namespace, `rest` apart. It ends by itself once told to stop.
    pub fn add(
        &mut self,
        place: &Place,
        rest: Duration,
        mut listen: impl FnMut(&AtomicBool) -> Result<(), String> + Send + 'static,
    ) {
        let (stop, ns) = (Arc::clone(&self.stop), place.netns());
        let body = move || {
            ns.enter().expect("setns");
            while !stop.load(Ordering::Relaxed) {
                let _ = listen(&stop);
                let end = std::time::Instant::now() + rest;
                while std::time::Instant::now() < end && !stop.load(Ordering::Relaxed) {
                    std::thread::sleep(ms(10));
                }
            }
        };
        self.threads.push(std::thread::Builder::new().name("listener".into()).spawn(body).expect("a thread"));
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Hands on every message until the connection ends or the listener shall.
///
/// # Errors
/// With what ended the connection.
pub fn listen(wire: &mut Wire, stop: &AtomicBool, mut take: impl FnMut(&str, &str)) -> Result<(), String> {
    while !stop.load(Ordering::Relaxed) {
        let value = wire.next(ms(50)).map_err(|error| error.to_string())?;
        if let Some((channel, text)) = value.as_ref().and_then(message) {
            take(&channel, &text);
        }
    }
    Ok(())
}
