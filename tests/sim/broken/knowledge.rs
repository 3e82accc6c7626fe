//! Breakages of what an agent knows, before and after each of its rounds.

use crate::agent::{host_of, id};
use crate::mutation::Mutation;
use crate::redis::{Command, Upstream};
use crate::world::{World, place};
use mainstay::cluster::{Durability, Group, GroupName, Lineage, Local, NodeId, Offset, Phase, State, Why};
use mainstay::decide::Action;
use mainstay::view::{Condition, Item, Moment, Poll, Posture, Slot, Stamp, View, What};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Changes the state that one agent believes in.
fn believe(view: &mut View, change: impl FnOnce(&mut State)) {
    let mut state = (*view.state).clone();
    change(&mut state);
    view.state = Arc::new(state);
}

impl World {
    /// What a starting agent finds.
    pub fn start_mutation(
        &mut self,
        host: usize,
        stamps: BTreeMap<GroupName, Stamp>,
    ) -> (BTreeMap<GroupName, Stamp>, Local) {
        let mut local = self.hosts[host].disk.clone();
        match self.mutation {
            Some(Mutation::SealsAtOnceRestarted) => local.longest_lease = Duration::ZERO,
            Some(Mutation::ShorterLeaseInFile) => local.longest_lease /= 8,
            Some(Mutation::StateGoesBack) => self.hosts[host].applied /= 2,
            _ => {}
        }
        (stamps, local)
    }

    /// Before a round.
    pub fn before_mutation(&mut self, host: usize, what: &What) {
        let Some(mutation) = self.mutation else { return };
        if matches!(what, What::Tick { .. }) {
            self.tick_mutation(mutation, host);
        }
        let names = self.names.clone();
        let quorum = self.committed().groups.values().any(|group| group.durability == Durability::Quorum);
        if mutation == Mutation::QuorumColdStart && !quorum {
            return;
        }
        let Some(agent) = self.hosts[host].agent.as_mut() else { return };
        let view = &mut agent.view;
        names.iter().for_each(|name| before_group(mutation, view, name));
        names.iter().for_each(|name| super::force::before_round(mutation, view, name));
        match mutation {
            Mutation::PromiseNotDurable => view.saved.longest_lease = view.local.longest_lease,
            Mutation::PauseIgnored if view.state.groups.values().any(|group| group.pause.is_some()) => {
                believe(view, |state| state.groups.values_mut().for_each(|group| group.pause = None));
            }
            Mutation::QuorumUnproved if view.leadership.leading => {
                let quorum = view.state.groups.values().any(|group| group.durability == Durability::Quorum);
                if quorum {
                    believe(view, |state| {
                        state.groups.values_mut().for_each(|group| group.durability = Durability::Available);
                    });
                }
            }
            Mutation::QuorumDropsSilent | Mutation::QuorumColdStart if view.leadership.leading => {
                let stable = mutation == Mutation::QuorumDropsSilent;
                believe(view, |state| {
                    let sealing = |group: &Group| matches!(group.phase, Phase::Sealing { .. });
                    state.groups.values_mut().filter(|group| sealing(group) != stable).for_each(|group| {
                        group.durability = Durability::Available;
                    });
                });
            }
            Mutation::SilenceIsVacancy => silence_is_vacancy(view, &names),
            Mutation::StalePollAnswers => {
                let known = self.books[0].vacancies.entry(host).or_default();
                if let Some(poll) = view.poll.as_mut() {
                    for (key, said) in &mut *known {
                        poll.vacant.entry(key.clone()).or_default().extend(said.iter().copied());
                    }
                    known.clone_from(&poll.vacant);
                }
            }
            _ => {}
        }
    }

    fn tick_mutation(&mut self, mutation: Mutation, host: usize) {
        match mutation {
            Mutation::LineageAtOnce => (0..self.names.len()).for_each(|group| self.claim_lineage(place(host, group))),
            Mutation::FollowsWithoutCommit => {
                (0..self.names.len()).for_each(|group| self.follow_uncommitted(place(host, group)));
            }
            _ => {}
        }
    }

    fn claim_lineage(&mut self, at: usize) {
        let (name, host) = (self.name_at(at), crate::world::host_at(at));
        let Some(agent) = self.hosts[host].agent.as_mut() else { return };
        let Some(group) = agent.view.group(&name).cloned() else { return };
        let Some(seat) = agent.view.seats.get(&name) else { return };
        let run_id = seat.instance.run_id().cloned();
        if let (Posture::Following(epoch), Some(run_id)) = (seat.instance.posture, run_id)
            && group.followers.contains_key(&id(host))
            && let Some(local) = agent.view.local.groups.get_mut(&name)
            && local.lineage.is_none()
        {
            local.lineage = Some(Lineage { run_id, epoch });
        }
    }

    /// The last member follows without ever asking to be let in.
    fn follow_uncommitted(&mut self, at: usize) {
        let (name, host) = (self.name_at(at), crate::world::host_at(at));
        let Some(agent) = self.hosts[host].agent.as_ref().filter(|_| self.is_stranger(at)) else { return };
        let Some(group) = agent.view.group(&name) else { return };
        let stable = matches!(group.phase, Phase::Stable) && !group.followers.contains_key(&id(host));
        let Some(primary) = group.primary_node().filter(|node| *node != id(host) && stable) else { return };
        let primary = place(host_of(primary), crate::world::group_at(at));
        if self.insts[at].redis.upstream == Some(Upstream::Nowhere) {
            self.command(at, 0, Command::ReplicaOf(primary));
        }
    }

    /// The member that the mutation is about: the last one of the first group.
    pub fn is_stranger(&self, at: usize) -> bool {
        let last = (0..crate::world::WIDTH).rev().find(|at| self.insts[*at].member);
        self.mutation == Some(Mutation::FollowsWithoutCommit) && last == Some(at)
    }

    /// After a round: what it hands out, and what it remembers.
    pub fn action_mutation(
        &mut self,
        host: usize,
        before: &BTreeMap<GroupName, Option<Lineage>>,
        actions: Vec<Action>,
    ) -> Vec<Action> {
        let Some(mutation) = self.mutation else { return actions };
        let mut actions = actions;
        match mutation {
            Mutation::MinReplicasZero => actions.iter_mut().for_each(|action| match action {
                Action::Serve { min_replicas, .. } | Action::Tune { min_replicas, .. } => *min_replicas = 0,
                _ => {}
            }),
            Mutation::StampTooLong => actions.iter_mut().for_each(|action| {
                if let Action::Stamp { until, .. } = action {
                    *until = *until + Duration::from_millis(700);
                }
            }),
            Mutation::NoFenceAtLapse => actions
                .retain(|action| !matches!(action, Action::Fence { why: Why::LeaseLapsed | Why::PrimarySilent, .. })),
            Mutation::RemoteSealNever => actions.retain(|action| !matches!(action, Action::SealRemote { .. })),
            Mutation::QuorumRunsLow => actions.iter_mut().for_each(|action| match action {
                Action::Serve { min_replicas, .. } | Action::Tune { min_replicas, .. } => {
                    *min_replicas = (*min_replicas).min(1);
                }
                _ => {}
            }),
            Mutation::HungNeverKilled => self.never_kills(host, &mut actions),
            Mutation::NeverGivesUp => self.never_gives_up(host, &mut actions),
            // The promises are counted before anything else is noticed.
            Mutation::QueuedPromisesCount if self.now < self.hosts[host].excused_until => {
                self.never_gives_up(host, &mut actions);
            }
            Mutation::VipWithoutLease => self.vip_without_lease(host, &mut actions),
            Mutation::SyncKeepsLineage => self.keep_lineage(host, before),
            _ => {}
        }
        actions
    }

    fn never_kills(&mut self, host: usize, actions: &mut Vec<Action>) {
        let Some(agent) = self.hosts[host].agent.as_mut() else { return };
        actions.retain(|action| {
            let Action::Kill { group } = action else { return true };
            if let Some(seat) = agent.view.seats.get_mut(group) {
                seat.instance.task = None;
            }
            false
        });
    }

    fn never_gives_up(&mut self, host: usize, actions: &mut Vec<Action>) {
        let Some(agent) = self.hosts[host].agent.as_mut() else { return };
        actions.retain(|action| {
            let why = match action {
                Action::Fence { why, group, .. } => Some((why, group)),
                _ => None,
            };
            let Some((_, group)) = why.filter(|(why, _)| matches!(why, Why::NeverServed | Why::LeaseLapsed)) else {
                return true;
            };
            if let Some(seat) = agent.view.seats.get_mut(group) {
                seat.lease.given_up = None;
                seat.instance.task = None;
            }
            false
        });
    }

    fn vip_without_lease(&self, host: usize, actions: &mut Vec<Action>) {
        let held = |group: &GroupName| self.insts[place(host, self.group_of(group))].vip_until > self.now;
        for action in actions {
            if let Action::DropVip { group } = action
                && held(group)
            {
                *action = Action::HoldVip { group: group.clone(), until: Moment(u64::MAX) };
            }
        }
    }

    fn keep_lineage(&mut self, host: usize, before: &BTreeMap<GroupName, Option<Lineage>>) {
        let Some(agent) = self.hosts[host].agent.as_mut() else { return };
        for (name, lineage) in before {
            let run_id = agent.view.seats.get(name).and_then(|seat| seat.instance.run_id()).cloned();
            let Some(local) = agent.view.local.groups.get_mut(name) else { continue };
            if local.lineage.is_none()
                && lineage.as_ref().is_some_and(|lineage| Some(&lineage.run_id) == run_id.as_ref())
            {
                local.lineage.clone_from(lineage);
                local.voided = None;
            }
        }
    }

    /// What each group's record says of lineage.
    pub fn lineages(&self, host: usize, what: &What) -> BTreeMap<GroupName, Option<Lineage>> {
        let keeps = self.mutation == Some(Mutation::SyncKeepsLineage) && !matches!(what, What::Applied(_));
        let agent = self.hosts[host].agent.as_ref().filter(|_| keeps);
        let groups = agent.into_iter().flat_map(|agent| &agent.view.local.groups);
        groups.map(|(name, local)| (name.clone(), local.lineage.clone())).collect()
    }

    /// After a round that heard something: the lease counts for more than it is.
    pub fn lease_mutation(&mut self, host: usize, heard: &[(GroupName, NodeId)]) {
        let Some(agent) = self.hosts[host].agent.as_mut() else { return };
        let view = &mut agent.view;
        let lease = view.lease();
        for (name, from) in heard {
            let guardians = view.state.guardians.clone();
            let Some(seat) = view.seats.get_mut(name) else { continue };
            let Some(end) = seat.lease.promised.get(from).copied() else { continue };
            match self.mutation {
                Some(Mutation::WholeLease) => {
                    // Once for each promise: what was made longer before is not made longer again.
                    let whole = end + lease / 6;
                    let known = self.books[0].stretched.entry((host, *from)).or_default();
                    if *known != end {
                        *known = whole;
                        seat.lease.promised.insert(*from, whole);
                    }
                }
                Some(Mutation::CountsOldMajority) if guardians.now.contains(from) => {
                    for new in guardians.next.iter().flatten().filter(|node| !guardians.now.contains(node)) {
                        let known = seat.lease.promised.entry(*new).or_default();
                        *known = end.max(*known);
                    }
                }
                _ => {}
            }
        }
    }

    /// The promises in a message.
    pub fn promises_in(&self, what: &What) -> Vec<(GroupName, NodeId)> {
        let wanted = matches!(self.mutation, Some(Mutation::WholeLease | Mutation::CountsOldMajority));
        let What::Heard { from, items } = what else { return Vec::new() };
        let promise = |item: &Item| match item {
            Item::Promise { group, .. } => Some((group.clone(), *from)),
            _ => None,
        };
        if wanted { items.iter().filter_map(promise).collect() } else { Vec::new() }
    }
}

fn before_group(mutation: Mutation, view: &mut View, name: &GroupName) {
    let Some(group) = view.state.groups.get(name).cloned() else { return };
    let sealing = matches!(group.phase, Phase::Sealing { .. });
    let all = view.state.guardians.all();
    let next_set = view.state.guardians.next.clone();
    let local = view.local.groups.entry(name.clone()).or_default();
    let Some(seat) = view.seats.get_mut(name) else { return };
    match mutation {
        Mutation::PauseForEver => seat.pause_seen = None,
        Mutation::SealsEarly if sealing => seat.promise = None,
        Mutation::SealNotDurable => {
            let sealed = local.guardian_sealed;
            view.saved.groups.entry(name.clone()).or_default().guardian_sealed = sealed;
        }
        Mutation::ReportNotDurable => {
            let record = local.clone();
            let saved = view.saved.groups.entry(name.clone()).or_default();
            (saved.member_sealed, saved.lineage) = (record.member_sealed, record.lineage);
        }
        Mutation::PromisesBelowSeal if sealing && !view.leadership.leading => {
            // Once it has sealed it promises as if it had not.
            let sealed = view.saved.groups.get(name).is_some_and(|saved| saved.guardian_sealed > group.epoch);
            if !sealed {
                return;
            }
            seat.surrendered = None;
            local.guardian_sealed = mainstay::cluster::Epoch(0);
            let version = group.version;
            believe(view, |state| {
                if let Some(group) = state.groups.get_mut(name) {
                    group.phase = Phase::Stable;
                    group.version = version;
                }
            });
        }
        Mutation::PromotesWithoutSeals if sealing && view.leadership.leading => {
            all.iter().for_each(|node| {
                seat.seals.insert(*node, group.epoch.next());
            });
        }
        Mutation::SealsByOneMajority if sealing && view.leadership.leading => {
            let Some(next) = next_set else { return };
            let sealed = |node: &&NodeId| seat.seals.get(node).is_some_and(|sealed| *sealed > group.epoch);
            if next.iter().filter(sealed).count() > next.len() / 2 {
                all.iter().for_each(|node| {
                    seat.seals.insert(*node, group.epoch.next());
                });
            }
        }
        _ => before_member(mutation, view, name, &group),
    }
}

fn before_member(mutation: Mutation, view: &mut View, name: &GroupName, group: &Group) {
    let sealing = matches!(group.phase, Phase::Sealing { .. });
    let now = view.now;
    let local = view.local.groups.entry(name.clone()).or_default();
    let Some(seat) = view.seats.get_mut(name) else { return };
    match mutation {
        Mutation::VacantAtOnce => {
            seat.promoted_at = Moment(0);
            view.started = Moment(0);
        }
        Mutation::LineageFromLink => {
            if let (Posture::Following(epoch), Some(lineage)) = (seat.instance.posture, local.lineage.as_mut())
                && seat.instance.seen().is_some_and(|info| info.link_up)
            {
                lineage.epoch = epoch;
            }
        }
        Mutation::AvailableHurries if group.durability == Durability::Available => seat.sealing_at = Moment(0),
        Mutation::FailedServesAgain => believe(view, |state| {
            let phase = state.groups.get_mut(name).map(|group| &mut group.phase);
            if let Some(Phase::Sealing { why, .. }) = phase
                && matches!(why, Why::NeverServed | Why::InstanceFailed)
            {
                *why = Why::PrimarySilent;
            }
        }),
        Mutation::NobodyIsMissed => seat.missing.clear(),
        Mutation::LeftUnsealed => {
            let leaving = group.followers.iter().filter_map(|(node, follower)| Some((*node, follower.leaving?)));
            leaving.for_each(|(node, version)| {
                seat.rested.entry(node).or_insert((version, Moment(0)));
            });
        }
        Mutation::LeftUnpassed => seat.leave_marks.values_mut().for_each(|(_, mark)| *mark = Offset(0)),
        Mutation::FaultsForgotten => seat.faults.clear(),
        Mutation::AllSyncAtOnce => {
            if let Some(serving) = seat.renewal.as_mut().and_then(|(_, renewal)| renewal.serving.as_mut()) {
                serving.full = Slot::Free;
            }
        }
        Mutation::KillsLoading if seat.instance.condition == Condition::Loading => {
            seat.instance.condition = Condition::Silent { still: Some(Moment(0)) };
        }
        Mutation::MinReplicasForgotten => seat.membership.inherited = false,
        Mutation::LossCountedZero => {
            if let Some(found) = &mut local.diverged {
                found.bytes = found.bytes.map(|_| 0);
            }
        }
        Mutation::UnknownLossIsNone => {
            if let Some(found) = &mut local.diverged {
                found.bytes.get_or_insert(0);
            }
        }
        Mutation::QuarantineSkipped => {
            if let Some(found) = &mut local.diverged {
                found.saved = true;
            }
        }
        Mutation::FollowsInSilence => {
            if let Some((heard, _)) = seat.renewal.as_mut() {
                *heard = now;
            }
        }
        Mutation::ColdStartHurries
        | Mutation::ColdStartWaitsForNobody
        | Mutation::EmptyWhileMissing
        | Mutation::QuorumColdStart
            if sealing =>
        {
            if mutation == Mutation::EmptyWhileMissing {
                let own = seat.membership.report.as_mut();
                seat.reports.values_mut().chain(own).for_each(|report| report.keys = report.keys.max(1));
            }
            seat.sealing_at = Moment(0);
            view.started = Moment(0);
            view.peers.values_mut().for_each(|peer| peer.link = false);
        }
        Mutation::EmptyChosen => {
            if let Some(report) = seat.membership.report.as_mut().filter(|report| report.keys > 1) {
                report.keys = 0;
            }
        }
        _ => {}
    }
}

fn silence_is_vacancy(view: &mut View, names: &[GroupName]) {
    if !view.leadership.leading {
        return;
    }
    let lease = view.lease();
    let silent: Vec<NodeId> = view
        .state
        .guardians
        .all()
        .into_iter()
        .filter(|node| *node != view.me)
        .filter(|node| view.peers.get(node).and_then(|peer| peer.heard).is_none_or(|at| view.now.since(at) > lease / 2))
        .collect();
    let epochs: Vec<_> =
        names.iter().filter_map(|name| view.group(name).map(|group| (name.clone(), group.epoch))).collect();
    let now = view.now;
    let poll = view.poll.get_or_insert_with(|| Poll { id: 1, sent_at: now, ..Poll::default() });
    for key in epochs {
        poll.vacant.entry(key).or_default().extend(silent.iter().copied());
    }
}
