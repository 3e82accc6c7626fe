//! The other system: three Redis with a Redis Sentinel each, set up as its documentation says, on the same hosts and wire.
//!
//! Two things are set for the test: `down-after-milliseconds 1000`, and a short `failover-timeout`, since Sentinel starts
//! no second failover of a group within twice that time.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use crate::cluster::{Cluster, Host, Options};
use crate::lab::{ms, secs, wait_for};
use crate::net::address;
use crate::proc::{Proc, Spec};
use crate::resp::Client;
use crate::switch::HostNo;

pub const PORT: u16 = 26379;
pub const GROUP: &str = "mymaster";
/// How long Sentinel waits for a silent instance.
const DOWN_AFTER_MS: u32 = 1000;
const FAILOVER_TIMEOUT_MS: u32 = 2000;

/// The Sentinels of a cluster.
pub struct Trio {
    pub password: String,
    procs: Vec<(HostNo, Proc)>,
}

/// Redis without agents, and more of `redis.conf` as the group needs it.
pub fn hosts() -> Options {
    Options { vip: false, sentinel: false, ..Options::redis_only(3) }
}

/// The configuration of one, as its operator writes it.
fn conf(host: &Host, primary: HostNo, password: &str) -> io::Result<PathBuf> {
    let dir = host.files.root.join("sentinel");
    std::fs::create_dir_all(&dir)?;
    let path = host.files.root.join("sentinel.conf");
    let primary = address(primary);
    let mut text = format!(
        "port {PORT}\nbind * -::*\nprotected-mode no\ndaemonize no\ndir \"{}\"\n\
         sentinel announce-ip {}\n\
         sentinel monitor {GROUP} {primary} 6379 2\n\
         sentinel down-after-milliseconds {GROUP} {DOWN_AFTER_MS}\n\
         sentinel failover-timeout {GROUP} {FAILOVER_TIMEOUT_MS}\n\
         sentinel parallel-syncs {GROUP} 1\n",
        dir.display(),
        address(host.no),
    );
    if !password.is_empty() {
        text.push_str(&format!("requirepass \"{password}\"\nsentinel sentinel-pass \"{password}\"\n"));
    }
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
    file.write_all(text.as_bytes())?;
    Ok(path)
}

impl Trio {
    /// Makes host 1's instance the primary, lets the others follow, and starts the Sentinels.
    ///
    /// # Panics
    /// When the machine refuses.
    pub fn start(c: &Cluster, password: &str) -> Self {
        for host in c.data_hosts() {
            wait_for("instance", secs(10), || host.info());
        }
        c.host(1).cmd(&["REPLICAOF", "NO", "ONE"]);
        for host in c.data_hosts().filter(|host| host.no != 1) {
            host.cmd(&["REPLICAOF", &address(1).to_string(), "6379"]);
        }
        let mut trio = Self { password: password.to_owned(), procs: Vec::new() };
        trio.watch(c, 1);
        trio
    }

    /// Starts a Sentinel on each host, all with a configuration that knows nothing but the primary.
    ///
    /// # Panics
    /// When they do not find each other and the replicas.
    pub fn watch(&mut self, c: &Cluster, primary: HostNo) {
        self.procs = c.hosts.values().map(|host| (host.no, Self::run(host, primary, &self.password))).collect();
        wait_for("group that all Sentinels know", secs(30), || self.agree(c));
    }

    fn run(host: &Host, primary: HostNo, password: &str) -> Proc {
        let path = conf(host, primary, password).expect("a configuration");
        let spec = Spec {
            name: format!("sentinel n{}", host.no),
            program: "redis-server".into(),
            args: vec![path.display().to_string(), "--sentinel".into()],
            env: Vec::new(),
            net: Arc::clone(&host.net),
            log: host.files.root.join("sentinel.log"),
            restart: Some(ms(200)),
            realtime: false,
            stop_post: None,
        };
        Proc::start(spec).expect("a Sentinel")
    }

    pub fn proc(&self, no: HostNo) -> &Proc {
        let found = self.procs.iter().find(|(host, _)| *host == no);
        &found.expect("a Sentinel").1
    }

    /// The file that the Sentinel of a host has, as that has rewritten it since.
    pub fn conf(&self, host: &Host) -> PathBuf {
        host.files.root.join("sentinel.conf")
    }

    /// A question to the Sentinel of a host.
    ///
    /// # Errors
    /// If it does not answer, or refuses.
    pub fn ask(&self, host: &Host, args: &[&str]) -> io::Result<crate::resp::Reply> {
        let at: SocketAddr = (address(host.no), PORT).into();
        let mut client = Client::over(host.net.connect(at, ms(300))?, ms(500))?;
        let refused = |reply: crate::resp::Reply| match reply.is_error() {
            true => Err(io::Error::other(reply.text())),
            false => Ok(reply),
        };
        if !self.password.is_empty() {
            refused(client.command(&["AUTH", &self.password])?)?;
        }
        refused(client.command(args)?)
    }

    /// All instances and Sentinels are known to all Sentinels, and up.
    pub fn agree(&self, c: &Cluster) -> Result<(), String> {
        let hosts: Vec<&Host> = c.hosts.values().filter(|host| host.is_on()).collect();
        for host in &hosts {
            let flat = self.ask(host, &["SENTINEL", "MASTER", GROUP]).map_err(|error| error.to_string())?;
            let words: Vec<String> = flat.items().iter().map(crate::resp::Reply::text).collect();
            let field = |name: &str| words.chunks(2).find(|pair| pair[0] == name).map(|pair| pair[1].clone());
            let others = (hosts.len() - 1).to_string();
            let seen = (field("flags"), field("num-slaves"), field("num-other-sentinels"));
            if seen != (Some("master".into()), Some(others.clone()), Some(others)) {
                return Err(format!("n{} sees {seen:?}", host.no));
            }
            self.ask(host, &["SENTINEL", "CKQUORUM", GROUP]).map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}
