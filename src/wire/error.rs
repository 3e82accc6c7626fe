//! Errors of the peer connections.
//!
//! Each variant is one thing an operator or a caller can tell apart and act on; texts name the place and the remedy.
//! They must never carry key material. `WireError` ends a connection, `CallError` ends one request, `Fault` is what a
//! server answers instead of a reply.

use std::{io, sync::Arc, time::Duration};

use super::hello::Refusal;

/// Why a connection could not be made, or ended.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// No dial has ended yet.
    #[error("not connected yet")]
    NotYet,
    /// The address is no `host:port`, or the name has no address.
    #[error("cannot resolve {addr}: {why}; write the address as IP:PORT, or fix the name service")]
    Resolve {
        /// As configured.
        addr: String,
        /// What the resolver said.
        why: String,
    },
    /// TCP connect failed.
    #[error("cannot connect to {addr}: {source}")]
    Connect {
        /// As configured.
        addr: String,
        /// From the kernel.
        source: io::Error,
    },
    /// The listening socket could not be bound.
    #[error(
        "cannot listen on {addr}: {source}; another process may hold the port, or the host lacks the address"
    )]
    Bind {
        /// As configured.
        addr: String,
        /// From the kernel.
        source: io::Error,
    },
    /// A step of dial or accept took too long.
    #[error("no answer from {peer} within {after:?} ({step})")]
    Timeout {
        /// Address of the other side.
        peer: String,
        /// What was waited for.
        step: &'static str,
        /// The bound.
        after: Duration,
    },
    /// The other side holds another pre-shared key.
    #[error("the cluster key differs from that of {peer}; copy the same key file to both nodes")]
    KeyDiffers {
        /// Address of the other side.
        peer: String,
    },
    /// The other side speaks another wire version.
    #[error("{peer} speaks wire version {theirs}, this agent {ours}; upgrade the older one")]
    Version {
        /// Address of the other side.
        peer: String,
        /// Ours.
        ours: u8,
        /// Theirs.
        theirs: u8,
    },
    /// What came back is no mainstay handshake.
    #[error("{peer} does not speak the mainstay peer protocol; check the address and port")]
    NotMainstay {
        /// Address of the other side.
        peer: String,
    },
    /// The other side turned us away before reading: too many connections or failed handshakes from this address.
    #[error("{peer} takes no connection from this address at the moment")]
    PeerBusy {
        /// Address of the other side.
        peer: String,
    },
    /// The other side refused our hello.
    #[error("{0}")]
    Refused(Refusal),
    /// We refused the other side's hello.
    #[error("refused {node}: {}", refusal.reason)]
    Refusing {
        /// The name it gave.
        node: String,
        /// What it was told.
        refusal: Refusal,
    },
    /// Bytes that the framing does not allow.
    #[error("malformed frame: {0}")]
    Malformed(#[from] Malformed),
    /// A Noise message that does not authenticate.
    #[error("a message was altered on its way, replayed or out of order")]
    Decrypt,
    /// The message is larger than the lane allows; nothing was sent.
    #[error("message of {size} bytes is over the limit of {max}")]
    TooLarge {
        /// Bytes asked to send.
        size: usize,
        /// The lane's limit.
        max: usize,
    },
    /// The other side closed the connection, or our own handle did.
    #[error("connection closed")]
    Closed,
    /// The address to dial was replaced.
    #[error("redialling: the peer's address changed")]
    AddressChanged,
    /// Nothing moved for this long although bytes were due.
    #[error("the connection did not move for {after:?}")]
    Stalled {
        /// The bound.
        after: Duration,
    },
    /// The answers of this connection are not drained.
    #[error("too many answers wait to be sent")]
    Congested,
    /// The socket failed.
    #[error("connection lost: {0}")]
    Io(#[from] io::Error),
    /// The Noise library could not be set up.
    #[error("handshake cannot be built: {0}")]
    Crypto(#[from] snow::Error),
}

/// What exactly is wrong with bytes that authenticated but do not parse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A chunk without content.
    #[error("empty chunk")]
    EmptyChunk,
    /// The chunk's first byte is neither "more" nor "last".
    #[error("unknown chunk flag {0}")]
    ChunkFlag(u8),
    /// Fewer bytes than a header has.
    #[error("header cut short at {0} bytes")]
    ShortHeader(usize),
    /// Frame of another version.
    #[error("frame version {0}")]
    Version(u8),
    /// Unknown frame class.
    #[error("unknown frame class {0}")]
    Class(u8),
    /// A class that has no business here.
    #[error("unexpected frame of class {0:?}")]
    Unexpected(super::frame::Class),
    /// A message that grew over the limit.
    #[error("message over {0} bytes")]
    TooLarge(usize),
    /// A Noise message larger than a chunk may be.
    #[error("chunk over its limit")]
    ChunkTooLarge,
    /// Hello or refusal does not decode.
    #[error("hello or refusal does not decode")]
    Hello,
    /// A fault code of no meaning.
    #[error("unknown fault code")]
    Fault,
}

/// What a server answers when there is no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[repr(u8)]
pub enum Fault {
    /// Too many requests of this connection are in work.
    #[error("the peer is busy")]
    Busy = 1,
    /// The handler does not know the kind, or the lane may not ask for it.
    #[error("the peer does not answer requests of this kind on this lane")]
    UnknownKind = 2,
    /// The body did not decode.
    #[error("the peer could not decode the request")]
    BadRequest = 3,
    /// The handler cannot answer now.
    #[error("the peer cannot answer now")]
    Unavailable = 4,
    /// The reply would be over the lane's limit.
    #[error("the peer's reply is over the size limit")]
    ReplyTooLarge = 5,
}

impl Fault {
    pub(super) fn from_byte(b: u8) -> Result<Self, Malformed> {
        Ok(match b {
            1 => Fault::Busy,
            2 => Fault::UnknownKind,
            3 => Fault::BadRequest,
            4 => Fault::Unavailable,
            5 => Fault::ReplyTooLarge,
            _ => return Err(Malformed::Fault),
        })
    }
}

/// Why one request has no reply.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// As many requests as allowed are in flight, or their bytes fill the queue; nothing was sent.
    #[error("too many requests to this peer are in flight (limit {limit})")]
    Busy {
        /// Requests allowed at once.
        limit: usize,
    },
    /// There is no connection, or it ended before the reply. In the second case the peer may have acted.
    #[error("link down: {reason}")]
    Down {
        /// Why.
        reason: Arc<WireError>,
    },
    /// No reply in time. The peer may have acted.
    #[error("no reply within {after:?}")]
    Timeout {
        /// The bound the caller gave.
        after: Duration,
    },
    /// Request over the lane's limit; nothing was sent.
    #[error("request of {size} bytes is over the limit of {max}")]
    TooLarge {
        /// Bytes asked to send.
        size: usize,
        /// The lane's limit.
        max: usize,
    },
    /// The server answered with a fault.
    #[error("{0}")]
    Fault(Fault),
}
