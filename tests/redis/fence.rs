//! The fence: it ends serving, closes connections, and nothing sent before comes after it.

use crate::posture::{commander, group, until};
use crate::server::{Seen, Server, in_time};
use mainstay::redis::{Commander, Endpoint, Error, FenceBudgets, FenceOutcome, InstanceEvent, Role, Settings};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};

const BUDGETS: FenceBudgets = FenceBudgets { confirm: Duration::from_millis(100), close: Duration::from_millis(500) };
const PATIENT: FenceBudgets = FenceBudgets { confirm: Duration::from_secs(5), close: Duration::from_secs(1) };

/// The ids of all connections, replicas' included.
async fn ids(server: &Server) -> std::collections::BTreeSet<String> {
    let list: String = redis::from_redis_value(server.ok(&["CLIENT", "LIST"]).await).unwrap();
    list.lines().filter_map(|l| l.split(' ').next()).map(str::to_owned).collect()
}

#[tokio::test]
async fn it_seals_and_closes_every_kind_of_connection() {
    let (p, pc, replicas) = group(1, &[]).await;
    let mut plain = p.client().await;
    redis::cmd("SET").arg("a").arg("1").query_async::<()>(&mut plain).await.unwrap();
    let mut cons = [p.client().await, p.client().await].into_iter();
    let mut blocked = |words: [&'static str; 3]| {
        let mut c = cons.next().unwrap();
        tokio::spawn(async move {
            redis::cmd(words[0]).arg(words[1]).arg(words[2]).query_async::<redis::Value>(&mut c).await
        })
    };
    let popping = blocked(["BLPOP", "list", "0"]);
    let mut subscriber = redis::Client::open(("127.0.0.1", p.port)).unwrap().get_async_pubsub().await.unwrap();
    subscriber.subscribe("news").await.unwrap();
    let mut queued = p.client().await;
    redis::cmd("MULTI").query_async::<()>(&mut queued).await.unwrap();
    pc.pause_writes(Duration::from_secs(20), in_time(500)).await.unwrap();
    let paused = blocked(["SET", "b", "1"]);
    sleep(Duration::from_millis(50)).await;
    let before = pc.info(in_time(500)).await.unwrap();
    let connected = ids(&p).await;
    assert!(connected.len() >= 6, "{connected:?}");

    let report = pc.fence(BUDGETS).await.unwrap();
    println!("fence: {:?}", (report.confirmed_after, report.took, report.clients_closed, report.replicas_closed));
    assert_eq!(report.outcome, FenceOutcome::Sealed);
    assert!(report.close_error.is_none());
    assert_eq!(report.replicas_closed, 1);
    // The blocked ones are closed by REPLICAOF itself and may not be counted; what is left is what matters.
    assert!(report.clients_closed >= 3, "{report:?}");
    let after_fence = ids(&p).await;
    let left: Vec<_> = connected.intersection(&after_fence).collect();
    assert!(left.is_empty(), "still connected: {left:?} of {connected:?}");
    let after = report.after.unwrap();
    assert!(after.is_sealed());
    assert!(after.offset >= before.offset);
    for (name, task) in [("BLPOP", popping), ("paused SET", paused)] {
        let end = timeout(Duration::from_secs(1), task).await.expect(name).unwrap();
        assert!(end.is_err(), "{name}: {end:?}");
    }
    assert!(redis::cmd("PING").query_async::<()>(&mut plain).await.is_err(), "closed");
    assert!(redis::cmd("EXEC").query_async::<()>(&mut queued).await.is_err(), "closed");
    let mut stream = subscriber.into_on_message();
    let end = timeout(Duration::from_secs(1), futures_util::StreamExt::next(&mut stream)).await;
    assert!(matches!(end, Ok(None)), "the subscriber is told");
    assert_eq!(p.do_cmd(&["SET", "a", "2"]).await.unwrap_err().code(), Some("READONLY"), "and not paused");
    until(&replicas[0].1, "the link is down", |i| !i.link_up).await;

    let again = pc.fence(BUDGETS).await.unwrap();
    assert_eq!(again.outcome, FenceOutcome::Sealed, "idempotent");
    assert_eq!(again.after.unwrap().offset, after.offset);
    assert!(pc.seal(in_time(500)).await.unwrap().after.is_sealed(), "the commander goes on");
}

/// A relay in front of a server that holds back `NO ONE`, as a stalled instance's socket does, until told.
struct Relay {
    port: u16,
    held: tokio::sync::watch::Receiver<bool>,
    release: tokio::sync::watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Relay {
    /// `first_late`: the first connection itself is held back too.
    async fn start(to: u16, first_late: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (held_tx, held) = tokio::sync::watch::channel(false);
        let (release, wait) = tokio::sync::watch::channel(false);
        let released = release.clone();
        let task = tokio::spawn(async move {
            let mut late = first_late;
            while let Ok((client, _)) = listener.accept().await {
                let (held, release, mut wait) = (held_tx.clone(), released.clone(), wait.clone());
                let wait_first = std::mem::take(&mut late);
                tokio::spawn(async move {
                    if wait_first {
                        held.send_replace(true);
                        let _ = wait.wait_for(|r| *r).await;
                    }
                    let server = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                    relay(client, server, held, release).await;
                });
            }
        });
        Self { port, held, release, task }
    }

    async fn holds(&self) {
        let mut held = self.held.clone();
        timeout(Duration::from_secs(2), held.wait_for(|h| *h)).await.expect("NO ONE is on its way").unwrap();
    }
}

async fn relay(
    client: TcpStream,
    server: TcpStream,
    held: tokio::sync::watch::Sender<bool>,
    release: tokio::sync::watch::Sender<bool>,
) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let back = tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
    let mut buf = vec![0; 4096];
    while let Ok(n @ 1..) = from_client.read(&mut buf).await {
        if holds(&buf[..n], "ONE") {
            held.send_replace(true);
            let _ = release.subscribe().wait_for(|r| *r).await;
        }
        // The worst moment: the fence is confirmed and about to close connections.
        if holds(&buf[..n], "TYPE") {
            release.send_replace(true);
            sleep(Duration::from_millis(50)).await;
        }
        if to_server.write_all(&buf[..n]).await.is_err() {
            break;
        }
    }
    // What a killed client had sent still arrives, then the end.
    drop(to_server);
    let _ = back.await;
}

fn holds(bytes: &[u8], word: &str) -> bool {
    bytes.windows(word.len()).any(|w| w == word.as_bytes())
}

/// Sends a promotion that does not get through, and drops its future.
async fn stalled_promotion(server: &Server) -> (Relay, Commander) {
    let relay = Relay::start(server.port, false).await;
    let c = Commander::new(Endpoint::tcp("127.0.0.1", relay.port), Settings::default(), None);
    let run_id = c.info(in_time(1000)).await.unwrap().run_id;
    tokio::select! {
        end = c.serve(&run_id, in_time(5000)) => panic!("it cannot end: {end:?}"),
        () = relay.holds() => {}
    }
    (relay, c)
}

async fn role_of(server: &Server) -> Role {
    commander(server).info(in_time(1000)).await.unwrap().role
}

#[tokio::test]
async fn without_a_fence_a_late_promotion_does_arrive() {
    // What the next tests are about is real: sealing on another connection alone does not help.
    let server = Server::start(&crate::server::BORN_SEALED).await;
    let (relay, _c) = stalled_promotion(&server).await;
    server.ok(&["REPLICAOF", "127.0.0.1", "1"]).await;
    assert_eq!(role_of(&server).await, Role::Replica);
    relay.release.send_replace(true);
    sleep(Duration::from_millis(100)).await;
    assert_eq!(role_of(&server).await, Role::Primary);
}

#[tokio::test]
async fn a_late_promotion_does_not_arrive() {
    // Trace 8: NO ONE is on its way, its future is dropped, the fence runs on another connection.
    let server = Server::start(&crate::server::BORN_SEALED).await;
    let (relay, c) = stalled_promotion(&server).await;
    assert_eq!(c.fence(BUDGETS).await.unwrap().outcome, FenceOutcome::Sealed);
    relay.release.send_replace(true);
    sleep(Duration::from_millis(100)).await;
    assert_eq!(role_of(&server).await, Role::Replica);
}

#[tokio::test]
async fn a_fence_from_another_process_does_not_let_a_late_promotion_stand() {
    // The agent that sent NO ONE is dead; who fences now does not know its connection.
    let server = Server::start(&crate::server::BORN_SEALED).await;
    let (relay, _c) = stalled_promotion(&server).await;
    let other = Commander::new(Endpoint::tcp("127.0.0.1", relay.port), Settings::default(), None);
    assert_eq!(other.fence(BUDGETS).await.unwrap().outcome, FenceOutcome::Sealed);
    sleep(Duration::from_millis(100)).await;
    assert_eq!(role_of(&server).await, Role::Replica);
}

#[tokio::test]
async fn a_dropped_promotion_is_killed_by_the_next_command_too() {
    let server = Server::start(&crate::server::BORN_SEALED).await;
    let (relay, c) = stalled_promotion(&server).await;
    assert!(c.seal(in_time(1000)).await.unwrap().after.is_sealed());
    relay.release.send_replace(true);
    sleep(Duration::from_millis(100)).await;
    assert_eq!(role_of(&server).await, Role::Replica);
}

#[tokio::test]
async fn a_promotion_that_connects_only_after_the_fence_sends_nothing() {
    let server = Server::start(&crate::server::BORN_SEALED).await;
    let run_id = commander(&server).info(in_time(1000)).await.unwrap().run_id;
    let relay = Relay::start(server.port, true).await;
    let c = Arc::new(Commander::new(Endpoint::tcp("127.0.0.1", relay.port), Settings::default(), None));
    let promotion = tokio::spawn({
        let c = c.clone();
        async move { c.serve(&run_id, in_time(5000)).await }
    });
    relay.holds().await;
    assert_eq!(c.fence(BUDGETS).await.unwrap().outcome, FenceOutcome::Sealed);
    relay.release.send_replace(true);
    let promotion = promotion.await.unwrap();
    assert!(matches!(promotion, Err(Error::Fenced { .. })), "{promotion:?}");
    assert_eq!(role_of(&server).await, Role::Replica);
}

#[tokio::test]
async fn a_promotion_in_progress_sends_nothing_after_a_fence_began() {
    // The promotion waits for its first answer behind DEBUG SLEEP when the fence begins.
    let server = Server::start(&crate::server::BORN_SEALED).await;
    let c = Arc::new(commander(&server));
    let run_id = c.info(in_time(1000)).await.unwrap().run_id;
    let mut sleeper = server.client().await;
    let sleeper =
        tokio::spawn(async move { redis::cmd("DEBUG").arg("SLEEP").arg("0.4").query_async::<()>(&mut sleeper).await });
    sleep(Duration::from_millis(50)).await;
    let promotion = tokio::spawn({
        let c = c.clone();
        async move { c.serve(&run_id, in_time(5000)).await }
    });
    sleep(Duration::from_millis(50)).await;
    let fenced = c.fence(PATIENT).await.unwrap();
    assert_eq!(fenced.outcome, FenceOutcome::Sealed);
    let promotion = promotion.await.unwrap();
    assert!(matches!(promotion, Err(Error::Fenced { .. } | Error::Closed { .. })), "{promotion:?}");
    let _ = sleeper.await;
    sleep(Duration::from_millis(100)).await;
    assert!(c.info(in_time(1000)).await.unwrap().is_sealed());
}

#[tokio::test]
async fn a_stalled_instance_that_wakes_in_the_middle_of_a_fence_ends_sealed() {
    let server = Server::start(&["--repl-diskless-sync-delay", "0"]).await;
    let c = commander(&server);
    c.info(in_time(1000)).await.unwrap();
    server.signal(libc::SIGSTOP);
    let (fenced, ()) = tokio::join!(c.fence(PATIENT), async {
        sleep(Duration::from_millis(50)).await;
        server.signal(libc::SIGCONT);
    });
    assert_eq!(fenced.unwrap().outcome, FenceOutcome::Sealed);
    assert_eq!(role_of(&server).await, Role::Replica);
}

#[tokio::test]
async fn it_is_bounded_and_says_why_it_is_not_confirmed() {
    let server = Server::start(&["--busy-reply-threshold", "50"]).await;
    let c = commander(&server);
    server.signal(libc::SIGSTOP);
    let started = Instant::now();
    let stopped = c.fence(BUDGETS).await;
    assert!(matches!(stopped, Err(Error::Timeout { .. })), "{stopped:?}");
    assert!(started.elapsed() < BUDGETS.confirm + Duration::from_millis(50));
    server.signal(libc::SIGCONT);

    let mut client = server.client().await;
    let runner =
        tokio::spawn(
            async move { redis::cmd("EVAL").arg("while true do end").arg(0).query_async::<()>(&mut client).await },
        );
    sleep(Duration::from_millis(150)).await;
    let busy = c.fence(BUDGETS).await;
    assert!(matches!(busy, Err(Error::Busy { .. })), "{busy:?}");
    c.script_kill(in_time(500)).await.unwrap();
    let _ = runner.await;
}

#[tokio::test]
async fn nothing_there_is_fenced() {
    let mut server = Server::start(&[]).await;
    let c = commander(&server);
    c.info(in_time(1000)).await.unwrap();
    server.kill();
    assert_eq!(c.fence(BUDGETS).await.unwrap().outcome, FenceOutcome::Gone);
}

#[tokio::test]
async fn it_works_when_no_connection_is_left() {
    let server = Server::start(&["--maxclients", "4"]).await;
    let c = commander(&server);
    c.info(in_time(1000)).await.unwrap();
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(server.client().await);
    }
    let report = c.fence(BUDGETS).await.unwrap();
    assert_eq!((report.outcome, report.clients_closed), (FenceOutcome::Sealed, 3));
    let none = Commander::new(server.tcp(), Settings::default(), None);
    for client in &mut held {
        *client = server.client().await;
    }
    // The instance's words can be lost with the close.
    let full = none.fence(BUDGETS).await;
    assert!(matches!(full, Err(Error::Full { .. } | Error::Closed { .. })), "{full:?}");
    let mut seen = Seen::of(server.unix());
    let event = seen.next("Unreachable", 3000).await;
    assert!(matches!(&event, InstanceEvent::Unreachable { detail } if detail.contains("maxclients")), "{event:?}");
}

/// A password that was changed in the file before it was in Redis, or the other way round.
#[tokio::test]
async fn it_works_on_the_standing_connection_when_the_login_is_refused() {
    let server = Server::start(&[]).await;
    let c = commander(&server);
    c.info(in_time(1000)).await.unwrap();
    server.ok(&["CONFIG", "SET", "requirepass", "new"]).await;
    let report = c.fence(BUDGETS).await.unwrap();
    assert_eq!(report.outcome, FenceOutcome::Sealed);
    let stranger = Commander::new(server.tcp(), Settings::default(), None);
    let refused = stranger.fence(BUDGETS).await;
    assert!(matches!(refused, Err(Error::Auth { .. })), "{refused:?}");
}

#[tokio::test]
async fn two_hundred_clients_are_closed_in_time_and_the_watcher_stays_calm() {
    let server = Server::start(&[]).await;
    let mut seen = Seen::of(server.unix());
    seen.info().await;
    let c = Commander::new(server.unix(), Settings::default(), Some(seen.watcher.poke()));
    let mut clients = Vec::new();
    for _ in 0..200 {
        clients.push(server.client().await);
    }
    let report = c.fence(BUDGETS).await.unwrap();
    println!(
        "fence with 200 clients: confirmed after {:?}, all closed after {:?}",
        report.confirmed_after, report.took
    );
    assert!(report.clients_closed >= 200);
    let info = seen
        .until("sealed", 1000, |e| {
            assert!(!matches!(e, InstanceEvent::Gone(_)), "{e:?}");
            matches!(e, InstanceEvent::Info { info, .. } if info.role == Role::Replica)
        })
        .await;
    assert!(matches!(info, InstanceEvent::Info { info, .. } if info.is_sealed()));
}

#[tokio::test]
async fn a_replica_that_loads_serves_nothing_and_is_left_alive() {
    let (p, _pc, _) = group(0, &[]).await;
    p.ok(&["DEBUG", "POPULATE", "100000", "k", "20"]).await;
    // 50 µs per key: five seconds of loading.
    let slow = ["--key-load-delay", "50", "--loading-process-events-interval-bytes", "1024"];
    let r = Server::start(&[&slow[..], &crate::server::BORN_SEALED].concat()).await;
    let rc = commander(&r);
    rc.follow("127.0.0.1", p.port, in_time(1000)).await.unwrap();
    until(&rc, "loading", |i| i.loading).await;
    let sealed = rc.seal(in_time(1000)).await;
    assert!(matches!(sealed, Err(Error::Loading { .. })), "{sealed:?}");
    let fenced = rc.fence(PATIENT).await.unwrap();
    assert_eq!(fenced.outcome, FenceOutcome::LoadingReplica);
    assert!(fenced.after.is_some_and(|i| i.sync_in_progress));
    assert!(rc.info(in_time(1000)).await.unwrap().loading, "alive");
}
