//! The two systems behind one face: who is primary, strike, repair.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;

use crate::cluster::{Cluster, Host, Options};
use crate::lab::{in_lab, ms, secs, wait_for};
use crate::net::address;
use crate::sentinels::{GROUP, PORT, Trio};
use crate::session::Place;
use crate::switch::HostNo;

/// What Sentinel's clients must say.
pub const PASSWORD: &str = "sesame";

/// What befalls the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// `kill -9` of its Redis, which stays down.
    Kill,
    /// Its host loses power.
    Host,
    /// An operator's planned change.
    Switchover,
}

impl Fault {
    pub fn name(self) -> &'static str {
        match self {
            Fault::Kill => "kill -9",
            Fault::Host => "host loss",
            Fault::Switchover => "switchover",
        }
    }
}

/// Agents or Sentinels, with the hosts under them.
pub struct System {
    pub c: Cluster,
    trio: Option<Trio>,
    // The password's file must outlive the agents.
    _secrets: Option<tempfile::TempDir>,
}

impl System {
    pub fn name(&self) -> &'static str {
        if self.trio.is_some() { "Redis Sentinel" } else { "mainstay" }
    }

    pub fn is_ours(&self) -> bool {
        self.trio.is_none()
    }

    /// Three hosts with agents.
    ///
    /// # Panics
    /// When they do not become healthy.
    pub fn agents() -> Self {
        let secrets = tempfile::tempdir().expect("a directory");
        let file = secrets.path().join("sentinel.password");
        let mut out = std::fs::OpenOptions::new().write(true).create(true).mode(0o600).truncate(true).open(&file);
        out.as_mut().map(|out| writeln!(out, "{PASSWORD}")).expect("a file").expect("it is written");
        let endpoint = format!("[sentinel]\nlisten = \"0.0.0.0:{PORT}\"\npassword_file = \"{}\"\n", file.display());
        let c = Cluster::start(Options { sentinel: false, toml: endpoint, ..Options::new(3) });
        c.wait_healthy(secs(60));
        Self { c, trio: None, _secrets: Some(secrets) }
    }

    /// Three hosts with Sentinels.
    ///
    /// # Panics
    /// When they do not find each other.
    pub fn sentinels() -> Self {
        let c = Cluster::start(crate::sentinels::hosts());
        let trio = Trio::start(&c, PASSWORD);
        Self { c, trio: Some(trio), _secrets: None }
    }

    /// How clients find it.
    pub fn place(&self) -> Place {
        Place {
            net: std::sync::Arc::clone(&self.c.client),
            sentinels: self.c.hosts.keys().map(|no| (address(*no), PORT).into()).collect(),
            group: GROUP,
            password: PASSWORD.into(),
        }
    }

    /// The instance that calls itself primary and that all others follow.
    pub fn primary(&self) -> Result<HostNo, String> {
        if self.trio.is_none() {
            return self.c.primary_now();
        }
        let role = |host: &&Host| host.info().is_ok_and(|info| info.get("role").is_some_and(|role| role == "master"));
        let found: Vec<HostNo> = self.c.data_hosts().filter(role).map(|host| host.no).collect();
        match found[..] {
            [only] => Ok(only),
            _ => Err(format!("{found:?} call themselves primary")),
        }
    }

    pub fn strike(&self, fault: Fault, primary: HostNo) {
        match (fault, &self.trio) {
            (Fault::Kill, _) => self.c.host(primary).redis().hold(),
            (Fault::Host, None) => self.c.kill_host(primary),
            (Fault::Host, Some(trio)) => {
                // The wire first: nothing that dies is heard to.
                self.c.wire.detach(primary);
                trio.proc(primary).hold();
                self.c.kill_host(primary);
            }
            (Fault::Switchover, None) => {
                let out = self.c.mainstay(primary, &["switchover"]);
                assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            }
            (Fault::Switchover, Some(trio)) => {
                // A Sentinel refuses while it is not sure of its replicas.
                wait_for("failover that Sentinel takes up", secs(20), || {
                    trio.ask(self.c.host(primary), &["SENTINEL", "FAILOVER", GROUP])
                });
            }
        }
    }

    /// Undoes it, and waits until everything is as before, but for who is primary.
    pub fn repair(&self, fault: Fault, struck: HostNo) {
        match fault {
            Fault::Kill => self.c.host(struck).redis().release(),
            Fault::Host => {
                self.c.revive_host(struck);
                if let Some(trio) = &self.trio {
                    trio.proc(struck).release();
                }
            }
            Fault::Switchover => {}
        }
        self.wait_whole();
    }

    fn wait_whole(&self) {
        let Some(trio) = &self.trio else {
            self.c.wait_healthy(secs(60));
            return;
        };
        // Sentinel takes its time to turn a returned instance into a replica: the operator does it.
        let primary = wait_for("one primary", secs(60), || self.primary());
        for host in self.c.data_hosts().filter(|host| host.no != primary) {
            wait_for("instance that follows", secs(30), || {
                let info = host.info().map_err(|error| error.to_string())?;
                let field = |name: &str| info.get(name).cloned().unwrap_or_default();
                if field("master_host") == address(primary).to_string() && field("master_link_status") == "up" {
                    return Ok(());
                }
                if field("master_host") != address(primary).to_string() {
                    host.cmd(&["REPLICAOF", &address(primary).to_string(), "6379"]);
                }
                std::thread::sleep(ms(200));
                Err(format!("n{} follows {}, {}", host.no, field("master_host"), field("master_link_status")))
            });
        }
        // After a diskless full synchronisation INFO says "up" before the stream starts.
        wait_for("replicas that acknowledge", secs(30), || {
            let mut client = self.c.host(primary).client().map_err(|error| error.to_string())?;
            client.command(&["SET", "lab:probe", "1"]).map_err(|error| error.to_string())?;
            match client.command(&["WAIT", "2", "200"]).map_err(|error| error.to_string())?.text().as_str() {
                "2" => Ok(()),
                other => Err(format!("{other} of 2")),
            }
        });
        wait_for("group that all Sentinels know", secs(60), || trio.agree(&self.c));
    }
}

/// Runs a test body against a system.
pub fn with(make: impl FnOnce() -> System, body: impl FnOnce(&System)) {
    in_lab(|| body(&make()));
}
