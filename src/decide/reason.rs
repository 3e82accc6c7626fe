//! Why things are as they are: shared by log, status, explain and tests, so that all say the same.

use super::cold::ground_text;
use crate::cluster::{Epoch, Guarantee, Why};
use std::fmt;

/// One sentence about one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// Serving with a live lease.
    Serving,
    /// Promoted, and collecting promises.
    AwaitingLease,
    /// Making the instance primary.
    Promoting,
    /// Stopping service.
    Fencing(Why),
    /// Gave the epoch up, waiting for the next one.
    Surrendered(Why),
    /// Handing over to the named node.
    HandingOver(String),
    /// Following the named node.
    Following(String),
    /// Attaching to the named node.
    Attaching(String),
    /// Following, and synchronising in full.
    Synchronising(String),
    /// Sealed for this epoch, waiting for the promotion.
    Sealed(Epoch),
    /// Detaching.
    Sealing,
    /// The primary has not been heard for a lease.
    PrimaryUnheard,
    /// Waits to be let into the followers set.
    AwaitingAdmission,
    /// Waits until another replica has been synchronised in full.
    AwaitingTurn,
    /// Is leaving the followers set.
    Leaving,
    /// Its data is not the group's, and is not thrown away (S13).
    ForeignData {
        /// How many keys it holds.
        keys: u64,
    },
    /// Saves what its instance holds and the group lacks, before it follows (S11).
    Quarantining {
        /// Up to how many bytes.
        bytes: Option<u64>,
    },
    /// The instance is dead.
    InstanceDown,
    /// The instance was stopped on purpose, or is about to be.
    InstanceStopped,
    /// The instance's unit failed, and is being started again.
    UnitFailed,
    /// The instance loads its data.
    InstanceLoading,
    /// The instance runs a script.
    InstanceBusy,
    /// The instance does not answer.
    InstanceSilent,
    /// The instance cannot be watched.
    InstanceUnusable(String),
    /// The instance was not seen yet.
    InstanceUnknown,
    /// The group does not exist yet.
    NoGroup,
    /// No instance of the group here.
    Witness,
    /// A task failed; it is tried again.
    Trouble(String),
    /// Nobody may promote before these have introduced themselves.
    AwaitingIntroductions(Vec<String>),
    /// Nobody may promote before a majority of guardians has sealed.
    AwaitingSeals(Vec<String>),
    /// Nobody may promote before these have reported.
    AwaitingReports(Vec<String>),
    /// Enough reports to go on, but not to prove that nothing is lost.
    AwaitingProof {
        /// Reports with lineage.
        have: usize,
        /// Needed.
        need: usize,
    },
    /// No automatic promotion by an operator's word.
    Paused(String),
    /// Two sets of data that are not kin: an operator must choose (S13).
    TwoDataSets(Vec<String>),
    /// The operator chose an empty instance while others hold data (S13).
    EmptyChoice {
        /// The choice.
        chosen: String,
        /// Who holds data.
        holding: Vec<String>,
    },
    /// After a cold start nothing proves whose data is the latest (S14).
    NothingProves(Vec<String>),
    /// The best data lies where the agent is being stopped.
    AwaitingRestart(String),
    /// Nobody may be promoted: priority 0.
    NobodyPromotable,
    /// What has a silent agent is being sealed over the network.
    SealingRemotely,
}

const BARRED: &str = "nobody may be promoted: every candidate has priority 0; to take another one's data: `mainstay failover --force --to NODE`";

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serving => write!(f, "serving, lease held"),
            Self::AwaitingLease => write!(f, "promoted, waiting for the lease"),
            Self::Promoting => write!(f, "becoming primary"),
            Self::Fencing(why) => write!(f, "fencing: {}", why_text(*why)),
            Self::Surrendered(why) => write!(f, "gave up the primary's place: {}", why_text(*why)),
            Self::HandingOver(to) => write!(f, "handing over to {to}"),
            Self::Following(primary) => write!(f, "following {primary}"),
            Self::Attaching(primary) => write!(f, "attaching to {primary}"),
            Self::Synchronising(primary) => write!(f, "full resynchronisation from {primary}"),
            Self::Sealed(epoch) => write!(f, "sealed for epoch {epoch}"),
            Self::Sealing => write!(f, "detaching"),
            Self::PrimaryUnheard => write!(f, "no serving primary is heard"),
            Self::AwaitingAdmission => write!(f, "waiting to be let in as a follower"),
            Self::AwaitingTurn => write!(f, "waiting for its turn to synchronise in full"),
            Self::Leaving => write!(f, "leaving the followers"),
            Self::ForeignData { keys } => {
                write!(
                    f,
                    "holds {keys} keys that are not the group's, and nothing is thrown away; to give them up: `mainstay bootstrap --primary` and the primary's name"
                )
            }
            Self::Quarantining { bytes: Some(bytes) } => {
                write!(f, "saving its data first: up to {bytes} bytes of it are not the primary's")
            }
            Self::Quarantining { bytes: None } => {
                write!(f, "saving its data first: nothing tells how much of it is the primary's")
            }
            Self::InstanceDown => write!(f, "instance is down"),
            Self::InstanceStopped => write!(f, "instance was stopped on purpose, and is left alone"),
            Self::UnitFailed => write!(f, "the instance's unit failed; it is started again, ever later"),
            Self::InstanceLoading => write!(f, "instance is loading its data"),
            Self::InstanceBusy => write!(f, "instance is busy with a script"),
            Self::InstanceSilent => write!(f, "instance does not answer"),
            Self::InstanceUnusable(why) => write!(f, "instance cannot be watched: {why}"),
            Self::InstanceUnknown => write!(f, "instance not seen yet"),
            Self::NoGroup => write!(f, "the group is not known to the cluster yet"),
            Self::Witness => write!(f, "witness: no instance here"),
            Self::Trouble(what) => write!(f, "trying again: {what}"),
            Self::AwaitingIntroductions(who) => write!(f, "waiting for the first start of {}", who.join(", ")),
            Self::AwaitingSeals(who) => write!(f, "waiting for the promises of {} to run out", who.join(", ")),
            Self::AwaitingReports(who) => write!(f, "waiting for reports from {}", who.join(", ")),
            Self::AwaitingProof { have, need } => f.write_str(&proof_text(*have, *need)),
            Self::Paused(reason) if reason.is_empty() => write!(f, "automatic promotion is paused"),
            Self::Paused(reason) => write!(f, "automatic promotion is paused: {reason}"),
            Self::TwoDataSets(who) => write!(
                f,
                "{} each hold data that the other lacks, and nothing is thrown away; choose with `mainstay bootstrap --primary NODE`",
                who.join(" and ")
            ),
            Self::EmptyChoice { chosen, holding } => write!(
                f,
                "{chosen} was chosen and is empty, while {} hold data; choose one of those with `mainstay bootstrap --primary NODE`, or run FLUSHALL there",
                holding.join(" and ")
            ),
            Self::NothingProves(who) => write!(
                f,
                "nothing proves whose data is the latest, of {}; choose with `mainstay failover --force --to NODE`",
                who.join(" and ")
            ),
            Self::AwaitingRestart(who) => f.write_str(&restart_text(who)),
            Self::NobodyPromotable => f.write_str(BARRED),
            Self::SealingRemotely => write!(f, "sealing over the network what has a silent agent"),
        }
    }
}

/// A change's cause in words.
pub fn why_text(why: Why) -> &'static str {
    match why {
        Why::FirstStart => "first start",
        Why::InstanceCrashed => "the primary's process died",
        Why::InstanceRestarted => "the primary's process was restarted",
        Why::InstanceHung => "the primary's process hung",
        Why::LeaseLapsed => "the primary lost its lease",
        Why::NeverServed => "the successor got no lease",
        Why::PrimarySilent => "the primary's host or agent is silent",
        Why::Operator => "asked for by an operator",
        Why::Shutdown => "the primary's agent was stopped",
        Why::InstanceFailed => "the primary's instance could not be commanded",
        Why::InstanceStopped => "the primary's instance was stopped on purpose",
    }
}

fn restart_text(who: &str) -> String {
    format!(
        "waiting for the agent of {who}, which holds the best data and is being stopped: start it again, or do without by \
         `mainstay failover --force --to NODE`"
    )
}

/// What is waited for, and for how long.
fn proof_text(have: usize, need: usize) -> String {
    format!(
        "waiting for {need} reports that prove that nothing is lost; {have} so far (`available` waits one lease; under \
         `quorum` they must come, or `mainstay failover --force --to NODE` goes without)"
    )
}

/// The event of a group that is being sealed.
pub fn vacant_text(why: Why) -> String {
    format!("the primary's place is vacant: {}", why_text(why))
}

/// The event of a change of primary.
pub fn change_text(from: Option<&str>, to: &str, guarantee: Guarantee) -> String {
    format!("primary is {to}, before it {}; {}", from.unwrap_or("nobody"), guarantee_text(guarantee))
}

/// What held for acknowledged writes, in words (S5).
fn guarantee_text(guarantee: Guarantee) -> String {
    let text = match guarantee {
        Guarantee::Fresh => "first promotion",
        Guarantee::Kept => "every write that a write quorum held is kept",
        Guarantee::BestReached => {
            "the best data that could be reached was taken; writes held only by unreachable instances may be lost"
        }
        Guarantee::ColdStart(ground) => return format!("chosen after a cold start: {}", ground_text(ground)),
        Guarantee::Forced => "forced by an operator; acknowledged writes may be lost",
    };
    text.to_owned()
}
