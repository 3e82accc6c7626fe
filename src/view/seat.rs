//! What this node knows of one group: its promise as a guardian, its lease as the primary, its instance as a member,
//! and what the others reported to it as the leader.

use super::event::{Health, Info, Outcome, Renewal, Report, Task};
use super::flap::Faults;
use super::holder::Word;
use super::moment::Moment;
use super::unit::Unit;
use crate::cluster::{Epoch, GroupName, Guardians, NodeId, Offset, RunId, Version, Why};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// One group, seen from here.
#[derive(Debug, Clone, Default)]
pub struct Seat {
    /// When this node applied the last change of the group.
    pub applied_at: Moment,
    /// When this node applied the last `Promote`, or started if that was later (S1, S3).
    pub promoted_at: Moment,
    /// When this node applied the last `Seal`.
    pub sealing_at: Moment,
    /// Since when a majority of guardians is known to have sealed for the coming epoch: no lease of an earlier one runs.
    pub sealed_at: Option<Moment>,
    /// When this node applied the last `Force`.
    pub forced_at: Moment,
    /// When this node applied the last `Switch`.
    pub switching_at: Moment,
    /// The promise given as a guardian. Forgotten by a restart.
    pub promise: Option<Promise>,
    /// Promises to be sent: to whom, epoch, echo.
    pub owed: Vec<(NodeId, Epoch, Moment)>,
    /// The highest epoch known to be surrendered, and why.
    pub surrendered: Option<(Epoch, Why)>,
    /// The last renewal of the current primary and when it came.
    pub renewal: Option<(Moment, Renewal)>,
    /// How long the primary's word that it serves is good.
    pub word: Word,
    /// The lease as the primary.
    pub lease: Lease,
    /// The instance.
    pub instance: Instance,
    /// The VIP on this host.
    pub vip: VipState,
    /// As a member.
    pub membership: Membership,
    /// Reports heard, by node.
    pub reports: BTreeMap<NodeId, Report>,
    /// When each of them was heard last; it is said again and again while it holds.
    pub reported_at: BTreeMap<NodeId, Moment>,
    /// Guardians' durable seals heard, by node.
    pub seals: BTreeMap<NodeId, Epoch>,
    /// As the leader: since when each follower is missing at the primary.
    pub missing: BTreeMap<NodeId, Moment>,
    /// As the leader: the primary's offset after members were added, which every follower must pass (S5): the version
    /// at which W rose, and the offset.
    pub quorum_mark: Option<(Version, Offset)>,
    /// Members heard to be detached, by the version that they had applied, and since when that is known here (S5).
    pub rested: BTreeMap<NodeId, (Version, Moment)>,
    /// As the primary: its offset of after a member was known to be detached, by the version that took it out (S5).
    pub leave_marks: BTreeMap<NodeId, (Version, Offset)>,
    /// As the leader, or for one that is a witness: the last sealing over the network.
    pub remote_seal: Option<RemoteSeal>,
    /// As the leader: when it first saw the pause.
    pub pause_seen: Option<Moment>,
    /// Which pause that was.
    pub pause_known: Version,
    /// Faults of the nodes that were primary (flap protection).
    pub faults: BTreeMap<NodeId, Faults>,
    /// As the primary: who may synchronise in full now, and since when.
    pub full: Option<(NodeId, Moment)>,
    /// As the primary: who did before.
    pub full_before: NodeId,
    /// What every node says of itself.
    pub health: BTreeMap<NodeId, Health>,
    /// An operator ordered this host to fence; the epoch it concerns.
    pub fence_ordered: Option<Epoch>,
}

/// A guardian's promise (S2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promise {
    /// For this epoch.
    pub epoch: Epoch,
    /// Until then nothing above `epoch` is sealed here.
    pub until: Moment,
}

/// The primary's lease (S1).
#[derive(Debug, Clone, Default)]
pub struct Lease {
    /// For this epoch; another epoch's promises are void.
    pub epoch: Epoch,
    /// By guardian: 5/6 of the lease from when the answered renewal was sent.
    pub promised: BTreeMap<NodeId, Moment>,
    /// What the stamp of an agent before this one still allows.
    pub stamped: Option<Moment>,
    /// While guardians change: the coming majority counts too, because this primary has said or may have said so.
    pub counts_both: bool,
    /// Whether a majority ever promised this epoch, here or before the restart.
    pub held: bool,
    /// When the last renewal was sent.
    pub renewed_at: Option<Moment>,
    /// Renew at once: something changed that the others wait for.
    pub renew_now: bool,
    /// Fencing of this epoch has begun, and why: it is never served again (S2).
    pub given_up: Option<(Epoch, Why)>,
    /// Fencing of this epoch is complete.
    pub fenced: Epoch,
    /// When it was complete.
    pub fenced_at: Moment,
    /// The surrender mark for this epoch is in place.
    pub marked: Epoch,
    /// The last end of lease written to the stamp.
    pub written: Moment,
}

impl Lease {
    /// The end of the lease for `epoch`: the latest moment up to which a majority has promised (S1, S12).
    pub fn end(&self, epoch: Epoch, guardians: &Guardians) -> Option<Moment> {
        if self.epoch != epoch || self.given_up.is_some_and(|(given, _)| given >= epoch) || self.marked >= epoch {
            return None;
        }
        let mut ends: Vec<Moment> = self.promised.values().copied().collect();
        ends.sort_unstable();
        let promised =
            ends.into_iter().rev().find(|end| guardians.majority_of(|id| self.promised.get(&id) >= Some(end)));
        promised.max(self.stamped)
    }

    /// The guardians whose majorities this primary counts (S12). Seals need both majorities from the first moment of a
    /// change, so until the primary says that it renews under both, the old one alone is enough; from then on, and after a
    /// restart that may have forgotten it, both are asked for.
    pub fn counted<'a>(&self, group: &GroupName, guardians: &'a Guardians) -> Cow<'a, Guardians> {
        if guardians.next.is_none() || self.counts_both || guardians.renewed.contains(group) {
            return Cow::Borrowed(guardians);
        }
        Cow::Owned(guardians.before_change())
    }

    /// Whether promises given to this very agent are a majority at `now`, leaving the stamp aside (S12).
    pub fn promised_live(&self, epoch: Epoch, guardians: &Guardians, now: Moment) -> bool {
        let fresh = Self { stamped: None, ..self.clone() };
        fresh.live(epoch, guardians, now)
    }

    /// Whether it holds at `now`.
    pub fn live(&self, epoch: Epoch, guardians: &Guardians, now: Moment) -> bool {
        self.end(epoch, guardians).is_some_and(|end| end > now)
    }
}

/// The posture of the local instance (§2 of the design).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Posture {
    /// Not known yet, or in between.
    #[default]
    Unknown,
    /// Replica of nowhere, read-only, history kept.
    Sealed,
    /// Attached to the primary of that epoch.
    Following(Epoch),
    /// Promoted for that epoch and confirmed by ROLE.
    Serving(Epoch),
}

/// What is known of the local instance.
#[derive(Debug, Clone, Default)]
pub struct Instance {
    /// The last answer to INFO, and when it came. None: never, or the process is gone.
    pub info: Option<(Moment, Info)>,
    /// The group's version that was applied before that INFO was asked for: its offset is of after that commit.
    pub version: Version,
    /// Its condition (S7).
    pub condition: Condition,
    /// Its posture.
    pub posture: Posture,
    /// The task under way, the epoch it carries, and since when.
    pub task: Option<(Task, Epoch, Moment)>,
    /// When the last task ended: an answer that was asked for before does not show what it did.
    pub task_ended: Moment,
    /// The offset that the last seal or fence of that process left.
    pub sealed_at: Option<(RunId, Offset)>,
    /// When the newest write of that process's data went to disk: wall clock, milliseconds since 1970.
    pub newest: Option<(RunId, u64)>,
    /// As the primary: how fast its data grows.
    pub rate: Rate,
    /// Failures in a row, and when the next try may be made.
    pub failures: u32,
    /// See `failures`.
    pub retry_at: Moment,
    /// What failed last.
    pub trouble: Option<String>,
    /// `min-replicas-to-write` that the task under way sets, and on which process.
    pub tuning: Option<(RunId, u32)>,
    /// `min-replicas-to-write` last set, and on which process.
    pub tuned: Option<(RunId, u32)>,
    /// A script was stopped once in this spell of BUSY.
    pub script_killed: bool,
    /// Its systemd unit.
    pub unit: Unit,
}

impl Instance {
    /// What INFO said last.
    pub fn seen(&self) -> Option<&Info> {
        self.info.as_ref().map(|(_, info)| info)
    }

    /// The process, if known.
    pub fn run_id(&self) -> Option<&RunId> {
        self.info.as_ref().map(|(_, info)| &info.run_id)
    }
}

/// How fast a primary's replication stream grows, and whether its backlog is too short for that.
#[derive(Debug, Clone, Default)]
pub struct Rate {
    /// The process, when it was measured last, and the offset then.
    pub from: Option<(RunId, Moment, Offset)>,
    /// Bytes per second, smoothed.
    pub bytes: u64,
    /// The backlog is shorter than a replica's restart.
    pub short: bool,
}

/// S7: sure faults fast, unsure ones patiently.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Condition {
    /// Nothing seen yet.
    #[default]
    Unknown,
    /// Answers.
    Up,
    /// Loads data: alive.
    Loading,
    /// A script blocks it.
    Busy {
        /// Since.
        since: Moment,
    },
    /// Silent; `still` is since when its process also made no progress.
    Silent {
        /// Since when it made no progress.
        still: Option<Moment>,
    },
    /// Dead.
    Gone,
    /// Cannot be watched.
    Unusable {
        /// What to do.
        why: String,
    },
}

/// Other hosts' instances are sealed over the network (S8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteSeal {
    /// For this epoch.
    pub next: Epoch,
    /// Since when.
    pub since: Moment,
    /// Whose.
    pub nodes: BTreeSet<NodeId>,
    /// All of them have answered, or were given up.
    pub over: bool,
}

/// The VIP here.
#[derive(Debug, Clone, Default)]
pub struct VipState {
    /// Whether it is on this host.
    pub held: bool,
    /// Since when.
    pub since: Moment,
    /// When it was last refreshed.
    pub refreshed_at: Option<Moment>,
    /// The last failure, in words.
    pub trouble: Option<String>,
    /// Who else answers for it, and when that was last seen.
    pub conflict: Option<(String, Moment)>,
}

/// A conflict that was not seen for so long is over: longer than others are asked for the VIP.
const CONFLICT_LASTS: Duration = Duration::from_secs(50);

/// So long, and a lease, after the VIP came here its former holder may still answer for it: announcements on their way,
/// and a frozen agent's kernel, which keeps it for its leash (S8).
const FORMER_HOLDER: Duration = Duration::from_secs(3);

impl VipState {
    pub(super) fn is_here(&mut self, now: Moment) {
        if !self.held {
            // Whoever answered for it when it was here before may have had every right to.
            (self.since, self.conflict) = (now, None);
        }
        self.held = true;
        self.trouble = None;
    }

    /// Another host answers for it; whoever goes on doing that is found again when it is asked for.
    pub(super) fn is_claimed(&mut self, mac: String, now: Moment, lease: Duration) {
        if self.held && now.since(self.since) >= lease + FORMER_HOLDER {
            self.conflict = Some((mac, now));
        }
    }

    /// What is wrong with it now, in words.
    pub fn wrong(&self, now: Moment) -> Option<String> {
        let conflict = self.conflict.as_ref().filter(|(_, at)| self.held && now.since(*at) < CONFLICT_LASTS);
        match conflict {
            Some((mac, _)) => {
                Some(format!("the host with the address {mac} answers for it as well: take it off there"))
            }
            None => self.trouble.clone(),
        }
    }
}

/// This node as a member of the group.
#[derive(Debug, Clone, Default)]
pub struct Membership {
    /// The group's version when the agent started.
    pub began: Version,
    /// The group's version at which lineage was lost: only a later commit lets the process in again (S5).
    pub lost_at: Version,
    /// When the answer was asked for that last showed a full resynchronisation: what was asked for before does not show
    /// its end.
    pub voided_at: Moment,
    /// The primary's offset after the commit that let this process in was applied there.
    pub mark: Option<(Epoch, Version, Offset)>,
    /// The sealed instance's own report, complete but for the seal being durable.
    pub report: Option<Report>,
    /// As the primary: followers that have been online since they last joined, with the version of that joining.
    pub online: BTreeMap<NodeId, Version>,
    /// As the primary: an agent before this one served the epoch, and it alone knew who had been online.
    pub inherited: bool,
    /// Times in a row that it was dropped from F without having caught up, and when it may ask to be let in again.
    pub drops: u32,
    /// See `drops`.
    pub ask_at: Moment,
    /// Failures in a row to save diverged data, and when that may be tried again (S11).
    pub save_failures: u32,
    /// See `save_failures`.
    pub save_at: Moment,
    /// A handover of this epoch failed before it froze anything.
    pub handover_failed: Option<(Epoch, String)>,
    /// The instance was frozen to hand this epoch over: what is left is to fence and surrender (S10).
    pub handed_over: Option<Epoch>,
}

impl Seat {
    /// Whether the promise given here is still live for `epoch` or an epoch before it (S2).
    pub fn promise_live(&self, now: Moment) -> bool {
        self.promise.is_some_and(|promise| {
            promise.until > now && self.surrendered.is_none_or(|(epoch, _)| epoch < promise.epoch)
        })
    }

    /// Whether that answer of the same process was asked for before the last task ended, whose own answer is known.
    pub(super) fn overtaken(&self, info: &Info) -> bool {
        self.instance.run_id() == Some(&info.run_id) && info.asked < self.instance.task_ended
    }

    /// Diverged data could not be saved: tried again, ever later (S11).
    pub(super) fn note_save_failed(&mut self, now: Moment) {
        let wait = Duration::from_secs(1 << self.membership.save_failures.min(6));
        self.membership.save_failures = self.membership.save_failures.saturating_add(1);
        self.membership.save_at = now + wait;
    }

    /// A task ended: remember success or when to try again.
    pub(super) fn note_outcome(&mut self, now: Moment, outcome: &Outcome) {
        match outcome {
            Outcome::Done { .. } | Outcome::Dead => {
                self.instance.failures = 0;
                self.instance.trouble = None;
            }
            Outcome::Failed { why } => {
                let backoff = Duration::from_millis(20u64 << self.instance.failures.min(6));
                self.instance.failures = self.instance.failures.saturating_add(1);
                self.instance.retry_at = now + backoff.min(Duration::from_secs(1));
                self.instance.trouble = Some(why.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn set(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().map(|id| NodeId(*id)).collect()
    }

    /// S12: a change costs a healthy primary nothing before it says that it renews under both, and from then on the
    /// coming majority counts.
    #[test]
    fn the_coming_majority_counts_from_when_the_primary_says_so() {
        let group = GroupName::from("g");
        let mut guardians = Guardians { now: set(&[1]), next: Some(set(&[1, 2, 3])), ..Guardians::default() };
        let promised = BTreeMap::from([(NodeId(1), Moment(900))]);
        let mut lease = Lease { epoch: Epoch(1), promised, ..Lease::default() };
        let live =
            |lease: &Lease, guardians: &Guardians| lease.live(Epoch(1), &lease.counted(&group, guardians), Moment(500));
        assert!(live(&lease, &guardians), "the old majority is enough");
        assert!(!lease.promised_live(Epoch(1), &guardians, Moment(500)), "not to say that it renews under both");
        lease.counts_both = true;
        assert!(!live(&lease, &guardians), "said, or perhaps said before a restart: both count");
        lease.promised.insert(NodeId(2), Moment(800));
        assert!(live(&lease, &guardians) && lease.promised_live(Epoch(1), &guardians, Moment(500)));
        lease.counts_both = false;
        lease.promised.remove(&NodeId(2));
        guardians.renewed.insert(group.clone());
        assert!(!live(&lease, &guardians), "committed: both count");
        guardians.next = None;
        assert!(live(&lease, &guardians));
    }
}
