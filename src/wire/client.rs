//! The dialling side: requests with replies (`RpcClient`), and one-way messages of which the newest counts
//! (`GossipClient`).
//!
//! Neither ever queues while the link is down: a caller learns at once, and nothing stale is sent after a reconnect.
//! Requests in flight are bounded, each has its own time-out, and all fail together when the connection ends. A call
//! that failed after it was sent may still have been acted on; those above must make that harmless.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::{oneshot, watch};

use super::{
    conn::Timing,
    error::{CallError, Fault, Malformed, WireError},
    frame::{Class, Frame, MAX_MESSAGE},
    hello::{Admission, Lane, Local},
    link::{Link, LinkState, Session},
    outbox::Outbox,
};

/// Bounds of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientOptions {
    /// Of each connection.
    pub timing: Timing,
    /// First wait before a redial.
    pub backoff_min: Duration,
    /// Longest wait before a redial; each failure doubles it up to here.
    pub backoff_max: Duration,
    /// Requests in flight at once.
    pub max_in_flight: usize,
    /// One-way messages waiting at once.
    pub max_waiting: usize,
}

impl ClientOptions {
    /// The usual bounds: redial after 10 ms to 1 s, 64 requests in flight, 32 messages waiting.
    pub fn new(timing: Timing) -> Self {
        ClientOptions {
            timing,
            backoff_min: Duration::from_millis(10),
            backoff_max: Duration::from_secs(1),
            max_in_flight: 64,
            max_waiting: 32,
        }
    }
}

/// Bytes that may wait to be sent, over all messages.
const MAX_WAITING_BYTES: usize = 2 * MAX_MESSAGE;

type Reply = Result<Bytes, CallError>;

#[derive(Debug)]
struct Calls {
    /// Never reused, so that a late reply or cancel cannot meet another request.
    next_id: u64,
    waiting: HashMap<u64, oneshot::Sender<Reply>>,
    outbox: Result<Arc<Outbox>, Arc<WireError>>,
}

#[derive(Debug)]
struct RpcSession {
    calls: Mutex<Calls>,
    options: ClientOptions,
    lane: Lane,
}

impl RpcSession {
    /// Each change under the lock is complete in itself, so poison is no reason to stop.
    fn lock(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(
        &self,
        kind: u8,
        payload: Bytes,
    ) -> Result<(Slot<'_>, oneshot::Receiver<Reply>), CallError> {
        fits(payload.len(), self.lane)?;
        let mut calls = self.lock();
        let outbox = calls
            .outbox
            .clone()
            .map_err(|reason| CallError::Down { reason })?;
        let busy = CallError::Busy {
            limit: self.options.max_in_flight,
        };
        if calls.waiting.len() >= self.options.max_in_flight {
            return Err(busy);
        }
        calls.next_id += 1;
        let id = calls.next_id;
        outbox
            .push(Frame::new(Class::Request, kind, id, payload))
            .map_err(|_| busy)?;
        let (tx, rx) = oneshot::channel();
        calls.waiting.insert(id, tx);
        drop(calls);
        Ok((
            Slot {
                session: self,
                outbox,
                id,
            },
            rx,
        ))
    }
}

fn fits(size: usize, lane: Lane) -> Result<(), CallError> {
    let max = lane.max_message();
    if size > max {
        Err(CallError::TooLarge { size, max })
    } else {
        Ok(())
    }
}

impl Session for RpcSession {
    fn up(&self) -> Arc<Outbox> {
        // Room for every request, and as many one-way messages.
        let outbox = Arc::new(Outbox::new(
            self.options.max_in_flight + self.options.max_waiting,
            MAX_WAITING_BYTES,
        ));
        self.lock().outbox = Ok(outbox.clone());
        outbox
    }

    fn frame(&self, frame: Frame) -> Result<(), WireError> {
        let reply = match frame.class {
            Class::Response => Ok(frame.payload),
            Class::Fault => Err(CallError::Fault(Fault::from_byte(frame.kind)?)),
            other => return Err(Malformed::Unexpected(other).into()),
        };
        // None waiting: the caller has given up, which is its right.
        if let Some(waiting) = self.lock().waiting.remove(&frame.id) {
            let _ = waiting.send(reply);
        }
        Ok(())
    }

    fn down(&self, reason: &Arc<WireError>) {
        let mut calls = self.lock();
        calls.outbox = Err(reason.clone());
        for (_, waiting) in calls.waiting.drain() {
            let _ = waiting.send(Err(CallError::Down {
                reason: reason.clone(),
            }));
        }
    }
}

/// A request's place among those in flight; given back when the call ends, however it ends.
struct Slot<'a> {
    session: &'a RpcSession,
    outbox: Arc<Outbox>,
    id: u64,
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        if self.session.lock().waiting.remove(&self.id).is_some() {
            self.outbox.cancel(self.id);
        }
    }
}

/// Requests to one peer over one connection that is redialled for ever. Clones share it; the last one dropped ends it.
#[derive(Debug, Clone)]
pub struct RpcClient {
    session: Arc<RpcSession>,
    link: Arc<Link>,
}

impl RpcClient {
    /// Starts dialling `addr` (`HOST:PORT`). `admission` judges who answers there. Must be called within a runtime.
    pub fn spawn(
        addr: impl Into<String>,
        lane: Lane,
        local: Local,
        admission: Arc<dyn Admission>,
        options: ClientOptions,
    ) -> Self {
        let calls = Calls {
            next_id: 0,
            waiting: HashMap::new(),
            outbox: Err(Arc::new(WireError::NotYet)),
        };
        let session = Arc::new(RpcSession {
            calls: Mutex::new(calls),
            options,
            lane,
        });
        let link = Link::spawn(
            addr.into(),
            lane,
            local,
            admission,
            options,
            session.clone(),
        );
        RpcClient {
            session,
            link: Arc::new(link),
        }
    }

    /// One request and its reply, within `timeout`. Fails at once while the link is down. Cancel-safe: dropped, it
    /// gives its place back, and is not sent if it had not been yet.
    pub async fn call(
        &self,
        kind: u8,
        payload: impl Into<Bytes>,
        timeout: Duration,
    ) -> Result<Bytes, CallError> {
        let (slot, reply) = self.session.start(kind, payload.into())?;
        let got = tokio::time::timeout(timeout, reply).await;
        drop(slot);
        match got {
            Ok(Ok(reply)) => reply,
            // The sender is only ever dropped with the session itself.
            Ok(Err(_)) => Err(CallError::Down {
                reason: Arc::new(WireError::Closed),
            }),
            Err(_) => Err(CallError::Timeout { after: timeout }),
        }
    }

    /// Queues a message that wants no reply; never waits. `Ok` says that it was queued, not that it arrived.
    pub fn notify(&self, kind: u8, payload: impl Into<Bytes>) -> Result<(), CallError> {
        let payload = payload.into();
        fits(payload.len(), self.session.lane)?;
        let outbox = self
            .session
            .lock()
            .outbox
            .clone()
            .map_err(|reason| CallError::Down { reason })?;
        outbox
            .push(Frame::new(Class::OneWay, kind, 0, payload))
            .map_err(|_| CallError::Busy {
                limit: self.session.options.max_in_flight,
            })
    }

    /// The link's state and its changes.
    pub fn link(&self) -> watch::Receiver<LinkState> {
        self.link.state.clone()
    }

    /// Dials now, if it is waiting to, and starts the back-off anew.
    pub fn reset_backoff(&self) {
        self.link.reset_backoff();
    }

    /// Dials `addr` from now on; a connection to another address ends.
    pub fn set_addr(&self, addr: impl Into<String>) {
        self.link.set_addr(addr.into());
    }
}

/// What became of a gossip message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GossipSent {
    /// Queued behind what waits.
    Queued,
    /// Queued, and this many older ones dropped to make room.
    Superseded(usize),
    /// Not queued: the link is down.
    Down,
    /// Not queued: larger than the lane allows.
    TooLarge,
}

#[derive(Debug)]
struct GossipSession {
    outbox: Mutex<Option<Arc<Outbox>>>,
    options: ClientOptions,
}

impl GossipSession {
    fn lock(&self) -> MutexGuard<'_, Option<Arc<Outbox>>> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session for GossipSession {
    fn up(&self) -> Arc<Outbox> {
        let outbox = Arc::new(Outbox::new(self.options.max_waiting, MAX_WAITING_BYTES));
        *self.lock() = Some(outbox.clone());
        outbox
    }

    fn frame(&self, frame: Frame) -> Result<(), WireError> {
        Err(Malformed::Unexpected(frame.class).into())
    }

    fn down(&self, _: &Arc<WireError>) {
        *self.lock() = None;
    }
}

/// Ordered one-way messages to one peer on the `Gossip` lane. Clones share the connection; the last one dropped ends
/// it.
#[derive(Debug, Clone)]
pub struct GossipClient {
    session: Arc<GossipSession>,
    link: Arc<Link>,
}

impl GossipClient {
    /// Starts dialling `addr`, as [`RpcClient::spawn`].
    pub fn spawn(
        addr: impl Into<String>,
        local: Local,
        admission: Arc<dyn Admission>,
        options: ClientOptions,
    ) -> Self {
        let session = Arc::new(GossipSession {
            outbox: Mutex::new(None),
            options,
        });
        let link = Link::spawn(
            addr.into(),
            Lane::Gossip,
            local,
            admission,
            options,
            session.clone(),
        );
        GossipClient {
            session,
            link: Arc::new(link),
        }
    }

    /// Queues a message, dropping the oldest waiting ones where there is no room; never waits.
    pub fn try_send(&self, kind: u8, payload: impl Into<Bytes>) -> GossipSent {
        let payload = payload.into();
        if payload.len() > Lane::Gossip.max_message() {
            return GossipSent::TooLarge;
        }
        let Some(outbox) = self.session.lock().clone() else {
            return GossipSent::Down;
        };
        match outbox.push_latest(Frame::new(Class::OneWay, kind, 0, payload)) {
            Ok(0) => GossipSent::Queued,
            Ok(dropped) => GossipSent::Superseded(dropped),
            Err(_) => GossipSent::Down,
        }
    }

    /// The link's state and its changes.
    pub fn link(&self) -> watch::Receiver<LinkState> {
        self.link.state.clone()
    }

    /// Dials now, if it is waiting to, and starts the back-off anew.
    pub fn reset_backoff(&self) {
        self.link.reset_backoff();
    }

    /// Dials `addr` from now on; a connection to another address ends.
    pub fn set_addr(&self, addr: impl Into<String>) {
        self.link.set_addr(addr.into());
    }
}
