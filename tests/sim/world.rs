//! The simulated world: hosts with drifting clocks, one event queue, one seed. The same seed gives the same run.
//!
//! It runs the real `State::apply`, `View::observe` and `decide`; everything else (instances, Raft, network, kernel,
//! clients) is a model, made as unkind as the design allows.

use crate::changes::Book;
use crate::cold::Disk;
use crate::covered::Covered;
use crate::events::{Ev, Input};
use crate::generation::Founding;
use crate::invariants::Violation;
use crate::mutation::Mutation;
use crate::net::Net;
use crate::raft::Raft;
use crate::redis::Redis;
use crate::rng::Rng;
use crate::starts::Start;
use crate::tasks::Running;
use crate::unkind::Unkind;
use mainstay::cluster::{Durability, GroupName, Local};
use mainstay::decide::Policy;
use mainstay::view::{Moment, Stamp, View};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// True time in nanoseconds; hosts see it through their own clocks.
pub type Ns = u64;
/// A millisecond.
pub const MS: Ns = 1_000_000;
/// The lease of every run.
pub const LEASE: Duration = Duration::from_millis(800);
/// Patience with a silent instance.
pub const HANG_AFTER: Duration = Duration::from_secs(2);

/// Writes a line of the trace; formats nothing while nobody reads it.
macro_rules! tr {
    ($world:expr, $($rest:tt)*) => {
        if $world.tracing { let line = format!($($rest)*); $world.note(line); }
    };
}

/// Places are numbered by group and host: so many hosts at most.
pub const WIDTH: usize = 8;

/// The instance of a group on a host.
pub fn place(host: usize, group: usize) -> usize {
    group * WIDTH + host
}

/// The host of a place.
pub fn host_at(place: usize) -> usize {
    place % WIDTH
}

/// The group of a place.
pub fn group_at(place: usize) -> usize {
    place / WIDTH
}

/// One agent process.
#[derive(Debug)]
pub struct Agent {
    pub life: u64,
    pub view: View,
    /// By group.
    pub tasks: Vec<Option<Running>>,
    pub marking: Vec<bool>,
    pub writing: Option<Local>,
    pub link: Vec<bool>,
    /// It carries a lease on from before.
    pub carried: bool,
}

/// One host.
#[derive(Debug)]
pub struct Host {
    /// Part of the cluster: not still to join, and not removed for good.
    pub joined: bool,
    pub up: bool,
    pub agent: Option<Agent>,
    /// No events are processed until it thaws.
    pub stalled: bool,
    pub inbox: VecDeque<Input>,
    pub policy: Policy,
    /// The durable record, and the applied log.
    pub disk: Local,
    pub applied: usize,
    pub clock_base: Ns,
    pub clock_rate: i64,
    /// S11: diverged data is saved first.
    pub quarantine: bool,
    pub slow_disk: bool,
    pub slow_redis: bool,
    /// Its agent cannot log in to the instances before that.
    pub locked_out_until: Ns,
    /// Safety excuses this host until then: its agent is frozen or dead, or has just come back (S8).
    pub excused_until: Ns,
    /// Which generation of the cluster it belongs to, and whether it was told that this one is over.
    pub generation: u64,
    pub superseded: bool,
    /// Since when its agent is dead or frozen.
    pub mindless_since: Option<Ns>,
}

/// One group on one host.
#[derive(Debug)]
pub struct Inst {
    /// Whether the host has an instance of the group.
    pub member: bool,
    pub redis: Redis,
    /// Beside the control socket: a reboot erases it.
    pub stamp: Option<Stamp>,
    /// Until when the kernel keeps the VIP.
    pub vip_until: Ns,
    /// It was told to follow, to be synchronised in full, while the primary's agent was that one, and has not attached
    /// since; and: it has.
    pub told_to_follow: Option<u64>,
    pub in_turn: bool,
    /// The process whose newest write was told.
    pub newest_told: u64,
    /// Since when it hangs, and its agent has nothing that keeps it from noticing.
    pub hung_since: Option<Ns>,
}

impl Host {
    /// Its CLOCK_BOOTTIME: off by up to `drift`.
    pub fn clock(&self, now: Ns) -> Moment {
        let passed = now.saturating_sub(self.clock_base);
        let drift = i64::try_from(passed / 1_000_000).unwrap_or(0) * self.clock_rate;
        Moment(100_000_000_000 + passed.saturating_add_signed(drift))
    }
}

/// The world.
pub struct World {
    pub now: Ns,
    pub rng: Rng,
    queue: BTreeMap<(Ns, u64), Ev>,
    sequence: u64,
    pub hosts: Vec<Host>,
    /// By place.
    pub insts: Vec<Inst>,
    pub net: Net,
    pub raft: Raft,
    /// By group, as the names.
    pub books: Vec<Book>,
    pub names: Vec<GroupName>,
    pub mutation: Option<Mutation>,
    pub diskless: bool,
    pub healed: bool,
    pub tick: Ns,
    pub look: Ns,
    pub connections: u64,
    pub runs: u64,
    pub first_runs: u64,
    pub lives: u64,
    pub writes: u64,
    pub vip_owner: Vec<Option<usize>>,
    pub violation: Option<Violation>,
    pub covered: Covered,
    pub tracing: bool,
    pub trace: VecDeque<String>,
    pub plan: Option<crate::faults::Plan>,
    /// Places whose instance does not come back.
    pub lost: BTreeSet<usize>,
    /// The host that does not come back.
    pub gone: Option<usize>,
    /// What instances keep on disk.
    pub disk: Disk,
    /// The newest generation of the cluster, the Raft of the one before, and how the newest came about.
    pub generation: u64,
    pub elder: Option<Raft>,
    pub founding: Option<Founding>,
    /// The run is a told story.
    pub told: Option<Told>,
    pub unkind: Unkind,
    /// By group, where it is asked: for how long nobody takes writes.
    pub alone: Vec<crate::single::Alone>,
    /// Of a hundred moments of one clock, so many pass at least by another.
    pub pace: u64,
}

/// What a told story decides, where elsewhere chance does.
#[derive(Debug, Default)]
pub struct Told {
    /// By place: so many of its writes a restarted instance finds on its disk, and whether in an RDB.
    pub found: Vec<(usize, bool)>,
    /// Writes that `WAIT` acknowledged.
    pub waited: Vec<u64>,
}

/// How a run is made up.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Hosts that there can be, and those of the first start.
    pub nodes: usize,
    pub first: usize,
    /// By group: the hosts that have an instance of it.
    pub members: Vec<Vec<usize>>,
    pub durability: Durability,
    /// How far clocks run apart from true time at most, in millionths.
    pub drift: u64,
    pub start: Start,
}

impl World {
    /// A cluster that starts for the first time.
    pub fn new(seed: u64, shape: &Shape, mutation: Option<Mutation>, tracing: bool) -> Self {
        let names = ["g", "h"].into_iter().take(shape.members.len()).map(GroupName::from).collect();
        let world = Self::with(Rng::new(seed), names, shape, mutation, tracing);
        Self { disk: Disk::draw(seed), unkind: Unkind::new(seed, shape.nodes), ..world }
    }

    /// The same with groups of these names.
    pub fn with(mut rng: Rng, names: Vec<GroupName>, shape: &Shape, mutation: Option<Mutation>, tracing: bool) -> Self {
        let hosts = (0..shape.nodes).map(|i| crate::agent::host(&mut rng, i, shape, &names)).collect();
        let insts = (0..WIDTH * names.len()).map(|at| crate::agent::inst(&mut rng, at, shape)).collect();
        let tick = rng.between(8, 50) * MS;
        let look = rng.between(30, 120) * MS;
        // The shells set `repl-diskless-load disabled`: the old data stays until the new has come whole.
        let diskless = std::env::var_os("MAINSTAY_SIM_DISKLESS").is_some();
        let mut world = Self {
            now: 0,
            rng,
            queue: BTreeMap::new(),
            sequence: 0,
            hosts,
            insts,
            net: Net::new(shape.nodes),
            raft: Raft::new(shape.nodes, shape.first),
            books: names.iter().map(|_| Book::new(shape.nodes)).collect(),
            vip_owner: vec![None; names.len()],
            names,
            mutation,
            diskless,
            healed: false,
            tick,
            look,
            connections: 0,
            runs: (WIDTH * shape.members.len()) as u64,
            first_runs: (WIDTH * shape.members.len()) as u64,
            lives: 0,
            writes: 0,
            violation: None,
            covered: Covered::default(),
            tracing,
            trace: VecDeque::new(),
            plan: None,
            lost: BTreeSet::new(),
            gone: None,
            disk: Disk::default(),
            generation: 1,
            elder: None,
            founding: None,
            told: None,
            unkind: Unkind::new(0, shape.nodes),
            alone: Vec::new(),
            pace: if shape.drift > 40_000 { 90 } else { 96 },
        };
        world.furnish(shape);
        world.at(0, Ev::Raft);
        world.at(0, Ev::Duty);
        world.at(200 * MS, Ev::Client);
        for host in 0..shape.first {
            world.start_agent(host);
        }
        for at in 0..world.insts.len() {
            if world.insts[at].member {
                world.at(MS, Ev::Pump(at));
                world.at(MS, Ev::Ping(at));
            }
        }
        world
    }

    /// The instances alone: no agents, clients or pings.
    pub fn instances_only(&mut self) {
        self.queue.clear();
        for host in &mut self.hosts {
            host.agent = None;
        }
        for at in 0..self.insts.len() {
            if self.insts[at].member {
                self.at(MS, Ev::Pump(at));
            }
        }
    }

    /// Puts an event `delay` from now.
    pub fn at(&mut self, delay: Ns, event: Ev) {
        self.sequence += 1;
        self.queue.insert((self.now + delay, self.sequence), event);
    }

    /// A line for the reader of a failing seed.
    pub fn note(&mut self, line: String) {
        if self.trace.len() >= 4000 {
            self.trace.pop_front();
        }
        self.trace.push_back(format!("{:>10.3} {line}", self.now as f64 / 1e6));
    }

    /// Runs up to `end`, or to the first violation.
    pub fn run_until(&mut self, end: Ns) {
        while self.violation.is_none() {
            let Some(((time, _), _)) = self.queue.first_key_value() else { break };
            if *time > end {
                break;
            }
            let Some(((time, _), event)) = self.queue.pop_first() else { break };
            self.now = time;
            self.covered.events += 1;
            if event.host().is_some_and(|host| self.is_elder(host)) {
                self.as_elder(|world| world.handle(event));
            } else {
                self.handle(event);
            }
            self.check();
        }
        self.now = self.now.max(end);
    }

    fn handle(&mut self, event: Ev) {
        match event {
            Ev::Agent { host, life, what } => self.input(host, life, what),
            Ev::Deliver { from, to, items } => self.deliver(from, to, items),
            Ev::Written { host, life, local } => self.written(host, life, local),
            Ev::MarkWritten { place, life, epoch } => self.mark_written(place, life, epoch),
            Ev::RemoteSeal { from, life, to, epoch } => self.remote_seal(from, life, &to, epoch),
            Ev::Pump(place) => self.pump(place),
            Ev::Ping(place) => self.ping(place),
            Ev::Acked { primary, run, replica, connection, offset } => {
                self.acked(primary, run, replica, connection, offset);
            }
            Ev::Client => self.client(),
            Ev::Raft => self.raft_tick(),
            Ev::Duty => self.duty(),
            Ev::Commit { from, life, term, topic, command } => self.commit(from, life, term, topic, &command),
            Ev::Apply { host, life, index } => self.input(host, life, Input::Applied(index)),
            Ev::Generation => self.generation_tick(),
            Ev::Fault => self.fault(),
            Ev::Cure(cure) => self.cure(cure),
            Ev::Heal => self.heal(),
        }
    }
}
