//! What the endpoint answers from: one immutable picture of all groups, made by the agent's loop now and then.
//!
//! Whether a primary serves is not in it, but until when that may be said: whoever answers compares that with the time of
//! the answer, so that a picture that has grown old says less and never something wrong.

use crate::cluster::{Epoch, NodeId};
use crate::view::Moment;
use std::time::Duration;

/// All groups as one node knows them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Picture {
    /// When it was made.
    pub at: Moment,
    /// The replicated lease.
    pub lease: Duration,
    /// The greatest epoch of any group.
    pub epoch: Epoch,
    /// This agent.
    pub me: Agent,
    /// The other agents.
    pub others: Vec<Agent>,
    /// How many guardians are a majority.
    pub quorum: usize,
    /// How many guardians there are.
    pub guardians: usize,
    /// Guardians that were heard lately, this one among them if it is one.
    pub heard: usize,
    /// The groups by name; only those that ever had a primary.
    pub groups: Vec<Group>,
}

/// An agent, which to clients is a Sentinel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Agent {
    /// Its node.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// 40 hexadecimal digits, the same for the life of its store.
    pub id: String,
    /// Where Sentinel clients reach it, if it has said so.
    pub address: Option<Address>,
    /// When it was heard last.
    pub heard: Option<Moment>,
    /// Since when it is down, as far as this node can tell.
    pub down: Option<Moment>,
}

/// Host and port.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// An IP address without brackets, or a name.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// Where a group stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Stage {
    /// Its primary may serve.
    #[default]
    Stable,
    /// Its primary is asked to hand over to that node.
    Switching(NodeId),
    /// Nobody may serve it. Whether an operator asked for that.
    Sealing {
        /// A planned change.
        planned: bool,
    },
}

/// One group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// What clients ask for.
    pub name: String,
    /// Its epoch.
    pub epoch: Epoch,
    /// Where it stands.
    pub stage: Stage,
    /// Until when it may be said that the primary serves.
    pub until: Option<Moment>,
    /// Who was promoted last.
    pub primary: Instance,
    /// The other members.
    pub replicas: Vec<Instance>,
    /// Since when nobody serves, as far as this node can tell.
    pub down: Option<Moment>,
    /// Since when it is being sealed.
    pub sealing: Option<Moment>,
}

/// What an instance was seen as.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Role {
    /// Not known yet.
    #[default]
    Unknown,
    /// Serving.
    Primary,
    /// Detached or attached.
    Replica,
}

/// One member's instance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Instance {
    /// Its node.
    pub node: NodeId,
    /// Where clients reach it: `announce`.
    pub address: Address,
    /// Its process, where that is known; else empty.
    pub run_id: String,
    /// As the file has it: higher is preferred, 0 is never promoted.
    pub priority: u32,
    /// Its replication offset, if known.
    pub offset: u64,
    /// What it was seen as, and since when.
    pub role: (Role, Moment),
    /// When its agent last spoke of it.
    pub heard: Option<Moment>,
    /// Since when it is down: its process, or its agent is silent.
    pub down: Option<Moment>,
    /// As a replica: whether it has been in step with the primary of this epoch. Until then it has no lease of grace: a
    /// former primary whose host is lost must not be taken for a replica, for a client that connects to it waits for ever.
    pub joined: bool,
    /// As a replica: since when it is not in step with a primary that serves.
    pub apart: Option<Moment>,
    /// As a replica: whether it follows the primary, in step or on the way to it.
    pub follows: bool,
}

impl Group {
    /// Whether its primary serves at `now`, as far as this node may say so.
    #[must_use]
    pub fn served(&self, now: Moment) -> bool {
        self.until.is_some_and(|until| until > now)
    }

    /// A majority has agreed that nobody serves it.
    #[must_use]
    pub fn agreed_down(&self, now: Moment) -> bool {
        !self.served(now) && matches!(self.stage, Stage::Sealing { .. })
    }
}

impl Instance {
    /// `host:port`, as Redis names a replica; without brackets, as Redis does.
    #[must_use]
    pub fn label(&self) -> String {
        format!("{}:{}", self.address.host, self.address.port)
    }

    /// Whether readers must not be sent to it: it is down, or has not been in step with the primary for a lease.
    #[must_use]
    pub fn unfit(&self, now: Moment, lease: Duration) -> bool {
        self.down.is_some() || self.apart.is_some_and(|since| !self.joined || now.since(since) >= lease)
    }

    /// The priority as Redis counts it: lower is preferred, 0 is never promoted; each side's default is 100.
    #[must_use]
    pub fn redis_priority(&self) -> u32 {
        10_000u32.checked_div(self.priority).unwrap_or(0)
    }
}

impl Picture {
    /// The group of that name.
    #[must_use]
    pub fn group(&self, name: &[u8]) -> Option<&Group> {
        self.groups.iter().find(|group| group.name.as_bytes() == name)
    }
}

impl Address {
    /// From `host:port` or `[host]:port`.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        Some(Self { host: host.to_owned(), port: port.parse().ok()? })
    }
}
