//! The tasks on one instance, each bounded, each reporting how it ended: seal, fence, follow, serve, hand over, tune,
//! kill. S9 and S10 are carried out here, in their order; when and why is `decide`'s word.

use super::clock;
use super::station::translate;
use super::unit::UnitHandle;
use super::unit::request::{self, Verb};
use crate::cluster::RunId;
use crate::config::HostPort;
use crate::redis::{Commander, Endpoint, Error, FenceBudgets, FenceOutcome, KillError, ProcRef, Settings, Target};
use crate::view::{Info, Moment, Outcome};
use crate::vip::Vip;
use futures_util::future::join_all;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// What tasks work with.
pub(super) struct Hands {
    pub(super) commander: Commander,
    pub(super) endpoint: Endpoint,
    pub(super) vip: Option<Arc<Vip>>,
    /// Where clients of the instance connect on this host.
    pub(super) port: u16,
    pub(super) lease: Duration,
    pub(super) data_dir: PathBuf,
    pub(super) unit: Option<Arc<UnitHandle>>,
}

/// A task's end, and what goes on in the background until the next task.
pub(super) struct Report {
    pub(super) outcome: Outcome,
    pub(super) then: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

pub(super) type Work = Pin<Box<dyn Future<Output = Report> + Send>>;

/// How long ordinary commands may take before the task is given up and tried anew.
const ORDINARY: Duration = Duration::from_secs(1);
/// How long a killed process may take to be gone.
const DEATH: Duration = Duration::from_secs(2);
/// How far behind a successor may be when writes are paused for a handover, bytes.
const HANDOVER_LAG: u64 = 4 << 20;
/// How often a successor's offset is looked at during a handover.
const HANDOVER_LOOK: Duration = Duration::from_millis(1);
/// `min-replicas-max-lag` (S5).
pub(super) const MAX_LAG: Duration = Duration::from_secs(1);
/// Waits before an attach that did not come up is tried again; Redis itself tries once a second only.
const RETRY_LINK: [u64; 8] = [15, 30, 60, 120, 240, 480, 900, 900];

impl From<Outcome> for Report {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, then: None }
    }
}

fn failed(error: &Error) -> Outcome {
    Outcome::Failed { why: error.to_string() }
}

fn done(info: &crate::redis::Info, asked: Moment, clean: bool) -> Outcome {
    Outcome::Done { info: translate(info, asked), clean }
}

fn whole(info: &crate::redis::Info) -> bool {
    !(info.sync_in_progress || info.loading || info.async_loading)
}

pub(super) async fn seal(hands: Arc<Hands>) -> Report {
    let asked = clock::now();
    match hands.commander.seal(clock::within(ORDINARY)).await {
        Ok(report) => done(&report.after, asked, whole(&report.before)).into(),
        Err(error) => failed(&error).into(),
    }
}

/// S9. Clients get their reset while the VIP is still up; what does not confirm in lease/8 loses the VIP, its sockets and
/// its process.
/// `linger` leaves the VIP up on an instance that is proved dead or sealed; `decide` has it dropped a moment later.
pub(super) async fn fence(hands: Arc<Hands>, process: Option<ProcRef>, linger: bool) -> Report {
    let asked = clock::now();
    let part = hands.lease / 8;
    let result = hands.commander.fence(FenceBudgets { confirm: part, close: part }).await;
    let confirmed = match &result {
        Ok(report) => match (&report.outcome, &report.after) {
            (FenceOutcome::Gone, _) => Some(Outcome::Dead),
            (FenceOutcome::Sealed, Some(info)) => Some(done(info, asked, whole(info))),
            // It serves nothing, but is not detached either: another try when it has loaded.
            (FenceOutcome::LoadingReplica, _) => Some(Outcome::Failed { why: "it is loading".to_owned() }),
            (FenceOutcome::Sealed, None) => None,
        },
        Err(_) => None,
    };
    let unclosed = result.as_ref().is_ok_and(|report| report.close_error.is_some());
    let Some(outcome) = confirmed else {
        let why = result.err().map_or_else(|| String::from("no INFO after the fence"), |error| error.to_string());
        tracing::warn!("fence not confirmed ({why}): killing the instance");
        // None of the three waits for another: each of them ends the service by itself.
        let (dropped, (), killed) =
            tokio::join!(drop_vip(&hands), destroy_port(&hands), kill_process(process, hands.unit.as_ref()));
        return dropped.map_or_else(|why| Outcome::Failed { why }, |()| killed).into();
    };
    let stays = linger && !unclosed && matches!(outcome, Outcome::Dead | Outcome::Done { .. });
    let dropped = if stays { Ok(()) } else { drop_vip(&hands).await };
    if unclosed {
        destroy_port(&hands).await;
    }
    dropped.map_or_else(|why| Outcome::Failed { why }, |()| outcome).into()
}

/// Sockets on the VIP are reset while it is up, it goes, and what came in between is reset too.
async fn drop_vip(hands: &Hands) -> Result<(), String> {
    let Some(vip) = &hands.vip else { return Ok(()) };
    vip.withdraw(hands.lease / 8).await.map_err(|error| error.to_string())
}

async fn destroy_port(hands: &Hands) {
    if let Err(error) = crate::vip::destroy_port(hands.port, &[]).await {
        tracing::warn!(error = %error, "connections to the instance could not be reset");
    }
}

/// By the agent itself where it may; else by the service manager, which knows the process too.
async fn kill_process(process: Option<ProcRef>, unit: Option<&Arc<UnitHandle>>) -> Outcome {
    let process = process.or_else(|| ProcRef::open(unit?.main_pid.get()?, true));
    let Some(process) = process else {
        let why = "its process is not known on this host; stop it by hand".to_owned();
        return Outcome::Failed { why };
    };
    let killed = match (process.kill(), unit) {
        (Err(KillError::NotPermitted { .. }), Some(unit)) => request::ask(unit, Verb::Kill).await,
        (Ok(()), _) => Ok(()),
        (Err(KillError::Exited { .. }), _) => return Outcome::Dead,
        (Err(error), _) => Err(error.to_string()),
    };
    match killed {
        Ok(()) => match timeout(DEATH, process.exited()).await {
            Ok(()) => Outcome::Dead,
            Err(_) => Outcome::Failed { why: format!("process {} does not die", process.pid()) },
        },
        Err(why) => Outcome::Failed { why },
    }
}

pub(super) async fn kill(hands: Arc<Hands>, process: Option<ProcRef>) -> Report {
    kill_process(process, hands.unit.as_ref()).await.into()
}

/// Has the service manager start the failed unit; whether the instance comes up is seen by its own signs.
pub(super) async fn start(hands: Arc<Hands>) -> Report {
    let Some(unit) = &hands.unit else {
        return Outcome::Failed { why: "the config names no redis_unit to start".to_owned() }.into();
    };
    tracing::info!(group = %unit.group, "starting {} again", unit.name);
    match request::ask(unit, Verb::Start).await {
        Ok(()) => Outcome::Dead.into(),
        Err(why) => Outcome::Failed { why }.into(),
    }
}

pub(super) async fn script_kill(hands: Arc<Hands>) -> Report {
    let asked = clock::now();
    if let Err(error) = hands.commander.script_kill(clock::within(ORDINARY)).await {
        return failed(&error).into();
    }
    match hands.commander.info(clock::within(ORDINARY)).await {
        Ok(info) => done(&info, asked, true).into(),
        Err(error) => failed(&error).into(),
    }
}

/// Attaches, and while the link does not come up, tries it again sooner than Redis would.
pub(super) async fn follow(hands: Arc<Hands>, announce: String) -> Report {
    let Ok(primary) = announce.parse::<HostPort>() else {
        return Outcome::Failed { why: format!("{announce:?} is no host:port") }.into();
    };
    let host = primary.host.bare();
    let asked = clock::now();
    let outcome = match hands.commander.follow(&host, primary.port, clock::within(ORDINARY)).await {
        Ok(info) => done(&info, asked, true),
        Err(error) => return failed(&error).into(),
    };
    let then = async move {
        for wait in RETRY_LINK {
            sleep(Duration::from_millis(wait)).await;
            let found = hands.commander.retry_link(&host, primary.port, clock::within(ORDINARY)).await;
            if found.is_ok_and(|info| info.link_up || !info.follows(&host, primary.port)) {
                return;
            }
        }
    };
    Report { outcome, then: Some(Box::pin(then)) }
}

pub(super) async fn serve(hands: Arc<Hands>, run_id: RunId, until: Moment, min_replicas: u32) -> Report {
    let asked = clock::now();
    if asked >= until {
        return Outcome::Failed { why: "the lease ended before the promotion began".to_owned() }.into();
    }
    let deadline = clock::instant(until);
    if let Err(error) = hands.commander.set_min_replicas(min_replicas, MAX_LAG, deadline).await {
        return failed(&error).into();
    }
    match hands.commander.serve(&run_id.0, deadline).await {
        Ok(info) => done(&info, asked, true).into(),
        Err(error) => failed(&error).into(),
    }
}

pub(super) async fn tune(hands: Arc<Hands>, min_replicas: u32) -> Report {
    let asked = clock::now();
    let deadline = clock::within(ORDINARY);
    if let Err(error) = hands.commander.set_min_replicas(min_replicas, MAX_LAG, deadline).await {
        return failed(&error).into();
    }
    match hands.commander.info(deadline).await {
        Ok(info) => done(&info, asked, true).into(),
        Err(error) => failed(&error).into(),
    }
}

/// S8: the silent hosts' instances are fenced by the same commands, all at once, with the group's own credentials.
pub(super) async fn seal_remote(hands: &Hands, addresses: &[String]) -> Outcome {
    let part = hands.lease / 8;
    let sealed = join_all(addresses.iter().map(|address| async move {
        let remote = remote(hands, address).map_err(|_| format!("{address:?} is no host:port"))?;
        let fenced = remote.fence(FenceBudgets { confirm: part, close: part }).await;
        fenced.map(|_| ()).map_err(|error| error.to_string())
    }));
    let failed: Vec<String> = sealed.await.into_iter().filter_map(Result::err).collect();
    if failed.is_empty() { Outcome::Dead } else { Outcome::Failed { why: failed.join("; ") } }
}

fn remote(hands: &Hands, address: &str) -> Result<Commander, crate::config::AddressError> {
    let address: HostPort = address.parse()?;
    let endpoint = hands.endpoint.at(Target::Tcp { host: address.host.bare(), port: address.port });
    Ok(Commander::new(endpoint, Settings::default(), None))
}

/// S10 up to the frozen offset. Before the freeze there is a way back at no cost; after it, whatever happens, what is
/// left is to fence, surrender and let the best data win.
pub(super) async fn handover(hands: Arc<Hands>, to: String, bound: Duration) -> Report {
    let Ok(successor) = remote(&hands, &to) else {
        return Outcome::Failed { why: format!("{to:?} is no host:port") }.into();
    };
    let deadline = clock::within(bound);
    if let Err(why) = drain(&hands.commander, &successor, deadline, bound).await {
        if let Err(error) = hands.commander.unpause(clock::within(ORDINARY)).await {
            tracing::warn!(error = %error, "writes could not be resumed at once; the pause ends by itself");
        }
        return Outcome::Failed { why }.into();
    }
    let asked = clock::now();
    let frozen = match hands.commander.freeze(clock::within(bound)).await {
        Ok(report) => report.after,
        // It may be frozen all the same: the fence that follows settles it.
        Err(error) => {
            tracing::warn!(error = %error, "freezing for the handover was not confirmed");
            return Outcome::Done { info: Info::default(), clean: true }.into();
        }
    };
    // Clients have waited since the pause: what does not come soon does not come, and the way back is short.
    let caught_up = reach(&successor, frozen.offset, clock::within(bound / 2)).await;
    if let Err(why) = caught_up {
        tracing::warn!("the successor does not have the frozen offset: {why}; the best data will win");
    }
    done(&frozen, asked, true).into()
}

/// Waits until the successor is near, pauses writes, waits until it has everything.
async fn drain(primary: &Commander, successor: &Commander, deadline: Instant, bound: Duration) -> Result<(), String> {
    let offset = |commander| offset_of(commander, deadline);
    loop {
        let (ours, theirs) = (offset(primary).await?, offset(successor).await?);
        if ours.saturating_sub(theirs) <= HANDOVER_LAG {
            break;
        }
        before(deadline, "the successor lags too far behind to hand over")?;
        sleep(HANDOVER_LOOK * 5).await;
    }
    primary.pause_writes(bound * 3, deadline).await.map_err(|error| error.to_string())?;
    let ours = offset(primary).await?;
    reach(successor, ours, deadline).await
}

async fn reach(successor: &Commander, offset: u64, deadline: Instant) -> Result<(), String> {
    while offset_of(successor, deadline).await? < offset {
        before(deadline, "the successor did not catch up in time")?;
        sleep(HANDOVER_LOOK).await;
    }
    Ok(())
}

async fn offset_of(commander: &Commander, deadline: Instant) -> Result<u64, String> {
    commander.info(deadline).await.map(|info| info.offset).map_err(|error| error.to_string())
}

fn before(deadline: Instant, otherwise: &str) -> Result<(), String> {
    if Instant::now() < deadline { Ok(()) } else { Err(otherwise.to_owned()) }
}
