//! Watches and commands one Redis or Valkey instance.
//!
//! [`Watcher`] polls INFO on a connection of its own and says within milliseconds that the instance crashed;
//! [`Commander`] moves it between postures (sealed, following, serving) and fences it. [`ProcRef`] names its
//! process so that a hung one can be told from a busy one and killed.
//!
//! This module does what it is told and reports what it saw. It must never decide: whether silence is a hang,
//! whether to fence, seal, promote or kill is the core's word. It never runs `CONFIG REWRITE`, so nothing it
//! sets outlives the process (S6).
//!
//! Upholds S6 (run id checked before promotion), S7 (crash, loading, busy and silence told apart), S9 (the fence
//! and its order) and the Redis part of S10. TLS belongs into `conn::dial`, where the stream is made: the
//! protocol above it takes any stream, and [`Endpoint`] is built by functions so that it can grow a field.

mod conn;
mod disk;
mod dump;
mod error;
mod fence;
mod info;
mod login;
mod outbox;
mod posture;
mod process;
mod rdb;
mod settings;
mod watcher;

pub use disk::DataFiles;
pub use dump::Dumped;
pub use error::{Error, GoneKind};
pub use fence::{FenceBudgets, FenceOutcome, FenceReport};
pub use info::{Flavor, Info, InfoError, LoadingProgress, ReplicaRow, ReplicaState, Role};
pub use login::{Credentials, Login, Secret};
pub use outbox::{InstanceEvent, Silence};
pub use posture::{Commander, ScriptKill, SealReport};
pub use process::{KillError, MainPid, ProcRef};
pub use rdb::{Damaged, Piece, RdbFile};
pub use settings::{Announce, Settings, SettingsReport};
pub use watcher::{Poke, Timing, Watcher};

use std::fmt;
use std::path::PathBuf;

/// The address a sealed instance replicates from: nobody listens there, so it stays detached, read-only and keeps
/// its PSYNC history.
pub const NOWHERE: (&str, u16) = ("127.0.0.1", 1);

/// Where an instance listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// A TCP address; `host` is an IP address or a name.
    Tcp {
        /// IP address or host name.
        host: String,
        /// TCP port.
        port: u16,
    },
    /// The path of a unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Where an instance is and how to log in.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Endpoint {
    /// Where it listens.
    pub target: Target,
    /// How to log in.
    pub login: Login,
}

impl Endpoint {
    /// An endpoint on TCP without credentials.
    pub fn tcp(host: impl Into<String>, port: u16) -> Self {
        Self::new(Target::Tcp { host: host.into(), port })
    }

    /// An endpoint on a unix socket without credentials.
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self::new(Target::Unix(path.into()))
    }

    /// An endpoint without credentials.
    pub fn new(target: Target) -> Self {
        Self { target, login: Login::default() }
    }

    /// Elsewhere, by the same login.
    #[must_use]
    pub fn at(&self, target: Target) -> Self {
        Self { target, login: self.login.clone() }
    }

    /// The same endpoint with credentials.
    #[must_use]
    pub fn with_credentials(mut self, username: Option<String>, password: Option<Secret>) -> Self {
        self.login = Login::new(Credentials { username, password });
        self
    }
}
