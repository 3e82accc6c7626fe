//! Breakages of what an operator's word does, of the first start and of cold starts.

use crate::mutation::Mutation;
use crate::world::World;
use mainstay::cluster::{Epoch, Ground, Group, GroupName, Guarantee, Local, LocalGroup, NodeId, Phase};
use mainstay::view::{Moment, Report, View};
use std::sync::Arc;

impl World {
    /// Whether the prompt still warns.
    pub fn prompt_mutation(&self, warned: bool) -> bool {
        warned && self.mutation != Some(Mutation::ForceSaysNothing)
    }

    /// What a node that joins anew keeps.
    pub fn join_mutation(&self, host: usize) -> Option<Local> {
        let old = &self.hosts[host].disk;
        let once = |group: &LocalGroup| LocalGroup { attached: group.attached.clone(), ..LocalGroup::default() };
        let groups = old.groups.iter().map(|(name, group)| (name.clone(), once(group))).collect();
        let keeps = self.mutation == Some(Mutation::JoinKeepsEpochs);
        keeps.then_some(Local { longest_lease: old.longest_lease, groups })
    }

    /// Whether the promoted instance forgets the history it had.
    pub fn serve_mutation(&mut self, at: usize) {
        if self.mutation == Some(Mutation::AdoptionCutsHistory) {
            let fresh = self.rng.draw();
            self.insts[at].redis.replid = fresh;
        }
    }

    /// Another one than was chosen, and what is said of it.
    pub fn promote_mutation(&self, leader: usize, name: &GroupName, said: &mut Said) {
        let Some(mutation) = self.mutation else { return };
        let other = match (mutation, said.guarantee) {
            (Mutation::ForceSaysKept, Guarantee::Forced) => {
                said.guarantee = Guarantee::Kept;
                return;
            }
            (Mutation::ForceTakesAnother, Guarantee::Forced) => self.other_report(leader, name, said.successor),
            (Mutation::PriorityIgnored | Mutation::TargetIgnored, Guarantee::Kept | Guarantee::BestReached) => {
                self.equal_report(leader, name, said.successor, mutation == Mutation::PriorityIgnored)
            }
            (Mutation::ColdStartTakesLeast, Guarantee::ColdStart(Ground::Offset))
            | (Mutation::ColdStartPassesOver, Guarantee::ColdStart(Ground::LastPrimary)) => {
                self.other_report(leader, name, said.successor)
            }
            _ => None,
        };
        if let Some((node, report)) = other {
            (said.successor, said.run_id, said.start) = (node, report.run_id, report.offset);
        }
    }

    /// The report of another one that holds as much: of the lowest priority, or any.
    fn equal_report(&self, leader: usize, name: &GroupName, than: NodeId, low: bool) -> Option<(NodeId, Report)> {
        let view = &self.hosts[leader].agent.as_ref()?.view;
        let (group, seat) = (view.group(name)?, view.seats.get(name)?);
        let Phase::Sealing { next, .. } = group.phase else { return None };
        let priority = |node: &NodeId| group.members.get(node).map_or(0, |member| member.priority);
        let chosen = seat.reports.get(&than)?;
        let equal = seat.reports.iter().filter(|(node, report)| {
            let held = (report.next, report.lineage, report.offset) == (next, chosen.lineage, chosen.offset);
            **node != than && held && group.is_candidate(**node) && priority(node) > 0
        });
        let least =
            equal.filter(|(node, _)| !low || priority(node) < priority(&than)).min_by_key(|(node, _)| priority(node));
        least.map(|(node, report)| (*node, report.clone()))
    }

    /// The report of another one, with the least data.
    fn other_report(&self, leader: usize, name: &GroupName, than: NodeId) -> Option<(NodeId, Report)> {
        let view = &self.hosts[leader].agent.as_ref()?.view;
        let (group, seat) = (view.group(name)?, view.seats.get(name)?);
        let next = group.epoch.next();
        let fit = seat.reports.iter().filter(|(node, report)| {
            let promotable = group.members.get(node).is_some_and(|member| member.priority > 0 && member.adopted);
            report.next == next && promotable && **node != than && !report.voided && report.keys > 0
        });
        fit.min_by_key(|(_, report)| report.offset).map(|(node, report)| (*node, report.clone()))
    }
}

/// What a promotion says.
pub struct Said {
    pub successor: NodeId,
    pub run_id: mainstay::cluster::RunId,
    pub start: mainstay::cluster::Offset,
    pub guarantee: Guarantee,
}

/// Before a round, of one group.
pub fn before_round(mutation: Mutation, view: &mut View, name: &GroupName) {
    match mutation {
        Mutation::AdoptionHurries if view.state.nodes.values().any(|node| !node.introduced) => {
            let mut state = (*view.state).clone();
            state.nodes.values_mut().for_each(|node| node.introduced = true);
            view.state = Arc::new(state);
        }
        Mutation::ForeignDataWiped => {
            let strange =
                |group: &Group| group.epoch > Epoch(0) && group.members.values().any(|member| !member.adopted);
            if view.state.groups.values().any(strange) {
                let mut state = (*view.state).clone();
                let members = state.groups.values_mut().flat_map(|group| group.members.values_mut());
                members.for_each(|member| member.adopted = true);
                view.state = Arc::new(state);
            }
        }
        _ => before_sealed(mutation, view, name),
    }
}

fn before_sealed(mutation: Mutation, view: &mut View, name: &GroupName) {
    let Some(group) = view.state.groups.get(name).cloned() else { return };
    let Phase::Sealing { next, .. } = group.phase else { return };
    let (now, leading, guardians) = (view.now, view.leadership.leading, view.state.guardians.all());
    let Some(seat) = view.seats.get_mut(name) else { return };
    let own = seat.membership.report.as_mut();
    match mutation {
        Mutation::ForceSealsEarly if group.forced.is_some() => seat.promise = None,
        Mutation::ForceHurries if group.forced.is_some() && leading => {
            guardians.iter().for_each(|node| {
                seat.seals.insert(*node, next);
            });
        }
        Mutation::ForceGivesUpAtOnce => seat.forced_at = Moment(0),
        Mutation::ForceWaitsForEver => seat.forced_at = now,
        Mutation::AdoptionForgetsPrimary if group.epoch == Epoch(0) => {
            let reports = seat.reports.values_mut().chain(own);
            reports.for_each(|report| report.evidence.primary = false);
        }
        Mutation::FirstStartGuesses if group.epoch == Epoch(0) && leading => {
            let most = seat.reports.values().chain(own.as_deref()).map(|report| report.keys).max().unwrap_or(0);
            let reports = seat.reports.values_mut().chain(own);
            reports.filter(|report| report.keys < most).for_each(|report| report.keys = 0);
        }
        Mutation::ColdStartByLength => {
            let reports = seat.reports.values_mut().chain(own);
            reports.filter(|report| report.evidence.history.is_some()).for_each(|report| {
                report.evidence.history = Some(Epoch(1));
            });
        }
        _ => {}
    }
}
