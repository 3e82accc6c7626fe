//! `run-node.sh` on a machine that lacks something: packages, network namespaces, a built binary.
//!
//! Packages are missing where the script looks for programs: in a folder of links to all but some. Debian's archive is
//! not asked: a script in apt-get's place records what it is asked for, and links what was missing.

use crate::place::{Place, USER, seconds, until};
use crate::{healthy_without, one, primary, printed};
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

const REDIS: [&str; 4] = ["redis-cli", "redis-server", "valkey-server", "redis-check-rdb"];
const INSTALL: &str = "missing Debian packages; install them with: sudo apt-get install --no-install-recommends ";

/// A folder with all of this machine's programs but these.
fn all_but(place: &Place, name: &str, missing: &[&str]) -> PathBuf {
    let tools = place.path().join(name);
    fs::create_dir(&tools).expect("a folder");
    let path = std::env::var("PATH").expect("PATH");
    let folders = path.split(':').chain(["/usr/sbin", "/usr/bin", "/sbin", "/bin"]);
    for program in folders.filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten() {
        let name = program.file_name();
        if !missing.iter().any(|missing| *missing == name) && !tools.join(&name).exists() {
            symlink(program.path(), tools.join(name)).expect("a link");
        }
    }
    tools
}

/// What the script says that finds no other programs, and its exit code.
fn refused(place: &Place, tools: &Path, line: &str) -> (Option<i32>, String) {
    let output = place.command(line).env("PATH", tools).env_remove("DEBIAN_FRONTEND").output().expect("sh runs");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn missing_packages_are_named_to_an_ordinary_user() {
    let Some(place) = Place::new("packages-user", Some(USER)) else { return };
    let lacks = |name: &str, missing: &[&str], line: &str, packages: &str| {
        let tools = all_but(&place, name, missing);
        // An ordinary user may not get at root's; it is not run.
        fs::remove_file(tools.join("cargo")).unwrap_or_default();
        symlink("/bin/false", tools.join("cargo")).expect("a link");
        let said = refused(&place, &tools, line);
        assert_eq!(said, (Some(69), format!("run-node.sh: {INSTALL}{packages} \n")), "{line}");
        fs::remove_dir_all(tools).expect("the folder");
    };
    lacks("redis", &REDIS, "sh run-node.sh 1", "redis-tools");
    let show: Vec<&str> = REDIS.into_iter().chain(["ip", "mount"]).collect();
    lacks("show", &show, "sh run-node.sh", "redis-tools iproute2 mount");
    // One node has no addresses and no mounts.
    lacks("node", &show, "sh run-node.sh 1", "redis-tools");
    lacks("build", &["cc", "pkg-config"], "unset MAINSTAY_BIN; sh run-node.sh 1", "gcc pkg-config libsystemd-dev");
    assert_eq!(place.entries(), Vec::<String>::new(), "nothing was begun");
}

/// What stands in for apt-get: records, and installs Redis or, if it is told to, fails.
const APT_GET: &str = r#"#!/bin/sh
echo "${DEBIAN_FRONTEND:-} $*" >>apt-get.log
[ "$2" = install ] || exit 0
[ ! -e apt-get.fails ] || exit 100
for program in redis-cli redis-check-rdb; do ln -s "$(PATH=$REAL_PATH command -v $program)" "$TOOLS"; done
"#;

#[test]
fn missing_packages_are_installed_as_root() {
    let Some(place) = Place::new("packages-root", None) else { return };
    let missing: Vec<&str> = REDIS.into_iter().chain(["apt-get"]).collect();
    let tools = all_but(&place, "tools", &missing);
    fs::write(tools.join("apt-get"), APT_GET).expect("a script");
    fs::set_permissions(tools.join("apt-get"), fs::Permissions::from_mode(0o755)).expect("chmod");
    let log = || fs::read_to_string(place.path().join("apt-get.log")).unwrap_or_default();
    let asked = " -q update\nnoninteractive -q install -y --no-install-recommends redis-tools\n";

    fs::write(place.path().join("apt-get.fails"), "").expect("a file");
    let (code, words) = refused(&place, &tools, "sh run-node.sh 1");
    assert_eq!(code, Some(69), "{words}");
    assert!(words.contains("apt-get could not install: redis-tools"), "{words}");
    assert_eq!(log(), asked);
    assert!(!place.path().join("node1").exists(), "it went on");

    fs::remove_file(place.path().join("apt-get.fails")).expect("it is there");
    let real = std::env::var("PATH").expect("PATH");
    let line = format!("env -u DEBIAN_FRONTEND REAL_PATH={real} TOOLS={0} PATH={0} sh run-node.sh 1", tools.display());
    let node = place.start(&line, "n1.log");
    node.shows("installing Debian's packages: redis-tools", seconds(10));
    node.shows("node 1: agent 127.0.0.1:7000", seconds(10));
    assert_eq!(log(), asked.repeat(2));
    node.interrupt();
    place.nothing_runs(seconds(3));
    place.no_file_outside();
}

/// Root, but without the right to make namespaces: as in most containers.
const NO_NAMESPACES: &str = "setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin sh run-node.sh";

#[test]
fn without_namespaces_three_nodes_run_on_loopback() {
    let Some(place) = Place::new("loopback", None) else { return };
    let running = place.start(NO_NAMESPACES, "show.log");
    running.shows("---", seconds(40));
    let text = running.text();
    assert!(text.contains("No network namespaces here, so no VIP: the nodes run on loopback. The reason: "), "{text}");
    assert!(text.contains("Operation not permitted"), "{text}");
    let commands = printed(&text);
    let (get, status) = (one(&commands, " get "), one(&commands, " status"));
    assert!(commands.iter().all(|command| !command.contains("plug")), "there are no cables: {commands:?}");
    assert!(place.says("sh run-node.sh unplug n1").contains("no cables on loopback"));

    let first = primary(&until("all three are well", seconds(40), || {
        let text = place.says(status);
        let well = text.contains("HEALTHY") && text.matches("following n").count() == 2;
        if well { Ok(text) } else { Err(text) }
    }));
    let first = first.expect("a primary");
    let set = one(&commands, "at primary redis-cli set ");
    assert_eq!(place.says(set), "OK\n");
    assert_eq!(place.says(get), "hello\n");
    assert_eq!(place.says(one(&commands, " kill ")), format!("killed Redis on {first}\n"));
    let second = healthy_without(&place, status, &first);
    assert_eq!(place.says(get), "hello\n");
    assert_eq!(place.says(set), "OK\n", "on the new primary, which is on another port");
    let switched = until("a switchover", seconds(20), || {
        let output = place.says(one(&commands, " switchover"));
        if output.contains("->") { Ok(output) } else { Err(output) }
    });
    assert!(switched.contains(&format!("{second} ->")), "{switched}");

    running.interrupt();
    place.nothing_runs(seconds(3));
    assert_eq!(place.entries(), Vec::<String>::new(), "left in the folder");
    place.no_file_outside();
}

/// What is built in the checkout's place, which would take a minute: a crate of the same name whose program notes where it
/// lies, and then is the agent.
const PROGRAM: &str = r#"
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
fn main() {
    let own = std::env::current_exe().unwrap();
    let log = std::fs::File::options().create(true).append(true).open(std::env::var("BUILT_LOG").unwrap());
    writeln!(log.unwrap(), "{}", own.display()).unwrap();
    panic!("{}", std::process::Command::new(env!("AGENT")).args(std::env::args().skip(1)).exec());
}
"#;
const MANIFEST: &str = "[package]\nname = \"mainstay\"\nversion = \"0.1.0\"\nedition = \"2024\"\n";
const LOCK: &str = "version = 4\n\n[[package]]\nname = \"mainstay\"\nversion = \"0.1.0\"\n";

/// Without `MAINSTAY_BIN` cargo builds beside the script, into the folder that it was told to, wherever the script is
/// started.
#[test]
fn it_is_built_where_no_binary_is_named() {
    let Some(place) = Place::new("build", None) else { return };
    let write = |name: &str, text: &str| fs::write(place.path().join(name), text).expect("a file");
    fs::create_dir(place.path().join("src")).expect("a folder");
    write("Cargo.toml", MANIFEST);
    write("Cargo.lock", LOCK);
    write("src/main.rs", PROGRAM);
    let (here, built) = (place.path().display().to_string(), place.path().join("built.log"));
    let elsewhere = tempfile::tempdir().expect("a folder");
    let absolute = elsewhere.path().join("away").display().to_string();
    for (log, target, wanted) in [
        ("default.log", "", format!("{here}/target")),
        ("relative.log", "CARGO_TARGET_DIR=near", format!("{here}/near")),
        ("absolute.log", &*format!("CARGO_TARGET_DIR={absolute}"), absolute.clone()),
    ] {
        let line = format!(
            "env -u MAINSTAY_BIN -u CARGO_TARGET_DIR -C {} HOME={} AGENT={} BUILT_LOG={} {target} sh {here}/run-node.sh 1",
            elsewhere.path().display(),
            std::env::var("HOME").expect("HOME"),
            env!("CARGO_BIN_EXE_mainstay"),
            built.display(),
        );
        // In the machine's own /tmp, where the compiler and what it is built from may be.
        let node = place.start_openly(&line, log);
        node.shows("node 1: agent 127.0.0.1:7000", seconds(60));
        assert!(node.text().starts_with("building mainstay (cargo build)"), "{}", node.text());
        let ran = until("the program has run", seconds(10), || fs::read_to_string(&built).map_err(|e| e.to_string()));
        assert!(ran.lines().all(|line| line == format!("{wanted}/debug/mainstay")), "not {wanted}: {ran}");
        node.interrupt();
        place.nothing_runs(seconds(3));
        fs::remove_file(&built).expect("it is there");
    }
}
