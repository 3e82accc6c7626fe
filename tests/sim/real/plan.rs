//! The sequences: what is done to three instances, one step after the other.

use crate::rng::Rng;

/// The instances of a sequence.
pub const INSTANCES: usize = 3;
/// A burst of writes leaves every backlog behind.
pub const BURST: usize = 64;
/// No more writes than this between two bursts: any backlog holds them.
const FEW: usize = 20;

/// How an instance keeps its data over a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// With `SAVE`, or `SHUTDOWN`, and what a full resynchronisation leaves.
    Rdb,
    /// Every write.
    Aof,
}

/// A posture command, as mainstay gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Read-only, replica of nowhere.
    Seal,
    /// The same, writes no longer paused, clients' and replicas' connections closed.
    Fence,
    /// `REPLICAOF` another.
    Follow(usize),
    /// `min-replicas-to-write`, `REPLICAOF NO ONE`.
    Serve(u32),
    /// `min-replicas-to-write`.
    Tune(u32),
}

/// What ends or meets a full resynchronisation half way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// A command for the replica.
    Replica(Order),
    /// A command for its primary.
    Primary(Order),
    /// The replica dies.
    KillReplica,
    /// The primary dies.
    KillPrimary,
    /// The primary closes the connection.
    Link,
}

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// So many writes, one after the other, and `WAIT 1` for the last.
    Write {
        at: usize,
        count: usize,
        wait: bool,
    },
    /// A posture command.
    Order(usize, Order),
    /// `SAVE`
    Save(usize),
    /// `kill -9`
    Kill(usize),
    /// `SHUTDOWN SAVE`
    Shutdown(usize),
    /// Born sealed, with or without what is on its disk.
    Restart {
        at: usize,
        empty: bool,
    },
    /// The same, and an order and a write while it loads.
    Load(usize, Order),
    /// SIGSTOP, and SIGCONT.
    Hang(usize),
    Resume(usize),
    /// `CLIENT KILL TYPE replica`
    CutLinks(usize),
    /// `CLIENT PAUSE ... WRITE`
    Pause(usize),
    Unpause(usize),
    /// `at` follows `to`, and when it is being synchronised in full comes the cut.
    CutSync {
        at: usize,
        to: usize,
        /// It comes when the data are being loaded, not on their way.
        load: bool,
        cut: Cut,
    },
}

/// One sequence.
#[derive(Debug, Clone)]
pub struct Plan {
    pub keep: [Keep; INSTANCES],
    pub ops: Vec<Op>,
}

/// The sequence of a seed: a group that grows up, then anything.
pub fn plan(seed: u64) -> Plan {
    let mut rng = Rng::new(seed ^ 0x4ea1);
    let keep = std::array::from_fn(|_| if rng.permille(700) { Keep::Rdb } else { Keep::Aof });
    let chained = rng.permille(300);
    let mut ops = vec![
        Op::Order(0, Order::Serve(0)),
        Op::Order(1, Order::Follow(0)),
        Op::Order(2, Order::Follow(usize::from(chained))),
        Op::Write { at: 0, count: rng.index(3) + 1, wait: true },
    ];
    if rng.permille(300) {
        // An instance that has never had a history of its own.
        ops.swap(0, 1);
        ops.insert(1, Op::Write { at: 0, count: 2, wait: false });
    }
    let mut few = 4;
    if matches!(seed % 8, 3..=4) || rng.permille(300) {
        // Enough for a restart to take its time.
        ops.extend([Op::Write { at: 0, count: BURST, wait: false }, Op::Save(1), Op::Save(rng.index(INSTANCES))]);
        few = 0;
    }
    theme(seed, &mut rng, &mut ops);
    for _ in 0..10 {
        let op = any(&mut rng, &mut few);
        if let Op::CutSync { at, .. } = op
            && rng.permille(700)
        {
            // No kin of anybody: it will be synchronised in full.
            ops.extend([Op::Kill(at), Op::Restart { at, empty: true }]);
        }
        ops.push(op);
        // What has died or hangs is looked after soon, or little would happen.
        match op {
            Op::Kill(at) | Op::Shutdown(at) if rng.permille(700) => ops.push(revive(&mut rng, at)),
            Op::Hang(at) => {
                for _ in 0..rng.index(3) {
                    ops.push(meanwhile(&mut rng, at, &mut few));
                }
                ops.push(Op::Resume(at));
            }
            Op::CutSync { at, cut: Cut::KillReplica, .. } => ops.push(revive(&mut rng, at)),
            Op::CutSync { to, cut: Cut::KillPrimary, .. } => ops.push(revive(&mut rng, to)),
            _ => {}
        }
    }
    Plan { keep, ops }
}

/// What chance seldom brings, while it is known who is primary.
fn theme(seed: u64, rng: &mut Rng, ops: &mut Vec<Op>) {
    let write = |wait| Op::Write { at: 0, count: 1, wait };
    match seed % 8 {
        0 => ops.extend([Op::Pause(0), write(false), Op::Order(0, order(rng, 0)), Op::Unpause(0)]),
        1 => ops.extend([Op::Hang(2), Op::Order(2, order(rng, 2)), write(false), Op::Resume(2)]),
        2 => {
            ops.extend([1, 2].map(|at| Op::Order(at, Order::Seal)));
            ops.extend([write(true), Op::Order(0, Order::Tune(1)), write(false)]);
        }
        3 => ops.extend([Op::Kill(1), Op::Load(1, order(rng, 1))]),
        4 => {
            let cut = cut(rng, 2, 0);
            ops.extend([Op::Kill(2), Op::Restart { at: 2, empty: true }]);
            ops.push(Op::CutSync { at: 2, to: 0, load: seed % 16 == 4, cut });
        }
        _ => {}
    }
}

/// While an instance hangs: no more than it reads at once when it goes on.
fn meanwhile(rng: &mut Rng, at: usize, few: &mut usize) -> Op {
    let before = *few;
    match any(rng, few) {
        Op::Write { count: BURST, .. } => {
            *few = before;
            Op::Order(at, order(rng, at))
        }
        Op::Write { .. } | Op::Order(..) if rng.permille(400) => Op::Order(at, order(rng, at)),
        other => other,
    }
}

fn revive(rng: &mut Rng, at: usize) -> Op {
    if rng.permille(250) { Op::Load(at, order(rng, at)) } else { Op::Restart { at, empty: rng.permille(250) } }
}

fn other(rng: &mut Rng, at: usize) -> usize {
    (at + 1 + rng.index(INSTANCES - 1)) % INSTANCES
}

fn order(rng: &mut Rng, at: usize) -> Order {
    match rng.below(12) {
        0..=1 => Order::Seal,
        2 => Order::Fence,
        3..=7 => Order::Follow(other(rng, at)),
        8..=10 => Order::Serve(u32::try_from(rng.below(5) / 2).unwrap_or(0)),
        _ => Order::Tune(u32::try_from(rng.below(3)).unwrap_or(0)),
    }
}

fn cut(rng: &mut Rng, at: usize, to: usize) -> Cut {
    match rng.below(6) {
        0..=1 => Cut::Replica(order(rng, at)),
        2 => Cut::Primary(order(rng, to)),
        3 => Cut::KillReplica,
        4 => Cut::KillPrimary,
        _ => Cut::Link,
    }
}

fn any(rng: &mut Rng, few: &mut usize) -> Op {
    let at = rng.index(INSTANCES);
    match rng.below(40) {
        0..=8 => {
            let count = rng.index(3) + 1;
            if *few + count > FEW || rng.permille(150) {
                *few = 0;
                return Op::Write { at, count: BURST, wait: false };
            }
            *few += count;
            Op::Write { at, count, wait: rng.permille(400) }
        }
        9..=22 => Op::Order(at, order(rng, at)),
        23..=24 => Op::Save(at),
        25..=26 => Op::Kill(at),
        27 => Op::Shutdown(at),
        28..=30 => revive(rng, at),
        31 => Op::Hang(at),
        32..=33 => Op::CutLinks(at),
        34 => Op::Pause(at),
        35 => Op::Unpause(at),
        _ => {
            let to = other(rng, at);
            Op::CutSync { at, to, load: rng.permille(500), cut: cut(rng, at, to) }
        }
    }
}
