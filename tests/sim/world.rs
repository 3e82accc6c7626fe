//! The simulated world: hosts with drifting clocks, one event queue, one seed. The same seed gives the same run.
//!
//! It runs the real `State::apply`, `View::observe` and `decide`; everything else (instances, Raft, network, kernel,
//! clients) is a model, made as unkind as the design allows.

use crate::invariants::{Books, Violation};
use crate::mutation::Mutation;
use crate::net::Net;
use crate::raft::Raft;
use crate::redis::Redis;
use crate::rng::Rng;
use crate::tasks::Running;
use mainstay::cluster::{Command, Durability, Epoch, GroupName, Local};
use mainstay::decide::Policy;
use mainstay::view::{Item, Moment, Stamp, Topic, View, What};
use std::collections::{BTreeMap, VecDeque};
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

/// What waits in the queue.
#[derive(Debug, Clone)]
pub enum Ev {
    /// For an agent's loop, if it is still that agent.
    Agent {
        host: usize,
        life: u64,
        what: Input,
    },
    Deliver {
        from: usize,
        to: usize,
        items: Vec<Item>,
    },
    /// A record reaches the disk.
    Written {
        host: usize,
        life: u64,
        local: Local,
    },
    MarkWritten {
        host: usize,
        life: u64,
        epoch: Epoch,
    },
    RemoteSeal {
        from: usize,
        life: u64,
        to: usize,
        epoch: Epoch,
    },
    Pump(usize),
    Ping(usize),
    Acked {
        primary: usize,
        run: u64,
        replica: usize,
        connection: u64,
        offset: u64,
    },
    Client,
    Raft,
    Commit {
        from: usize,
        life: u64,
        term: u64,
        topic: Topic,
        command: Command,
    },
    Apply {
        host: usize,
        life: u64,
        index: usize,
    },
    Fault,
    Cure(Cure),
    Heal,
}

/// What an agent's loop takes in.
#[derive(Debug, Clone)]
pub enum Input {
    Tick,
    /// Time to look at the instance.
    Look,
    Step(u64),
    Applied(usize),
    VipGone,
    What(Box<What>),
}

/// The end of a fault.
#[derive(Debug, Clone)]
pub enum Cure {
    Agent(usize),
    Thaw(usize),
    Host(usize),
    Instance(usize),
    Unhang(usize, u64),
    Net,
    Mute(usize),
    Seal,
    Slow(usize),
}

/// One agent process.
#[derive(Debug)]
pub struct Agent {
    pub life: u64,
    pub view: View,
    pub task: Option<Running>,
    pub marking: bool,
    pub writing: Option<Local>,
    pub link: Vec<bool>,
    /// Steps done while it carries a lease on from before.
    pub carried: bool,
}

/// One host.
#[derive(Debug)]
pub struct Host {
    pub up: bool,
    pub agent: Option<Agent>,
    /// No events are processed until it thaws.
    pub stalled: bool,
    pub inbox: VecDeque<Input>,
    pub redis: Redis,
    pub member: bool,
    pub policy: Policy,
    /// The durable record, the applied log, the stamp (which a reboot erases).
    pub disk: Local,
    pub applied: usize,
    pub stamp: Option<Stamp>,
    /// Until when the kernel keeps the VIP.
    pub vip_until: Ns,
    pub clock_base: Ns,
    pub clock_rate: i64,
    pub slow_disk: bool,
    pub slow_redis: bool,
    /// Safety excuses this host until then: its agent is frozen or dead, or has just come back (S8).
    pub excused_until: Ns,
}

impl Host {
    /// Its CLOCK_BOOTTIME: off by up to 0.05 %.
    pub fn clock(&self, now: Ns) -> Moment {
        let passed = now.saturating_sub(self.clock_base);
        let drift = i64::try_from(passed / 1_000_000).unwrap_or(0) * self.clock_rate;
        Moment(1_000_000_000 + passed.saturating_add_signed(drift))
    }
}

/// The world.
pub struct World {
    pub now: Ns,
    pub rng: Rng,
    queue: BTreeMap<(Ns, u64), Ev>,
    sequence: u64,
    pub hosts: Vec<Host>,
    pub net: Net,
    pub raft: Raft,
    pub books: Books,
    pub group: GroupName,
    pub mutation: Option<Mutation>,
    pub diskless: bool,
    pub healed: bool,
    pub tick: Ns,
    pub look: Ns,
    pub connections: u64,
    pub runs: u64,
    pub lives: u64,
    pub writes: u64,
    pub vip_owner: Option<usize>,
    pub violation: Option<Violation>,
    pub covered: Covered,
    pub tracing: bool,
    pub trace: VecDeque<String>,
    pub plan: Option<crate::faults::Plan>,
}

/// What a run went through.
#[derive(Debug, Clone, Copy, Default)]
pub struct Covered {
    pub failovers: u64,
    pub switchovers: u64,
    pub fences: u64,
    pub rejoins: u64,
    pub carried_on: u64,
    pub kept: u64,
    pub best_reached: u64,
    pub cold: u64,
    pub forced: u64,
    pub full_syncs: u64,
    pub waits: u64,
    pub plain: u64,
    pub kills: u64,
    pub events: u64,
}

/// How a run is made up.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub nodes: usize,
    pub members: usize,
    pub durability: Durability,
}

impl World {
    /// A cluster that starts for the first time.
    pub fn new(seed: u64, shape: Shape, mutation: Option<Mutation>, tracing: bool) -> Self {
        let mut rng = Rng::new(seed);
        let group = GroupName::from("g");
        let hosts = (0..shape.nodes).map(|i| crate::agent::host(&mut rng, i, shape, &group)).collect();
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
            net: Net::new(shape.nodes),
            raft: Raft::new(shape.nodes),
            books: Books::new(shape.nodes),
            group,
            mutation,
            diskless,
            healed: false,
            tick,
            look,
            connections: 0,
            runs: shape.nodes as u64,
            lives: 0,
            writes: 0,
            vip_owner: None,
            violation: None,
            covered: Covered::default(),
            tracing,
            trace: VecDeque::new(),
            plan: None,
        };
        world.at(0, Ev::Raft);
        world.at(200 * MS, Ev::Client);
        for host in 0..shape.nodes {
            world.start_agent(host);
            if host < shape.members {
                world.at(MS, Ev::Pump(host));
                world.at(MS, Ev::Ping(host));
            }
        }
        world
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
            self.handle(event);
            self.check();
        }
        self.now = self.now.max(end);
    }

    fn handle(&mut self, event: Ev) {
        match event {
            Ev::Agent { host, life, what } => self.input(host, life, what),
            Ev::Deliver { from, to, items } => self.deliver(from, to, items),
            Ev::Written { host, life, local } => self.written(host, life, local),
            Ev::MarkWritten { host, life, epoch } => self.mark_written(host, life, epoch),
            Ev::RemoteSeal { from, life, to, epoch } => self.remote_seal(from, life, to, epoch),
            Ev::Pump(host) => self.pump(host),
            Ev::Ping(host) => self.ping(host),
            Ev::Acked { primary, run, replica, connection, offset } => {
                self.acked(primary, run, replica, connection, offset);
            }
            Ev::Client => self.client(),
            Ev::Raft => self.raft_tick(),
            Ev::Commit { from, life, term, topic, command } => self.commit(from, life, term, topic, &command),
            Ev::Apply { host, life, index } => self.input(host, life, Input::Applied(index)),
            Ev::Fault => self.fault(),
            Ev::Cure(cure) => self.cure(cure),
            Ev::Heal => self.heal(),
        }
    }
}
