//! The fence: it ends serving, closes connections, and nothing sent before comes after it.

use crate::posture::{commander, group, until};
use crate::server::{Seen, Server, in_time};
use mainstay::redis::{Commander, Error, FenceBudgets, FenceOutcome, InstanceEvent, Role, Settings};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

const BUDGETS: FenceBudgets = FenceBudgets { confirm: Duration::from_millis(100), close: Duration::from_millis(200) };
const PATIENT: FenceBudgets = FenceBudgets { confirm: Duration::from_secs(5), close: Duration::from_secs(1) };

#[tokio::test]
async fn it_seals_and_closes_every_kind_of_connection() {
    let (p, pc, replicas) = group(1, &[]).await;
    let mut plain = p.client().await;
    redis::cmd("SET").arg("a").arg("1").query_async::<()>(&mut plain).await.unwrap();
    let blocked = async |words: &'static [&'static str]| {
        let mut c = p.client().await;
        tokio::spawn(async move {
            let mut cmd = redis::Cmd::new();
            for w in words {
                cmd.arg(*w);
            }
            cmd.query_async::<redis::Value>(&mut c).await
        })
    };
    let popping = blocked(&["BLPOP", "list", "0"]).await;
    let mut subscriber =
        redis::Client::open(("127.0.0.1", p.port)).unwrap().get_async_pubsub().await.unwrap();
    subscriber.subscribe("news").await.unwrap();
    let mut queued = p.client().await;
    redis::cmd("MULTI").query_async::<()>(&mut queued).await.unwrap();
    pc.pause_writes(Duration::from_secs(20), in_time(500)).await.unwrap();
    let paused = blocked(&["SET", "b", "1"]).await;
    sleep(Duration::from_millis(50)).await;
    let before = pc.info(in_time(500)).await.unwrap();

    let report = pc.fence(BUDGETS).await.unwrap();
    println!("fence: {:?}", (report.confirmed_after, report.took, report.clients_closed, report.replicas_closed));
    assert_eq!(report.outcome, FenceOutcome::Sealed);
    assert!(report.close_error.is_none());
    assert_eq!(report.replicas_closed, 1);
    assert!(report.clients_closed >= 4, "{report:?}");
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

#[tokio::test]
async fn a_late_promotion_does_not_arrive() {
    // Trace 8: NO ONE waits in a stalled instance, the future is dropped, the fence runs on another connection.
    for _ in 0..5 {
        let server = Server::start(&crate::server::BORN_SEALED).await;
        let c = commander(&server);
        let run_id = c.info(in_time(1000)).await.unwrap().run_id;
        server.signal(libc::SIGSTOP);
        let cut = timeout(Duration::from_millis(50), c.serve(&run_id, in_time(5000))).await;
        assert!(cut.is_err(), "the instance is stalled");
        let (fenced, ()) = tokio::join!(c.fence(PATIENT), async {
            sleep(Duration::from_millis(50)).await;
            server.signal(libc::SIGCONT);
        });
        assert_eq!(fenced.unwrap().outcome, FenceOutcome::Sealed);
        sleep(Duration::from_millis(100)).await;
        assert!(c.info(in_time(1000)).await.unwrap().is_sealed());
    }
}

#[tokio::test]
async fn it_overtakes_and_kills_a_promotion_that_waits_behind_a_sleep() {
    // The promotion is in the instance's input, behind DEBUG SLEEP on the same event loop; the fence comes second.
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
    println!("the promotion ended with: {promotion:?}");
    let _ = sleeper.await;
    sleep(Duration::from_millis(100)).await;
    assert!(c.info(in_time(1000)).await.unwrap().is_sealed());
}

#[tokio::test]
async fn a_dropped_promotion_is_killed_by_the_next_command_too() {
    let server = Server::start(&crate::server::BORN_SEALED).await;
    let c = commander(&server);
    let run_id = c.info(in_time(1000)).await.unwrap().run_id;
    server.signal(libc::SIGSTOP);
    assert!(timeout(Duration::from_millis(50), c.serve(&run_id, in_time(5000))).await.is_err());
    let (sealed, ()) = tokio::join!(c.seal(in_time(5000)), async {
        sleep(Duration::from_millis(50)).await;
        server.signal(libc::SIGCONT);
    });
    assert!(sealed.unwrap().after.is_sealed());
    sleep(Duration::from_millis(100)).await;
    assert!(c.info(in_time(1000)).await.unwrap().is_sealed());
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
    let runner = tokio::spawn(async move {
        redis::cmd("EVAL").arg("while true do end").arg(0).query_async::<()>(&mut client).await
    });
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
    let full = none.fence(BUDGETS).await;
    assert!(matches!(full, Err(Error::Full { .. })), "{full:?}");
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
