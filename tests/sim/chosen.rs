//! What a leader may propose to promote, by what it knows at that moment.
//!
//! - `priority-decides`: of several that hold as much, one of the highest priority, but for whom a rule passes over (S4).
//! - `failed-passed-over`: who failed to serve its last promotion is not the next, while another holds as much (S4).
//! - `living-best`: no living member that has reported later data than the successor's is passed over for it (S4).
//! - `waits-for-proof`: nobody goes without the proof while it may still come, within a lease of the seal (S5).
//! - `silent-is-sealed`: no instance that the leader can reach is a primary still when another one is promoted (S8).
//! - `flap-bound`: `turns.rs`.

use crate::agent::{host_of, id};
use crate::trace::label;
use crate::world::{LEASE, Ns, World, place};
use mainstay::cluster::{Command, Durability, Epoch, Group, GroupCommand, GroupName, Guarantee, NodeId, Phase, Why};
use mainstay::view::{Report, counts_writes};
use std::collections::HashSet;

/// A leader's choice with what it knows.
pub struct Choice<'a> {
    pub number: usize,
    pub group: &'a Group,
    pub why: Why,
    /// Who proves something, the leader itself once that is on disk.
    pub all: Vec<(NodeId, &'a Report)>,
    pub successor: NodeId,
    pub held: (Option<Epoch>, u64),
}

impl Choice<'_> {
    /// Others that prove as much, may be promoted and did not fail just now.
    pub fn equals(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.able().filter(|(_, report)| holds(report) >= self.held).map(|(node, _)| node)
    }

    /// Others that may be promoted, did not fail just now, and are not being stopped.
    fn able(&self) -> impl Iterator<Item = (NodeId, &Report)> + '_ {
        self.promotable().filter(|(_, report)| !report.stopping)
    }

    fn promotable(&self) -> impl Iterator<Item = (NodeId, &Report)> + '_ {
        let failed = matches!(self.why, Why::NeverServed | Why::InstanceFailed);
        let failed = self.group.primary_node().filter(|_| failed);
        self.all.iter().copied().filter(move |(node, _)| {
            let barred = self.group.members.get(node).is_none_or(|member| member.priority == 0);
            *node != self.successor && !barred && Some(*node) != failed
        })
    }
}

fn holds(report: &Report) -> (Option<Epoch>, u64) {
    (report.lineage, report.offset.0)
}

impl World {
    /// The leader's choice in a proposal, where data decided it by what is committed.
    fn choice_of<'a>(&'a self, leader: usize, name: &GroupName, successor: NodeId) -> Option<Choice<'a>> {
        let agent = self.hosts[leader].agent.as_ref()?;
        let (group, seat) = (agent.view.group(name)?, agent.view.seats.get(name)?);
        let known = self.committed().groups.get(name)?;
        let Phase::Sealing { next, why, to, .. } = known.phase else { return None };
        if known.version != group.version || to.is_some() || group.forced.is_some() {
            return None;
        }
        let saved = agent.view.saved.groups.get(name).map(|saved| saved.member_sealed).unwrap_or_default();
        let own = seat.membership.report.as_ref().filter(|_| saved >= next).map(|report| (agent.view.me, report));
        let mut all: Vec<(NodeId, &Report)> = seat.reports.iter().map(|(node, report)| (*node, report)).collect();
        all.extend(own);
        all.retain(|(node, report)| report.next == next && report.lineage.is_some() && group.is_candidate(*node));
        let held = all.iter().find(|(node, _)| *node == successor).map(|(_, report)| holds(report))?;
        Some(Choice { number: self.group_of(name), group, why, all, successor, held })
    }

    /// A leader proposes.
    pub fn check_proposed(&mut self, leader: usize, command: &Command) {
        let Command::Group { group: name, change: GroupCommand::Promote { successor, guarantee, .. }, .. } = command
        else {
            return;
        };
        let known = self.hosts[leader].agent.as_ref().and_then(|agent| agent.view.group(name));
        let committed = self.committed().groups.get(name).map(|group| group.epoch);
        if known.map(|known| known.epoch) != committed {
            // It proposes once more what is committed already.
            return;
        }
        self.check_silent_sealed(leader, name, *successor, *guarantee);
        let Some(choice) = self.choice_of(leader, name, *successor) else { return };
        let broken = self
            .flaps_again(leader, &choice)
            .or_else(|| self.priority_broken(&choice))
            .or_else(|| self.failed_again(&choice))
            .or_else(|| self.better_alive(&choice))
            .or_else(|| self.hurried(&choice, *guarantee));
        if let Some((invariant, text)) = broken {
            self.violate(invariant, text);
        }
    }

    fn priority_broken(&self, choice: &Choice<'_>) -> Option<(&'static str, String)> {
        let priority = |node: NodeId| choice.group.members.get(&node).map_or(0, |member| member.priority);
        let faults = &self.books[choice.number].faults;
        let clean = |node: &NodeId| faults.get(node).is_none_or(|faults| faults.len() < 2);
        let better = choice.equals().find(|node| priority(*node) > priority(choice.successor) && clean(node))?;
        let text = format!("{better} holds as much as {} and has the higher priority", choice.successor);
        Some(("priority-decides", text))
    }

    /// Who was promoted and wrote nothing has the later lineage, and the same data. Where offsets stand still nobody can tell.
    fn failed_again(&self, choice: &Choice<'_>) -> Option<(&'static str, String)> {
        let failed = matches!(choice.why, Why::NeverServed | Why::InstanceFailed);
        let counts = choice.held.0.is_some_and(|epoch| counts_writes(choice.group, epoch));
        let again = failed && counts && choice.group.primary_node() == Some(choice.successor);
        let data = |node: NodeId| &self.insts[place(host_of(node), choice.number)].redis.data;
        let own = data(choice.successor);
        let same = |node: NodeId, report: &Report| report.offset.0 >= choice.held.1 && data(node) == own;
        let (other, _) = choice.able().find(|(node, report)| same(*node, report)).filter(|_| again)?;
        Some(("failed-passed-over", format!("{} failed to serve, and {other} holds as much", choice.successor)))
    }

    /// One whose agent is being stopped is waited for where its data is of a later epoch, as long as its process lives.
    fn better_alive(&self, choice: &Choice<'_>) -> Option<(&'static str, String)> {
        let redis = |node: NodeId| &self.insts[place(host_of(node), choice.number)].redis;
        let own: HashSet<u64> = redis(choice.successor).data.iter().copied().collect();
        let better = |(node, report): &(NodeId, &Report)| {
            let lives = redis(*node).alive && redis(*node).run_id() == report.run_id;
            report.lineage > choice.held.0 && lives && redis(*node).data.iter().any(|write| !own.contains(write))
        };
        let (other, _) = choice.promotable().find(better)?;
        Some(("living-best", format!("{other} lives, has reported, and holds what {} lacks", choice.successor)))
    }

    fn hurried(&self, choice: &Choice<'_>, guarantee: Guarantee) -> Option<(&'static str, String)> {
        let since = self.now - self.books[choice.number].sealed_at;
        let early = since < leases(1) / 100 * self.pace && choice.all.len() < choice.group.reports_needed();
        let unproved = guarantee == Guarantee::BestReached && choice.group.durability == Durability::Available;
        let text = || format!("{} goes without the proof {} ms after the seal", choice.successor, since / 1_000_000);
        (early && unproved).then(|| ("waits-for-proof", text()))
    }

    /// What the last try did not reach, it could not seal.
    fn check_silent_sealed(&mut self, leader: usize, name: &GroupName, successor: NodeId, guarantee: Guarantee) {
        let number = self.group_of(name);
        let Some(group) = self.committed().groups.get(name) else { return };
        // Who joined with data of its own is nobody's replica yet.
        let member = |host: usize| group.members.get(&id(host)).is_some_and(|member| member.adopted);
        if group.epoch == Epoch(0) || guarantee == Guarantee::Forced || !member(leader) {
            return;
        }
        let places = (0..self.hosts.len()).filter(|host| member(*host) && id(*host) != successor);
        let primary = places.map(|host| place(host, number)).find(|at| {
            let redis = &self.insts[*at].redis;
            let reached = self.net.both(leader, *at) && redis.answers(self.now);
            reached && redis.upstream.is_none() && !self.books[number].unreached.contains(at)
        });
        if let Some(at) = primary {
            let text = format!("{successor} is to be promoted while {} is a primary", label(at));
            self.violate("silent-is-sealed", text);
        }
    }

    /// A remote seal was tried: whom it did not reach.
    pub fn note_unreached(&mut self, tried: &[usize], silent: &[usize]) {
        let Some(first) = tried.first() else { return };
        let unreached = &mut self.books[crate::world::group_at(*first)].unreached;
        tried.iter().for_each(|at| {
            unreached.remove(at);
        });
        unreached.extend(silent);
    }
}

/// So many of them.
pub fn leases(count: u64) -> Ns {
    u64::try_from(LEASE.as_nanos()).unwrap_or(0) * count
}
