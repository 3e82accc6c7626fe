//! Requests and one-way messages where peers answer, stall, die and come back, and how soon that is told.

use std::{
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant},
};

use bytes::Bytes;
use mainstay::wire::*;
use tokio::{
    net::TcpListener,
    sync::mpsc,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::*;

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
        calls.spawn(async move { client.call(3, "", Duration::from_secs(1)).await });
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
    let back = server_with(&addr.to_string(), local("n2"), ListenOptions::new(TIMING)).await;
    let began = Instant::now();
    up(&mut link).await;
    assert!(
        began.elapsed() < Duration::from_millis(1500),
        "{:?}",
        began.elapsed()
    );

    // A peer that moved is followed while its old place still answers.
    let other = self::server().await;
    client.set_addr(other.addr().to_string());
    assert!(matches!(*down(&mut link).await, WireError::AddressChanged));
    up(&mut link).await;
    assert_eq!(client.call(1, "y", LONG).await.unwrap(), "y");
    drop(back);
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
    assert!(slowest < Duration::from_millis(200), "{slowest:?}");
}

#[tokio::test]
async fn gossip_arrives_in_order_and_only_one_way() {
    let server = server().await;
    let me = local("n1");
    let gossip = GossipClient::spawn(
        server.addr().to_string(),
        me.clone(),
        admission(&me),
        ClientOptions::new(TIMING),
    );
    up(&mut gossip.link()).await;
    for n in 0..20u8 {
        assert_eq!(gossip.try_send(n, "tick"), GossipSent::Queued);
    }
    let began = Instant::now();
    while server.handler.heard.lock().unwrap().len() < 20 {
        assert!(began.elapsed() < LONG);
        sleep(Duration::from_millis(1)).await;
    }
    let heard = server.handler.heard.lock().unwrap().clone();
    assert_eq!(heard, (0..20u8).map(|n| (n, 4)).collect::<Vec<_>>());
}
