//! What must hold after every event, each with the name a failing seed prints.
//!
//! - `two-servers`: two leases never overlap in true time, a frozen or dead agent's included; two instances never accept
//!   writes together, but for one whose agent is frozen or dead (S8), and that one not beyond its leash.
//! - `wait-kept`: a `Kept` promotion holds every write that `WAIT W-1` acknowledged (S5).
//! - `serving-is-promoted`: only the very process that was promoted becomes primary (S6).
//! - `epoch-monotonic`, `applied-monotonic`: neither goes back on any node.
//! - `seal-durable`, `promise-durable`, `surrender-marked`, `promise-after-seal`: nothing is said that is not on disk,
//!   nothing is promised below a seal (S2).

use crate::agent::{host_of, id};
use crate::world::{LEASE, MS, Ns, World};
use mainstay::cluster::{Epoch, GroupCommand, Guarantee, NodeId, RunId, State, Why};
use mainstay::view::{Item, Stamp};
use std::collections::{BTreeSet, HashSet};

/// How long an instance whose agent is frozen and that is cut off may go on serving plain clients (S8).
const LEASH: Ns = 4_000 * MS;

/// A broken invariant.
#[derive(Debug, Clone)]
pub struct Violation {
    /// Its name.
    pub name: &'static str,
    /// What happened.
    pub text: String,
}

/// What the invariants remember.
#[derive(Debug)]
pub struct Books {
    acknowledged: Vec<u64>,
    promoted: BTreeSet<(usize, RunId)>,
    guarantee: Guarantee,
    epochs: Vec<Epoch>,
    seals: Vec<Epoch>,
    together_since: Option<Ns>,
}

impl Books {
    /// Empty.
    pub fn new(n: usize) -> Self {
        Self {
            acknowledged: Vec::new(),
            promoted: BTreeSet::new(),
            guarantee: Guarantee::Fresh,
            epochs: vec![Epoch(0); n],
            seals: vec![Epoch(0); n],
            together_since: None,
        }
    }
}

impl World {
    /// The first violation ends the run.
    pub fn violate(&mut self, name: &'static str, text: String) {
        if self.violation.is_none() {
            tr!(self, "VIOLATION {name}: {text}");
            self.violation = Some(Violation { name, text });
        }
    }

    /// After every event.
    pub fn check(&mut self) {
        let holders: Vec<usize> = (0..self.hosts.len()).filter(|host| self.leased(*host)).collect();
        if holders.len() > 1 {
            let text = holders.iter().map(|host| format!("n{}", host + 1)).collect::<Vec<_>>().join(" and ");
            self.violate("two-servers", format!("{text} hold a lease at once"));
        }
        for host in 0..self.hosts.len() {
            let Some(agent) = &self.hosts[host].agent else { continue };
            let epoch = agent.view.state.groups.get(&self.group).map(|group| group.epoch).unwrap_or_default();
            if epoch < self.books.epochs[host] {
                self.violate("epoch-monotonic", format!("n{} went back to epoch {epoch}", host + 1));
            }
            self.books.epochs[host] = self.books.epochs[host].max(epoch);
        }
    }

    /// Whether the host's lease runs at this moment, by its own knowledge and clock.
    fn leased(&self, host: usize) -> bool {
        let own = &self.hosts[host];
        let clock = own.clock(self.now);
        match (&own.agent, &own.stamp) {
            (Some(agent), _) => agent.view.lease_end(&self.group).is_some_and(|end| end > clock),
            (None, Some(Stamp::Leased { until, .. })) => *until > clock,
            _ => false,
        }
    }

    fn excused(&self, host: usize) -> bool {
        self.hosts[host].stalled || self.now < self.hosts[host].excused_until
    }

    /// With every client's step: who would accept a write now.
    pub fn check_accepting(&mut self) {
        let accepting: Vec<usize> = (0..self.hosts.len()).filter(|h| self.hosts[*h].redis.accepts(self.now)).collect();
        for host in &accepting {
            let run_id = self.hosts[*host].redis.run_id();
            if !self.books.promoted.contains(&(*host, run_id)) {
                self.violate("serving-is-promoted", format!("n{} accepts writes and was never promoted", host + 1));
            }
        }
        let answering = accepting.iter().filter(|host| !self.excused(**host)).count();
        if answering > 1 {
            self.violate("two-servers", format!("{accepting:?} (from 0) accept writes together"));
        }
        if accepting.len() < 2 {
            self.books.together_since = None;
            return;
        }
        let since = *self.books.together_since.get_or_insert(self.now);
        let helped = accepting.iter().any(|host| {
            let replicas = &self.hosts[*host].redis.replicas;
            self.excused(*host) && replicas.keys().any(|replica| self.excused(*replica))
        });
        if self.now - since > LEASH && !helped {
            self.violate("two-servers", format!("{accepting:?} (from 0) accept writes together beyond the leash"));
        }
    }

    /// An instance became primary.
    pub fn check_promotion(&mut self, host: usize) {
        let run_id = self.hosts[host].redis.run_id();
        if !self.books.promoted.contains(&(host, run_id)) {
            self.violate("serving-is-promoted", format!("n{} became primary and was never promoted", host + 1));
        }
    }

    /// A command of the group was committed.
    pub fn check_change(&mut self, before: &State, after: &State, change: &GroupCommand) {
        let GroupCommand::Promote { successor, run_id, guarantee, .. } = change else { return };
        let (Some(old), Some(new)) = (before.groups.get(&self.group), after.groups.get(&self.group)) else { return };
        if new.epoch <= old.epoch {
            self.violate("epoch-monotonic", format!("promotion from epoch {} to {}", old.epoch, new.epoch));
        }
        let why = new.history.back().map(|change| change.why);
        self.cover(old.primary_node(), *successor, why, *guarantee);
        let host = host_of(*successor);
        self.books.promoted.insert((host, run_id.clone()));
        self.books.guarantee = *guarantee;
        let redis = &self.hosts[host].redis;
        if redis.run_id() != *run_id {
            return;
        }
        let data: HashSet<u64> = redis.data.iter().copied().collect();
        let lost: Vec<u64> = self.books.acknowledged.iter().copied().filter(|write| !data.contains(write)).collect();
        if *guarantee == Guarantee::Kept && !lost.is_empty() {
            let text = format!(
                "n{} promoted for epoch {} lacks {} writes acknowledged by WAIT, the first is {}",
                host + 1,
                new.epoch,
                lost.len(),
                lost[0]
            );
            self.violate("wait-kept", text);
        }
        self.books.acknowledged.retain(|write| data.contains(write));
    }

    fn cover(&mut self, from: Option<NodeId>, to: NodeId, why: Option<Why>, guarantee: Guarantee) {
        let planned = matches!(why, Some(Why::Operator | Why::Shutdown));
        match from {
            Some(from) if from != to && planned => self.covered.switchovers += 1,
            Some(from) if from != to => self.covered.failovers += 1,
            _ => {}
        }
        match guarantee {
            Guarantee::Kept => self.covered.kept += 1,
            Guarantee::BestReached => self.covered.best_reached += 1,
            Guarantee::ColdStart(_) => self.covered.cold += 1,
            Guarantee::Forced => self.covered.forced += 1,
            Guarantee::Fresh => {}
        }
    }

    /// `WAIT` told a client that enough replicas hold its write.
    pub fn wait_acknowledged(&mut self, primary: usize, write: u64) {
        self.covered.waits += 1;
        let serving = self.committed().groups.get(&self.group).and_then(|group| group.primary.clone());
        let Some(serving) = serving else { return };
        let host = host_of(serving.node);
        let redis = &self.hosts[host].redis;
        let elsewhere = host != primary && redis.run_id() == serving.run_id;
        if elsewhere && !redis.data.contains(&write) {
            if self.books.guarantee == Guarantee::Kept {
                let text = format!("n{} acknowledged {write} after n{} was promoted without it", primary + 1, host + 1);
                self.violate("wait-kept", text);
            }
            return;
        }
        self.books.acknowledged.push(write);
    }

    /// What an agent says leaves it only when it is on disk.
    pub fn check_said(&mut self, from: usize, item: &Item) {
        let disk = &self.hosts[from].disk;
        let saved = disk.groups.get(&self.group).cloned().unwrap_or_default();
        match item {
            Item::Sealed { next, .. } => {
                if saved.guardian_sealed < *next {
                    self.violate("seal-durable", format!("n{} said it sealed {next}, not on disk", from + 1));
                }
                self.books.seals[from] = self.books.seals[from].max(*next);
            }
            Item::Report(report) if saved.member_sealed < report.next => {
                self.violate("seal-durable", format!("n{} reported for {}, not on disk", from + 1, report.next));
            }
            Item::Promise { epoch, .. } => {
                if disk.longest_lease < LEASE {
                    self.violate("promise-durable", format!("n{} promised a lease it may forget", from + 1));
                }
                if *epoch < self.books.seals[from] {
                    self.violate("promise-after-seal", format!("n{} promised {epoch} below its seal", from + 1));
                }
            }
            Item::Surrender { epoch, .. } => {
                let marked = matches!(&self.hosts[from].stamp, Some(Stamp::Surrendered { epoch: e }) if e >= epoch);
                if !marked {
                    self.violate("surrender-marked", format!("n{} surrendered {epoch} without a mark", from + 1));
                }
            }
            _ => {}
        }
    }

    /// After healing: one primary serves with its VIP, and every live member follows it with lineage.
    pub fn check_settled(&mut self) -> Result<(), String> {
        let Some(group) = self.committed().groups.get(&self.group).cloned() else { return Err("no group".to_owned()) };
        let Some(primary) = group.primary_node().map(host_of) else { return Err("no primary".to_owned()) };
        let own = &self.hosts[primary];
        let serves = own.redis.upstream.is_none() && self.leased(primary);
        if !serves {
            return Err(format!("n{} does not serve: phase {:?}", primary + 1, group.phase));
        }
        if !own.redis.accepts(self.now) {
            return Err(format!("n{} refuses writes, min-replicas {}", primary + 1, own.redis.min_replicas));
        }
        if own.vip_until <= self.now {
            return Err(format!("n{} serves without its VIP", primary + 1));
        }
        for (host, other) in self.hosts.iter().enumerate().filter(|(host, _)| *host != primary) {
            if other.vip_until > self.now {
                return Err(format!("n{} still has the VIP", host + 1));
            }
            if !other.member {
                continue;
            }
            let Some(agent) = &other.agent else { return Err(format!("n{} has no agent", host + 1)) };
            let seat = agent.view.seats.get(&self.group);
            let info = seat.and_then(|seat| seat.instance.seen());
            let lineage = info.and_then(|info| agent.view.lineage_of(&self.group, info));
            let follows = other.redis.link == crate::redis::Link::Up && group.followers.contains_key(&id(host));
            if !follows || lineage != Some(group.epoch) {
                return Err(format!(
                    "n{} does not follow with lineage: link {:?}, {lineage:?}",
                    host + 1,
                    other.redis.link
                ));
            }
        }
        Ok(())
    }

    /// Whether an agent is being stopped, which may take its time.
    pub fn stopping(&self) -> bool {
        self.hosts.iter().any(|host| host.agent.as_ref().is_none_or(|agent| agent.view.stopping.is_some()))
    }

    /// Whether the leader waits for an operator, as the design allows (S13, S14, priority 0).
    pub fn needs_operator(&self) -> bool {
        use mainstay::decide::{Choice, Reason, choose};
        let leader = self.raft.leader.and_then(|leader| self.hosts[leader].agent.as_ref());
        let Some(agent) = leader else { return false };
        let (Some(group), Some(seat)) = (agent.view.group(&self.group), agent.view.seats.get(&self.group)) else {
            return false;
        };
        let choice = choose(&agent.view, &self.group, group, seat);
        matches!(choice, Choice::Wait(Reason::TwoDataSets(_) | Reason::NobodyPromotable))
            || matches!(choice, Choice::Wait(Reason::AwaitingProof { .. }))
                && group.durability == mainstay::cluster::Durability::Quorum
    }
}
