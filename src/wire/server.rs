//! The accepting side of a connection: hands requests and one-way messages to the caller's handler.
//!
//! Requests run as tasks of their own, a bounded number at once; one too many is answered `Busy` rather than left to
//! hold up those behind it. One-way messages are handled in order and in place. When the connection ends, requests
//! still in work are dropped: a handler must bear being cancelled at any await.

use std::{future::Future, sync::Arc};

use bytes::Bytes;
use tokio::task::JoinSet;

use super::{
    conn::Conn,
    error::{Fault, Malformed, WireError},
    frame::{Class, Frame, MAX_MESSAGE},
    hello::Hello,
    outbox::Outbox,
};

/// What the layer above does with messages. Both methods see who sent them; the lane is in the hello.
pub trait Handler: Send + Sync + 'static {
    /// A request, to be answered with bytes or a fault.
    fn request(
        &self,
        peer: &Arc<Hello>,
        kind: u8,
        body: Bytes,
    ) -> impl Future<Output = Result<Bytes, Fault>> + Send;

    /// A message that wants no answer. Must not block: the messages behind it wait.
    fn one_way(&self, peer: &Arc<Hello>, kind: u8, body: Bytes);
}

/// Bounds of a served connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServeOptions {
    /// Requests in work at once.
    pub max_requests: usize,
}

impl Default for ServeOptions {
    fn default() -> Self {
        ServeOptions { max_requests: 64 }
    }
}

/// Answers that may wait for the socket, beyond one for each request in work.
const SPARE_ANSWERS: usize = 64;
/// Bytes of answers that may wait.
const MAX_WAITING_BYTES: usize = 2 * MAX_MESSAGE;

/// Serves one connection until it ends; says why it ended. Dropping the future closes the connection.
pub async fn serve<H: Handler>(conn: Conn, handler: Arc<H>, options: ServeOptions) -> WireError {
    let peer = conn.peer().clone();
    let (mut tx, mut rx) = conn.split();
    let desk = Desk {
        peer,
        handler,
        outbox: Arc::new(Outbox::new(
            options.max_requests + SPARE_ANSWERS,
            MAX_WAITING_BYTES,
        )),
        max_answer: tx.max_message(),
        max_requests: options.max_requests,
    };
    let write = async {
        while let Some(frame) = desk.outbox.next().await {
            if let Err(e) = tx.send(frame).await {
                return e;
            }
        }
        WireError::Congested
    };
    let read = async {
        let mut work = JoinSet::new();
        loop {
            let frame = tokio::select! {
                Some(_) = work.join_next(), if !work.is_empty() => continue,
                frame = rx.recv() => frame,
            };
            if let Err(e) = frame.and_then(|frame| desk.take(frame, &mut work)) {
                return e;
            }
        }
    };
    tokio::select! {
        e = read => e,
        e = write => e,
    }
}

struct Desk<H> {
    peer: Arc<Hello>,
    handler: Arc<H>,
    outbox: Arc<Outbox>,
    max_answer: usize,
    max_requests: usize,
}

impl<H: Handler> Desk<H> {
    fn take(&self, frame: Frame, work: &mut JoinSet<()>) -> Result<(), WireError> {
        let Frame {
            class,
            kind,
            id,
            payload,
        } = frame;
        match class {
            Class::OneWay => self.handler.one_way(&self.peer, kind, payload),
            Class::Request if work.len() >= self.max_requests => {
                self.outbox
                    .push(fault(id, Fault::Busy))
                    .map_err(|_| WireError::Congested)?;
            }
            Class::Request => {
                let (handler, peer, outbox) =
                    (self.handler.clone(), self.peer.clone(), self.outbox.clone());
                let max = self.max_answer;
                work.spawn(async move {
                    let answer = match handler.request(&peer, kind, payload).await {
                        Ok(body) if body.len() <= max => {
                            Frame::new(Class::Response, kind, id, body)
                        }
                        Ok(_) => fault(id, Fault::ReplyTooLarge),
                        Err(why) => fault(id, why),
                    };
                    // The peer asks but does not read: the connection has no future.
                    if outbox.push(answer).is_err() {
                        outbox.close();
                    }
                });
            }
            other => return Err(Malformed::Unexpected(other).into()),
        }
        Ok(())
    }
}

fn fault(id: u64, why: Fault) -> Frame {
    Frame::new(Class::Fault, why as u8, id, Bytes::new())
}
