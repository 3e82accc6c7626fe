//! Generations: with every other host lost, an operator lets one node go on alone; the lost ones come back with their
//! old data, are turned away in the handshake, sealed, and join anew under new numbers.
//!
//! The older generation's Raft is kept as it was: whoever comes back runs the real core in it until it is turned away.
//! The operator obeys the prompt: he starts the lost hosts only within reach of the new generation, and cuts nothing off
//! before each has heard. Two lost hosts that start together out of its reach become a majority of the old one; that is
//! the documented exception, and not modelled.
//!
//! - `older-generation-acts`: an older generation agrees on nothing any more. `two-leases` and `two-servers` go for both.

use crate::agent::{host_of, id};
use crate::events::{Cure, Ev};
use crate::force::Order;
use crate::mutation::Mutation;
use crate::raft::{Raft, record};
use crate::redis::{Command as Words, Redis};
use crate::world::{LEASE, MS, Ns, World, group_at, place};
use mainstay::cluster::Command;
use std::collections::BTreeSet;

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// All but one host are down since then.
    Lost(Ns),
    /// The one goes on alone; the others come back then.
    Alone(Ns),
    /// They are back and are turned away.
    Back,
    /// All are turned away and sealed; they join anew.
    Joining,
    Done,
}

/// A generation that is founded.
#[derive(Debug, Clone)]
pub struct Founding {
    host: usize,
    lost: BTreeSet<usize>,
    step: Step,
}

impl World {
    /// Whether it is under way.
    pub fn founding_on(&self) -> bool {
        self.founding.as_ref().is_some_and(|founding| founding.step != Step::Done)
    }

    /// Whether the operator still has to see to it that nothing else fails.
    pub fn delicate(&self) -> bool {
        self.founding.as_ref().is_some_and(|founding| !matches!(founding.step, Step::Joining | Step::Done))
    }

    /// Whether a host is of the older generation.
    pub fn is_elder(&self, host: usize) -> bool {
        self.elder.is_some() && self.hosts[host].generation < self.generation
    }

    /// What is about such a host happens in its own Raft.
    pub fn as_elder(&mut self, act: impl FnOnce(&mut Self)) {
        let Some(mut other) = self.elder.take() else { return };
        std::mem::swap(&mut self.raft, &mut other);
        self.elder = Some(other);
        act(self);
        if let Some(other) = &mut self.elder {
            std::mem::swap(&mut self.raft, other);
        }
    }

    /// All hosts but one are lost for good, as it seems. Once in a run, where there are numbers left to join under.
    pub fn lose_all_but(&mut self, host: usize) -> bool {
        let everywhere = self.places(host).all(|at| self.insts[at].member);
        let promotable = self.hosts[host].policy.groups.values().all(|group| group.priority > 0);
        // Now and then it has not heard the last that was agreed on: then those numbers are used again.
        // Numbers of nodes are places here: it must have heard of every host that joined.
        let known = self.raft.states.get(self.hosts[host].applied);
        let numbered = known.is_some_and(|known| known.next_node == self.committed().next_node);
        let heard = self.hosts[host].applied + 1 == self.raft.states.len() || (self.unkind.on && numbered);
        let lost: BTreeSet<usize> = self.raft.members.iter().copied().filter(|other| *other != host).collect();
        let room = host_of(self.committed().next_node) + lost.len() <= self.hosts.len();
        let fit = self.founding.is_none()
            && self.awake(host)
            && self.raft.voters.contains(&host)
            && self.raft.voters.len() > 1
            && (everywhere && promotable && heard && room && self.lost.is_empty());
        if !fit {
            return false;
        }
        tr!(self, "FAULT all hosts but {} are lost", host + 1);
        self.net.heal();
        for other in &lost {
            if self.hosts[*other].up {
                self.cut_power(*other);
            }
            self.hosts[*other].joined = false;
        }
        self.raft.leaving = None;
        self.founding = Some(Founding { host, lost, step: Step::Lost(self.now) });
        self.at(100 * MS, Ev::Generation);
        true
    }

    /// Looks on, ten times a second.
    pub fn generation_tick(&mut self) {
        let Some(founding) = self.founding.clone() else { return };
        let lonely = u64::try_from((LEASE * 4).as_nanos()).unwrap_or(0) + 100 * MS;
        let sound = self.awake(founding.host)
            && self.hosts[founding.host].agent.as_ref().is_some_and(|agent| agent.view.stopping.is_none());
        let step = match founding.step {
            Step::Lost(since) if sound && self.now - since > lonely => {
                self.found_generation(&founding);
                Step::Alone(self.now + self.rng.between(100, 5000) * MS)
            }
            Step::Alone(until) if sound && self.now >= until => {
                founding.lost.iter().for_each(|host| self.come_back(*host));
                Step::Back
            }
            Step::Back => {
                self.turn_away(&founding);
                let done = founding.lost.iter().all(|host| self.hosts[*host].superseded);
                if done { self.cut_again(&founding) } else { Step::Back }
            }
            Step::Joining => self.next_to_join(&founding),
            step => step,
        };
        if let Some(founding) = &mut self.founding {
            founding.step = step;
        }
        if step != Step::Done {
            let pause = self.rng.between(20, 150) * MS;
            self.at(pause, Ev::Generation);
        }
    }

    /// `failover --force` where no majority is left: the agent starts anew, alone.
    fn found_generation(&mut self, founding: &Founding) {
        let host = founding.host;
        self.end_agent(host);
        let state = self.raft.states[self.hosts[host].applied].left_to(id(host));
        self.generation += 1;
        let fresh = Raft::alone(self.hosts.len(), host, self.generation, self.raft.term, state);
        let mut elder = std::mem::replace(&mut self.raft, fresh);
        elder.leader = None;
        self.elder = Some(elder);
        self.hosts[host].generation = self.generation;
        self.hosts[host].applied = 0;
        tr!(self, "operator: host {} goes on alone, in generation {}", host + 1, self.generation);
        for (group, book) in self.books.iter_mut().enumerate() {
            let acknowledged = book.acknowledged.clone();
            let run = self.insts[place(host, group)].redis.run;
            book.order = Some(Order {
                node: id(host),
                before: None,
                overtook: false,
                run,
                at: self.now,
                warned: true,
                acknowledged,
            });
        }
        self.covered.generations += 1;
        self.start_agent(host);
    }

    /// A lost host boots, with its old data.
    fn come_back(&mut self, host: usize) {
        tr!(self, "host {} comes back", host + 1);
        self.hosts[host].up = true;
        self.reboot(host);
        for at in self.places(host).filter(|at| self.insts[*at].member).collect::<Vec<_>>() {
            let (held, loading) = (self.insts[at].redis.data.len(), self.rng.below(300) * MS);
            let kept = if self.rng.permille(500) { held } else { self.rng.index(held + 1) };
            let rdb = self.rng.permille(700);
            self.bear_instance(at, kept, rdb, loading);
        }
        self.as_elder(|world| world.start_agent(host));
    }

    /// Its handshake with a node of the newer generation: the word is recorded, and the host serves nothing any more.
    fn turn_away(&mut self, founding: &Founding) {
        let left: Vec<usize> = founding.lost.iter().copied().filter(|host| !self.hosts[*host].superseded).collect();
        for host in left {
            let reached = (0..self.hosts.len()).any(|other| {
                self.hosts[other].generation == self.generation && self.awake(other) && self.net.both(host, other)
            });
            let checked = self.mutation != Some(Mutation::GenerationUnchecked);
            let heard = reached && checked && self.rng.permille(600);
            let name_at = |at: &usize| &self.names[group_at(*at)];
            let free = self.hosts[host].agent.as_ref().is_none_or(|agent| {
                let view = &agent.view;
                self.places(host).all(|at| {
                    let (group, seat) = (view.group(name_at(&at)), view.seats.get(name_at(&at)));
                    let hears = group.zip(seat).is_some_and(|(group, seat)| view.serving_heard(seat, group));
                    !view.lease_live(name_at(&at)) && !hears
                })
            });
            if !heard || !free {
                continue;
            }
            tr!(self, "host {} hears that its generation is over", host + 1);
            self.end_agent(host);
            self.hosts[host].superseded = true;
            self.covered.superseded += 1;
            for at in self.places(host) {
                self.insts[at].vip_until = 0;
                if self.insts[at].redis.answers(self.now) {
                    self.command(at, 0, Words::Nowhere { close: true });
                }
            }
        }
    }

    /// Once each has heard and recorded it, a restart out of reach changes nothing.
    fn cut_again(&mut self, founding: &Founding) -> Step {
        if self.rng.permille(600) {
            tr!(self, "FAULT {} is cut off, and the lost hosts restart", founding.host + 1);
            self.net.split(&[founding.host]);
            let mended = self.rng.between(1500, 4000) * MS;
            self.at(mended, Ev::Cure(Cure::Net));
            if self.mutation == Some(Mutation::GenerationForgotten) {
                for host in founding.lost.iter().copied() {
                    self.as_elder(|world| world.start_agent(host));
                }
            }
        }
        Step::Joining
    }

    /// `mainstay join`, one host after the other.
    fn next_to_join(&mut self, founding: &Founding) -> Step {
        let left: Vec<usize> = founding.lost.iter().copied().filter(|host| self.is_elder(*host)).collect();
        let Some(host) = left.first().copied() else { return Step::Done };
        let serves = self.committed().groups.values().all(|group| group.epoch.0 > 0 && group.primary.is_some());
        if serves && self.rng.permille(150) && self.mutation != Some(Mutation::GenerationForgotten) {
            self.join_anew(host);
        }
        Step::Joining
    }

    /// A host drops its old store and is taken in under a new number; its instances keep running, and their data.
    fn join_anew(&mut self, host: usize) {
        let leader = self.raft.leader.filter(|leader| self.quorum_at(*leader, |_, _| true));
        let fresh = host_of(self.committed().next_node);
        let Some(leader) = leader.filter(|leader| self.net.both(*leader, host)) else { return };
        let known = self.elder.as_ref().and_then(|elder| elder.states.last()?.nodes.get(&id(host)).cloned());
        let name = known.map_or_else(|| format!("n{}", host + 1), |node| node.name);
        let command = Command::AddNode { node: id(fresh), record: record(fresh, name) };
        if !self.append(leader, &command) {
            return;
        }
        tr!(self, "operator: host {} joins anew as host {}", host + 1, fresh + 1);
        self.raft.members.insert(fresh);
        let disk = self.join_mutation(host).unwrap_or_else(|| self.hosts[host].disk.kept_to_join());
        let clock = (self.hosts[host].clock_base, self.hosts[host].clock_rate);
        self.hosts[host].generation = self.generation;
        self.hosts[host].up = false;
        let own = &mut self.hosts[fresh];
        (own.joined, own.up, own.disk, own.generation) = (true, true, disk, self.generation);
        (own.clock_base, own.clock_rate) = clock;
        for at in self.places(fresh) {
            let from = place(host, group_at(at));
            let dead = Redis { alive: false, ..Redis::born(0, 0) };
            self.move_foreign(from, at);
            self.insts[at].redis = std::mem::replace(&mut self.insts[from].redis, dead);
            if !self.insts[at].redis.alive && self.insts[at].member {
                self.at(200 * MS, Ev::Cure(Cure::Instance(at)));
            }
        }
        self.covered.returned += 1;
        self.start_agent(fresh);
    }
}
