//! The fold: one event at a time into the view.

use super::event::{Info, Item, Noted, Outcome, Renewal, Sight, Task, Topic, VipSight, What};
use super::moment::Moment;
use super::seat::{Condition, Posture, Promise, RemoteSeal, Seat};
use super::{Poll, View};
use crate::cluster::{Epoch, GroupName, NodeId, Phase};
use std::sync::Arc;
use std::time::Duration;

/// No lease is longer: a garbled renewal must not bind a guardian for years.
const LONGEST_LEASE: Duration = Duration::from_secs(60);

/// No address is longer: a name of 253 bytes, brackets and a port.
const LONGEST_ADDRESS: usize = 261;

/// A refused or lost proposal is not repeated sooner.
pub(super) const PROPOSAL_BACKOFF: Duration = Duration::from_millis(100);

/// A proposal whose end was never reported counts as lost; shells end theirs well before.
const PROPOSAL_LIMIT: Duration = Duration::from_secs(10);

impl View {
    pub(super) fn fold(&mut self, what: What) {
        match what {
            What::Tick { unix_ms } => self.unix_ms = unix_ms,
            What::Applied(state) => self.fold_applied(state),
            What::Leadership(leadership) => {
                if leadership.leading != self.leadership.leading {
                    self.poll = None;
                    self.seats.values_mut().for_each(|seat| seat.missing.clear());
                }
                self.leadership = leadership;
            }
            What::Saved(local) => {
                self.saving = None;
                self.saved = local;
                self.urgent = true;
            }
            What::Marked { group, epoch } => self.fold_marked(&group, epoch),
            What::Heard { from, items } => {
                self.peers.entry(from).or_default().heard = Some(self.now);
                for item in items {
                    self.fold_item(from, item);
                }
            }
            What::Link { node, up } => self.peers.entry(node).or_default().link = up,
            What::Instance { group, seen } => self.fold_sight(&group, seen),
            What::Newest { group, run_id, unix_ms } => self.fold_newest(&group, run_id, unix_ms),
            What::Vip { group, seen } => self.fold_vip(&group, seen),
            What::Done { group, task, epoch, outcome } => self.fold_done(&group, task, epoch, outcome),
            What::Proposed { topic, accepted } => self.fold_proposed(topic, accepted),
            What::Decided(noted) => self.fold_decided(noted),
            What::Stopping => {
                self.stopping.get_or_insert(self.now);
                for report in self.seats.values_mut().filter_map(|seat| seat.membership.report.as_mut()) {
                    report.stopping = true;
                }
                self.urgent = true;
            }
            What::Unit { group, seen } => self.fold_unit(&group, seen),
            What::Releasing { group } => self.fold_releasing(&group),
            What::Cause { group, epoch, text } => self.fold_cause(&group, epoch, text),
            What::FenceOrdered { group } => {
                // Where no primary is nothing is served, and what stands there all the same is taken down anyway.
                let own = self.group(&group).filter(|found| found.primary_node() == Some(self.me));
                let epoch = own.map(|found| found.epoch);
                self.seats.entry(group).or_default().fence_ordered = epoch;
            }
        }
    }

    /// What was accepted may not be applied here yet: until it is, the same wish would be proposed again.
    fn fold_proposed(&mut self, topic: Topic, accepted: bool) {
        let begun = self.proposed.get(&topic).map(|free_at| *free_at - PROPOSAL_LIMIT);
        let applied = match &topic {
            Topic::Group(name) | Topic::Own(name) => self.seats.get(name).map(|seat| seat.applied_at),
            Topic::Introduce | Topic::Guardians => None,
        };
        let seen = accepted && applied.is_some() && applied >= begun;
        self.proposed.insert(topic, if seen { self.now } else { self.now + PROPOSAL_BACKOFF });
    }

    fn fold_marked(&mut self, name: &GroupName, epoch: Epoch) {
        let Some(seat) = self.seats.get_mut(name) else { return };
        seat.lease.marked = seat.lease.marked.max(epoch);
        let why = seat.lease.given_up.map_or(crate::cluster::Why::LeaseLapsed, |(_, why)| why);
        if seat.surrendered.is_none_or(|(known, _)| known < epoch) {
            seat.surrendered = Some((epoch, why));
        }
        self.urgent = true;
    }

    fn fold_item(&mut self, from: NodeId, item: Item) {
        match item {
            Item::Renew(renewal) => self.fold_renewal(from, renewal),
            Item::Promise { group, epoch, sent_at } => self.fold_promise(from, &group, epoch, sent_at),
            Item::Surrender { group, epoch, why } => {
                let known = self.group(&group).is_some_and(|g| g.epoch == epoch && g.primary_node() == Some(from));
                let Some(seat) = self.seats.get_mut(&group) else { return };
                if known && seat.surrendered.is_none_or(|(known, _)| known < epoch) {
                    seat.surrendered = Some((epoch, why));
                    self.urgent = true;
                }
            }
            Item::Poll { id } => {
                self.polled.insert(from, id);
            }
            Item::Vacant { id, groups } => {
                if let Some(poll) = self.poll.as_mut().filter(|poll| poll.id == id) {
                    for key in groups {
                        poll.vacant.entry(key).or_default().insert(from);
                    }
                }
            }
            Item::Sealed { group, next } => {
                if let Some(seat) = self.seats.get_mut(&group) {
                    let known = seat.seals.entry(from).or_default();
                    *known = next.max(*known);
                }
            }
            Item::Report(report) => {
                if let Some(seat) = self.seats.get_mut(&report.group)
                    && seat.reports.get(&from).is_none_or(|known| known.next <= report.next)
                {
                    seat.reports.insert(from, report);
                    seat.reported_at.insert(from, self.now);
                }
            }
            Item::Rested { group, version } => self.fold_rested(from, &group, version),
            Item::Health(health) => {
                if let Some(seat) = self.seats.get_mut(&health.group) {
                    seat.health.insert(from, health);
                }
            }
            Item::Sentinel { address } => {
                let known = &mut self.peers.entry(from).or_default().sentinel;
                if known.as_ref() != Some(&address) && address.len() <= LONGEST_ADDRESS {
                    *known = Some(address);
                }
            }
        }
    }

    /// Whether this node may promise `epoch` of a group now (S2, S3). Every node may: one that is to become a guardian
    /// has then promised before the change counts it, and a primary counts guardians only (S12).
    fn may_promise(&self, name: &GroupName, epoch: Epoch) -> bool {
        let Some(group) = self.group(name) else { return false };
        let sealed = self.local.groups.get(name).map_or(Epoch(0), |local| local.guardian_sealed);
        let refused_phase = matches!(group.phase, Phase::Sealing { next, .. } if next > epoch);
        let seat = self.seats.get(name);
        let later = seat.and_then(|seat| seat.promise).is_some_and(|promise| promise.epoch > epoch);
        let given_up = seat.and_then(|seat| seat.surrendered).is_some_and(|(known, _)| known >= epoch);
        group.epoch <= epoch && sealed <= epoch && !refused_phase && !later && !given_up
    }

    /// S2: the promise holds for the whole duration the renewal carries.
    fn promise(&mut self, name: &GroupName, epoch: Epoch, lease: Duration) -> bool {
        if lease > LONGEST_LEASE || !self.may_promise(name, epoch) {
            return false;
        }
        self.local.longest_lease = self.local.longest_lease.max(lease);
        let until = self.now + lease;
        let Some(seat) = self.seats.get_mut(name) else { return false };
        let until = seat.promise.map_or(until, |old| old.until.max(until));
        seat.promise = Some(Promise { epoch, until });
        true
    }

    fn fold_renewal(&mut self, from: NodeId, renewal: Renewal) {
        let name = renewal.group.clone();
        let Some(group) = self.group(&name) else { return };
        let impostor = group.epoch == renewal.epoch && group.primary_node() != Some(from);
        if impostor || group.epoch > renewal.epoch {
            return;
        }
        if self.promise(&name, renewal.epoch, renewal.lease)
            && let Some(seat) = self.seats.get_mut(&name)
        {
            seat.owed.retain(|(to, _, _)| *to != from);
            seat.owed.push((from, renewal.epoch, renewal.sent_at));
            self.urgent = true;
        }
        self.fold_mark(&name, &renewal);
        let now = self.now;
        if let Some(seat) = self.seats.get_mut(&name) {
            let newer = seat
                .renewal
                .as_ref()
                .is_none_or(|(_, known)| (known.epoch, known.sent_at) < (renewal.epoch, renewal.sent_at));
            if newer {
                let mut renewal = renewal;
                seat.word.heard(now, &renewal);
                // A primary whose agent has just been restarted has not looked at its instance yet; it serves on.
                if let Some((_, known)) = seat.renewal.take().filter(|(_, known)| known.epoch == renewal.epoch)
                    && renewal.serving.is_none()
                {
                    renewal.serving = known.serving;
                    renewal.version = known.version;
                }
                seat.renewal = Some((now, renewal));
            }
        }
    }

    /// S1: counted from when the answered renewal was sent, and for 5/6 of the lease.
    fn fold_promise(&mut self, from: NodeId, name: &GroupName, epoch: Epoch, sent_at: Moment) {
        let lease = self.state.lease;
        let (now, state) = (self.now, Arc::clone(&self.state));
        let Some(seat) = self.seats.get_mut(name) else { return };
        if seat.lease.epoch != epoch || sent_at > now {
            return;
        }
        let until = sent_at + lease * 5 / 6;
        let known = seat.lease.promised.entry(from).or_default();
        *known = until.max(*known);
        let counted = seat.lease.counted(name, &state.guardians);
        seat.lease.held |= seat.lease.live(epoch, &counted, now);
    }

    fn fold_sight(&mut self, name: &GroupName, seen: Sight) {
        let now = self.now;
        let Some(seat) = self.seats.get_mut(name) else { return };
        match seen {
            // What was asked before a task ended shows what was before it; what it says against lineage counts all the same.
            Sight::Info(info) if seat.overtaken(&info) => self.fold_lineage(name, &info),
            Sight::Info(info) => self.fold_info(name, info),
            Sight::Loading => seat.instance.condition = Condition::Loading,
            Sight::Busy => {
                if !matches!(seat.instance.condition, Condition::Busy { .. }) {
                    seat.instance.condition = Condition::Busy { since: now };
                    seat.instance.script_killed = false;
                }
            }
            Sight::Silent { length, progress } => {
                let still = match seat.instance.condition {
                    _ if progress => None,
                    Condition::Silent { still: Some(since) } => Some(since),
                    // The first word comes early; a long one was stretched by this agent's own standstill.
                    _ => Some(now - length.min(super::STALL)),
                };
                seat.instance.condition = Condition::Silent { still };
            }
            Sight::Gone => {
                seat.instance.condition = Condition::Gone;
                seat.instance.info = None;
                seat.instance.posture = Posture::Unknown;
                seat.membership.report = None;
            }
            Sight::Unusable { why } => seat.instance.condition = Condition::Unusable { why },
        }
    }

    fn fold_info(&mut self, name: &GroupName, info: Info) {
        let now = self.now;
        self.fold_lineage(name, &info);
        self.fold_adoption(name, &info);
        let expected = self.expected_upstream(name, &info);
        let version = self.group(name).map(|group| group.version).unwrap_or_default();
        let lease = self.state.lease;
        let Some(seat) = self.seats.get_mut(name) else { return };
        let restarted = seat.instance.run_id().is_some_and(|known| *known != info.run_id);
        if restarted {
            seat.instance.unit.releasing = None;
            seat.instance.posture = Posture::Unknown;
            seat.instance.tuned = None;
            seat.membership.report = None;
            seat.membership.mark = None;
        }
        seat.instance.condition = if info.loading { Condition::Loading } else { Condition::Up };
        // What was asked before the last task ended shows the posture before it.
        if seat.instance.task.is_none() && info.asked >= seat.instance.task_ended {
            seat.instance.posture = posture_seen(seat.instance.posture, &info, expected);
        }
        let known = seat.instance.version;
        if info.asked >= seat.applied_at {
            seat.instance.version = version;
        }
        // What followers wait for: an offset of after the commit that let them in, and a new replication id.
        let renamed = seat.instance.seen().is_some_and(|before| before.replid != info.replid);
        if matches!(seat.instance.posture, Posture::Serving(_)) && (renamed || seat.instance.version != known) {
            seat.lease.renew_now = true;
        }
        if matches!(seat.instance.posture, Posture::Serving(_)) {
            seat.instance.rate.measure(now, lease, &info);
        }
        seat.instance.info = Some((now, info));
    }

    /// Where a following instance must replicate from: the epoch and the primary's address. Only what was recorded of this
    /// very process counts: without that its lineage would never be proved.
    fn expected_upstream(&self, name: &GroupName, info: &Info) -> Option<(Epoch, String)> {
        let group = self.group(name)?;
        let attached = self.local.groups.get(name)?.attached.as_ref()?;
        let primary = group.members.get(&group.primary_node()?)?;
        let here = attached.epoch == group.epoch && attached.run_id == info.run_id;
        here.then(|| (group.epoch, primary.announce.clone()))
    }

    fn fold_vip(&mut self, name: &GroupName, seen: VipSight) {
        let (now, lease) = (self.now, self.lease());
        let Some(seat) = self.seats.get_mut(name) else { return };
        match seen {
            VipSight::Held => seat.vip.is_here(now),
            VipSight::Removed => {
                seat.vip.held = false;
                seat.vip.conflict = None;
                seat.vip.refreshed_at = None;
            }
            VipSight::Conflict { mac } => seat.vip.is_claimed(mac, now, lease),
            // A refresh that failed takes nothing off; whatever does is told as removed.
            VipSight::Failed { why } => seat.vip.trouble = Some(why),
        }
    }

    fn fold_done(&mut self, name: &GroupName, task: Task, epoch: Epoch, outcome: Outcome) {
        let now = self.now;
        let Some(seat) = self.seats.get_mut(name) else { return };
        if task == Task::SealRemote {
            if let Some(seal) = seat.remote_seal.as_mut().filter(|seal| seal.next == epoch) {
                seal.over = true;
            }
            return;
        }
        if seat.instance.task.is_some_and(|(running, at, _)| (running, at) == (task, epoch)) {
            seat.instance.task = None;
            seat.instance.task_ended = now;
        }
        seat.note_outcome(now, &outcome);
        match (task, outcome) {
            (Task::Fence, Outcome::Dead) => {
                note_fenced(seat, now, epoch);
                seat.instance.posture = Posture::Unknown;
            }
            (Task::Quarantine, Outcome::Failed { .. }) => seat.note_save_failed(now),
            (Task::Handover, Outcome::Failed { why }) => seat.membership.handover_failed = Some((epoch, why)),
            (Task::Seal | Task::Fence | Task::Follow | Task::Serve, Outcome::Failed { .. }) => {
                seat.instance.posture = Posture::Unknown;
            }
            (Task::Kill, Outcome::Done { .. } | Outcome::Dead) => {
                seat.instance.condition = Condition::Gone;
                seat.instance.info = None;
                seat.instance.posture = Posture::Unknown;
            }
            (Task::ScriptKill, _) => seat.instance.script_killed = true,
            (Task::Start, Outcome::Failed { .. }) => seat.instance.unit.note_start_failed(now),
            (task, Outcome::Done { info, clean }) => self.fold_task_done(name, task, epoch, info, clean),
            _ => {}
        }
        self.urgent = true;
    }

    fn fold_task_done(&mut self, name: &GroupName, task: Task, epoch: Epoch, info: Info, clean: bool) {
        if matches!(task, Task::Seal | Task::Fence | Task::Handover) && !clean {
            self.note_cut_off(name, &info);
        }
        if matches!(task, Task::Seal | Task::Fence)
            && let Some(seat) = self.seats.get_mut(name)
        {
            seat.instance.sealed_at = Some((info.run_id.clone(), info.offset));
        }
        if task == Task::Quarantine {
            self.note_saved(name, &info.run_id);
        }
        // A freeze that was not confirmed has nothing to say of the instance.
        if !info.run_id.0.is_empty() {
            self.fold_info(name, info);
        }
        let now = self.now;
        let Some(seat) = self.seats.get_mut(name) else { return };
        if matches!(task, Task::Serve | Task::Tune)
            && let Some(tuning) = seat.instance.tuning.take()
        {
            seat.instance.tuned = Some(tuning);
        }
        match task {
            Task::Seal => seat.instance.posture = Posture::Sealed,
            Task::Fence => {
                seat.instance.posture = Posture::Sealed;
                note_fenced(seat, now, epoch);
            }
            Task::Handover => {
                seat.instance.posture = Posture::Unknown;
                seat.membership.handed_over = Some(epoch);
            }
            Task::Follow => seat.instance.posture = Posture::Following(epoch),
            Task::Serve => {
                seat.instance.posture = Posture::Serving(epoch);
                seat.lease.renew_now = true;
            }
            _ => {}
        }
        if matches!(task, Task::Seal | Task::Fence) {
            self.note_sealed(name);
        }
    }

    fn fold_decided(&mut self, noted: Noted) {
        let now = self.now;
        for (name, task, epoch) in noted.tasks {
            let Some(seat) = self.seats.get_mut(&name) else { continue };
            seat.instance.task = Some((task, epoch, now));
            seat.instance.tuning = None;
        }
        for (name, next, nodes) in noted.remote {
            if let Some(seat) = self.seats.get_mut(&name) {
                seat.remote_seal = Some(RemoteSeal { next, since: now, nodes, over: false });
            }
        }
        for (name, run_id, value) in noted.tuning {
            if let Some(seat) = self.seats.get_mut(&name) {
                seat.instance.tuning = Some((run_id, value));
            }
        }
        for (name, epoch, why) in noted.fences {
            let Some(seat) = self.seats.get_mut(&name) else { continue };
            if seat.lease.given_up.is_none_or(|(given, _)| given < epoch) {
                seat.lease.given_up = Some((epoch, why));
                seat.instance.failures = 0;
            }
            seat.fence_ordered = None;
        }
        for name in noted.renewed {
            if let Some(seat) = self.seats.get_mut(&name) {
                seat.lease.counts_both = true;
            }
        }
        for topic in noted.topics {
            self.proposed.insert(topic, now + PROPOSAL_LIMIT);
        }
        if noted.saving.is_some() {
            self.saving = noted.saving;
        }
        for (name, epoch) in noted.renewals {
            self.note_renewal(&name, epoch);
        }
        if noted.polled {
            let id = self.poll.as_ref().map_or(1, |poll| poll.id + 1);
            self.poll = Some(Poll { id, sent_at: now, ..Poll::default() });
        }
        if noted.promised {
            self.polled.clear();
            self.seats.values_mut().for_each(|seat| seat.owed.clear());
        }
        if noted.told {
            self.told_at = Some(now);
            self.urgent = false;
        }
        for name in noted.vips {
            if let Some(seat) = self.seats.get_mut(&name) {
                seat.vip.refreshed_at = Some(now);
            }
        }
        for (name, end) in noted.stamped {
            if let Some(seat) = self.seats.get_mut(&name) {
                seat.lease.written = end;
            }
        }
    }

    /// The primary's own guardian promises like any other, but only once its longest lease is on disk (S2).
    fn note_renewal(&mut self, name: &GroupName, epoch: Epoch) {
        let (now, lease, state) = (self.now, self.state.lease, Arc::clone(&self.state));
        let promised = self.promise(name, epoch, lease) && self.saved.longest_lease >= lease;
        let me = self.me;
        let Some(seat) = self.seats.get_mut(name) else { return };
        seat.lease.renewed_at = Some(now);
        seat.lease.renew_now = false;
        if promised && seat.lease.epoch == epoch {
            seat.lease.promised.insert(me, now + lease * 5 / 6);
            let counted = seat.lease.counted(name, &state.guardians);
            seat.lease.held |= seat.lease.live(epoch, &counted, now);
        }
    }
}

fn note_fenced(seat: &mut Seat, now: Moment, epoch: Epoch) {
    seat.lease.fenced = seat.lease.fenced.max(epoch);
    seat.lease.fenced_at = now;
    if !seat.lease.given_up.is_some_and(|(_, why)| why.vip_lingers()) {
        seat.vip.held = false;
    }
}

/// The posture that INFO shows, where it contradicts or settles what was known.
fn posture_seen(known: Posture, info: &Info, expected: Option<(Epoch, String)>) -> Posture {
    let follows = expected.filter(|(_, address)| info.upstream.as_ref() == Some(address)).map(|(epoch, _)| epoch);
    match (known, &info.upstream) {
        (Posture::Serving(epoch), None) => Posture::Serving(epoch),
        (_, None) => Posture::Unknown,
        (_, Some(upstream)) if upstream == NOWHERE => Posture::Sealed,
        (_, Some(_)) => follows.map_or(Posture::Unknown, Posture::Following),
    }
}

/// The address a sealed instance "replicates" from: nobody listens there (S9).
pub(crate) const NOWHERE: &str = "127.0.0.1:1";
