//! The instance's systemd unit: watched over sd-bus, started and killed through a request to root, and asked, after an
//! instance died, what it said last.
//!
//! Bus and journal calls block, so they run on threads of their own, behind bounded queues. Nothing here is needed to
//! fence, to serve or to promote: without a bus, a helper or a journal the agent goes by the instance's own signs, and
//! says once what it lacks.

pub(super) mod bus;
mod cause;
pub(super) mod request;
mod watch;

pub(super) use cause::tell_cause;
pub(super) use watch::watch;

use crate::cluster::{GroupName, Why};
use crate::config::Config;
use crate::redis::MainPid;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// One group's unit.
#[derive(Debug)]
pub(super) struct UnitHandle {
    /// The group.
    pub(super) group: GroupName,
    /// The unit's name.
    pub(super) name: String,
    /// Its main process, if one runs.
    pub(super) main_pid: MainPid,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// How its process ended last, in words, and when that was seen.
    ended: Option<(Instant, String)>,
}

impl UnitHandle {
    pub(super) fn new(group: GroupName, name: String) -> Arc<Self> {
        Arc::new(Self { group, name, main_pid: MainPid::default(), known: Mutex::default() })
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the instance's unit can say more of it.
pub(super) fn ended_by_instance(why: Why) -> bool {
    matches!(why, Why::InstanceCrashed | Why::InstanceRestarted | Why::InstanceHung | Why::InstanceFailed)
}

/// `mainstay unit-request`: serves one request from stdin.
///
/// # Errors
/// Reading or writing failed.
pub fn unit_request(config: &Config) -> std::io::Result<u8> {
    let done = request::serve(config, std::io::stdin(), std::io::stdout())?;
    Ok(u8::from(!done))
}
