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
    # Everything said so far; a line of its own ends it.
    journalctl --directory="/run/log/journal/$(cat /etc/machine-id)" --output=json "SYSLOG_IDENTIFIER=mainstay" || true
    echo END
done
"#;

/// MESSAGE_ID of a change of primary.
const CHANGE_OF_PRIMARY: &str = "6f6ab0ce4a9c4f0c8d9a1d4d6c6f0e11";

fn entries(text: &str) -> Vec<serde_json::Value> {
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn ask(asked: &mut impl std::io::Write, told: &mut impl std::io::BufRead) -> Vec<serde_json::Value> {
    writeln!(asked, "?").expect("the script reads");
    let mut text = String::new();
    let mut line = String::new();
    while told.read_line(&mut line).expect("the script answers") > 0 && line != "END\n" {
        text.push_str(&line);
        line.clear();
    }
    entries(&text)
}

#[test]
fn events_reach_a_real_journal_with_the_fields_an_operator_searches_by() {
    if !nix::unistd::geteuid().is_root() {
        return crate::ci::skip("needs root for a mount namespace");
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
        .env("CONFIG", dir.path().join("mainstay.toml"));
    let mut running = spawn(shell.stdin(Stdio::piped()).stdout(Stdio::piped()));
    let mut asked = running.0.stdin.take().expect("a pipe");
    let mut told = std::io::BufReader::new(running.0.stdout.take().expect("a pipe"));
    let begun = Instant::now();
    let change = loop {
        let said = ask(&mut asked, &mut told);
        if let Some(found) = said.iter().find(|entry| entry["MESSAGE_ID"] == CHANGE_OF_PRIMARY) {
            break found.clone();
        }
        assert!(begun.elapsed() < BOUND, "no change of primary in the journal: {said:#?}");
        std::thread::sleep(Duration::from_millis(100));
    };
    assert_eq!(change["MAINSTAY_GROUP"], "g");
    assert_eq!(change["MAINSTAY_EPOCH"], "1");
    assert_eq!(change["PRIORITY"], "6");
    assert_eq!(change["_TRANSPORT"], "journal", "by journald's own protocol, not as text");
    assert_eq!(change["MESSAGE"], "primary is n1, before it nobody; first promotion group=g epoch=1");
}
