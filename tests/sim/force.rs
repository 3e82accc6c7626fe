//! `failover --force`: an operator who reads what may be lost, and confirms.
//!
//! - `forced-by-order`: only the node that was named is promoted as forced, and only while the order stands.
//! - `force-waits-for-its-node`: the group does not choose by itself before the named node had its time to report.
//! - `forced-loss-is-said`: where acknowledged writes are lost, the operator was told that something may be,
//!   unless the named instance was started anew meanwhile.
//! - Seals, priority 0 and the report itself are checked as for any promotion: `changes.rs`.

use crate::agent::{host_of, id};
use crate::attack::Attack;
use crate::events::{Cure, Ev};
use crate::trace::label;
use crate::world::{MS, Ns, World, host_at, place};
use mainstay::cluster::{Command, Group, GroupCommand, Guarantee, NodeId};
use mainstay::ctl::force::risks;
use mainstay::decide::{FORCE_WAIT, decide};

/// An order that an operator confirmed.
#[derive(Debug, Clone)]
pub struct Order {
    pub node: NodeId,
    /// Whom another order named that stood before.
    pub before: Option<NodeId>,
    /// A leader that knows of that one only has proposed since; it may have been frozen.
    pub overtook: bool,
    /// The process that was there.
    pub run: u64,
    pub at: Ns,
    /// Whether the prompt named anything that may be lost.
    pub warned: bool,
    /// What `WAIT` had acknowledged half a lease before the operator was asked.
    pub acknowledged: Vec<u64>,
}

impl World {
    /// An operator forces any member.
    pub fn order_force(&mut self, group: usize) {
        let Some(found) = self.committed().groups.get(&self.names[group]) else { return };
        let members: Vec<NodeId> = found.members.keys().copied().collect();
        if !members.is_empty() {
            let to = members[self.rng.index(members.len())];
            self.force_node(group, to);
        }
    }

    /// What an operator does where the cluster refuses to guess: the most data by force.
    pub fn force(&mut self, group: usize) {
        let Some(found) = self.committed().groups.get(&self.names[group]) else { return };
        let fit = |at: &usize| {
            let promotable = found.members.get(&id(host_at(*at))).is_some_and(|member| member.priority > 0);
            self.insts[*at].redis.alive && promotable && self.net.for_good[host_at(*at)] == 0
        };
        let places = (0..self.hosts.len()).map(|host| place(host, group));
        let best = places.filter(fit).max_by_key(|at| self.insts[*at].redis.data.len());
        if let Some(best) = best {
            self.force_node(group, id(host_at(best)));
        }
    }

    /// Asked on the named node if it lives, else where the leader is; confirmed whatever the prompt says.
    pub fn force_node(&mut self, group: usize, to: NodeId) -> bool {
        let name = self.names[group].clone();
        let leader = self.raft.leader.filter(|leader| self.awake(*leader));
        let near = |host: usize| self.awake(host) && leader.is_some_and(|leader| self.net.both(host, leader));
        let Some(asked) = [Some(host_of(to)), leader].into_iter().flatten().find(|host| near(*host)) else {
            return false;
        };
        let own = &self.hosts[asked];
        let warnings = own.agent.as_ref().map_or_else(Vec::new, |agent| {
            let decision = decide(&agent.view, &own.policy);
            risks(&agent.view, &decision, &name, to)
        });
        let warned = self.prompt_mutation(!warnings.is_empty());
        // Compare-and-set on what the one that warned knows: where that is old, the order is refused.
        let own = self.hosts[asked].agent.as_ref();
        let Some(expect) = own.and_then(|agent| agent.view.group(&name)).map(Group::expect) else { return false };
        let change = GroupCommand::Force { node: to };
        tr!(self, "operator: forces {}, though {warnings:?}", label(place(host_of(to), group)));
        if !self.order(&Command::Group { group: name, expect, change }) {
            return false;
        }
        let book = &self.books[group];
        let fresh = |write: &u64| book.lately.iter().any(|(at, known)| known == write && self.now - at <= 500 * MS);
        let acknowledged = book.acknowledged.iter().copied().filter(|write| !fresh(write)).collect();
        let before = self.books[group].order.as_ref().map(|order| order.node);
        self.books[group].order = Some(Order {
            node: to,
            before,
            overtook: false,
            run: self.insts[place(host_of(to), group)].redis.run,
            at: self.now,
            warned,
            acknowledged,
        });
        self.covered.orders += 1;
        true
    }

    /// A leader that knows of the order proposes somebody.
    pub fn check_patience(&mut self, leader: usize, command: &Command) {
        let Command::Group { group: name, change: GroupCommand::Promote { successor, guarantee, .. }, .. } = command
        else {
            return;
        };
        let agent = self.hosts[leader].agent.as_ref();
        let group = agent.and_then(|agent| agent.view.group(name));
        // Who was barred from promotion since is waited for by nobody.
        let able =
            |node: &NodeId| group.and_then(|group| group.members.get(node)).is_some_and(|member| member.priority > 0);
        let known = group.and_then(|group| group.forced).filter(able);
        let bound = u64::try_from(FORCE_WAIT.as_nanos()).unwrap_or(0) / 100 * self.pace;
        let order = self.books[self.group_of(name)].order.as_ref();
        let early = order.filter(|order| known == Some(order.node) && self.now - order.at < bound);
        let text = early.filter(|_| *guarantee != Guarantee::Forced).map(|order| {
            format!("{successor} is to be promoted {} ms after {} was named", (self.now - order.at) / MS, order.node)
        });
        let earlier = group.and_then(|group| group.forced).filter(|node| node == successor);
        if let Some(text) = text {
            self.violate("force-waits-for-its-node", text);
        }
        let number = self.group_of(name);
        if let Some(order) = self.books[number].order.as_mut().filter(|order| order.before == earlier) {
            order.overtook = earlier.is_some();
        }
    }

    /// A promotion was committed.
    pub fn check_forced(&mut self, group: usize, old: &Group, successor: NodeId, guarantee: Guarantee) {
        let order = self.books[group].order.take();
        // A told story's operator orders by himself.
        if guarantee != Guarantee::Forced || self.told.is_some() {
            return;
        }
        // What was proposed before the leader knew of the later order goes on.
        let late =
            |order: &Order| order.before == Some(successor) && (order.overtook || self.now - order.at < 500 * MS);
        let named = |order: &Order| order.node == successor && old.forced == Some(successor);
        if order.as_ref().is_some_and(late) {
            return;
        }
        let Some(order) = order.filter(named) else {
            self.violate("forced-by-order", format!("nobody forced {successor}"));
            return;
        };
        let redis = &self.insts[place(host_of(successor), group)].redis;
        let lost = order.acknowledged.iter().filter(|write| !redis.data.contains(write)).count();
        // One that was restarted since is another instance than was spoken of.
        let same = redis.run == order.run;
        if lost > 0 && same && !order.warned {
            self.violate(
                "forced-loss-is-said",
                format!("{lost} acknowledged writes are lost, and no word was said of it"),
            );
        }
        self.covered.forced_losses += u64::from(lost > 0);
    }

    /// Whether the node that an operator named is still waited for.
    pub fn forcing(&self) -> bool {
        // A leader that has just started counts anew.
        let bound = u64::try_from(FORCE_WAIT.as_nanos()).unwrap_or(0) + 2000 * MS;
        let healed = self.plan.map_or(0, |plan| plan.end);
        let stands = |group: usize| {
            let found = self.committed().groups.get(&self.names[group]);
            found.is_some_and(|group| group.forced.is_some())
        };
        let orders = self.books.iter().enumerate().filter(|(group, _)| stands(*group));
        orders.filter_map(|(_, book)| book.order.as_ref()).any(|order| self.now - order.at.max(healed) < bound)
    }

    /// Directed faults that end in an operator's order.
    pub fn attack_force(&mut self, attack: Attack, group: usize, primary: usize, other: usize) {
        let at = place(other, group);
        let member = self.committed().groups.get(&self.names[group]).and_then(|group| group.members.get(&id(other)));
        if member.is_none_or(|member| member.priority == 0) {
            return;
        }
        match attack {
            Attack::ForceCut => {
                self.net.split(&[primary]);
                let pause = self.rng.between(1, 150) * MS;
                self.at(pause, Ev::Cure(Cure::Force(group, other)));
                let mended = self.rng.between(900, 2600) * MS;
                self.at(mended, Ev::Cure(Cure::Net));
            }
            Attack::ForceLag => {
                tr!(self, "ATTACK {} lags and is to be forced", other + 1);
                self.insts[at].redis.narrow = true;
                let pause = self.rng.between(500, 900);
                self.at(pause * MS, Ev::Cure(Cure::Crash(primary)));
                let asked = pause + self.rng.between(5, 900);
                self.at(asked * MS, Ev::Cure(Cure::Force(group, other)));
                self.at(3000 * MS, Ev::Cure(Cure::Narrow(at, false)));
            }
            Attack::ForceDead if self.lost.is_empty() && primary != other => {
                tr!(self, "ATTACK the instance of {} dies for good and is to be forced", other + 1);
                self.lost.insert(at);
                self.insts[at].redis.die();
                self.tell_gone(at);
                let asked = self.rng.between(5, 3000) * MS;
                self.at(asked, Ev::Cure(Cure::Force(group, other)));
            }
            _ => {}
        }
    }
}
