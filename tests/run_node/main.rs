//! `run-node.sh` does what it prints: both forms, as root and as an ordinary user, each in a folder of its own with a
//! copy of the script. Its commands are taken from its output and run as they stand. Afterwards no process, mount or
//! file outside the folder is left, also when the script was killed.
//!
//! Needs root, to be both; without it the tests say so and are skipped, and fail if `CI=true`.

#![allow(missing_docs, unreachable_pub)]

#[path = "../ci/mod.rs"]
mod ci;
mod place;
mod scarce;

use nix::sys::signal::{Signal, kill};
use place::{Place, Running, USER, seconds, until};
use std::fs;

/// The commands that the script printed for its reader, as they stand.
fn printed(text: &str) -> Vec<String> {
    text.lines().filter_map(|line| line.strip_prefix("  sh ")).map(|line| format!("sh {line}")).collect()
}

fn one<'a>(commands: &'a [String], part: &str) -> &'a str {
    commands.iter().find(|command| command.contains(part)).unwrap_or_else(|| panic!("no {part} in {commands:?}"))
}

fn primary(status: &str) -> Option<String> {
    status.split_once("primary ")?.1.split([',', ' ', '\n']).next().map(ToOwned::to_owned)
}

/// Another node than `old` is primary, and everybody is well.
fn healthy_without(place: &Place, status: &str, old: &str) -> String {
    until("a new primary, and all are well", seconds(30), || {
        let text = place.says(status);
        match primary(&text) {
            Some(now) if now != old && text.contains("HEALTHY") => Ok(now),
            _ => Err(text),
        }
    })
}

fn three_nodes(name: &str, user: Option<u32>) {
    let Some(place) = Place::new(name, user) else { return };
    let running = place.start("sh run-node.sh", "show.log");
    running.shows("HEALTHY", seconds(40));
    let text = running.text();
    let commands = printed(&text);
    assert!(text.contains("The VIP is 10.77.0.100"), "{text}");
    let (set, get, status) = (one(&commands, " set "), one(&commands, " get "), one(&commands, " status"));
    let again = place.run("sh run-node.sh");
    assert_eq!(again.status.code(), Some(69), "a second one is refused");
    assert_eq!(place.says(set), "OK\n");
    assert_eq!(place.says(get), "hello\n");

    let first = primary(&place.says(status)).expect("a primary");
    assert_eq!(place.says(one(&commands, " kill ")), format!("killed Redis on {first}\n"));
    let reads = || match place.says(get) {
        value if value == "hello\n" => Ok(()),
        value => Err(value),
    };
    until("the VIP answers", seconds(15), reads);
    let second = healthy_without(&place, status, &first);
    let cut = place.says(one(&commands, " unplug "));
    assert!(cut.contains(&format!("{second} is cut off")), "{cut}");
    until("the VIP answers", seconds(15), reads);
    assert!(place.run(one(&commands, ".sh plug")).status.success());
    let third = healthy_without(&place, status, &second);
    let switched = until("a switchover", seconds(20), || {
        let output = place.says(one(&commands, " switchover"));
        if output.contains("->") { Ok(output) } else { Err(output) }
    });
    assert!(switched.contains(&format!("{third} ->")), "{switched}");
    healthy_without(&place, status, &third);
    assert_eq!(place.says(set), "OK\n");

    running.interrupt();
    place.nothing_runs(seconds(3));
    assert_eq!(place.entries(), Vec::<String>::new(), "left in the folder");
    place.no_file_outside();
}

fn killed(name: &str, user: Option<u32>) {
    let Some(place) = Place::new(name, user) else { return };
    let running = place.start("sh run-node.sh", "show.log");
    running.shows("---", seconds(20));
    kill(running.pid(), Signal::SIGKILL).expect("it runs");
    place.nothing_runs(seconds(5));
    drop(running);
    let mut running = place.start("sh run-node.sh", "show.log");
    running.shows("---", seconds(20));
    kill(running.pid(), Signal::SIGTERM).expect("it runs");
    running.ends(seconds(10));
    place.nothing_runs(seconds(3));
    assert_eq!(place.entries(), Vec::<String>::new(), "left in the folder");

    let node = place.start("sh run-node.sh 1", "n1.log");
    node.shows("again: ", seconds(30));
    kill(node.pid(), Signal::SIGKILL).expect("it runs");
    place.nothing_runs(seconds(5));
}

/// The command that node `no` printed for asking again.
fn status_of(running: &Running<'_>) -> String {
    running.shows("again: ", seconds(60));
    let text = running.text();
    let line = text.lines().find_map(|line| line.strip_prefix("again: ")).expect("it is there");
    line.to_owned()
}

fn single_nodes(name: &str, user: Option<u32>) {
    let Some(place) = Place::new(name, user) else { return };
    let second = place.start("sh run-node.sh 2", "n2.log");
    second.shows("waits for node 1", seconds(10));
    let first = place.start("sh run-node.sh 1", "n1.log");
    let status = status_of(&first);
    let third = place.start("sh run-node.sh 3", "n3.log");
    status_of(&second);
    status_of(&third);
    let leads = healthy_without(&place, &status, "nobody");

    let again = place.run("sh run-node.sh 1");
    let words = String::from_utf8_lossy(&again.stderr).into_owned();
    assert_eq!(again.status.code(), Some(69));
    assert!(words.contains("port 7000") && words.contains("mainstay (pid "), "{words}");
    let taken = std::net::TcpListener::bind("127.0.0.1:6382").expect("a port");
    let words = place.says("sh run-node.sh 4");
    let owner = if user.is_none() { format!("(pid {})", std::process::id()) } else { "of root".to_owned() };
    assert!(words.contains("port 6382") && words.contains(&owner), "{words}");
    drop(taken);

    let port = |node: &str| 6378 + node[1..].parse::<u16>().expect("n and a number");
    assert_eq!(place.says(&format!("redis-cli -p {} set greeting hello", port(&leads))), "OK\n");
    place.run(&format!("kill -KILL $(cat node{}/redis.pid)", &leads[1..]));
    let leads = healthy_without(&place, &status, &leads);
    assert_eq!(place.says(&format!("redis-cli -p {} get greeting", port(&leads))), "hello\n");

    third.interrupt();
    fs::remove_dir_all(place.path().join("node3")).expect("its files are there");
    let third = place.start("sh run-node.sh 3", "n3.log");
    status_of(&third);
    let leads = healthy_without(&place, &status, "n3");
    assert_eq!(place.says(&format!("redis-cli -p {} get greeting", port(&leads))), "hello\n");

    for node in [third, second, first] {
        node.interrupt();
    }
    place.nothing_runs(seconds(3));
    assert_eq!(place.entries(), ["node1", "node2", "node3"]);
    place.no_file_outside();
}

#[test]
fn three_nodes_as_root() {
    three_nodes("three-root", None);
}

#[test]
fn three_nodes_as_an_ordinary_user() {
    three_nodes("three-user", Some(USER));
}

#[test]
fn single_nodes_as_root() {
    single_nodes("single-root", None);
}

#[test]
fn single_nodes_as_an_ordinary_user() {
    single_nodes("single-user", Some(USER));
}

#[test]
fn what_a_killed_script_started_dies_with_it() {
    killed("killed-root", None);
    killed("killed-user", Some(USER));
}
