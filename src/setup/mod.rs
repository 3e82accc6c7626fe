//! `mainstay init`: the files that make a host a node, and the way back.
//!
//! [`plan`] turns what the operator wants into files; [`files`] writes them, or takes them back. The files are the
//! config, the cluster's key, the instance's settings in a file that its own config is overruled by, and the drop-in
//! that has its unit start it sealed (S6) and hand over before it stops. Nothing that an operator has edited is
//! overwritten or removed without `--force`, and nothing is started, stopped or restarted without `--now`. All files lie below a
//! root, which is `/` except in tests and images.

mod args;
mod ask;
mod config_text;
mod files;
mod instance;
mod plan;
mod run;

#[cfg(test)]
mod tests;

pub use args::InitArgs;
pub use files::{Done, remove, write};
pub use plan::{Plan, plan};
pub use run::run;

use std::path::PathBuf;

/// Where the config lies, below the root.
pub const CONFIG: &str = "/etc/mainstay/mainstay.toml";
/// Where the cluster's key lies.
pub const KEY: &str = "/etc/mainstay/cluster.key";
/// Where the agent reads the instance's password.
pub const PASSWORD: &str = "/etc/mainstay/redis.password";
/// What was written, with checksums: tells an edited file from one that is still as written.
pub const MANIFEST: &str = "/etc/mainstay/.written-by-init";
/// The group that may read what the agent reads.
pub const GROUP: &str = "mainstay";

/// Why nothing, or not all, was done.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// An answer is missing or contradicts another.
    #[error("{what}")]
    Wanted {
        /// In words.
        what: String,
        /// What to give.
        remedy: String,
    },
    /// What it comes to is no valid config.
    #[error("what was asked for is no valid config:\n{faults}")]
    Config {
        /// The reader's own words.
        faults: String,
    },
    /// A file that somebody edited, or that was there before.
    #[error("{}: {what}", .path.display())]
    Edited {
        /// The file.
        path: PathBuf,
        /// Which of the two.
        what: &'static str,
    },
    /// The system refused.
    #[error("{}: {what}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was being done.
        what: &'static str,
        /// The system's words.
        source: std::io::Error,
    },
}

impl SetupError {
    pub(super) fn wanted(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Wanted { what: what.into(), remedy: remedy.into() }
    }

    /// What to do; empty where the error says it all.
    pub fn remedy(&self) -> String {
        match self {
            Self::Wanted { remedy, .. } => remedy.clone(),
            Self::Config { .. } => "give other values, or edit the config by hand".to_owned(),
            Self::Edited { .. } => {
                "compare it with what would be written (--dry-run), then move it away or give --force; a copy is kept"
                    .to_owned()
            }
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                "run it as root".to_owned()
            }
            Self::Io { .. } => String::new(),
        }
    }
}
