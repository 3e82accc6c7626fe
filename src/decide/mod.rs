//! What to do now: [`decide`] looks at a [`View`] and hands out plain data.
//!
//! Two parts. [`protect`] looks after this host's own instance and VIP and runs first, on every node, leader or not:
//! no lease, no service. [`coordinate`] proposes what the whole group needs and speaks only on the Raft leader. Actions
//! are idempotent, carry their epoch, and their results come back as events; nothing here waits, and nothing here reads
//! a clock or does I/O.
//!
//! Upholds S1 (fence first of all work), S2 (durable before said), S3 (seal before promote), S4 and S5 (who is chosen),
//! S6 (only the promoted process serves), S7, S8 (detach in silence), S9 (mark before surrender), S10.

mod choose;
mod cold;
mod coordinate;
mod own;
mod protect;
mod reason;
mod talk;

pub use choose::{Choice, Chosen, choose};
pub use cold::ground_text;
pub use reason::{Reason, change_text, vacant_text, why_text};
pub use talk::backlog_text;

use crate::cluster::{Command, Diverged, Durability, Epoch, GroupIntro, GroupName, Local, NodeId, RunId, Why};
use crate::view::{Event, FollowTarget, Item, Moment, Noted, Task, Topic, View, What};
use std::collections::BTreeMap;
use std::time::Duration;

/// Renewals, and the regular message, per lease.
pub const RENEWALS_PER_LEASE: u32 = 5;
/// A poll is answered within this part of a lease or it does not count (S3).
pub const POLL_PART: u32 = 6;
/// What a sealed primary's silent host is given to be sealed over the network before the promotion goes on (S8).
pub const REMOTE_SEAL_PART: u32 = 8;
/// How long the VIP lingers on a fenced host whose instance is dead or sealed, at most: a part of a lease.
pub const VIP_LINGER_PART: u32 = 4;
/// A successor that cannot be made primary gives up after so many failures in a row and so many leases.
pub const SERVE_TRIES: u32 = 4;
/// See [`SERVE_TRIES`].
pub const SERVE_LEASES: u32 = 3;
/// How long a forced promotion waits for the report of the node that was named; then the group chooses by itself again.
pub const FORCE_WAIT: Duration = Duration::from_secs(10);
/// How long a cold start waits for members that do not report (S14).
pub const COLD_START_WAIT: Duration = Duration::from_secs(30);
/// How long a stopping agent tries to hand over before it fences, and how long it stays at most.
pub const STOP_HANDOVER: Duration = Duration::from_secs(5);
/// How long a stopping follower waits, under `quorum`, until it has left F by the two commits (S5).
pub const STOP_LEAVE: Duration = Duration::from_secs(3);
/// See [`STOP_HANDOVER`].
pub const STOP_LIMIT: Duration = Duration::from_secs(8);

const _: () = assert!(POLL_PART > RENEWALS_PER_LEASE, "a poll must be fresher than a renewal is old");
const _: () = assert!(STOP_HANDOVER.as_secs() < STOP_LIMIT.as_secs(), "there must be time left to fence");

/// What this node's file says, as far as decisions need it.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// Where peers reach this agent.
    pub address: String,
    /// Seeds the replicated lease.
    pub lease: Duration,
    /// Patience with an instance that is alive but does not answer (S7).
    pub hang_after: Duration,
    /// The groups with an instance here.
    pub groups: BTreeMap<GroupName, GroupPolicy>,
}

/// One group in this node's file.
#[derive(Debug, Clone, Default)]
pub struct GroupPolicy {
    /// `host:port` of this node's instance.
    pub announce: String,
    /// Seeds its priority.
    pub priority: u32,
    /// Seeds the group's durability.
    pub durability: Durability,
    /// Whether a VIP is configured.
    pub vip: bool,
}

impl Policy {
    /// What this node says of itself when it is taken in.
    pub fn introduction(&self, node: NodeId) -> Command {
        let intro = |(group, policy): (&GroupName, &GroupPolicy)| GroupIntro {
            group: group.clone(),
            announce: policy.announce.clone(),
            priority: policy.priority,
            durability: policy.durability,
        };
        Command::Introduce {
            node,
            address: self.address.clone(),
            lease: self.lease,
            groups: self.groups.iter().map(intro).collect(),
        }
    }
}

/// One thing to do. Idempotent; a result comes back as an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Write the node's record to disk; `Saved` comes back.
    Save(Local),
    /// Write the end of the lease to the stamp.
    Stamp {
        /// The group.
        group: GroupName,
        /// The epoch.
        epoch: Epoch,
        /// The process that serves.
        run_id: RunId,
        /// The end.
        until: Moment,
    },
    /// Replace the stamp by a surrender mark, in one rename; `Marked` comes back.
    Mark {
        /// The group.
        group: GroupName,
        /// The epoch given up.
        epoch: Epoch,
    },
    /// Detach the instance and read its final offset.
    Seal {
        /// The group.
        group: GroupName,
        /// The epoch to come, or 0 for a detachment that no seal asked for.
        epoch: Epoch,
    },
    /// S9, ahead of everything else; aborts any other task of the group.
    Fence {
        /// The group.
        group: GroupName,
        /// The epoch to stop serving.
        epoch: Epoch,
        /// Why.
        why: Why,
    },
    /// Attach the instance to the primary.
    Follow {
        /// The group.
        group: GroupName,
        /// Whom.
        target: FollowTarget,
    },
    /// Make this very process the primary, set min-replicas, confirm by ROLE. Not begun after `until`.
    Serve {
        /// The group.
        group: GroupName,
        /// The epoch.
        epoch: Epoch,
        /// The process.
        run_id: RunId,
        /// The end of the lease.
        until: Moment,
        /// `min-replicas-to-write`.
        min_replicas: u32,
    },
    /// S10 up to the point where the successor holds the frozen offset.
    Handover {
        /// The group.
        group: GroupName,
        /// The epoch to hand over.
        epoch: Epoch,
        /// The successor's `host:port`.
        to: String,
        /// The bound of the pause that clients feel.
        bound: Duration,
    },
    /// Set `min-replicas-to-write` on the primary (S5).
    Tune {
        /// The group.
        group: GroupName,
        /// The epoch.
        epoch: Epoch,
        /// Its value.
        min_replicas: u32,
    },
    /// Save the detached instance's data under this name before it follows (S11).
    Quarantine {
        /// The group.
        group: GroupName,
        /// What is to be saved.
        found: Diverged,
    },
    /// Kill the process of a hung instance that does not serve (S7).
    Kill {
        /// The group.
        group: GroupName,
    },
    /// Stop a script that blocks the instance (S7).
    ScriptKill {
        /// The group.
        group: GroupName,
    },
    /// Have the service manager start the instance's failed unit.
    Start {
        /// The group.
        group: GroupName,
    },
    /// Seal other nodes' instances over the network, all at once (S8).
    SealRemote {
        /// The group.
        group: GroupName,
        /// The epoch to come.
        epoch: Epoch,
        /// Their `host:port`.
        addresses: Vec<String>,
    },
    /// Put the VIP on this host or refresh its lifetime.
    HoldVip {
        /// The group.
        group: GroupName,
        /// The end of the lease: not put on after it.
        until: Moment,
    },
    /// Take the VIP off this host.
    DropVip {
        /// The group.
        group: GroupName,
    },
    /// Tell a peer.
    Send {
        /// The peer.
        to: NodeId,
        /// What.
        items: Vec<Item>,
    },
    /// Propose to Raft; `Proposed` comes back whatever becomes of it.
    Propose {
        /// What it is about.
        topic: Topic,
        /// The command.
        command: Command,
    },
    /// The agent has nothing left to do and may end.
    Exit,
}

/// What to do, and why things are as they are.
#[derive(Debug, Clone, Default)]
pub struct Decision {
    /// In order: what protects comes first.
    pub actions: Vec<Action>,
    /// Per group, what this node does about its own part.
    pub reasons: BTreeMap<GroupName, Reason>,
    /// Per group, on the leader: what the group waits for.
    pub waits: BTreeMap<GroupName, Reason>,
    /// For the view to remember.
    pub noted: Noted,
}

impl Decision {
    fn task(&mut self, group: &GroupName, task: Task, epoch: Epoch, action: Action) {
        self.noted.tasks.push((group.clone(), task, epoch));
        self.actions.push(action);
    }

    fn propose(&mut self, view: &View, topic: Topic, command: Command) {
        let free = view.proposed.get(&topic).is_none_or(|free_at| view.now >= *free_at);
        if free && !self.noted.topics.contains(&topic) {
            self.noted.topics.push(topic.clone());
            self.actions.push(Action::Propose { topic, command });
        }
    }
}

/// What to do now. Pure: the same view and policy give the same decision.
pub fn decide(view: &View, policy: &Policy) -> Decision {
    let mut decision = Decision::default();
    for name in view.seats.keys() {
        protect::protect(view, policy, name, &mut decision);
    }
    save(view, &mut decision);
    own::propose(view, policy, &mut decision);
    if view.leadership.leading {
        coordinate::coordinate(view, &mut decision);
    } else {
        coordinate::assist(view, &mut decision);
    }
    talk::talk(view, &mut decision);
    own::leave(view, &mut decision);
    decision
}

/// One round: fold the event, decide, remember what was decided. The agent and the simulator run this alike.
pub fn step(view: &mut View, policy: &Policy, event: Event) -> Decision {
    let at = event.at;
    view.observe(event);
    let mut decision = decide(view, policy);
    let noted = std::mem::take(&mut decision.noted);
    view.observe(Event { at, what: What::Decided(noted) });
    decision
}

/// When the next regular message to the peers is due; None before the lease is known.
pub fn next_message(view: &View) -> Option<crate::view::Moment> {
    talk::next_message(view)
}

/// The follower that this node, as the primary, would hand the group over to now.
pub fn handover_target(view: &View, name: &GroupName) -> Option<NodeId> {
    own::stop_target(view, view.group(name)?)
}

/// This node's part of a group in words, for status.
pub fn health(view: &View, decision: &Decision, name: &GroupName) -> Option<crate::view::Health> {
    talk::health_of(view, decision, name)
}

/// S2: the record is on disk before anything that depends on it is said; one write at a time.
fn save(view: &View, decision: &mut Decision) {
    if view.local != view.saved && view.saving.is_none() {
        decision.noted.saving = Some(view.local.clone());
        decision.actions.push(Action::Save(view.local.clone()));
    }
}

#[cfg(test)]
mod tests;
