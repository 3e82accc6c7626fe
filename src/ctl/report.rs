//! The shape of `status --json`: plain data, its health and the exit code that goes with it.
//!
//! The keys are an interface that scripts drive: they may be added to, never renamed or removed. What was added after
//! the first version has a default, so that a command line and an agent of different versions still understand each
//! other. Nothing here computes a report; see [`super::status`].

use crate::cluster::{Epoch, GroupName, Offset};
use serde::{Deserialize, Serialize};

/// The whole report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReport {
    /// Who reports.
    pub node: String,
    /// The Raft leader, if one is known and heard.
    pub leader: Option<String>,
    /// The Raft term.
    pub term: u64,
    /// The groups by name.
    pub groups: Vec<GroupStatus>,
    /// The nodes by number.
    pub nodes: Vec<NodeStatus>,
    /// In one word; decides the exit code.
    pub health: Health,
    /// Whether this node can tell that a leader with a majority behind it is there.
    pub has_quorum: bool,
    /// What keeps the cluster as such from being healthy, in sentences; each group has its own.
    #[serde(default)]
    pub problems: Vec<String>,
    /// What this node waits for before it takes part.
    #[serde(default)]
    pub waiting: Option<String>,
    /// Healthy or not, worth a look.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// The replicated lease, milliseconds.
    #[serde(default)]
    pub lease_ms: u64,
    /// The agent's version.
    #[serde(default)]
    pub version: String,
    /// This host's wall clock, milliseconds since 1970.
    #[serde(default)]
    pub now_unix_ms: u64,
}

/// In one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Nothing to do.
    Healthy,
    /// It may serve, but something is amiss.
    Degraded,
    /// No leader with a majority is known here: nothing can be promoted.
    NoQuorum,
}

/// One group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// Its name.
    pub name: GroupName,
    /// Of the last promotion; 0 before the first.
    pub epoch: Epoch,
    /// Between two epochs or not.
    pub phase: PhaseWord,
    /// Who may serve the epoch; None while the group is sealed for the next one.
    pub primary: Option<String>,
    /// `address/prefix` from this node's file; None if it has none.
    pub vip: Option<String>,
    /// The node that says it holds the VIP.
    pub vip_holder: Option<String>,
    /// Whether automatic promotion is paused.
    pub paused: bool,
    /// One for each member, then one for each guardian without an instance.
    pub instances: Vec<InstanceStatus>,
    /// The pause in full.
    #[serde(default)]
    pub pause: Option<PauseStatus>,
    /// How the group stands, in a sentence.
    #[serde(default)]
    pub reason: String,
    /// What it waits for, if it waits.
    #[serde(default)]
    pub waits: Option<String>,
    /// What an operator should know besides.
    #[serde(default)]
    pub notes: Vec<String>,
    /// What keeps it from being healthy.
    #[serde(default)]
    pub problems: Vec<String>,
    /// Who was promoted last, also while the group is sealed.
    #[serde(default)]
    pub last_primary: Option<String>,
    /// `available` or `quorum`.
    #[serde(default)]
    pub durability: String,
    /// W: how many members hold a write that counts as acknowledged.
    #[serde(default)]
    pub quorum: u32,
    /// R: how many sealed reports prove that nothing acknowledged is lost.
    #[serde(default)]
    pub reports_needed: usize,
    /// F: who may be promoted besides the primary.
    #[serde(default)]
    pub followers: Vec<String>,
    /// The last changes of primary, newest first.
    #[serde(default)]
    pub changes: Vec<ChangeStatus>,
}

/// Between two epochs or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PhaseWord {
    /// The primary may serve.
    Stable,
    /// Sealed for the next epoch.
    Sealing,
    /// A switchover is under way.
    Switching,
}

/// A pause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseStatus {
    /// The operator's words.
    pub reason: String,
    /// Its length in milliseconds; None is until `resume`.
    pub length_ms: Option<u64>,
    /// What is left of it, where this node can tell (on the leader).
    pub left_ms: Option<u64>,
}

/// One instance, or a witness.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceStatus {
    /// Its node.
    pub node: String,
    /// Its posture.
    pub posture: PostureWord,
    /// Its replication offset in bytes, if its node was heard lately and the instance answers.
    pub offset: Option<Offset>,
    /// Bytes behind the primary, while both are known and it follows or serves.
    pub lag_bytes: Option<u64>,
    /// The epoch of its data, if proved (S4).
    pub lineage: Option<Epoch>,
    /// Higher is preferred among equals, 0 never promoted; None for a witness.
    pub priority: Option<u32>,
    /// In words.
    pub reason: String,
    /// Whether its node says it holds the VIP.
    #[serde(default)]
    pub vip: bool,
}

/// A posture, as scripts read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PostureWord {
    /// The primary, lease held.
    Serving,
    /// Attached to the primary.
    Following,
    /// Detached and read-only, or in between.
    Sealed,
    /// Dead, or its node is not heard.
    Down,
    /// A guardian without an instance.
    Witness,
}

impl PostureWord {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Following => "following",
            Self::Sealed => "sealed",
            Self::Down => "down",
            Self::Witness => "witness",
        }
    }

    /// What a node said of itself; a word of another version counts as down, never as serving.
    pub(super) fn read(word: &str) -> Self {
        let all = [Self::Serving, Self::Following, Self::Sealed, Self::Witness];
        all.into_iter().find(|known| known.as_str() == word).unwrap_or(Self::Down)
    }
}

/// One change of primary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeStatus {
    /// The epoch it started.
    pub epoch: Epoch,
    /// The primary before.
    pub from: Option<String>,
    /// The primary since.
    pub to: String,
    /// In words.
    pub why: String,
    /// What held for acknowledged writes, in words.
    pub guarantee: String,
    /// The leader's wall clock, milliseconds since 1970.
    pub at_unix_ms: u64,
    /// Who came back since with data that this epoch lacks (S11).
    #[serde(default)]
    pub diverged: Vec<LossStatus>,
    /// How the reign before it ended, as the old primary's host told it later.
    #[serde(default)]
    pub cause: Option<String>,
}

/// Data that came back and that an epoch lacks (S11).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossStatus {
    /// Who held it.
    pub node: String,
    /// Up to how many bytes of its replication history; None where nothing tells.
    pub bytes: Option<u64>,
    /// The file below that node's `data_dir/quarantine` that holds it; None if it was not saved.
    pub file: Option<String>,
    /// In words.
    pub text: String,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Where peers reach its agent.
    pub address: String,
    /// In Raft.
    pub role: Role,
    /// Whether the reporting node reaches it.
    pub reachable: bool,
    /// Why it is a learner, or since when it is silent; empty if there is nothing to say.
    #[serde(default)]
    pub reason: String,
}

/// In Raft.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Votes, promises leases and joins seals.
    Voter,
    /// Only receives the log.
    Learner,
}

impl StatusReport {
    /// 0 healthy, 1 degraded, 2 no quorum.
    pub fn exit_code(&self) -> u8 {
        match self.health {
            Health::Healthy => 0,
            Health::Degraded => 1,
            Health::NoQuorum => super::exit::Code::NoQuorum as u8,
        }
    }

    /// The report with one group only, whose health then decides; None if there is no such group.
    pub fn only(mut self, group: &GroupName) -> Option<Self> {
        self.groups.retain(|found| found.name == *group);
        self.health = self.judge();
        (!self.groups.is_empty()).then_some(self)
    }

    /// What the problems amount to.
    pub(super) fn judge(&self) -> Health {
        let well = self.problems.is_empty() && self.groups.iter().all(|group| group.problems.is_empty());
        match (self.has_quorum, well) {
            (false, _) => Health::NoQuorum,
            (true, true) => Health::Healthy,
            (true, false) => Health::Degraded,
        }
    }
}
