//! The config read again under a running agent, the notify command, and the word before an instance is stopped: a real
//! agent beside a real Redis on loopback, with this test in systemd's place at the notification socket.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::notify::hear;
use crate::support::{BOUND, Running, free_port, run_command, start, start_redis, write_config};

struct Node {
    dir: tempfile::TempDir,
    socket: UnixDatagram,
    said: Vec<String>,
    agent: Running,
    redis: Running,
}

impl Node {
    fn serving() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let (agent, redis) = (free_port(), free_port());
        write_config(dir.path(), agent, redis);
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a bound");
        let redis = start_redis(dir.path(), redis);
        let agent = start(run_command(dir.path()).env_remove("INVOCATION_ID").env("NOTIFY_SOCKET", &path));
        let mut node = Self { dir, socket, said: Vec::new(), agent, redis };
        node.hear(|said| said.iter().any(|line| line.starts_with("STATUS=g: primary (epoch 1)")));
        node
    }

    fn hear(&mut self, enough: impl Fn(&[String]) -> bool) {
        hear(&self.socket, &mut self.said, enough);
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn ask(&self, words: &[&str]) -> Output {
        let socket = self.path("m.sock");
        let mut command = Command::new(env!("CARGO_BIN_EXE_mainstay"));
        command.args(words).arg("--socket").arg(socket);
        command.output().expect("it runs")
    }

    /// Changes the config, and waits until the agent says that it has read it.
    fn reload(&mut self, change: impl Fn(String) -> String) {
        let file = self.path("mainstay.toml");
        let text = std::fs::read_to_string(&file).expect("the config");
        std::fs::write(&file, change(text)).expect("written");
        self.said.clear();
        kill(Pid::from_raw(i32::try_from(self.agent.0.id()).expect("a pid")), Signal::SIGHUP).expect("asked");
        self.hear(|said| said.iter().any(|line| line == "READY=1"));
        let at = |word: &str| self.said.iter().position(|line| line.starts_with(word));
        assert!(at("RELOADING=1").is_some_and(|begun| Some(begun) < at("READY=1")), "{:?}", self.said);
        let moment = at("MONOTONIC_USEC=").and_then(|at| self.said[at].split_once('=')?.1.parse::<u64>().ok());
        assert!(moment.is_some_and(|moment| moment > 0), "systemd would not count it: {:?}", self.said);
    }

    fn warnings(&self) -> String {
        let output = self.ask(&["status", "--json"]);
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a report");
        report["warnings"].to_string()
    }
}

fn wait_for<T>(what: &str, found: impl Fn() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(begun.elapsed() < BOUND, "{what} does not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn hook(path: &Path, into: &Path) {
    // Complete in one rename: the test reads it as soon as it is there.
    let text = format!("#!/bin/sh\ncat >\"{0}.new\" && mv \"{0}.new\" \"{0}\"\n", into.display());
    std::fs::write(path, text).expect("a script");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("its mode");
}

#[test]
fn a_reload_changes_what_can_change_names_what_cannot_and_a_broken_file_changes_nothing() {
    let mut node = Node::serving();
    let (command, told) = (node.path("hook"), node.path("told"));
    hook(&command, &told);
    let notify = format!("[notify]\ncommand = \"{}\"\n", command.display());
    node.reload(|text| format!("{text}[timing]\nhang_after_ms = 9000\n[http]\nlisten = \"127.0.0.1:7480\"\n{notify}"));
    let warnings = node.warnings();
    assert!(warnings.contains("[http]") && !warnings.contains("hang_after"), "{warnings}");

    node.reload(|text| format!("{text}\nnonsense = 1\n"));
    assert!(node.warnings().contains("[http]"), "what was read before holds");
    assert!(node.agent.0.try_wait().expect("its state").is_none(), "it goes on");
    node.reload(|text| text.replace("\nnonsense = 1\n", ""));

    // The command that the reload brought gets the next event.
    let output = node.ask(&["fence", "--config", &node.path("mainstay.toml").display().to_string()]);
    assert!(output.status.success(), "{output:?}");
    let event = wait_for("the event", || std::fs::read_to_string(&told).ok());
    let event: serde_json::Value = serde_json::from_str(&event).expect("one object");
    assert_eq!((&event["node"], &event["cluster"], &event["group"]), (&"n1".into(), &"t".into(), &"g".into()));
    assert!(event["at_unix_ms"].as_u64().is_some_and(|at| at > 0) && event["text"].is_string(), "{event}");
    let known = mainstay::ctl::catalog::CATALOG.iter().any(|entry| event["event"] == entry.kind && entry.notify);
    assert!(known, "{event}");
}

#[test]
fn before_an_instance_is_stopped_its_agent_answers_at_once_where_nobody_can_take_over() {
    let mut node = Node::serving();
    let begun = Instant::now();
    let output = node.ask(&["release", "--group", "g"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("no replica is in sync"), "{output:?}");
    let other = node.ask(&["release", "--unit", "other.service"]);
    assert!(other.status.success() && String::from_utf8_lossy(&other.stdout).contains("nothing to hand over"));
    assert!(begun.elapsed() < Duration::from_secs(2), "whoever stops it waits: {:?}", begun.elapsed());

    // Stopped on purpose: the change that follows says so, and is no fault.
    node.redis.0.kill().expect("killed");
    node.redis.0.wait().expect("dead");
    let why = wait_for("the seal", || {
        let output = node.ask(&["status", "--json"]);
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        let reason = report["groups"][0]["reason"].as_str()?.to_owned();
        reason.contains("sealed").then_some(reason)
    });
    assert!(why.contains("stopped on purpose"), "{why}");

    drop(node.agent);
    let output = Command::new(env!("CARGO_BIN_EXE_mainstay"))
        .args(["release", "--socket"])
        .arg(node.dir.path().join("m.sock"))
        .output()
        .expect("it runs");
    assert!(output.status.success(), "without an agent a stop must not fail: {output:?}");
}

#[test]
fn the_history_is_shown_where_there_is_no_journal() {
    let node = Node::serving();
    // Of a journal this test's user may read, it has nothing of this agent: it was never connected to one.
    let output = node.ask(&["events", "--json", "--group", "g"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let first: serde_json::Value = serde_json::from_str(text.lines().next().unwrap_or_default()).expect("an event");
    assert_eq!((&first["event"], &first["epoch"]), (&"change-of-primary".into(), &1.into()), "{text}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("replicated history"));
}
