//! The store as openraft uses it, and every way a store can be wrong.

use super::open::{MARKER_FILE, log_key};
use super::*;
use crate::cluster::{Command, Incarnation, Node};
use openraft::storage::{RaftLogReader, RaftLogStorage, RaftLogStorageExt, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::vote::RaftLeaderId;
use openraft::{EntryPayload, StorageError};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;

impl From<u64> for NodeId {
    fn from(id: u64) -> Self {
        Self(id)
    }
}

struct Builds;

impl StoreBuilder<TypeConfig, LogStore, Machine, TempDir> for Builds {
    async fn build(&self) -> Result<(TempDir, LogStore, Machine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), "edge", "n1").unwrap();
        Ok((dir, store.log(), store.machine()))
    }
}

#[tokio::test]
async fn openrafts_own_suite_passes() {
    Suite::test_all(Builds).await.unwrap();
}

fn log_id(term: u64, index: u64) -> LogId {
    let leader = openraft::impls::leader_id_std::LeaderId::<u64, NodeId>::new(term, NodeId(1));
    LogId { leader_id: leader.to_committed(), index }
}

fn add_node(index: u64) -> Entry {
    let record = Node {
        name: format!("n{index}"),
        address: "127.0.0.1:1".to_owned(),
        incarnation: Incarnation(u128::from(index)),
        introduced: false,
    };
    let command = Command::AddNode { node: NodeId(index), record };
    Entry { log_id: log_id(1, index), payload: EntryPayload::Normal(Proposal(command)) }
}

async fn apply(machine: &mut Machine, entries: impl IntoIterator<Item = Entry>) {
    let stream = futures_util::stream::iter(entries.into_iter().map(|entry| Ok((entry, None))).collect::<Vec<_>>());
    machine.apply(stream).await.unwrap();
}

/// A store with five entries, three of them applied, closed again.
async fn filled(dir: &Path) {
    let store = Store::open(dir, "edge", "n1").unwrap();
    assert!(store.is_pristine());
    let mut log = store.log();
    log.blocking_append((1..=5).map(add_node)).await.unwrap();
    log.save_vote(&Vote::new(3, NodeId(2))).await.unwrap();
    apply(&mut store.machine(), (1..=3).map(add_node)).await;
    let local = Local { longest_lease: Duration::from_millis(800), ..Local::default() };
    store.save_local(&local).await.unwrap();
    store.enrol(NodeId(7), 99).await.unwrap();
    store.close().await;
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path()).await;
    let store = Store::open(dir.path(), "edge", "n1").unwrap();
    assert!(!store.is_pristine());
    let identity = store.identity();
    assert_eq!((identity.node_id, identity.generation), (Some(NodeId(7)), 99));
    assert_eq!(store.local().longest_lease, Duration::from_millis(800));
    let applied = store.applied().borrow().clone();
    assert_eq!((applied.index(), applied.state.nodes.len()), (3, 3));
    let mut log = store.log();
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new(3, NodeId(2))));
    let entries = log.try_get_log_entries(0..).await.unwrap();
    assert_eq!(entries, (1..=5).map(add_node).collect::<Vec<_>>());
}

#[tokio::test]
async fn purge_and_truncate_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path()).await;
    let store = Store::open(dir.path(), "edge", "n1").unwrap();
    store.log().purge(log_id(1, 2)).await.unwrap();
    store.log().truncate_after(Some(log_id(1, 4))).await.unwrap();
    store.close().await;
    let store = Store::open(dir.path(), "edge", "n1").unwrap();
    let state = store.log().get_log_state().await.unwrap();
    assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(log_id(1, 2)), Some(log_id(1, 4))));
}

#[tokio::test]
async fn a_snapshot_carries_the_state_and_is_durable_once_installed() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    filled(from.path()).await;
    let giver = Store::open(from.path(), "edge", "n1").unwrap();
    let mut builder = giver.machine().try_create_snapshot_builder(true).await.unwrap();
    let snapshot = openraft::RaftSnapshotBuilder::build_snapshot(&mut builder).await.unwrap();
    let taker = Store::open(to.path(), "edge", "n2").unwrap();
    let mut seen = taker.applied();
    let mut altered = snapshot.snapshot.clone();
    altered[9] ^= 1;
    assert!(taker.machine().install_snapshot(&snapshot.meta, altered).await.is_err());
    taker.machine().install_snapshot(&snapshot.meta, snapshot.snapshot).await.unwrap();
    assert!(seen.has_changed().unwrap());
    assert_eq!(seen.borrow_and_update().state, giver.applied().borrow().state);
    taker.close().await;
    let taker = Store::open(to.path(), "edge", "n2").unwrap();
    assert_eq!(taker.applied().borrow().state, giver.applied().borrow().state);
}

#[tokio::test]
async fn writes_after_the_end_fail() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), "edge", "n1").unwrap();
    store.close().await;
    store.close().await;
    let refused = store.save_local(&Local::default()).await.unwrap_err();
    assert!(matches!(*refused, StoreError::Closed));
    assert!(store.log().save_vote(&Vote::new(1, NodeId(1))).await.is_err());
}

/// What the directory holds, to see that a refusal changed nothing. LMDB's lock file is no data.
fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| !path.ends_with("lock.mdb"))
        .map(|path| (path.clone(), fs::read(&path).unwrap()))
        .collect();
    files.sort();
    files
}

fn refusal(dir: &Path, cluster: &str, node: &str) -> String {
    let before = contents(dir);
    let Err(error) = Store::open(dir, cluster, node) else { panic!("opened") };
    assert_eq!(contents(dir), before, "a refused store was touched");
    let text = error.to_string();
    assert!(text.contains(dir.to_str().unwrap()) && text.contains(';'), "names no file or remedy: {text}");
    text
}

#[tokio::test]
async fn another_nodes_or_clusters_data_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path()).await;
    assert!(refusal(dir.path(), "edge", "n2").contains("belongs to node 'n1' of cluster 'edge', not to 'n2'"));
    assert!(refusal(dir.path(), "core", "n1").contains("not to 'n1' of 'core'"));
    fs::remove_file(dir.path().join(MARKER_FILE)).unwrap();
    assert!(refusal(dir.path(), "edge", "n2").contains("belongs to node 'n1'"));
    let store = Store::open(dir.path(), "edge", "n1").unwrap();
    assert!(dir.path().join(MARKER_FILE).exists(), "the identity file comes back beside whole data");
    store.close().await;
}

#[tokio::test]
async fn lost_data_are_no_fresh_store() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path()).await;
    let data = dir.path().join("data.mdb");
    File::create(&data).unwrap();
    assert!(refusal(dir.path(), "edge", "n1").contains("data.mdb is empty"));
    fs::remove_file(&data).unwrap();
    let text = refusal(dir.path(), "edge", "n1");
    assert!(text.contains("data.mdb is missing") && text.contains("mainstay leave n1"), "{text}");
}

#[tokio::test]
async fn data_put_back_from_elsewhere_are_refused() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    filled(dir.path()).await;
    filled(other.path()).await;
    fs::copy(other.path().join("data.mdb"), dir.path().join("data.mdb")).unwrap();
    assert!(refusal(dir.path(), "edge", "n1").contains("not the file that the identity file"));
}

#[tokio::test]
async fn a_second_open_is_refused_until_the_first_ends() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), "edge", "n1").unwrap();
    assert!(refusal(dir.path(), "edge", "n1").contains("in use by another mainstay process"));
    store.close().await;
    Store::open(dir.path(), "edge", "n1").unwrap().close().await;
}

#[test]
fn a_world_writable_store_and_a_file_in_its_place_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    assert!(refusal(dir.path(), "edge", "n1").contains("chmod o-w"));
    let file = tempfile::NamedTempFile::new().unwrap();
    let Err(error) = Store::open(&file.path().join("store"), "edge", "n1") else { panic!("opened") };
    assert!(error.to_string().contains("correct data_dir"), "{error}");
}

#[tokio::test]
async fn another_schema_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path()).await;
    let marker = dir.path().join(MARKER_FILE);
    let text = fs::read_to_string(&marker).unwrap();
    fs::write(&marker, text.replace("\"schema\": 1", "\"schema\": 2")).unwrap();
    assert!(refusal(dir.path(), "edge", "n1").contains("no identity file"), "its checksum tells");
    let mut newer: serde_json::Value = serde_json::from_str(&text).unwrap();
    let whole = format!("\"edge\" \"n1\" {} 2", newer["incarnation"].as_str().unwrap());
    newer["schema"] = 2.into();
    newer["crc32"] = crc32fast::hash(whole.as_bytes()).into();
    fs::write(&marker, newer.to_string()).unwrap();
    let said = refusal(dir.path(), "edge", "n1");
    assert!(said.contains("identity has schema 2") && said.contains("reads schema 1"), "{said}");
    fs::remove_file(&marker).unwrap();
    rewrite(dir.path(), &log_key(4), |value| {
        let mut fresh = crc32fast::Hasher::new();
        let key = log_key(4);
        value[0] = 9;
        fresh.update(&(key.len() as u64).to_le_bytes());
        fresh.update(&key);
        fresh.update(&[9]);
        fresh.update(&value[5..]);
        value[1..5].copy_from_slice(&fresh.finalize().to_le_bytes());
    });
    assert!(refusal(dir.path(), "edge", "n1").contains("schema 9"));
}

/// Alters a stored value where it lies in the file.
fn rewrite(dir: &Path, key: &[u8], alter: impl Fn(&mut [u8])) {
    let path = dir.join("data.mdb");
    let mut bytes = fs::read(&path).unwrap();
    let value = codec::seal(key, &add_node(u64::from_be_bytes(key[1..].try_into().unwrap()))).unwrap();
    let spots: Vec<_> =
        (0..bytes.len() - value.len()).filter(|at| bytes[*at..*at + value.len()] == value[..]).collect();
    assert!(!spots.is_empty());
    for at in spots {
        alter(&mut bytes[at..at + value.len()]);
    }
    fs::write(&path, bytes).unwrap();
}

#[tokio::test]
async fn an_altered_value_is_named() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path()).await;
    rewrite(dir.path(), &log_key(4), |value| value[8] ^= 0x10);
    assert!(refusal(dir.path(), "edge", "n1").contains("log entry 4 fails its checksum"));
}

/// Cut anywhere, the file is refused or, where only free pages went, whole; never a SIGBUS.
#[tokio::test]
async fn a_cut_off_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path()).await;
    let data = dir.path().join("data.mdb");
    let whole = fs::read(&data).unwrap();
    let mut refused = 0;
    for length in (0..whole.len()).step_by(512).skip(1) {
        fs::write(&data, &whole[..length]).unwrap();
        match Store::open(dir.path(), "edge", "n1") {
            Ok(store) => {
                assert_eq!(store.log().try_get_log_entries(0..).await.unwrap().len(), 5);
                store.close().await;
            }
            Err(_) => {
                // Untouched by the first refusal as well.
                assert!(fs::read(&data).unwrap() == whole[..length], "cut at {length}: the file was touched");
                let text = refusal(dir.path(), "edge", "n1");
                assert!(text.contains("data.mdb") && text.contains("cut off"), "{text}");
                refused += 1;
            }
        }
    }
    assert!(refused > whole.len() / 1024, "only {refused} cuts were noticed");
}

/// One altered byte anywhere: refused, or the store holds exactly what it held.
#[tokio::test]
async fn an_altered_byte_is_refused_or_harmless() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path()).await;
    let data = dir.path().join("data.mdb");
    let whole = fs::read(&data).unwrap();
    let mut refused = 0;
    for at in (0..whole.len()).step_by(23) {
        File::options().write(true).open(&data).unwrap().write_all_at(&[whole[at] ^ 0x55], at as u64).unwrap();
        match Store::open(dir.path(), "edge", "n1") {
            Ok(store) => {
                let entries = store.log().try_get_log_entries(0..).await.unwrap();
                assert_eq!(entries, (1..=5).map(add_node).collect::<Vec<_>>(), "byte {at}");
                assert_eq!(store.applied().borrow().index(), 3, "byte {at}");
                assert_eq!(store.log().read_vote().await.unwrap(), Some(Vote::new(3, NodeId(2))), "byte {at}");
                assert_eq!(store.identity().generation, 99, "byte {at}");
                store.close().await;
            }
            Err(_) => refused += 1,
        }
        fs::write(&data, &whole).unwrap();
    }
    assert!(refused > 15, "only {refused} alterations were noticed");
}
