//! One connection: dialling, accepting, and its two halves that send and receive frames.
//!
//! Holds socket options, name resolution with a bound, and the sealing and opening of chunks. Both halves are
//! cancel-safe: what a dropped `send` or `recv` had done so far stays in the half and is carried on by the next call.
//! After an error a half is of no further use. A peer that stops draining or stops in mid-message ends the connection
//! after `Timing::stall`; one that is merely silent between messages is noticed by TCP keep-alive.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::BytesMut;
use futures_util::StreamExt;
use nix::sys::socket::{setsockopt, sockopt};
use snow::StatelessTransportState;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::codec::{Encoder, FramedRead, LengthDelimitedCodec};

use super::{
    error::{Malformed, WireError},
    frame::{Assembler, Chunker, Frame, MAX_NOISE, TAG},
    handshake,
    hello::{Admission, Hello, Lane, Local},
    keys::KeyChoice,
};

/// Addresses of one name that are tried, at most.
const MAX_ADDRESSES: usize = 4;
/// Name look-ups at once; the system's resolver blocks a thread for as long as it likes.
static LOOKUPS: Semaphore = Semaphore::const_new(4);
/// Chunks sealed or opened in a row before other tasks get their turn: a large message must not hold up the runtime's
/// only thread, which renews leases.
const TURN: u32 = 4;
/// An idle connection is probed after this long, and then as often.
const KEEPALIVE_S: u32 = 1;
/// Probes without an answer that end a connection, where the stall bound does not end it first.
const KEEPALIVE_PROBES: u32 = 3;

/// Bounds of a connection's waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Resolving, connecting and the whole handshake together.
    pub handshake: Duration,
    /// A socket that does not drain, or a message that does not go on, for this long ends the connection. Also the
    /// kernel's bound on unacknowledged bytes.
    pub stall: Duration,
}

/// An admitted connection.
#[derive(Debug)]
pub struct Conn {
    pub(super) tx: ConnSender,
    pub(super) rx: ConnReceiver,
    pub(super) peer: Arc<Hello>,
    pub(super) addr: SocketAddr,
    pub(super) lane: Lane,
    pub(super) key: KeyChoice,
}

impl Conn {
    /// What the other side said of itself.
    pub fn peer(&self) -> &Arc<Hello> {
        &self.peer
    }

    /// Where the other side is.
    pub fn peer_addr(&self) -> SocketAddr {
        self.addr
    }

    /// What the dialer wants this connection for.
    pub fn lane(&self) -> Lane {
        self.lane
    }

    /// The key both sides used: `Retiring` tells that the peer still holds only the old one.
    pub fn key(&self) -> KeyChoice {
        self.key
    }

    /// The halves, to be used from different tasks. The socket closes when both are gone.
    pub fn split(self) -> (ConnSender, ConnReceiver) {
        (self.tx, self.rx)
    }

    /// Counts this connection against `permit` until both halves are gone.
    pub(super) fn hold(&mut self, permit: OwnedSemaphorePermit) {
        let permit = Arc::new(permit);
        self.tx.permit = Some(permit.clone());
        self.rx.permit = Some(permit);
    }
}

/// The half that sends.
pub struct ConnSender<W = OwnedWriteHalf> {
    io: W,
    noise: Arc<StatelessTransportState>,
    nonce: u64,
    codec: LengthDelimitedCodec,
    /// Sealed bytes the socket has not taken yet.
    out: BytesMut,
    /// What is left of the frame being sent.
    sending: Option<Chunker>,
    plain: Vec<u8>,
    turn: u32,
    sealed: Vec<u8>,
    max: usize,
    stall: Duration,
    permit: Option<Arc<OwnedSemaphorePermit>>,
}

/// The half that receives.
pub struct ConnReceiver<R = OwnedReadHalf> {
    io: FramedRead<R, LengthDelimitedCodec>,
    noise: Arc<StatelessTransportState>,
    nonce: u64,
    plain: Vec<u8>,
    turn: u32,
    assembler: Assembler,
    /// By when the message that has begun must go on.
    due: Option<Instant>,
    stall: Duration,
    permit: Option<Arc<OwnedSemaphorePermit>>,
}

impl<W> std::fmt::Debug for ConnSender<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnSender")
            .field("nonce", &self.nonce)
            .field("counted", &self.permit.is_some())
            .finish()
    }
}

impl<R> std::fmt::Debug for ConnReceiver<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnReceiver")
            .field("nonce", &self.nonce)
            .field("counted", &self.permit.is_some())
            .finish()
    }
}

impl<W: AsyncWrite + Unpin> ConnSender<W> {
    pub(super) fn new(
        io: W,
        noise: Arc<StatelessTransportState>,
        max: usize,
        stall: Duration,
    ) -> Self {
        ConnSender {
            io,
            noise,
            nonce: 0,
            codec: codec(MAX_NOISE),
            out: BytesMut::new(),
            sending: None,
            plain: Vec::new(),
            turn: 0,
            sealed: Vec::new(),
            max,
            stall,
            permit: None,
        }
    }

    pub(super) fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    /// Largest payload this connection sends, bytes.
    pub fn max_message(&self) -> usize {
        self.max
    }

    /// Sends one frame; returns once the socket has it. Cancelled, the frame is sent whole with the next call, or, if
    /// an earlier cancelled one was still under way, not at all. After `TooLarge` the connection is still good.
    pub async fn send(&mut self, frame: Frame) -> Result<(), WireError> {
        let size = frame.payload.len();
        if size > self.max {
            return Err(WireError::TooLarge {
                size,
                max: self.max,
            });
        }
        self.flush().await?;
        self.sending = Some(Chunker::new(frame));
        self.flush().await
    }

    /// Writes what cancelled sends have left.
    pub async fn flush(&mut self) -> Result<(), WireError> {
        loop {
            while !self.out.is_empty() {
                let wrote = timeout(self.stall, self.io.write_buf(&mut self.out)).await;
                match wrote.map_err(|_| WireError::Stalled { after: self.stall })? {
                    Ok(0) => return Err(WireError::Closed),
                    Ok(_) => {}
                    Err(e) => return Err(closed_or(e)),
                }
            }
            let Some(chunker) = &mut self.sending else {
                return Ok(());
            };
            if chunker.next_chunk(&mut self.plain) {
                self.sending = None;
            }
            self.seal()?;
            if self.sending.is_some() {
                take_turns(&mut self.turn).await;
            }
        }
    }

    fn seal(&mut self) -> Result<(), WireError> {
        self.sealed.resize(self.plain.len() + TAG, 0);
        let n = self
            .noise
            .write_message(self.nonce, &self.plain, &mut self.sealed)?;
        self.nonce += 1;
        self.codec.encode(&self.sealed[..n], &mut self.out)?;
        Ok(())
    }
}

impl<R: AsyncRead + Unpin> ConnReceiver<R> {
    pub(super) fn new(
        io: FramedRead<R, LengthDelimitedCodec>,
        noise: Arc<StatelessTransportState>,
        max: usize,
        stall: Duration,
    ) -> Self {
        ConnReceiver {
            io,
            noise,
            nonce: 0,
            plain: Vec::new(),
            turn: 0,
            assembler: Assembler::new(max),
            due: None,
            stall,
            permit: None,
        }
    }

    pub(super) fn set_max(&mut self, max: usize) {
        self.assembler.set_max(max);
    }

    /// The next frame; waits without a bound between frames, but at most twice `stall` for one that has begun to go on.
    /// A refusal the other side sends on its way out is the error `Refused`.
    pub async fn recv(&mut self) -> Result<Frame, WireError> {
        loop {
            let until = self.due.unwrap_or_else(|| Instant::now() + self.stall);
            let Ok(chunk) = timeout_at(until, self.io.next()).await else {
                if self.due.is_some() {
                    return Err(WireError::Stalled { after: self.stall });
                }
                // Silence between messages is fine, half a chunk is not: give it once more the same time.
                if !self.io.read_buffer().is_empty() {
                    self.due = Some(Instant::now() + self.stall);
                }
                continue;
            };
            let chunk = match chunk {
                None => return Err(WireError::Closed),
                Some(Ok(chunk)) => chunk,
                Some(Err(e)) => return Err(closed_or(e)),
            };
            self.plain.resize(chunk.len(), 0);
            let n = self
                .noise
                .read_message(self.nonce, &chunk, &mut self.plain)
                .map_err(|_| WireError::Decrypt)?;
            self.nonce += 1;
            match self.assembler.push(&self.plain[..n])? {
                Some(frame) if frame.class == super::frame::Class::Refusal => {
                    return Err(WireError::Refused(super::hello::Refusal::decode(
                        &frame.payload,
                    )?));
                }
                Some(frame) => {
                    self.due = None;
                    return Ok(frame);
                }
                None => {
                    self.due = Some(Instant::now() + self.stall);
                    take_turns(&mut self.turn).await;
                }
            }
        }
    }
}

async fn take_turns(turn: &mut u32) {
    *turn = turn.wrapping_add(1);
    if turn.is_multiple_of(TURN) {
        tokio::task::yield_now().await;
    }
}

pub(super) fn codec(max: usize) -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder()
        .length_field_type::<u16>()
        .max_frame_length(max)
        .new_codec()
}

/// Tells a close from trouble: the other side gone between or within frames reads as `Closed`.
pub(super) fn closed_or(e: std::io::Error) -> WireError {
    use std::io::ErrorKind as K;
    match e.kind() {
        K::InvalidData => WireError::Malformed(Malformed::ChunkTooLarge),
        K::UnexpectedEof | K::BrokenPipe => WireError::Closed,
        // tokio-util's framing reports an end in mid-frame as "other" without a cause.
        K::Other if e.raw_os_error().is_none() => WireError::Closed,
        _ => WireError::Io(e),
    }
}

/// Dials `addr` (`HOST:PORT`) and introduces this node for `lane`, all within `timing.handshake`; `admission` judges
/// who answers. `key` says which key to try: after `KeyDiffers`, a node that is rotating keys tries the other one.
pub async fn dial(
    addr: &str,
    lane: Lane,
    local: &Local,
    key: KeyChoice,
    admission: &dyn Admission,
    timing: Timing,
) -> Result<Conn, WireError> {
    let work = async {
        let stream = connect(addr, timing.handshake).await?;
        prepare(&stream, timing.stall)?;
        let at = stream.peer_addr()?;
        let (r, w) = stream.into_split();
        let (keys, mut hello) = (local.keys(), local.hello());
        hello.lane = lane;
        let done =
            handshake::initiate(r, w, &hello, keys.get(key), addr, admission, timing.stall).await?;
        Ok(Conn {
            tx: done.tx,
            rx: done.rx,
            peer: Arc::new(done.peer),
            addr: at,
            lane,
            key,
        })
    };
    let late = || WireError::Timeout {
        peer: addr.into(),
        step: "dial and handshake",
        after: timing.handshake,
    };
    timeout(timing.handshake, work).await.map_err(|_| late())?
}

/// Takes the other end of a dial on an accepted socket. Nothing the other side says has any effect before it has
/// proved, with a frame sealed under this very handshake, that it holds a key.
pub async fn accept(
    stream: TcpStream,
    local: &Local,
    admission: &dyn Admission,
    timing: Timing,
) -> Result<Conn, WireError> {
    let at = stream.peer_addr()?;
    let work = async {
        prepare(&stream, timing.stall)?;
        let (r, w) = stream.into_split();
        let (done, key) =
            handshake::respond(r, w, local, &at.to_string(), admission, timing.stall).await?;
        let lane = done.peer.lane;
        Ok(Conn {
            tx: done.tx,
            rx: done.rx,
            peer: Arc::new(done.peer),
            addr: at,
            lane,
            key,
        })
    };
    let late = || WireError::Timeout {
        peer: at.to_string(),
        step: "handshake",
        after: timing.handshake,
    };
    timeout(timing.handshake, work).await.map_err(|_| late())?
}

/// Resolves `HOST:PORT` within `bound`, to at most four addresses.
pub async fn resolve(addr: &str, bound: Duration) -> Result<Vec<SocketAddr>, WireError> {
    if let Ok(literal) = addr.parse() {
        return Ok(vec![literal]);
    }
    let failed = |why: String| WireError::Resolve {
        addr: addr.into(),
        why,
    };
    let look_up = async {
        let permit = LOOKUPS.acquire().await.map_err(|e| failed(e.to_string()))?;
        let name = addr.to_owned();
        let found = tokio::task::spawn_blocking(move || {
            // Held by the thread, not by the waiter: a look-up that hangs keeps its place taken after the time-out.
            let _permit = permit;
            std::net::ToSocketAddrs::to_socket_addrs(&name)
                .map(|all| all.take(MAX_ADDRESSES).collect::<Vec<_>>())
        });
        found
            .await
            .map_err(|e| failed(e.to_string()))?
            .map_err(|e| failed(e.to_string()))
    };
    match timeout(bound, look_up).await {
        Err(_) => Err(failed(format!("no answer within {bound:?}"))),
        Ok(Ok(found)) if found.is_empty() => Err(failed("the name has no address".into())),
        Ok(found) => found,
    }
}

async fn connect(addr: &str, bound: Duration) -> Result<TcpStream, WireError> {
    let found = resolve(addr, bound).await?;
    let share = bound / u32::try_from(found.len()).unwrap_or(1).max(1);
    let mut last = std::io::Error::from(std::io::ErrorKind::TimedOut);
    for at in found {
        match timeout(share, TcpStream::connect(at)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(e)) => last = e,
            Err(_) => last = std::io::ErrorKind::TimedOut.into(),
        }
    }
    Err(WireError::Connect {
        addr: addr.into(),
        source: last,
    })
}

/// Small messages leave at once, and a dead peer is noticed whether bytes are under way (user time-out) or not
/// (keep-alive).
fn prepare(stream: &TcpStream, stall: Duration) -> Result<(), WireError> {
    stream.set_nodelay(true)?;
    let os = |e: nix::Error| WireError::Io(e.into());
    let stall_ms = u32::try_from(stall.as_millis()).unwrap_or(u32::MAX).max(1);
    setsockopt(stream, sockopt::TcpUserTimeout, &stall_ms).map_err(os)?;
    setsockopt(stream, sockopt::KeepAlive, &true).map_err(os)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &KEEPALIVE_S).map_err(os)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &KEEPALIVE_S).map_err(os)?;
    setsockopt(stream, sockopt::TcpKeepCount, &KEEPALIVE_PROBES).map_err(os)?;
    Ok(())
}
