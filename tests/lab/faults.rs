//! The faults an operator buys mainstay for, each against real agents: what
//! clients felt, that nobody was served by two, and that the cluster heals.
//!
//! `LAB_RUNS=n` repeats each fault n times on one cluster and prints median
//! and longest; the bound that a test asserts is only the one no run may
//! exceed, since these are no benchmarks.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::cluster::{Cluster, Options};
use crate::history::History;
use crate::lab::{in_lab, ms, secs, wait_for};
use crate::switch::HostNo;
use crate::watch::doubled;

/// No run may keep clients waiting longer.
const BOUND: Duration = secs(10);
/// What is not to be felt keeps nobody waiting longer: half a lease. No bound of milliseconds, because a busy machine of
/// two processors alone keeps a writer waiting for some tens of them.
const UNFELT: Duration = ms(400);
/// How much later than it should a busy machine may let a write through: the fence waits for a processor as all do.
const NOISE: Duration = ms(400);
/// Writes in a second under which a switchover loses nothing. A build for measuring must take [`RATE_MEASURED`]; a debug
/// build shares two processors with the writers, the wire and three instances.
const RATE: f64 = 5_000.0;
const RATE_MEASURED: f64 = 20_000.0;

fn runs() -> usize {
    std::env::var("LAB_RUNS").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
}

/// Run to be measured, and not only to be passed.
fn measured() -> bool {
    runs() >= 10
}

fn median(sorted: &[Duration]) -> Duration {
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// What a fault is to lead to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expect {
    /// Another host serves.
    Change,
    /// Nobody notices.
    Nothing,
}

struct Story<'a> {
    name: &'a str,
    options: Options,
    expect: Expect,
    /// The frozen host's kernel keeps the address for its leash: two hosts
    /// have it, and only one serves.
    two_holders: bool,
    /// Planned: not a write that was answered is lost.
    lossless: bool,
    /// What else must hold.
    judge: &'a dyn Fn(&Cluster, &Run),
    fault: &'a dyn Fn(&Cluster, HostNo),
    repair: &'a dyn Fn(&Cluster, HostNo),
}

impl Default for Story<'_> {
    fn default() -> Self {
        Self {
            name: "",
            options: Options::new(3),
            expect: Expect::Change,
            two_holders: false,
            lossless: false,
            judge: &|_, _| {},
            fault: &|_, _| {},
            repair: &|_, _| {},
        }
    }
}

/// One run of a story, for its judge.
struct Run {
    old: HostNo,
    cut: Instant,
    history: History,
}

fn tell(story: &Story<'_>) {
    in_lab(|| {
        let c = Cluster::start(story.options.clone());
        c.wait_steady(secs(30));
        let mut gaps = Vec::new();
        let mut lost = Vec::new();
        for _ in 0..runs() {
            let (gap, gone) = one_run(&c, story);
            gaps.push(gap);
            lost.push(gone);
        }
        gaps.sort();
        println!(
            "FIGURE {}: gap median {:?} max {:?} over {} runs; plain writes lost {:?}",
            story.name,
            median(&gaps),
            gaps.last().copied().unwrap_or_default(),
            gaps.len(),
            lost
        );
    });
}

fn one_run(c: &Cluster, story: &Story<'_>) -> (Duration, usize) {
    let old = c.wait_healthy(secs(40));
    let (load, watch) = (c.load(), c.watch_vip());
    std::thread::sleep(ms(500));
    let cut = Instant::now();
    (story.fault)(c, old);
    if story.expect == Expect::Change {
        c.wait_new_primary(old, BOUND + secs(2));
        std::thread::sleep(ms(500));
    } else {
        std::thread::sleep(secs(2));
    }
    (story.repair)(c, old);
    let served = Instant::now();
    std::thread::sleep(ms(300));
    let now = c.wait_steady(secs(40));
    let history = load.stop();
    let held = watch.stop();
    assert_eq!(now == old, story.expect == Expect::Nothing, "primary was n{old}, is n{now}");
    assert!(history.two_servers().is_empty(), "two servers at once: {:#?}", history.two_servers());
    if !story.two_holders {
        let long: Vec<_> = doubled(&held).into_iter().filter(|(_, length)| *length > ms(50)).collect();
        assert!(long.is_empty(), "two hosts held the address: {long:?}");
    }
    let gap = history.by("vip").gap(cut..served);
    println!("n{old} -> n{now}: gap {gap:?}, failures {:?}", history.by("vip").failures());
    if std::env::var_os("LAB_TRACE").is_some() {
        for w in history.by("vip").writes().filter(|w| w.done > cut && w.sent < cut + gap + ms(30)) {
            println!("  {:?} .. {:?} {:?}", w.sent.duration_since(cut), w.done.duration_since(cut), w.outcome);
        }
    }
    assert!(gap < BOUND, "clients waited {gap:?}");
    if story.expect == Expect::Nothing {
        let failed = history.by("vip").failures();
        assert!(failed.is_empty(), "it was to be unfelt: {failed:?}");
        assert!(gap < UNFELT, "clients waited {gap:?}");
    }
    let lost = c.lost(&if story.lossless { history.clone() } else { history.by("vip") }, now);
    assert!(!story.lossless || lost.is_empty(), "{} lost, first {:?}", lost.len(), lost.first());
    (story.judge)(c, &Run { old, cut, history });
    (gap, lost.len())
}

fn vip(history: &History) -> History {
    history.by("vip")
}

#[test]
fn first_start_elects_exactly_one_primary_with_the_vip() {
    in_lab(|| {
        let c = Cluster::start(Options::new(3));
        let primary = c.wait_steady(secs(30));
        assert_eq!(c.vip_holders(), [primary]);
        let status = wait_for("healthy status", secs(10), || {
            let status = c.status(1)?;
            if status["health"] == "healthy" { Ok(status) } else { Err(status.to_string()) }
        });
        assert_eq!(status["groups"][0]["primary"], format!("n{primary}"));
        assert_eq!(status["groups"][0]["vip_holder"], format!("n{primary}"));
        assert_eq!(status["groups"][0]["epoch"], 1);
    });
}

#[test]
fn redis_killed() {
    tell(&Story { name: "kill -9 of Redis", fault: &|c, old| assert!(c.host(old).redis().kill()), ..Story::default() });
}

#[test]
fn agent_killed_and_back_is_not_felt() {
    tell(&Story {
        name: "kill -9 of the agent, back in 200 ms",
        expect: Expect::Nothing,
        fault: &|c, old| assert!(c.host(old).agent().kill()),
        ..Story::default()
    });
}

#[test]
fn host_lost() {
    tell(&Story { name: "host lost", fault: &Cluster::kill_host, repair: &Cluster::revive_host, ..Story::default() });
}

#[test]
fn primary_isolated_and_healed() {
    tell(&Story {
        name: "isolation",
        judge: &isolated_side_stops,
        fault: &|c, old| c.wire.isolate(old),
        repair: &|c, old| {
            // Longer than the lease: the isolated side must have stopped.
            std::thread::sleep(secs(2));
            c.wire.heal(old);
        },
        ..Story::default()
    });
}

/// The writer beside the cut-off primary, which nothing keeps from it, was told OK no longer than the lease (S1).
fn isolated_side_stops(c: &Cluster, run: &Run) {
    let beside = run.history.by(&format!("n{}", run.old));
    let last = beside.writes().filter(|write| write.acked()).map(|write| write.done).max();
    let after = last.expect("it was answered before").saturating_duration_since(run.cut);
    println!("FIGURE isolation: the isolated side acknowledges for {after:?}");
    assert!(after <= c.options.lease + NOISE, "it went on for {after:?}");
}

/// Nothing was written on the isolated side: its data go on where they are, and no full resynchronisation is needed.
#[test]
fn an_isolated_primary_without_writes_comes_back_partially() {
    in_lab(|| {
        // Pings are bytes too, and would be its own.
        let redis_conf = vec!["repl-ping-replica-period 3600".to_owned()];
        let c = Cluster::start(Options { redis_conf, ..Options::new(3) });
        let old = c.wait_healthy(secs(40));
        let load = c.load();
        std::thread::sleep(ms(300));
        let history = load.stop();
        c.wait_steady(secs(10));
        c.wire.isolate(old);
        let new = c.wait_new_primary(old, BOUND + secs(2));
        // The third host follows, and the fenced one has given up its old connections.
        std::thread::sleep(secs(2));
        let of = |field| c.host(new).info().expect("INFO").get(field).and_then(|n| n.parse().ok()).unwrap_or(0_u64);
        let (full, partial) = (of("sync_full"), of("sync_partial_ok"));
        c.wire.heal(old);
        assert_eq!(c.wait_healthy(secs(40)), new);
        assert_eq!(of("sync_full"), full, "a full resynchronisation");
        assert!(of("sync_partial_ok") > partial, "it resynchronised otherwise");
        let lost = c.lost(&history, new);
        assert!(lost.is_empty(), "{} lost, first {:?}", lost.len(), lost.first());
    });
}

#[test]
fn carrier_lost_and_back() {
    tell(&Story {
        name: "carrier lost",
        fault: &|c, old| c.wire.carrier(old, false),
        repair: &|c, old| {
            std::thread::sleep(secs(2));
            c.wire.carrier(old, true);
        },
        ..Story::default()
    });
}

#[test]
fn redis_stopped() {
    tell(&Story {
        name: "Redis SIGSTOP",
        fault: &|c, old| assert!(c.host(old).redis().signal(Signal::SIGSTOP)),
        ..Story::default()
    });
}

#[test]
fn agent_stopped() {
    tell(&Story {
        name: "agent SIGSTOP",
        two_holders: true,
        fault: &|c, old| assert!(c.host(old).agent().freeze()),
        repair: &|c, old| {
            std::thread::sleep(secs(3));
            assert!(!c.vip_holders().contains(&old), "the kernel did not take the address away");
            assert!(c.host(old).agent().thaw());
        },
        ..Story::default()
    });
}

#[test]
fn switchover() {
    tell(&Story {
        name: "switchover",
        lossless: true,
        fault: &|c, old| {
            let output = c.mainstay(old, &["switchover"]);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        },
        ..Story::default()
    });
}

#[test]
fn agent_asked_to_stop_hands_over() {
    tell(&Story {
        name: "SIGTERM of the primary's agent",
        fault: &|c, old| assert!(c.host(old).agent().stop(secs(10))),
        repair: &|c, old| c.host(old).agent().release(),
        ..Story::default()
    });
}

/// A switchover loses nothing, also under pipelined load on 200 MB of data. With `LAB_RUNS=10` or more, and `LAB_BIN`, the
/// load is the one that is to be borne.
#[test]
fn switchover_under_load_loses_nothing() {
    in_lab(|| {
        let c = Cluster::start(Options::new(3));
        let first = c.wait_steady(secs(30));
        c.preload(first, 200);
        let held = c.host(first).info().expect("INFO").get("used_memory").and_then(|n| n.parse().ok()).unwrap_or(0_u64);
        assert!(held >= 200 << 20, "{held} bytes");
        let bound = if measured() { RATE_MEASURED } else { RATE };
        let (mut gaps, mut rates) = (Vec::new(), Vec::new());
        for _ in 0..runs().max(2) {
            let old = c.wait_healthy(secs(40));
            let load = c.load().with(c.write_vip(crate::writer::WriterOptions::bulk()));
            let (begun, sleeping) = (load.so_far().acked(), Instant::now());
            std::thread::sleep(secs(1));
            let rate = (load.so_far().acked() - begun) as f64 / sleeping.elapsed().as_secs_f64();
            assert!(rate >= bound, "{rate:.0} writes/s are no load");
            rates.push(rate);
            let cut = Instant::now();
            let output = c.mainstay(old, &["switchover"]);
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let new = c.wait_new_primary(old, BOUND);
            std::thread::sleep(ms(500));
            let served = Instant::now();
            let history = load.stop();
            assert!(history.two_servers().is_empty(), "{:#?}", history.two_servers());
            let lost = c.lost(&history, new);
            assert!(lost.is_empty(), "{} acknowledged writes lost, first {:?}", lost.len(), lost.first());
            gaps.push(vip(&history).gap(cut..served));
            println!("{rate:.0} writes/s; {} gap {:?}", said.trim(), gaps.last());
        }
        gaps.sort();
        println!(
            "FIGURE switchover under load: gap median {:?} max {:?} over {} runs; at least {:.0} writes/s on {} MiB, lost 0",
            median(&gaps),
            gaps.last().copied().unwrap_or_default(),
            gaps.len(),
            rates.iter().copied().fold(f64::INFINITY, f64::min),
            held >> 20,
        );
    });
}
