//! What an operator's word may do to a store, while no agent has it open: let its node go on alone, or set it aside.
//!
//! A new generation is one transaction: the applied state reduced to this node, a membership of it alone, an empty log,
//! the new generation. Before that the old file is copied beside it. It keeps the vote and the node's own record: what
//! this node promised binds it on (S2). Done twice it changes nothing more.

use super::StoreError;
use super::codec;
use super::disk::{DATA_FILE, Write};
use super::open::{
    AppliedRecord, Found, KEY_APPLIED, KEY_IDENTITY, KEY_PURGED, MARKER_FILE, Opening, lock, log_key, remedy_of,
};
use super::types::{Identity, Peer, StoredMembership};
use crate::cluster::generation_number;
use openraft::Membership;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Lets `node` go on alone, as `generation`. Blocks.
///
/// # Errors
/// The store is refused, never belonged to a cluster, or cannot be written; then it is as it was.
pub fn found_generation(dir: &Path, cluster: &str, node: &str, generation: u64) -> Result<(), StoreError> {
    let kept = copy_aside(dir, generation)?;
    let (disk, found) = Opening::new(dir, cluster, node).run()?;
    if found.identity.generation == generation {
        disk.close();
        return Ok(());
    }
    let result = writes(&found, generation, dir).and_then(|writes| disk.commit(writes.iter()));
    disk.close();
    tracing::warn!(kept = %kept.display(), "this node goes on alone; its store of before is kept");
    result
}

fn writes(found: &Found, generation: u64, dir: &Path) -> Result<Vec<Write>, StoreError> {
    let never = || StoreError::NeverMember { path: dir.join(DATA_FILE) };
    let me = found.identity.node_id.ok_or_else(never)?;
    let last = found.applied.last.ok_or_else(never)?;
    let record = found.applied.state.nodes.get(&me).ok_or_else(never)?;
    let peer =
        Peer { name: record.name.clone(), address: record.address.clone(), incarnation: found.identity.incarnation };
    let alone = Membership::from(BTreeMap::from([(me, peer)]));
    let applied = AppliedRecord {
        last: Some(last),
        membership: StoredMembership::new(Some(last), alone),
        state: found.applied.state.left_to(me),
    };
    let identity = Identity { generation, superseded: None, ..found.identity.clone() };
    Ok(vec![
        Write::Delete { from: log_key(0), until: log_key(u64::MAX) },
        Write::Put { key: KEY_PURGED.to_vec(), value: codec::seal(KEY_PURGED, &last)? },
        Write::Put { key: KEY_APPLIED.to_vec(), value: codec::seal(KEY_APPLIED, &applied)? },
        Write::Put { key: KEY_IDENTITY.to_vec(), value: codec::seal(KEY_IDENTITY, &identity)? },
    ])
}

/// Copies the data file beside itself, under the generation that follows it; a copy that stands is the earlier one.
fn copy_aside(dir: &Path, generation: u64) -> Result<PathBuf, StoreError> {
    let kept = dir.join(format!("{DATA_FILE}.before-generation-{}", generation_number(generation)));
    if kept.exists() {
        return Ok(kept);
    }
    let _alone = lock(dir)?;
    let fresh = kept.with_extension("new");
    let copy = || -> io::Result<()> {
        fs::copy(dir.join(DATA_FILE), &fresh)?;
        File::open(&fresh)?.sync_all()?;
        fs::rename(&fresh, &kept)?;
        File::open(dir)?.sync_all()
    };
    copy().map_err(|source| failed(&kept, "copy the store", source))?;
    Ok(kept)
}

/// Moves a store out of the way, into `former-` with `suffix`, so that a new one can be made in its place.
///
/// # Errors
/// An agent has it open, or a file cannot be moved.
pub fn set_aside(dir: &Path, suffix: &str) -> Result<(), StoreError> {
    let _alone = lock(dir)?;
    let former = dir.join(format!("former-{suffix}"));
    let files: Vec<_> =
        [MARKER_FILE, DATA_FILE, "lock.mdb"].into_iter().filter(|name| dir.join(name).exists()).collect();
    if files.is_empty() {
        return Ok(());
    }
    let aside = || -> io::Result<()> {
        fs::create_dir_all(&former)?;
        for name in &files {
            fs::rename(dir.join(name), former.join(name))?;
        }
        File::open(&former)?.sync_all()?;
        File::open(dir)?.sync_all()
    };
    aside().map_err(|source| failed(&former, "set the former store aside", source))
}

fn failed(path: &Path, what: &'static str, source: io::Error) -> StoreError {
    StoreError::Io { path: path.to_owned(), what, remedy: remedy_of(&source), source }
}

#[cfg(test)]
mod tests {
    use super::super::{Entry, LogId, Proposal, Store, Vote};
    use super::*;
    use crate::cluster::{Command, Incarnation, Local, Node, NodeId, first_generation, next_generation};
    use openraft::EntryPayload;
    use openraft::storage::{RaftLogReader as _, RaftLogStorage as _, RaftLogStorageExt as _, RaftStateMachine as _};
    use openraft::vote::RaftLeaderId as _;
    use std::time::Duration;

    fn entry(index: u64) -> Entry {
        let leader = openraft::impls::leader_id_std::LeaderId::<u64, NodeId>::new(4, NodeId(1));
        let record = Node {
            name: format!("n{index}"),
            address: format!("127.0.0.1:{index}"),
            incarnation: Incarnation(u128::from(index)),
            introduced: true,
        };
        let command = Command::AddNode { node: NodeId(index), record };
        let log_id = LogId { leader_id: leader.to_committed(), index };
        Entry { log_id, payload: EntryPayload::Normal(Proposal(command)) }
    }

    /// Five entries, three of them applied; node 2 of the first generation.
    async fn filled(dir: &Path) -> u64 {
        let store = Store::open(dir, "edge", "n2").unwrap();
        let mut log = store.log();
        log.blocking_append((1..=5).map(entry)).await.unwrap();
        log.save_vote(&Vote::new(4, NodeId(1))).await.unwrap();
        let entries: Vec<_> = (1..=3).map(|index| Ok((entry(index), None))).collect();
        store.machine().apply(futures_util::stream::iter(entries)).await.unwrap();
        let local = Local { longest_lease: Duration::from_millis(800), ..Local::default() };
        store.save_local(&local).await.unwrap();
        let generation = first_generation(9 << 32);
        store.enrol(NodeId(2), generation).await.unwrap();
        store.supersede("n9 refuses").await.unwrap();
        store.close().await;
        next_generation(generation, 7 << 32)
    }

    #[tokio::test]
    async fn a_new_generation_is_this_node_alone_with_what_it_promised() {
        let dir = tempfile::tempdir().unwrap();
        let generation = filled(dir.path()).await;
        // Asked for twice, as after a crash in between.
        for _ in 0..2 {
            found_generation(dir.path(), "edge", "n2", generation).unwrap();
        }
        let store = Store::open(dir.path(), "edge", "n2").unwrap();
        let identity = store.identity();
        assert_eq!((identity.node_id, identity.generation), (Some(NodeId(2)), generation));
        assert_eq!(identity.superseded, None);
        assert_eq!(store.local().longest_lease, Duration::from_millis(800), "S2: what it promised binds it on");
        let applied = store.applied().borrow().clone();
        assert_eq!((applied.index(), applied.state.nodes.keys().copied().collect::<Vec<_>>()), (3, vec![NodeId(2)]));
        assert_eq!(applied.membership.membership().voter_ids().collect::<Vec<_>>(), [NodeId(2)]);
        let mut log = store.log();
        assert!(log.try_get_log_entries(0..).await.unwrap().is_empty());
        assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new(4, NodeId(1))), "it votes in no older term again");
        assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(entry(3).log_id));
        store.close().await;
        // What was before lies beside it, whole.
        let former = tempfile::tempdir().unwrap();
        let kept = dir.path().join("data.mdb.before-generation-2");
        fs::copy(kept, former.path().join(DATA_FILE)).unwrap();
        let store = Store::open(former.path(), "edge", "n2").unwrap();
        assert_eq!(store.applied().borrow().state.nodes.len(), 3);
        assert_ne!(store.identity().generation, generation);
        store.close().await;
    }

    #[tokio::test]
    async fn a_store_that_never_belonged_to_a_cluster_founds_none() {
        let dir = tempfile::tempdir().unwrap();
        Store::open(dir.path(), "edge", "n1").unwrap().close().await;
        let refused = found_generation(dir.path(), "edge", "n1", 1).unwrap_err();
        assert!(matches!(refused, StoreError::NeverMember { .. }), "{refused}");
        assert!(Store::open(dir.path(), "edge", "n1").unwrap().is_pristine());
    }

    #[tokio::test]
    async fn a_store_in_use_is_neither_rewritten_nor_moved() {
        let dir = tempfile::tempdir().unwrap();
        let generation = filled(dir.path()).await;
        let store = Store::open(dir.path(), "edge", "n2").unwrap();
        assert!(matches!(found_generation(dir.path(), "edge", "n2", generation), Err(StoreError::Busy { .. })));
        assert!(matches!(set_aside(dir.path(), "1"), Err(StoreError::Busy { .. })));
        let before = store.identity().incarnation;
        store.close().await;
        set_aside(dir.path(), "1").unwrap();
        let fresh = Store::open(dir.path(), "edge", "n2").unwrap();
        assert!(fresh.is_pristine() && fresh.identity().incarnation != before, "a stranger that must join");
        fresh.close().await;
        assert!(dir.path().join("former-1").join(DATA_FILE).exists());
    }
}
