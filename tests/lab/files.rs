//! What a host finds on its disk: its directories, `redis.conf`, the cluster
//! key and `mainstay.toml`.
//!
//! Layout below the lab's directory: `n<k>/redis` and `n<k>/agent` survive a
//! reboot, `n<k>/run` does not; logs are `n<k>/redis.log`, `n<k>/agent.log`.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine as _;

use crate::cluster::{Options, SECOND};
use crate::net::{VIP, VIP2, VIP6, address};
use crate::switch::HostNo;

/// The paths of one host.
#[derive(Debug, Clone)]
pub struct Files {
    pub root: PathBuf,
}

/// Where the hosts' run directories of a lab are: this, with an ending for each host.
pub fn memory(lab: &Path) -> PathBuf {
    Path::new("/dev/shm").join(lab.file_name().unwrap_or_default())
}

/// Removes the hosts' run directories of a lab that is over.
pub fn forget(lab: &Path) {
    for host in 0..=u8::MAX {
        let _ = std::fs::remove_dir_all(memory(lab).with_extension(format!("n{host}")));
    }
}

/// The directory itself may be a mount point.
fn empty(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

impl Files {
    pub fn create(lab: &Path, host: HostNo) -> io::Result<Self> {
        let files = Self { root: lab.join(format!("n{host}")) };
        for dir in [files.redis(), files.agent()] {
            std::fs::create_dir_all(dir)?;
        }
        // As /run: in memory, so that what the agent writes there is no write to disk.
        let run = memory(lab).with_extension(format!("n{host}"));
        std::fs::create_dir_all(&run)?;
        std::os::unix::fs::symlink(run, files.run())?;
        Ok(files)
    }

    pub fn redis(&self) -> PathBuf {
        self.root.join("redis")
    }

    pub fn agent(&self) -> PathBuf {
        self.root.join("agent")
    }

    pub fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    pub fn control(&self) -> PathBuf {
        self.run().join("mainstay.sock")
    }

    /// What the host's wall clock is set to, where it can be set.
    pub fn clock(&self) -> PathBuf {
        self.root.join("clock")
    }

    pub fn agent_log(&self) -> PathBuf {
        self.root.join("agent.log")
    }

    pub fn redis_log(&self) -> PathBuf {
        self.root.join("redis.log")
    }

    pub fn config(&self) -> PathBuf {
        self.root.join("mainstay.toml")
    }

    pub fn redis_conf(&self) -> PathBuf {
        self.root.join("redis.conf")
    }

    /// Everything of the host belongs to that user.
    pub fn give_to(&self, user: u32) -> io::Result<()> {
        let mut all = vec![self.root.clone(), std::fs::read_link(self.run())?];
        while let Some(path) = all.pop() {
            std::os::unix::fs::lchown(&path, Some(user), Some(user))?;
            if path.is_dir() && !path.is_symlink() {
                all.extend(std::fs::read_dir(&path)?.flatten().map(|entry| entry.path()));
            }
        }
        Ok(())
    }

    /// What a reboot does to /run.
    pub fn clear_run(&self) -> io::Result<()> {
        let run = std::fs::read_link(self.run())?;
        std::fs::remove_dir_all(&run)?;
        std::fs::create_dir_all(&run)
    }

    /// A new disk.
    pub fn wipe(&self) -> io::Result<()> {
        empty(&self.redis())?;
        empty(&self.agent())
    }

    /// A new disk for the agent alone.
    pub fn wipe_agent(&self) -> io::Result<()> {
        empty(&self.agent())
    }

    pub fn write_redis_conf(&self, options: &Options) -> io::Result<()> {
        let mut conf = format!(
            "port 6379\nbind * -::*\nprotected-mode no\ndaemonize no\n\
             dir {}\nunixsocket {}\nrepl-diskless-sync-delay 0\nenable-debug-command local\n",
            self.redis().display(),
            self.run().join("redis.sock").display(),
        );
        if !options.redis_conf.iter().any(|line| line.starts_with("save ")) {
            conf.push_str("save \"\"\n");
        }
        for line in &options.redis_conf {
            let _ = writeln!(conf, "{line}");
        }
        std::fs::write(self.redis_conf(), conf)
    }

    pub fn write_key(&self, key: &[u8; 32]) -> io::Result<PathBuf> {
        let path = self.root.join("cluster.key");
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        writeln!(file, "{}", base64::engine::general_purpose::STANDARD.encode(key))?;
        Ok(path)
    }

    /// The agent's config. `members` are those of the very first start; a host
    /// not among them joins through any of them.
    pub fn write_config(
        &self,
        host: HostNo,
        witness: bool,
        members: &[HostNo],
        key_file: &Path,
        options: &Options,
    ) -> io::Result<()> {
        let peer = |no: &HostNo| format!("n{no} = \"{}:7400\"", address(*no));
        let cluster = if members.contains(&host) {
            let list: Vec<String> = members.iter().map(peer).collect();
            format!("members = {{ {} }}", list.join(", "))
        } else {
            let list: Vec<String> = members.iter().map(|no| format!("\"{}:7400\"", address(*no))).collect();
            format!("join = [{}]", list.join(", "))
        };
        let own = options.leases.iter().find(|(no, _)| *no == host).map(|(_, lease)| *lease);
        let mut toml = format!(
            "[node]\nname = \"n{host}\"\naddress = \"{}:7400\"\ndata_dir = \"{}\"\n\n\
             [cluster]\nname = \"lab\"\nkey_file = \"{}\"\n{cluster}\n\n\
             [timing]\nlease_ms = {}\nhang_after_ms = {}\n\n",
            address(host),
            self.agent().display(),
            key_file.display(),
            own.unwrap_or(options.lease).as_millis(),
            options.hang_after.as_millis(),
        );
        if !witness {
            toml.push_str(&group(host, options));
            toml.push_str(&second_group(host, options));
        }
        if options.sentinel {
            toml.push_str("[sentinel]\nlisten = \"0.0.0.0:26379\"\n\n");
        }
        if options.http {
            toml.push_str("[http]\nlisten = \"127.0.0.1:7480\"\n\n");
        }
        let _ = writeln!(toml, "[control]\nsocket = \"{}\"\n", self.control().display());
        toml.push_str(&options.toml);
        std::fs::write(self.config(), toml)
    }
}

fn group(host: HostNo, options: &Options) -> String {
    let vip = match (options.vip, options.vip6) {
        (true, true) => format!("vip = \"{VIP6}/64\"\ninterface = \"eth0\"\n"),
        (true, false) => format!("vip = \"{VIP}/24\"\ninterface = \"eth0\"\n"),
        (false, _) => String::new(),
    };
    let priority = options.priorities.iter().find(|(no, _)| *no == host);
    let priority = priority.map_or(String::new(), |(_, p)| format!("priority = {p}\n"));
    format!(
        "[[group]]\nname = \"mymaster\"\nredis = \"127.0.0.1:6379\"\nannounce = \"{}:6379\"\n\
         durability = \"{}\"\nquarantine = {}\n{vip}{priority}{}\n",
        address(host),
        options.durability,
        options.quarantine,
        options.group_toml,
    )
}

fn second_group(host: HostNo, options: &Options) -> String {
    if !options.second_group {
        return String::new();
    }
    let (name, port) = SECOND;
    format!(
        "[[group]]\nname = \"{name}\"\nredis = \"127.0.0.1:{port}\"\nannounce = \"{}:{port}\"\n\
         durability = \"{}\"\nvip = \"{VIP2}/24\"\ninterface = \"eth0\"\n\n",
        address(host),
        options.durability,
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn config(host: HostNo, witness: bool, options: &Options) -> toml::Table {
        let dir = tempfile::tempdir().expect("a directory");
        let files = Files::create(dir.path(), host).expect("directories");
        let key = files.write_key(&[7; 32]).expect("a key");
        assert_eq!(std::fs::metadata(&key).expect("a key").permissions().mode() & 0o777, 0o600);
        files.write_config(host, witness, &[1, 2], &key, options).expect("a config");
        let text = std::fs::read_to_string(files.config()).expect("a config");
        forget(dir.path());
        text.parse().unwrap_or_else(|e| panic!("{e}\n{text}"))
    }

    #[test]
    fn configs_say_what_was_asked() {
        let mut options = Options::new(2);
        options.priorities = vec![(1, 0)];
        options.group_toml = "redis_unit = \"redis.service\"".into();
        options.toml = "[notify]\ncommand = \"/bin/true\"\n".into();
        let first = config(1, false, &options);
        assert_eq!(first["group"][0]["vip"].as_str(), Some("10.77.0.100/24"));
        assert_eq!(first["group"][0]["priority"].as_integer(), Some(0));
        assert_eq!(first["group"][0]["redis_unit"].as_str(), Some("redis.service"));
        assert_eq!(first["cluster"]["members"]["n2"].as_str(), Some("10.77.0.2:7400"));
        assert_eq!(first["timing"]["lease_ms"].as_integer(), Some(800));
        assert_eq!(first["notify"]["command"].as_str(), Some("/bin/true"));
    }

    #[test]
    fn witnesses_have_no_group_and_latecomers_join() {
        let late = config(3, true, &Options::new(2));
        assert!(!late.contains_key("group"));
        assert!(!late["cluster"].as_table().expect("a table").contains_key("members"));
        assert_eq!(late["cluster"]["join"][0].as_str(), Some("10.77.0.1:7400"));
    }
}
