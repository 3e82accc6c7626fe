//! What the agent tells the service manager: READY, a STATUS a person understands, WATCHDOG after good rounds, STOPPING.
//!
//! A real agent beside a real Redis on loopback, with this test in systemd's place at the notification socket.

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{BOUND, ended, free_port, run_command, start, start_redis, write_config};

/// Everything said until `enough` holds.
pub fn hear(socket: &UnixDatagram, said: &mut Vec<String>, enough: impl Fn(&[String]) -> bool) {
    let begun = Instant::now();
    let mut buffer = [0; 4096];
    while !enough(said) {
        assert!(begun.elapsed() < BOUND, "not said in time; so far {said:?}");
        match socket.recv(&mut buffer) {
            Ok(length) => said.extend(String::from_utf8_lossy(&buffer[..length]).lines().map(str::to_owned)),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn ready_status_watchdog_and_stopping_are_said_and_mean_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let (agent, redis) = (free_port(), free_port());
    write_config(dir.path(), agent, redis);
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a bound");
    let _redis = start_redis(dir.path(), redis);
    let mut running = start(run_command(dir.path()).env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "400000"));
    let mut said = Vec::new();
    hear(&socket, &mut said, |said| said.iter().any(|line| line == "READY=1"));
    hear(&socket, &mut said, |said| said.iter().any(|line| line == "STATUS=g: primary (epoch 1); leader n1"));
    let before = said.iter().filter(|line| *line == "WATCHDOG=1").count();
    hear(&socket, &mut said, |said| said.iter().filter(|line| *line == "WATCHDOG=1").count() >= before + 5);

    let pid = Pid::from_raw(i32::try_from(running.0.id()).expect("a pid"));
    kill(pid, Signal::SIGSTOP).expect("stopped");
    std::thread::sleep(Duration::from_millis(300));
    let mut while_stopped = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(length) = socket.recv(&mut buffer) {
        while_stopped.push(length);
        assert!(while_stopped.len() < 50, "a stopped agent pets the watchdog");
    }
    kill(pid, Signal::SIGCONT).expect("continued");

    kill(pid, Signal::SIGTERM).expect("asked to stop");
    hear(&socket, &mut said, |said| said.iter().any(|line| line == "STOPPING=1"));
    let status = ended(&mut running);
    assert!(status.success(), "{status}");
}
