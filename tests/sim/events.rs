//! What waits in the world's queue.

use mainstay::cluster::{Command, Epoch, Local};
use mainstay::view::{Item, Topic, What};

/// What waits in the queue. A `place` is one instance: one group on one host.
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
        place: usize,
        life: u64,
        epoch: Epoch,
    },
    RemoteSeal {
        from: usize,
        life: u64,
        to: Vec<usize>,
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
    /// The leader looks after the membership.
    Duty,
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
    /// The operator looks after a new generation.
    Generation,
    Fault,
    Cure(Cure),
    Heal,
}

/// What an agent's loop takes in.
#[derive(Debug, Clone)]
pub enum Input {
    Tick,
    /// Time to look at the instance of a group.
    Look(usize),
    /// Place, task.
    Step(usize, u64),
    Applied(usize),
    VipGone(usize),
    What(Box<What>),
}

/// The end of a fault, or its next step.
#[derive(Debug, Clone)]
pub enum Cure {
    Agent(usize),
    Thaw(usize),
    Host(usize),
    /// A place.
    Instance(usize),
    Unhang(usize, u64),
    Net,
    Mute(usize),
    Seal(usize),
    Slow(usize),
    /// No cure: the next step of an attack.
    Crash(usize),
    Restart(usize),
    Freeze(usize),
    Split(usize, usize),
    Cut(usize, usize),
    OneWay(usize, usize),
    Mend(usize, usize),
    Narrow(usize, bool),
    FenceOrder(usize),
    Stamp(usize, mainstay::view::Stamp),
    /// An operator's word: the group, and the host that is to be promoted.
    Force(usize, usize),
    /// An operator gives up what is not the group's data.
    Bootstrap(usize),
    PowerCut,
    /// Its agent is asked to stop.
    Stop(usize),
    /// A place whose process dies.
    Kill(usize),
    Switch(usize),
    LoseAllBut(usize),
    /// An operator bars a node from promotion, or allows it again.
    Priority(usize, usize, u32),
}

impl Ev {
    /// The host in whose generation of the cluster it happens.
    pub fn host(&self) -> Option<usize> {
        match self {
            Ev::Agent { host, .. } | Ev::Written { host, .. } | Ev::Apply { host, .. } => Some(*host),
            Ev::Deliver { to, .. } => Some(*to),
            Ev::MarkWritten { place, .. } => Some(crate::world::host_at(*place)),
            Ev::RemoteSeal { from, .. } | Ev::Commit { from, .. } => Some(*from),
            _ => None,
        }
    }
}
