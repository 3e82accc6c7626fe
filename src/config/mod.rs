//! The config file: TOML in, a validated [`Config`] out, every fault named with its line.
//!
//! `load` and `parse` are the only ways to a `Config`; what they return needs no further doubt about form, only
//! about the world (does the interface exist, does the key file hold a key). One run names all faults: unknown
//! keys, wrong types, bad values and values that contradict each other. It must never guess, never ignore a key,
//! and never print a secret. Upholds the config's part of S5 (a quorum needs three members) and asserts the timing
//! fractions that S1, S3, S8 and S9 rest on.

mod address;
mod assemble;
mod check;
mod check_group;
mod check_listen;
mod duration;
mod findings;
mod import;
mod read;
mod reader;
mod reference;
mod syntax;
mod timing;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use crate::cluster::{Durability, GroupName};
use crate::decide::{GroupPolicy, Policy};

pub use address::{AddressError, Host, HostPort, MAX_SOCKET_PATH, RedisAddress, Vip};
pub use duration::{DurationError, LONGEST, format_duration, parse_duration};
pub use findings::{Fault, FaultKind, Faults, Warning};
pub use import::{ImportError, Imported, Note, Problem, import_sentinel, import_sentinel_file};
pub use reference::{Key, Kind, Presence, REFERENCE, reference_markdown};
pub use timing::{
    BrokenRelation, DEFAULT_HANG_AFTER, DEFAULT_LEASE, Fractions, LEASE_RANGE_MS, MAX_HANG_AFTER_MS, Timing,
};

use findings::{Finding, Findings};

/// Where the agent looks for its config when no `--config` is given.
pub const DEFAULT_PATH: &str = "/etc/mainstay/mainstay.toml";
/// Files above this many bytes are refused unread.
pub const MAX_FILE: u64 = 256 * 1024;

/// A validated config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// This node.
    pub node: NodeConfig,
    /// The cluster it belongs to.
    pub cluster: ClusterConfig,
    /// The one timing knob and the patience with a silent instance.
    pub timing: Timing,
    /// The groups whose instances run here; none on a witness.
    pub groups: Vec<GroupConfig>,
    /// The Sentinel endpoint, if wanted.
    pub sentinel: Option<SentinelConfig>,
    /// Where metrics, health and the status page are served, if anywhere.
    pub http: Option<SocketAddr>,
    /// The operator's socket; at most [`MAX_SOCKET_PATH`] bytes.
    pub control_socket: PathBuf,
    /// The command run with each event, if any.
    pub notify_command: Option<PathBuf>,
}

/// `[node]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// Unique in the cluster.
    pub name: String,
    /// Where peers reach this agent.
    pub address: HostPort,
    /// What the agent binds, if not `address`.
    pub bind: Option<SocketAddr>,
    /// Where state is kept; absolute.
    pub data_dir: PathBuf,
}

/// `[cluster]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    /// The cluster's name.
    pub name: String,
    /// The file with the cluster's key; absolute.
    pub key_file: PathBuf,
    /// What a node without state does.
    pub start: Start,
}

/// What a node does at its very first start; ignored once it has state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// Forms a new cluster of these nodes, this one among them.
    Members(BTreeMap<String, HostPort>),
    /// Asks these agents of a running cluster to be taken in; never empty.
    Join(Vec<HostPort>),
}

/// `[[group]]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupConfig {
    /// What Sentinel clients ask for.
    pub name: String,
    /// How the agent reaches its instance.
    pub redis: RedisAddress,
    /// Where everybody else reaches it; never the VIP.
    pub announce: HostPort,
    /// The agent's ACL user; only with a password file.
    pub username: Option<String>,
    /// The file with the password; absolute.
    pub password_file: Option<PathBuf>,
    /// TLS to the instance.
    pub tls: Option<RedisTls>,
    /// The systemd unit of the instance.
    pub unit: Option<String>,
    /// The floating address and the interface that carries it.
    pub vip: Option<VipConfig>,
    /// 0 to 1000; 0 is never promoted.
    pub priority: u16,
    /// What a promotion waits for (S5).
    pub durability: Durability,
    /// Whether diverged data is saved before it is resynchronised (S11).
    pub quarantine: bool,
}

impl GroupConfig {
    /// The TCP port on this host that clients of the instance use, also when the agent itself comes by a unix socket.
    pub fn client_port(&self) -> u16 {
        match &self.redis {
            RedisAddress::Tcp(address) => address.port,
            RedisAddress::Unix(_) => self.announce.port,
        }
    }
}

/// `redis_tls`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisTls {
    /// The authority that signed the instances' certificates.
    pub ca: PathBuf,
    /// The agent's own certificate, with `key`.
    pub cert: Option<PathBuf>,
    /// The key of `cert`.
    pub key: Option<PathBuf>,
}

/// A floating address on its interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VipConfig {
    /// The address with the prefix length of its subnet.
    pub vip: Vip,
    /// Name of the interface, at most 15 bytes.
    pub interface: String,
}

/// `[sentinel]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentinelConfig {
    /// Where Sentinel clients connect.
    pub listen: SocketAddr,
    /// The user they log in as; else the default user.
    pub username: Option<String>,
    /// The file with the password they must give.
    pub password_file: Option<PathBuf>,
}

/// Why there is no config.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there.
    #[error("{}: there is no such file; `mainstay init` writes one, --config names another", .path.display())]
    Missing {
        /// As given.
        path: PathBuf,
    },
    /// The path names a directory.
    #[error("{}: is a directory; name the file in it, such as {}", .path.display(), .path.join("mainstay.toml").display())]
    Directory {
        /// As given.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error("{}: cannot be read: {source}", .path.display())]
    Unreadable {
        /// As given.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Far beyond any config.
    #[error("{}: is larger than 256 KiB; this is no config file", .path.display())]
    TooLarge {
        /// As given.
        path: PathBuf,
    },
    /// Bytes that are no text.
    #[error("{}:{line}:{column}: error: this byte is not UTF-8; save the file as UTF-8 without a byte-order mark", .path.display())]
    NotUtf8 {
        /// As given.
        path: PathBuf,
        /// 1-based.
        line: usize,
        /// 1-based, in bytes.
        column: usize,
    },
    /// It was read, and is wrong.
    #[error(transparent)]
    Faults(#[from] Faults),
}

impl ConfigError {
    /// The sysexits code: EX_NOINPUT (66) where nothing could be read, EX_NOPERM (77) where it may not be, else
    /// EX_CONFIG (78).
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            ConfigError::Unreadable { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => 77,
            ConfigError::Missing { .. } | ConfigError::Directory { .. } | ConfigError::Unreadable { .. } => 66,
            ConfigError::TooLarge { .. } | ConfigError::NotUtf8 { .. } | ConfigError::Faults(_) => 78,
        }
    }
}

/// `--join` with this node's own address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("--join {0} is this node's own address; give that of an agent that is already in the cluster")]
pub struct JoinsItself(pub HostPort);

impl Config {
    /// What the core needs to know of this file.
    #[must_use]
    pub fn policy(&self) -> Policy {
        let group = |group: &GroupConfig| {
            let policy = GroupPolicy {
                announce: group.announce.to_string(),
                priority: u32::from(group.priority),
                durability: group.durability,
                vip: group.vip.is_some(),
            };
            (GroupName(group.name.clone()), policy)
        };
        Policy {
            address: self.node.address.to_string(),
            lease: self.timing.lease,
            hang_after: self.timing.hang_after,
            groups: self.groups.iter().map(group).collect(),
        }
    }

    /// Replaces `members` and `join` by the one address from the command line. For a file that may have neither,
    /// see [`load_with`].
    ///
    /// # Errors
    /// If it is this node's own address.
    pub fn override_join(&mut self, target: HostPort) -> Result<(), JoinsItself> {
        if target == self.node.address {
            return Err(JoinsItself(target));
        }
        self.cluster.start = Start::Join(vec![target]);
        Ok(())
    }
}

/// What the command line puts over the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--join HOST:PORT`: replaces `members` and `join`, and allows for neither.
    pub join: Option<HostPort>,
}

/// Reads and validates a config file.
///
/// # Errors
/// If the file cannot be read or anything in it is wrong; `Display` is what the operator should see.
pub fn load(path: &Path) -> Result<(Config, Vec<Warning>), ConfigError> {
    load_with(path, &Overrides::default())
}

/// [`load`], with what the command line puts over the file.
///
/// # Errors
/// As [`load`].
pub fn load_with(path: &Path, overrides: &Overrides) -> Result<(Config, Vec<Warning>), ConfigError> {
    let text = read_text(path)?;
    Ok(parse_with(&text, &path.display().to_string(), overrides)?)
}

fn read_text(path: &Path) -> Result<String, ConfigError> {
    let owned = || path.to_owned();
    let unreadable = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::NotFound => ConfigError::Missing { path: owned() },
        std::io::ErrorKind::IsADirectory => ConfigError::Directory { path: owned() },
        _ => ConfigError::Unreadable { path: owned(), source },
    };
    // A FIFO without a writer would block for ever in open, so look first.
    let kind = std::fs::metadata(path).map_err(unreadable)?;
    if kind.is_dir() {
        return Err(ConfigError::Directory { path: owned() });
    }
    if !kind.is_file() {
        let source = std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a regular file");
        return Err(ConfigError::Unreadable { path: owned(), source });
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(ConfigError::TooLarge { path: owned() });
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let before = &error.as_bytes()[..good];
        let line_start = before.iter().rposition(|b| *b == b'\n').map_or(0, |nl| nl + 1);
        ConfigError::NotUtf8 {
            path: owned(),
            line: before.iter().filter(|b| **b == b'\n').count() + 1,
            column: good - line_start + 1,
        }
    })
}

/// Validates the text of a config; `path` is only shown.
///
/// # Errors
/// All that is wrong with it.
pub fn parse(text: &str, path: &str) -> Result<(Config, Vec<Warning>), Faults> {
    parse_with(text, path, &Overrides::default())
}

/// [`parse`], with what the command line puts over the file.
///
/// # Errors
/// All that is wrong with it.
pub fn parse_with(text: &str, path: &str, overrides: &Overrides) -> Result<(Config, Vec<Warning>), Faults> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut out = Findings::default();
    let (document, errors) = DeTable::parse_recoverable(text);
    let mut config = None;
    if !errors.is_empty() {
        syntax::check(text, &errors, &mut out);
    } else if document.get_ref().is_empty() {
        let finding = Finding::new(FaultKind::MissingKey, None, "the file holds no settings");
        out.fault(finding.help("`mainstay init` writes a config; [node] and [cluster] are the least it needs"));
    } else {
        let draft = read::read(document.get_ref(), &mut out);
        check::check(&draft, overrides.join.as_ref(), &mut out);
        if !out.has_faults() {
            config = assemble::assemble(draft, overrides);
        }
    }
    match (out.finish(path, text), config) {
        ((None, warnings), Some(config)) => Ok((config, warnings)),
        ((Some(faults), _), _) => Err(faults),
        // A value was dropped without a fault: a defect here, but no reason to start on half a config.
        ((None, _), None) => Err(Faults::incomplete(path)),
    }
}

/// What this config asks for that is validated but not built yet, as the operator wrote it; the agent names it in
/// one warning at start. Empty when there is nothing.
#[must_use]
pub fn unbuilt(config: &Config) -> Vec<String> {
    config.http.iter().map(|_| "[http]".to_owned()).collect()
}
