//! Proof of the harness with real Redis and no agent: the test itself plays
//! the operator who moves the primary and the floating address by hand.

use std::net::IpAddr;
use std::time::Instant;

use crate::cluster::{Cluster, Options};
use crate::history::Outcome;
use crate::lab::{in_lab, ms, secs, wait_for};
use crate::net::{VIP, address};
use crate::switch::HostNo;
use crate::watch::doubled;
use crate::writer::{Load, WriterOptions};

/// Makes a host primary, the others its replicas, and moves the address.
fn promote(c: &Cluster, primary: HostNo) {
    for host in c.data_hosts() {
        wait_for("instance", secs(5), || host.info());
        if host.no == primary {
            host.cmd(&["REPLICAOF", "NO", "ONE"]);
        } else {
            host.cmd(&["REPLICAOF", &address(primary).to_string(), "6379"]);
        }
    }
    move_vip(c, primary);
}

fn move_vip(c: &Cluster, to: HostNo) {
    let vip = match c.service().ip() {
        IpAddr::V4(vip) => format!("{vip}/32 dev eth0"),
        IpAddr::V6(vip) => format!("{vip}/128 dev eth0 nodad"),
    };
    for holder in c.vip_holders() {
        c.host(holder).net.ip(&format!("addr del {vip}"));
    }
    c.host(to).net.ip(&format!("addr add {vip}"));
    // Stands for the announcement an agent would send.
    c.client.ip("neigh flush dev eth0");
}

#[test]
fn instances_are_born_sealed_and_come_back_so() {
    in_lab(|| {
        let c = Cluster::start(Options::redis_only(1));
        let host = c.host(1);
        wait_for("instance", secs(5), || host.info());
        assert_eq!(host.cmd(&["ROLE"]).items()[0].text(), "slave");
        host.cmd(&["REPLICAOF", "NO", "ONE"]);
        host.cmd(&["CONFIG", "REWRITE"]);
        let (starts, killed) = (host.redis().starts(), Instant::now());
        assert!(host.redis().kill());
        host.redis().wait_restart(starts, secs(5));
        assert!(killed.elapsed() >= c.options.redis_restart);
        let role = wait_for("instance", secs(5), || host.client()?.command(&["ROLE"]));
        assert_eq!(role.items()[0].text(), "slave");
        assert!(host.redis().stop(secs(5)), "SIGTERM did not end it");
        assert!(!host.redis().is_running());
    });
}

#[test]
fn replication_survives_isolation() {
    in_lab(|| {
        let c = Cluster::start(Options::redis_only(2));
        promote(&c, 1);
        assert_eq!(c.wait_steady(secs(10)), 1);
        c.wire.isolate(2);
        c.host(1).cmd(&["SET", "k", "v"]);
        std::thread::sleep(ms(300));
        assert_eq!(c.host(2).cmd(&["GET", "k"]).text(), "");
        assert!(c.steady_now().is_err());
        c.wire.heal(2);
        c.wait_steady(secs(10));
        assert_eq!(c.host(2).cmd(&["GET", "k"]).text(), "v");
    });
}

#[test]
fn a_failover_by_hand_is_judged_clean() {
    in_lab(|| {
        let c = Cluster::start(Options::redis_only(3));
        promote(&c, 1);
        c.wait_steady(secs(10));
        let load = c.load();
        std::thread::sleep(ms(500));

        let cut = Instant::now();
        c.kill_host(1);
        promote(&c, 2);
        assert_eq!(c.wait_new_primary(1, secs(5)), 2);
        std::thread::sleep(ms(500));
        c.revive_host(1);
        wait_for("instance", secs(5), || c.host(1).info());
        assert_eq!(c.vip_holders(), [2]);
        c.host(1).cmd(&["REPLICAOF", "10.77.0.2", "6379"]);
        assert_eq!(c.wait_steady(secs(10)), 2);

        let history = load.stop();
        let vip = history.by("vip");
        let gap = vip.gap(cut..Instant::now());
        println!("gap {gap:?}, {} written, {:?}", vip.acked(), vip.failures());
        assert!(gap > ms(1) && gap < secs(3), "{gap:?}");
        assert!(vip.failed() >= 1 && vip.acked() > 300);
        assert_eq!(history.reigns().len(), 2);
        assert!(history.two_servers().is_empty(), "{:?}", history.two_servers());
        // What was acknowledged in the last moment may be gone; all that is
        // judged here is that the check looks at real keys.
        let lost = c.lost(&history, 2);
        assert!(lost.len() < 200, "{} lost", lost.len());
        let last = history.by("vip").logs[0].writes.iter().rfind(|w| w.acked()).expect("a write").n;
        c.host(2).cmd(&["DEL", &format!("vip:{last}")]);
        assert!(c.lost(&history, 2).contains(&format!("vip:{last}")));
        assert_eq!(c.lost(&history, 2).len(), lost.len() + 1);
    });
}

#[test]
fn two_servers_are_found() {
    in_lab(|| {
        let c = Cluster::start(Options::redis_only(2));
        promote(&c, 1);
        c.wait_steady(secs(10));
        let load = c.load();
        std::thread::sleep(ms(300));
        c.host(2).cmd(&["REPLICAOF", "NO", "ONE"]);
        std::thread::sleep(ms(300));
        let history = load.stop();
        let found = history.two_servers();
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].writes.len() > 50 && found[0].overlap > ms(100), "{:?}", found[0].overlap);
    });
}

#[test]
fn a_replica_that_takes_writes_is_found() {
    in_lab(|| {
        let c = Cluster::start(Options::redis_only(2));
        promote(&c, 1);
        c.wait_steady(secs(10));
        c.host(2).cmd(&["CONFIG", "SET", "replica-read-only", "no"]);
        let load = c.load();
        std::thread::sleep(ms(300));
        let found = load.stop().two_servers();
        assert!(found.iter().any(|v| v.elder.replid.is_none()), "{found:?}");
    });
}

#[test]
fn wait_tells_what_replicas_have() {
    in_lab(|| {
        let c = Cluster::start(Options::redis_only(2));
        promote(&c, 1);
        c.wait_steady(secs(10));
        let load = Load::default().with(c.write_vip(WriterOptions::waiting(1)));
        std::thread::sleep(ms(300));
        c.wire.block(2, 1);
        std::thread::sleep(ms(500));
        let history = load.stop();
        let waited = history.writes().filter(|w| w.acked_by(1)).count();
        let alone = history.writes().filter(|w| w.acked() && !w.acked_by(1)).count();
        println!("{waited} waited for, {alone} not");
        assert!(waited > 20 && alone >= 2);
        assert!(c.lost_waited(&history, 1, 2).is_empty());
    });
}

#[test]
fn a_frozen_instance_answers_nobody() {
    in_lab(|| {
        let c = Cluster::start(Options::redis_only(1));
        promote(&c, 1);
        c.wait_primary(secs(5));
        let load = c.load();
        std::thread::sleep(ms(200));
        c.host(1).redis().freeze();
        std::thread::sleep(ms(500));
        assert!(c.primary_now().is_err());
        c.host(1).redis().thaw();
        c.wait_primary(secs(2));
        std::thread::sleep(ms(200));
        let history = load.stop();
        assert!(history.writes().any(|w| matches!(w.outcome, Outcome::Unknown(_))));
        assert!(history.two_servers().is_empty());
        assert!(c.lost(&history, 1).is_empty());
    });
}

#[test]
fn bulk_writers_and_preload_are_fast() {
    in_lab(|| {
        let c = Cluster::start(Options::redis_only(2));
        promote(&c, 1);
        c.wait_steady(secs(10));
        let start = Instant::now();
        c.preload(1, 200);
        let filled = start.elapsed();
        let load = Load::default().with(c.write_vip(WriterOptions::bulk()));
        std::thread::sleep(secs(2));
        let history = load.stop();
        let rate = history.acked() / 2;
        println!("200 MiB in {filled:?}; {rate} writes/s");
        assert!(rate >= 20_000, "{rate} writes/s");
        assert_eq!(history.failed(), 0);
        assert!(c.lost(&history, 1).is_empty());
        c.wait_steady(secs(30));
        assert!(c.lost(&history, 2).is_empty());
    });
}

#[test]
fn agents_are_supervised_and_hosts_can_be_added() {
    in_lab(|| {
        let mut c = Cluster::start(Options::new(1).with_witnesses(1));
        assert!(c.host(2).redis.is_none());
        c.add_host(3, false).expect("a host");
        for no in 1..=3 {
            let agent = c.host(no).agent();
            let starts = agent.starts();
            agent.kill();
            agent.wait_restart(starts, secs(5));
        }
        wait_for("instance", secs(5), || c.host(3).info());
        c.kill_host(3);
        let starts = c.host(3).agent().starts();
        std::thread::sleep(ms(500));
        assert_eq!(c.host(3).agent().starts(), starts, "a dead host's agent was started");
        c.revive_host_empty(3);
        c.host(3).agent().wait_restart(starts, secs(5));
        wait_for("instance", secs(5), || c.host(3).info());
        assert!(c.mainstay_plain(2, &["--version"]).status.code().is_some());
    });
}

#[test]
fn the_address_may_be_ipv6() {
    in_lab(|| {
        let mut options = Options::redis_only(2);
        options.vip6 = true;
        let c = Cluster::start(options);
        promote(&c, 2);
        assert_eq!(c.wait_steady(secs(10)), 2);
        let load = c.load();
        std::thread::sleep(ms(200));
        let history = load.stop();
        assert!(history.by("vip").acked() > 50 && history.by("vip").failed() == 0);
        c.wait_steady(secs(10));
        assert!(c.lost(&history, 1).is_empty());
    });
}

#[test]
fn the_watch_sees_the_address_move_and_double() {
    in_lab(|| {
        let c = Cluster::start(Options::redis_only(2));
        promote(&c, 1);
        let direct = c.write_direct(1, WriterOptions::default());
        let watch = c.watch_vip();
        std::thread::sleep(ms(50));
        move_vip(&c, 2);
        std::thread::sleep(ms(50));
        c.host(1).net.ip(&format!("addr add {VIP}/32 dev eth0"));
        std::thread::sleep(ms(50));
        c.kill_host(2);
        std::thread::sleep(ms(50));
        let seen = watch.stop();
        let holders: Vec<_> = seen.iter().map(|s| s.holders.clone()).filter(|h| !h.is_empty()).collect();
        assert_eq!(holders, [vec![1], vec![2], vec![1, 2], vec![1]], "{seen:?}");
        let doubled = doubled(&seen);
        assert_eq!(doubled.len(), 1);
        assert!(doubled[0].1 >= ms(40), "{doubled:?}");
        // Clients of the host's own address did not notice.
        let direct = direct.stop();
        assert!(direct.writes.len() > 50 && direct.writes.iter().all(|w| w.acked()));
    });
}
