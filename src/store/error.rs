//! What can be wrong with a store. Every message names the file and the remedy.

use super::codec::Flaw;
use std::io;
use std::path::PathBuf;

/// Why a store cannot be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory or a file in it cannot be used.
    #[error("{path}: cannot {what}: {source}; {remedy}", path = path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// Anybody may write there.
    #[error("{path} may be written by every user (mode {mode:04o}); run: chmod o-w {path}", path = path.display())]
    WorldWritable {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Another process has it open.
    #[error("{path} is in use by another mainstay process; stop that one first, or give this node a data_dir of its own", path = path.display())]
    Busy {
        /// The directory.
        path: PathBuf,
    },
    /// The directory holds the data of another node or cluster.
    #[error("{path} belongs to node '{found_node}' of cluster '{found_cluster}', not to '{node}' of '{cluster}'; correct [node] name, [cluster] name or data_dir in the configuration", path = path.display())]
    Foreign {
        /// The identity file or data file.
        path: PathBuf,
        /// The name found.
        found_node: String,
        /// The cluster found.
        found_cluster: String,
        /// The name configured.
        node: String,
        /// The cluster configured.
        cluster: String,
    },
    /// The identity file is there, the data are not.
    #[error("{path} is {state}, but {marker} says that this node had data: it must not take part with its memory lost; run `mainstay leave {node}` on another node, remove {dir} and start this node with --join", path = path.display(), marker = marker.display(), dir = dir.display())]
    Lost {
        /// The data file.
        path: PathBuf,
        /// Missing or empty.
        state: &'static str,
        /// The identity file.
        marker: PathBuf,
        /// The directory.
        dir: PathBuf,
        /// This node's name.
        node: String,
    },
    /// A file is shorter than what it refers to, or its structure or a value is not what was written.
    #[error("{path} is damaged: {what}; put back a copy of {dir}, or run `mainstay leave {node}` on another node, remove {dir} and start this node with --join", path = path.display(), dir = dir.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where and how.
        what: String,
        /// The directory.
        dir: PathBuf,
        /// This node's name.
        node: String,
    },
    /// Written by another version.
    #[error("{path} has schema {found}, this version of mainstay reads schema {known}; install the version that wrote it, or upgrade in the order the manual gives", path = path.display())]
    Schema {
        /// The file.
        path: PathBuf,
        /// The schema found.
        found: u8,
        /// The schema this version reads.
        known: u8,
    },
    /// The map is full and may not grow further.
    #[error("{path} has reached its limit of {limit_mib} MiB; the log will be shortened by the next snapshot, restart the agent if this persists", path = path.display())]
    Full {
        /// The data file.
        path: PathBuf,
        /// The limit, MiB.
        limit_mib: usize,
    },
    /// There is nothing to go on with.
    #[error("{path} belongs to a node that never was a member of a cluster: it cannot go on alone; start it with the others", path = path.display())]
    NeverMember {
        /// The data file.
        path: PathBuf,
    },
    /// A value of ours could not be encoded.
    #[error("a record could not be encoded: {0}")]
    Encode(#[from] Flaw),
    /// The storage thread is gone.
    #[error("the store is closed")]
    Closed,
}

impl From<StoreError> for io::Error {
    fn from(error: StoreError) -> Self {
        let kind = match &error {
            StoreError::Io { source, .. } => source.kind(),
            StoreError::Full { .. } => io::ErrorKind::StorageFull,
            StoreError::Closed => io::ErrorKind::BrokenPipe,
            _ => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, error)
    }
}
