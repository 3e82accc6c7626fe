//! Before this node takes part: waiting to be a member, or set aside because the cluster went on without it.
//!
//! Here the agent answers the operator and pets the watchdog, and nothing else: it commands no instance, votes for
//! nobody and promises nothing.

use super::order::{self, Order, Stage};
use super::{Asked, Notifier, desk, emergency};
use crate::cluster::NodeId;
use crate::config::{Config, HostPort, Start};
use crate::ctl::catalog::{CONFIG_WARNING, SET_ASIDE};
use crate::ctl::protocol::{RefusalKind, Request, Response};
use crate::raft::{Formation, Founding, RaftNode};
use crate::store::Store;
use anyhow::Context as _;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

/// How an agent ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to.
    Stopped,
    /// To be started again at once: an order is to be carried out first.
    Again,
}

/// What waiting for membership came to.
pub(super) enum Entered {
    Member(NodeId),
    Ended(Ended),
    /// By whose word.
    Superseded(String),
}

/// SIGTERM, SIGINT and SIGHUP.
pub(super) struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
}

/// Which came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    Stop,
    Reload,
}

impl Signals {
    pub(super) fn new() -> anyhow::Result<Self> {
        let term = signal(SignalKind::terminate()).context("SIGTERM cannot be caught")?;
        let int = signal(SignalKind::interrupt()).context("SIGINT cannot be caught")?;
        let hup = signal(SignalKind::hangup()).context("SIGHUP cannot be caught")?;
        Ok(Self { term, int, hup })
    }

    pub(super) async fn next(&mut self) -> Heard {
        tokio::select! {
            _ = self.term.recv() => Heard::Stop,
            _ = self.int.recv() => Heard::Stop,
            _ = self.hup.recv() => Heard::Reload,
        }
    }

    /// Before there is anything to reload: the config is read anew once there is, for the signal is kept.
    pub(super) async fn stop(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}

/// The replicated lease rules once there is one; a differing file is worth a word.
pub(super) fn replicated_lease(store: &Store, configured: Duration) -> Duration {
    let replicated = store.applied().borrow().state.lease;
    if replicated.is_zero() || replicated == configured {
        return configured;
    }
    let (ruling, file) = (replicated.as_millis(), configured.as_millis());
    tracing::warn!(
        message_id = CONFIG_WARNING,
        "timing.lease_ms is {file} in the file; the cluster's is {ruling} and rules"
    );
    replicated
}

pub(super) fn founding(start: &Start) -> Founding {
    match start {
        Start::Members(members) => {
            Founding::Members(members.iter().map(|(name, address)| (name.clone(), address.to_string())).collect())
        }
        Start::Join(seeds) => Founding::Join(seeds.iter().map(ToString::to_string).collect()),
    }
}

/// Waits until this node is part of a cluster.
pub(super) async fn formed(
    config: &Config,
    raft: &RaftNode,
    asked: &mut mpsc::Receiver<Asked>,
    signals: &mut Signals,
    notifier: &mut Notifier,
) -> anyhow::Result<Entered> {
    let mut formation = raft.formation();
    let mut said = String::new();
    loop {
        let now = formation.borrow_and_update().clone();
        let waiting = match now {
            Formation::Member { id } => return Ok(Entered::Member(id)),
            Formation::Superseded { why } => return Ok(Entered::Superseded(why)),
            Formation::Waiting { missing, why } if missing.is_empty() => why,
            Formation::Waiting { missing, why } => format!("{why}: {}", missing.join(", ")),
            Formation::Refused { why } => anyhow::bail!("{why}"),
            Formation::Failed { why } => anyhow::bail!("{why}"),
        };
        if waiting != said {
            tracing::info!("{waiting}");
            notifier.status(&waiting);
            said.clone_from(&waiting);
        }
        tokio::select! {
            changed = formation.changed() => changed.context("the Raft shell ended")?,
            () = signals.stop() => return Ok(Entered::Ended(Ended::Stopped)),
            Some((request, answer)) = asked.recv() => {
                if answered(config, &request, answer, &waiting) {
                    return Ok(Entered::Ended(Ended::Again));
                }
            }
            () = tokio::time::sleep(notifier.petting()) => notifier.pet(),
        }
    }
}

/// The cluster went on in a newer generation: keeps the instances sealed until the operator lets this node join anew.
pub(super) async fn set_aside(
    config: &Config,
    why: &str,
    asked: &mut mpsc::Receiver<Asked>,
    signals: &mut Signals,
    notifier: &mut Notifier,
) -> Ended {
    tracing::error!(message_id = SET_ASIDE, "{why}");
    notifier.status(why);
    for fenced in emergency::fence(config, emergency::Which::All, &config.control_socket).await {
        fenced.failed.iter().for_each(|trouble| tracing::warn!(group = %fenced.group, "{}", trouble.text));
    }
    loop {
        tokio::select! {
            () = signals.stop() => return Ended::Stopped,
            Some((request, answer)) = asked.recv() => {
                if answered(config, &request, answer, why) {
                    return Ended::Again;
                }
            }
            () = tokio::time::sleep(notifier.petting()) => notifier.pet(),
        }
    }
}

/// True if it was an order to join anew.
fn answered(config: &Config, request: &Request, answer: oneshot::Sender<Response>, waiting: &str) -> bool {
    let Request::Join { address } = request else {
        let _ = answer.send(desk::before_membership(&config.node.name, request, waiting));
        return false;
    };
    let given = give_join(&config.node.data_dir, &config.node.name, address);
    let ordered = given.is_ok();
    let _ = answer.send(given.unwrap_or_else(|refusal| refusal));
    ordered
}

/// Orders this node to drop its membership and to join anew at its next start.
pub(super) fn give_join(dir: &std::path::Path, node: &str, address: &str) -> Result<Response, Response> {
    if address.parse::<HostPort>().is_err() {
        let why = format!("{address} is no HOST:PORT of a running agent");
        return Err(Response::refused(RefusalKind::Wrong, why, "such as 10.0.0.1:7400"));
    }
    let join = Order::Join { address: address.to_owned(), stage: Stage::Asked };
    match order::give(dir, &join) {
        Ok(()) => Ok(Response::said(format!(
            "{node} drops its membership and asks {address} to take it in; `mainstay status` tells how that goes"
        ))),
        Err(error) => Err(Response::refused(RefusalKind::Internal, format!("{error:#}"), "")),
    }
}
