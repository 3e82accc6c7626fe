//! The model of Redis held to the real one: the same random sequences run on `redis.rs` and `replication.rs` and on real
//! `redis-server` processes, and after every step both must say the same.
//!
//! Compared, per instance: role and upstream, link, kinship of both replication ids (which are the same, now and over
//! time; never their values), the offset and where the second id ends (in the model's units, see `look.rs`), whether
//! there is a backlog, who is attached, how many synchronisations it served in full and in part, the class of the
//! answer to every command, whether `WAIT` was satisfied, and the data, write by write.
//!
//! `MAINSTAY_SIM_REAL=n` runs n sequences, `MAINSTAY_SIM_REAL_FROM=x` begins at seed x, `MAINSTAY_SIM_REAL_SEED=x`
//! replays one and prints its steps. It fails where there is no `redis-server`: nothing is skipped.

mod both;
mod look;
mod model;
mod plan;
mod server;

use crate::setting;
use both::{run, run_with};
use model::Model;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Sequences at a time: they wait most of the time.
const AT_ONCE: usize = 8;
/// A sequence with a burst that no backlog holds.
const FLAWED: u64 = 16;
/// Sequences that the test command runs.
const SEQUENCES: u64 = 24;

/// The comparison can fail: on a model whose backlogs hold everything, where an instance has to be synchronised in full.
#[test]
fn a_flaw_of_the_model_is_seen() {
    let mut model = Model::new(FLAWED, plan::plan(FLAWED).keep);
    for inst in &mut model.world.insts {
        inst.redis.backlog = usize::MAX;
    }
    let mismatch = run_with(&mut model, FLAWED, false).mismatch.unwrap_or_default();
    assert!(mismatch.contains("served 0 full, 1 partial"), "the model continues: {mismatch}");
    assert!(mismatch.contains("served 1 full, 0 partial"), "the real one does not: {mismatch}");
}

#[test]
fn redis_is_as_the_model_has_it() {
    if let Some(seed) = setting("MAINSTAY_SIM_REAL_SEED") {
        let run = run(seed, true);
        assert!(run.mismatch.is_none(), "{}", run.mismatch.unwrap_or_default());
        return;
    }
    let (from, count) =
        (setting("MAINSTAY_SIM_REAL_FROM").unwrap_or(0), setting("MAINSTAY_SIM_REAL").unwrap_or(SEQUENCES));
    let begun = Instant::now();
    let next = AtomicU64::new(from);
    let found: Mutex<(both::Tally, Vec<String>)> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from + count || found.lock().unwrap_or_else(PoisonError::into_inner).1.len() >= 5 {
                        return;
                    }
                    let run = run(seed, false);
                    let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                    found.0.add(&run.tally);
                    found.1.extend(run.mismatch);
                }
            });
        }
    });
    let (tally, mismatches) = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{count} sequences in {} s\n{tally:#?}", begun.elapsed().as_secs());
    assert!(mismatches.is_empty(), "{}", mismatches.join("\n\n"));
    if count >= SEQUENCES {
        tally.floor();
    }
}
