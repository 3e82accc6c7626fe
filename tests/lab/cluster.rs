//! A whole cluster on the lab's wire: hosts with Redis and an agent each,
//! witnesses, and one client host; what a test can do to them and ask of them.
//!
//! Everything a test waits for is bounded. Dropping the cluster kills all
//! processes first, then frees the network, then the directory (which stays,
//! with its logs shown, if the test is failing).

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::disk::Disk;
use crate::files::Files;
use crate::history::History;
pub use crate::host::{ASK, Host, Options, SECOND};
use crate::lab::{LabDir, ms, secs, seed, wait_for};
use crate::net::{CLIENT, HostNet, VIP, VIP6, address};
use crate::proc::{Proc, Spec};
use crate::resp::{Client, Reply, encode};
use crate::switch::{HostNo, Switch};
use crate::watch::Watch;
use crate::writer::{Load, Writer, WriterOptions, own_instance};

/// The lab of one test.
pub struct Cluster {
    // Dropped in this order.
    pub hosts: BTreeMap<HostNo, Host>,
    pub client: Arc<HostNet>,
    pub wire: Arc<Switch>,
    pub dir: LabDir,
    pub options: Options,
    pub seed: u64,
    members: Vec<HostNo>,
    key: [u8; 32],
    wallclock: Option<PathBuf>,
    writers: AtomicU32,
}

impl Cluster {
    /// Boots every host and starts everything on it; does not wait for any of
    /// it to be ready.
    ///
    /// # Panics
    /// When the machine refuses.
    pub fn start(options: Options) -> Self {
        Self::start_seeded(seed(), options)
    }

    /// With a seed that was drawn before.
    ///
    /// # Panics
    /// When the machine refuses.
    pub fn start_seeded(seed: u64, options: Options) -> Self {
        Self::try_start(seed, options).expect("a lab")
    }

    fn try_start(seed: u64, options: Options) -> io::Result<Self> {
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(io::Error::other)?;
        let wire = Arc::new(Switch::start(seed)?);
        let dir = LabDir::new()?;
        if options.user.is_some() {
            // Where another user gets at it.
            std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))?;
            std::fs::copy(crate::lab::binary(), dir.path().join("mainstay"))?;
        }
        let wallclock = if options.wall_clocks { Some(crate::wall::build(dir.path())?) } else { None };
        let mut cluster = Self {
            hosts: BTreeMap::new(),
            client: HostNet::boot(CLIENT, &wire)?,
            wire,
            dir,
            members: (1..=options.data + options.witnesses).collect(),
            options,
            seed,
            key,
            wallclock,
            writers: AtomicU32::new(0),
        };
        for no in cluster.members.clone() {
            cluster.add_host(no, no > cluster.options.data)?;
        }
        Ok(cluster)
    }

    /// Boots one more host; one that was not there at the start joins.
    pub fn add_host(&mut self, no: HostNo, witness: bool) -> io::Result<()> {
        let net = HostNet::boot(no, &self.wire)?;
        let files = Files::create(self.dir.path(), no)?;
        // In memory: the machine's own disk has other things to do.
        let image = crate::files::memory(self.dir.path()).with_extension(format!("n{no}.img"));
        let disk = self.options.disks.then(|| Disk::mount(&image, &files.agent()));
        if self.options.wall_clocks {
            crate::wall::set(&files, 0)?;
        }
        let key_file = files.write_key(&self.key)?;
        files.write_redis_conf(&self.options)?;
        files.write_config(no, witness, &self.members, &key_file, &self.options)?;
        self.options.user.map_or(Ok(()), |user| files.give_to(user))?;
        let redis = if witness { None } else { Some(Proc::start(self.redis_spec(no, &net, &files))?) };
        let second = self.options.second_group && !witness;
        let second = if second { Some(Proc::start(self.second_spec(no, &net, &files)?)?) } else { None };
        let agent = if self.options.agents { Some(Proc::start(self.agent_spec(no, &net, &files))?) } else { None };
        let host = Host { no, net, files, redis, second, agent, disk, on: AtomicBool::new(true) };
        self.hosts.insert(no, host);
        Ok(())
    }

    /// A witness that is off and known to nobody, until it is "replaced": with a key of its own it joins nobody before.
    pub fn add_spare(&mut self, no: HostNo) -> io::Result<()> {
        let key = std::mem::replace(&mut self.key, [1; 32]);
        let added = self.add_host(no, true);
        self.key = key;
        added?;
        self.kill_host(no);
        Ok(())
    }

    fn redis_spec(&self, no: HostNo, net: &Arc<HostNet>, files: &Files) -> Spec {
        // Born sealed (S6): the command line overrules the file.
        let sealed = ["--replicaof", "127.0.0.1", "1", "--replica-read-only", "yes"];
        let args = std::iter::once(files.redis_conf().display().to_string()).chain(sealed.map(String::from));
        let spec = Spec {
            name: format!("redis n{no}"),
            program: std::env::var("REDIS_SERVER").unwrap_or("redis-server".into()).into(),
            args: args.collect(),
            env: self.wall_clock(files),
            net: Arc::clone(net),
            log: files.redis_log(),
            restart: Some(self.options.redis_restart),
            realtime: false,
            stop_post: None,
        };
        if let Some(user) = self.options.user { spec.unprivileged(user, &[]) } else { spec }
    }

    /// Like the first group's, with a port and a directory of its own.
    fn second_spec(&self, no: HostNo, net: &Arc<HostNet>, files: &Files) -> io::Result<Spec> {
        let dir = files.root.join("second");
        std::fs::create_dir_all(&dir)?;
        let mut spec = self.redis_spec(no, net, files);
        let own = ["--port", &SECOND.1.to_string(), "--dir", &dir.display().to_string(), "--unixsocket", ""];
        spec.args.extend(own.map(String::from));
        Ok(Spec { name: format!("second n{no}"), log: files.root.join("second.log"), ..spec })
    }

    fn agent_spec(&self, no: HostNo, net: &Arc<HostNet>, files: &Files) -> Spec {
        let config = files.config().display().to_string();
        let fence = ["fence", "--if-lapsed", "--config", &config].map(String::from);
        let own = self.dir.path().join("mainstay");
        let spec = Spec {
            name: format!("agent n{no}"),
            program: if self.options.user.is_some() { own } else { crate::lab::binary().into() },
            args: vec!["run".into(), "--config".into(), config.clone()],
            env: self.options.agent_env.iter().cloned().chain(self.wall_clock(files)).collect(),
            net: Arc::clone(net),
            log: files.agent_log(),
            restart: Some(self.options.agent_restart),
            realtime: self.options.realtime,
            stop_post: self.options.stop_post.then(|| fence.into()),
        };
        if let Some(user) = self.options.user { spec.unprivileged(user, &["net_admin", "net_raw"]) } else { spec }
    }

    fn wall_clock(&self, files: &Files) -> Vec<(String, String)> {
        self.wallclock.as_ref().map_or(Vec::new(), |library| crate::wall::environment(library, files))
    }

    /// # Panics
    /// When there is no such host.
    pub fn host(&self, no: HostNo) -> &Host {
        self.hosts.get(&no).unwrap_or_else(|| panic!("no host {no}"))
    }

    /// Hosts that are on and have Redis.
    pub fn data_hosts(&self) -> impl Iterator<Item = &Host> {
        self.hosts.values().filter(|h| h.is_on() && h.redis.is_some())
    }

    /// Where clients connect.
    pub fn service(&self) -> SocketAddr {
        if self.options.vip6 { (VIP6, 6379).into() } else { (VIP, 6379).into() }
    }

    /// A power cut: not a byte leaves the host any more, everything on it dies.
    pub fn kill_host(&self, no: HostNo) {
        let host = self.host(no);
        host.on.store(false, Ordering::Relaxed);
        self.wire.detach(no);
        host.agent.iter().chain(&host.redis).chain(&host.second).for_each(Proc::hold);
        host.net.unplug();
    }

    /// The power is back: same disk, everything else as after a boot.
    ///
    /// # Panics
    /// When the machine refuses.
    pub fn revive_host(&self, no: HostNo) {
        let host = self.host(no);
        host.files.clear_run().expect("the host's run directory");
        self.options.user.map_or(Ok(()), |user| host.files.give_to(user)).expect("the host's files");
        host.net.reboot().expect("a namespace");
        host.on.store(true, Ordering::Relaxed);
        host.redis.iter().chain(&host.second).chain(&host.agent).for_each(Proc::release);
    }

    /// The host comes back with a new disk.
    ///
    /// # Panics
    /// When the machine refuses, or the host is still on.
    pub fn revive_host_empty(&self, no: HostNo) {
        assert!(!self.host(no).is_on(), "n{no} is on");
        self.host(no).files.wipe().expect("the host's directories");
        self.revive_host(no);
    }

    /// Like [`Cluster::revive_host_empty`], with a file that says whom to join: the way an operator replaces a node.
    ///
    /// # Panics
    /// When the machine refuses, or the host is still on.
    pub fn replace_host(&self, no: HostNo) {
        assert!(!self.host(no).is_on(), "n{no} is on");
        let files = &self.host(no).files;
        files.wipe().expect("the host's directories");
        let key_file = files.write_key(&self.key).expect("a key");
        let others: Vec<HostNo> = self.hosts.keys().copied().filter(|other| *other != no).collect();
        let witness = self.host(no).redis.is_none();
        files.write_redis_conf(&self.options).expect("redis.conf");
        files.write_config(no, witness, &others, &key_file, &self.options).expect("a config");
        self.revive_host(no);
    }

    /// The agent's store is gone, its instance runs on; the file says whom to join. The agent is held meanwhile.
    pub fn lose_store(&self, no: HostNo) -> io::Result<()> {
        let host = self.host(no);
        host.files.wipe_agent()?;
        let key_file = host.files.write_key(&self.key)?;
        let others: Vec<HostNo> = self.hosts.keys().copied().filter(|other| *other != no).collect();
        host.files.write_config(no, host.redis.is_none(), &others, &key_file, &self.options)
    }

    /// A connection to the floating address from the client's host.
    pub fn client(&self) -> io::Result<Client> {
        Client::over(self.client.connect(self.service(), ms(100))?, ASK)
    }

    /// Who answers clients as primary at this moment.
    pub fn primary_now(&self) -> Result<HostNo, String> {
        let info = self.client().and_then(|mut c| c.info(&["server", "replication"]));
        let info = info.map_err(|e| format!("no answer at the floating address: {e}"))?;
        let field = |name: &str| info.get(name).cloned().unwrap_or_default();
        if field("role") != "master" {
            return Err(format!("a {} holds the floating address", field("role")));
        }
        let run_id = field("run_id");
        let mine = |h: &&Host| h.info().is_ok_and(|i| i.get("run_id") == Some(&run_id));
        let host = self.data_hosts().find(mine);
        host.map(|h| h.no).ok_or_else(|| format!("nobody has run_id {run_id}"))
    }

    /// # Panics
    /// When no primary answers at the floating address within `bound`.
    pub fn wait_primary(&self, bound: Duration) -> HostNo {
        wait_for("primary", bound, || self.primary_now())
    }

    /// # Panics
    /// When none but `old` answers within `bound`.
    pub fn wait_new_primary(&self, old: HostNo, bound: Duration) -> HostNo {
        wait_for("new primary", bound, || match self.primary_now()? {
            now if now == old => Err(format!("still n{old}")),
            now => Ok(now),
        })
    }

    /// Hosts that have the floating address.
    pub fn vip_holders(&self) -> Vec<HostNo> {
        let vip = self.service().ip();
        let holds = |h: &&Host| h.is_on() && h.net.addresses().contains(&vip);
        self.hosts.values().filter(holds).map(|h| h.no).collect()
    }

    /// Watches where the floating address is.
    pub fn watch_vip(&self) -> Watch {
        let hosts = self.hosts.values().map(|h| Arc::clone(&h.net)).collect();
        Watch::start(hosts, self.service().ip())
    }

    /// One primary, which alone holds the floating address; every other
    /// instance follows it and acknowledges a write (of key `lab:probe`).
    pub fn steady_now(&self) -> Result<HostNo, String> {
        let primary = self.primary_now()?;
        let holders = self.vip_holders();
        if self.options.vip && holders != [primary] {
            return Err(format!("n{primary} is primary, {holders:?} hold the floating address"));
        }
        let offset = self.probe(primary)?;
        self.data_hosts().filter(|h| h.no != primary).try_for_each(|h| follows(h, primary, offset))?;
        Ok(primary)
    }

    /// Writes to the primary until every other instance has it; the offset
    /// then. What INFO says is not enough: after a diskless full sync both
    /// sides say "up" and "online" up to a second before the stream starts.
    fn probe(&self, primary: HostNo) -> Result<i64, String> {
        let others = self.data_hosts().count() - 1;
        let ask = || -> io::Result<i64> {
            let mut client = self.host(primary).client()?;
            let mut write = |args: &[&str]| match client.command(args)? {
                Reply::Error(refusal) => Err(io::Error::other(refusal)),
                reply => Ok(reply.text()),
            };
            write(&["SET", "lab:probe", "1"])?;
            let have = write(&["WAIT", &others.to_string(), "200"])?;
            if have != others.to_string() {
                let error = format!("{have} of {others} replicas acknowledge");
                return Err(io::Error::other(error));
            }
            Ok(number(&client.info(&["replication"])?, "master_repl_offset"))
        };
        ask().map_err(|e| format!("n{primary}: {e}"))
    }

    /// # Panics
    /// When the cluster is not steady within `bound`.
    pub fn wait_steady(&self, bound: Duration) -> HostNo {
        wait_for("steady cluster", bound, || self.steady_now())
    }

    /// Steady, and healthy by the agents' own word: every follower's data is proved, so that any of them may be
    /// promoted.
    ///
    /// # Panics
    /// When that takes longer than `bound`.
    pub fn wait_healthy(&self, bound: Duration) -> HostNo {
        let primary = self.wait_steady(bound);
        wait_for("healthy cluster", bound, || match self.status(primary)?["health"].as_str() {
            Some("healthy") => Ok(()),
            other => Err(format!("{other:?}")),
        });
        primary
    }

    /// Runs the CLI on a host, against that host's agent.
    ///
    /// # Panics
    /// When it does not end within 60 s.
    pub fn mainstay(&self, no: HostNo, args: &[&str]) -> Output {
        let socket = self.host(no).files.control().display().to_string();
        let args: Vec<&str> = args.iter().copied().chain(["--socket", &socket]).collect();
        self.mainstay_plain(no, &args)
    }

    /// Runs the CLI on a host with exactly these arguments.
    ///
    /// # Panics
    /// When it does not end within 60 s.
    pub fn mainstay_plain(&self, no: HostNo, args: &[&str]) -> Output {
        let output = self.host(no).net.output(&crate::lab::binary(), args, secs(60));
        output.unwrap_or_else(|e| panic!("n{no}: mainstay {args:?}: {e}"))
    }

    /// `mainstay status --json` of a host.
    pub fn status(&self, no: HostNo) -> Result<serde_json::Value, String> {
        let output = self.mainstay(no, &["status", "--json"]);
        serde_json::from_slice(&output.stdout)
            .map_err(|e| format!("{e}; stderr: {}", String::from_utf8_lossy(&output.stderr)))
    }

    fn name(&self, kind: &str) -> String {
        match self.writers.fetch_add(1, Ordering::Relaxed) {
            0 => kind.to_string(),
            k => format!("{kind}.{k}"),
        }
    }

    /// A client of the floating address.
    pub fn write_vip(&self, options: WriterOptions) -> Writer {
        Writer::start(&self.name("vip"), &self.client, self.service(), options)
    }

    /// A client of one host's own address: what Sentinel discovery hands out.
    pub fn write_direct(&self, no: HostNo, options: WriterOptions) -> Writer {
        let to = (address(no), 6379).into();
        Writer::start(&self.name(&format!("direct{no}")), &self.client, to, options)
    }

    /// A writer beside an instance, which the network cannot cut off from it.
    pub fn write_at(&self, no: HostNo) -> Writer {
        let host = self.host(no);
        Writer::start(&self.name(&format!("n{no}")), &host.net, own_instance(), WriterOptions::gentle())
    }

    /// One client of the floating address (`vip`), one writer beside each
    /// instance (`n1`, …): what a scenario usually runs under.
    pub fn load(&self) -> Load {
        let load = Load::default().with(self.write_vip(WriterOptions::default()));
        self.hosts.values().filter(|h| h.redis.is_some()).fold(load, |load, h| load.with(self.write_at(h.no)))
    }

    /// Fills the primary with so many MiB, at the replicas' pace.
    ///
    /// # Panics
    /// When the instance refuses or stops answering.
    pub fn preload(&self, primary: HostNo, mib: usize) {
        let mut client = Client::over(self.host(primary).net.connect(own_instance(), ASK).expect("connect"), secs(30))
            .expect("connect");
        let value = vec![b'.'; 4096];
        for block in 0..mib {
            let mut request = Vec::new();
            for i in 0..256 {
                let key = format!("preload:{block}:{i}");
                encode(&mut request, &[b"SET".as_slice(), key.as_bytes(), &value]);
            }
            encode(&mut request, &["WAIT", "1", if block % 16 == 0 { "10000" } else { "1" }]);
            client.send(&request).expect("preload");
            for _ in 0..256 {
                let reply = client.reply().expect("preload");
                assert!(!reply.is_error(), "preload: {}", reply.text());
            }
            client.reply().expect("preload");
        }
    }

    /// Acknowledged writes that the instance on a host does not have.
    ///
    /// # Panics
    /// When the instance does not answer.
    pub fn lost(&self, history: &History, on: HostNo) -> Vec<String> {
        let stream = self.host(on).net.connect(own_instance(), ASK).expect("connect");
        let mut client = Client::over(stream, secs(5)).expect("connect");
        history.lost(&mut client).expect("MGET")
    }

    /// Like [`Cluster::lost`], only of what `WAIT` promised.
    ///
    /// # Panics
    /// When the instance does not answer.
    pub fn lost_waited(&self, history: &History, replicas: i64, on: HostNo) -> Vec<String> {
        let stream = self.host(on).net.connect(own_instance(), ASK).expect("connect");
        let mut client = Client::over(stream, secs(5)).expect("connect");
        history.lost_waited(&mut client, replicas).expect("MGET")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // What waits for a disk that hangs cannot even be killed.
        self.hosts.values().filter_map(|host| host.disk.as_ref()).for_each(Disk::thaw);
    }
}

fn number(info: &BTreeMap<String, String>, field: &str) -> i64 {
    info.get(field).and_then(|v| v.parse().ok()).unwrap_or(-1)
}

/// Whether a host's instance follows the primary and reaches its offset soon.
fn follows(host: &Host, primary: HostNo, offset: i64) -> Result<(), String> {
    let end = Instant::now() + ASK;
    loop {
        let info = host.info().map_err(|e| format!("n{}: {e}", host.no))?;
        let field = |name: &str| info.get(name).cloned().unwrap_or_default();
        let of = (field("role"), field("master_host"), field("master_link_status"));
        if of != ("slave".into(), address(primary).to_string(), "up".into()) {
            return Err(format!("n{} does not follow n{primary}: {of:?}", host.no));
        }
        let reached = number(&info, "slave_repl_offset");
        if reached >= offset {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(format!("n{} is at {reached} of {offset}", host.no));
        }
        std::thread::sleep(ms(5));
    }
}
