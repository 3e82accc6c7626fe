//! A disk that has no room: refused by name at creation, waited for afterwards.

use super::model::{entry, log_id};
use super::{start, told_dir};
use mainstay::cluster::{Command, Incarnation, Local, Node, NodeId};
use mainstay::store::{Entry, Proposal, Store, Vote};
use openraft::EntryPayload;
use openraft::storage::{RaftLogReader, RaftLogStorage, RaftLogStorageExt};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// Runs the ignored test `name` on a file system in memory of `size`; what it said.
fn on_tiny_disk(name: &str, size: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let mount = format!("mount -t tmpfs -o size={size},mode=700 none \"$MAINSTAY_TEST_STORE\" && exec \"$@\"");
    let child = start(name, dir.path(), &["unshare", "-Urm", "sh", "-c", &mount, "sh"], &[]);
    let output = child.wait_with_output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
#[ignore = "what `a_full_disk_is_refused_at_creation` starts on a tiny file system"]
fn creator() {
    match Store::open(&told_dir(), "edge", "n1") {
        Ok(_) => println!("\n#opened"),
        Err(error) => println!("\n#refused {error}"),
    }
}

#[test]
fn a_full_disk_is_refused_at_creation() {
    let text = on_tiny_disk("full::creator", "256k");
    assert!(text.contains("#refused") && text.contains("data.mdb") && text.contains("free space"), "{text}");
}

/// An entry of about 300 KiB.
fn large(index: u64) -> Entry {
    let record = Node {
        name: format!("n{index}"),
        address: "x".repeat(300 << 10),
        incarnation: Incarnation(u128::from(index)),
        introduced: false,
    };
    let payload = EntryPayload::Normal(Proposal(Command::AddNode { node: NodeId(index), record }));
    Entry { log_id: log_id(1, index), payload }
}

/// Takes all the room there is.
fn fill(ballast: &Path) {
    let mut file = std::fs::File::create(ballast).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
}

/// Appends large entries until the store waits for room; the index of the last one asked for, and its task.
async fn until_full(store: &Store, mut next: u64) -> (u64, tokio::task::JoinHandle<bool>) {
    loop {
        let (mut log, index) = (store.log(), next);
        let mut asked = tokio::spawn(async move { log.blocking_append([large(index)]).await.is_ok() });
        let end = Instant::now() + Duration::from_secs(20);
        while Instant::now() < end {
            if let Ok(done) = tokio::time::timeout(Duration::from_millis(20), &mut asked).await {
                assert!(done.unwrap(), "an append failed");
                break;
            }
            if store.stalled().is_some_and(|stall| stall.why.is_some()) {
                return (index, asked);
            }
        }
        next += 1;
        assert!(next < 60, "the disk never filled");
    }
}

#[tokio::test]
#[ignore = "what `a_disk_that_fills_up_is_waited_for` starts on a small file system"]
async fn waiter() {
    let dir = told_dir();
    let ballast = dir.join("ballast");
    let store = Store::open(&dir, "edge", "n1").unwrap();
    store.log().save_vote(&Vote::new(1, NodeId(1))).await.unwrap();
    fill(&ballast);
    // What is set aside for the store is used first.
    let (last, asked) = until_full(&store, 1).await;
    println!("\n#reserve held {} entries", last - 1);
    assert!(last > 8, "only {last} entries of 300 KiB fit where 4 MiB are set aside");
    let saving = tokio::spawn({
        let store = store.clone();
        let local = Local { longest_lease: Duration::from_secs(1), ..Local::default() };
        async move { store.save_local(&local).await.is_ok() }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!asked.is_finished() && !saving.is_finished(), "told that it is durable");
    let stall = store.stalled().unwrap();
    assert!(stall.length >= Duration::from_secs(1));
    assert!(stall.why.unwrap().contains("free space there"));
    std::fs::remove_file(&ballast).unwrap();
    assert!(asked.await.unwrap() && saving.await.unwrap(), "there is room again");
    while store.stalled().is_some() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Full again; a store that is closed meanwhile does not wait for ever.
    fill(&ballast);
    let (unsaved, asked) = until_full(&store, last + 1).await;
    tokio::time::timeout(Duration::from_secs(3), store.close()).await.expect("it closes");
    assert!(!asked.await.unwrap(), "it was never written");
    std::fs::remove_file(&ballast).unwrap();
    let store = Store::open(&dir, "edge", "n1").unwrap();
    let found = store.log().try_get_log_entries(0..).await.unwrap();
    assert_eq!(found, (1..unsaved).map(large).collect::<Vec<_>>());
    assert_eq!(store.local().longest_lease, Duration::from_secs(1));
    // And takes what it is given.
    store.log().blocking_append([entry(1, unsaved)]).await.unwrap();
    store.close().await;
    println!("\n#whole");
}

#[test]
fn a_disk_that_fills_up_is_waited_for() {
    let text = on_tiny_disk("full::waiter", "9m");
    assert!(text.contains("#whole"), "{text}");
}
