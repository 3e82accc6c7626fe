//! The Noise handshake and the exchange of hellos that opens every connection.
//!
//! `NNpsk0`: the key mixed into the first message proves that the dialer holds it, but that message can be replayed, so
//! the acceptor acts on nothing before the first sealed frame, which only a live partner of this handshake can make.
//! Before the key is proved only two bytes are ever answered: a status that tells wrong key, wrong version or no room
//! apart. That status is not authenticated; forging it does what cutting the line does, and no more. This file must
//! never let a stranger cause work beyond a few hashes and one small buffer.

use std::{sync::Arc, time::Duration};

use bytes::{BufMut, BytesMut};
use futures_util::StreamExt;
use snow::{HandshakeState, StatelessTransportState};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_util::codec::{Encoder, FramedRead, LengthDelimitedCodec};

use super::{
    WIRE_VERSION,
    conn::{ConnReceiver, ConnSender, closed_or, codec},
    error::{Malformed, WireError},
    frame::{Class, Frame, MAX_NOISE},
    hello::{Admission, Hello, Local, Refusal, RefusalCode, encode},
    keys::KeyChoice,
};

const PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";
const PROTOCOL: &[u8] = b"mainstay/1";
const MAGIC: &[u8; 4] = b"MSTY";
/// A handshake message is 4 + 1 + 48 bytes, an answer 1 + 48.
const MAX_HANDSHAKE: usize = 128;
/// A hello or refusal, bytes.
const MAX_HELLO: usize = 4096;

const OK: u8 = 0;
const KEY_DIFFERS: u8 = 1;
const VERSION_DIFFERS: u8 = 2;
const NO_ROOM: u8 = 3;

/// What the listener writes to whom it has no room for: status `NO_ROOM` with its length.
pub(super) const NO_ROOM_FRAME: [u8; 3] = [0, 1, NO_ROOM];

/// Both halves and who is there.
#[derive(Debug)]
pub(super) struct Done<R, W> {
    pub(super) tx: ConnSender<W>,
    pub(super) rx: ConnReceiver<R>,
    pub(super) peer: Hello,
}

type Framed<R> = FramedRead<R, LengthDelimitedCodec>;

fn noise(key: &[u8; 32], initiator: bool) -> Result<HandshakeState, WireError> {
    let prologue = [PROTOCOL, &[WIRE_VERSION]].concat();
    let builder = snow::Builder::new(PATTERN.parse()?)
        .prologue(&prologue)?
        .psk(0, key)?;
    Ok(if initiator {
        builder.build_initiator()?
    } else {
        builder.build_responder()?
    })
}

async fn put<W: AsyncWrite + Unpin>(io: &mut W, bytes: &[u8]) -> Result<(), WireError> {
    let mut framed = BytesMut::new();
    codec(MAX_HANDSHAKE).encode(bytes, &mut framed)?;
    io.write_all(&framed).await.map_err(closed_or)
}

async fn get<R: AsyncRead + Unpin>(io: &mut Framed<R>, peer: &str) -> Result<BytesMut, WireError> {
    match io.next().await {
        None => Err(WireError::Closed),
        Some(Ok(bytes)) => Ok(bytes),
        Some(Err(e)) => match closed_or(e) {
            WireError::Malformed(_) => Err(WireError::NotMainstay { peer: peer.into() }),
            other => Err(other),
        },
    }
}

/// The dialer's side.
pub(super) async fn initiate<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    r: R,
    mut w: W,
    hello: &Hello,
    key: &[u8; 32],
    peer: &str,
    admission: &dyn Admission,
    stall: Duration,
) -> Result<Done<R, W>, WireError> {
    let mut r = FramedRead::with_capacity(r, codec(MAX_HANDSHAKE), MAX_HANDSHAKE);
    let mut state = noise(key, true)?;
    let mut message = [0u8; MAX_HANDSHAKE];
    let n = state.write_message(&[], &mut message)?;
    let mut first = BytesMut::with_capacity(MAX_HANDSHAKE);
    first.put_slice(MAGIC);
    first.put_u8(WIRE_VERSION);
    first.put_slice(&message[..n]);
    put(&mut w, &first).await?;

    let answer = get(&mut r, peer).await?;
    let peer_name = || peer.to_owned();
    match answer.split_first() {
        Some((&OK, second)) => {
            state
                .read_message(second, &mut message)
                .map_err(|_| WireError::Decrypt)?;
        }
        Some((&KEY_DIFFERS, [])) => return Err(WireError::KeyDiffers { peer: peer_name() }),
        Some((&VERSION_DIFFERS, &[theirs])) => {
            return Err(WireError::Version {
                peer: peer_name(),
                ours: WIRE_VERSION,
                theirs,
            });
        }
        Some((&NO_ROOM, [])) => return Err(WireError::PeerBusy { peer: peer_name() }),
        _ => return Err(WireError::NotMainstay { peer: peer_name() }),
    }

    let (mut tx, mut rx) = halves(r, w, state.into_stateless_transport_mode()?, stall);
    tx.send(Frame::new(Class::Hello, 0, 0, encode(hello)?))
        .await?;
    let answer = rx.recv().await?;
    if answer.class != Class::Welcome {
        return Err(Malformed::Unexpected(answer.class).into());
    }
    let theirs = Hello::decode(&answer.payload)?;
    judge(&mut tx, hello, &theirs, admission).await?;
    open(&mut tx, &mut rx, hello.lane.max_message());
    Ok(Done {
        tx,
        rx,
        peer: theirs,
    })
}

/// The acceptor's side; also says which of our keys the dialer used.
pub(super) async fn respond<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    r: R,
    mut w: W,
    local: &Local,
    peer: &str,
    admission: &dyn Admission,
    stall: Duration,
) -> Result<(Done<R, W>, KeyChoice), WireError> {
    let mut r = FramedRead::with_capacity(r, codec(MAX_HANDSHAKE), MAX_HANDSHAKE);
    let first = get(&mut r, peer).await?;
    let Some((&theirs, first)) = first
        .strip_prefix(MAGIC.as_slice())
        .and_then(<[u8]>::split_first)
    else {
        return Err(WireError::NotMainstay { peer: peer.into() });
    };
    if theirs != WIRE_VERSION {
        put(&mut w, &[VERSION_DIFFERS, WIRE_VERSION]).await?;
        return Err(WireError::Version {
            peer: peer.into(),
            ours: WIRE_VERSION,
            theirs,
        });
    }
    let Some((mut state, key)) = read_first(first, local)? else {
        put(&mut w, &[KEY_DIFFERS]).await?;
        return Err(WireError::KeyDiffers { peer: peer.into() });
    };
    let mut second = [OK; MAX_HANDSHAKE];
    let n = state.write_message(&[], &mut second[1..])?;
    put(&mut w, &second[..n + 1]).await?;

    let (mut tx, mut rx) = halves(r, w, state.into_stateless_transport_mode()?, stall);
    let frame = rx.recv().await?;
    if frame.class != Class::Hello {
        return Err(Malformed::Unexpected(frame.class).into());
    }
    let theirs = Hello::decode(&frame.payload)?;
    let mut ours = local.hello();
    ours.lane = theirs.lane;
    judge(&mut tx, &ours, &theirs, admission).await?;
    tx.send(Frame::new(Class::Welcome, 0, 0, encode(&ours)?))
        .await?;
    open(&mut tx, &mut rx, theirs.lane.max_message());
    Ok((
        Done {
            tx,
            rx,
            peer: theirs,
        },
        key,
    ))
}

/// Reads the dialer's first message with whichever of our keys fits.
fn read_first(
    message: &[u8],
    local: &Local,
) -> Result<Option<(HandshakeState, KeyChoice)>, WireError> {
    let keys = local.keys();
    let mut payload = [0u8; MAX_HANDSHAKE];
    for choice in [KeyChoice::Current, KeyChoice::Retiring] {
        if choice == KeyChoice::Retiring && keys.retiring.is_none() {
            break;
        }
        let mut state = noise(keys.get(choice), false)?;
        if state.read_message(message, &mut payload).is_ok() {
            return Ok(Some((state, choice)));
        }
    }
    Ok(None)
}

fn halves<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    mut r: Framed<R>,
    w: W,
    noise: StatelessTransportState,
    stall: Duration,
) -> (ConnSender<W>, ConnReceiver<R>) {
    // Reading and writing take strict turns up to here, so no half-read length was judged by the smaller limit.
    r.decoder_mut().set_max_frame_length(MAX_NOISE);
    let noise = Arc::new(noise);
    (
        ConnSender::new(w, noise.clone(), MAX_HELLO, stall),
        ConnReceiver::new(r, noise, MAX_HELLO, stall),
    )
}

/// Lifts the limit on sizes once the other side is admitted.
fn open<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    tx: &mut ConnSender<W>,
    rx: &mut ConnReceiver<R>,
    max: usize,
) {
    tx.set_max(max);
    rx.set_max(max);
}

/// Asks the admission, and tells the other side when it says no.
async fn judge<W: AsyncWrite + Unpin>(
    tx: &mut ConnSender<W>,
    ours: &Hello,
    theirs: &Hello,
    admission: &dyn Admission,
) -> Result<(), WireError> {
    let verdict = if theirs.wire == WIRE_VERSION {
        admission.admit(theirs)
    } else {
        Err(Refusal::new(
            RefusalCode::Version,
            format!("wire version is {WIRE_VERSION}, not {}", theirs.wire),
        ))
    };
    let Err(refusal) = verdict else {
        return Ok(());
    };
    let refusal = refusal.said_by(ours);
    // That it arrives is a courtesy; that the connection ends is not.
    let _ = tx
        .send(Frame::new(Class::Refusal, 0, 0, encode(&refusal)?))
        .await;
    Err(WireError::Refusing {
        node: theirs.node.clone(),
        refusal,
    })
}
