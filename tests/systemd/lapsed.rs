//! An agent that cannot start on a host whose lease has lapsed: it fences all the same, and before anything else (S1).

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{BOUND, free_port, start, write_config};

fn ask(port: u16, command: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    write!(stream, "{command}\r\n").ok()?;
    let mut answer = [0; 256];
    let length = stream.read(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer[..length]).into_owned())
}

#[test]
fn a_lapsed_lease_is_fenced_even_by_an_agent_that_cannot_start() {
    let dir = tempfile::tempdir().expect("a directory");
    let (agent, redis) = (free_port(), free_port());
    write_config(dir.path(), agent, redis);
    let port = redis.to_string();
    let args = ["--port", &port, "--bind", "127.0.0.1", "--save", ""];
    let _redis = start(Command::new("redis-server").current_dir(dir.path()).args(args));
    let begun = Instant::now();
    while !ask(redis, "ROLE").is_some_and(|role| role.contains("master")) {
        assert!(begun.elapsed() < BOUND, "no primary to begin with");
        std::thread::sleep(Duration::from_millis(20));
    }
    // The agent before left a lease behind, and the disk a store that no agent starts with.
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("a boot id").trim().replace('-', "");
    let stamp = format!("mainstay lease stamp 1\nboot {boot}\nleased g 4 {} 1000\nend\n", "a".repeat(40));
    std::fs::write(dir.path().join("m.lease"), stamp).expect("a stamp");
    std::fs::create_dir(dir.path().join("data")).expect("a directory");
    std::fs::write(dir.path().join("data/data.mdb"), vec![7; 5000]).expect("a store that is none");

    let mut command = Command::new(env!("CARGO_BIN_EXE_mainstay"));
    let out = command.args(["run", "--config"]).arg(dir.path().join("mainstay.toml")).output().expect("a run");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && said.contains("data.mdb"), "it started: {said}");
    let role = ask(redis, "ROLE").expect("its role");
    assert!(role.contains("slave"), "still a primary: {role}; the agent said {said}");
}
