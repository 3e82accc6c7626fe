//! A client that runs inside the harness: what it does to write once, and the thread that makes it do so for ever.
//!
//! The redis crate's sentinel client and `redis-cli` are here; the replayed libraries are in [`crate::replay`].

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::RedisResult;
use redis::aio::MultiplexedConnection;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};

use tokio::runtime::Runtime;

use crate::lab::ms;
use crate::net::{HostNet, Netns, inside, output_within};
use crate::record::{Ack, Shared, now};

/// As in `common.py`.
pub const PATIENCE: Duration = ms(500);
/// After a failed write, before the next one.
pub const PAUSE: Duration = ms(10);
/// From one read at a replica to the next.
const READ_EVERY: Duration = ms(250);

/// Where the Sentinels are, and what they are asked for.
#[derive(Clone)]
pub struct Place {
    pub net: Arc<HostNet>,
    pub sentinels: Vec<SocketAddr>,
    pub group: &'static str,
    pub password: String,
}

impl Place {
    /// The namespace that threads of a client live in.
    pub fn netns(&self) -> Arc<Netns> {
        self.net.netns().expect("the client's host is on")
    }
}

/// What a library does for one call of its user.
pub trait Session {
    /// Writes `SET key n`, finding the primary first where it has to.
    ///
    /// # Errors
    /// With what the library would say.
    fn write(&mut self, key: &str, n: u64) -> Result<(), String>;

    /// What the instance that reads go to calls itself; `None`: the library reads from no replica.
    fn role(&mut self) -> Option<Result<String, String>>;
}

/// Writes 0, 1, 2, … until told to stop. In the client's namespace, on a thread of its own.
pub fn drive(session: &mut dyn Session, name: &str, pace: Duration, record: &Shared, stop: &AtomicBool) {
    record.lock().ready = true;
    let mut read_at = 0;
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let sent = now();
        let pause = match session.write(&format!("{name}:{n}"), n) {
            Ok(()) => {
                record.lock().acks.push(Ack { n, sent, done: now() });
                pace
            }
            Err(why) => {
                record.lock().fails.push((now(), why));
                PAUSE
            }
        };
        if now() >= read_at {
            read_at = now() + READ_EVERY.as_nanos() as u64;
            if let Some(role) = session.role() {
                let role = role.unwrap_or_else(|why| format!("none {why}"));
                record.lock().roles.push((now(), role));
            }
        }
        std::thread::sleep(pause.saturating_sub(Duration::from_nanos(now() - sent)));
    }
}

/// The redis crate's `SentinelClient`, asynchronous, with its own time-outs (500 ms, a second to connect). Its blocking
/// calls have none towards the Sentinels, so that a lost host can stop them for as long as TCP tries.
pub struct RedisCrate {
    runtime: Runtime,
    primaries: SentinelClient,
    replicas: SentinelClient,
    primary: Option<MultiplexedConnection>,
    replica: Option<MultiplexedConnection>,
}

impl RedisCrate {
    /// On the thread that will drive it: its connections are made from there.
    pub fn new(place: &Place) -> Self {
        let client = |kind| {
            let sentinels = place.sentinels.iter().map(|at| redis::ConnectionAddr::Tcp(at.ip().to_string(), at.port()));
            let builder = SentinelClientBuilder::new(sentinels, place.group, kind).expect("addresses");
            builder.set_client_to_sentinel_password(place.password.clone()).build().expect("a client")
        };
        let (primaries, replicas) = (client(SentinelServerType::Master), client(SentinelServerType::Replica));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Self { runtime, primaries, replicas, primary: None, replica: None }
    }
}

/// A connection, opened where there is none.
async fn opened(
    client: &mut SentinelClient,
    slot: &mut Option<MultiplexedConnection>,
) -> RedisResult<MultiplexedConnection> {
    match slot {
        Some(connection) => Ok(connection.clone()),
        none => Ok(none.insert(client.get_async_connection().await?).clone()),
    }
}

impl Session for RedisCrate {
    fn write(&mut self, key: &str, n: u64) -> Result<(), String> {
        let (primaries, primary) = (&mut self.primaries, &mut self.primary);
        let wrote = self.runtime.block_on(async {
            let mut connection = opened(primaries, primary).await?;
            redis::cmd("SET").arg(key).arg(n).exec_async(&mut connection).await
        });
        // A connection to what is no primary any more is given up, as a pool's recycling check does.
        wrote.map_err(|error| {
            self.primary = None;
            error.to_string()
        })
    }

    fn role(&mut self) -> Option<Result<String, String>> {
        let (replicas, replica) = (&mut self.replicas, &mut self.replica);
        let role: RedisResult<Vec<redis::Value>> = self.runtime.block_on(async {
            let mut connection = opened(replicas, replica).await?;
            redis::cmd("ROLE").query_async(&mut connection).await
        });
        let named = role
            .and_then(|values| Ok(redis::from_redis_value(values.into_iter().next().unwrap_or(redis::Value::Nil))?));
        Some(named.map_err(|error| {
            self.replica = None;
            error.to_string()
        }))
    }
}

/// `redis-cli`, as a script uses it: a process for every question.
pub struct RedisCli {
    place: Place,
    primary: Option<(String, String)>,
}

impl RedisCli {
    pub fn new(place: &Place) -> Self {
        Self { place: place.clone(), primary: None }
    }

    fn run(&self, host: &str, port: &str, args: &[&str], password: bool) -> Result<Vec<String>, String> {
        let mut command = std::process::Command::new("redis-cli");
        command.args(["-h", host, "-p", port, "--no-auth-warning"]).args(args).stdin(Stdio::null());
        if password {
            command.env("REDISCLI_AUTH", &self.place.password);
        }
        inside(&mut command, self.place.netns());
        let output = output_within(&mut command, PATIENCE).map_err(|error| error.to_string())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        let (said, wrong) = (text(&output.stdout), text(&output.stderr));
        let refused = ["ERR", "NOAUTH", "WRONGPASS", "READONLY", "NOREPLICAS", "LOADING", "IDONTKNOW", "MASTERDOWN"];
        if !output.status.success() || !wrong.is_empty() || refused.iter().any(|word| said.starts_with(word)) {
            return Err(format!("{wrong} {said}").trim().to_owned());
        }
        Ok(said.lines().map(str::to_owned).collect())
    }

    /// The first Sentinel that answers.
    fn ask(&self, args: &[&str]) -> Result<Vec<String>, String> {
        let mut why = String::new();
        for at in &self.place.sentinels {
            match self.run(&at.ip().to_string(), &at.port().to_string(), args, true) {
                Ok(lines) => return Ok(lines),
                Err(error) => why = error,
            }
        }
        Err(why)
    }
}

impl Session for RedisCli {
    fn write(&mut self, key: &str, n: u64) -> Result<(), String> {
        if self.primary.is_none() {
            let lines = self.ask(&["SENTINEL", "get-master-addr-by-name", self.place.group])?;
            let [host, port] = lines.as_slice() else { return Err(format!("no address: {lines:?}")) };
            self.primary = Some((host.clone(), port.clone()));
        }
        let (host, port) = self.primary.clone().unwrap_or_default();
        let wrote = self.run(&host, &port, &["SET", key, &n.to_string()], false);
        match wrote {
            Ok(lines) if lines == ["OK"] => Ok(()),
            other => {
                self.primary = None;
                Err(format!("{other:?}"))
            }
        }
    }

    fn role(&mut self) -> Option<Result<String, String>> {
        let role = || {
            let lines = self.ask(&["SENTINEL", "replicas", self.place.group])?;
            let value = |name: &str| {
                let at = lines.iter().position(|line| line == name);
                at.and_then(|at| lines.get(at + 1)).cloned().ok_or_else(|| format!("no {name}: {lines:?}"))
            };
            let lines = self.run(&value("ip")?, &value("port")?, &["ROLE"], false)?;
            lines.into_iter().next().ok_or_else(|| "ROLE is empty".to_owned())
        };
        Some(role())
    }
}
