//! What an operator may ask of the agent, and what it answers: one line of JSON each over the control socket.
//!
//! The types are the wire: a request that this version does not know in every field is refused, not half obeyed,
//! because the missing half might be the one that matters. Answers are read leniently, so that a newer agent's extra
//! keys do not break an older command line.
//!
//! Nothing here does I/O. How long a request may take is part of it: see [`Request::patience`].

use super::report::{ChangeStatus, NodeStatus, StatusReport};
use crate::cluster::{Epoch, GroupName};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The longest request line in bytes, its newline included.
pub const MAX_REQUEST: usize = 16 * 1024;
/// The longest answer line in bytes that a client reads.
pub const MAX_RESPONSE: usize = 4 * 1024 * 1024;
/// How much longer than the agent the client waits, so that the agent's own words arrive when time runs out.
pub const CLIENT_GRACE: Duration = Duration::from_secs(1);
/// The longest text an operator may give as a reason, in bytes: it is replicated and kept.
pub const MAX_REASON: usize = 500;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Every node and group as this node sees them.
    Status {},
    /// The nodes alone.
    Members {},
    /// The replicated history of changes.
    History {
        /// Which group; None is every group.
        group: Option<GroupName>,
    },
    /// An instance of this host is about to be stopped: hand over what it serves, and leave it alone until its process
    /// is back. Answered when nothing is lost by stopping it, or nobody can take over.
    Release {
        /// Which group; None is every group of this host.
        group: Option<GroupName>,
        /// Or the instance's unit.
        unit: Option<String>,
    },
    /// A planned change of primary (S10); answered when it is over.
    Switchover {
        /// Which group; needed where there is more than one.
        group: Option<GroupName>,
        /// The node asked for; None lets the agents choose.
        to: Option<String>,
    },
    /// What a promotion by force may lose, and what it would do.
    ForcePlan {
        /// Which group; needed where there is more than one.
        group: Option<GroupName>,
        /// The node asked for.
        to: String,
    },
    /// Promote without proof; asked for after the operator has seen the plan.
    Force {
        /// Which group; needed where there is more than one.
        group: Option<GroupName>,
        /// The node asked for.
        to: String,
        /// Whether the plan said that a new generation of the cluster is founded, for lack of a majority.
        founding: bool,
    },
    /// Drop the membership in a cluster that has gone on without this node, or has ended, and join anew.
    Join {
        /// A running member, `host:port`.
        address: String,
    },
    /// This host stops serving now: drop the VIP and seal the instance of every group (S9).
    FenceHere {},
    /// Take a node out of the cluster for good.
    Leave {
        /// Its name.
        node: String,
    },
    /// The operator's choice where adoption refused to guess (S13): what the others hold is given up.
    Bootstrap {
        /// Which group; needed where there is more than one.
        group: Option<GroupName>,
        /// Whose data is the group's.
        primary: String,
    },
    /// No automatic promotion for a while.
    Pause {
        /// Which group; None is every group.
        group: Option<GroupName>,
        /// For how long; None is until `resume`.
        #[serde(rename = "length_ms", with = "millis")]
        length: Option<Duration>,
        /// The operator's words, at most [`MAX_REASON`] bytes.
        #[serde(deserialize_with = "bounded_reason")]
        reason: String,
    },
    /// Automatic promotion again.
    Resume {
        /// Which group; None is every group.
        group: Option<GroupName>,
    },
}

impl Request {
    /// How long the agent has to answer. After that the server answers in its place that it did not.
    pub fn patience(&self) -> Duration {
        match self {
            Self::Status {} | Self::Members {} | Self::History { .. } | Self::FenceHere {} => Duration::from_secs(2),
            Self::Pause { .. }
            | Self::Resume { .. }
            | Self::ForcePlan { .. }
            | Self::Join { .. }
            | Self::Bootstrap { .. } => Duration::from_secs(5),
            Self::Release { .. } => Duration::from_secs(9),
            Self::Switchover { .. } | Self::Leave { .. } | Self::Force { .. } => Duration::from_secs(15),
        }
    }

    /// Whether asking a second time could do something a second time.
    pub fn changes(&self) -> bool {
        !matches!(self, Self::Status {} | Self::Members {} | Self::History { .. } | Self::ForcePlan { .. })
    }
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Response {
    /// To [`Request::Status`].
    Status(Box<StatusReport>),
    /// To [`Request::Members`].
    Members(MembersReport),
    /// To [`Request::History`].
    History {
        /// By name.
        groups: Vec<GroupHistory>,
    },
    /// To [`Request::ForcePlan`].
    Plan(ForcePlan),
    /// To everything that changes something: it is done.
    Done(Done),
    /// It is not done.
    Refused(Refused),
}

/// The nodes of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembersReport {
    /// The Raft leader, if one is known and heard.
    pub leader: Option<String>,
    /// The Raft term.
    pub term: u64,
    /// All nodes, by number.
    pub nodes: Vec<NodeStatus>,
}

/// A group's changes of primary, as far back as they are replicated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupHistory {
    /// The group.
    pub group: GroupName,
    /// Its changes, oldest first.
    pub changes: Vec<ChangeStatus>,
}

/// What a promotion by force would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForcePlan {
    /// The group.
    pub group: GroupName,
    /// The node that would be promoted.
    pub to: String,
    /// There is no majority left: a new generation of the cluster would be founded on that node alone.
    pub founding: bool,
    /// What may be lost, and what must not be done afterwards, in sentences.
    pub warnings: Vec<String>,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "done", rename_all = "snake_case")]
pub enum Done {
    /// In words, for people.
    Said {
        /// One or more sentences.
        text: String,
    },
    /// A switchover is over, one way or the other.
    Switched(Switched),
    /// This host was fenced.
    Fenced {
        /// What was done for each group.
        groups: Vec<GroupDone>,
    },
}

/// The outcome of a switchover.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switched {
    /// The group.
    pub group: GroupName,
    /// The primary before.
    pub from: String,
    /// The primary now. The same as `from` where the target did not come in time and the way back was taken.
    pub to: String,
    /// The epoch it serves.
    pub epoch: Epoch,
    /// How long no instance accepted writes, in milliseconds, as the agents measured it; None if they could not.
    pub unserved_ms: Option<u64>,
    /// What an operator should know besides, in words; empty if nothing.
    #[serde(default)]
    pub note: String,
}

/// What was done for one group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupDone {
    /// The group.
    pub group: GroupName,
    /// In words.
    pub text: String,
}

/// Why something was not done, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Decides the exit code.
    pub kind: RefusalKind,
    /// One sentence.
    pub why: String,
    /// What to do; empty if there is nothing to be done.
    pub remedy: String,
}

/// The kinds of refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    /// What was asked for does not exist or contradicts itself: asking again is of no use.
    Wrong,
    /// Not now: no quorum, another change is under way, the target lags. Asking again may help.
    NotNow,
    /// It was begun and did not end in time; what became of it is in `status`.
    Unfinished,
    /// The agent has a defect or is going down.
    Internal,
}

impl Response {
    /// A refusal.
    pub fn refused(kind: RefusalKind, why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Refused(Refused { kind, why: why.into(), remedy: remedy.into() })
    }

    /// Done, in words.
    pub fn said(text: impl Into<String>) -> Self {
        Self::Done(Done::Said { text: text.into() })
    }
}

/// One line, newline included. A report of thousands of nodes aside, it is far below [`MAX_RESPONSE`].
pub fn to_line(message: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

/// The command line refuses more as well; but anybody who may use the socket can write to it.
fn bounded_reason<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.len() > MAX_REASON {
        let why = format!("the reason has {} bytes; at most {MAX_REASON} are kept", text.len());
        return Err(serde::de::Error::custom(why));
    }
    Ok(text)
}

mod millis {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::time::Duration;

    pub(super) fn serialize<S: Serializer>(length: &Option<Duration>, out: S) -> Result<S::Ok, S::Error> {
        length.map(|length| u64::try_from(length.as_millis()).unwrap_or(u64::MAX)).serialize(out)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(from)?.map(Duration::from_millis))
    }
}
