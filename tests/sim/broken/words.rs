//! Breakages of what is heard, proposed and committed.

use super::force::Said;
use crate::agent::id;
use crate::mutation::Mutation;
use crate::world::World;
use mainstay::cluster::{Command, Epoch, GroupCommand, Guarantee, NodeId, Rejection, State};
use mainstay::view::{Item, Report, Sight, What};

impl World {
    /// Before an agent hears of it.
    pub fn event_mutation(&mut self, host: usize, what: &mut What) {
        let Some(mutation) = self.mutation else { return };
        match what {
            What::Heard { from, items } => {
                for item in items.iter_mut() {
                    self.item_mutation(mutation, host, *from, item);
                }
            }
            What::Instance { group, seen } => {
                if mutation == Mutation::AnotherProcessServes
                    && let Sight::Info(info) = seen
                    && let Some(primary) = self.committed().groups.get(group).and_then(|group| group.primary.clone())
                    && primary.node == id(host)
                {
                    info.run_id = primary.run_id;
                }
            }
            _ => {}
        }
    }

    fn item_mutation(&mut self, mutation: Mutation, host: usize, from: NodeId, item: &mut Item) {
        let now = self.hosts[host].clock(self.now);
        let thawed = self.now < self.hosts[host].excused_until;
        match (mutation, item) {
            (Mutation::UnseenIsDown, Item::Health(said)) if said.posture == "unseen" => {
                "down".clone_into(&mut said.posture)
            }
            (Mutation::UnusableIsDown, Item::Health(said)) if said.posture == "unusable" => {
                "down".clone_into(&mut said.posture)
            }
            (Mutation::GroupsConfused, Item::Promise { group, epoch, .. }) => {
                let state = self.committed();
                let twin = self
                    .names
                    .iter()
                    .find(|name| *name != group && state.groups.get(*name).is_some_and(|g| g.epoch == *epoch));
                if let Some(twin) = twin {
                    *group = twin.clone();
                }
            }
            (Mutation::LeaseFromReply, Item::Promise { sent_at, .. }) => *sent_at = now,
            (Mutation::QueuedPromisesCount, Item::Promise { sent_at, .. }) if thawed => *sent_at = now,
            (Mutation::OffsetWithoutLineage, Item::Report(report)) if report.lineage.is_some() => {
                report.lineage = Some(Epoch(u64::MAX));
            }
            (Mutation::OldReportUsed, Item::Report(report)) => {
                let group = self.group_of(&report.group);
                let known = self.books[group].reports.entry((host, from)).or_insert_with(|| report.clone());
                if known.run_id == report.run_id {
                    report.offset = known.offset;
                } else {
                    known.clone_from(report);
                }
            }
            (Mutation::EmptyChosen, Item::Report(report)) => {
                report.keys = u64::from(report.keys == 0);
            }
            _ => {}
        }
    }

    /// Whether a proposal is swallowed.
    pub fn propose_mutation(&mut self, from: usize, command: &mut Command) -> bool {
        let Command::Group { group, change, .. } = command else {
            if let (Command::Introduce { groups, .. }, Some(Mutation::PriorityZeroPromoted)) = (command, self.mutation)
            {
                groups.iter_mut().for_each(|intro| intro.priority = intro.priority.max(500));
            }
            return false;
        };
        match change {
            GroupCommand::Diverged { .. } => self.mutation == Some(Mutation::LossUntold),
            GroupCommand::Promote { successor, .. } if self.is_barred(from, group, *successor) => true,
            GroupCommand::Follow { .. } => self.is_stranger(crate::world::place(from, self.group_of(group))),
            GroupCommand::Promote { guarantee, successor, run_id, start, .. } => {
                if self.mutation == Some(Mutation::KeptUnproved) && *guarantee == Guarantee::BestReached {
                    *guarantee = Guarantee::Kept;
                }
                let mut said =
                    Said { successor: *successor, run_id: run_id.clone(), start: *start, guarantee: *guarantee };
                self.promote_mutation(from, group, &mut said);
                (*successor, *run_id, *start, *guarantee) = (said.successor, said.run_id, said.start, said.guarantee);
                let worst = self.worst_report(from, group).filter(|_| *guarantee == Guarantee::Kept);
                if let Some((node, report)) = worst {
                    (*successor, *run_id, *start) = (node, report.run_id, report.offset);
                }
                false
            }
            _ => false,
        }
    }

    /// Flap protection that goes too far.
    fn is_barred(&self, leader: usize, name: &mainstay::cluster::GroupName, node: NodeId) -> bool {
        let view = self.hosts[leader].agent.as_ref().map(|agent| &agent.view);
        let seat = view.and_then(|view| view.seats.get(name));
        let flaps = view.zip(seat).is_some_and(|(view, seat)| seat.flaps(node, view.now, view.lease()));
        self.mutation == Some(Mutation::PenanceBarsAll) && flaps
    }

    fn worst_report(&self, leader: usize, name: &mainstay::cluster::GroupName) -> Option<(NodeId, Report)> {
        if self.mutation != Some(Mutation::WorstDataWins) {
            return None;
        }
        let view = &self.hosts[leader].agent.as_ref()?.view;
        let (group, seat) = (view.group(name)?, view.seats.get(name)?);
        let next = group.epoch.next();
        let fit = seat.reports.iter().filter(|(node, report)| {
            let promotable = group.members.get(node).is_some_and(|member| member.priority > 0);
            report.next == next && report.lineage.is_some() && promotable && group.is_candidate(**node)
        });
        fit.min_by_key(|(_, report)| (report.lineage, report.offset)).map(|(node, report)| (*node, report.clone()))
    }

    /// Before a command is applied.
    pub fn expect_mutation(&self, state: &State, command: &Command) -> Option<Command> {
        let Command::Group { group, change, .. } = command else { return None };
        let found = state.groups.get(group).filter(|_| self.mutation == Some(Mutation::CompareForgotten))?;
        Some(Command::Group { group: group.clone(), expect: found.expect(), change: change.clone() })
    }

    /// After a command was applied.
    pub fn apply_mutation(
        &self,
        state: &mut State,
        command: &Command,
        outcome: Result<(), Rejection>,
    ) -> Result<(), Rejection> {
        match (self.mutation, command) {
            (
                Some(Mutation::OldLeaveCommits),
                Command::Group { group, change: GroupCommand::Left { node, .. }, .. },
            ) => {
                let Some(group) = state.groups.get_mut(group).filter(|_| outcome.is_err()) else { return outcome };
                group.version = group.version.next();
                return group.followers.remove(node).map(|_| ()).ok_or(Rejection::Nothing);
            }
            (Some(Mutation::DepartedNotCounted), Command::Group { .. }) => {
                state.groups.values_mut().for_each(|group| group.departed.clear());
            }
            (Some(Mutation::NewQuorumAtOnce), _) => {
                state.groups.values_mut().for_each(|group| group.former_quorum = None);
            }
            (Some(Mutation::GuardiansAtOnce), Command::Guardians(_)) => {
                if let Some(next) = state.guardians.next.take() {
                    state.guardians.now = next;
                }
            }
            _ => {}
        }
        outcome
    }
}
