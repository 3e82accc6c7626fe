//! A service manager that does not read: its socket's queue is full, and the agent must not notice.

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{BOUND, ended, free_port, run_command, start, start_redis, write_config};

/// The agent's exit code for a status asked of it, from its loop.
fn status(dir: &std::path::Path) -> Option<i32> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mainstay"));
    command.args(["status", "--socket"]).arg(dir.join("m.sock"));
    command.output().expect("status").status.code()
}

#[test]
fn a_manager_that_does_not_read_holds_nothing_up() {
    let dir = tempfile::tempdir().expect("a directory");
    let (agent, redis) = (free_port(), free_port());
    write_config(dir.path(), agent, redis);
    let path = dir.path().join("notify");
    // Bound, and never read.
    let socket = UnixDatagram::bind(&path).expect("a socket");
    let _redis = start_redis(dir.path(), redis);
    let mut running = start(
        run_command(dir.path())
            .env("NOTIFY_SOCKET", &path)
            // A pet every 10 ms: the queue is full within a second.
            .env("WATCHDOG_USEC", "40000"),
    );
    let begun = Instant::now();
    while status(dir.path()) != Some(0) {
        assert!(begun.elapsed() < BOUND, "it does not get healthy");
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(Duration::from_secs(2));
    let probe = UnixDatagram::unbound().expect("a socket");
    probe.set_nonblocking(true).expect("non-blocking");
    assert!(probe.send_to(b"full?", &path).is_err(), "the manager's queue is not full: this test proves nothing");
    assert_eq!(status(dir.path()), Some(0), "the loop waits for the manager");

    let pid = Pid::from_raw(i32::try_from(running.0.id()).expect("a pid"));
    kill(pid, Signal::SIGTERM).expect("asked to stop");
    let status = ended(&mut running);
    assert!(status.success(), "{status}");
    drop(socket);
}
