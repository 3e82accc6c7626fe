//! Runs: how a seed makes up a world, what it goes through, and batches of seeds on every processor.

use crate::attack::Attack;
use crate::events::Ev;
use crate::faults::Plan;
use crate::invariants::Violation;
use crate::mutation::Mutation;
use crate::rng::Rng;
use crate::world::{HANG_AFTER, LEASE, MS, Ns, Shape, World};
use mainstay::cluster::{Durability, Epoch};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// What one run is made of.
#[derive(Debug, Clone, Copy, Default)]
pub struct Case {
    pub seed: u64,
    pub mutation: Option<Mutation>,
    pub attack: Option<Attack>,
    /// Whether it must settle at the end.
    pub settles: bool,
}

impl Case {
    /// The sound core under a seed's own faults.
    pub fn sound(seed: u64) -> Self {
        Self { seed, settles: true, ..Self::default() }
    }

    /// The command that replays it.
    pub fn replay(&self) -> String {
        let directed = self.attack.map(|attack| format!("MAINSTAY_SIM_ATTACK={} ", attack.name())).unwrap_or_default();
        let broken = self.mutation.map(|mutation| format!("MAINSTAY_SIM_MUTATION={mutation:?} ")).unwrap_or_default();
        format!(
            "MAINSTAY_SIM_SEED={} {directed}{broken}cargo nextest run --manifest-path tests/sim/Cargo.toml --target-dir target/simulator --no-capture one_seed",
            self.seed
        )
    }
}

/// How long a healed cluster may take until every group has its primary and its VIP: the bound of the design.
fn serving() -> Ns {
    u64::try_from((LEASE * 5 + HANG_AFTER).as_nanos()).unwrap_or(0)
}

/// And until all members follow: the time instances take to start and synchronise besides.
fn settling() -> Ns {
    serving() + 3000 * MS
}

/// Sizes: three nodes, two with a witness, five; joining and leaving; two groups on the same and on different hosts.
fn shape(seed: u64, attack: Option<Attack>) -> Shape {
    let mut rng = Rng::new(seed ^ 0x5eed);
    let quorum = rng.permille(400);
    let all = |n: usize| (0..n).collect::<Vec<usize>>();
    let kind = match attack {
        Some(Attack::DeadReplica | Attack::CutSync) => 1,
        Some(Attack::Joint | Attack::Grow | Attack::Generation | Attack::Strangers) => 3,
        Some(Attack::Flaky | Attack::FreezePair) => 2,
        Some(Attack::Flap | Attack::StopAhead | Attack::LockedOut) => [0, 2][usize::try_from(seed % 2).unwrap_or(0)],
        Some(Attack::Leave | Attack::DeafLeaver | Attack::LeaveAhead) => 0,
        Some(Attack::Ambush(ambush)) => ambush.kind(seed),
        _ => seed % 8,
    };
    let (nodes, first, members) = match kind {
        0 | 6 => (3, 3, vec![all(3)]),
        1 => (3, 3, vec![all(2)]),
        2 | 7 => (5, 5, vec![all(5)]),
        3 => (7, 3, vec![all(7)]),
        4 => (3, 3, vec![all(3), all(3)]),
        _ => (6, 5, vec![all(3), vec![2, 3, 4, 5]]),
    };
    let asked = match attack {
        Some(Attack::Leave | Attack::DeafLeaver | Attack::LeaveAhead) => Some(true),
        Some(Attack::Flap | Attack::StopAhead | Attack::LockedOut) => Some(false),
        Some(Attack::Ambush(ambush)) => ambush.quorum(),
        _ => None,
    };
    let quorum = asked.unwrap_or(quorum);
    let quorum = quorum && members.iter().all(|members| members.len() > 2);
    let durability = if quorum { Durability::Quorum } else { Durability::Available };
    // Most clocks differ as NTP slews them; some as virtual machines' clocks do.
    let drift = match seed % 32 {
        // Two of them by up to a sixth, less than which is assumed.
        6 | 30 => 83_000,
        rest if rest % 4 == 2 => 30_000,
        _ => 500,
    };
    let start = match attack {
        Some(Attack::Adopt) => crate::starts::Start::Adopt,
        Some(Attack::TwoSets) => crate::starts::Start::TwoSets,
        Some(_) => crate::starts::Start::Empty,
        None => crate::starts::draw(seed),
    };
    Shape { nodes, first, members, durability, drift, start }
}

/// The world of a case.
pub fn world(case: Case, tracing: bool) -> World {
    World::new(case.seed, &shape(case.seed, case.attack), case.mutation, tracing)
}

/// One run: grows up, suffers, heals, and must settle.
pub fn run(case: Case, tracing: bool) -> (World, Option<Violation>) {
    let mut world = world(case, tracing);
    let calm = crate::starts::CALM;
    world.run_until(calm);
    world.unkind.on = case.attack.is_none();
    let suffering = world.rng.between(4_000, 16_000) * MS;
    let pause = world.rng.between(200, 2500) * MS;
    world.plan = Some(Plan { end: calm + suffering, pause, attack: case.attack });
    world.at(0, Ev::Fault);
    world.at(suffering, Ev::Heal);
    world.run_until(calm + suffering);
    if case.settles {
        settle(&mut world);
    }
    let violation = world.violation.take();
    (world, violation)
}

/// Liveness: within the bound, with an operator's help only where the design asks for one.
pub fn settle(world: &mut World) {
    // The longest pause, counted anew by a leader that has just begun.
    let pause = if world.paused() { 4_500 * MS } else { 0 };
    let mut end = world.now + settling() + pause;
    let mut served_by = Some(world.now + serving() + pause);
    let mut helped = 0;
    let mut last = Ok(());
    let mut patient = false;
    // What an operator has begun takes its time, and not for ever.
    let limit = world.now + 180_000 * MS;
    while world.now < end.min(limit) && world.violation.is_none() {
        world.run_until(world.now + 100 * MS);
        world.resume(true);
        last = world.check_settled();
        if last.is_ok() && world.untold().is_none() {
            return stay(world);
        }
        served_by = served_by.filter(|_| world.check_served().is_err());
        if let Some(bound) = served_by {
            let waits = world.stopping() || world.founding_on() || world.forcing() || world.undecided();
            if waits || !world.lost.is_empty() || world.needs_operator().is_some() {
                served_by = Some(world.now + serving());
            } else if world.now > bound {
                let why = world.check_served().err().unwrap_or_default();
                world.violate("settles", format!("not served in time: {why}"));
            }
        }
        if world.stopping() || world.founding_on() || world.forcing() || world.undecided() {
            end = world.now + settling();
        } else if !world.lost.is_empty() && !patient {
            // Who is waited for in vain.
            patient = true;
            end += 31_000 * MS;
        }
        if let Some(group) = world.needs_operator().filter(|_| helped < 4 && world.now > end - settling() / 2) {
            world.force(group);
            helped += 1;
            end = world.now + settling();
        }
    }
    match (last, world.untold()) {
        (Err(why), _) => world.violate("settles", why),
        (Ok(()), Some(why)) => world.violate("loss-in-event", why),
        (Ok(()), None) => {}
    }
}

/// It stays so: nobody gives the place up, and takes it again, for ever.
fn stay(world: &mut World) {
    let epochs = |world: &World| -> Vec<Epoch> { world.committed().groups.values().map(|group| group.epoch).collect() };
    // What comes late for good to a primary ends its reign whenever it comes later than that.
    if world.net.for_good.iter().any(|lag| *lag > 0) {
        return;
    }
    // What was struck just before the healing may show only now.
    for _ in 0..4 {
        let before = epochs(world);
        world.run_until(world.now + 2_000 * MS);
        if epochs(world) == before || world.violation.is_some() {
            return;
        }
    }
    world.violate("settles", format!("and changes again and again: {:?}", epochs(world)));
}

/// A run whose panic is a violation like others.
pub fn guarded(case: Case, tracing: bool) -> (Option<World>, Option<Violation>) {
    match catch_unwind(AssertUnwindSafe(|| run(case, tracing))) {
        Ok((world, violation)) => (Some(world), violation),
        Err(_) => (None, Some(Violation { name: "panics", text: "see above".to_owned() })),
    }
}

/// A failing case with its trace.
pub fn explain(case: Case, violation: &Violation, lines: usize) -> String {
    let (world, _) = guarded(case, true);
    let trace = world.map(|world| world.trace).unwrap_or_default();
    let tail: Vec<String> = trace.iter().skip(trace.len().saturating_sub(lines)).cloned().collect();
    let (seed, name, text) = (case.seed, violation.name, &violation.text);
    format!("seed {seed} breaks `{name}`: {text}\n{}\nreplay: {}", tail.join("\n"), case.replay())
}

/// Runs seeds on every processor while `more` says so; the first failure wins. Also how many were run.
pub fn batch(more: impl Fn(u64) -> bool + Sync, one: impl Fn(u64) -> Option<String> + Sync) -> (u64, Option<String>) {
    let next = AtomicU64::new(0);
    let failed: Mutex<Option<(u64, String)>> = Mutex::new(None);
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let worker = || {
        loop {
            let stop = failed.lock().unwrap_or_else(PoisonError::into_inner).is_some();
            if stop || !more(next.load(Ordering::Relaxed)) {
                return;
            }
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if let Some(text) = one(seed) {
                let mut slot = failed.lock().unwrap_or_else(PoisonError::into_inner);
                if slot.as_ref().is_none_or(|(known, _)| *known > seed) {
                    *slot = Some((seed, text));
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(worker);
        }
    });
    let failure = failed.into_inner().unwrap_or_else(PoisonError::into_inner).map(|(_, text)| text);
    (next.into_inner(), failure)
}
