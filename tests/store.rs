//! The store against `kill -9` and a full disk, in processes of their own.

use mainstay::cluster::{Command, Incarnation, Local, Node, NodeId};
use mainstay::store::{Entry, LogId, Proposal, Store, Vote};
use openraft::EntryPayload;
use openraft::storage::{RaftLogReader, RaftLogStorage, RaftLogStorageExt, RaftStateMachine};
use openraft::vote::RaftLeaderId;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::time::{Duration, Instant};

const DIR: &str = "MAINSTAY_TEST_STORE";

fn entry(index: u64) -> Entry {
    let leader = openraft::impls::leader_id_std::LeaderId::<u64, NodeId>::new(1, NodeId(1));
    let record = Node {
        name: format!("n{index}"),
        address: "127.0.0.1:1".to_owned(),
        incarnation: Incarnation(u128::from(index) << 70),
        introduced: false,
    };
    Entry {
        log_id: LogId { leader_id: leader.to_committed(), index },
        payload: EntryPayload::Normal(Proposal(Command::AddNode { node: NodeId(index), record })),
    }
}

fn start(test: &str, dir: &Path, before: &[&str]) -> Child {
    let exe = std::env::current_exe().unwrap();
    let line = [test, "--exact", "--ignored", "--nocapture"];
    let mut process = match before {
        [] => Process::new(exe),
        [first, rest @ ..] => {
            let mut process = Process::new(first);
            process.args(rest).arg(exe);
            process
        }
    };
    process.args(line).env(DIR, dir).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

fn told_dir() -> PathBuf {
    PathBuf::from(std::env::var_os(DIR).expect("started by the test that kills it"))
}

/// Tells the parent, past the test harness's capture.
fn tell(what: &str, value: u64) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n#{what} {value}").unwrap();
    out.flush().unwrap();
}

#[tokio::test]
#[ignore = "the writer that `what_was_acknowledged_survives_kill_9` starts and kills"]
async fn writer() {
    let store = Store::open(&told_dir(), "edge", "n1").unwrap();
    let (mut log, mut machine) = (store.log(), store.machine());
    let state = log.get_log_state().await.unwrap();
    let mut next = state.last_log_id.map_or(1, |id| id.index + 1);
    let applied = store.applied().borrow().index();
    let lost: Vec<_> =
        log.try_get_log_entries(applied + 1..).await.unwrap().into_iter().map(|e| Ok((e, None))).collect();
    machine.apply(futures_util::stream::iter(lost)).await.unwrap();
    tell("ready", next);
    let end = Instant::now() + Duration::from_secs(20);
    while Instant::now() < end {
        log.blocking_append([entry(next), entry(next + 1)]).await.unwrap();
        tell("log", next + 1);
        machine
            .apply(futures_util::stream::iter([Ok((entry(next), None)), Ok((entry(next + 1), None))]))
            .await
            .unwrap();
        tell("applied", next + 1);
        log.save_vote(&Vote::new(next, NodeId(1))).await.unwrap();
        tell("vote", next);
        store.save_local(&Local { longest_lease: Duration::from_millis(next), ..Local::default() }).await.unwrap();
        tell("local", next);
        next += 2;
        if next % 40 == 1 {
            let purge = entry(next - 21).log_id;
            log.purge(purge).await.unwrap();
            tell("purged", purge.index);
        }
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged: BTreeMap<String, u64> = BTreeMap::new();
    let mut seed = std::process::id();
    for round in 0..30 {
        let mut child = start("writer", dir.path(), &[]);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut take = |line: String| {
            if let Some((what, value)) = line.strip_prefix('#').and_then(|line| line.split_once(' ')) {
                let value = value.parse().unwrap();
                acknowledged.insert(what.to_owned(), value);
                return what == "ready";
            }
            false
        };
        assert!(lines.by_ref().map_while(Result::ok).any(&mut take), "round {round}: the writer never began");
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // Every other round is killed in full swing, the rest also as it opens.
        let busy = round % 2 == 0
            || lines.by_ref().map_while(Result::ok).any(|line| {
                take(line.clone());
                line.starts_with("#local")
            });
        assert!(busy, "round {round}: the writer stopped by itself");
        std::thread::sleep(Duration::from_micros(u64::from(seed >> 8) % 60_000));
        child.kill().unwrap();
        child.wait().unwrap();
        lines.map_while(Result::ok).for_each(|line| {
            take(line);
        });

        let store = Store::open(dir.path(), "edge", "n1").unwrap();
        let mut log = store.log();
        let of = |what: &str| acknowledged.get(what).copied().unwrap_or(0);
        let state = log.get_log_state().await.unwrap();
        let last = state.last_log_id.map_or(0, |id| id.index);
        assert!(last >= of("log"), "round {round}: log {last} < {}", of("log"));
        assert!(state.last_purged_log_id.map_or(0, |id| id.index) >= of("purged"), "round {round}");
        let applied = store.applied().borrow().clone();
        assert!(applied.index() >= of("applied"), "round {round}");
        assert_eq!(applied.state.nodes.len() as u64, applied.index(), "round {round}: state and index belong together");
        let vote = log.read_vote().await.unwrap().map_or(0, |vote| vote.leader_id.term);
        assert!(vote >= of("vote"), "round {round}");
        assert!(store.local().longest_lease >= Duration::from_millis(of("local")), "round {round}");
        for found in log.try_get_log_entries(0..).await.unwrap() {
            assert_eq!(found, entry(found.log_id.index));
        }
        store.close().await;
    }
    assert!(acknowledged["log"] >= 30, "the writer hardly wrote: {acknowledged:?}");
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
    let dir = tempfile::tempdir().unwrap();
    let mount = "mount -t tmpfs -o size=256k,mode=700 none \"$MAINSTAY_TEST_STORE\" && exec \"$@\"";
    let child = start("creator", dir.path(), &["unshare", "-Urm", "sh", "-c", mount, "sh"]);
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("#refused") && text.contains("data.mdb") && text.contains("free space"), "{text}");
}
