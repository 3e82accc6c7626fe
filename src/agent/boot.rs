//! Whether the host was booted since the agent last ran: tells a power cut from an agent that was merely restarted.
//!
//! The boot id lies in the data directory. It is for people: nothing is decided by it.

use super::clock;
use super::stamp::Stamps;
use crate::cluster::GroupName;
use crate::ctl::catalog;
use crate::view::{Stamp, View, What};
use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

const FILE: &str = "boot";

/// Since the agent ran last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Since {
    /// It never did.
    First,
    /// The host was booted.
    Boot,
    /// The host has been up all the time.
    Restart,
}

impl Since {
    /// For the log.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::First => "started for the first time",
            Self::Boot => "started after a boot of the host",
            Self::Restart => "started again in the same boot of the host",
        }
    }

    /// Why the reign ended that this host had when the agent last ran.
    pub(super) fn cause(self) -> Option<&'static str> {
        match self {
            Self::First => None,
            Self::Boot => Some("the host went down and was booted again"),
            Self::Restart => {
                Some("the agent was gone for longer than its lease and was started again; the host was not booted")
            }
        }
    }
}

/// Compares, and records this boot.
pub(super) fn since(dir: &Path) -> Since {
    let boot = match clock::boot_id() {
        Ok(boot) => boot,
        Err(error) => {
            tracing::warn!(error = %error, "whether the host was booted cannot be told");
            return Since::First;
        }
    };
    let path = dir.join(FILE);
    let before = fs::read_to_string(&path);
    let since = match &before {
        Ok(known) if known.trim_end() == boot => Since::Restart,
        Ok(_) => Since::Boot,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Since::First,
        Err(error) => {
            tracing::warn!(error = %error, "{}: whether the host was booted cannot be told", path.display());
            Since::First
        }
    };
    if since != Since::Restart {
        let fresh = path.with_extension("new");
        let written = fs::write(&fresh, format!("{boot}\n")).and_then(|()| fs::rename(&fresh, &path));
        if let Err(error) = written {
            tracing::warn!(error = %error, "{}: this boot cannot be recorded", path.display());
        }
    }
    since
}

/// What the time since the agent last ran says of a reign that this host then had, and has no more.
pub(super) fn causes(view: &View, stamps: &Stamps, since: Since) -> VecDeque<What> {
    tracing::info!(message_id = catalog::AGENT_STARTED, "agent {}", since.words());
    let Some(text) = since.cause() else { return VecDeque::new() };
    let lapsed =
        |name: &GroupName| !matches!(stamps.all().get(name), Some(Stamp::Leased { until, .. }) if *until > view.now);
    let reigned =
        view.state.groups.iter().filter(|(name, group)| group.primary_node() == Some(view.me) && lapsed(name));
    reigned
        .map(|(name, group)| What::Cause { group: name.clone(), epoch: group.epoch, text: text.to_owned() })
        .collect()
}

/// A node that is new to the cluster learns its lease only now, and its file says another: the agent starts again, for the
/// instance's and the VIP's bounds are parts of it (S8).
pub(super) fn lease_is_another(view: &View, opened: Duration) -> bool {
    let lease = view.state.lease;
    let another = !lease.is_zero() && lease != opened;
    if another {
        tracing::warn!(
            "the cluster's lease is {} ms, not {} ms as in this node's file: starting again with it",
            lease.as_millis(),
            opened.as_millis()
        );
    }
    another
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_is_told_from_a_restart() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(since(dir.path()), Since::First);
        assert_eq!(since(dir.path()), Since::Restart);
        fs::write(dir.path().join(FILE), "another boot\n").expect("written");
        assert_eq!(since(dir.path()), Since::Boot);
        assert_eq!(since(dir.path()), Since::Restart);
    }
}
