//! The simulation: seeded runs of the real core in a modelled world (see `world.rs`), with every safety rule checked
//! after every event and liveness after the faults end.
//!
//! `MAINSTAY_SIM_SEEDS=n` sets how many seeds a batch runs, `MAINSTAY_SIM_SEED=x` replays one and prints its trace.
//! A failing seed prints the command that replays it.

#![allow(unreachable_pub, missing_docs, reason = "a test target has no public interface")]

#[macro_use]
mod world;
mod agent;
mod clients;
mod faults;
mod invariants;
mod mutation;
mod net;
mod raft;
mod redis;
mod replication;
mod rng;
mod tasks;
mod trace;

use faults::Plan;
use invariants::Violation;
use mainstay::cluster::Durability;
use mutation::Mutation;
use rng::Rng;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use world::{Covered, Ev, HANG_AFTER, LEASE, MS, Ns, Shape, World};

/// How long a healed cluster may take: the bound of the design, and the time instances take to start and synchronise.
fn settling() -> Ns {
    let bound = LEASE * 5 + HANG_AFTER;
    u64::try_from(bound.as_nanos()).unwrap_or(0) + 3000 * MS
}

fn shape(seed: u64) -> Shape {
    let quorum = Rng::new(seed ^ 0x5eed).permille(400);
    let (nodes, members) = match seed % 3 {
        0 => (3, 3),
        1 => (3, 2),
        _ => (5, 5),
    };
    let durability = if quorum && members > 2 { Durability::Quorum } else { Durability::Available };
    Shape { nodes, members, durability }
}

/// One run: grows up, suffers, heals, and must settle.
fn run(seed: u64, mutation: Option<Mutation>, tracing: bool) -> (World, Option<Violation>) {
    let shape = shape(seed);
    let mut world = World::new(seed, shape, mutation, tracing);
    let calm = 3000 * MS;
    world.run_until(calm);
    let suffering = world.rng.between(4_000, 16_000) * MS;
    world.plan = Some(Plan { end: calm + suffering, pause: world.rng.between(200, 2500) * MS });
    world.at(0, Ev::Fault);
    world.at(suffering, Ev::Heal);
    world.run_until(calm + suffering);
    if mutation.is_none() {
        settle(&mut world);
    }
    let violation = world.violation.take();
    (world, violation)
}

/// Liveness: within the bound, with an operator's help only where the design asks for one.
fn settle(world: &mut World) {
    let mut end = world.now + settling();
    let mut helped = 0;
    let mut last = Ok(());
    while world.now < end && world.violation.is_none() {
        world.run_until(world.now + 100 * MS);
        last = world.check_settled();
        if last.is_ok() {
            return;
        }
        if world.stopping() {
            end = world.now + settling();
        }
        if helped < 3 && world.now > end - settling() / 2 && world.needs_operator() {
            world.force();
            helped += 1;
            end = world.now + settling();
        }
    }
    if let Err(why) = last {
        world.violate("settles", why);
    }
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn guarded(seed: u64, mutation: Option<Mutation>, tracing: bool) -> (Option<World>, Option<Violation>) {
    match catch_unwind(AssertUnwindSafe(|| run(seed, mutation, tracing))) {
        Ok((world, violation)) => (Some(world), violation),
        Err(_) => (None, Some(Violation { name: "panics", text: "see above".to_owned() })),
    }
}

fn explain(seed: u64, violation: &Violation, lines: usize) -> String {
    let (world, _) = guarded(seed, None, true);
    let trace = world.map(|world| world.trace).unwrap_or_default();
    let tail: Vec<String> = trace.iter().skip(trace.len().saturating_sub(lines)).cloned().collect();
    format!(
        "seed {seed} breaks `{}`: {}\n{}\nreplay: MAINSTAY_SIM_SEED={seed} cargo nextest run --test sim --no-capture seeds_hold",
        violation.name,
        violation.text,
        tail.join("\n")
    )
}

/// Runs seeds on every processor; the first failure wins.
fn batch(seeds: u64, one: impl Fn(u64) -> Option<String> + Sync) -> Option<String> {
    let next = AtomicU64::new(0);
    let failed: Mutex<Option<(u64, String)>> = Mutex::new(None);
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let stop = failed.lock().unwrap_or_else(PoisonError::into_inner).is_some();
                    if seed >= seeds || stop {
                        return;
                    }
                    if let Some(text) = one(seed) {
                        let mut slot = failed.lock().unwrap_or_else(PoisonError::into_inner);
                        if slot.as_ref().is_none_or(|(known, _)| *known > seed) {
                            *slot = Some((seed, text));
                        }
                    }
                }
            });
        }
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map(|(_, text)| text)
}

#[test]
fn seeds_hold() {
    if let Some(seed) = setting("MAINSTAY_SIM_SEED") {
        let (world, violation) = guarded(seed, None, true);
        let lines = setting("MAINSTAY_SIM_LINES").unwrap_or(4000);
        for line in world.iter().flat_map(|world| {
            let skip = world.trace.len().saturating_sub(usize::try_from(lines).unwrap_or(usize::MAX));
            world.trace.iter().skip(skip)
        }) {
            println!("{line}");
        }
        assert!(violation.is_none(), "seed {seed}: {violation:?}");
        return;
    }
    let seeds = setting("MAINSTAY_SIM_SEEDS").unwrap_or(150);
    let from = setting("MAINSTAY_SIM_FROM").unwrap_or(0);
    let total: Mutex<Vec<Covered>> = Mutex::new(Vec::new());
    let failure = batch(seeds, |seed| {
        let (world, violation) = guarded(from + seed, None, false);
        if let Some(world) = world {
            total.lock().unwrap_or_else(PoisonError::into_inner).push(world.covered);
        }
        violation.map(|violation| explain(from + seed, &violation, 80))
    });
    if let Some(text) = failure {
        panic!("{text}");
    }
    let all = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    let sum = |of: fn(&Covered) -> u64| all.iter().map(of).sum::<u64>();
    println!(
        "{seeds} seeds, {} events: {} failovers, {} switchovers",
        sum(|c| c.events),
        sum(|c| c.failovers),
        sum(|c| c.switchovers)
    );
    println!(
        "kept {}, best {}, cold {}, forced {}",
        sum(|c| c.kept),
        sum(|c| c.best_reached),
        sum(|c| c.cold),
        sum(|c| c.forced)
    );
    println!(
        "fences {}, rejoins {}, carried on {}, full syncs {}",
        sum(|c| c.fences),
        sum(|c| c.rejoins),
        sum(|c| c.carried_on),
        sum(|c| c.full_syncs)
    );
    println!("waits {}, plain {}, kills {}", sum(|c| c.waits), sum(|c| c.plain), sum(|c| c.kills));
    if seeds >= 50 {
        assert!(sum(|c| c.failovers) > seeds / 2, "too few failovers");
        assert!(sum(|c| c.switchovers) > seeds / 10, "too few switchovers");
        assert!(sum(|c| c.fences) > seeds / 2, "too few fences");
        assert!(sum(|c| c.rejoins) > seeds / 2, "too few rejoins");
        assert!(sum(|c| c.carried_on) > seeds / 20, "too few agents restarted within their lease");
        assert!(sum(|c| c.kept) > seeds / 4, "too few promotions with the guarantee");
        assert!(sum(|c| c.waits) > seeds * 20, "too few writes acknowledged by WAIT");
    }
}

/// The same seed gives the same run: without it no failure could be replayed.
#[test]
fn a_seed_replays_exactly() {
    let (first, _) = run(7, None, true);
    let (second, _) = run(7, None, true);
    assert_eq!(first.trace, second.trace);
}

/// Each broken rule is seen, and under the name it should have.
#[test]
fn mutations_are_caught() {
    let seeds = setting("MAINSTAY_SIM_SEEDS").unwrap_or(400);
    let mut missed: Vec<String> = Vec::new();
    for (mutation, names) in Mutation::LIST {
        let caught = batch(seeds, |seed| {
            let (_, violation) = guarded(seed, Some(mutation), false);
            violation.filter(|found| names.contains(&found.name)).map(|found| format!("seed {seed}: {found:?}"))
        });
        println!("{mutation:?}: {caught:?}");
        missed.extend(caught.is_none().then(|| format!("{mutation:?} is not caught by {names:?} in {seeds} seeds")));
    }
    assert!(missed.is_empty(), "{missed:?}");
}
