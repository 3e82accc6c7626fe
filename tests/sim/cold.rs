//! Starts after all hosts lost power (S14): what their disks keep, and what the choice among them may not lose.
//!
//! - `cold-start-keeps`: where the ground of the choice proves it (an RDB's offset, or the last primary's AOF that is
//!   written with every command), no member that reported holds an acknowledged write that the chosen one lacks.
//! - `never-empty-over-data`: no empty one while another holds data. `cold-start-waits`: a member that has not reported is waited
//!   for, under `quorum` for ever. `nothing-waits-for-all`: and by one that is empty, or half replaced, always.

use crate::agent::host_of;
use crate::attack::Attack;
use crate::events::{Cure, Ev};
use crate::rng::Rng;
use crate::trace::label;
use crate::world::{MS, World, place};
use mainstay::cluster::{Durability, Epoch, Ground, Group, Guarantee, NodeId, RunId};
use mainstay::view::What;

/// What the instances of a run keep on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Disk {
    /// Anything, from process to process.
    #[default]
    Mixed,
    /// A snapshot of some time ago, with replication id and offset.
    Rdb,
    /// Every command, before it is answered; no offset.
    AofAlways,
    /// Every command but the last; no offset.
    AofEverySecond,
    /// Nothing.
    None,
}

impl Disk {
    /// A seed's, drawn apart from the run's own stream.
    pub fn draw(seed: u64) -> Self {
        match Rng::new(seed ^ 0xd15c).below(100) {
            0..40 => Disk::Mixed,
            40..65 => Disk::Rdb,
            65..80 => Disk::AofAlways,
            80..92 => Disk::AofEverySecond,
            _ => Disk::None,
        }
    }

    /// Of so many writes so many are found again, and whether replication id and offset are.
    pub fn found(self, rng: &mut Rng, held: usize) -> (usize, bool) {
        match self {
            Disk::Mixed => {
                let kept = match rng.below(4) {
                    0 => 0,
                    1 => held,
                    _ => rng.index(held + 1),
                };
                (kept, rng.permille(700))
            }
            Disk::Rdb => (held - rng.index(held.min(60) + 1), true),
            Disk::AofAlways => (held, false),
            Disk::AofEverySecond => (held - rng.index(held.min(20) + 1), false),
            Disk::None => (0, false),
        }
    }
}

impl World {
    /// Directed faults that strike whole hosts.
    pub fn attack_hosts(&mut self, attack: Attack, primary: usize, other: usize) {
        match attack {
            Attack::Generation => {
                self.lose_all_but(other);
            }
            Attack::BranchCut => {
                self.net.split(&[primary]);
                let pause = self.rng.between(950, 1600) * MS;
                self.at(pause, Ev::Cure(Cure::PowerCut));
                self.at(pause, Ev::Cure(Cure::Net));
            }
            Attack::OneGone => self.power_cut_for_good(other),
            Attack::Strangers => {
                self.join();
            }
            _ => {}
        }
    }

    /// All hosts lose power, and one never returns.
    pub fn power_cut_for_good(&mut self, host: usize) {
        let left = self.raft.voters.len().saturating_sub(usize::from(self.raft.voters.contains(&host)));
        let enough = left >= mainstay::cluster::majority(self.raft.voters.len()) && self.raft.voters.len() > 2;
        let free =
            self.lost.is_empty() && self.gone.is_none() && self.founding.is_none() && self.raft.leaving.is_none();
        // Somebody of each group is left to be promoted.
        let needed = (0..self.names.len()).any(|group| {
            let state = self.committed().groups.get(&self.names[group]);
            let other = |node: &NodeId| host_of(*node) != host;
            !state.is_some_and(|group| group.members.iter().any(|(node, member)| other(node) && member.priority > 0))
        });
        self.power_cut();
        if !enough || !free || needed || self.committed().guardians.next.is_some() {
            return;
        }
        tr!(self, "FAULT host {} never returns", host + 1);
        self.gone = Some(host);
        self.hosts[host].joined = false;
        let places: Vec<usize> = self.places(host).collect();
        self.lost.extend(places);
        self.covered.gone += 1;
    }

    /// The time of the newest write on a restarted instance's disk: the shell looks once.
    pub fn tell_newest(&mut self, at: usize, host: usize) {
        let redis = &self.insts[at].redis;
        let known = redis.run <= self.first_runs || self.insts[at].newest_told == redis.run;
        // A story says what is known.
        let told = known || self.told.is_some();
        let Some(newest) = redis.data.last().copied().filter(|_| !told) else { return };
        let (group, run_id, run) = (self.name_at(at), redis.run_id(), redis.run);
        self.insts[at].newest_told = run;
        let delay = self.rng.between(1, 40) * MS;
        self.tell(host, delay, What::Newest { group, run_id, unix_ms: newest });
    }

    /// What a cold start chose.
    pub fn check_cold(&mut self, number: usize, old: &Group, next: Epoch, successor: NodeId, guarantee: Guarantee) {
        let Guarantee::ColdStart(ground) = guarantee else { return };
        match ground {
            Ground::Offset | Ground::OnlyData => self.covered.cold_by_offset += 1,
            Ground::LastPrimary => self.covered.cold_by_place += 1,
            _ => self.covered.cold_otherwise += 1,
        }
        let sure = match ground {
            Ground::Offset | Ground::OnlyData => true,
            Ground::LastPrimary => self.disk == Disk::AofAlways,
            _ => false,
        };
        if !sure {
            return;
        }
        let name = &self.names[number];
        let at = place(host_of(successor), number);
        // What the leader could have known: the process that holds it had reported.
        let leader = self.raft.leader.and_then(|leader| self.hosts[leader].agent.as_ref());
        let seat = leader.and_then(|agent| agent.view.seats.get(name));
        let heard = |node: &NodeId, run_id: &RunId| {
            let own = seat.filter(|_| leader.is_some_and(|agent| agent.view.me == *node));
            let report =
                own.map_or_else(|| seat.and_then(|seat| seat.reports.get(node)), |own| own.membership.report.as_ref());
            report.is_some_and(|report| report.run_id == *run_id)
        };
        let reported = |node: &NodeId| {
            let saved = self.hosts[host_of(*node)].disk.groups.get(name);
            let redis = &self.insts[place(host_of(*node), number)].redis;
            let whole = saved.is_some_and(|saved| saved.voided.as_ref() != Some(&redis.run_id()));
            whole
                && redis.alive
                && heard(node, &redis.run_id())
                && saved.is_some_and(|saved| saved.member_sealed >= next)
        };
        let fit = old.members.iter().filter(|(node, member)| member.adopted && member.priority > 0 && reported(node));
        let others: Vec<usize> = fit.map(|(node, _)| place(host_of(*node), number)).collect();
        let lacks = |write: &u64| !self.insts[at].redis.data.contains(write);
        let held = |write: &u64| others.iter().find(|other| self.insts[**other].redis.data.contains(write));
        let lost = self.books[number].acknowledged.iter().filter(|write| lacks(write));
        let found = lost.filter_map(|write| held(write).map(|other| (*write, *other))).next();
        if let Some((write, other)) = found {
            let text = format!("{} was chosen by {ground:?} without {write}, which {} holds", label(at), label(other));
            self.violate("cold-start-keeps", text);
        }
    }

    /// S14: whom a cold start does not choose, and for whom it waits.
    pub fn check_cold_chosen(&mut self, number: usize, old: &Group, new: &Group, successor: NodeId) {
        // Who joined since holds nothing of the group's.
        let members = old.members.iter().filter(|(_, member)| member.adopted).map(|(node, _)| host_of(*node));
        let members: Vec<usize> = members.collect();
        let somebody = members.iter().any(|host| {
            let redis = &self.insts[place(*host, number)].redis;
            redis.alive && !redis.data.is_empty()
        });
        let reported = |host: &usize| {
            let saved = self.hosts[*host].disk.groups.get(&self.names[number]);
            saved.is_some_and(|saved| saved.member_sealed >= new.epoch)
        };
        let all = members.iter().all(reported);
        let redis = &self.insts[place(host_of(successor), number)].redis;
        let same = new.primary.as_ref().is_some_and(|primary| primary.run_id == redis.run_id());
        let empty = redis.data.is_empty();
        let saved = self.hosts[host_of(successor)].disk.groups.get(&self.names[number]);
        let half = saved.is_some_and(|saved| saved.voided.as_ref() == Some(&redis.run_id()));
        if somebody && same && empty {
            self.violate("never-empty-over-data", format!("node {successor} is empty, and another holds data"));
        }
        if !all && same && (empty || half) {
            let text = format!("node {successor} is empty or half replaced, and a member had not reported");
            self.violate("nothing-waits-for-all", text);
        }
        let since = self.now - self.books[number].sealed_at;
        if !all && (old.durability == Durability::Quorum || since < 300 * self.pace * MS) {
            self.violate("cold-start-waits", "a member had not reported, and could still have".to_owned());
        }
    }
}
