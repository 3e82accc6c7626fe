//! What a cluster is made of, and one of its machines.
//!
//! [`Options`] are the dials a test has before the start; a [`Host`] is what
//! it can ask and do to one machine later. Everything about several machines
//! at once belongs into the cluster.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::disk::Disk;
use crate::files::Files;
use crate::lab::{ms, secs};
use crate::net::HostNet;
use crate::proc::Proc;
use crate::resp::{Client, Reply};
use crate::switch::HostNo;
use crate::writer::own_instance;

/// How long one question to an instance may take.
pub const ASK: Duration = ms(300);

/// The second group's name and the port of its instances.
pub const SECOND: (&str, u16) = ("second", 6380);

/// What the cluster is made of.
#[derive(Debug, Clone)]
pub struct Options {
    /// Hosts 1 to this have Redis.
    pub data: u8,
    /// So many hosts after those have only an agent.
    pub witnesses: u8,
    /// Without: Redis and the wire alone.
    pub agents: bool,
    pub lease: Duration,
    /// Hosts whose file says another.
    pub leases: Vec<(HostNo, Duration)>,
    pub hang_after: Duration,
    pub durability: &'static str,
    pub quarantine: bool,
    pub priorities: Vec<(HostNo, u32)>,
    pub vip: bool,
    /// The floating address is fd77::100 instead of 10.77.0.100.
    pub vip6: bool,
    pub sentinel: bool,
    pub http: bool,
    /// More lines of `redis.conf`, e.g. `appendonly yes`.
    pub redis_conf: Vec<String>,
    /// Every data host has a second instance, of a group of its own: see [`SECOND`].
    pub second_group: bool,
    /// More lines of `[[group]]`, and more tables.
    pub group_toml: String,
    pub toml: String,
    pub agent_env: Vec<(String, String)>,
    pub redis_restart: Duration,
    pub agent_restart: Duration,
    /// Agents run as the unit schedules them.
    pub realtime: bool,
    /// The unit's `ExecStopPost`, run after every end of an agent.
    pub stop_post: bool,
    /// The agents' data directories are file systems of their own, that can be filled up and frozen.
    pub disks: bool,
    /// The wall clocks of the hosts' processes can be set.
    pub wall_clocks: bool,
    /// Everything on the hosts runs as this user, the agents with their two capabilities, and not as root.
    pub user: Option<u32>,
}

impl Options {
    /// So many hosts with Redis and an agent each.
    pub fn new(data: u8) -> Self {
        Self {
            data,
            witnesses: 0,
            agents: true,
            lease: ms(800),
            leases: Vec::new(),
            hang_after: secs(5),
            durability: "available",
            quarantine: false,
            priorities: Vec::new(),
            vip: true,
            vip6: false,
            sentinel: true,
            http: true,
            redis_conf: Vec::new(),
            second_group: false,
            group_toml: String::new(),
            toml: String::new(),
            agent_env: vec![("RUST_BACKTRACE".into(), "1".into())],
            redis_restart: ms(500),
            agent_restart: ms(200),
            realtime: true,
            stop_post: false,
            disks: false,
            wall_clocks: false,
            user: None,
        }
    }

    /// Redis without agents: the test moves the posts by hand.
    pub fn redis_only(data: u8) -> Self {
        Self { agents: false, ..Self::new(data) }
    }

    pub fn with_witnesses(self, witnesses: u8) -> Self {
        Self { witnesses, ..self }
    }
}

/// One machine.
pub struct Host {
    pub no: HostNo,
    pub net: Arc<HostNet>,
    pub files: Files,
    pub redis: Option<Proc>,
    /// The instance of the second group.
    pub second: Option<Proc>,
    pub agent: Option<Proc>,
    // Unmounted after the processes have ended.
    pub disk: Option<Disk>,
    pub on: AtomicBool,
}

impl Host {
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// The Redis process.
    ///
    /// # Panics
    /// On a witness.
    pub fn redis(&self) -> &Proc {
        self.redis.as_ref().expect("this host has Redis")
    }

    /// The agent process.
    ///
    /// # Panics
    /// In a lab without agents.
    pub fn agent(&self) -> &Proc {
        self.agent.as_ref().expect("this host has an agent")
    }

    /// What the agent has written to its log so far.
    pub fn agent_log(&self) -> String {
        let log = std::fs::read(self.files.agent_log()).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// A connection to the host's instance, from the host itself.
    pub fn client(&self) -> io::Result<Client> {
        Client::over(self.net.connect(own_instance(), ASK)?, ASK)
    }

    pub fn info(&self) -> io::Result<BTreeMap<String, String>> {
        self.client()?.info(&[])
    }

    /// One command to the host's instance.
    ///
    /// # Panics
    /// When it does not answer, or refuses.
    pub fn cmd(&self, args: &[&str]) -> Reply {
        let reply = self.client().and_then(|mut c| c.command(args));
        let reply = reply.unwrap_or_else(|e| panic!("n{}: {args:?}: {e}", self.no));
        assert!(!reply.is_error(), "n{}: {args:?}: {}", self.no, reply.text());
        reply
    }
}
