//! What must hold after every event, each with the name a failing seed prints.
//!
//! - `two-leases`, `lease-over-when-sealed`: leases of two epochs never overlap in true time, a frozen or dead agent's
//!   included, nor does one run once a majority has sealed (S1, S2, S3).
//! - `two-servers`: two instances never accept writes together, but for one whose agent is frozen or dead (S8), and that
//!   one not beyond its leash. `vip-follows-lease`, `vip-leash`: nor does the VIP stay without a lease.
//! - `serving-is-promoted`: only the very process that was promoted becomes primary (S6).
//! - `epoch-monotonic`, `applied-monotonic`: neither goes back on any node.
//! - `seal-durable`, `report-durable`, `promise-durable`, `surrender-marked`, `surrender-fenced`, `surrender-final`,
//!   `promise-after-seal`, `silent-voters`: what S2 says of words.
//! - The others are about what is committed: `changes.rs`.

use crate::agent::host_of;
use crate::trace::label;
use crate::world::{HANG_AFTER, LEASE, MS, Ns, World, group_at, host_at, place};
use mainstay::cluster::{Durability, Epoch, Guarantee, NodeId, Phase};
use mainstay::view::{Item, Stamp, Task};

/// How long an instance whose agent is frozen and that is cut off may go on serving plain clients (S8).
const LEASH: Ns = 4_000 * MS;

/// How long a VIP may stay once nobody minds it: the kernel's lifetime (S8).
const VIP_LEASH: Ns = 3_000 * MS;

/// A broken invariant.
#[derive(Debug, Clone)]
pub struct Violation {
    /// Its name.
    pub name: &'static str,
    /// What happened.
    pub text: String,
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
        for group in 0..self.names.len() {
            let mut holders = (0..self.hosts.len()).filter(|host| self.leased(place(*host, group)));
            if let (Some(one), Some(other)) = (holders.next(), holders.next()) {
                self.violate("two-leases", format!("n{} and n{} hold a lease at once", one + 1, other + 1));
            }
            self.check_sealed(group);
            self.check_hung(group);
            for host in 0..self.hosts.len() {
                let Some(agent) = &self.hosts[host].agent else { continue };
                let epoch = agent.view.state.groups.get(&self.names[group]).map(|group| group.epoch);
                let epoch = epoch.unwrap_or_default();
                if epoch < self.books[group].epochs[host] {
                    self.violate("epoch-monotonic", format!("n{} went back to epoch {epoch}", host + 1));
                }
                let known = &mut self.books[group].epochs[host];
                *known = epoch.max(*known);
            }
        }
    }

    /// S1, S3: once a majority of guardians has durably sealed an epoch, no lease on an earlier one runs anywhere.
    fn check_sealed(&mut self, group: usize) {
        let state = self.committed();
        let Some(found) = state.groups.get(&self.names[group]) else { return };
        let Phase::Sealing { next, .. } = found.phase else { return };
        let Some(holder) = (0..self.hosts.len()).find(|host| self.leased(place(*host, group))) else { return };
        if state.guardians.majority_of(|node| self.sealed_on_disk(node, group) >= next) {
            let text = format!("n{} holds a lease, and a majority has sealed {next}", holder + 1);
            self.violate("lease-over-when-sealed", text);
        }
    }

    /// S7: nobody hangs for much longer than `hang_after` beside an agent at work. What is being saved from it would die with it:
    /// that has a bound of its own.
    fn check_hung(&mut self, group: usize) {
        let bound = u64::try_from((HANG_AFTER + LEASE * 2).as_nanos()).unwrap_or(u64::MAX);
        for at in (0..self.hosts.len()).map(|host| place(host, group)) {
            let (host, redis) = (&self.hosts[host_at(at)], &self.insts[at].redis);
            let minded = host.up && host.agent.is_some() && host.mindless_since.is_none() && !self.excused(at);
            let seat = host.agent.as_ref().and_then(|agent| agent.view.seats.get(&self.names[group]));
            let saves = seat.is_some_and(|seat| matches!(seat.instance.task, Some((Task::Quarantine, ..))));
            let hangs = redis.alive && self.now < redis.hung_until && !saves;
            let since = (minded && hangs).then(|| self.insts[at].hung_since.unwrap_or(self.now));
            self.insts[at].hung_since = since;
            if since.is_some_and(|since| self.now - since > bound) {
                self.violate("hung-is-killed", format!("{} hangs, and nobody does anything", label(at)));
            }
        }
    }

    /// A guardian's durable seal.
    pub fn sealed_on_disk(&self, node: NodeId, group: usize) -> Epoch {
        let disk = self.hosts.get(host_of(node)).map(|host| &host.disk);
        disk.and_then(|disk| disk.groups.get(&self.names[group])).map(|local| local.guardian_sealed).unwrap_or_default()
    }

    /// Whether the host's lease runs at this moment, by its own knowledge and clock.
    pub fn leased(&self, at: usize) -> bool {
        let own = &self.hosts[host_at(at)];
        match (&own.agent, &self.insts[at].stamp) {
            (Some(agent), _) => {
                agent.view.lease_end(&self.names[group_at(at)]).is_some_and(|end| end > own.clock(self.now))
            }
            (None, Some(Stamp::Leased { until, .. })) => *until > own.clock(self.now),
            _ => false,
        }
    }

    pub fn excused(&self, at: usize) -> bool {
        let host = &self.hosts[host_at(at)];
        host.stalled || self.now < host.excused_until
    }

    /// With every client's step: who would accept a write now.
    pub fn check_accepting(&mut self, group: usize) {
        // What ran before its agent came serves until that has detached it.
        let ran = &self.books[group].found.running;
        let places = (0..self.hosts.len()).map(|host| place(host, group)).filter(|at| !ran.contains(at));
        let accepting: Vec<usize> = places.filter(|at| self.insts[*at].redis.accepts(self.now)).collect();
        for at in &accepting {
            let run_id = self.insts[*at].redis.run_id();
            if !self.books[group].promoted.contains(&(*at, run_id)) {
                self.violate("serving-is-promoted", format!("{} accepts writes and was never promoted", label(*at)));
            }
        }
        self.check_vips(group, &accepting);
        let answering = accepting.iter().filter(|at| !self.excused(**at)).count();
        if answering > 1 {
            self.violate("two-servers", format!("{accepting:?} (from 0) accept writes together"));
        }
        if accepting.len() < 2 {
            self.books[group].together_since = None;
            return;
        }
        let since = *self.books[group].together_since.get_or_insert(self.now);
        let helped = accepting.iter().any(|at| {
            let replicas = &self.insts[*at].redis.replicas;
            self.excused(*at) && replicas.keys().any(|replica| self.excused(*replica))
        });
        let alone = accepting.iter().any(|at| self.excused(*at) && self.never_in_step(*at));
        if self.now - since > LEASH && !helped && !alone {
            self.violate("two-servers", format!("{accepting:?} (from 0) accept writes together beyond the leash"));
        }
    }

    /// Whether no follower has been online at this primary in its epoch: there is nothing yet that `min-replicas` could hold it
    /// by (S5).
    fn never_in_step(&self, at: usize) -> bool {
        let agent = self.hosts[host_at(at)].agent.as_ref();
        let Some(group) = agent.and_then(|agent| agent.view.group(&self.name_at(at))) else { return false };
        let seen = self.books[group_at(at)].online.keys().any(|(served, _)| *served == group.epoch);
        self.insts[at].redis.min_replicas == 0 && group.durability == Durability::Available && !seen
    }

    /// S8: the VIP is on one host that accepts writes at most, and gone soon after its agent is.
    fn check_vips(&mut self, group: usize, accepting: &[usize]) {
        let holding = |at: &usize| self.insts[*at].vip_until > self.now;
        let served = accepting.iter().filter(|at| holding(at) && !self.excused(**at)).count();
        if served > 1 {
            self.violate("vip-follows-lease", format!("{accepting:?} (from 0) accept writes with the VIP"));
        }
        for at in (0..self.hosts.len()).map(|host| place(host, group)) {
            let mindless = self.hosts[host_at(at)].mindless_since.is_some_and(|since| self.now - since > VIP_LEASH);
            if mindless && self.insts[at].vip_until > self.now {
                self.violate("vip-leash", format!("{} keeps the VIP though nobody minds it", label(at)));
            }
        }
    }

    /// S8: the kernel's lifetime is renewed only on a fresh majority renewal of a serving primary.
    pub fn check_hold_vip(&mut self, at: usize) {
        if !self.leased(at) {
            self.violate("vip-follows-lease", format!("{} puts the VIP on without a lease", label(at)));
        }
    }

    /// An instance became primary.
    pub fn check_promotion(&mut self, at: usize) {
        let run_id = self.insts[at].redis.run_id();
        let book = &mut self.books[group_at(at)];
        // It serves again in the epoch that it was to hand over: that led nowhere.
        book.handover = book.handover.take().filter(|handover| handover.1 != at);
        if !self.books[group_at(at)].promoted.contains(&(at, run_id)) {
            self.violate("serving-is-promoted", format!("{} became primary and was never promoted", label(at)));
        }
    }

    /// `WAIT` told a client that enough replicas hold its write.
    pub fn wait_acknowledged(&mut self, primary: usize, write: u64) {
        self.covered.waits += 1;
        self.told.iter_mut().for_each(|told| told.waited.push(write));
        let group = group_at(primary);
        let found = self.committed().groups.get(&self.names[group]);
        let Some(serving) = found.and_then(|group| group.primary.clone()) else { return };
        let at = place(host_of(serving.node), group);
        let redis = &self.insts[at].redis;
        let elsewhere = at != primary && redis.run_id() == serving.run_id;
        if elsewhere && !redis.data.contains(&write) {
            if self.books[group].guarantee == Guarantee::Kept {
                let (old, new) = (label(primary), label(at));
                self.violate("wait-kept", format!("{old} acknowledged {write} after {new} was promoted without it"));
            }
            return;
        }
        let book = &mut self.books[group];
        book.acknowledged.push(write);
        book.lately.push_back((self.now, write));
        while book.lately.front().is_some_and(|(at, _)| self.now - at > 500 * MS) {
            book.lately.pop_front();
        }
    }

    /// What an agent says leaves it only when it is on disk.
    pub fn check_said(&mut self, from: usize, item: &Item) {
        let disk = &self.hosts[from].disk;
        let name = match item {
            Item::Sealed { group, .. } | Item::Promise { group, .. } | Item::Surrender { group, .. } => group,
            Item::Report(report) => &report.group,
            Item::Renew(renewal) => &renewal.group,
            _ => return,
        };
        let group = self.group_of(name);
        let saved = disk.groups.get(name).cloned().unwrap_or_default();
        match item {
            Item::Sealed { next, .. } => {
                if saved.guardian_sealed < *next {
                    self.violate("seal-durable", format!("n{} said it sealed {next}, not on disk", from + 1));
                }
                let known = &mut self.books[group].seals[from];
                *known = (*next).max(*known);
            }
            Item::Report(report) if saved.member_sealed < report.next => {
                self.violate("report-durable", format!("n{} reported for {}, not on disk", from + 1, report.next));
            }
            Item::Promise { epoch, .. } => {
                if disk.longest_lease < LEASE {
                    self.violate("promise-durable", format!("n{} promised a lease it may forget", from + 1));
                }
                if *epoch < self.books[group].seals[from] {
                    self.violate("promise-after-seal", format!("n{} promised {epoch} below its seal", from + 1));
                }
            }
            Item::Renew(renewal) if renewal.epoch <= self.books[group].surrendered[from] => {
                self.violate("surrender-final", format!("n{} renews {} after its surrender", from + 1, renewal.epoch));
            }
            Item::Surrender { epoch, .. } => {
                let known = &mut self.books[group].surrendered[from];
                *known = (*epoch).max(*known);
                let stamp = &self.insts[place(from, group)].stamp;
                if !matches!(stamp, Some(Stamp::Surrendered { epoch: e }) if e >= epoch) {
                    self.violate("surrender-marked", format!("n{} surrendered {epoch} without a mark", from + 1));
                }
                if self.insts[place(from, group)].redis.accepts(self.now) {
                    self.violate("surrender-fenced", format!("n{} surrendered {epoch} and accepts writes", from + 1));
                }
            }
            _ => {}
        }
    }
}
