//! Peer connections over real sockets on loopback: who is let in, what happens to requests when peers stall, die and
//! come back, and how soon that is told.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use mainstay::wire::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

const TIMING: Timing = Timing {
    handshake: Duration::from_secs(2),
    stall: Duration::from_secs(2),
};
const LONG: Duration = Duration::from_secs(10);
const A: [u8; 32] = [1; 32];
const B: [u8; 32] = [2; 32];

fn keys(current: [u8; 32], retiring: Option<[u8; 32]>) -> Keys {
    Keys { current, retiring }
}

fn local(node: &str) -> Local {
    Local::new(Hello::new("edge", 1, node, 1), keys(A, None))
}

fn admission(local: &Local) -> Arc<dyn Admission> {
    let local = local.clone();
    Arc::new(move |theirs: &Hello| check_cluster(&local.hello(), theirs))
}

/// Kind 1 echoes, 2 sleeps for the milliseconds in the body, 3 never answers, 4 gives as many bytes as asked for.
#[derive(Default)]
struct Echo {
    working: AtomicUsize,
    most: AtomicUsize,
    heard: Mutex<Vec<(u8, usize)>>,
}

impl Handler for Echo {
    async fn request(&self, peer: &Arc<Hello>, kind: u8, body: Bytes) -> Result<Bytes, Fault> {
        assert_eq!(peer.node, "n1");
        let now = self.working.fetch_add(1, SeqCst) + 1;
        self.most.fetch_max(now, SeqCst);
        let number = || {
            body[..]
                .try_into()
                .map(u32::from_be_bytes)
                .map_err(|_| Fault::BadRequest)
        };
        let answer = match kind {
            1 => Ok(body),
            2 => match number() {
                Ok(ms) => {
                    sleep(Duration::from_millis(ms.into())).await;
                    Ok(body)
                }
                Err(fault) => Err(fault),
            },
            3 => std::future::pending().await,
            4 => number().map(|n| Bytes::from(vec![0; n as usize])),
            _ => Err(Fault::UnknownKind),
        };
        self.working.fetch_sub(1, SeqCst);
        answer
    }

    fn one_way(&self, _: &Arc<Hello>, kind: u8, body: Bytes) {
        self.heard.lock().unwrap().push((kind, body.len()));
    }
}

/// An agent's serving side; dropped, its listener and connections are gone, as after a crash.
struct Server {
    listener: Listener,
    handler: Arc<Echo>,
    _conns: Arc<Mutex<JoinSet<WireError>>>,
    failures: mpsc::UnboundedReceiver<WireError>,
}

async fn server_with(bind: &str, local: Local, options: ListenOptions) -> Server {
    let (conns, handler) = (
        Arc::new(Mutex::new(JoinSet::new())),
        Arc::new(Echo::default()),
    );
    let (tx, failures) = mpsc::unbounded_channel();
    let (into, with) = (conns.clone(), handler.clone());
    let admission = admission(&local);
    let listener = listen(bind, local, admission, options, move |_, conn| match conn {
        Ok(conn) => {
            into.lock()
                .unwrap()
                .spawn(serve(conn, with.clone(), ServeOptions { max_requests: 8 }));
        }
        Err(e) => drop(tx.send(e)),
    })
    .await
    .unwrap();
    Server {
        listener,
        handler,
        _conns: conns,
        failures,
    }
}

async fn server() -> Server {
    server_with("127.0.0.1:0", local("n2"), ListenOptions::new(TIMING)).await
}

impl Server {
    fn addr(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    async fn failure(&mut self) -> WireError {
        timeout(LONG, self.failures.recv()).await.unwrap().unwrap()
    }
}

fn client(addr: SocketAddr) -> RpcClient {
    let local = local("n1");
    RpcClient::spawn(
        addr.to_string(),
        Lane::Rpc,
        local.clone(),
        admission(&local),
        ClientOptions::new(TIMING),
    )
}

async fn up(link: &mut watch::Receiver<LinkState>) {
    timeout(LONG, link.wait_for(LinkState::is_up))
        .await
        .expect("link comes up")
        .unwrap();
}

async fn down(link: &mut watch::Receiver<LinkState>) -> Arc<WireError> {
    let state = timeout(LONG, link.wait_for(|s| !s.is_up()))
        .await
        .expect("link goes down")
        .unwrap();
    match &*state {
        LinkState::Down { reason } => reason.clone(),
        LinkState::Up { .. } => unreachable!("waited for down"),
    }
}

async fn dial_as(local: &Local, addr: SocketAddr, key: KeyChoice) -> Result<Conn, WireError> {
    dial(
        &addr.to_string(),
        Lane::Rpc,
        local,
        key,
        &*admission(local),
        TIMING,
    )
    .await
}

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
async fn requests_run_side_by_side_in_bounds_and_large_ones_arrive() {
    let server = server().await;
    let client = client(server.addr());
    up(&mut client.link()).await;

    let big: Bytes = (0..5 * 1024 * 1024u32)
        .map(|i| (i % 251) as u8)
        .collect::<Vec<_>>()
        .into();
    assert_eq!(client.call(1, big.clone(), LONG).await.unwrap(), big);
    let over = client.call(1, vec![0; MAX_MESSAGE + 1], LONG).await;
    assert!(matches!(over, Err(CallError::TooLarge { .. })), "{over:?}");
    let over = client
        .call(
            4,
            Bytes::from(
                u32::try_from(MAX_MESSAGE + 1)
                    .unwrap()
                    .to_be_bytes()
                    .to_vec(),
            ),
            LONG,
        )
        .await;
    assert!(
        matches!(over, Err(CallError::Fault(Fault::ReplyTooLarge))),
        "{over:?}"
    );

    let began = Instant::now();
    let mut calls = JoinSet::new();
    for n in 0..8u32 {
        let client = client.clone();
        calls.spawn(async move {
            let body = Bytes::copy_from_slice(&(200 - n).to_be_bytes());
            assert_eq!(client.call(2, body.clone(), LONG).await.unwrap(), body);
        });
    }
    while let Some(done) = calls.join_next().await {
        done.unwrap();
    }
    assert!(
        began.elapsed() < Duration::from_millis(800),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(server.handler.most.load(SeqCst), 8);

    let fault = client.call(9, "", LONG).await;
    assert!(
        matches!(fault, Err(CallError::Fault(Fault::UnknownKind))),
        "{fault:?}"
    );
    let fault = client.call(2, "?", LONG).await;
    assert!(
        matches!(fault, Err(CallError::Fault(Fault::BadRequest))),
        "{fault:?}"
    );
}

#[tokio::test]
async fn time_outs_give_places_back_and_both_sides_say_busy() {
    let server = server().await;
    let me = local("n1");
    let mut options = ClientOptions::new(TIMING);
    options.max_in_flight = 12;
    let client = RpcClient::spawn(
        server.addr().to_string(),
        Lane::Rpc,
        me.clone(),
        admission(&me),
        options,
    );
    up(&mut client.link()).await;

    // The server works on 8 at once and refuses the rest; this client allows 12.
    let mut calls = JoinSet::new();
    for _ in 0..13 {
        let client = client.clone();
        calls.spawn(async move { client.call(3, "", Duration::from_millis(300)).await });
    }
    let (mut timed_out, mut faults, mut busy) = (0, 0, 0);
    while let Some(done) = calls.join_next().await {
        match done.unwrap() {
            Err(CallError::Timeout { .. }) => timed_out += 1,
            Err(CallError::Fault(Fault::Busy)) => faults += 1,
            Err(CallError::Busy { limit: 12 }) => busy += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((timed_out, faults, busy), (8, 4, 1));
    let dropped = timeout(Duration::from_millis(20), client.call(3, "", LONG)).await;
    assert!(
        !matches!(dropped, Ok(Err(CallError::Busy { .. }))),
        "places were given back: {dropped:?}"
    );
    assert!(client.link().borrow().is_up());
}

#[tokio::test]
async fn one_way_messages_keep_their_order() {
    let server = server().await;
    let client = client(server.addr());
    assert!(matches!(
        client.notify(1, "early"),
        Err(CallError::Down { .. })
    ));
    up(&mut client.link()).await;
    for n in 0..50u8 {
        client.notify(n, vec![0; usize::from(n) * 1000]).unwrap();
    }
    assert_eq!(client.call(1, "after", LONG).await.unwrap(), "after");
    let heard = server.handler.heard.lock().unwrap().clone();
    assert_eq!(
        heard,
        (0..50u8)
            .map(|n| (n, usize::from(n) * 1000))
            .collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn a_close_is_told_at_once_fails_all_calls_and_a_restart_is_found() {
    let server = server().await;
    let addr = server.addr();
    let client = client(addr);
    let mut link = client.link();
    up(&mut link).await;
    let mut calls = JoinSet::new();
    for _ in 0..5 {
        let client = client.clone();
        calls.spawn(async move { client.call(3, "", LONG).await });
    }
    while server.handler.working.load(SeqCst) < 5 {
        sleep(Duration::from_millis(1)).await;
    }
    let closed = Instant::now();
    drop(server);
    down(&mut link).await;
    let told = closed.elapsed();
    assert!(told < Duration::from_millis(100), "{told:?}");
    while let Some(done) = calls.join_next().await {
        let done = done.unwrap();
        assert!(matches!(done, Err(CallError::Down { .. })), "{done:?}");
    }
    assert!(closed.elapsed() < Duration::from_millis(200));
    assert!(matches!(
        client.call(1, "x", LONG).await,
        Err(CallError::Down { .. })
    ));

    // Long enough for the back-off to have grown; then it is reset.
    sleep(Duration::from_millis(700)).await;
    let back = server_with(&addr.to_string(), local("n2"), ListenOptions::new(TIMING)).await;
    let began = Instant::now();
    client.reset_backoff();
    up(&mut link).await;
    assert!(
        began.elapsed() < Duration::from_millis(200),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(client.call(1, "x", LONG).await.unwrap(), "x");

    // And by itself, within the longest back-off.
    drop(back);
    down(&mut link).await;
    let other = self::server().await;
    client.set_addr(other.addr().to_string());
    up(&mut link).await;
    assert_eq!(client.call(1, "y", LONG).await.unwrap(), "y");
}

#[tokio::test]
async fn redial_backs_off() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let _client = client(server.local_addr().unwrap());
    let (began, mut dials) = (Instant::now(), 0);
    while let Ok(Ok((stream, _))) = timeout(
        Duration::from_millis(700).saturating_sub(began.elapsed()),
        server.accept(),
    )
    .await
    {
        dials += 1;
        drop(stream);
    }
    // 0, 10, 30, 70, 150, 310, 630 ms.
    assert!((4..=8).contains(&dials), "{dials}");
}

#[tokio::test]
async fn a_stuck_peer_never_holds_up_its_sender_and_is_dropped() {
    let (tx, mut accepted) = mpsc::channel(4);
    let ours = local("n2");
    let adm = admission(&ours);
    let listener = listen(
        "127.0.0.1:0",
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
    let stall = Duration::from_millis(300);
    let options = ClientOptions::new(Timing { stall, ..TIMING });
    let gossip = GossipClient::spawn(
        listener.local_addr().to_string(),
        me.clone(),
        admission(&me),
        options,
    );
    assert_eq!(gossip.try_send(0, "x"), GossipSent::Down);
    let mut link = gossip.link();
    up(&mut link).await;
    // Held open, never read.
    let _stuck = accepted.recv().await.unwrap();
    assert_eq!(
        gossip.try_send(0, vec![0; MAX_MESSAGE]),
        GossipSent::TooLarge
    );
    let body = Bytes::from(vec![0; 500_000]);
    // Without a pause between them nothing can leave, so all but the bounded newest go.
    let burst: usize = (0..100)
        .map(|_| match gossip.try_send(1, body.clone()) {
            GossipSent::Superseded(n) => n,
            _ => 0,
        })
        .sum();
    assert_eq!(burst, 100 - options.max_waiting);
    // Then fast enough to fill the socket, until the stall is noticed.
    let (began, mut slowest, mut superseded) = (Instant::now(), Duration::ZERO, 0);
    while link.borrow().is_up() {
        assert!(began.elapsed() < LONG, "a stuck peer was never noticed");
        let sending = Instant::now();
        superseded += usize::from(matches!(
            gossip.try_send(1, body.clone()),
            GossipSent::Superseded(_)
        ));
        slowest = slowest.max(sending.elapsed());
        sleep(Duration::from_millis(1)).await;
    }
    let reason = down(&mut link).await;
    assert!(
        matches!(*reason, WireError::Stalled { .. } | WireError::Io(_)),
        "{reason}"
    );
    assert!(superseded > 0);
    assert!(slowest < Duration::from_millis(50), "{slowest:?}");
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
