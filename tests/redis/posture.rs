//! Seal, follow, serve, settings, and the pieces of a handover.

use crate::server::{BORN_SEALED, Seen, Server, in_time};
use mainstay::redis::{Announce, Commander, Error, Info, InstanceEvent, ReplicaState, Role, Secret, Settings};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep};

pub(crate) fn commander(server: &Server) -> Commander {
    Commander::new(server.unix(), Settings::default(), None)
}

/// Waits until INFO says so.
pub(crate) async fn until(c: &Commander, what: &str, pass: impl Fn(&Info) -> bool) -> Info {
    let end = in_time(10_000);
    loop {
        let info = c.info(end).await.unwrap();
        if pass(&info) {
            return info;
        }
        assert!(Instant::now() < end, "waited for {what}: {info:?}");
        sleep(Duration::from_millis(2)).await;
    }
}

/// A primary with its replicas attached by [`Commander::follow`].
pub(crate) async fn group(n: usize, args: &[&str]) -> (Server, Commander, Vec<(Server, Commander)>) {
    let primary = Server::start(args).await;
    let c = commander(&primary);
    c.enforce_settings(in_time(2000)).await.unwrap();
    let mut replicas = Vec::new();
    for _ in 0..n {
        let server = Server::start(&[args, &BORN_SEALED].concat()).await;
        let r = commander(&server);
        assert!(r.info(in_time(1000)).await.unwrap().is_sealed(), "born sealed");
        r.follow("127.0.0.1", primary.port, in_time(1000)).await.unwrap();
        until(&r, "link", |i| i.link_up).await;
        replicas.push((server, r));
    }
    until(&c, "replicas online", |i| {
        i.replicas.len() == n && i.replicas.iter().all(|r| r.state == ReplicaState::Online)
    })
    .await;
    (primary, c, replicas)
}

#[tokio::test]
async fn born_sealed_it_refuses_writes_whatever_its_file_says() {
    let file = ["--replica-read-only", "no"];
    let server = Server::start(&[&file[..], &BORN_SEALED].concat()).await;
    let refused = server.do_cmd(&["SET", "k", "v"]).await.unwrap_err();
    assert_eq!(refused.code(), Some("READONLY"), "{refused}");
    // What the detachment alone would leave open.
    let detached = Server::start(&[&file[..], &BORN_SEALED[..3]].concat()).await;
    detached.ok(&["SET", "k", "v"]).await;
}

#[tokio::test]
async fn seal_keeps_the_history_and_resyncs_partially() {
    let (p, pc, replicas) = group(2, &[]).await;
    let [(s, sc), (_o, oc)] = &replicas[..] else { unreachable!() };
    for i in 0..100 {
        p.ok(&["SET", &format!("k{i}"), "v"]).await;
    }
    let target = pc.info(in_time(1000)).await.unwrap().offset;
    for c in [sc, oc] {
        until(c, "offset", |i| i.offset >= target).await;
    }
    let at_primary = pc.seal(in_time(1000)).await.unwrap();
    assert_eq!(at_primary.before.role, Role::Primary);
    for c in [sc, oc] {
        let report = c.seal(in_time(1000)).await.unwrap();
        assert!(report.before.link_up && !report.before.sync_in_progress);
        assert!(report.after.is_sealed());
        assert_eq!(report.after.replid, at_primary.after.replid);
        assert_eq!(report.after.offset, at_primary.after.offset);
        let again = c.seal(in_time(1000)).await.unwrap();
        assert_eq!((again.after.replid, again.after.offset), (report.after.replid, report.after.offset), "idempotent");
    }
    let run_id = sc.info(in_time(1000)).await.unwrap().run_id;
    let served = sc.serve(&run_id, in_time(1000)).await.unwrap();
    assert_eq!(served.replid2, at_primary.after.replid);
    assert_ne!(served.replid, at_primary.after.replid);
    assert_eq!(served.second_offset, Some(at_primary.after.offset + 1));
    for c in [oc, &pc] {
        c.follow("127.0.0.1", s.port, in_time(1000)).await.unwrap();
        let now = until(c, "link", |i| i.link_up).await;
        assert_eq!((&now.replid, &now.replid2), (&served.replid, &served.replid2));
    }
    let stats = sc.info(in_time(1000)).await.unwrap();
    assert_eq!((stats.sync_full, stats.sync_partial_ok), (0, 2));
}

#[tokio::test]
async fn sealing_a_primary_refuses_writes_at_once_and_keeps_replicas_attached() {
    let (p, pc, replicas) = group(1, &[]).await;
    let mut client = p.client().await;
    redis::cmd("SET").arg("a").arg("1").query_async::<()>(&mut client).await.unwrap();
    let report = pc.seal(in_time(1000)).await.unwrap();
    let refused = redis::cmd("SET").arg("a").arg("2").query_async::<()>(&mut client).await.unwrap_err();
    assert_eq!(refused.code(), Some("READONLY"));
    assert_eq!(report.after.replicas.len(), 1);
    sleep(Duration::from_millis(1500)).await;
    let later = pc.info(in_time(1000)).await.unwrap();
    assert_eq!(later.replicas.len(), 1, "still attached");
    assert_eq!(later.offset, report.after.offset, "no pings");
    assert!(replicas[0].1.info(in_time(1000)).await.unwrap().link_up);
}

#[tokio::test]
async fn follow_does_not_repeat_itself() {
    let (p, pc, replicas) = group(1, &[]).await;
    let (_, rc) = &replicas[0];
    for _ in 0..3 {
        assert!(rc.follow("127.0.0.1", p.port, in_time(1000)).await.unwrap().link_up);
    }
    let stats = pc.info(in_time(1000)).await.unwrap();
    assert_eq!((stats.sync_full, stats.sync_partial_ok), (1, 0));
}

#[tokio::test]
async fn a_link_that_was_refused_is_retried_at_once_when_asked() {
    let port = crate::server::free_port();
    let replica = Server::start(&BORN_SEALED).await;
    let rc = commander(&replica);
    let info = rc.follow("127.0.0.1", port, in_time(1000)).await.unwrap();
    assert!(info.follows("127.0.0.1", port) && !info.link_up);
    sleep(Duration::from_millis(50)).await;
    let primary = Server::start(&["--port", &port.to_string(), "--repl-diskless-sync-delay", "0"]).await;
    let pc = commander(&primary);
    let started = Instant::now();
    while pc.info(in_time(1000)).await.unwrap().connected_replicas == 0 {
        assert!(started.elapsed() < Duration::from_millis(400), "by itself it tries once per second");
        rc.retry_link("127.0.0.1", port, in_time(1000)).await.unwrap();
        sleep(Duration::from_millis(10)).await;
    }
    println!("attached {:?} after the primary answered", started.elapsed());
    drop(primary);
}

/// The primary's child process serves another: a replica that asks anew loses its place and costs one more.
#[tokio::test]
async fn a_replica_that_waits_for_the_primarys_child_is_left_alone() {
    let primary = Server::start(&["--repl-diskless-sync-delay", "0", "--rdb-key-save-delay", "20000"]).await;
    let pc = commander(&primary);
    for key in 0..10 {
        primary.ok(&["SET", &format!("key{key}"), "1"]).await;
    }
    let (first, second) = (Server::start(&BORN_SEALED).await, Server::start(&BORN_SEALED).await);
    let (one, two) = (commander(&first), commander(&second));
    one.follow("127.0.0.1", primary.port, in_time(1000)).await.unwrap();
    while pc.info(in_time(1000)).await.unwrap().replicas.len() < 2 {
        two.follow("127.0.0.1", primary.port, in_time(1000)).await.unwrap();
        sleep(Duration::from_millis(10)).await;
    }
    let mut waited = 0;
    while pc
        .info(in_time(1000))
        .await
        .unwrap()
        .replicas
        .iter()
        .any(|row| row.state == ReplicaState::Syncing("wait_bgsave".to_owned()))
    {
        two.retry_link("127.0.0.1", primary.port, in_time(1000)).await.unwrap();
        waited += 1;
        sleep(Duration::from_millis(5)).await;
    }
    assert!(waited > 2, "it had to wait");
    assert_eq!(pc.info(in_time(1000)).await.unwrap().sync_full, 2);
}

#[tokio::test]
async fn serve_wants_the_very_instance() {
    let mut server = Server::start(&BORN_SEALED).await;
    let c = commander(&server);
    let run_id = c.info(in_time(1000)).await.unwrap().run_id;
    server.kill();
    server.run(&[]).await;
    let refused = c.serve(&run_id, in_time(1000)).await;
    assert!(matches!(refused, Err(Error::RunIdMismatch { .. })), "{refused:?}");
    let now = c.info(in_time(1000)).await.unwrap();
    assert!(now.is_sealed(), "nothing was changed");
    let served = c.serve(&now.run_id, in_time(1000)).await.unwrap();
    assert_eq!(served.role, Role::Primary);
    let again = c.serve(&now.run_id, in_time(1000)).await.unwrap();
    assert_eq!(again.replid, served.replid, "serving again changes nothing");
}

#[tokio::test]
async fn born_sealed_whatever_the_config_file_says() {
    let mut server = Server::start(&[]).await;
    server.ok(&["SET", "a", "1"]).await;
    server.ok(&["SAVE"]).await;
    server.kill();
    std::fs::write(server.dir.path().join("r.conf"), "replica-read-only no\nport 0\n").unwrap();
    server.run(&[&["--replica-read-only", "no"][..], &BORN_SEALED[..3]].concat()).await;
    let c = commander(&server);
    let info = c.info(in_time(1000)).await.unwrap();
    assert!(info.is_detached() && !info.is_sealed(), "read-only was switched off");
    assert!(c.seal(in_time(1000)).await.unwrap().after.is_sealed());
    assert_eq!(c.info(in_time(1000)).await.unwrap().keys, 1);
}

#[tokio::test]
async fn settings_are_enforced_and_a_refusal_names_the_setting() {
    let server = Server::start(&["--replica-read-only", "no", "--repl-diskless-load", "swapdb"]).await;
    let settings = Settings { announce: Some(Announce { ip: "10.9.8.7".into(), port: 6390 }) };
    let c = Commander::new(server.tcp(), settings.clone(), None);
    let report = c.enforce_settings(in_time(1000)).await.unwrap();
    assert_eq!(report.repl_timeout, Duration::from_secs(60));
    assert!(!report.links_will_flap);
    let get = async |name: &str| {
        let pair: Vec<String> = redis::from_redis_value(server.ok(&["CONFIG", "GET", name]).await).unwrap();
        pair[1].clone()
    };
    for (name, value) in [
        ("repl-diskless-load", "disabled"),
        ("replica-read-only", "yes"),
        ("replica-ignore-maxmemory", "yes"),
        ("repl-diskless-sync-delay", "0"),
        ("repl-backlog-ttl", "0"),
        ("replica-announce-ip", "10.9.8.7"),
        ("replica-announce-port", "6390"),
    ] {
        assert_eq!(get(name).await, value, "{name}");
    }

    server.ok(&["ACL", "SETUSER", "u", "on", ">p", "~*", "+@all", "-config|set"]).await;
    let login = server.tcp().with_credentials(Some("u".into()), Some(Secret::new("p")));
    let c = Commander::new(login, settings, None);
    let refused = c.enforce_settings(in_time(1000)).await.unwrap_err();
    assert!(matches!(&refused, Error::SettingRefused { setting: "repl-diskless-load", .. }), "{refused}");
    assert!(refused.to_string().contains("+config|set"), "{refused}");
    // What is right already needs no permission: sealing is confirmed by what the instance shows.
    assert!(c.seal(in_time(1000)).await.unwrap().after.is_sealed());
    server.ok(&["CONFIG", "SET", "replica-read-only", "no"]).await;
    let refused = c.seal(in_time(1000)).await.unwrap_err();
    assert!(matches!(&refused, Error::SettingRefused { setting: "replica-read-only", .. }), "{refused}");
}

#[tokio::test]
async fn credentials_of_the_group_let_replicas_follow() {
    let args = ["--requirepass", "pw", "--repl-diskless-sync-delay", "0"];
    let (p, r) = (Server::start(&args).await, Server::start(&[&args[..], &BORN_SEALED].concat()).await);
    let c = Commander::new(r.unix().with_credentials(None, Some(Secret::new("pw"))), Settings::default(), None);
    c.follow("127.0.0.1", p.port, in_time(1000)).await.unwrap();
    until(&c, "link", |i| i.link_up).await;
    let wrong = Commander::new(r.unix(), Settings::default(), None).info(in_time(1000)).await;
    assert!(matches!(wrong, Err(Error::Auth { .. })), "{wrong:?}");
}

#[tokio::test]
async fn minimum_replicas_refuse_writes_the_moment_replicas_are_sealed() {
    let (p, pc, replicas) = group(2, &[]).await;
    pc.set_min_replicas(1, Duration::from_secs(1), in_time(1000)).await.unwrap();
    let mut client = p.client().await;
    let set = async |c: &mut redis::aio::MultiplexedConnection| {
        redis::cmd("SET").arg("a").arg("1").query_async::<()>(c).await
    };
    set(&mut client).await.unwrap();
    replicas[0].1.seal(in_time(1000)).await.unwrap();
    set(&mut client).await.expect("one is left");
    replicas[1].1.seal(in_time(1000)).await.unwrap();
    let sealed = Instant::now();
    while set(&mut client).await.is_ok() {
        assert!(sealed.elapsed() < Duration::from_millis(100), "writes still go through");
    }
    let refused = set(&mut client).await.unwrap_err();
    println!("writes refused {:?} after the seal's answer", sealed.elapsed());
    assert_eq!(refused.code(), Some("NOREPLICAS"));
    pc.set_min_replicas(0, Duration::from_secs(1), in_time(1000)).await.unwrap();
    set(&mut client).await.unwrap();
}

/// A client that writes counters as fast as answers come, and knows which were acknowledged.
async fn write_load(server: &Server, name: &'static str, acked: Arc<AtomicU64>, stop: Arc<AtomicBool>) {
    let client = redis::Client::open(("127.0.0.1", server.port)).unwrap();
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(20)));
    let mut con = client.get_multiplexed_async_connection_with_config(&config).await.unwrap();
    tokio::spawn(async move {
        let mut n = 0;
        while !stop.load(Ordering::Relaxed) {
            let mut pipe = redis::pipe();
            for _ in 0..50 {
                n += 1;
                pipe.cmd("SET").arg(name).arg(n);
            }
            if pipe.query_async::<redis::Value>(&mut con).await.is_err() {
                return;
            }
            acked.store(n, Ordering::Relaxed);
        }
    });
}

#[tokio::test]
async fn a_handover_under_load_loses_nothing() {
    let (p, pc, replicas) = group(2, &[]).await;
    let (s, sc) = &replicas[0];
    let stop = Arc::new(AtomicBool::new(false));
    let acked: Vec<_> = (0..4).map(|_| Arc::new(AtomicU64::new(0))).collect();
    let names = ["c0", "c1", "c2", "c3"];
    for (name, acked) in names.into_iter().zip(&acked) {
        write_load(&p, name, acked.clone(), stop.clone()).await;
    }
    sleep(Duration::from_millis(300)).await;
    let began = Instant::now();
    pc.pause_writes(Duration::from_secs(2), in_time(500)).await.unwrap();
    let frozen = pc.freeze(in_time(500)).await.unwrap();
    assert_eq!(frozen.before.replicas.len(), frozen.after.replicas.len(), "replicas stay attached");
    assert_eq!(pc.replica_rows(in_time(500)).await.unwrap().len(), 2);
    let reached = until(sc, "the frozen offset", |i| i.offset >= frozen.after.offset).await;
    assert_eq!(reached.offset, frozen.after.offset, "nothing after the freeze");
    sleep(Duration::from_millis(20)).await;
    assert_eq!(pc.info(in_time(500)).await.unwrap().offset, frozen.after.offset, "frozen");
    let served = sc.serve(&reached.run_id, in_time(500)).await.unwrap();
    println!("handover in {:?} under load", began.elapsed());
    pc.unpause(in_time(500)).await.unwrap();
    sleep(Duration::from_millis(100)).await;
    stop.store(true, Ordering::Relaxed);
    for (name, acked) in names.into_iter().zip(&acked) {
        let acked = acked.load(Ordering::Relaxed);
        let kept: u64 = redis::from_redis_value(s.ok(&["GET", name]).await).unwrap();
        assert!(acked > 0 && kept >= acked, "{name}: {acked} acknowledged, {kept} kept");
    }
    assert_eq!(served.second_offset, Some(frozen.after.offset + 1));
}

#[tokio::test]
async fn a_full_resync_is_seen_before_detaching() {
    let (p, _pc, _) = group(0, &[]).await;
    p.ok(&["DEBUG", "POPULATE", "300000", "k", "20"]).await;
    // Slow transfer: the data leave at 10 µs per key.
    p.ok(&["CONFIG", "SET", "rdb-key-save-delay", "10"]).await;
    let r = Server::start(&BORN_SEALED).await;
    let rc = commander(&r);
    let mut seen = Seen::of(r.unix());
    rc.follow("127.0.0.1", p.port, in_time(1000)).await.unwrap();
    let event = seen
        .until("sync in progress", 3000, |e| matches!(e, InstanceEvent::Info { info, .. } if info.sync_in_progress))
        .await;
    assert!(matches!(event, InstanceEvent::Info { .. }));
    let report = rc.seal(in_time(1000)).await.unwrap();
    assert!(report.before.sync_in_progress, "the report says that the data are not whole");
    assert!(report.after.is_sealed() && !report.after.sync_in_progress);
}
