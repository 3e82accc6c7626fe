//! What a watcher says, and how fast.

use crate::server::{BORN_SEALED, Seen, Server, fast, in_time};
use mainstay::redis::{
    Commander, Endpoint, Flavor, GoneKind, InstanceEvent, KillError, MainPid, Role, ScriptKill, Secret, Settings,
};
use std::time::Duration;
use tokio::time::{Instant, sleep};

#[tokio::test]
async fn info_of_a_real_server() {
    let server = Server::start(&[]).await;
    server.ok(&["SET", "a", "1"]).await;
    for endpoint in [server.tcp(), server.unix()] {
        let mut seen = Seen::of(endpoint);
        let info = seen.info().await;
        assert_eq!(info.pid, server.pid());
        let flavor = if server.name().contains("valkey") { Flavor::Valkey } else { Flavor::Redis };
        assert_eq!((info.role, info.keys, info.server), (Role::Primary, 1, flavor));
        assert_eq!(info.run_id.len(), 40);
        assert_eq!(info.second_offset, None);
        assert!(!info.loading && !info.sync_in_progress && info.upstream.is_none());
        assert_eq!(seen.watcher.process().expect("verified process").pid(), server.pid());
    }
}

#[tokio::test]
async fn kill_9_is_told_within_milliseconds() {
    for (name, unix) in [("tcp", false), ("unix", true)] {
        let mut times = Vec::new();
        for _ in 0..7 {
            let mut server = Server::start(&[]).await;
            let mut seen = Seen::of(if unix { server.unix() } else { server.tcp() });
            seen.info().await;
            seen.watcher.set_pace(Duration::from_secs(10));
            sleep(Duration::from_millis(30)).await;
            let killed = Instant::now();
            server.kill_unreaped();
            seen.until("Gone", 1000, |e| matches!(e, InstanceEvent::Gone(_))).await;
            times.push(killed.elapsed());
            // A refused connection may tell first; the process is gone for good a moment later.
            let end = Instant::now() + Duration::from_secs(2);
            while seen.watcher.process().is_some() {
                assert!(Instant::now() < end, "a dead process is still held for alive");
                sleep(Duration::from_millis(1)).await;
            }
            server.kill();
        }
        times.sort();
        println!("kill -9 over {name}: told after {:?} (median), {:?} (worst of 7)", times[3], times[6]);
        assert!(times[6] < Duration::from_millis(100), "{name}: {times:?}");
    }
}

#[tokio::test]
async fn a_crash_without_a_known_process_is_told_by_the_refused_connection() {
    // Reached through a relay the process behind is not the peer: only the sockets can tell.
    let relay = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server::start(&[]).await;
    let (address, to) = (relay.local_addr().unwrap(), server.port);
    let relay = tokio::spawn(async move {
        let (mut a, _) = relay.accept().await.unwrap();
        let mut b = tokio::net::TcpStream::connect(("127.0.0.1", to)).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut a, &mut b).await;
    });
    let mut seen = Seen::of(Endpoint::tcp("127.0.0.1", address.port()));
    seen.info().await;
    let ended = Instant::now();
    relay.abort();
    let event = seen.until("Gone", 1000, |e| matches!(e, InstanceEvent::Gone(_))).await;
    println!("closed and refused: told after {:?}", ended.elapsed());
    assert_eq!(event, InstanceEvent::Gone(GoneKind::Refused));
    assert!(ended.elapsed() < Duration::from_millis(100));
}

#[tokio::test]
async fn gone_is_told_once_and_the_return_is_seen() {
    let mut server = Server::start(&[]).await;
    let mut seen = Seen::of(server.unix());
    let first = seen.info().await;
    server.kill();
    seen.until("Gone", 1000, |e| matches!(e, InstanceEvent::Gone(_))).await;
    sleep(Duration::from_millis(400)).await;
    assert!(seen.events.try_recv().is_err(), "told once");
    server.run(&BORN_SEALED).await;
    let second = seen.info().await;
    assert_ne!(first.run_id, second.run_id);
    assert!(second.is_sealed(), "born sealed");
    assert_eq!(seen.watcher.process().unwrap().pid(), server.pid());
}

#[tokio::test]
async fn a_stopped_process_is_silent_without_progress_and_not_gone() {
    let server = Server::start(&[]).await;
    for endpoint in [server.tcp(), server.unix()] {
        let mut seen = Seen::of(endpoint);
        seen.info().await;
        server.signal(libc::SIGSTOP);
        let started = Instant::now();
        let mut states = Vec::new();
        let mut last = Duration::ZERO;
        while started.elapsed() < Duration::from_millis(900) {
            match seen.next("Silent", 1000).await {
                InstanceEvent::Silent(s) => {
                    assert!(s.since > last, "silence grows");
                    last = s.since;
                    states.push(s.progress);
                }
                InstanceEvent::Info { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        server.signal(libc::SIGCONT);
        assert!(states.len() >= 3, "at 100 ms, then each 200 ms: {states:?}");
        assert!(states.iter().all(|progress| *progress == Some(false)), "{states:?}");
        seen.info().await;
    }
}

#[tokio::test]
async fn silence_outlives_the_replacement_of_the_connection() {
    let server = Server::start(&[]).await;
    let (tx, events) = tokio::sync::mpsc::channel(4);
    let timing = mainstay::redis::Timing { replace_after: Duration::from_millis(300), ..fast() };
    let mut seen =
        Seen { watcher: mainstay::redis::Watcher::spawn(server.unix(), timing, MainPid::default(), tx), events };
    seen.info().await;
    server.signal(libc::SIGSTOP);
    seen.until("long silence", 4000, |e| {
        assert!(!matches!(e, InstanceEvent::Gone(_)));
        matches!(e, InstanceEvent::Silent(s) if s.since > Duration::from_millis(1500))
    })
    .await;
    server.signal(libc::SIGCONT);
    seen.info().await;
}

#[tokio::test]
async fn a_sleeping_server_is_silent_and_alive() {
    let server = Server::start(&[]).await;
    let mut seen = Seen::of(server.tcp());
    seen.info().await;
    let mut client = server.client().await;
    let sleeper =
        tokio::spawn(async move { redis::cmd("DEBUG").arg("SLEEP").arg("0.6").query_async::<()>(&mut client).await });
    let event = seen.until("Silent", 1000, |e| matches!(e, InstanceEvent::Silent(_))).await;
    let InstanceEvent::Silent(silence) = event else { unreachable!() };
    assert!(silence.progress.is_some(), "its process is known");
    seen.info().await;
    sleeper.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_blocking_script_is_busy_and_can_be_killed() {
    let server = Server::start(&["--busy-reply-threshold", "100"]).await;
    let commander = Commander::new(server.tcp(), Settings::default(), None);
    assert_eq!(commander.script_kill(in_time(500)).await.unwrap(), ScriptKill::NothingRuns);
    let mut seen = Seen::of(server.tcp());
    seen.info().await;
    for (script, end) in [
        ("while true do end", ScriptKill::Killed),
        ("redis.call('SET', 'x', '1') while true do end", ScriptKill::Unkillable),
    ] {
        let mut client = server.client().await;
        let script = script.to_owned();
        let runner =
            tokio::spawn(async move { redis::cmd("EVAL").arg(script).arg(0).query_async::<()>(&mut client).await });
        seen.until("Busy", 2000, |e| {
            assert!(!matches!(e, InstanceEvent::Gone(_)));
            *e == InstanceEvent::Busy
        })
        .await;
        assert_eq!(commander.script_kill(in_time(500)).await.unwrap(), end);
        if end == ScriptKill::Killed {
            assert!(runner.await.unwrap().is_err());
            seen.info().await;
        } else {
            runner.abort();
        }
    }
}

/// An agent may start while its instance is blocked or hung: what cannot say its pid must be killable all the same.
#[tokio::test]
async fn the_process_of_an_instance_that_never_answered_is_found() {
    for blocked in [true, false] {
        let server = Server::start(&["--busy-reply-threshold", "100"]).await;
        let mut client = server.client().await;
        let script = "redis.call('SET', 'x', '1') while true do end";
        let runner =
            tokio::spawn(async move { redis::cmd("EVAL").arg(script).arg(0).query_async::<()>(&mut client).await });
        sleep(Duration::from_millis(300)).await;
        if !blocked {
            server.signal(libc::SIGSTOP);
        }
        for endpoint in [server.tcp(), server.unix()] {
            let seen = Seen::of(endpoint);
            let end = Instant::now() + Duration::from_secs(3);
            while seen.watcher.process().is_none() {
                assert!(Instant::now() < end, "not found, blocked {blocked}");
                sleep(Duration::from_millis(10)).await;
            }
            assert_eq!(seen.watcher.process().expect("found").pid(), server.pid());
        }
        runner.abort();
    }
}

#[tokio::test]
async fn loading_is_told_and_is_not_silence() {
    let mut server = Server::start(&[]).await;
    server.ok(&["DEBUG", "POPULATE", "200000", "k", "10"]).await;
    server.ok(&["SAVE"]).await;
    server.kill();
    // 50 µs per key: ten seconds.
    server.launch(&["--key-load-delay", "50", "--loading-process-events-interval-bytes", "1024"]);
    let mut seen = Seen::of(server.unix());
    let event = seen.until("Loading", 3000, |e| matches!(e, InstanceEvent::Loading(_))).await;
    let InstanceEvent::Loading(progress) = event else { unreachable!() };
    assert!(progress.total_bytes > 0, "{progress:?}");
    assert!(seen.info().await.loading);
    let commander = Commander::new(server.unix(), Settings::default(), None);
    let refused = commander.seal(in_time(2000)).await;
    assert!(matches!(refused, Err(mainstay::redis::Error::Loading { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_killed_client_connection_is_no_crash() {
    let server = Server::start(&[]).await;
    let mut seen = Seen::of(server.tcp());
    let run_id = seen.info().await.run_id;
    for _ in 0..3 {
        server.ok(&["CLIENT", "KILL", "TYPE", "normal"]).await;
        for _ in 0..8 {
            match seen.next("Info", 1000).await {
                InstanceEvent::Info { info, .. } => assert_eq!(info.run_id, run_id),
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn logins() {
    let server = Server::start(&["--requirepass", "right"]).await;
    let login = |password: Option<&str>| server.tcp().with_credentials(None, password.map(Secret::new));
    for wrong in [None, Some("wrong")] {
        let mut seen = Seen::of(login(wrong));
        let event = seen.next("AuthFailed", 1000).await;
        let InstanceEvent::AuthFailed { detail } = event else { panic!("{event:?}") };
        assert!(detail.contains("redis_password_file"), "{detail}");
        assert!(!format!("{:?}", login(wrong)).contains("wrong"), "Debug hides the password");
    }
    assert!(Seen::of(login(Some("right"))).info().await.pid > 0);
}

#[tokio::test]
async fn nonsense_is_told_with_a_remedy() {
    // A user who may not run INFO.
    let server = Server::start(&["--user", "u", "on", ">p", "~*", "+@all", "-info"]).await;
    let mut seen = Seen::of(server.tcp().with_credentials(Some("u".into()), Some(Secret::new("p"))));
    let event = seen.next("ProtocolNonsense", 1000).await;
    assert!(matches!(&event, InstanceEvent::ProtocolNonsense { detail } if detail.contains("INFO")), "{event:?}");
    // No Redis at all.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let http = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        while let Ok((mut s, _)) = listener.accept().await {
            let _ = s.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let mut seen = Seen::of(Endpoint::tcp("127.0.0.1", port));
    let event = seen.next("ProtocolNonsense", 2000).await;
    assert!(matches!(event, InstanceEvent::ProtocolNonsense { .. }), "{event:?}");
    http.abort();
}

#[tokio::test]
async fn the_process_is_killed_by_its_pidfd() {
    let mut server = Server::start(&[]).await;
    let mut seen = Seen::of(server.unix());
    seen.info().await;
    let process = seen.watcher.process().unwrap();
    assert!(process.is_alive());
    server.signal(libc::SIGSTOP);
    process.kill().unwrap();
    seen.until("Gone", 1000, |e| matches!(e, InstanceEvent::Gone(_))).await;
    assert!(!process.is_alive(), "a zombie is not alive");
    server.kill();
    assert!(matches!(process.kill(), Err(KillError::Exited { .. })));
    assert_eq!(process.ticks(), None);
}

#[tokio::test]
async fn nothing_there_is_gone_from_the_start() {
    let mut seen = Seen::of(Endpoint::tcp("127.0.0.1", crate::server::free_port()));
    assert_eq!(seen.next("Gone", 1000).await, InstanceEvent::Gone(GoneKind::Refused));
    let mut seen = Seen::of(Endpoint::unix("/nonexistent/r.sock"));
    assert_eq!(seen.next("Gone", 1000).await, InstanceEvent::Gone(GoneKind::Refused));
}

#[tokio::test]
async fn a_command_is_followed_by_a_poll_at_once() {
    let server = Server::start(&[]).await;
    let mut seen = Seen::of(server.tcp());
    seen.info().await;
    seen.watcher.set_pace(Duration::from_secs(60));
    let commander = Commander::new(server.tcp(), Settings::default(), Some(seen.watcher.poke()));
    sleep(Duration::from_millis(50)).await;
    while seen.events.try_recv().is_ok() {}
    commander.seal(in_time(1000)).await.unwrap();
    seen.until("the sealed state", 500, |e| matches!(e, InstanceEvent::Info { info, .. } if info.is_sealed())).await;
}

#[tokio::test]
async fn a_hung_server_gathers_no_queue_of_polls() {
    let server = Server::start(&[]).await;
    let mut seen = Seen::of(server.unix());
    seen.info().await;
    let calls = async || -> u64 {
        let stats: String = redis::from_redis_value(server.ok(&["INFO", "commandstats"]).await).unwrap();
        let line = stats.lines().find_map(|l| l.strip_prefix("cmdstat_info:calls=")).expect("INFO was called");
        line.split(',').next().unwrap().parse().unwrap()
    };
    seen.watcher.set_pace(Duration::from_secs(60));
    sleep(Duration::from_millis(50)).await;
    let before = calls().await;
    server.signal(libc::SIGSTOP);
    for _ in 0..100 {
        seen.watcher.poke().poll_now();
        sleep(Duration::from_millis(5)).await;
    }
    server.signal(libc::SIGCONT);
    sleep(Duration::from_millis(100)).await;
    let polls = calls().await - before;
    assert!((1..=3).contains(&polls), "one outstanding, one asked for meanwhile, and ours: {polls}");
}
