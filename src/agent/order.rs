//! An order that outlives the agent: go on alone, or drop the membership and join anew.
//!
//! It lies in the data directory, replaced in one rename, and is carried out at the next start, before the store is
//! opened; each step may be done twice. What this node promised binds it on (S2): whoever joins anew keeps the longest
//! lease it ever promised, and nothing is rejoined before this host serves nothing.

use super::{emergency, stamp};
use crate::cluster::Local;
use crate::config::Config;
use crate::store::{Store, found_generation, set_aside};
use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

const FILE: &str = "order.json";
/// Kept by a node whose record cannot be read any more: no lease is longer.
const LONGEST_LEASE: Duration = Duration::from_secs(60);

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Go on alone, as this generation.
    Found {
        /// The generation.
        generation: u64,
    },
    /// Join anew.
    Join {
        /// A running member, `host:port`.
        address: String,
        /// How far it has come.
        stage: Stage,
    },
}

/// How far an order to join anew has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Nothing is done yet.
    Asked,
    /// This host serves nothing; the old store goes, and this is kept of it.
    Leaving(Local),
    /// A new store stands; asking to be taken in.
    Joining,
}

fn path(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

/// The order that stands, if any.
///
/// # Errors
/// The file cannot be read, or is none.
pub fn read(dir: &Path) -> anyhow::Result<Option<Order>> {
    let text = match fs::read(path(dir)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("{} cannot be read", path(dir).display())),
    };
    let order = serde_json::from_slice(&text);
    order.map(Some).with_context(|| format!("{} is no order; remove it", path(dir).display()))
}

/// Gives an order, durably. Root gives it in a directory that is the agent's own: whatever bears the file's name there is
/// not written through, and the file becomes the agent's.
///
/// # Errors
/// The file cannot be written.
pub fn give(dir: &Path, order: &Order) -> anyhow::Result<()> {
    let fresh = path(dir).with_extension("new");
    let write = || -> io::Result<()> {
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        let owner = fs::metadata(dir)?;
        if owner.uid() != file.metadata()?.uid() {
            fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
        }
        file.write_all(&serde_json::to_vec_pretty(order)?)?;
        file.sync_all()?;
        fs::rename(&fresh, path(dir))?;
        File::open(dir)?.sync_all()
    };
    write().with_context(|| format!("{} cannot be written", path(dir).display()))
}

/// It is carried out.
///
/// # Errors
/// The file cannot be removed.
pub fn done(dir: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path(dir)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{} cannot be removed", path(dir).display()))
        }
        _ => Ok(()),
    }
}

/// Carries out what can be done before the store is opened. The address to join, if that is what is left.
///
/// # Errors
/// A step failed; it is tried again at the next start.
pub async fn carry_out(config: &Config) -> anyhow::Result<Option<String>> {
    let dir = &config.node.data_dir;
    let (cluster, node) = (&config.cluster.name, &config.node.name);
    let (address, stage) = match read(dir)? {
        None => return Ok(None),
        Some(Order::Found { generation }) => {
            found_generation(dir, cluster, node, generation)?;
            done(dir)?;
            return Ok(None);
        }
        Some(Order::Join { address, stage }) => (address, stage),
    };
    let order = |stage: Stage| Order::Join { address: address.clone(), stage };
    let kept = match stage {
        Stage::Joining => return Ok(Some(address)),
        Stage::Leaving(kept) => kept,
        Stage::Asked => {
            let kept = kept_of(dir, cluster, node).await;
            for fenced in emergency::fence(config, emergency::Which::All, &config.control_socket).await {
                fenced.failed.iter().for_each(|trouble| tracing::warn!(group = %fenced.group, "{}", trouble.text));
            }
            // Its epochs were counted by another generation.
            let _ = fs::remove_file(stamp::path_beside(&config.control_socket));
            give(dir, &order(Stage::Leaving(kept.clone())))?;
            kept
        }
    };
    set_aside(dir, &super::clock::unix_ms().to_string())?;
    let store = Store::open(dir, cluster, node)?;
    let saved = store.save_local(&kept).await;
    store.close().await;
    saved?;
    give(dir, &order(Stage::Joining))?;
    Ok(Some(address))
}

/// The longest lease it promised, and for which groups its instance held the group's data.
async fn kept_of(dir: &Path, cluster: &str, node: &str) -> Local {
    let local = match Store::open(dir, cluster, node) {
        Ok(store) => {
            let local = store.local();
            store.close().await;
            local
        }
        Err(error) => {
            tracing::warn!(%error, "the former store cannot be read; this node stays silent for the longest lease there is");
            return Local { longest_lease: LONGEST_LEASE, ..Local::default() };
        }
    };
    local.kept_to_join()
}
