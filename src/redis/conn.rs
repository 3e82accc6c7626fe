//! One connection to an instance: dialled by us, spoken by the `redis` crate.
//!
//! Dialling here rather than in the crate keeps the system's own errors (a refusal is a crash, a full accept
//! queue is not) and leaves one place, [`dial`], to wrap the stream in TLS. The driver task belongs to the
//! connection: dropping a [`Conn`] closes its socket even with an answer outstanding. No call here waits beyond
//! the deadline it is given, and none retries.

use super::error::{self, Error, GoneKind};
use super::{Endpoint, Target};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, PushInfo, PushKind, RedisConnectionInfo, ServerError, Value};
use std::io;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

/// One answer of a batch.
pub(super) type Answer = Result<Value, ServerError>;

/// A command and the name by which errors speak of it.
pub(super) struct Named {
    pub(super) name: &'static str,
    pub(super) cmd: Cmd,
}

/// Builds a command from words.
pub(super) fn command(name: &'static str, words: &[&str]) -> Named {
    let mut cmd = Cmd::new();
    for word in words {
        cmd.arg(*word);
    }
    Named { name, cmd }
}

/// A connection that has logged in.
pub(super) struct Conn {
    target: String,
    inner: MultiplexedConnection,
    driver: JoinHandle<()>,
    closed: watch::Receiver<bool>,
    peer: Peer,
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// What the socket tells about the other side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Peer {
    /// It runs on this host.
    pub(super) local: bool,
    /// Its pid as the kernel knows it: unix sockets only.
    pub(super) pid: Option<u32>,
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Makes the stream. TLS wraps it here.
async fn dial(target: &Target) -> io::Result<(Stream, Peer)> {
    match target {
        Target::Tcp { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            stream.set_nodelay(true)?;
            let local = stream.local_addr()?.ip() == stream.peer_addr()?.ip();
            // A dial to a free ephemeral port can meet itself (TCP simultaneous open): nobody listens there.
            if local && stream.local_addr()? == stream.peer_addr()? {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            Ok((Stream::Tcp(stream), Peer { local, pid: None }))
        }
        Target::Unix(path) => {
            let stream = UnixStream::connect(path).await?;
            let pid = stream.peer_cred().ok().and_then(|c| c.pid()).and_then(|p| u32::try_from(p).ok());
            Ok((Stream::Unix(stream), Peer { local: true, pid }))
        }
    }
}

/// A refusal proves that nothing listens; anything else proves nothing.
fn dial_error(endpoint: &Endpoint, err: &io::Error) -> Error {
    let target = endpoint.target.to_string();
    let unix = matches!(endpoint.target, Target::Unix(_));
    match err.kind() {
        io::ErrorKind::ConnectionRefused => Error::Gone { target, kind: GoneKind::Refused },
        io::ErrorKind::NotFound if unix => Error::Gone { target, kind: GoneKind::Refused },
        io::ErrorKind::PermissionDenied if unix => Error::Unreachable {
            target,
            detail: format!("{err}; add this user to the socket's group or set unixsocketperm"),
        },
        _ => Error::Unreachable { target, detail: err.to_string() },
    }
}

impl Conn {
    /// Connects and logs in (RESP3). Bounded by `deadline` altogether.
    pub(super) async fn open(endpoint: &Endpoint, deadline: Instant) -> Result<Self, Error> {
        let started = Instant::now();
        match timeout_at(deadline, Self::open_unbounded(endpoint)).await {
            Ok(result) => result,
            Err(_) => Err(Error::Timeout {
                target: endpoint.target.to_string(),
                command: "connect",
                after: started.elapsed(),
            }),
        }
    }

    /// As [`open`](Self::open), for a caller that watches the time itself.
    pub(super) async fn open_unbounded(endpoint: &Endpoint) -> Result<Self, Error> {
        let target = endpoint.target.to_string();
        let (stream, peer) = dial(&endpoint.target).await.map_err(|e| dial_error(endpoint, &e))?;
        // Only whether the connection is closed leaves the push sender: a watch holds one value, so no flood of
        // pushes can pile up.
        let (tell, closed) = watch::channel(false);
        let on_push = tell.clone();
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_push_sender(move |push: PushInfo| -> Result<(), ()> {
                if push.kind == PushKind::Disconnection {
                    on_push.send_replace(true);
                }
                Ok(())
            });
        let login = login(endpoint);
        let fail = |e| error::from_redis(&target, "HELLO", e);
        let (inner, driver) = match stream {
            Stream::Tcp(s) => {
                spawn(MultiplexedConnection::new_with_config(&login, s, config).await.map_err(fail)?, tell)
            }
            Stream::Unix(s) => {
                spawn(MultiplexedConnection::new_with_config(&login, s, config).await.map_err(fail)?, tell)
            }
        };
        Ok(Self { target, inner, driver, closed, peer })
    }

    pub(super) fn peer(&self) -> Peer {
        self.peer
    }

    pub(super) fn target(&self) -> &str {
        &self.target
    }

    pub(super) fn is_closed(&self) -> bool {
        *self.closed.borrow() || self.driver.is_finished()
    }

    /// Returns when the connection is closed.
    pub(super) fn closed(&self) -> impl Future<Output = ()> + use<> {
        let mut closed = self.closed.clone();
        async move {
            // An error means that the driver ended and dropped the sender: closed as well.
            let _ = closed.wait_for(|closed| *closed).await;
        }
    }

    /// Sends the commands in one write and returns all answers. Redis runs what it reads from one client at once
    /// without another client's command in between.
    pub(super) async fn batch_unbounded(&mut self, commands: &[Named]) -> Result<Vec<Answer>, Error> {
        let first = commands.first().map_or("(nothing)", |c| c.name);
        let mut pipeline = redis::Pipeline::with_capacity(commands.len());
        for named in commands {
            pipeline.add_command(named.cmd.clone());
        }
        let values = self
            .inner
            .send_packed_commands(&pipeline, 0, commands.len())
            .await
            .map_err(|e| error::from_redis(&self.target, first, e))?;
        if values.len() != commands.len() {
            return Err(error::unexpected(&self.target, first, &Value::Array(values)));
        }
        Ok(values
            .into_iter()
            .map(|value| match value {
                Value::ServerError(err) => Err(err),
                value => Ok(value),
            })
            .collect())
    }

    /// As [`batch_unbounded`](Self::batch_unbounded), until `deadline`.
    pub(super) async fn batch(&mut self, commands: &[Named], deadline: Instant) -> Result<Vec<Answer>, Error> {
        let started = Instant::now();
        let command = commands.first().map_or("(nothing)", |c| c.name);
        match timeout_at(deadline, self.batch_unbounded(commands)).await {
            Ok(result) => result,
            Err(_) => Err(Error::Timeout { target: self.target.clone(), command, after: started.elapsed() }),
        }
    }
}

fn login(endpoint: &Endpoint) -> RedisConnectionInfo {
    let mut login = RedisConnectionInfo::default().set_protocol(redis::ProtocolVersion::RESP3).set_skip_set_lib_name();
    let credentials = endpoint.login.get();
    if let Some(username) = &credentials.username {
        login = login.set_username(username);
    }
    if let Some(password) = &credentials.password {
        login = login.set_password(password.expose());
    }
    login
}

fn spawn(
    (inner, driver): (MultiplexedConnection, impl Future<Output = ()> + Send + 'static),
    tell: watch::Sender<bool>,
) -> (MultiplexedConnection, JoinHandle<()>) {
    let driver = tokio::spawn(async move {
        driver.await;
        tell.send_replace(true);
    });
    (inner, driver)
}

/// The text of an INFO answer: verbatim in RESP3, bulk in RESP2.
pub(super) fn text_of(value: &Value) -> Option<std::borrow::Cow<'_, str>> {
    match value {
        Value::VerbatimString { text, .. } => Some(text.as_str().into()),
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes)),
        Value::SimpleString(text) => Some(text.as_str().into()),
        _ => None,
    }
}
