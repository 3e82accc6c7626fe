//! The replicated state: plain data that only [`State::apply`](super::State::apply) changes.

use super::words::{Epoch, GroupName, Incarnation, NodeId, Offset, RunId, Version};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// How many past changes of primary a group remembers; older ones are in the journal.
pub const HISTORY_LIMIT: usize = 64;

/// The longest [`Change::cause`], in bytes.
pub const CAUSE_LIMIT: usize = 1000;

/// How many past epochs' start offsets a group remembers. An instance whose data is older has no lineage to compare.
pub const START_LIMIT: usize = 256;

/// What the agents agree on. Built by the Raft log alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The lease every primary renews (S1). Zero until the first node has introduced itself.
    pub lease: Duration,
    /// All nodes, voters and learners.
    pub nodes: BTreeMap<NodeId, Node>,
    /// The number the next joining node gets.
    pub next_node: NodeId,
    /// Who promises leases and joins seals (S12).
    pub guardians: Guardians,
    /// The groups by name.
    pub groups: BTreeMap<GroupName, Group>,
}

/// A host of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its unique name.
    pub name: String,
    /// Where peers reach its agent, `host:port`.
    pub address: String,
    /// Identity of its store: a node that lost its disk is not this node any more.
    pub incarnation: Incarnation,
    /// Whether its agent has told which groups it serves since it was taken in.
    pub introduced: bool,
}

/// The voters that promise leases and join seals, changed jointly (S12).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guardians {
    /// Those whose majority counts.
    pub now: BTreeSet<NodeId>,
    /// While a change is under way, the coming set, whose majority counts as well.
    pub next: Option<BTreeSet<NodeId>>,
    /// Counts changes of this record; a renewal says which it counted under.
    pub version: Version,
    /// Groups whose primary has committed that it renews under both majorities.
    pub renewed: BTreeSet<GroupName>,
}

impl Guardians {
    /// Every node that is a guardian under either set.
    pub fn all(&self) -> BTreeSet<NodeId> {
        match &self.next {
            Some(next) => self.now.union(next).copied().collect(),
            None => self.now.clone(),
        }
    }

    /// Whether the nodes for which `said` holds are a majority, of both sets while a change is under way (S12).
    pub fn majority_of(&self, said: impl Fn(NodeId) -> bool) -> bool {
        let enough = |set: &BTreeSet<NodeId>| {
            !set.is_empty() && set.iter().filter(|id| said(**id)).count() >= majority(set.len())
        };
        enough(&self.now) && self.next.as_ref().is_none_or(enough)
    }
}

impl Guardians {
    /// Only those whose majority counts without the change under way.
    #[must_use]
    pub fn before_change(&self) -> Guardians {
        Guardians { next: None, ..self.clone() }
    }
}

/// The smallest number that is more than half of `n`.
pub fn majority(n: usize) -> usize {
    n / 2 + 1
}

/// One primary and its replicas.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Counts the commands that changed this group.
    pub version: Version,
    /// The epoch of `primary`: 0 before the first promotion.
    pub epoch: Epoch,
    /// Where the group stands between two epochs.
    pub phase: Phase,
    /// Who was promoted at `epoch`. None before the first promotion.
    pub primary: Option<Incumbent>,
    /// Nodes with an instance of this group.
    pub members: BTreeMap<NodeId, Member>,
    /// W: how many members must hold a write that counts as acknowledged (`WAIT W-1`). A majority of the members.
    pub quorum: u32,
    /// While members were added: the W that R still counts with (S5).
    pub former_quorum: Option<FormerQuorum>,
    /// F: who may be promoted besides the primary, because it may hold acknowledged writes (S5).
    pub followers: BTreeMap<NodeId, Follower>,
    /// Left F without the two commits: still counted for the sentence in a change's event, and under `quorum` for the
    /// promotion itself, until nothing can be missing without them (S5).
    pub departed: BTreeMap<NodeId, Departed>,
    /// What a promotion may risk.
    pub durability: Durability,
    /// While set, nothing is promoted without an operator's word.
    pub pause: Option<Pause>,
    /// The group's version at the commit of `pause`: another one, however alike, lasts its own time.
    pub paused_at: Version,
    /// For each past epoch: who served it, and from which offset on the data is that epoch's (S4).
    pub starts: BTreeMap<Epoch, Start>,
    /// The last changes of primary, oldest first, at most [`HISTORY_LIMIT`].
    pub history: VecDeque<Change>,
    /// The operator's choice where adoption refused to guess (S13).
    pub bootstrap: Option<NodeId>,
    /// By an operator's word this one is promoted next, whatever it may lack.
    pub forced: Option<NodeId>,
}

impl Group {
    /// A group nobody has served yet: sealed, waiting for its members' reports (S13).
    pub fn new(durability: Durability) -> Self {
        Self {
            version: Version(1),
            epoch: Epoch(0),
            phase: Phase::Sealing { next: Epoch(1), why: Why::FirstStart, to: None },
            primary: None,
            members: BTreeMap::new(),
            quorum: 1,
            former_quorum: None,
            followers: BTreeMap::new(),
            departed: BTreeMap::new(),
            durability,
            pause: None,
            paused_at: Version(0),
            starts: BTreeMap::new(),
            history: VecDeque::new(),
            bootstrap: None,
            forced: None,
        }
    }

    /// R: how many sealed reports with lineage prove that every acknowledged write is among them (S5). Whoever left F
    /// without the two commits counts too, where a promotion is never made without the proof.
    pub fn reports_needed(&self) -> usize {
        let unproved = if self.durability == Durability::Quorum { self.unproved_departures() } else { 0 };
        let quorum = self.former_quorum.as_ref().map_or(self.quorum, |former| former.quorum.min(self.quorum));
        (self.followers.len() + unproved + 2).saturating_sub(quorum as usize).max(1)
    }

    /// The same for the sentence in a change's event, which counts those departures under either durability.
    pub fn reports_to_say_kept(&self) -> usize {
        let quorum = self.former_quorum.as_ref().map_or(self.quorum, |former| former.quorum.min(self.quorum));
        (self.followers.len() + self.unproved_departures() + 2).saturating_sub(quorum as usize).max(1)
    }

    fn unproved_departures(&self) -> usize {
        self.departed.keys().filter(|node| !self.followers.contains_key(node)).count()
    }

    /// Whether the primary and the followers but `node` are W at least. Of fewer that hold a write, R reports need not have
    /// one once F grows again: nobody stops counting before (S5).
    pub fn enough_without(&self, node: NodeId) -> bool {
        self.followers.keys().filter(|follower| **follower != node).count() + 1 >= self.quorum as usize
    }

    /// Whether `node` may be promoted by itself: the primary of the epoch, or in F, where one that leaves still counts (S5).
    pub fn is_candidate(&self, node: NodeId) -> bool {
        self.primary.as_ref().is_some_and(|p| p.node == node) || self.followers.contains_key(&node)
    }

    /// The node promoted at `epoch`, if any.
    pub fn primary_node(&self) -> Option<NodeId> {
        self.primary.as_ref().map(|p| p.node)
    }
}

/// Where a group stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// The primary of the epoch may serve.
    Stable,
    /// Nobody may renew the epoch; members detach and report for `next` (S3).
    Sealing {
        /// The epoch the next promotion starts.
        next: Epoch,
        /// What led to it.
        why: Why,
        /// In a switchover: the node asked for.
        to: Option<NodeId>,
    },
    /// The primary is asked to hand over to `to` (S10). It still serves.
    Switching {
        /// The node asked for; a tie in data is decided in its favour (S4).
        to: NodeId,
        /// Planned by whom.
        why: Why,
    },
}

/// Who was promoted, and the very process it was: another `run_id` may not serve the epoch (S6).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incumbent {
    /// The node.
    pub node: NodeId,
    /// The instance's process.
    pub run_id: RunId,
}

/// A node's instance as a member of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// `host:port` where other instances and clients reach it. Never the VIP.
    pub announce: String,
    /// Higher is preferred among equals; 0 is never promoted.
    pub priority: u32,
    /// Whether its data was once the group's: before, foreign data on it is never overwritten (S13).
    pub adopted: bool,
}

/// A member of F.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Follower {
    /// The group's version at the commit that let it in: it regains lineage at an offset of after that (S5).
    pub since: Version,
    /// The process that was let in; another one must be let in again.
    pub run_id: RunId,
    /// The first of the two commits of leaving, by the group's version: it may not follow any more (S5).
    pub leaving: Option<Version>,
}

/// Left F without the two commits (S5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Departed {
    /// The group's version at the commit that took it out.
    pub since: Version,
    /// Its instance's `host:port`, which must not be attached any more.
    pub announce: String,
}

/// The W before members were added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormerQuorum {
    /// The old W.
    pub quorum: u32,
    /// The group's version when W rose; followers must pass the primary's offset of after that.
    pub since: Version,
}

/// What a promotion without proof may risk (S5).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Durability {
    /// Wait up to one lease for the proof, then take the best that has lineage.
    #[default]
    Available,
    /// Never promote without the proof.
    Quorum,
}

/// No automatic promotion for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// For how long, from when a leader saw it. None: until `resume`.
    pub length: Option<Duration>,
    /// The operator's words.
    pub reason: String,
}

/// Start of an epoch's data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Who was promoted.
    pub successor: NodeId,
    /// Its process.
    pub run_id: RunId,
    /// Data below this offset still belongs to an earlier epoch (S4).
    pub offset: Offset,
    /// Which one, as far as that is proved: with an earlier one than the epoch before, that epoch's data is not in it.
    pub data: Option<Epoch>,
}

/// One change of primary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The epoch it started.
    pub epoch: Epoch,
    /// The primary before.
    pub from: Option<NodeId>,
    /// The primary since.
    pub to: NodeId,
    /// What led to it.
    pub why: Why,
    /// What held for acknowledged writes.
    pub guarantee: Guarantee,
    /// Wall clock of the leader when it proposed it, milliseconds since 1970. For people only.
    pub at_unix_ms: u64,
    /// Who came back since with data that this epoch lacks (S11).
    pub diverged: BTreeMap<NodeId, Lost>,
    /// How the reign before it ended, as the old primary's host told it later: an exit status, the unit's last lines,
    /// a reboot.
    pub cause: Option<String>,
}

/// What an instance that came back held and the group's data lacks (S11).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// Up to how many bytes of its replication history, pings among them; None where nothing tells.
    pub bytes: Option<u64>,
    /// The file on that node that holds its data, if it was saved first.
    pub file: Option<String>,
}

/// Why a group was sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Why {
    /// The group had no primary yet.
    FirstStart,
    /// The primary's process died.
    InstanceCrashed,
    /// The primary's process was another one than was promoted.
    InstanceRestarted,
    /// The primary's process gave no answer and was killed.
    InstanceHung,
    /// The primary could not renew its lease and gave it up.
    LeaseLapsed,
    /// The successor did not get a lease in time.
    NeverServed,
    /// A majority of guardians holds no live promise: the primary's host or agent is silent.
    PrimarySilent,
    /// An operator asked for the change.
    Operator,
    /// The primary's agent is being stopped.
    Shutdown,
    /// The instance could not be brought into the posture it was to have.
    InstanceFailed,
    /// The primary's instance was stopped on purpose.
    InstanceStopped,
}

impl Why {
    /// Whether somebody asked for it: an operator, or whoever stopped an agent or an instance.
    pub fn planned(self) -> bool {
        matches!(self, Why::Operator | Why::Shutdown | Why::InstanceStopped)
    }

    /// Whether the fenced host keeps the VIP for a moment, until the successor is promoted: its instance is dead or
    /// sealed, and a client that reconnects meanwhile is refused at once instead of waiting for a lost SYN. Where the
    /// lease lapsed a successor may be serving already.
    pub fn vip_lingers(self) -> bool {
        matches!(
            self,
            Why::InstanceCrashed
                | Why::InstanceHung
                | Why::InstanceRestarted
                | Why::InstanceStopped
                | Why::Operator
                | Why::Shutdown
        )
    }
}

/// On what ground a cold start chose (S14), the surest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ground {
    /// No other instance held any data.
    OnlyData,
    /// Replication id and offset, as its RDB file kept them: the latest epoch, then the greatest offset.
    Offset,
    /// It was the last primary; an AOF keeps neither id nor offset.
    LastPrimary,
    /// Its agent's record of its last role, or of a stop in order, is the latest.
    RoleRecord,
    /// The newest write on disk, by the hosts' wall clocks.
    NewestWrite,
    /// Nothing tells them apart: the most keys, priority, lower number.
    Equal,
    /// All members are there and none holds any data.
    AllEmpty,
}

/// What held for acknowledged writes at a promotion (S5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Guarantee {
    /// First promotion of the group: nothing was acknowledged before.
    Fresh,
    /// R sealed reports with lineage: every write that W members had is kept.
    Kept,
    /// Fewer reports than R: the best data that could be reached was taken.
    BestReached,
    /// Nobody had lineage: chosen by what the disks prove (S14).
    ColdStart(Ground),
    /// By an operator's word, without proof.
    Forced,
}
