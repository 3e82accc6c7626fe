//! The simulation: seeded runs of the real core in a modelled world (see `world.rs`), with every safety rule checked
//! after every event and liveness after the faults end.
//!
//! `MAINSTAY_SIM_SEEDS=n` and `MAINSTAY_SIM_SECONDS=s` set how many seeds a batch runs and for how long at least,
//! `MAINSTAY_SIM_FROM=x` where it begins, `MAINSTAY_SIM_ATTACK=x` a directed attack on each;
//! `MAINSTAY_SIM_SEED=x` replays one and prints its trace, the last `MAINSTAY_SIM_LINES` lines of it. A failing seed prints
//! the command that replays it. Told stories: see `scenario/`. What the model of Redis is worth: see `real/`.

#![allow(unreachable_pub, missing_docs, reason = "a test target has no public interface")]
#![allow(
    clippy::collapsible_match,
    reason = "a guard would leave the arm open and need a second one that does nothing"
)]

#[macro_use]
mod world;
mod agent;
mod ambush;
mod attack;
mod broken;
mod changes;
mod chosen;
#[path = "../ci/mod.rs"]
mod ci;
mod clients;
mod cold;
mod covered;
mod events;
mod faults;
mod force;
mod generation;
mod invariants;
mod leash;
mod leaving;
mod loss;
mod membership;
mod mutation;
mod net;
mod raft;
mod real;
mod redis;
mod replication;
mod rng;
mod runs;
mod scenario;
mod settled;
mod single;
mod starts;
mod tasks;
mod trace;
mod turns;
mod unkind;

use attack::Attack;
use covered::Covered;
use mutation::{Entry, LIST, Mutation};
use runs::{Case, batch, explain, guarded, run};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// `MAINSTAY_SIM_SEED`, with `MAINSTAY_SIM_ATTACK` and `MAINSTAY_SIM_MUTATION` by their names.
#[test]
fn one_seed() {
    let Some(seed) = setting("MAINSTAY_SIM_SEED") else { return };
    let (attack, broken) = (std::env::var("MAINSTAY_SIM_ATTACK").ok(), std::env::var("MAINSTAY_SIM_MUTATION").ok());
    let mut case = Case::sound(seed);
    if let Some(name) = broken {
        let entry = LIST.iter().find(|entry| format!("{:?}", entry.mutation) == name).expect("no such mutation");
        (case.attack, case.mutation) = (entry.attack, Some(entry.mutation));
    }
    if let Some(name) = attack {
        case.attack = Some(attack_named(&name));
    }
    let (world, violation) = guarded(case, true);
    let lines = usize::try_from(setting("MAINSTAY_SIM_LINES").unwrap_or(4000)).unwrap_or(usize::MAX);
    let trace = world.map(|world| world.trace).unwrap_or_default();
    trace.iter().skip(trace.len().saturating_sub(lines)).for_each(|line| println!("{line}"));
    assert!(violation.is_none(), "seed {seed}: {violation:?}");
}

#[test]
fn seeds_hold() {
    let seeds = setting("MAINSTAY_SIM_SEEDS").unwrap_or(60);
    let from = setting("MAINSTAY_SIM_FROM").unwrap_or(0);
    let begun = Instant::now();
    let length = Duration::from_secs(setting("MAINSTAY_SIM_SECONDS").unwrap_or(0));
    let total: Mutex<Covered> = Mutex::new(Covered::default());
    let attack = std::env::var("MAINSTAY_SIM_ATTACK").ok().map(|name| attack_named(&name));
    let (count, failure) = batch(
        |seed| seed < seeds || begun.elapsed() < length,
        |seed| {
            let case = Case { attack, ..Case::sound(from + seed) };
            let (world, violation) = guarded(case, false);
            if let Some(world) = world {
                total.lock().unwrap_or_else(PoisonError::into_inner).add(&world.covered);
            }
            violation.map(|violation| explain(case, &violation, 80))
        },
    );
    if let Some(text) = failure {
        panic!("{text}");
    }
    let all = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{count} seeds in {} s, {} events a second\n{all:#?}", begun.elapsed().as_secs(), rate(&all, begun));
    if count >= 50 && attack.is_none() {
        all.floor(count);
    }
}

/// Every seed that broke something once: `known.txt` says what.
#[test]
fn known_seeds_hold() {
    let text = include_str!("known.txt");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let known: Vec<(Case, &str)> = lines.filter_map(|line| Some((known_case(line)?, line))).collect();
    assert!(known.len() >= 50, "{} of them", known.len());
    for (case, line) in known {
        let (_, violation) = guarded(case, false);
        assert!(
            violation.is_none(),
            "{line}\n{}",
            violation.map(|found| explain(case, &found, 80)).unwrap_or_default()
        );
    }
}

/// `seed` or `seed@attack`, then what was wrong.
fn known_case(line: &str) -> Option<Case> {
    let word = line.split_whitespace().next()?;
    let (seed, attack) = word.split_once('@').map_or((word, None), |(seed, name)| (seed, Some(attack_named(name))));
    Some(Case { attack, ..Case::sound(seed.parse().expect("a seed")) })
}

fn attack_named(name: &str) -> Attack {
    let ambushes = ambush::ALL.iter().map(|ambush| Attack::Ambush(*ambush));
    let mut all = LIST.iter().filter_map(|entry| entry.attack).chain(ambushes);
    all.find(|attack| attack.name() == name).expect("no directed fault of that name")
}

fn rate(all: &Covered, begun: Instant) -> u64 {
    all.events * 1000 / u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX).max(1)
}

/// One fault on a healthy cluster: nothing acknowledged is lost, and what is none of the primary's changes nothing.
/// `MAINSTAY_SIM_SINGLE=n` seeds.
#[test]
fn one_fault_is_borne() {
    let seeds = setting("MAINSTAY_SIM_SINGLE").unwrap_or(300);
    let from = setting("MAINSTAY_SIM_FROM").unwrap_or(0);
    let lines = usize::try_from(setting("MAINSTAY_SIM_LINES").unwrap_or(120)).unwrap_or(usize::MAX);
    let gaps: Mutex<single::Gaps> = Mutex::default();
    let (count, failure) = batch(
        |turn| turn < seeds,
        |turn| {
            let case = Case::sound(from + turn);
            let (world, violation, fault) = single::run(case, false);
            let gap = world.alone.iter().map(|alone| alone.longest).max().unwrap_or(0);
            let mut gaps = gaps.lock().unwrap_or_else(PoisonError::into_inner);
            let known = gaps.entry(fault).or_default();
            *known = gap.max(*known);
            violation.map(|violation| {
                let (world, ..) = single::run(case, true);
                let tail: Vec<String> = world.trace.iter().rev().take(lines).rev().cloned().collect();
                let again = format!("MAINSTAY_SIM_SINGLE=1 MAINSTAY_SIM_FROM={} ... one_fault_is_borne", case.seed);
                format!("{}\none fault, {fault:?}: {violation:?}\nreplay: {again}", tail.join("\n"))
            })
        },
    );
    assert!(failure.is_none(), "{}", failure.unwrap_or_default());
    let gaps = gaps.into_inner().unwrap_or_else(PoisonError::into_inner);
    gaps.iter().for_each(|(fault, gap)| println!("{fault:?}: nobody took writes for {} ms at most", gap / world::MS));
    println!("{count} seeds with one fault each");
}

/// Every directed fault, and every ambush, on the sound core. All but one: the shells forbid a diskless load, and an instance
/// whose data it has thrown away while no agent looked tells nothing of it.
#[test]
fn attacks_hold() {
    let seeds = setting("MAINSTAY_SIM_ATTACK_SEEDS").unwrap_or(20);
    let from = setting("MAINSTAY_SIM_FROM").unwrap_or(0);
    let mut attacks: Vec<Attack> = LIST.iter().filter_map(|entry| entry.attack).collect();
    attacks.extend(ambush::ALL.iter().map(|ambush| Attack::Ambush(*ambush)));
    attacks.sort_by_key(|attack| attack.name());
    attacks.dedup();
    attacks.retain(|attack| *attack != Attack::CutSync);
    assert!(attacks.len() > 40, "{} of them", attacks.len());
    let all = attacks.len() as u64;
    let (_, failure) = batch(
        |turn| turn < seeds * all,
        |turn| {
            let attack = attacks[usize::try_from(turn % all).unwrap_or(0)];
            let case = Case { attack: Some(attack), ..Case::sound(from + turn / all) };
            let (_, violation) = guarded(case, false);
            violation.map(|violation| explain(case, &violation, 80))
        },
    );
    assert!(failure.is_none(), "{}", failure.unwrap_or_default());
}

/// The same seed gives the same run: without it no failure could be replayed.
#[test]
fn a_seed_replays_exactly() {
    let case = Case::sound(7);
    let ((first, _), (second, _)) = (run(case, true), run(case, true));
    assert_eq!(first.trace, second.trace);
}

/// Each of the 22 traces that broke earlier wordings of the rules is a breakage of the list.
#[test]
fn every_trace_is_brought_back() {
    let words = include_str!("mutation.rs").lines().filter_map(|line| line.trim().strip_prefix("///"));
    let numbers = |line: &str| -> Vec<u32> {
        let inner = line.split_once('(').and_then(|(_, rest)| rest.split_once("):"));
        inner.map(|(inner, _)| inner.split(',').filter_map(|n| n.trim().parse().ok()).collect()).unwrap_or_default()
    };
    let found: std::collections::BTreeSet<u32> = words.flat_map(numbers).collect();
    assert_eq!(found, (1..=22).collect());
}

/// Each broken rule is seen, under the name it should have, on a seed that the sound core passes.
#[test]
fn mutations_are_caught() {
    let seeds = setting("MAINSTAY_SIM_MUTATION_SEEDS").unwrap_or(2000);
    let only = std::env::var("MAINSTAY_SIM_MUTATION").ok();
    let found: Mutex<Vec<(usize, String)>> = Mutex::new(Vec::new());
    let missed: Mutex<Vec<Mutation>> = Mutex::new(Vec::new());
    let (_, _) = batch(
        |index| index < LIST.len() as u64,
        |index| {
            let index = usize::try_from(index).unwrap_or(0);
            let entry = &LIST[index];
            if only.as_ref().is_some_and(|only| *only != format!("{:?}", entry.mutation)) {
                return None;
            }
            match catch(entry, seeds) {
                Some(line) => {
                    println!("{line}");
                    found.lock().unwrap_or_else(PoisonError::into_inner).push((index, line));
                }
                None => {
                    println!("{:?}: NOT CAUGHT", entry.mutation);
                    missed.lock().unwrap_or_else(PoisonError::into_inner).push(entry.mutation);
                }
            }
            None
        },
    );
    let mut lines = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    lines.sort();
    println!("{:<24} {:<24} seed", "mutation", "invariant");
    lines.iter().for_each(|(_, line)| println!("{line}"));
    let missed = missed.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert!(missed.is_empty(), "not caught in {seeds} seeds: {missed:?}");
}

/// The first seed, from the known one on, on which the breakage is caught and the sound core is not.
fn catch(entry: &Entry, seeds: u64) -> Option<String> {
    let settles = entry.caught_by.iter().any(|name| matches!(*name, "settles" | "loss-in-event"));
    let known = (entry.seed..=entry.seed).chain(0..seeds);
    for seed in known {
        let case = Case { seed, mutation: Some(entry.mutation), attack: entry.attack, settles };
        let (_, violation) = guarded(case, false);
        let Some(violation) = violation.filter(|violation| entry.caught_by.contains(&violation.name)) else { continue };
        let sound = Case { mutation: None, ..case };
        if let (_, Some(also)) = guarded(sound, false) {
            println!("{:?}: the sound core breaks {} too on seed {seed}: {}", entry.mutation, also.name, also.text);
            continue;
        }
        return Some(format!("{:<24} {:<24} {seed}", format!("{:?}", entry.mutation), violation.name));
    }
    None
}
