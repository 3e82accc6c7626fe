//! The real binary: its help, its exit codes, its words, and the emergency brake on a real instance.

#[path = "ci/mod.rs"]
mod ci;
#[path = "cli/support.rs"]
mod support;

use mainstay::agent::stamp::{Keeper, Stamps};
use mainstay::cluster::{Epoch, GroupName, RunId};
use mainstay::ctl::protocol::{Done, RefusalKind, Request, Response, Switched};
use mainstay::ctl::report::{Health, StatusReport};
use mainstay::view::{Moment, Stamp};
use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::time::{Duration, Instant};
use support::{Agent, Namespace, Redis, config, mainstay, run, wait};
use tempfile::TempDir;

/// The commands of this stage; a name that is not built must not be there.
const COMMANDS: [&str; 16] = [
    "events",
    "init",
    "release",
    "bootstrap",
    "failover",
    "join",
    "run",
    "status",
    "switchover",
    "pause",
    "resume",
    "members",
    "leave",
    "fence",
    "keygen",
    "import-sentinel",
];

fn report() -> StatusReport {
    StatusReport {
        node: "n1".to_owned(),
        leader: Some("n1".to_owned()),
        term: 7,
        groups: Vec::new(),
        nodes: Vec::new(),
        health: Health::Healthy,
        has_quorum: true,
        problems: Vec::new(),
        waiting: None,
        warnings: Vec::new(),
        lease_ms: 800,
        version: "0".to_owned(),
        now_unix_ms: 0,
    }
}

#[test]
fn help_names_the_commands_and_fits_a_terminal() {
    let out = run(mainstay().arg("--help"));
    assert_eq!(out.code, 0);
    assert!(out.stderr.is_empty());
    let listed: Vec<&str> = out
        .stdout
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let mut wanted = COMMANDS.to_vec();
    wanted.push("help");
    assert_eq!(
        {
            let mut listed = listed.clone();
            listed.sort_unstable();
            listed
        },
        {
            wanted.sort_unstable();
            wanted
        }
    );
    for command in COMMANDS {
        let help = run(mainstay().args([command, "--help"]));
        assert_eq!(help.code, 0, "{command}");
        assert!(help.stdout.contains(&format!("Usage: mainstay {command}")), "{}", help.stdout);
        for line in help.stdout.lines().chain(out.stdout.lines()) {
            assert!(line.len() <= 110, "{command}: {line}");
        }
        let undocumented = help.stdout.lines().find(|line| {
            let option = line.trim_start().starts_with("--");
            option && line.trim().split("  ").filter(|part| !part.is_empty()).count() < 2
        });
        assert_eq!(undocumented, None, "{command}");
    }
    assert_eq!(run(mainstay().arg("--version")).stdout, format!("mainstay {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_wrong_command_line_is_64() {
    let wrong: [&[&str]; 9] = [
        &[],
        &["dance"],
        &["status", "--colour"],
        &["leave"],
        &["run", "--join", "10.0.0.1"],
        &["pause", "--for", "soon"],
        &["failover", "--to", "n2"],
        &["join", "10.0.0.1"],
        &["fence", "now"],
    ];
    for args in wrong {
        let out = run(mainstay().args(args));
        assert_eq!(out.code, 64, "{args:?}: {}", out.stderr);
        assert!(!out.stderr.is_empty() && out.stdout.is_empty(), "{args:?}");
    }
    let long = "x".repeat(501);
    let out = run(mainstay().args(["pause", "--reason", &long]));
    assert_eq!(out.code, 64);
    assert!(out.stderr.contains("at most 500"), "{}", out.stderr);
    let near = run(mainstay().arg("stauts")).stderr;
    assert!(near.contains("similar subcommands exist") && near.contains("status"), "{near}");
    assert!(run(mainstay().args(["run", "--join", "10.0.0.1"])).stderr.contains("has no port"));
}

#[test]
fn without_an_agent_status_is_2_and_the_others_69() {
    let dir = TempDir::new().expect("a directory");
    let socket = dir.path().join("none.sock");
    for command in
        [&["status"][..], &["status", "--json"], &["switchover"], &["members"], &["leave", "n3"], &["resume"]]
    {
        let out = run(mainstay().args(command).arg("--socket").arg(&socket));
        assert_eq!(out.code, if command[0] == "status" { 2 } else { 69 }, "{command:?}");
        let wanted = format!("no agent answers on {}: is mainstay running?", socket.display());
        assert!(out.stderr.contains(&wanted) && out.stderr.contains("systemctl status mainstay"), "{}", out.stderr);
        assert!(out.stdout.is_empty());
    }
}

#[test]
fn a_config_fault_is_78_with_its_line_and_a_missing_file_66() {
    let dir = TempDir::new().expect("a directory");
    let file = dir.path().join("mainstay.toml");
    std::fs::write(&file, "[node]\nname = \"n1\"\naddres = \"10.0.0.1:7400\"\n").expect("writes");
    for args in [&["run", "--config"][..], &["status", "--config"], &["fence", "--config"]] {
        let out = run(mainstay().args(args).arg(&file));
        assert_eq!(out.code, 78, "{}", out.stderr);
        assert!(out.stderr.contains(&format!("{}:3:", file.display())), "{}", out.stderr);
        assert!(out.stderr.contains("addres"), "{}", out.stderr);
        let out = run(mainstay().args(args).arg(dir.path().join("none.toml")));
        assert_eq!(out.code, 66, "{}", out.stderr);
        assert!(out.stderr.contains("there is no such file"), "{}", out.stderr);
    }
}

#[test]
fn an_agent_that_cannot_start_says_why_and_under_which_code() {
    let dir = TempDir::new().expect("a directory");
    let file = config(dir.path(), 6379, "");
    let key = dir.path().join("key");
    let start = || run(mainstay().args(["run", "--config"]).arg(&file));
    let out = start();
    assert_eq!(out.code, 66, "{}", out.stderr);
    assert!(out.stderr.contains(&key.display().to_string()), "{}", out.stderr);
    std::fs::write(&key, "c2hvcnQ=\n").expect("writes");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).expect("sets");
    let out = start();
    assert_eq!(out.code, 78, "{}", out.stderr);
    assert!(out.stderr.contains("chmod 0640"), "{}", out.stderr);
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("sets");
    let out = start();
    assert_eq!(out.code, 78, "{}", out.stderr);
    assert_eq!(out.stderr.matches("mainstay keygen").count(), 1, "said twice: {}", out.stderr);
}

#[test]
fn keygen_prints_a_key_that_the_agents_take() {
    let (one, two) = (run(mainstay().arg("keygen")), run(mainstay().arg("keygen")));
    assert_eq!((one.code, one.stdout.lines().count()), (0, 1));
    assert!(mainstay::wire::parse_key_file(&one.stdout).is_ok(), "{}", one.stdout);
    assert_ne!(one.stdout, two.stdout);
}

#[test]
fn status_prints_the_report_and_ends_with_its_health() {
    for (health, code) in [(Health::Healthy, 0), (Health::Degraded, 1), (Health::NoQuorum, 2)] {
        let agent = Agent::start(move |_| Response::Status(Box::new(StatusReport { health, ..report() })));
        let out = run(mainstay().args(["status", "--socket"]).arg(agent.socket()));
        assert_eq!(out.code, code, "{}", out.stderr);
        assert!(out.stdout.contains("NODES as n1 sees them: leader n1, term 7"), "{}", out.stdout);
        assert!(!out.stdout.contains('\u{1b}'), "no colours but on a terminal");
        let out = run(mainstay().args(["status", "--json", "--socket"]).arg(agent.socket()));
        let json: serde_json::Value = serde_json::from_str(&out.stdout).expect("it is JSON");
        assert_eq!((json["node"].as_str(), out.code), (Some("n1"), code));
        let out = run(mainstay().args(["status", "--group", "g", "--socket"]).arg(agent.socket()));
        assert_eq!(out.code, 65, "{}", out.stderr);
    }
}

#[test]
fn the_socket_of_the_config_is_used() {
    let agent = Agent::start(|_| Response::Status(Box::new(report())));
    let file = config(agent.dir(), 6379, "");
    let out = run(mainstay().args(["status", "--config"]).arg(&file));
    assert_eq!(out.code, 0, "{}", out.stderr);
}

#[test]
fn a_switchover_says_what_clients_felt() {
    let agent = Agent::start(|request| match request {
        Request::Switchover { to: Some(to), group: None } if to == "n2" => Response::Done(Done::Switched(Switched {
            group: GroupName::from("mymaster"),
            from: "n1".to_owned(),
            to,
            epoch: Epoch(4),
            unserved_ms: Some(84),
            note: String::new(),
        })),
        _ => Response::refused(RefusalKind::NotNow, "n3 lags by 12 MB", "Wait until `mainstay status` shows less."),
    });
    let out = run(mainstay().args(["switchover", "--to", "n2", "--socket"]).arg(agent.socket()));
    assert_eq!(
        (out.code, out.stdout.as_str()),
        (0, "mymaster: n1 -> n2 at epoch 4; clients were unserved for at most 84 ms\n")
    );
    let out = run(mainstay().args(["switchover", "--to", "n3", "--socket"]).arg(agent.socket()));
    assert_eq!(out.code, 75);
    assert_eq!(out.stderr, "mainstay: n3 lags by 12 MB\nWait until `mainstay status` shows less.\n");
}

#[test]
fn requests_carry_what_was_typed() {
    let agent = Agent::start(|request| Response::said(format!("{request:?}")));
    let said = |args: &[&str]| run(mainstay().args(args).arg("--socket").arg(agent.socket())).stdout;
    let pause = said(&["pause", "--for", "10m", "--reason", "kernel", "--group", "g"]);
    assert_eq!(pause, "Pause { group: Some(GroupName(\"g\")), length: Some(600s), reason: \"kernel\" }\n");
    assert_eq!(said(&["pause"]), "Pause { group: None, length: None, reason: \"\" }\n");
    assert_eq!(said(&["resume"]), "Resume { group: None }\n");
    assert_eq!(said(&["leave", "n3"]), "Leave { node: \"n3\" }\n");
    assert_eq!(said(&["fence"]), "FenceHere\n");
}

#[test]
fn watch_shows_again_and_ends_cleanly_on_a_signal() {
    let agent = Agent::start(|_| Response::Status(Box::new(report())));
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut command = mainstay();
        command.args(["status", "--watch", "--json", "--socket"]).arg(agent.socket()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let started = Instant::now();
        for _ in 0..2 {
            let line = lines.next().expect("a frame").expect("text");
            assert!(serde_json::from_str::<StatusReport>(&line).is_ok(), "{line}");
        }
        assert!(started.elapsed() >= Duration::from_millis(900), "once a second");
        kill(Pid::from_raw(child.id().cast_signed()), signal).expect("it runs");
        assert_eq!(wait(&mut child, Duration::from_secs(2)), Some(0), "{signal}");
    }
}

#[test]
fn watch_survives_the_agent_and_ends_when_nobody_reads() {
    let dir = TempDir::new().expect("a directory");
    let mut command = mainstay();
    command.args(["status", "--watch", "--socket"]).arg(dir.path().join("none.sock")).stdout(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut line = String::new();
    out.read_line(&mut line).expect("a frame");
    assert!(line.starts_with("no agent answers"), "{line}");
    drop(out);
    assert_eq!(wait(&mut child, Duration::from_secs(5)), Some(0));
}

#[test]
fn fence_seals_the_instance_without_an_agent() {
    let dir = TempDir::new().expect("a directory");
    let redis = Redis::start(dir.path(), None);
    let file = config(dir.path(), redis.port, "");
    assert!(redis.cli(&["SET", "k", "v"]).contains("OK"));
    let spared = run(mainstay().args(["fence", "--if-lapsed", "--config"]).arg(&file));
    assert_eq!(spared.code, 0, "{}", spared.stderr);
    assert!(spared.stdout.starts_with("mymaster: left alone"), "{}", spared.stdout);
    assert!(redis.cli(&["ROLE"]).starts_with("master"));
    for _ in 0..2 {
        let out = run(mainstay().args(["fence", "--config"]).arg(&file));
        assert_eq!(out.code, 0, "{}", out.stderr);
        assert!(out.stdout.starts_with("mymaster: instance sealed at offset"), "{}", out.stdout);
        let role = redis.cli(&["ROLE"]);
        assert!(role.starts_with("slave\n127.0.0.1\n1\n"), "{role}");
        assert!(redis.cli(&["SET", "k", "w"]).contains("READONLY"));
    }
    drop(redis);
    let out = run(mainstay().args(["fence", "--config"]).arg(&file));
    assert_eq!((out.code, out.stdout.as_str()), (0, "mymaster: instance is not running\n"), "{}", out.stderr);
}

#[test]
fn fence_goes_by_the_stamp_where_it_is_told_to() {
    let dir = TempDir::new().expect("a directory");
    let redis = Redis::start(dir.path(), None);
    let file = config(dir.path(), redis.port, "");
    let now = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).expect("a clock")).as_nanos();
    let now = Moment(u64::try_from(now).expect("a host is not that old"));
    let stamp = |stamp: Stamp| {
        let socket = dir.path().join("mainstay.sock");
        let (group, open) = (GroupName::from("mymaster"), || Stamps::open(&socket).expect("a boot id"));
        Keeper::start(open(), |_, _| {}).expect("a thread").put(&group, stamp.clone());
        let begun = Instant::now();
        while open().all().get(&group) != Some(&stamp) {
            assert!(begun.elapsed() < Duration::from_secs(10), "not written");
        }
        let file = file.clone();
        move |only: &str| {
            let out = run(mainstay().args(["fence", only, "--config"]).arg(&file));
            assert_eq!(out.code, 0, "{}", out.stderr);
            out.stdout
        }
    };
    let leased = |until| Stamp::Leased { epoch: Epoch(4), run_id: RunId::from("r"), until };
    let given = stamp(Stamp::Surrendered { epoch: Epoch(4) });
    for only in ["--if-lapsed", "--if-held"] {
        let given = given(only);
        assert!(given.starts_with("mymaster: left alone: epoch 4 was fenced"), "{given}");
    }
    let fence = stamp(leased(now + Duration::from_secs(60)));
    let held = fence("--if-lapsed");
    assert!(held.starts_with("mymaster: left alone: the lease for epoch 4 holds for"), "{held}");
    assert!(redis.cli(&["ROLE"]).starts_with("master"));
    let unattended = fence("--if-held");
    assert!(unattended.starts_with("mymaster: instance sealed"), "no agent comes back: {unattended}");
    assert!(redis.cli(&["REPLICAOF", "NO", "ONE"]).contains("OK"));
    let lapsed = stamp(leased(now))("--if-lapsed");
    assert!(lapsed.starts_with("mymaster: instance sealed"), "{lapsed}");
    assert!(redis.cli(&["ROLE"]).starts_with("slave"));
}

#[test]
fn fence_goes_on_without_an_agent_that_refuses_or_is_frozen() {
    let agent = Agent::start(|_| Response::refused(RefusalKind::Internal, "the loop is stuck", ""));
    let redis = Redis::start(agent.dir(), None);
    let file = config(agent.dir(), redis.port, "");
    let out = run(mainstay().args(["fence", "--config"]).arg(&file));
    assert_eq!(out.code, 0, "{}", out.stderr);
    assert!(out.stderr.contains("the loop is stuck; going on without it"), "{}", out.stderr);
    assert!(redis.cli(&["ROLE"]).starts_with("slave"));
    let spared = run(mainstay().args(["fence", "--if-lapsed", "--config"]).arg(&file));
    assert!(spared.stdout.starts_with("left alone: an agent runs here"), "{}", spared.stdout);

    let dir = TempDir::new().expect("a directory");
    let redis = Redis::start(dir.path(), None);
    let file = config(dir.path(), redis.port, "");
    let _frozen = std::os::unix::net::UnixListener::bind(dir.path().join("mainstay.sock")).expect("binds");
    let started = Instant::now();
    let out = run(mainstay().args(["fence", "--config"]).arg(&file));
    assert_eq!(out.code, 0, "{}", out.stderr);
    assert!(out.stderr.contains("no answer within 3 s"), "{}", out.stderr);
    assert!(started.elapsed() < Duration::from_secs(5));
    assert!(redis.cli(&["ROLE"]).starts_with("slave"));
}

#[test]
fn fence_that_cannot_seal_says_so_and_how_to_end_it() {
    let dir = TempDir::new().expect("a directory");
    let redis = Redis::start(dir.path(), None);
    let file = config(dir.path(), redis.port, "");
    redis.signal(Signal::SIGSTOP);
    let started = Instant::now();
    let out = run(mainstay().args(["fence", "--config"]).arg(&file));
    redis.signal(Signal::SIGCONT);
    assert_eq!(out.code, 69, "{}", out.stderr);
    assert!(out.stderr.contains("NOT sealed") && out.stderr.contains("kill -KILL"), "{}", out.stderr);
    assert!(started.elapsed() < Duration::from_secs(4));
}

#[test]
fn fence_drops_the_vip() {
    let Some(space) = Namespace::new() else {
        return ci::skip("no right to make a network namespace");
    };
    space.ip(&["link", "set", "lo", "up"]);
    space.ip(&["link", "add", "e0", "type", "veth", "peer", "name", "e1"]);
    space.ip(&["link", "set", "e0", "up"]);
    space.ip(&["link", "set", "e1", "up"]);
    space.ip(&["address", "add", "10.9.0.1/24", "dev", "e0"]);
    space.ip(&["address", "add", "10.9.0.100/32", "dev", "e0", "valid_lft", "60", "preferred_lft", "60"]);
    let dir = TempDir::new().expect("a directory");
    let redis = Redis::start(dir.path(), Some(&space));
    let file = config(dir.path(), redis.port, "vip = \"10.9.0.100/24\"\ninterface = \"e0\"\n");
    for text in ["VIP 10.9.0.100 dropped", "VIP 10.9.0.100 was not here"] {
        let mut command = space.exec(env!("CARGO_BIN_EXE_mainstay"));
        let out = run(command.args(["fence", "--config"]).arg(&file));
        assert_eq!(out.code, 0, "{}", out.stderr);
        assert!(out.stdout.contains("instance sealed") && out.stdout.contains(text), "{}", out.stdout);
        assert!(!space.ip(&["address", "show", "dev", "e0"]).contains("10.9.0.100"));
    }
}

#[test]
fn output_that_nobody_reads_is_no_error() {
    let mut child = mainstay().arg("--help").stdout(Stdio::piped()).spawn().expect("it starts");
    drop(child.stdout.take());
    assert_eq!(wait(&mut child, Duration::from_secs(5)), Some(0));
    let mut child = mainstay().arg("keygen").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    drop(child.stdout.take());
    assert_eq!(wait(&mut child, Duration::from_secs(5)), Some(0));
    let mut words = String::new();
    child.stderr.take().expect("a pipe").read_to_string(&mut words).expect("text");
    assert_eq!(words, "");
}

#[test]
fn a_sentinel_conf_becomes_a_config_and_what_it_lacks_is_said_beside_it() {
    let dir = TempDir::new().expect("a directory");
    let file = dir.path().join("sentinel.conf");
    std::fs::write(&file, "sentinel monitor mymaster 10.0.0.1 6379 2\nsentinel auth-pass mymaster hunter2\n")
        .expect("writes");
    let import = |more: &[&str]| run(mainstay().arg("import-sentinel").arg(&file).args(more));
    let unplaced = import(&[]);
    assert_eq!((unplaced.code, unplaced.stdout.as_str()), (65, ""), "{}", unplaced.stderr);
    assert!(unplaced.stderr.contains("--address IP"), "{}", unplaced.stderr);

    let out = import(&["--address", "10.0.0.1"]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    let (config, warnings) = mainstay::config::parse(&out.stdout, "stdout").expect("the reader takes it");
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(config.groups[0].announce.to_string(), "10.0.0.1:6379");
    assert!(out.stderr.contains("sentinel.conf:2: the password of mymaster is not printed"), "{}", out.stderr);
    assert!(!out.stdout.contains("hunter2") && !out.stderr.contains("hunter2"));

    let missing = run(mainstay().args(["import-sentinel", "/nonexistent/sentinel.conf"]));
    assert_eq!(missing.code, 66, "{}", missing.stderr);
    let nonsense = import(&["--address", "10.0.0"]);
    assert_eq!(nonsense.code, 64, "{}", nonsense.stderr);
}
