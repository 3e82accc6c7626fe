//! Who is let in, what those who are not are told, and what strangers can do: nothing that lasts.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use mainstay::wire::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::{sleep, timeout},
};

use super::*;

#[tokio::test]
async fn a_connection_tells_both_sides_and_closes_cleanly() {
    let (tx, mut rx) = mpsc::channel(1);
    let ours = local("n2");
    let adm = admission(&ours);
    let listener = listen(
        "localhost:0",
        ours,
        adm,
        ListenOptions::new(TIMING),
        move |_, conn| {
            tx.try_send(conn.unwrap()).unwrap();
        },
    )
    .await
    .unwrap();
    let me = local("n1");
    let mut hello = me.hello();
    hello.node_id = Some(7);
    me.set_hello(hello);
    let conn = dial(
        &listener.local_addr().to_string(),
        Lane::Guest,
        &me,
        KeyChoice::Current,
        &*admission(&me),
        TIMING,
    )
    .await
    .unwrap();
    let accepted = rx.recv().await.unwrap();
    assert_eq!(
        (conn.peer().node.as_str(), accepted.peer().node.as_str()),
        ("n2", "n1")
    );
    assert_eq!(
        (accepted.peer().node_id, accepted.lane(), conn.lane()),
        (Some(7), Lane::Guest, Lane::Guest)
    );
    let (mut tx, _rx) = conn.split();
    let (_tx, mut rx) = accepted.split();
    tx.send(Frame::new(Class::OneWay, 5, 0, "x")).await.unwrap();
    assert_eq!(rx.recv().await.unwrap().kind, 5);
    drop((tx, _rx));
    assert!(matches!(rx.recv().await, Err(WireError::Closed)));
}

#[tokio::test]
async fn another_key_another_cluster_and_another_address_are_told_apart() {
    let mut server = server().await;
    let stranger = Local::new(local("n1").hello(), keys(B, None));
    let said = dial_as(&stranger, server.addr(), KeyChoice::Current)
        .await
        .unwrap_err();
    assert!(matches!(said, WireError::KeyDiffers { .. }), "{said}");
    assert!(
        said.to_string().contains("the cluster key differs"),
        "{said}"
    );
    assert!(matches!(
        server.failure().await,
        WireError::KeyDiffers { .. }
    ));

    let typo = Local::new(Hello::new("edg", 1, "n1", 1), keys(A, None));
    let said = dial_as(&typo, server.addr(), KeyChoice::Current)
        .await
        .unwrap_err();
    assert_eq!(
        said.to_string(),
        "n2 refuses: cluster name is 'edge', not 'edg'"
    );
    assert!(
        matches!(server.failure().await, WireError::Refusing { refusal, .. } if refusal.code == RefusalCode::Cluster)
    );

    let mut hello = local("n1").hello();
    hello.wire = 9;
    let said = dial_as(
        &Local::new(hello, keys(A, None)),
        server.addr(),
        KeyChoice::Current,
    )
    .await
    .unwrap_err();
    assert!(
        matches!(&said, WireError::Refused(r) if r.code == RefusalCode::Version),
        "{said}"
    );

    // The dialer judges who answers as well.
    let picky = |_: &Hello| Err(Refusal::new(RefusalCode::Node, "expected n3 here"));
    let me = local("n1");
    let addr = server.addr().to_string();
    let said = dial(&addr, Lane::Rpc, &me, KeyChoice::Current, &picky, TIMING)
        .await
        .unwrap_err();
    assert!(matches!(said, WireError::Refusing { .. }), "{said}");

    let free = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let said = dial_as(&me, free, KeyChoice::Current).await.unwrap_err();
    assert!(matches!(said, WireError::Connect { .. }), "{said}");
    let said = dial(
        "no port here",
        Lane::Rpc,
        &me,
        KeyChoice::Current,
        &picky,
        TIMING,
    )
    .await
    .unwrap_err();
    assert!(matches!(said, WireError::Resolve { .. }), "{said}");
    let said = listen(
        &addr,
        me.clone(),
        admission(&me),
        ListenOptions::new(TIMING),
        |_, _| {},
    )
    .await
    .unwrap_err();
    assert!(matches!(said, WireError::Bind { .. }), "{said}");
}

#[tokio::test]
async fn keys_rotate_in_either_order() {
    // The acceptor has moved on, the dialer has only the old key.
    let rotated = Local::new(local("n2").hello(), keys(B, Some(A)));
    let moved = server_with("127.0.0.1:0", rotated, ListenOptions::new(TIMING)).await;
    let conn = dial_as(&local("n1"), moved.addr(), KeyChoice::Current)
        .await
        .unwrap();
    assert_eq!(conn.key(), KeyChoice::Current);

    // The dialer has moved on, the acceptor has only the old key: refused once, then let in.
    let old = server().await;
    let rotating = Local::new(local("n1").hello(), keys(B, Some(A)));
    assert!(matches!(
        dial_as(&rotating, old.addr(), KeyChoice::Current).await,
        Err(WireError::KeyDiffers { .. })
    ));
    let client = RpcClient::spawn(
        old.addr().to_string(),
        Lane::Rpc,
        rotating.clone(),
        admission(&rotating),
        ClientOptions::new(TIMING),
    );
    let began = Instant::now();
    up(&mut client.link()).await;
    assert!(
        began.elapsed() < Duration::from_millis(500),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(client.call(1, "x", LONG).await.unwrap(), "x");
}

#[tokio::test]
async fn a_replayed_first_message_does_nothing() {
    // Record what a real dialer says first.
    let tap = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = tap.local_addr().unwrap();
    let dialer = tokio::spawn(async move {
        dial_as(&local("n1"), at, KeyChoice::Current)
            .await
            .map(|_| ())
    });
    let (mut recorded, _) = tap.accept().await.unwrap();
    let mut first = vec![0; 55];
    recorded.read_exact(&mut first).await.unwrap();
    dialer.abort();

    let admitted = Arc::new(AtomicUsize::new(0));
    let count = admitted.clone();
    let (tx, mut failed) = mpsc::unbounded_channel();
    let timing = Timing {
        handshake: Duration::from_millis(300),
        ..TIMING
    };
    let adm: Arc<dyn Admission> = Arc::new(move |_: &Hello| {
        count.fetch_add(1, SeqCst);
        Ok(())
    });
    let listener = listen(
        "127.0.0.1:0",
        local("n2"),
        adm,
        ListenOptions::new(timing),
        move |_, conn| {
            tx.send(conn.map(|_| ()).unwrap_err()).unwrap();
        },
    )
    .await
    .unwrap();

    // Silent after the replay, and with made-up frames after it.
    for more in [
        &[][..],
        &[0, 40, 1, 2, 3][..],
        &[0, 17, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9][..],
    ] {
        let mut stream = TcpStream::connect(listener.local_addr()).await.unwrap();
        stream.write_all(&first).await.unwrap();
        let mut answer = [0; 51];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(
            answer[..3],
            [0, 49, 0],
            "the replay is answered as a handshake would be"
        );
        stream.write_all(more).await.unwrap();
        let e = timeout(LONG, failed.recv()).await.unwrap().unwrap();
        assert!(
            matches!(e, WireError::Timeout { .. } | WireError::Decrypt),
            "{e}"
        );
        let end = timeout(LONG, stream.read(&mut answer)).await.unwrap();
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    }
    assert_eq!(admitted.load(SeqCst), 0);
}

#[tokio::test]
async fn connections_are_limited_and_freed() {
    let mut options = ListenOptions::new(TIMING);
    options.max_connections = 3;
    let server = server_with("127.0.0.1:0", local("n2"), options).await;
    let me = local("n1");
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(
            dial_as(&me, server.addr(), KeyChoice::Current)
                .await
                .unwrap(),
        );
    }
    let said = dial_as(&me, server.addr(), KeyChoice::Current)
        .await
        .unwrap_err();
    assert!(
        matches!(&said, WireError::Refused(r) if r.code == RefusalCode::Busy),
        "{said}"
    );
    held.pop();
    let began = Instant::now();
    while dial_as(&me, server.addr(), KeyChoice::Current)
        .await
        .is_err()
    {
        assert!(began.elapsed() < LONG, "the place was not given back");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_flood_of_strangers_is_cut_off_and_leaves_no_lasting_harm() {
    let mut server = server().await;
    let (began, mut turned_away) = (Instant::now(), false);
    for _ in 0..2_000 {
        let mut stream = TcpStream::connect(server.addr()).await.unwrap();
        let _ = stream.write_all(b"\x00\x05GET /").await;
        let mut answer = [0; 8];
        let got = timeout(LONG, stream.read(&mut answer)).await.unwrap();
        turned_away |= matches!(got, Ok(3) if answer[..3] == [0, 1, 3]);
    }
    let seconds = began.elapsed().as_secs_f64();
    let mut read = 0;
    while let Ok(e) = server.failures.try_recv() {
        assert!(matches!(e, WireError::NotMainstay { .. }), "{e}");
        read += 1;
    }
    assert!(turned_away);
    assert!(
        f64::from(read) <= 41.0 + 20.0 * seconds,
        "{read} of 2000 strangers were read in {seconds} s"
    );
    let client = client(server.addr());
    up(&mut client.link()).await;
    assert_eq!(client.call(1, "x", LONG).await.unwrap(), "x");
}
