//! What the agent writes to the journal, read back from a real journald.
//!
//! journald runs alone, in a mount namespace of its own whose /run is empty, so it meets nothing of this machine's own.
//! Needs root, as the lab does.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{BOUND, free_port, spawn, write_config};

/// The journal, and a one-node cluster whose agent is connected to it as systemd would; ends when its stdin closes.
const SCRIPT: &str = r#"
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/journal /run/log/journal
/lib/systemd/systemd-journald & journald=$!
trap 'kill $journald $redis $agent 2>/dev/null; wait' EXIT
until [ -S /run/systemd/journal/stdout ]; do sleep 0.05; done
redis-server --port "$PORT" --bind 127.0.0.1 --replicaof 127.0.0.1 1 --save '' >/dev/null & redis=$!
# What systemd sets for a service whose stderr goes to the journal.
systemd-cat -t mainstay sh -c '
    JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2)
    export JOURNAL_STREAM
    exec "$PROGRAM" run --config "$CONFIG"' & agent=$!
while read -r ask; do
    # A line of its own ends each answer.
    case "$ask" in
    stop) kill -STOP $journald ;;
    go) kill -CONT $journald ;;
    events) "$PROGRAM" events --json --socket "$SOCKET" ;;
    # Everything said so far.
    *) journalctl --directory="/run/log/journal/$(cat /etc/machine-id)" --output=json "SYSLOG_IDENTIFIER=mainstay" || true ;;
    esac
    echo END
done
"#;

/// MESSAGE_ID of a change of primary.
const CHANGE_OF_PRIMARY: &str = "6f6ab0ce4a9c4f0c8d9a1d4d6c6f0e11";
/// And of lines that were lost.
const LOG_LOST: &str = mainstay::ctl::catalog::LOG_LOST;

fn entries(text: &str) -> Vec<serde_json::Value> {
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn ask(asked: &mut impl std::io::Write, told: &mut impl std::io::BufRead, what: &str) -> Vec<serde_json::Value> {
    writeln!(asked, "{what}").expect("the script reads");
    let mut text = String::new();
    let mut line = String::new();
    while told.read_line(&mut line).expect("the script answers") > 0 && line != "END\n" {
        text.push_str(&line);
        line.clear();
    }
    entries(&text)
}

/// A journal, an instance and an agent in a mount namespace of their own; None without the right to have one.
struct World {
    dir: tempfile::TempDir,
    _running: crate::support::Running,
    asked: std::process::ChildStdin,
    told: std::io::BufReader<std::process::ChildStdout>,
}

impl World {
    fn new(log: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            crate::ci::skip("needs root for a mount namespace");
            return None;
        }
        assert!(Path::new("/etc/machine-id").exists(), "journald needs /etc/machine-id");
        let dir = tempfile::tempdir().expect("a directory");
        let (agent, redis) = (free_port(), free_port());
        write_config(dir.path(), agent, redis);
        let mut shell = Command::new("unshare");
        shell
            .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", SCRIPT])
            .current_dir(dir.path())
            .env("PORT", redis.to_string())
            .env("PROGRAM", env!("CARGO_BIN_EXE_mainstay"))
            .env("MAINSTAY_LOG", log)
            .env("SOCKET", dir.path().join("m.sock"))
            .env("CONFIG", dir.path().join("mainstay.toml"));
        let mut running = spawn(shell.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let asked = running.0.stdin.take().expect("a pipe");
        let told = std::io::BufReader::new(running.0.stdout.take().expect("a pipe"));
        Some(Self { dir, _running: running, asked, told })
    }

    fn ask(&mut self, what: &str) -> Vec<serde_json::Value> {
        ask(&mut self.asked, &mut self.told, what)
    }

    /// The first entry of this kind.
    fn wait_for(&mut self, what: &str, wanted: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        let begun = Instant::now();
        loop {
            let said = self.ask("?");
            if let Some(found) = said.iter().find(|entry| wanted(entry)) {
                return found.clone();
            }
            assert!(begun.elapsed() < BOUND, "no {what} in the journal: {said:#?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// What the agent says of itself, and how long that took.
    fn status(&self) -> (serde_json::Value, Duration) {
        let begun = Instant::now();
        let mut command = Command::new(env!("CARGO_BIN_EXE_mainstay"));
        let output = command.args(["status", "--json", "--socket"]).arg(self.dir.path().join("m.sock")).output();
        let output = output.expect("it runs");
        let report = serde_json::from_slice(&output.stdout);
        (report.unwrap_or_else(|error| panic!("{error}: {output:?}")), begun.elapsed())
    }
}

#[test]
fn events_reach_a_real_journal_with_the_fields_an_operator_searches_by() {
    let Some(mut world) = World::new("info") else { return };
    let change = world.wait_for("change of primary", |entry| entry["MESSAGE_ID"] == CHANGE_OF_PRIMARY);
    assert_eq!(change["MAINSTAY_GROUP"], "g");
    assert_eq!(change["MAINSTAY_EPOCH"], "1");
    assert_eq!(change["PRIORITY"], "6");
    assert_eq!(change["_TRANSPORT"], "journal", "by journald's own protocol, not as text");
    assert_eq!(change["MESSAGE"], "primary is n1, before it nobody; first promotion group=g epoch=1");
    let events = world.ask("events");
    let found = events.iter().find(|event| event["event"] == "change-of-primary");
    let found = found.unwrap_or_else(|| panic!("`mainstay events` shows no change: {events:#?}"));
    assert_eq!((&found["group"], &found["epoch"]), (&"g".into(), &1.into()));
    assert_eq!(found["boot"], change["_BOOT_ID"]);
    assert!(events.iter().any(|event| event["event"] == "agent-started"), "{events:#?}");
}

#[test]
fn a_journal_that_takes_nothing_holds_the_agent_up_for_nothing() {
    // Everything there is to say, so that both the journal's socket and the agent's own queue are soon full.
    let Some(mut world) = World::new("trace") else { return };
    world.wait_for("change of primary", |entry| entry["MESSAGE_ID"] == CHANGE_OF_PRIMARY);
    let begun = Instant::now();
    while world.status().0["groups"][0]["instances"][0]["posture"] != "serving" {
        assert!(begun.elapsed() < BOUND, "it does not serve");
        std::thread::sleep(Duration::from_millis(50));
    }
    world.ask("stop");
    let begun = Instant::now();
    let mut slowest = Duration::ZERO;
    while begun.elapsed() < Duration::from_secs(5) {
        let (report, took) = world.status();
        let group = &report["groups"][0];
        assert_eq!((&group["epoch"], &group["primary"]), (&1.into(), &"n1".into()), "{report:#}");
        assert_eq!(group["instances"][0]["posture"], "serving", "{report:#}");
        slowest = slowest.max(took);
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(slowest < Duration::from_secs(2), "the agent answered after {slowest:?}");
    world.ask("go");
    let lost = world.wait_for("word of lost lines", |entry| entry["MESSAGE_ID"] == LOG_LOST);
    println!("slowest answer {slowest:?}; then: {}", lost["MESSAGE"]);
}
