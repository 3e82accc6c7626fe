//! The operator's brake and the unit's `ExecStopPost`: fence this host without a running agent.
//!
//! For each group of the config, all at once: seal the instance and close its connections while the VIP is still up,
//! then reset what is left on the VIP, drop it, and reset again (S9). Every step is tried whatever became of the one
//! before, and every wait is bounded: [`LIMIT`] is the longest it can take.
//!
//! It must never decide anything about the cluster, write a stamp, or touch an instance whose lease may still hold when
//! it was asked to look at that first (S1: an agent killed and restarted within its lease carries on unfelt). It gives
//! no surrender: the others find out by the lease (S2).

use super::clock;
use super::stamp;
use crate::cluster::GroupName;
use crate::config::{Config, GroupConfig, Host, RedisAddress};
use crate::redis::{Commander, Endpoint, FenceBudgets, FenceOutcome, FenceReport, Secret, Settings};
use crate::view::{Moment, Stamp};
use crate::vip::{Vip, VipError, VipSpec, destroy_address, destroy_port};
use futures_util::future::join_all;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;
use tokio::time::timeout;

/// Until the seal is confirmed. More than an agent takes (an eighth of the lease): nobody else is waiting to serve.
const CONFIRM: Duration = Duration::from_secs(1);
/// Then for closing connections.
const CLOSE: Duration = Duration::from_millis(500);
/// For each call to the kernel.
const KERNEL: Duration = Duration::from_secs(1);
/// The longest a fence takes: the instance, then five calls to the kernel.
pub const LIMIT: Duration = Duration::from_millis(7000);
/// A password file above this many bytes is none.
const MAX_PASSWORD: u64 = 4096;

const _: () = assert!(LIMIT.as_millis() >= CONFIRM.as_millis() + CLOSE.as_millis() + 5 * KERNEL.as_millis());

/// Which groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Every one.
    All,
    /// Those whose lease stamp says that this host held a lease and did not surrender it.
    Held,
    /// Of those, whose lease has lapsed.
    Lapsed,
}

impl Which {
    /// As the command's flags say.
    pub fn asked(if_lapsed: bool, if_held: bool) -> Self {
        match (if_lapsed, if_held) {
            (true, _) => Self::Lapsed,
            (false, true) => Self::Held,
            (false, false) => Self::All,
        }
    }
}

/// What was done for one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fenced {
    /// The group.
    pub group: GroupName,
    /// What was done, or why nothing had to be, in words.
    pub done: Vec<String>,
    /// What failed, with its remedy.
    pub failed: Vec<Trouble>,
}

/// What failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// In words, with the remedy.
    pub text: String,
    /// Whether a right is missing.
    pub permission: bool,
}

/// Fences this host. One entry for each group of the config, in its order. The lease stamp lies beside `socket`; where it
/// cannot be believed all are fenced: no agent runs without one, so nobody's lease is cut short.
pub async fn fence(config: &Config, which: Which, socket: &Path) -> Vec<Fenced> {
    let stamps = if which == Which::All { None } else { stamp::read(socket).ok() };
    let (stamps, now) = (stamps.as_ref(), clock::now());
    join_all(config.groups.iter().map(|group| async move {
        let mut fenced = Fenced { group: GroupName(group.name.clone()), done: Vec::new(), failed: Vec::new() };
        match stamps.and_then(|stamps| spared(which, stamps.get(&fenced.group), now)) {
            Some(why) => fenced.done.push(why),
            None => fence_group(group, &mut fenced).await,
        }
        fenced
    }))
    .await
}

/// Why the group is not to be touched; None if it is to be fenced.
fn spared(which: Which, stamp: Option<&Stamp>, now: Moment) -> Option<String> {
    match stamp {
        None => Some("left alone: this host has held no lease since it booted".to_owned()),
        Some(Stamp::Surrendered { epoch }) => Some(format!("left alone: epoch {epoch} was fenced and surrendered")),
        Some(Stamp::Leased { epoch, until, .. }) if which == Which::Lapsed && *until > now => {
            let left = until.since(now).as_millis();
            Some(format!("left alone: the lease for epoch {epoch} holds for {left} ms more"))
        }
        Some(Stamp::Leased { .. }) => None,
    }
}

async fn fence_group(group: &GroupConfig, fenced: &mut Fenced) {
    let sealed = seal(group, fenced).await;
    if let Some(vip) = &group.vip {
        let spec =
            VipSpec { address: vip.vip.address, prefix_len: vip.vip.prefix_len, interface: vip.interface.clone() };
        drop_vip(spec, fenced).await;
    }
    // What could not be sealed must not keep its clients either: they may have come by the host's own address.
    if !sealed {
        let port = group.client_port();
        match destroy_port(port, &[]).await {
            Ok(count) => fenced.done.push(format!("{count} connections of port {port} reset")),
            Err(error) => fenced.trouble(&error),
        }
    }
}

/// Whether the instance is known not to serve.
async fn seal(group: &GroupConfig, fenced: &mut Fenced) -> bool {
    let endpoint = match endpoint(group) {
        Ok(endpoint) => endpoint,
        Err(trouble) => {
            fenced.failed.push(trouble);
            return false;
        }
    };
    let commander = Commander::new(endpoint, Settings::default(), None);
    let budgets = FenceBudgets { confirm: CONFIRM, close: CLOSE };
    match timeout(CONFIRM + CLOSE, commander.fence(budgets)).await {
        Ok(Ok(report)) => {
            fenced.done.push(seal_words(&report));
            if let Some(error) = &report.close_error {
                fenced
                    .failed
                    .push(Trouble { text: format!("not all connections were closed: {error}"), permission: false });
            }
            report.close_error.is_none()
        }
        Ok(Err(error)) => unsealed(group, &error.to_string(), fenced),
        Err(_) => unsealed(group, &format!("{}: no answer in time", group.redis), fenced),
    }
}

fn unsealed(group: &GroupConfig, error: &str, fenced: &mut Fenced) -> bool {
    let kill = match &group.unit {
        Some(unit) => format!("systemctl kill --signal=KILL {unit}"),
        None => "kill -KILL on its process".to_owned(),
    };
    let text = format!("the instance is NOT sealed and may still take writes: {error}; end it: {kill}");
    fenced.failed.push(Trouble { text, permission: false });
    false
}

fn seal_words(report: &FenceReport) -> String {
    let closed = format!("{} client and {} replica connections closed", report.clients_closed, report.replicas_closed);
    match report.outcome {
        FenceOutcome::Sealed => {
            let offset = report.after.as_ref().map(|info| format!(" at offset {}", info.offset)).unwrap_or_default();
            format!("instance sealed{offset} in {} ms, {closed}", report.confirmed_after.as_millis())
        }
        FenceOutcome::LoadingReplica => format!("instance is loading as a replica and serves nothing, {closed}"),
        FenceOutcome::Gone => "instance is not running".to_owned(),
    }
}

async fn drop_vip(spec: VipSpec, fenced: &mut Fenced) {
    let address = spec.address;
    let vip = match Vip::open(spec, KERNEL).await {
        Ok((vip, _events)) => vip,
        Err(error) => return fenced.trouble(&error),
    };
    let stood = vip.present().await;
    let mut reset = 0;
    // While the address stands clients hear the reset; once it is gone the rest is freed (see `destroy_address`).
    for before in [true, false] {
        match destroy_address(address).await {
            Ok(count) => reset += count,
            Err(error) if before => fenced.trouble(&error),
            Err(_) => {}
        }
        if before && let Err(error) = vip.drop_address().await {
            return fenced.trouble(&error);
        }
    }
    fenced.done.push(match stood {
        Ok(None) => format!("VIP {address} was not here"),
        _ => format!("VIP {address} dropped, {reset} connections reset"),
    });
}

impl Fenced {
    fn trouble(&mut self, error: &VipError) {
        let permission = matches!(error, VipError::MissingCapability { .. });
        self.failed.push(Trouble { text: error.to_string(), permission });
    }
}

/// How a group's instance is reached and logged in to.
fn endpoint(group: &GroupConfig) -> Result<Endpoint, Trouble> {
    let endpoint = match &group.redis {
        RedisAddress::Unix(path) => Endpoint::unix(path),
        RedisAddress::Tcp(address) => match &address.host {
            Host::Ip(ip) => Endpoint::tcp(ip.to_string(), address.port),
            Host::Name(name) => Endpoint::tcp(name, address.port),
        },
    };
    let Some(path) = &group.password_file else { return Ok(endpoint) };
    let mut text = String::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(MAX_PASSWORD).read_to_string(&mut text));
    read.map_err(|error| Trouble {
        text: format!("{}: the password cannot be read: {error}", path.display()),
        permission: error.kind() == std::io::ErrorKind::PermissionDenied,
    })?;
    let password = text.trim_end_matches(['\n', '\r']);
    Ok(endpoint.with_credentials(group.username.clone(), Some(Secret::new(password))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Epoch, RunId};

    #[test]
    fn the_stamp_says_who_is_fenced() {
        let now = Moment(1_000_000_000);
        let leased = |until| Stamp::Leased { epoch: Epoch(4), run_id: RunId::from("r"), until: Moment(until) };
        let (lapsed, held, given) =
            (leased(1_000_000_000), leased(1_250_000_000), Stamp::Surrendered { epoch: Epoch(3) });
        for which in [Which::Held, Which::Lapsed] {
            let said = |stamp: Option<&Stamp>| spared(which, stamp, now);
            assert_eq!(said(Some(&lapsed)), None);
            let given = said(Some(&given));
            assert_eq!(given.as_deref(), Some("left alone: epoch 3 was fenced and surrendered"));
            let never = said(None);
            assert_eq!(never.as_deref(), Some("left alone: this host has held no lease since it booted"));
        }
        let held = |which| spared(which, Some(&held), now);
        assert_eq!(held(Which::Held), None, "no agent will renew it");
        let words = Some("left alone: the lease for epoch 4 holds for 250 ms more".to_owned());
        assert_eq!(held(Which::Lapsed), words);
    }
}
