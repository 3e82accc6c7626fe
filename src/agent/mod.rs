//! The agent: one loop that folds events, decides, and hands the actions to the shells.
//!
//! It owns the clock, the signals and the word to systemd. It must never decide by itself whether to serve, and never
//! block: every shell answers by an event. Every event is stamped when the loop takes it up, so that an agent that was
//! stalled sees how late it is before it acts (S1).
//!
//! Upholds S1 (fence first, stamp), S2 (mark, then surrender), S8 (the watchdog is petted after a round in time).

mod boot;
mod clients;
mod clock;
mod desk;
mod disk;
pub mod emergency;
mod ending;
mod entry;
mod force;
mod hooks;
pub mod kept;
mod listen;
mod logging;
mod memory;
mod narrate;
mod notify;
pub mod order;
mod quarantine;
mod release;
mod reload;
pub mod stamp;
mod station;
mod tasks;
mod unit;

use crate::cluster::{GroupName, NodeId};
use crate::config::{Config, Overrides, Warning};
use crate::ctl::catalog;
use crate::ctl::protocol::{Request, Response};
use crate::ctl::server;
use crate::ctl::status::HostFacts;
use crate::decide::{Action, Decision, Policy, step};
use crate::raft::{Formation, Founding, Options, RaftNode};
use crate::store::Store;
use crate::view::{Event, Moment, Stamp, View, What};
use crate::wire;
use anyhow::Context as _;
use clients::Clients;
use desk::Desk;
use ending::Ending;
use entry::{Entered, Heard, Signals, formed, founding, replicated_lease};
use hooks::Hooks;
use narrate::Narrator;
use notify::Notifier;
use stamp::{Keeper, Stamps};
use station::Station;
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use unit::UnitHandle;

pub use entry::Ended;
pub use hooks::notify_event;
pub use logging::init as init_logging;
pub use unit::unit_request;

/// Where the config came from, so that it can be read again.
#[derive(Debug, Clone)]
pub struct Source {
    /// The file.
    pub path: PathBuf,
    /// What the command line puts over it.
    pub overrides: Overrides,
}

/// Events waiting for the loop; a shell that would exceed it waits.
const QUEUE: usize = 1024;
/// Operator requests waiting for the loop.
const DESK_QUEUE: usize = 32;
/// Items of one message between agents, as the gossip lane's kind.
const GOSSIP_ITEMS: u8 = 1;
/// How often a record that could not be written is tried again, at most.
const SAVE_BACKOFF: Duration = Duration::from_secs(1);

/// Without any event the loop looks again after this part of a lease, and at least and at most this long.
const IDLE_PART: u32 = 10;
const IDLE_LEAST: Duration = Duration::from_millis(10);
const IDLE_MOST: Duration = Duration::from_millis(100);

/// What the operator's socket hands over.
type Asked = (Request, oneshot::Sender<Response>);

/// Without it a stamp from before a reboot would pass for one of today.
const NO_BOOT_ID: &str =
    "this boot's id (/proc/sys/kernel/random/boot_id) cannot be read: mount /proc, and do not set ProcSubset=pid";
/// How long an answer may take to its reader before the agent starts again.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Runs the agent until it is asked to stop and has handed over or fenced, or is to start again.
///
/// # Errors
/// What keeps it from running, with the remedy; nothing of the running cluster was touched then.
pub async fn run(config: Config, warnings: Vec<Warning>, source: Source) -> anyhow::Result<Ended> {
    memory::lock();
    fence_if_lapsed(&config).await;
    let hooks = Hooks::start(&config);
    for warning in &warnings {
        tracing::warn!(message_id = catalog::CONFIG_WARNING, "{warning}");
    }
    let unbuilt = crate::config::unbuilt(&config);
    if !unbuilt.is_empty() {
        tracing::warn!(message_id = catalog::CONFIG_WARNING, "not built yet, and left alone: {}", unbuilt.join(", "));
    }
    let said = warnings.iter().map(ToString::to_string).collect();
    let mut signals = Signals::new()?;
    let keys = wire::read_key_file(&config.cluster.key_file)?;
    std::fs::create_dir_all(&config.node.data_dir)
        .with_context(|| format!("data_dir {} cannot be made", config.node.data_dir.display()))?;
    let joining = order::carry_out(&config).await?;
    let store = Store::open(&config.node.data_dir, &config.cluster.name, &config.node.name)?;
    if let Some(parent) = config.control_socket.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("{} cannot be made", parent.display()))?;
    }
    let (asked_tx, mut asked) = mpsc::channel::<Asked>(DESK_QUEUE);
    let socket = server::Server::bind(&config.control_socket).await?;
    tokio::spawn(socket.run(asked_tx));
    let lease = replicated_lease(&store, config.timing.lease);
    let options = Options {
        name: config.node.name.clone(),
        address: config.node.address.to_string(),
        bind: config.node.bind.map_or_else(|| config.node.address.to_string(), |bind| bind.to_string()),
        keys,
        lease,
        founding: match joining.clone() {
            Some(address) => Founding::Join(vec![address]),
            None => founding(&config.cluster.start),
        },
        control: desk::no_control(),
    };
    let mut notifier = Notifier::new();
    if let Some(why) = store.identity().superseded {
        notifier.ready();
        let ended = entry::set_aside(&config, &why, &mut asked, &mut signals, &mut notifier).await;
        return Ok(close(&store, ended).await);
    }
    let (raft, inbox) = RaftNode::start(options, store.clone()).await?;
    notifier.ready();
    let result = match formed(&config, &raft, &mut asked, &mut signals, &mut notifier).await? {
        Entered::Ended(ended) => Ok(ended),
        Entered::Superseded(why) => store.supersede(&why).await.map(|()| Ended::Again).map_err(Into::into),
        Entered::Member(me) => {
            order::done(&config.node.data_dir)?;
            let given = Given { config, source, hooks, notifier, warnings: said, lease };
            let mut agent = Agent::open(given, me, raft.clone(), store.clone()).await?;
            agent.listen(inbox);
            agent.run(asked, signals).await
        }
    };
    raft.shutdown().await;
    Ok(close(&store, result?).await)
}

/// S1: a lease found lapsed is fenced before anything else, whatever may keep this agent from running. Bounded by
/// [`emergency::LIMIT`]; where no lease was held it does nothing.
async fn fence_if_lapsed(config: &Config) {
    for fenced in emergency::fence(config, emergency::Which::Lapsed, &config.control_socket).await {
        let group = &fenced.group;
        let say = |done: &String| tracing::info!(target: crate::DETAIL, group = %group, "at the start: {done}");
        fenced.done.iter().for_each(say);
        fenced.failed.iter().for_each(|trouble| tracing::error!(group = %group, "{}", trouble.text));
    }
}

/// Whoever asked for it reads the answer before the agent is another one.
async fn close(store: &Store, ended: Ended) -> Ended {
    if ended == Ended::Again {
        tokio::time::sleep(LAST_WORDS).await;
    }
    store.close().await;
    ended
}

/// The running agent.
pub(super) struct Agent {
    pub(super) view: View,
    pub(super) policy: Policy,
    pub(super) decision: Decision,
    pub(super) raft: RaftNode,
    pub(super) queue: mpsc::Sender<What>,
    store: Store,
    stations: BTreeMap<GroupName, Station>,
    stamps: Keeper,
    incoming: mpsc::Receiver<What>,
    at_once: VecDeque<What>,
    narrator: Narrator,
    notifier: Notifier,
    desk: Desk,
    host: HostFacts,
    disk: watch::Receiver<Option<String>>,
    clients: Clients,
    ending: Option<Ending>,
    /// An order was given that the next start carries out.
    again: bool,
    dir: PathBuf,
    /// When so many voters were last connected that a majority could agree.
    majority_at: Moment,
    units: BTreeMap<GroupName, Arc<UnitHandle>>,
    hooks: Hooks,
    source: Source,
    /// What is in force of the file.
    config: Config,
    /// What Raft and the stations were opened with.
    lease: Duration,
}

/// What an agent is made of.
struct Given {
    config: Config,
    source: Source,
    hooks: Hooks,
    notifier: Notifier,
    warnings: Vec<String>,
    lease: Duration,
}

impl Agent {
    async fn open(given: Given, me: NodeId, raft: RaftNode, store: Store) -> anyhow::Result<Self> {
        let Given { config, source, hooks, notifier, warnings, lease } = given;
        let stamps = Stamps::open(&config.control_socket).context(NO_BOOT_ID)?;
        let policy = config.policy();
        let (queue, incoming) = mpsc::channel(QUEUE);
        let started = clock::now();
        let (mut stations, mut units) = (BTreeMap::new(), BTreeMap::new());
        for group in &config.groups {
            let name = GroupName(group.name.clone());
            let leased = matches!(stamps.all().get(&name), Some(Stamp::Leased { until, .. }) if *until > started);
            let unit = group.unit.clone().map(|unit| UnitHandle::new(name.clone(), unit));
            let station =
                Station::open(group, &config.node.data_dir, lease, leased, unit.clone(), queue.clone()).await?;
            units.extend(unit.map(|unit| (name.clone(), unit)));
            stations.insert(name, station);
        }
        unit::watch(units.values().cloned().collect(), queue.clone())?;
        let disk = disk::watch(config.node.data_dir.clone(), store.clone());
        let state = store.applied().borrow().state.clone();
        let mine = stations.keys().cloned().collect();
        let mut view = View::new(me, started, state, store.local(), stamps.all(), mine);
        let at_once = boot::causes(&view, &stamps, boot::since(&config.node.data_dir));
        let news = queue.clone();
        let marked = move |group, epoch| drop(news.blocking_send(What::Marked { group, epoch }));
        let keeper = Keeper::start(stamps, marked).context("the lease stamp's thread cannot start")?;
        let keeping = config.groups.iter().filter(|group| group.quarantine);
        view.quarantine = keeping.map(|group| GroupName(group.name.clone())).collect();
        view.sentinel = clients::address(&config);
        Ok(Self {
            view,
            policy,
            decision: Decision::default(),
            raft,
            queue,
            store,
            stations,
            stamps: keeper,
            incoming,
            at_once,
            narrator: Narrator::default(),
            notifier,
            desk: Desk::default(),
            host: desk::host_facts(&config, warnings),
            disk,
            clients: clients::open(&config)?,
            ending: None,
            again: false,
            dir: config.node.data_dir.clone(),
            majority_at: started,
            units,
            hooks,
            source,
            config,
            lease,
        })
    }

    async fn run(&mut self, mut asked: mpsc::Receiver<Asked>, mut signals: Signals) -> anyhow::Result<Ended> {
        let mut formation = self.raft.formation();
        let (reload, mut reloaded) = mpsc::channel(1);
        for (node, up) in self.raft.links() {
            self.at_once.push_back(What::Link { node, up });
        }
        // What happens first is told with its time, too.
        self.at_once.push_front(What::Tick { unix_ms: clock::unix_ms() });
        loop {
            let due = self.next_wake();
            let what = match self.at_once.pop_front() {
                Some(what) => what,
                None => tokio::select! {
                    Some(what) = self.incoming.recv() => what,
                    () = tokio::time::sleep_until(due) => What::Tick { unix_ms: clock::unix_ms() },
                    heard = signals.next() => match heard {
                        Heard::Stop => self.asked_to_stop(),
                        Heard::Reload => {
                            self.begin_reload(&reload);
                            continue;
                        }
                    },
                    Some(read) = reloaded.recv() => {
                        self.reload(read);
                        continue;
                    }
                    Some((request, answer)) = asked.recv() => {
                        match self.answer(request, answer) {
                            Some(what) => what,
                            None => continue,
                        }
                    }
                    Some(asked) = self.clients.asked.recv() => {
                        self.failover(asked);
                        continue;
                    }
                    changed = formation.changed() => {
                        changed.context("the Raft shell ended")?;
                        self.note_standing(formation.borrow_and_update().clone());
                        continue;
                    }
                },
            };
            // S8: the watchdog is petted only if the round came in time.
            let in_time = due.elapsed() < self.lease / 2;
            if matches!(what, What::Tick { .. }) {
                self.look_at_links();
            }
            if self.round(what) {
                break;
            }
            if in_time {
                self.notifier.pet_if_due();
            }
            if self.again && !ending::serves(&self.view) {
                return Ok(Ended::Again);
            }
            if let Some(ending) = self.ending.as_ref().filter(|ending| ending.is_due(&self.view, Instant::now())) {
                if ending.superseded() {
                    self.store.supersede(ending.why()).await?;
                    return Ok(Ended::Again);
                }
                anyhow::bail!("{}", ending.why());
            }
        }
        self.hand_leadership_over().await;
        Ok(Ended::Stopped)
    }

    fn asked_to_stop(&mut self) -> What {
        tracing::info!(message_id = catalog::AGENT_STOPPING, "asked to stop");
        self.notifier.stopping();
        What::Stopping
    }

    /// S1: the loop wakes at the end of a lease; when its regular message is due; and after a while in any case, for what
    /// depends on time alone.
    fn next_wake(&self) -> Instant {
        let view = &self.view;
        let ends = view.mine.iter().filter_map(|name| view.lease_end(name)).filter(|end| *end > view.now);
        let message = crate::decide::next_message(view).filter(|at| *at > view.now);
        let idle = view.now + (self.lease / IDLE_PART).clamp(IDLE_LEAST, IDLE_MOST);
        clock::instant(ends.chain(message).chain([idle]).min().unwrap_or(idle))
    }

    /// News of a link that found the queue full is not missed for longer than a tick.
    fn look_at_links(&mut self) {
        for (node, up) in self.raft.links() {
            if self.view.peers.get(&node).is_some_and(|peer| peer.link != up) {
                self.at_once.push_back(What::Link { node, up });
            }
        }
    }

    fn note_standing(&mut self, formation: Formation) {
        self.ending = Ending::of(formation, Instant::now());
        if let Some(ending) = &self.ending {
            let why = ending.why();
            tracing::error!(
                message_id = catalog::SET_ASIDE,
                "{why}; the agent ends when that lasts and it serves nothing"
            );
        }
    }

    /// One round; true when the agent is done.
    fn round(&mut self, what: What) -> bool {
        let at = clock::now();
        if matches!(what, What::Applied(_)) {
            self.stations.values().for_each(Station::look);
        }
        let mut decision = step(&mut self.view, &self.policy, Event { at, what });
        let actions = std::mem::take(&mut decision.actions);
        self.decision = decision;
        self.again = self.again || boot::lease_is_another(&self.view, self.lease);
        let mut done = false;
        for action in actions {
            done |= action == Action::Exit;
            self.act(action);
        }
        if force::majority_in_reach(&self.view) {
            self.majority_at = at;
        }
        if self.narrator.tell(&self.view, &self.decision) {
            self.notifier.status(&self.narrator.status_line(&self.view));
        }
        self.desk.settle(&self.view);
        self.clients.look(&self.view);
        done
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Save(local) => self.save(local),
            Action::Stamp { group, epoch, run_id, until } => {
                self.stamps.put(&group, Stamp::Leased { epoch, run_id, until });
            }
            Action::Mark { group, epoch } => self.stamps.put(&group, Stamp::Surrendered { epoch }),
            Action::Send { to, items } => match postcard::to_stdvec(&items) {
                Ok(body) => {
                    self.raft.gossip(to, GOSSIP_ITEMS, body);
                }
                Err(error) => tracing::error!(error = %error, "a message could not be written"),
            },
            Action::Propose { topic, command } => {
                let (raft, queue) = (self.raft.clone(), self.queue.clone());
                tokio::spawn(async move {
                    let result = raft.propose(command.clone()).await;
                    tracing::info!(target: crate::DETAIL, ?command, ?result, "proposed");
                    let accepted = matches!(result, Ok(Ok(())));
                    let _ = queue.send(What::Proposed { topic, accepted }).await;
                });
            }
            Action::Exit => {}
            Action::Fence { ref group, epoch, why } => {
                if let Some(unit) = self.units.get(group).filter(|_| unit::ended_by_instance(why)) {
                    unit::tell_cause(Arc::clone(unit), epoch, self.queue.clone());
                }
                if let Some(station) = self.stations.get_mut(group) {
                    station.act(action);
                }
            }
            Action::Seal { ref group, .. }
            | Action::Follow { ref group, .. }
            | Action::Serve { ref group, .. }
            | Action::Handover { ref group, .. }
            | Action::Tune { ref group, .. }
            | Action::Kill { ref group }
            | Action::ScriptKill { ref group }
            | Action::Start { ref group }
            | Action::SealRemote { ref group, .. }
            | Action::Quarantine { ref group, .. }
            | Action::HoldVip { ref group, .. }
            | Action::DropVip { ref group } => {
                if let Some(station) = self.stations.get_mut(group) {
                    station.act(action);
                }
            }
        }
    }

    /// Tried until it is written: nothing that depends on it is said before (S2).
    fn save(&self, local: crate::cluster::Local) {
        let (store, queue) = (self.store.clone(), self.queue.clone());
        tokio::spawn(async move {
            let mut wait = Duration::from_millis(10);
            let mut said = String::new();
            while let Err(error) = store.save_local(&local).await {
                let why = error.to_string();
                if why != said {
                    tracing::error!(error = %why, "this node's record could not be written; trying again until it is");
                    said = why;
                }
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(SAVE_BACKOFF);
            }
            let _ = queue.send(What::Saved(local)).await;
        });
    }

    /// A leader that leaves hands Raft's leadership to a voter that is connected, so that nobody waits for an election.
    async fn hand_leadership_over(&self) {
        let leadership = self.raft.leadership().borrow().clone();
        if !leadership.leading {
            return;
        }
        let links = self.raft.links();
        let connected = |id: &&NodeId| **id != self.view.me && links.get(id).copied().unwrap_or(false);
        let best = leadership.voters.iter().filter(connected).min_by_key(|id| leadership.lag.get(id).copied());
        if let Some(to) = best
            && let Err(error) = self.raft.transfer_leader(*to).await
        {
            tracing::info!(error = %error, "Raft leadership was not handed over");
        }
    }
}
