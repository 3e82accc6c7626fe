//! One group's hands on this host: its instance and its VIP. Runs what `decide` handed out and reports how it ended.
//!
//! At most one posture task runs; a fence or a seal aborts a follow, a serve or a tune that is under way, and a fence
//! waits for nothing. It decides nothing, and a task that was aborted reports nothing.

use super::clock;
use super::quarantine;
use super::tasks::{self, Hands, MAX_LAG, Report};
use super::unit::UnitHandle;
use crate::cluster::{Epoch, GroupName};
use crate::config::{GroupConfig, RedisAddress};
use crate::ctl::catalog;
use crate::decide::Action;
use crate::redis::{
    Announce, Commander, Credentials, Endpoint, InstanceEvent, Secret, Settings, Silence, Timing, Watcher,
};
use crate::view::{Info, Moment, Outcome, ReplicaRow, Sight, Task, VipSight, What};
use crate::vip::{AnnounceSeries, Remaining, Vip, VipEvent, VipSpec};
use anyhow::Context as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// How often the instance is looked at: a part of the lease, at least and at most; and while it attaches.
const PACE_PART: u32 = 4;
const PACE_LEAST: Duration = Duration::from_millis(50);
const PACE_MOST: Duration = Duration::from_millis(250);
const PACE_ATTACHING: Duration = Duration::from_millis(20);
/// How long after the link is up it is still looked at as often as while it attaches.
const PROOF: Duration = Duration::from_millis(500);
/// A VIP that could not be dropped is dropped again after so long.
const DROP_RETRY: Duration = Duration::from_millis(100);
const DROP_RETRY_MOST: u32 = 5;
/// How long others may take to answer for the VIP, and how often they are asked.
const PROBE_FOR: Duration = Duration::from_millis(600);
const PROBE_EVERY: Duration = Duration::from_secs(20);
/// S7: where no process is known that could be looked at, silence counts as progress for so long, and no longer.
const UNTOLD: Duration = Duration::from_secs(30);
/// An online replica whose last acknowledgement is older than this is not there (S5).
const ONLINE_LAG: Duration = Duration::from_secs(2);

/// One group's shell.
pub(super) struct Station {
    group: GroupName,
    hands: Arc<Hands>,
    watcher: Arc<Watcher>,
    events: mpsc::Sender<What>,
    running: Option<JoinHandle<()>>,
    aside: Option<JoinHandle<()>>,
    holding: Arc<Mutex<Holding>>,
    pumps: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Holding {
    busy: bool,
    dropping: bool,
    /// Drops that failed in a row.
    stuck: u32,
    series: Option<AnnounceSeries>,
    probing: Option<JoinHandle<()>>,
}

impl Holding {
    fn end(&mut self) {
        self.series = None;
        if let Some(probing) = self.probing.take() {
            probing.abort();
        }
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.end();
    }
}

impl Drop for Station {
    fn drop(&mut self) {
        self.pumps.iter().chain(&self.running).chain(&self.aside).for_each(JoinHandle::abort);
    }
}

impl Station {
    /// Starts watching the instance and the VIP. A VIP found on this host while no lease is stamped is taken off.
    pub(super) async fn open(
        config: &GroupConfig,
        data_dir: &Path,
        lease: Duration,
        leased: bool,
        unit: Option<Arc<UnitHandle>>,
        events: mpsc::Sender<What>,
    ) -> anyhow::Result<Self> {
        let group = GroupName(config.name.clone());
        let endpoint = endpoint(config)?;
        let mut pumps = Vec::new();
        let vip = match &config.vip {
            None => None,
            Some(wanted) => {
                let spec = VipSpec {
                    address: wanted.vip.address,
                    prefix_len: wanted.vip.prefix_len,
                    interface: wanted.interface.clone(),
                };
                let opened = Vip::open(spec, lease / 8).await;
                let (vip, seen) = opened.with_context(|| format!("group {group}: the VIP {}", wanted.vip.address))?;
                // What could not be removed counts as held: it is dropped like any other that does not belong here.
                if !leased && !remove_stale(&group, &vip).await {
                    let _ = events.send(What::Vip { group: group.clone(), seen: VipSight::Held }).await;
                }
                pumps.push(tokio::spawn(pump_vip(group.clone(), seen, events.clone())));
                Some(Arc::new(vip))
            }
        };
        let (sights, seen) = mpsc::channel(16);
        let main_pid = unit.as_ref().map(|unit| unit.main_pid.clone()).unwrap_or_default();
        let timing = Timing { pace: pace(lease), ..Timing::default() };
        let watcher = Arc::new(Watcher::spawn(endpoint.clone(), timing, main_pid, sights));
        let announce = Announce { ip: config.announce.host.bare(), port: config.announce.port };
        let settings = Settings { announce: Some(announce) };
        let commander = Commander::new(endpoint.clone(), settings, Some(watcher.poke()));
        let port = config.client_port();
        let hands = Hands { commander, endpoint, vip, port, lease, data_dir: data_dir.to_owned(), unit };
        let hands = Arc::new(hands);
        pumps.push(tokio::spawn(pump_instance(group.clone(), Arc::clone(&hands), seen, events.clone())));
        Ok(Self { group, hands, watcher, events, running: None, aside: None, holding: Arc::default(), pumps })
    }

    /// Carries one action out; what it has no part in is left alone.
    pub(super) fn act(&mut self, action: Action) {
        match action {
            Action::HoldVip { until, .. } => self.hold_vip(until),
            Action::DropVip { .. } => self.drop_vip(),
            Action::SealRemote { epoch, addresses, .. } => {
                let (group, hands, events) = (self.group.clone(), Arc::clone(&self.hands), self.events.clone());
                self.aside = Some(tokio::spawn(async move {
                    let outcome = tasks::seal_remote(&hands, &addresses).await;
                    report(&events, &group, Task::SealRemote, epoch, outcome).await;
                }));
            }
            other => self.begin(other),
        }
    }

    /// From now on logs in with these; connections that stand, stand. False if they are the same.
    pub(super) fn log_in_with(&self, credentials: &Credentials) -> bool {
        let changed = self.hands.endpoint.login.get() != *credentials;
        if changed {
            self.hands.endpoint.login.set(credentials.clone());
            self.watcher.poke().poll_now();
        }
        changed
    }

    /// The group changed: what the instance says from now on is of after that.
    pub(super) fn look(&self) {
        self.watcher.poke().poll_now();
    }

    fn begin(&mut self, action: Action) {
        let hands = Arc::clone(&self.hands);
        let process = self.watcher.process();
        let attaching = matches!(action, Action::Follow { .. });
        let pace = pace(hands.lease);
        self.watcher.set_pace(if attaching { PACE_ATTACHING } else { pace });
        let (task, epoch, work): (Task, Epoch, tasks::Work) = match action {
            Action::Seal { epoch, .. } => (Task::Seal, epoch, Box::pin(tasks::seal(hands))),
            Action::Fence { epoch, why, .. } => {
                self.stop_announcing();
                (Task::Fence, epoch, Box::pin(tasks::fence(hands, process, why.vip_lingers())))
            }
            Action::Follow { target, .. } => {
                (Task::Follow, target.epoch, Box::pin(tasks::follow(hands, target.announce)))
            }
            Action::Serve { epoch, run_id, until, min_replicas, .. } => {
                (Task::Serve, epoch, Box::pin(tasks::serve(hands, run_id, until, min_replicas)))
            }
            Action::Handover { epoch, to, bound, .. } => {
                (Task::Handover, epoch, Box::pin(tasks::handover(hands, to, bound)))
            }
            Action::Tune { epoch, min_replicas, .. } => (Task::Tune, epoch, Box::pin(tasks::tune(hands, min_replicas))),
            Action::Quarantine { group, found } => {
                (Task::Quarantine, found.epoch, Box::pin(quarantine::quarantine(hands, group, found)))
            }
            Action::Kill { .. } => (Task::Kill, Epoch(0), Box::pin(tasks::kill(hands, process))),
            Action::Start { .. } => (Task::Start, Epoch(0), Box::pin(tasks::start(hands))),
            Action::ScriptKill { .. } => (Task::ScriptKill, Epoch(0), Box::pin(tasks::script_kill(hands))),
            _ => return,
        };
        if let Some(old) = self.running.take() {
            old.abort();
        }
        let (group, events) = (self.group.clone(), self.events.clone());
        let watcher = Arc::clone(&self.watcher);
        self.running = Some(tokio::spawn(async move {
            let Report { outcome, then } = work.await;
            report(&events, &group, task, epoch, outcome).await;
            watcher.poke().poll_now();
            if let Some(then) = then {
                then.await;
                // A little longer: what it holds is proved a moment after the link is up.
                tokio::time::sleep(PROOF).await;
                watcher.set_pace(pace);
            }
        }));
    }

    /// S8: with the kernel's lifetime; announced when it is new here (S9).
    fn hold_vip(&self, until: Moment) {
        let (Some(vip), holding) = (self.hands.vip.clone(), Arc::clone(&self.holding)) else { return };
        {
            let mut held = lock(&holding);
            if held.busy {
                return;
            }
            held.busy = true;
        }
        let (group, events, leash) = (self.group.clone(), self.events.clone(), leash(self.hands.lease));
        // Asked for here and now, so that a fence decided later comes after it.
        let asked = (clock::now() < until).then(|| vip.hold(leash));
        tokio::spawn(async move {
            let result = match asked {
                Some(hold) => Some(hold.await),
                None => None,
            };
            let seen = match result {
                None => None,
                Some(Ok(outcome)) => {
                    // Also where the kernel's answer to the first time came too late: nobody has told the network yet.
                    let mut held = lock(&holding);
                    if outcome.newly_added || held.series.is_none() {
                        held.end();
                        held.series = Some(vip.announce_series());
                        held.probing =
                            Some(tokio::spawn(probe(group.clone(), Arc::clone(&vip), leash, events.clone())));
                        let address = vip.spec().address;
                        tracing::info!(group = %group, vip = %address, message_id = catalog::VIP_HERE, "VIP is on this host");
                    }
                    drop(held);
                    Some(VipSight::Held)
                }
                Some(Err(error)) => {
                    tracing::error!(group = %group, error = %error, message_id = catalog::VIP_TROUBLE, "VIP could not be held");
                    Some(VipSight::Failed { why: error.to_string() })
                }
            };
            lock(&holding).busy = false;
            if let Some(seen) = seen {
                let _ = events.send(What::Vip { group, seen }).await;
            }
        });
    }

    fn drop_vip(&self) {
        let Some(vip) = self.hands.vip.clone() else { return };
        {
            let mut held = lock(&self.holding);
            held.end();
            if std::mem::replace(&mut held.dropping, true) {
                return;
            }
        }
        let (group, events, holding) = (self.group.clone(), self.events.clone(), Arc::clone(&self.holding));
        let notice = self.hands.lease / 8;
        tokio::spawn(async move {
            let result = vip.withdraw(notice).await;
            if let Err(error) = &result {
                let stuck = {
                    let mut held = lock(&holding);
                    held.stuck = held.stuck.saturating_add(1);
                    held.stuck
                };
                if stuck == 1 {
                    let id = catalog::VIP_TROUBLE;
                    tracing::error!(group = %group, error = %error, message_id = id, "VIP could not be dropped; trying again");
                }
                tokio::time::sleep(DROP_RETRY * stuck.min(DROP_RETRY_MOST)).await;
            } else {
                lock(&holding).stuck = 0;
            }
            lock(&holding).dropping = false;
            if result.is_ok() {
                let _ = events.send(What::Vip { group, seen: VipSight::Removed }).await;
            }
        });
    }

    fn stop_announcing(&self) {
        lock(&self.holding).end();
    }
}

fn lock(holding: &Mutex<Holding>) -> std::sync::MutexGuard<'_, Holding> {
    holding.lock().unwrap_or_else(PoisonError::into_inner)
}

fn pace(lease: Duration) -> Duration {
    (lease / PACE_PART).clamp(PACE_LEAST, PACE_MOST)
}

/// The VIP's `valid_lft` (S8).
fn leash(lease: Duration) -> Duration {
    crate::config::Fractions::of(lease).leash
}

async fn report(events: &mpsc::Sender<What>, group: &GroupName, task: Task, epoch: Epoch, outcome: Outcome) {
    if let Outcome::Failed { why } = &outcome {
        tracing::warn!(group = %group, task = ?task, epoch = %epoch, message_id = catalog::TASK_FAILED, "failed: {why}");
    }
    // The loop has ended: nobody is left to tell.
    let _ = events.send(What::Done { group: group.clone(), task, epoch, outcome }).await;
}

/// Whether none is left.
async fn remove_stale(group: &GroupName, vip: &Vip) -> bool {
    match vip.present().await {
        Ok(None) => true,
        Ok(Some(found)) => {
            let lasting = matches!(found.remaining, Remaining::Forever);
            tracing::warn!(group = %group, vip = %vip.spec().address, lasting, "stale VIP on this host: removing it");
            let dropped = vip.drop_address().await;
            if let Err(error) = &dropped {
                tracing::error!(group = %group, error = %error, "stale VIP could not be removed");
            }
            dropped.is_ok()
        }
        Err(error) => {
            tracing::warn!(group = %group, error = %error, "VIP could not be looked for");
            false
        }
    }
}

/// Asks the network now and then who else answers for the VIP: a host that only answers, and never says so by itself, is
/// found by nobody else. The first time when a former holder's kernel must have given it up.
async fn probe(group: GroupName, vip: Arc<Vip>, leash: Duration, events: mpsc::Sender<What>) {
    tokio::time::sleep(leash * 2).await;
    loop {
        match vip.probe(PROBE_FOR).await {
            Ok(None) => {}
            Ok(Some(mac)) => {
                let seen = VipSight::Conflict { mac: mac_text(mac) };
                if events.send(What::Vip { group: group.clone(), seen }).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::info!(target: crate::DETAIL, group = %group, error = %error, "nobody could be asked for the VIP")
            }
        }
        tokio::time::sleep(PROBE_EVERY).await;
    }
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn endpoint(config: &GroupConfig) -> anyhow::Result<Endpoint> {
    let base = match &config.redis {
        RedisAddress::Tcp(address) => Endpoint::tcp(address.host.bare(), address.port),
        RedisAddress::Unix(path) => Endpoint::unix(path),
    };
    let Credentials { username, password } = credentials(config)?;
    Ok(base.with_credentials(username, password))
}

/// What the agent logs in with, by the config and the file it names.
pub(super) fn credentials(config: &GroupConfig) -> anyhow::Result<Credentials> {
    let password = match &config.password_file {
        None => None,
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("group {}: redis_password_file {}", config.name, path.display()))?;
            Some(Secret::new(text.trim_end_matches(['\r', '\n'])))
        }
    };
    Ok(Credentials { username: config.username.clone(), password })
}

async fn pump_vip(group: GroupName, mut seen: mpsc::Receiver<VipEvent>, events: mpsc::Sender<What>) {
    while let Some(event) = seen.recv().await {
        let seen = match event {
            VipEvent::Removed => VipSight::Removed,
            VipEvent::Conflict { mac } => VipSight::Conflict { mac: mac_text(mac) },
            VipEvent::LinkChanged { up } => {
                tracing::info!(group = %group, up, "the VIP's interface changed");
                continue;
            }
        };
        if events.send(What::Vip { group: group.clone(), seen }).await.is_err() {
            return;
        }
    }
}

/// S14: once for each process, right after it is first seen.
async fn tell_newest(group: GroupName, hands: Arc<Hands>, info: crate::redis::Info, events: mpsc::Sender<What>) {
    let Ok(files) = hands.commander.data_files(clock::within(Duration::from_secs(1))).await else { return };
    let run_id = info.run_id.as_str().into();
    let newest = tokio::task::spawn_blocking(move || files.newest_unix_ms(&info)).await;
    if let Ok(Some(unix_ms)) = newest {
        let _ = events.send(What::Newest { group, run_id, unix_ms }).await;
    }
}

async fn pump_instance(
    group: GroupName,
    hands: Arc<Hands>,
    mut seen: mpsc::Receiver<InstanceEvent>,
    events: mpsc::Sender<What>,
) {
    let mut known = String::new();
    while let Some(event) = seen.recv().await {
        let seen = match event {
            InstanceEvent::Info { info, asked } => {
                if !info.loading && known != info.run_id {
                    known.clone_from(&info.run_id);
                    let (hands, info) = (Arc::clone(&hands), (*info).clone());
                    tokio::spawn(tell_newest(group.clone(), hands, info, events.clone()));
                }
                Sight::Info(translate(&info, asked))
            }
            InstanceEvent::Loading(_) => Sight::Loading,
            InstanceEvent::Busy => Sight::Busy,
            InstanceEvent::Silent(silence) => {
                Sight::Silent { length: silence.since, progress: makes_progress(silence) }
            }
            InstanceEvent::Gone(_) => Sight::Gone,
            InstanceEvent::AuthFailed { detail }
            | InstanceEvent::ProtocolNonsense { detail }
            | InstanceEvent::Unreachable { detail } => Sight::Unusable { why: detail },
        };
        if events.send(What::Instance { group: group.clone(), seen }).await.is_err() {
            return;
        }
    }
}

/// S7: whether a silent instance may still be at work.
fn makes_progress(silence: Silence) -> bool {
    silence.progress.unwrap_or(silence.since < UNTOLD)
}

/// INFO in the core's terms.
pub(super) fn translate(info: &crate::redis::Info, asked: Moment) -> Info {
    let row = |row: &crate::redis::ReplicaRow| {
        // After a full resynchronisation Redis says "online" up to a second before the first acknowledgement, and
        // streams nothing until then.
        let online = row.state == crate::redis::ReplicaState::Online && row.lag.is_some_and(|lag| lag <= MAX_LAG);
        let frozen = row.state == crate::redis::ReplicaState::Online && row.lag.is_some_and(|lag| lag > ONLINE_LAG);
        (!frozen).then(|| ReplicaRow {
            address: address(&row.ip, row.port),
            online,
            syncing: row.state != crate::redis::ReplicaState::Online,
            offset: crate::cluster::Offset(row.offset),
        })
    };
    Info {
        asked,
        run_id: info.run_id.as_str().into(),
        primary: info.role == crate::redis::Role::Primary,
        replid: info.replid.as_str().into(),
        replid2: info.replid2.as_str().into(),
        second: info.second_offset.map(|end| crate::cluster::Offset(end.saturating_sub(1))),
        offset: crate::cluster::Offset(info.offset),
        backlog: backlog(info),
        upstream: info.upstream.as_ref().map(|(host, port)| address(host, *port)),
        link_up: info.link_up,
        syncing: info.sync_in_progress,
        loading: info.loading || info.async_loading,
        keys: info.keys,
        replicas: info.replicas.iter().filter_map(row).collect(),
    }
}

fn backlog(info: &crate::redis::Info) -> (crate::cluster::Offset, u64) {
    match info.backlog_active {
        true => (crate::cluster::Offset(info.backlog_first_offset), info.backlog_size),
        false => (crate::cluster::Offset(0), 0),
    }
}

fn address(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
#[test]
fn what_cannot_be_told_is_progress_for_a_while() {
    let said = |secs, progress| makes_progress(Silence { since: Duration::from_secs(secs), progress });
    assert_eq!(
        [said(29, None), said(30, None), said(90, Some(true)), said(1, Some(false))],
        [true, false, true, false]
    );
}
