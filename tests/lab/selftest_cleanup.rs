//! Proof that a lab leaves nothing behind: neither when its test panics nor
//! when the whole harness is killed in mid-test.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::cluster::{Cluster, Options};
use crate::lab::{in_lab, secs, wait_for};

/// What of a lab could be left behind.
#[derive(Debug, Clone, Default)]
struct Traces {
    pids: Vec<u32>,
    namespaces: Vec<u64>,
    dir: PathBuf,
}

impl Traces {
    fn of(c: &Cluster) -> Self {
        let nets = c.hosts.values().map(|h| &h.net).chain([&c.client]);
        Self {
            pids: c.hosts.values().filter_map(|h| h.redis().pid()).collect(),
            namespaces: nets.map(|n| n.netns().expect("on").inode().expect("inode")).collect(),
            dir: c.dir.path().into(),
        }
    }

    /// What is still there of processes and namespaces.
    fn left(&self) -> Vec<String> {
        let processes = self.pids.iter().filter(|pid| alive(**pid)).map(|pid| format!("process {pid}"));
        let used = namespaces_in_use();
        let namespaces = self.namespaces.iter().map(|inode| format!("net:[{inode}]"));
        processes.chain(namespaces.filter(|name| used.contains(name))).collect()
    }

    fn wait_gone(&self) {
        assert!(!self.pids.is_empty() && !self.namespaces.is_empty());
        wait_for("clean machine", secs(5), || match self.left() {
            left if left.is_empty() => Ok(()),
            left => Err(left),
        });
    }
}

/// A zombie nobody reaped yet is no longer running.
fn alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

/// Every network namespace that a thread is in or a descriptor holds.
fn namespaces_in_use() -> Vec<String> {
    let list = |path: PathBuf| std::fs::read_dir(path).into_iter().flatten().flatten().map(|e| e.path());
    let numeric = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.parse::<u32>().is_ok())
    };
    let tasks: Vec<PathBuf> = list("/proc".into()).filter(numeric).flat_map(|p| list(p.join("task"))).collect();
    let links = tasks.iter().flat_map(|task| list(task.join("fd")).chain([task.join("ns/net")]));
    let names = links.filter_map(|link| std::fs::read_link(link).ok());
    names.map(|name| name.display().to_string()).filter(|name| name.starts_with("net:")).collect()
}

#[test]
fn a_panicking_test_keeps_its_directory_alone() {
    in_lab(|| {
        let traces = std::sync::Mutex::new(Traces::default());
        let panicked = std::panic::catch_unwind(|| {
            let c = Cluster::start(Options::redis_only(2));
            let load = c.load();
            let mine = Traces::of(&c);
            // What is looked for is what can be found.
            assert_eq!(mine.left().len(), mine.pids.len() + mine.namespaces.len());
            *traces.lock().expect("lock") = mine;
            std::thread::sleep(crate::lab::ms(100));
            let _still_writing = load;
            panic!("on purpose, to see what a failing test leaves behind");
        });
        let traces = traces.lock().expect("lock").clone();
        assert!(panicked.is_err());
        traces.wait_gone();
        assert!(traces.dir.join("n1/redis.log").exists(), "the logs of a failed test are gone");
        std::fs::remove_dir_all(&traces.dir).expect("the kept directory");
    });
}

#[test]
fn a_passing_test_leaves_no_directory() {
    in_lab(|| {
        let c = Cluster::start(Options::redis_only(1));
        let traces = Traces::of(&c);
        drop(c);
        traces.wait_gone();
        assert!(!traces.dir.exists() || std::env::var_os("LAB_KEEP").is_some());
    });
}

const CHILD: &str = "LAB_TO_BE_KILLED";

/// The victim of the test below; does nothing when run by itself.
#[test]
#[ignore = "run by a_killed_harness_leaves_no_process_and_no_namespace"]
fn to_be_killed() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    in_lab(|| {
        let c = Cluster::start(Options::redis_only(2));
        let t = Traces::of(&c);
        println!("traces {:?} {:?} {}", t.pids, t.namespaces, t.dir.display());
        std::thread::sleep(secs(60));
    });
}

#[test]
fn a_killed_harness_leaves_no_process_and_no_namespace() {
    in_lab(|| {
        let mut child = Command::new(std::env::current_exe().expect("own path"))
            .args(["--exact", "selftest_cleanup::to_be_killed", "--ignored", "--nocapture"])
            .env(CHILD, "1")
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .expect("the test binary");
        let out = BufReader::new(child.stdout.take().expect("stdout"));
        let line = out.lines().map_while(Result::ok).find(|line| line.contains("traces "));
        let traces = parse(line.as_deref().unwrap_or_default());
        child.kill().expect("SIGKILL");
        child.wait().expect("its end");
        let traces = traces.expect("the child's traces");
        traces.wait_gone();
        std::fs::remove_dir_all(&traces.dir).expect("the killed lab's directory");
        crate::files::forget(&traces.dir);
    });
}

fn parse(line: &str) -> Option<Traces> {
    let (_, rest) = line.split_once("traces [")?;
    let (pids, rest) = rest.split_once("] [")?;
    let (namespaces, dir) = rest.split_once("] ")?;
    Some(Traces {
        pids: pids.split(", ").filter_map(|n| n.parse().ok()).collect(),
        namespaces: namespaces.split(", ").filter_map(|n| n.parse().ok()).collect(),
        dir: dir.into(),
    })
}
