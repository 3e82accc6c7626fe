//! The handshake and both halves over memory instead of sockets: hostile bytes, cut streams, cancelled calls.

use std::{pin::pin, sync::Arc, time::Duration};

use bytes::BytesMut;
use proptest::prelude::*;
use snow::StatelessTransportState;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex, sink, split},
    runtime::Builder,
};
use tokio_util::codec::{Encoder, FramedRead};

use super::{
    conn::{ConnReceiver, ConnSender, codec},
    frame::MAX_NOISE,
    handshake::{Done, initiate, respond},
    *,
};

const STALL: Duration = Duration::from_millis(200);
type Side = Done<ReadHalf<DuplexStream>, WriteHalf<DuplexStream>>;

fn local(node: &str) -> Local {
    Local::new(
        Hello::new("edge", 1, node, 1),
        Keys {
            current: [1; 32],
            retiring: None,
        },
    )
}

fn anyone(_: &Hello) -> Result<(), Refusal> {
    Ok(())
}

fn run<F: Future>(f: F) -> F::Output {
    Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(f)
}

async fn pair(buffer: usize) -> (Side, Side) {
    let (a, b) = duplex(buffer);
    let ((ar, aw), (br, bw)) = (split(a), split(b));
    let (mut hello, theirs) = (local("n1").hello(), local("n2"));
    hello.lane = Lane::Rpc;
    let (dialer, acceptor) = tokio::join!(
        initiate(ar, aw, &hello, &[1; 32], "n2", &anyone, STALL),
        respond(br, bw, &theirs, "n1", &anyone, STALL),
    );
    (dialer.unwrap(), acceptor.unwrap().0)
}

/// Two transport states of one handshake, for sealing plaintext of a test's own making.
fn transport() -> (StatelessTransportState, StatelessTransportState) {
    let builder = || snow::Builder::new("Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s".parse().unwrap());
    let mut a = builder()
        .psk(0, &[1; 32])
        .unwrap()
        .build_initiator()
        .unwrap();
    let mut b = builder()
        .psk(0, &[1; 32])
        .unwrap()
        .build_responder()
        .unwrap();
    let (mut message, mut rest) = ([0; 200], [0; 200]);
    let n = a.write_message(&[], &mut message).unwrap();
    b.read_message(&message[..n], &mut rest).unwrap();
    let n = b.write_message(&[], &mut message).unwrap();
    a.read_message(&message[..n], &mut rest).unwrap();
    (
        a.into_stateless_transport_mode().unwrap(),
        b.into_stateless_transport_mode().unwrap(),
    )
}

fn receiver(bytes: &[u8], noise: StatelessTransportState, max: usize) -> ConnReceiver<&[u8]> {
    ConnReceiver::new(
        FramedRead::new(bytes, codec(MAX_NOISE)),
        Arc::new(noise),
        max,
        STALL,
    )
}

fn sealed(noise: &StatelessTransportState, chunks: &[Vec<u8>]) -> BytesMut {
    let mut out = BytesMut::new();
    for (nonce, plain) in (0..).zip(chunks) {
        let mut message = vec![0; plain.len() + 16];
        let n = noise.write_message(nonce, plain, &mut message).unwrap();
        codec(MAX_NOISE).encode(&message[..n], &mut out).unwrap();
    }
    out
}

#[test]
fn both_sides_learn_who_is_there() {
    run(async {
        let (mut a, mut b) = pair(1 << 16).await;
        assert_eq!((a.peer.node.as_str(), b.peer.node.as_str()), ("n2", "n1"));
        let frame = Frame::new(Class::Request, 3, 7, "hi");
        a.tx.send(frame.clone()).await.unwrap();
        assert_eq!(b.rx.recv().await.unwrap(), frame);
        drop((a.tx, a.rx));
        assert!(matches!(b.rx.recv().await, Err(WireError::Closed)));
    });
}

#[test]
fn cancelled_send_and_recv_lose_and_double_nothing() {
    run(async {
        let (mut a, mut b) = pair(512).await;
        let big = |n: u8| Frame::new(Class::OneWay, n, 0, vec![n; 40_000]);
        let brief = Duration::from_millis(1);
        assert!(
            tokio::time::timeout(brief, a.tx.send(big(1)))
                .await
                .is_err()
        );
        assert!(tokio::time::timeout(brief, b.rx.recv()).await.is_err());
        // The first is still under way, so this one is not taken.
        assert!(
            tokio::time::timeout(brief, a.tx.send(big(2)))
                .await
                .is_err()
        );
        let (sent, got) = tokio::join!(a.tx.send(big(3)), async {
            let first = loop {
                if let Ok(frame) = tokio::time::timeout(brief, b.rx.recv()).await {
                    break frame.unwrap();
                }
            };
            (first, b.rx.recv().await.unwrap())
        });
        sent.unwrap();
        assert_eq!(got, (big(1), big(3)));
    });
}

#[test]
fn a_peer_that_does_not_drain_or_stops_midway_is_dropped() {
    run(async {
        let (mut a, _b) = pair(512).await;
        let sent =
            a.tx.send(Frame::new(Class::OneWay, 0, 0, vec![0; 9_000]))
                .await;
        assert!(matches!(sent, Err(WireError::Stalled { .. })), "{sent:?}");

        let (mut a, mut b) = pair(1 << 16).await;
        let idle = tokio::time::timeout(STALL * 20, b.rx.recv()).await;
        assert!(
            idle.is_err(),
            "silence between messages is no fault: {idle:?}"
        );
        let mut send = pin!(a.tx.send(Frame::new(Class::OneWay, 0, 0, vec![0; 900_000])));
        assert!(futures_util::poll!(send.as_mut()).is_pending());
        let got = tokio::time::timeout(STALL * 3, b.rx.recv())
            .await
            .expect("bounded");
        assert!(matches!(got, Err(WireError::Stalled { .. })), "{got:?}");
    });
}

#[test]
fn half_a_chunk_does_not_wait_for_ever() {
    run(async {
        let (noise, _) = transport();
        let (mut far, near) = duplex(100);
        let io = FramedRead::new(near, codec(MAX_NOISE));
        let mut rx = ConnReceiver::new(io, Arc::new(noise), 100, STALL);
        far.write_all(&[0x20, 0, 1, 2]).await.unwrap();
        let got = tokio::time::timeout(STALL * 3, rx.recv())
            .await
            .expect("bounded");
        assert!(matches!(got, Err(WireError::Stalled { .. })), "{got:?}");
    });
}

#[test]
fn altered_reordered_and_replayed_messages_are_errors() {
    let plain: Vec<Vec<u8>> = (0..3u8)
        .map(|n| vec![0, WIRE_VERSION, 7, n, 0, 0, 0, 0, 0, 0, 0, 0, n])
        .collect();
    let len = plain[0].len() + 16 + 2;
    let outcome = |bytes: &[u8], noise| {
        run(async {
            let mut rx = receiver(bytes, noise, 100);
            let mut kinds = Vec::new();
            loop {
                match rx.recv().await {
                    Ok(frame) => kinds.push(frame.kind),
                    Err(e) => return (kinds, e),
                }
            }
        })
    };
    let (a, b) = transport();
    let (kinds, e) = outcome(&sealed(&a, &plain), b);
    assert!(
        kinds == [0, 1, 2] && matches!(e, WireError::Closed),
        "{e:?}"
    );
    type Change<'a> = (&'a str, &'a dyn Fn(&mut BytesMut));
    let changes: [Change<'_>; 3] = [
        ("altered", &|bytes| bytes[len + 5] ^= 1),
        ("reordered", &|bytes| bytes[len..].rotate_left(len)),
        ("replayed", &|bytes| bytes.copy_within(..len, len)),
    ];
    for (what, change) in changes {
        let (a, b) = transport();
        let mut bytes = sealed(&a, &plain);
        change(&mut bytes);
        let (kinds, e) = outcome(&bytes, b);
        assert!(
            kinds == [0] && matches!(e, WireError::Decrypt),
            "{what}: {kinds:?} {e:?}"
        );
    }
    let (a, b) = transport();
    let bytes = sealed(&a, &plain);
    let (kinds, e) = outcome(&bytes[..2 * len + 7], b);
    assert!(
        kinds == [0, 1] && matches!(e, WireError::Closed),
        "{kinds:?} {e:?}"
    );
    let (_, b) = transport();
    let (_, e) = outcome(&[0xff; 70_000], b);
    assert!(
        matches!(e, WireError::Malformed(Malformed::ChunkTooLarge)),
        "{e:?}"
    );
}

#[test]
fn too_large_to_send_is_told_and_harmless() {
    run(async {
        let (noise, _) = transport();
        let mut tx = ConnSender::new(sink(), Arc::new(noise), 10, STALL);
        let big = tx.send(Frame::new(Class::OneWay, 0, 0, vec![0; 11])).await;
        assert!(matches!(
            big,
            Err(WireError::TooLarge { size: 11, max: 10 })
        ));
        tx.send(Frame::new(Class::OneWay, 0, 0, vec![0; 10]))
            .await
            .unwrap();
    });
}

#[test]
fn a_stranger_who_answers_a_dial_gets_nowhere() {
    type Answer<'a> = (&'a [u8], fn(&WireError) -> bool);
    let answers: [Answer<'_>; 6] = [
        (b"-ERR unknown command\r\n", |e| {
            matches!(e, WireError::NotMainstay { .. })
        }),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", |e| {
            matches!(e, WireError::NotMainstay { .. })
        }),
        (&[0, 3, 0, 9, 9], |e| matches!(e, WireError::Decrypt)),
        (&[0, 1, 1], |e| matches!(e, WireError::KeyDiffers { .. })),
        (&[0, 2, 2, 9], |e| {
            matches!(e, WireError::Version { theirs: 9, .. })
        }),
        (&[], |e| matches!(e, WireError::Closed)),
    ];
    for (answer, want) in answers {
        let hello = local("n1").hello();
        let got = run(initiate(
            answer,
            sink(),
            &hello,
            &[1; 32],
            "n2",
            &anyone,
            STALL,
        ));
        assert!(got.as_ref().is_err_and(want), "{answer:?}: {got:?}");
    }
}

#[test]
fn a_dialer_of_another_version_is_told_both() {
    run(async {
        let (far, near) = duplex(1000);
        let ((r, w), ours) = (split(near), local("n2"));
        let (mut far_r, mut far_w) = split(far);
        let mut first = vec![0, 53];
        first.extend_from_slice(b"MSTY\x02");
        first.resize(55, 0);
        far_w.write_all(&first).await.unwrap();
        let e = respond(r, w, &ours, "n1", &anyone, STALL)
            .await
            .unwrap_err();
        assert!(
            matches!(
                e,
                WireError::Version {
                    ours: 1,
                    theirs: 2,
                    ..
                }
            ),
            "{e}"
        );
        let mut answer = [0; 4];
        far_r.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, [0, 2, 2, WIRE_VERSION]);
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_bytes_to_the_acceptor_end_in_an_error(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..300),
        known in 0usize..8,
    ) {
        // Let some get past the first checks.
        for (b, good) in bytes.iter_mut().zip(*b"\x00\x35MSTY\x01").take(known) {
            *b = good;
        }
        let admitted = |_: &Hello| -> Result<(), Refusal> { panic!("a stranger reached the admission") };
        let ours = local("n2");
        prop_assert!(run(respond(bytes.as_slice(), sink(), &ours, "x", &admitted, STALL)).is_err());
    }

    #[test]
    fn any_authentic_chunks_give_frames_or_an_error(
        chunks in proptest::collection::vec(
            (proptest::collection::vec(any::<u8>(), 0..60), 0usize..13).prop_map(|(mut v, known)| {
                for (b, good) in v.iter_mut().zip([1, WIRE_VERSION, 4]).take(known) {
                    *b = good;
                }
                v
            }),
            1..30,
        ),
        cut in 0usize..2_000,
    ) {
        let (a, b) = transport();
        let mut bytes = sealed(&a, &chunks);
        bytes.truncate(cut);
        run(async {
            let mut rx = receiver(&bytes, b, 128);
            while let Ok(frame) = rx.recv().await {
                assert!(frame.payload.len() <= 128);
            }
        });
    }
}
