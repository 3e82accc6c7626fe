//! Three machines as one cluster: installed, set up, started, and asked from outside.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::deb::Built;
use crate::history::History;
use crate::hub::{self, address, service};
use crate::image::{self, Image, Release};
use crate::lab::{ms, secs, store, wait_for};
use crate::machine::{Machine, REPOSITORY};
use crate::net::HostNet;
use crate::resp::{Client, Reply};
use crate::writer::{Load, Writer, WriterOptions};

/// How long one question may take.
const ASK: Duration = ms(500);

/// The machines, and what is known of them.
pub struct Trio {
    // Dropped in this order: the machines before their wire.
    pub machines: BTreeMap<u8, Machine>,
    pub hub: Arc<HostNet>,
    pub release: &'static Release,
    pub password: Option<String>,
    /// The folder that every machine sees as its repository.
    pub repository: PathBuf,
    pub image: Image,
}

impl Trio {
    /// Three machines that were never on.
    ///
    /// # Panics
    /// When the machine refuses.
    pub fn new(release: &'static Release, built: &Built) -> Self {
        crate::machine::clear_remains();
        let image = image::of(release);
        let repository = store().join(format!("repository-{}", release.codename));
        image::repository(&image, &[&built.deb], &repository);
        let hub = hub::make().expect("a bridge in a namespace");
        let machine = |no| (no, Machine::new(no, &image.root, &repository, &hub).expect("a disk"));
        let machines = (1..=3).map(machine).collect();
        Self { machines, hub, release, password: None, repository, image }
    }

    /// # Panics
    /// When there is no such machine.
    pub fn of(&self, no: u8) -> &Machine {
        self.machines.get(&no).unwrap_or_else(|| panic!("no machine {no}"))
    }

    /// # Panics
    /// When there is no such machine.
    pub fn of_mut(&mut self, no: u8) -> &mut Machine {
        self.machines.get_mut(&no).unwrap_or_else(|| panic!("no machine {no}"))
    }

    /// Switches on whatever is off, and waits for the boots; how long that took.
    pub fn all_on(&mut self) -> Duration {
        let begun = Instant::now();
        self.machines.values_mut().filter(|machine| !machine.is_on()).for_each(Machine::on);
        self.machines.values().for_each(Machine::booted);
        begun.elapsed()
    }

    /// Runs a line on every machine at the same time.
    ///
    /// # Panics
    /// When it fails on one.
    pub fn everywhere(&self, line: &str) {
        std::thread::scope(|scope| {
            for machine in self.machines.values() {
                scope.spawn(move || machine.sh(line));
            }
        });
    }

    /// A connection from the client's place, logged in.
    pub fn client(&self, to: std::net::SocketAddr) -> std::io::Result<Client> {
        let mut client = hub::connect(&self.hub, to, ASK)?;
        if let Some(password) = &self.password {
            match client.command(&["AUTH", password])? {
                Reply::Error(refusal) => return Err(std::io::Error::other(refusal)),
                _ => return Ok(client),
            }
        }
        Ok(client)
    }

    fn info(&self, to: std::net::SocketAddr) -> Result<BTreeMap<String, String>, String> {
        let asked = self.client(to).and_then(|mut client| client.info(&["server", "replication"]));
        asked.map_err(|error| format!("{to}: {error}"))
    }

    /// Who answers clients of the floating address as primary at this moment.
    pub fn primary_now(&self) -> Result<u8, String> {
        let info = self.info(service())?;
        let field = |name: &str| info.get(name).cloned().unwrap_or_default();
        if field("role") != "master" {
            return Err(format!("a {} holds the floating address", field("role")));
        }
        let run_id = field("run_id");
        let mut on = self.machines.values().filter(|machine| machine.is_on());
        let found = on.find(|machine| {
            self.info((address(machine.no), 6379).into()).is_ok_and(|info| info.get("run_id") == Some(&run_id))
        });
        found.map(|machine| machine.no).ok_or_else(|| format!("nobody has run_id {run_id}"))
    }

    /// # Panics
    /// When no primary but `old` answers within `bound`.
    pub fn wait_new_primary(&self, old: u8, bound: Duration) -> u8 {
        wait_for("new primary", bound, || match self.primary_now()? {
            now if now == old => Err(format!("still n{old}")),
            now => Ok(now),
        })
    }

    /// The primary, once the agents call every group healthy with so many instances at work.
    ///
    /// # Panics
    /// When that is not so within `bound`.
    pub fn wait_healthy(&self, bound: Duration) -> u8 {
        wait_for("healthy cluster", bound, || {
            let primary = self.primary_now()?;
            let status = self.status(primary)?;
            match status["health"].as_str() {
                Some("healthy") => Ok(primary),
                other => Err(format!("{other:?}: {}", status["groups"])),
            }
        })
    }

    /// `mainstay status --json` of a machine.
    pub fn status(&self, no: u8) -> Result<serde_json::Value, String> {
        let output = self.of(no).sh_output("mainstay status --json", secs(5)).map_err(|error| error.to_string())?;
        serde_json::from_slice(&output.stdout)
            .map_err(|error| format!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
    }

    /// Which machines have the floating address.
    pub fn vip_holders(&self) -> Vec<u8> {
        let holds =
            |machine: &&Machine| machine.is_on() && machine.holds(&format!("ip -o -4 addr | grep -qw {}", hub::VIP));
        self.machines.values().filter(holds).map(|machine| machine.no).collect()
    }

    /// Clients that write: one plainly and one with `WAIT 1` to the floating address, and one gently to each machine's
    /// own address.
    pub fn load(&self, name: &str) -> Load {
        let with = |options: WriterOptions| WriterOptions { password: self.password.clone(), ..options };
        let mut load = Load::default()
            .with(Writer::start(&format!("{name}-vip"), &self.hub, service(), with(WriterOptions::default())))
            .with(Writer::start(&format!("{name}-wait"), &self.hub, service(), with(WriterOptions::waiting(1))));
        for no in self.machines.keys() {
            let to = (address(*no), 6379).into();
            load = load.with(Writer::start(&format!("{name}-n{no}"), &self.hub, to, with(WriterOptions::gentle())));
        }
        load
    }

    /// Acknowledged writes that the primary does not have: all, and those of `WAIT 1`.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn lost(&self, history: &History) -> (Vec<String>, Vec<String>) {
        let mut client = wait_for("primary to ask", secs(10), || self.client(service()));
        let all = history.lost(&mut client).expect("MGET");
        (all, history.lost_waited(&mut client, 1).expect("MGET"))
    }

    /// Puts a package beside the others, so that apt finds it.
    pub fn publish(&self, deb: &Path) {
        image::repository(&self.image, &[deb], &self.repository);
    }
}

/// How apt on a machine is told of the repository; nothing else is a source there.
pub const SOURCE: &str = "rm -f /etc/apt/sources.list /etc/apt/sources.list.d/*; \
     echo \"deb [signed-by=/srv/mainstay/key.gpg] file:/srv/mainstay ./\" >/etc/apt/sources.list.d/mainstay.list; apt-get -q update";

const _: () = assert!(!REPOSITORY.is_empty());
