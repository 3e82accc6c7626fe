//! `kill -9` in mid-write: whatever was acknowledged is there, and nothing that was never asked for.

use super::model::{Dice, Model, Step, Writer};
use super::{start, told, told_dir};
use mainstay::store::Store;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::time::Duration;

const SEED: &str = "MAINSTAY_TEST_SEED";
const FROM: &str = "MAINSTAY_TEST_FROM";
/// Processes that are written and killed side by side, each on a store of its own.
const LANES: u64 = 4;
/// A store is written anew after so many steps: the model replays them all.
const STEPS: u64 = 1500;

/// Tells the parent, past the test harness's capture.
fn tell(what: &str, value: u64) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n#{what} {value}").unwrap();
    out.flush().unwrap();
}

#[tokio::test]
#[ignore = "the writer that `what_was_acknowledged_survives_kill_9` starts and kills"]
async fn writer() {
    let (seed, from) = (told(SEED).unwrap(), told(FROM).unwrap());
    let store = Store::open(&told_dir(), "edge", "n1").unwrap();
    tell("ready", from);
    Writer::new(store).run(seed, from, from + 20_000, |done| tell("done", done)).await;
}

/// One process's life; the step that it came to, and whether it was killed in full swing.
fn life(dir: &Path, seed: u64, from: u64, dice: &mut Dice) -> (u64, bool) {
    let variables = [(SEED, seed.to_string()), (FROM, from.to_string())];
    let mut child = start("kill::writer", dir, &[], &variables);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut done = from;
    let mut note = |line: &str| {
        if let Some(number) = line.strip_prefix("#done ") {
            done = number.parse().unwrap();
        }
    };
    // One in four is killed while it starts, the rest when it writes.
    let in_full_swing = dice.below(4) > 0;
    if in_full_swing {
        let begun = lines.by_ref().any(|line| {
            note(&line);
            line.starts_with("#done")
        });
        assert!(begun, "the writer ended by itself at step {from} of seed {seed}");
        std::thread::sleep(Duration::from_micros(dice.below(40_000)));
    } else {
        std::thread::sleep(Duration::from_micros(dice.below(15_000)));
    }
    child.kill().unwrap();
    lines.for_each(|line| note(&line));
    child.wait().unwrap();
    (done, in_full_swing)
}

/// Kills `count` writers of one store in full swing, one after the other, and others as they start; how many steps they
/// acknowledged together.
fn lane(seed: u64, count: u64) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut dice = Dice::new(seed, u64::MAX);
    let mut dir = tempfile::tempdir().unwrap();
    let (mut done, mut before, mut total, mut owner) = (0, Model::default(), 0, None);
    let (mut round, mut killed) = (0, 0);
    while killed < count {
        let (acknowledged, in_full_swing) = life(dir.path(), seed, done, &mut dice);
        (round, killed) = (round + 1, killed + u64::from(in_full_swing));
        total += acknowledged - done;
        for number in done..acknowledged {
            before = before.after(&before.step(&mut Dice::new(seed, number)));
        }
        done = acknowledged;
        let under_way = before.step(&mut Dice::new(seed, done));
        runtime.block_on(async {
            let store = Store::open(dir.path(), "edge", "n1").unwrap();
            let incarnation = store.identity().incarnation;
            if done > 0 {
                assert!(owner.is_none_or(|known| known == incarnation), "another store: seed {seed}, round {round}");
                owner = Some(incarnation);
            }
            let found = Model::of(&store).await;
            let fits = before.meanwhile(&under_way).contains(&found);
            assert!(fits, "seed {seed}, round {round}, {done} steps, then {under_way:?}:\n{before:#?}\n{found:#?}");
            store.close().await;
        });
        if done >= STEPS {
            (dir, done, before, owner) = (tempfile::tempdir().unwrap(), 0, Model::default(), None);
        }
    }
    total
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let seed = told(SEED).unwrap_or_else(|| u64::from(std::process::id()));
    let kills = told("MAINSTAY_TEST_KILLS").unwrap_or(200);
    let lanes: Vec<_> =
        (0..LANES).map(|n| std::thread::spawn(move || lane(seed * LANES + n, kills.div_ceil(LANES)))).collect();
    let total: u64 = lanes.into_iter().map(|lane| lane.join().unwrap()).sum();
    println!("seed {seed}: {kills} kills in full swing, {total} steps acknowledged, none lost");
    assert!(total > kills, "the writers hardly wrote");
}

#[test]
fn the_model_reaches_every_step() {
    let (mut seen, mut model) = ([0; 9], Model::default());
    for number in 0..500 {
        let step = model.step(&mut Dice::new(3, number));
        model = model.after(&step);
        let at = match step {
            Step::Append { .. } => 0,
            Step::Truncate { .. } => 1,
            Step::Vote { .. } => 2,
            Step::Apply { .. } => 3,
            Step::Purge { .. } => 4,
            Step::Local { .. } => 5,
            Step::Enrol { .. } => 6,
            Step::Install { .. } => 7,
            Step::Both(..) => 8,
        };
        seen[at] += 1;
    }
    assert!(seen.iter().all(|count| *count > 2), "{seen:?}");
}
