//! The commands of the Raft log. Every change of a group is compare-and-set on (epoch, phase).

use super::state::{Durability, Guarantee, Lost, Node, Pause, Why};
use super::words::{Epoch, GroupName, NodeId, Offset, RunId, Version};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::Duration;

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Take a node in. Refused if the number is taken by another incarnation or the name by another number.
    AddNode {
        /// Its number.
        node: NodeId,
        /// Its record.
        record: Node,
    },
    /// Forget a node: it leaves every group too. Refused while it is a guardian or a primary.
    RemoveNode {
        /// Its number.
        node: NodeId,
    },
    /// A node's agent tells what its file says: seeds what is not set, adds its memberships, changes its addresses.
    Introduce {
        /// Who speaks.
        node: NodeId,
        /// Its agent's address.
        address: String,
        /// Seeds the replicated lease if none is set.
        lease: Duration,
        /// The groups it has an instance of.
        groups: Vec<GroupIntro>,
    },
    /// A change of the guardians (S12).
    Guardians(GuardianChange),
    /// A change of one group.
    Group {
        /// Which.
        group: GroupName,
        /// What the proposer saw; the command is refused if it is not so any more.
        expect: Expect,
        /// The change.
        change: GroupCommand,
    },
}

/// What one node's file says of one group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupIntro {
    /// The group.
    pub group: GroupName,
    /// `host:port` of this node's instance.
    pub announce: String,
    /// Its priority.
    pub priority: u32,
    /// Seeds a new group's durability.
    pub durability: Durability,
}

/// Steps of a change of guardians.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum GuardianChange {
    /// From now on both majorities count. Refused while a change is under way, but for the very first set.
    Begin {
        /// The coming set.
        next: BTreeSet<NodeId>,
    },
    /// The primary of a group has a lease under both majorities.
    Renewed {
        /// The group.
        group: GroupName,
        /// Its epoch.
        epoch: Epoch,
        /// The guardians' version it counted under.
        version: Version,
    },
    /// Only the new majority counts from now on. Refused before every group's primary has renewed under both.
    Finish {
        /// The guardians' version the proposer saw.
        version: Version,
    },
}

/// Compare-and-set: what the proposer saw of the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expect {
    /// The group's epoch.
    pub epoch: Epoch,
    /// The kind of phase it was in.
    pub phase: PhaseKind,
    /// The last pause: nothing that was decided without knowing of it is done in it.
    pub paused_at: Version,
}

/// A phase without its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PhaseKind {
    /// [`Phase::Stable`](super::Phase::Stable)
    Stable,
    /// [`Phase::Sealing`](super::Phase::Sealing)
    Sealing,
    /// [`Phase::Switching`](super::Phase::Switching)
    Switching,
}

/// A change of one group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum GroupCommand {
    /// Nobody may renew the epoch any more (S3).
    Seal {
        /// What led to it.
        why: Why,
    },
    /// Starts the next epoch (S3). The followers set becomes F + old primary - successor.
    Promote {
        /// Who.
        successor: NodeId,
        /// The very process.
        run_id: RunId,
        /// The offset its sealed report gave.
        start: Offset,
        /// The epoch of its data, as far as lineage or replication history prove it.
        data: Option<Epoch>,
        /// What holds for acknowledged writes.
        guarantee: Guarantee,
        /// Leader's wall clock, ms since 1970; for people only.
        at_unix_ms: u64,
    },
    /// Ask the primary to hand over (S10).
    Switch {
        /// To whom.
        to: NodeId,
        /// By whose word.
        why: Why,
    },
    /// Call a switchover off; the primary was never asked to stop.
    SwitchOff,
    /// By an operator's word: seal, if that is not done yet, and promote this one without proof. Leases and seals keep
    /// their majorities.
    Force {
        /// Who.
        node: NodeId,
    },
    /// Let a node into F, or let its restarted process in again, before it follows (S5).
    Follow {
        /// Who.
        node: NodeId,
        /// The process that will follow.
        run_id: RunId,
    },
    /// First commit of leaving F: from now on it may not follow. One at a time, for the second commit waits until
    /// every other follower has what this one acknowledged.
    Leaving {
        /// Who.
        node: NodeId,
        /// Since when it is in F: it may have been let in once more since this was proposed.
        since: Version,
    },
    /// Second commit of leaving F: it was sealed after the first, and all others have passed the primary's offset of
    /// after that.
    Left {
        /// Who.
        node: NodeId,
        /// Since when it is in F.
        since: Version,
    },
    /// A follower leaves F at once, without proof: one that was not online for a lease (`available` only), or by an
    /// operator's word.
    Drop {
        /// Who.
        node: NodeId,
        /// Since when it is in F.
        since: Version,
    },
    /// Every follower holds what was written before members were added: R counts with the new W.
    QuorumSettled {
        /// The version at which W rose.
        since: Version,
    },
    /// A node that left without the two commits was sealed, and all of F has passed the primary's offset of after that:
    /// it counts no longer.
    Settled {
        /// Who.
        node: NodeId,
        /// Since when it counted as departed: it may have left once more since this was proposed.
        since: Version,
    },
    /// A member came back with data that an epoch lacks (S11): noted in that change's event.
    Diverged {
        /// Who.
        node: NodeId,
        /// The epoch.
        epoch: Epoch,
        /// What it held.
        lost: Lost,
    },
    /// The primary before tells how its reign ended: noted in that change's event.
    Explained {
        /// Who.
        node: NodeId,
        /// The epoch that the change started.
        epoch: Epoch,
        /// In words, at most [`CAUSE_LIMIT`](super::CAUSE_LIMIT) bytes.
        cause: String,
    },
    /// A member leaves the group.
    RemoveMember {
        /// Who.
        node: NodeId,
    },
    /// No automatic promotion.
    Pause(Pause),
    /// Automatic promotion again.
    Resume,
    /// The pause has lasted its time.
    PauseOver {
        /// Which pause: a newer one goes on.
        since: Version,
    },
    /// Change a member's priority.
    SetPriority {
        /// Whose.
        node: NodeId,
        /// The new one.
        priority: u32,
    },
    /// Change what a promotion may risk.
    SetDurability(Durability),
    /// The operator's choice where adoption refused to guess (S13).
    Bootstrap {
        /// Whose data is the group's.
        node: NodeId,
    },
}
