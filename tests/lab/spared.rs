//! What spares a cluster work: a node that fails again and again is passed over, full resynchronisations take turns, and a
//! backlog that is too small is told of before it costs one.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, Options};
use crate::lab::{in_lab, ms, secs, wait_for};
use crate::switch::HostNo;
use crate::writer::WriterOptions;

/// Kills the primary's instance; who is primary then. Everything is in step again, so that only order decides the next.
fn fails(c: &Cluster, primary: HostNo) -> HostNo {
    assert!(c.host(primary).redis().kill());
    let new = c.wait_new_primary(primary, secs(20));
    assert_eq!(c.wait_healthy(secs(40)), new);
    new
}

#[test]
fn a_node_that_fails_again_and_again_is_passed_over_but_never_the_last() {
    in_lab(|| {
        let c = Cluster::start(Options { priorities: vec![(1, 200)], ..Options::new(3) });
        let first = c.wait_healthy(secs(40));
        if first != 1 {
            let output = c.mainstay(first, &["switchover", "--to", "n1"]);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert_eq!(c.wait_healthy(secs(40)), 1);
        }
        let second = fails(&c, 1);
        assert_eq!(fails(&c, second), 1, "one fault is an accident: its priority counts");
        let third = fails(&c, 1);
        let fourth = fails(&c, third);
        assert_ne!(fourth, 1, "it failed twice, and another was there");
        // All others are lost: whatever its past, it is the one that can serve.
        let others: Vec<HostNo> = [2, 3].into_iter().filter(|host| *host != fourth).collect();
        others.iter().for_each(|host| assert!(c.host(*host).redis().freeze()));
        let cut = Instant::now();
        assert!(c.host(fourth).redis().kill());
        assert_eq!(c.wait_new_primary(fourth, secs(20)), 1);
        println!("FIGURE the only candidate has failed before: served after {:?}", cut.elapsed());
        others.iter().for_each(|host| assert!(c.host(*host).redis().thaw()));
        c.wait_healthy(secs(40));
    });
}

/// The replicas that the primary is sending its whole data to at this moment.
fn in_transfer(c: &Cluster, primary: HostNo) -> Option<BTreeSet<String>> {
    let info = c.host(primary).info().ok()?;
    let rows = info.iter().filter(|(name, _)| name.starts_with("slave") && !name.starts_with("slave_"));
    let busy = rows.filter(|(_, row)| row.contains("state=wait_bgsave") || row.contains("state=send_bulk"));
    Some(busy.map(|(_, row)| row.split(',').take(2).collect()).collect())
}

#[test]
fn full_resynchronisations_take_turns() {
    in_lab(|| {
        let c = Cluster::start(Options::new(4));
        let primary = c.wait_healthy(secs(40));
        c.preload(primary, 100);
        c.wait_healthy(secs(40));
        let before = full_syncs(&c, primary);
        let replicas: Vec<HostNo> = (1..=4).filter(|host| *host != primary).collect();
        replicas.iter().for_each(|host| assert!(c.host(*host).redis().kill()));
        let (mut most, begun) = (0, Instant::now());
        let mut looks = 0;
        while c.steady_now().is_err() {
            for _ in 0..50 {
                most = most.max(in_transfer(&c, primary).map_or(0, |busy| busy.len()));
                looks += 1;
                std::thread::sleep(ms(2));
            }
            assert!(begun.elapsed() < secs(60), "they do not come back");
        }
        let done = full_syncs(&c, primary) - before;
        println!(
            "FIGURE {done} full resynchronisations of 100 MB in {:?}, {most} at a time, {looks} looks",
            begun.elapsed()
        );
        assert_eq!(c.primary_now(), Ok(primary));
        assert_eq!(done, 3, "every one came back empty");
        assert_eq!(most, 1);
    });
}

fn full_syncs(c: &Cluster, primary: HostNo) -> u64 {
    c.host(primary).info().expect("INFO")["sync_full"].parse().expect("a number")
}

#[test]
fn a_backlog_that_the_writes_outgrow_is_told_of() {
    in_lab(|| {
        let c = Cluster::start(Options { redis_conf: vec!["repl-backlog-size 64kb".into()], ..Options::new(3) });
        let primary = c.wait_healthy(secs(40));
        let said = || c.host(primary).agent_log().lines().any(|line| line.contains("backlog") && line.contains("WARN"));
        assert!(!said(), "nothing is written yet");
        let load = c.write_vip(WriterOptions::bulk());
        wait_for("the warning", secs(20), || if said() { Ok(()) } else { Err("none") });
        drop(load);
        let end = Duration::from_secs(30);
        wait_for("the word that it is long enough", end, || {
            let log = c.host(primary).agent_log();
            if log.contains("the backlog is long enough again") { Ok(()) } else { Err("none") }
        });
    });
}
