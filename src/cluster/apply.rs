//! `apply`: the deterministic step of the replicated state machine.
//!
//! A command that does not fit the state is refused as data and changes nothing; the log keeps it all the same.

use super::command::{Command, Expect, GroupCommand, GroupIntro, GuardianChange, PhaseKind};
use super::state::{
    CAUSE_LIMIT, Change, Departed, Follower, FormerQuorum, Group, Guarantee, HISTORY_LIMIT, Incumbent, Member, Node,
    Phase, START_LIMIT, Start, State, Why, majority,
};
use super::words::{GroupName, NodeId, RunId, Version};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Why a command changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Rejection {
    /// The proposer's view of the group was out of date.
    #[error("the group is at epoch {epoch} in another phase than expected")]
    Outdated {
        /// The group's epoch.
        epoch: super::Epoch,
    },
    /// No such group.
    #[error("no group of that name")]
    NoSuchGroup,
    /// No such node, or it is no member of the group.
    #[error("node {0} is not known there")]
    NoSuchNode(NodeId),
    /// Name, number or incarnation belong to another node.
    #[error("that name or number belongs to another node")]
    Taken,
    /// The node is a guardian, a primary or a follower.
    #[error("node {0} is still needed: it is a guardian, a primary, or may hold acknowledged writes")]
    StillNeeded(NodeId),
    /// A change of guardians is under way, or not far enough.
    #[error("a change of guardians is under way")]
    GuardiansBusy,
    /// The node may not be promoted by this command.
    #[error("node {0} may not be promoted")]
    NotPromotable(NodeId),
    /// One follower leaves after the other: each must see all the others hold what it acknowledged.
    #[error("node {0} is leaving the followers; one after the other")]
    AnotherLeaves(NodeId),
    /// The command asks for what holds already.
    #[error("nothing to change")]
    Nothing,
}

type Outcome = Result<(), Rejection>;

impl State {
    /// Applies one command of the log.
    ///
    /// # Errors
    /// The reason why it changed nothing. The same on every node.
    pub fn apply(&mut self, command: &Command) -> Outcome {
        match command {
            Command::AddNode { node, record } => self.add_node(*node, record),
            Command::RemoveNode { node } => self.remove_node(*node),
            Command::Introduce { node, address, lease, groups } => self.introduce(*node, address, *lease, groups),
            Command::Guardians(change) => self.change_guardians(change),
            Command::Group { group, expect, change } => {
                let group = self.groups.get_mut(group).ok_or(Rejection::NoSuchGroup)?;
                group.apply(*expect, change)?;
                group.version = group.version.next();
                Ok(())
            }
        }
    }

    fn add_node(&mut self, id: NodeId, record: &Node) -> Outcome {
        let taken = self.nodes.iter().any(|(other, node)| {
            (*other == id && node.incarnation != record.incarnation) || (*other != id && node.name == record.name)
        });
        if taken || (id < self.next_node && !self.nodes.contains_key(&id)) {
            return Err(Rejection::Taken);
        }
        if self.nodes.contains_key(&id) {
            return Err(Rejection::Nothing);
        }
        self.next_node = self.next_node.max(id.next());
        self.nodes.insert(id, record.clone());
        Ok(())
    }

    fn remove_node(&mut self, id: NodeId) -> Outcome {
        if !self.nodes.contains_key(&id) {
            return Err(Rejection::NoSuchNode(id));
        }
        let needed = self.guardians.all().contains(&id) || self.groups.values().any(|group| group.is_candidate(id));
        if needed {
            return Err(Rejection::StillNeeded(id));
        }
        self.nodes.remove(&id);
        for group in self.groups.values_mut() {
            if group.members.remove(&id).is_some() {
                group.forget(id);
                group.fit_quorum();
                group.version = group.version.next();
            }
        }
        Ok(())
    }

    fn introduce(&mut self, id: NodeId, address: &str, lease: Duration, groups: &[GroupIntro]) -> Outcome {
        let before = (self.nodes.get(&id).cloned(), self.lease, self.groups.clone());
        let node = self.nodes.get_mut(&id).ok_or(Rejection::NoSuchNode(id))?;
        node.introduced = true;
        address.clone_into(&mut node.address);
        if self.lease.is_zero() {
            self.lease = lease;
        }
        for intro in groups {
            self.groups.entry(intro.group.clone()).or_insert_with(|| Group::new(intro.durability)).introduce(id, intro);
        }
        if before == (self.nodes.get(&id).cloned(), self.lease, self.groups.clone()) {
            return Err(Rejection::Nothing);
        }
        Ok(())
    }

    fn change_guardians(&mut self, change: &GuardianChange) -> Outcome {
        match change {
            GuardianChange::Begin { next } => self.begin_guardians(next),
            GuardianChange::Renewed { group, epoch, version } => self.guardians_renewed(group, *epoch, *version),
            GuardianChange::Finish { version } => self.finish_guardians(*version),
        }
    }

    fn begin_guardians(&mut self, next: &std::collections::BTreeSet<NodeId>) -> Outcome {
        if self.guardians.next.is_some() {
            return Err(Rejection::GuardiansBusy);
        }
        if let Some(stranger) = next.iter().find(|id| !self.nodes.contains_key(id)) {
            return Err(Rejection::NoSuchNode(*stranger));
        }
        if next.is_empty() || self.guardians.now == *next {
            return Err(Rejection::Nothing);
        }
        self.guardians.version = self.guardians.version.next();
        if self.guardians.now.is_empty() {
            self.guardians.now = next.clone();
        } else {
            self.guardians.next = Some(next.clone());
            self.guardians.renewed.clear();
        }
        Ok(())
    }

    fn guardians_renewed(&mut self, group: &GroupName, epoch: super::Epoch, version: Version) -> Outcome {
        let found = self.groups.get(group).ok_or(Rejection::NoSuchGroup)?;
        if found.epoch != epoch || matches!(found.phase, Phase::Sealing { .. }) {
            return Err(Rejection::Outdated { epoch: found.epoch });
        }
        if self.guardians.next.is_none() || self.guardians.version != version {
            return Err(Rejection::GuardiansBusy);
        }
        if !self.guardians.renewed.insert(group.clone()) {
            return Err(Rejection::Nothing);
        }
        Ok(())
    }

    /// S12: only the new majority counts once every group's primary renews under both. A group without a primary
    /// waits: its seal needs both majorities.
    fn finish_guardians(&mut self, version: Version) -> Outcome {
        let ready =
            self.guardians.version == version && self.groups.keys().all(|group| self.guardians.renewed.contains(group));
        if !ready {
            return Err(Rejection::GuardiansBusy);
        }
        let next = self.guardians.next.take().ok_or(Rejection::Nothing)?;
        self.guardians.now = next;
        self.guardians.renewed.clear();
        self.guardians.version = self.guardians.version.next();
        Ok(())
    }
}

impl Group {
    fn introduce(&mut self, id: NodeId, intro: &GroupIntro) {
        if let Some(member) = self.members.get_mut(&id) {
            if member.announce != intro.announce {
                intro.announce.clone_into(&mut member.announce);
                self.version = self.version.next();
            }
            return;
        }
        let member = Member { announce: intro.announce.clone(), priority: intro.priority, adopted: false };
        self.members.insert(id, member);
        self.version = self.version.next();
        self.fit_quorum();
    }

    /// Out of F, and counted on until it is settled what it held.
    fn depart(&mut self, node: NodeId) {
        self.followers.remove(&node);
        let announce = self.members.get(&node).map(|member| member.announce.clone()).unwrap_or_default();
        self.departed.insert(node, Departed { since: self.version.next(), announce });
    }

    /// A member is gone by an operator's word: that it is detached must be seen after this commit, not before.
    fn forget(&mut self, node: NodeId) {
        if let Some(departed) = self.departed.get_mut(&node) {
            departed.since = self.version.next();
        }
        // Nobody waits for the report of one that is gone.
        self.forced = self.forced.filter(|forced| *forced != node);
    }

    /// W is a majority of the data members. When it rises, R keeps the old one until that is settled (S5).
    fn fit_quorum(&mut self) {
        let fitting = u32::try_from(majority(self.members.len())).unwrap_or(u32::MAX);
        if fitting > self.quorum && self.primary.is_some() {
            // Of several rises the first W counts, until all have passed what was written before the last.
            let old = self.former_quorum.as_ref().map_or(self.quorum, |former| former.quorum);
            self.former_quorum = Some(FormerQuorum { quorum: old, since: self.version });
        }
        self.quorum = fitting;
        if self.former_quorum.as_ref().is_some_and(|former| former.quorum >= fitting) {
            self.former_quorum = None;
        }
    }

    fn apply(&mut self, expect: Expect, change: &GroupCommand) -> Outcome {
        if expect != self.expect() {
            return Err(Rejection::Outdated { epoch: self.epoch });
        }
        match change {
            GroupCommand::Seal { why } => self.seal(*why),
            GroupCommand::Promote { .. } => self.promote(change),
            GroupCommand::Switch { to, why } => self.switch(*to, *why),
            GroupCommand::SwitchOff => self.switch_off(),
            GroupCommand::Force { node } => self.force(*node),
            GroupCommand::Follow { node, run_id } => self.follow(*node, run_id),
            GroupCommand::Leaving { node, since } => self.leaving(*node, *since),
            GroupCommand::Left { node, since } => {
                self.follower(*node, *since)?.leaving.ok_or(Rejection::Nothing)?;
                if self.enough_without(*node) {
                    self.followers.remove(node);
                } else {
                    self.depart(*node);
                }
                Ok(())
            }
            GroupCommand::Drop { node, since } => {
                self.follower(*node, *since)?;
                self.depart(*node);
                Ok(())
            }
            GroupCommand::QuorumSettled { since } => match &self.former_quorum {
                Some(former) if former.since == *since => {
                    self.former_quorum = None;
                    Ok(())
                }
                _ => Err(Rejection::Nothing),
            },
            GroupCommand::Settled { node, since } => match self.departed.get(node) {
                Some(_) if !self.enough_without(*node) => Err(Rejection::StillNeeded(*node)),
                Some(known) if known.since == *since => {
                    self.departed.remove(node);
                    Ok(())
                }
                Some(_) => Err(Rejection::Nothing),
                None => Err(Rejection::NoSuchNode(*node)),
            },
            _ => self.apply_setting(change),
        }
    }

    fn apply_setting(&mut self, change: &GroupCommand) -> Outcome {
        match change {
            GroupCommand::Diverged { node, epoch, lost } => {
                let change = self.history.iter_mut().find(|change| change.epoch == *epoch);
                let change = change.ok_or(Rejection::Nothing)?;
                let known = change.diverged.insert(*node, lost.clone());
                if known.as_ref() == Some(lost) { Err(Rejection::Nothing) } else { Ok(()) }
            }
            GroupCommand::Explained { node, epoch, cause } => {
                let change = self.history.iter_mut().find(|change| change.epoch == *epoch);
                let change = change.filter(|change| change.from == Some(*node) && change.cause.is_none());
                let mut end = cause.len().min(CAUSE_LIMIT);
                while !cause.is_char_boundary(end) {
                    end -= 1;
                }
                change.ok_or(Rejection::Nothing)?.cause = Some(cause[..end].to_owned());
                Ok(())
            }
            GroupCommand::RemoveMember { node } => {
                if self.is_candidate(*node) {
                    return Err(Rejection::StillNeeded(*node));
                }
                self.members.remove(node).ok_or(Rejection::NoSuchNode(*node))?;
                self.forget(*node);
                self.fit_quorum();
                Ok(())
            }
            GroupCommand::Pause(pause) => {
                self.pause = Some(pause.clone());
                self.paused_at = self.version.next();
                Ok(())
            }
            GroupCommand::Resume => self.pause.take().map(|_| ()).ok_or(Rejection::Nothing),
            GroupCommand::PauseOver { since } if self.paused_at == *since => {
                self.pause.take().map(|_| ()).ok_or(Rejection::Nothing)
            }
            GroupCommand::SetPriority { node, priority } => {
                let member = self.members.get_mut(node).ok_or(Rejection::NoSuchNode(*node))?;
                member.priority = *priority;
                Ok(())
            }
            GroupCommand::SetDurability(durability) => {
                self.durability = *durability;
                Ok(())
            }
            GroupCommand::Bootstrap { node } => {
                if !self.members.contains_key(node) {
                    return Err(Rejection::NoSuchNode(*node));
                }
                // Once somebody serves, it can only be said that what else is there is given up.
                if self.epoch.0 != 0 && self.primary_node() != Some(*node) {
                    return Err(Rejection::NotPromotable(*node));
                }
                let known = self.bootstrap.replace(*node) == Some(*node);
                if known && self.members.values().all(|member| member.adopted) {
                    return Err(Rejection::Nothing);
                }
                self.members.values_mut().for_each(|member| member.adopted = true);
                Ok(())
            }
            _ => Err(Rejection::Nothing),
        }
    }

    /// The very admission that the proposer saw: a delayed leave must not hit a newer one (S5).
    fn follower(&mut self, node: NodeId, since: Version) -> Result<&mut Follower, Rejection> {
        match self.followers.get_mut(&node) {
            Some(follower) if follower.since == since => Ok(follower),
            Some(_) => Err(Rejection::Nothing),
            None => Err(Rejection::NoSuchNode(node)),
        }
    }

    fn leaving(&mut self, node: NodeId, since: Version) -> Outcome {
        let other = self.followers.iter().find(|(other, follower)| **other != node && follower.leaving.is_some());
        if let Some((other, _)) = other {
            return Err(Rejection::AnotherLeaves(*other));
        }
        let now = self.version.next();
        let follower = self.follower(node, since)?;
        if follower.leaving.is_some() {
            return Err(Rejection::Nothing);
        }
        follower.leaving = Some(now);
        Ok(())
    }

    /// What a proposer that saw this state expects.
    pub fn expect(&self) -> Expect {
        let phase = match self.phase {
            Phase::Stable => PhaseKind::Stable,
            Phase::Sealing { .. } => PhaseKind::Sealing,
            Phase::Switching { .. } => PhaseKind::Switching,
        };
        Expect { epoch: self.epoch, phase, paused_at: self.paused_at }
    }

    fn seal(&mut self, why: Why) -> Outcome {
        if matches!(self.phase, Phase::Sealing { .. }) {
            return Err(Rejection::Nothing);
        }
        let to = match &self.phase {
            Phase::Switching { to, .. } => Some(*to),
            _ => None,
        };
        self.phase = Phase::Sealing { next: self.epoch.next(), why, to };
        Ok(())
    }

    /// The same seal as of any change; only the choice that follows is the operator's.
    fn force(&mut self, node: NodeId) -> Outcome {
        let member = self.members.get(&node).ok_or(Rejection::NoSuchNode(node))?;
        if member.priority == 0 {
            return Err(Rejection::NotPromotable(node));
        }
        if self.forced == Some(node) {
            return Err(Rejection::Nothing);
        }
        if !matches!(self.phase, Phase::Sealing { .. }) {
            self.seal(Why::Operator)?;
        }
        self.forced = Some(node);
        Ok(())
    }

    fn promote(&mut self, change: &GroupCommand) -> Outcome {
        let GroupCommand::Promote { successor, run_id, start, data, guarantee, at_unix_ms } = change else {
            return Err(Rejection::Nothing);
        };
        let Phase::Sealing { next, why, .. } = self.phase else {
            return Err(Rejection::Outdated { epoch: self.epoch });
        };
        let member = self.members.get(successor).ok_or(Rejection::NoSuchNode(*successor))?;
        if member.priority == 0 {
            return Err(Rejection::NotPromotable(*successor));
        }
        // S13: what others hold was given up for the data of the node that an operator had chosen, if that has any. A force
        // asks neither: they are kept apart until it is said again.
        let given_up = self.epoch.0 != 0 || *guarantee != Guarantee::Forced;
        for (node, member) in &mut self.members {
            member.adopted = (member.adopted && given_up) || node == successor;
        }
        let from = self.primary.replace(Incumbent { node: *successor, run_id: run_id.clone() });
        if let Some(old) = &from
            && old.node != *successor
            && self.members.contains_key(&old.node)
        {
            let follower = Follower { since: self.version.next(), run_id: old.run_id.clone(), leaving: None };
            self.followers.insert(old.node, follower);
        }
        self.followers.remove(successor);
        self.departed.remove(successor);
        self.epoch = next;
        self.phase = Phase::Stable;
        self.forced = None;
        let begun = Start { successor: *successor, run_id: run_id.clone(), offset: *start, data: *data };
        self.starts.insert(next, begun);
        while self.starts.len() > START_LIMIT {
            self.starts.pop_first();
        }
        self.history.push_back(Change {
            epoch: next,
            from: from.map(|old| old.node),
            to: *successor,
            why,
            guarantee: *guarantee,
            at_unix_ms: *at_unix_ms,
            diverged: BTreeMap::new(),
            cause: None,
        });
        while self.history.len() > HISTORY_LIMIT {
            self.history.pop_front();
        }
        Ok(())
    }

    fn switch(&mut self, to: NodeId, why: Why) -> Outcome {
        if !matches!(self.phase, Phase::Stable) {
            return Err(Rejection::Outdated { epoch: self.epoch });
        }
        let fit = self.followers.get(&to).is_some_and(|follower| follower.leaving.is_none())
            && self.members.get(&to).is_some_and(|member| member.priority > 0);
        if !fit {
            return Err(Rejection::NotPromotable(to));
        }
        self.phase = Phase::Switching { to, why };
        Ok(())
    }

    fn switch_off(&mut self) -> Outcome {
        if !matches!(self.phase, Phase::Switching { .. }) {
            return Err(Rejection::Nothing);
        }
        self.phase = Phase::Stable;
        Ok(())
    }

    fn follow(&mut self, node: NodeId, run_id: &RunId) -> Outcome {
        if self.primary_node() == Some(node) || matches!(self.phase, Phase::Sealing { .. }) {
            return Err(Rejection::Outdated { epoch: self.epoch });
        }
        let member = self.members.get_mut(&node).ok_or(Rejection::NoSuchNode(node))?;
        member.adopted = true;
        let entry = Follower { since: self.version.next(), run_id: run_id.clone(), leaving: None };
        self.followers.insert(node, entry);
        // In F again it counts there, and proves its data anew at an offset of after this commit.
        self.departed.remove(&node);
        Ok(())
    }
}
