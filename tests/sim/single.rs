//! One fault on a cluster that is well: what operators count on most.
//!
//! - `one-fault-kept`: every change of primary that comes of it says that all acknowledged writes are kept.
//! - `no-cause`: where the fault is none of the primary's host, there is no change at all.
//! - `one-fault-gap`: how long nobody takes writes has a bound.

use crate::agent::host_of;
use crate::events::{Cure, Ev};
use crate::invariants::Violation;
use crate::runs::{Case, settle};
use crate::world::{HANG_AFTER, LEASE, MS, Ns, World, place};
use mainstay::cluster::{Epoch, Guarantee, NodeId};
use std::collections::BTreeMap;

/// What strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    AgentKilled,
    AgentFrozen,
    HostLost,
    InstanceKilled,
    InstanceHangs,
    Net,
    Slow,
    LeaderChange,
}

const FAULTS: [Fault; 8] = [
    Fault::AgentKilled,
    Fault::AgentFrozen,
    Fault::HostLost,
    Fault::InstanceKilled,
    Fault::InstanceHangs,
    Fault::Net,
    Fault::Slow,
    Fault::LeaderChange,
];

/// Nobody takes writes for so long at most: promises run out, are asked after, sealed and reported; a lost report is waited
/// for. An instance that hangs is given its time first.
fn bound(fault: Fault) -> Ns {
    let lease = u64::try_from(LEASE.as_nanos()).unwrap_or(0);
    let patience = if fault == Fault::InstanceHangs { u64::try_from(HANG_AFTER.as_nanos()).unwrap_or(0) } else { 0 };
    6 * lease + patience
}

/// Whether a fault of that kind on another host than the primary's, or none that a primary feels, may change nothing.
fn harmless(fault: Fault, hosts: &[usize], primary: usize) -> bool {
    match fault {
        Fault::Slow | Fault::LeaderChange => true,
        _ => !hosts.is_empty() && !hosts.contains(&primary),
    }
}

/// The longest time for which nobody took writes, by fault.
pub type Gaps = BTreeMap<Fault, Ns>;

/// One run of it.
pub fn run(case: Case, tracing: bool) -> (World, Option<Violation>, Fault) {
    let mut world = crate::runs::world(case, tracing);
    // Who must not be promoted may hold what is lost without it.
    let groups = world.hosts.iter_mut().flat_map(|host| host.policy.groups.values_mut());
    groups.for_each(|group| group.priority = group.priority.max(100));
    world.run_until(crate::starts::CALM);
    settle(&mut world);
    world.run_until(world.now + 1500 * MS);
    let before: Vec<(Epoch, Option<usize>)> = (0..world.names.len()).map(|group| standing(&world, group)).collect();
    let fault = FAULTS[world.rng.index(FAULTS.len())];
    world.plan = Some(crate::faults::Plan { end: world.now, pause: MS, attack: None });
    world.alone = vec![Alone::default(); world.names.len()];
    let began = world.now;
    let (hosts, only) = strike(&mut world, fault);
    world.run_until(began + 8_000 * MS);
    if world.violation.is_none() {
        world.heal();
        settle(&mut world);
    }
    for (group, (epoch, primary)) in before.iter().enumerate() {
        let elsewhere = only.is_some_and(|only| only != group);
        judge(&mut world, group, *epoch, primary.filter(|primary| elsewhere || harmless(fault, &hosts, *primary)));
        let gap = world.alone[group].longest;
        if gap > bound(fault) {
            world.violate("one-fault-gap", format!("{fault:?}: nobody took writes for {} ms", gap / MS));
        }
    }
    let violation = world.violation.take();
    (world, violation, fault)
}

/// Since when nobody takes writes, and the longest such time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alone {
    since: Option<Ns>,
    pub longest: Ns,
}

impl World {
    /// With every client's step.
    pub fn note_gap(&mut self, group: usize, taken: bool) {
        let now = self.now;
        let Some(alone) = self.alone.get_mut(group) else { return };
        let since = if taken { None } else { Some(alone.since.unwrap_or(now)) };
        alone.longest = alone.longest.max(since.map_or(0, |since| now - since));
        alone.since = since;
    }
}

fn standing(world: &World, group: usize) -> (Epoch, Option<usize>) {
    let found = world.committed().groups.get(&world.names[group]);
    (found.map(|found| found.epoch).unwrap_or_default(), world.primary_host(group))
}

/// Strikes, and says which hosts feel it, none if all do; and, where an instance is struck, of which group alone.
fn strike(world: &mut World, fault: Fault) -> (Vec<usize>, Option<usize>) {
    let group = world.rng.index(world.names.len());
    let primary = world.primary_host(group);
    let joined: Vec<usize> = world.raft.members.iter().copied().collect();
    let any = joined[world.rng.index(joined.len())];
    let host = primary.filter(|_| world.rng.permille(600)).unwrap_or(any);
    match fault {
        Fault::AgentKilled => world.crash_agent(host),
        Fault::AgentFrozen => world.stall(host),
        Fault::HostLost => world.crash_host(host),
        Fault::InstanceKilled => world.kill_instance(place(host, group)),
        Fault::InstanceHangs => world.hang(place(host, group)),
        Fault::Net => return (cut(world, host, &joined), None),
        Fault::Slow => {
            world.unkind.on = world.rng.permille(500);
            world.slow(host);
        }
        Fault::LeaderChange => world.new_leader(any),
    }
    let only = matches!(fault, Fault::InstanceKilled | Fault::InstanceHangs).then_some(group);
    (vec![host], only)
}

fn cut(world: &mut World, host: usize, joined: &[usize]) -> Vec<usize> {
    let others: Vec<usize> = joined.iter().copied().filter(|other| *other != host).collect();
    let other = others[world.rng.index(others.len())];
    let mended = world.rng.between(100, 4000) * MS;
    world.at(mended, Ev::Cure(Cure::Net));
    match world.rng.below(4) {
        0 => world.net.set(host, other, true),
        1 => {
            world.net.set(host, other, true);
            world.net.set(other, host, true);
        }
        2 => {
            world.net.split(&[host]);
            return vec![host];
        }
        _ => {
            world.net.mute(host);
            return vec![host];
        }
    }
    vec![host, other]
}

fn judge(world: &mut World, group: usize, before: Epoch, spared: Option<usize>) {
    let Some(found) = world.committed().groups.get(&world.names[group]) else { return };
    let changes = found.history.iter().filter(|change| change.epoch > before);
    let changes: Vec<(Epoch, NodeId, Guarantee)> =
        changes.map(|change| (change.epoch, change.to, change.guarantee)).collect();
    for (epoch, to, guarantee) in changes {
        if guarantee != Guarantee::Kept {
            let text = format!("epoch {epoch}, n{}: {guarantee:?}", host_of(to) + 1);
            world.violate("one-fault-kept", text);
        }
        if let Some(primary) = spared {
            world.violate("no-cause", format!("epoch {epoch} took the place of n{}", primary + 1));
        }
    }
}
