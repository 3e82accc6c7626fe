//! Keeps one connection to one peer: dials, redials with a bounded back-off, and tells at once when it drops.
//!
//! What travels on it is the client's affair (`Session`). A drop is reported before anything else happens, since the
//! survivors of a lost leader act on it. During a key rotation a refused key makes the next dial use the other one.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{Notify, watch},
    task::AbortHandle,
};

use super::{
    client::ClientOptions,
    conn::{Conn, dial},
    error::WireError,
    frame::Frame,
    hello::{Admission, Hello, Lane, Local},
    keys::KeyChoice,
    outbox::Outbox,
};

/// Whether there is a connection to the peer.
#[derive(Debug, Clone)]
pub enum LinkState {
    /// Connected and admitted.
    Up {
        /// What the peer said of itself.
        peer: Arc<Hello>,
    },
    /// Not connected.
    Down {
        /// How the last connection ended, or why the last dial failed.
        reason: Arc<WireError>,
    },
}

impl LinkState {
    /// True while connected.
    pub fn is_up(&self) -> bool {
        matches!(self, LinkState::Up { .. })
    }
}

/// What a client does with its connection.
pub(super) trait Session: Send + Sync + 'static {
    /// A connection stands; gives the queue to send from.
    fn up(&self) -> Arc<Outbox>;
    /// A frame came.
    fn frame(&self, frame: Frame) -> Result<(), WireError>;
    /// The connection ended, or a dial failed.
    fn down(&self, reason: &Arc<WireError>);
}

/// Handle of the keeping task; dropping it ends the task and the connection.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) state: watch::Receiver<LinkState>,
    pub(super) addr: watch::Sender<String>,
    hurry: Arc<Notify>,
    task: AbortHandle,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Keeper<S> {
    addr: watch::Receiver<String>,
    lane: Lane,
    local: Local,
    admission: Arc<dyn Admission>,
    options: ClientOptions,
    session: Arc<S>,
    state: watch::Sender<LinkState>,
    hurry: Arc<Notify>,
}

impl Link {
    pub(super) fn spawn<S: Session>(
        addr: String,
        lane: Lane,
        local: Local,
        admission: Arc<dyn Admission>,
        options: ClientOptions,
        session: Arc<S>,
    ) -> Link {
        let (addr, addr_rx) = watch::channel(addr);
        let (state_tx, state) = watch::channel(LinkState::Down {
            reason: Arc::new(WireError::NotYet),
        });
        let hurry = Arc::new(Notify::new());
        let keeper = Keeper {
            addr: addr_rx,
            lane,
            local,
            admission,
            options,
            session,
            state: state_tx,
            hurry: hurry.clone(),
        };
        let task = tokio::spawn(keeper.run()).abort_handle();
        Link {
            state,
            addr,
            hurry,
            task,
        }
    }

    pub(super) fn reset_backoff(&self) {
        self.hurry.notify_one();
    }

    pub(super) fn set_addr(&self, addr: String) {
        self.addr.send_if_modified(|now| {
            let changed = *now != addr;
            *now = addr;
            changed
        });
    }
}

impl<S: Session> Keeper<S> {
    async fn run(mut self) {
        let (least, most) = (self.options.backoff_min, self.options.backoff_max);
        let mut delay = least;
        let mut key = KeyChoice::Current;
        loop {
            let addr = self.addr.borrow_and_update().clone();
            let reason = match dial(
                &addr,
                self.lane,
                &self.local,
                key,
                &*self.admission,
                self.options.timing,
            )
            .await
            {
                Ok(conn) => {
                    key = KeyChoice::Current;
                    let since = Instant::now();
                    let reason = self.keep(conn).await;
                    // One that ends as soon as it stands must not be redialled at full speed for ever.
                    if since.elapsed() >= most {
                        delay = least;
                    }
                    reason
                }
                Err(e) => {
                    if matches!(e, WireError::KeyDiffers { .. }) {
                        key = self.local.keys().after(key);
                    }
                    e
                }
            };
            let reason = Arc::new(reason);
            self.session.down(&reason);
            self.state.send_replace(LinkState::Down { reason });
            delay = self.pause(delay, most).await.unwrap_or(least);
        }
    }

    /// Waits before the next dial; gives the delay to wait after that, none if told to hurry.
    async fn pause(&mut self, delay: Duration, most: Duration) -> Option<Duration> {
        tokio::select! {
            () = tokio::time::sleep(delay) => Some((delay * 2).min(most)),
            () = self.hurry.notified() => None,
            Ok(()) = self.addr.changed() => None,
        }
    }

    async fn keep(&mut self, conn: Conn) -> WireError {
        let outbox = self.session.up();
        self.state.send_replace(LinkState::Up {
            peer: conn.peer().clone(),
        });
        let (mut tx, mut rx) = conn.split();
        let write = async {
            while let Some(frame) = outbox.next().await {
                if let Err(e) = tx.send(frame).await {
                    return e;
                }
            }
            WireError::Closed
        };
        let read = async {
            loop {
                let frame = match rx.recv().await {
                    Ok(frame) => frame,
                    Err(e) => return e,
                };
                if let Err(e) = self.session.frame(frame) {
                    return e;
                }
            }
        };
        let reason = tokio::select! {
            e = read => e,
            e = write => e,
            Ok(()) = self.addr.changed() => WireError::AddressChanged,
        };
        outbox.close();
        reason
    }
}
