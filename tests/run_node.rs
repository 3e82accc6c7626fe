//! `run-node.sh` does what it prints: both forms, as root and as an ordinary user, each in a folder of its own with a
//! copy of the script. Its commands are taken from its output and run as they stand. Afterwards no process, mount or
//! file outside the folder is left, also when the script was killed.
//!
//! Needs root, to be both; without it the tests say so and are skipped, and fail if `CI=true`.

#![allow(missing_docs)]

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Gid, Pid, Uid, chown};
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// An ordinary user: nobody on this machine has that number.
const USER: u32 = 42_424;

/// A folder with a copy of the script and of the binary.
struct Place {
    folder: tempfile::TempDir,
    user: Option<u32>,
    mark: String,
}

impl Place {
    fn new(name: &str, user: Option<u32>) -> Option<Self> {
        if !Uid::effective().is_root() {
            assert!(std::env::var_os("CI").is_none(), "run-node.sh is tested as root, which CI must be");
            eprintln!("skipped: needs root");
            return None;
        }
        let folder = tempfile::Builder::new().prefix("run-node-").tempdir().expect("a folder");
        let copy = |from: &str, to: &str| fs::copy(from, folder.path().join(to)).expect("a copy");
        copy(concat!(env!("CARGO_MANIFEST_DIR"), "/run-node.sh"), "run-node.sh");
        copy(env!("CARGO_BIN_EXE_mainstay"), "mainstay");
        if let Some(user) = user {
            chown(folder.path(), Some(Uid::from_raw(user)), Some(Gid::from_raw(user))).expect("chown");
        }
        let mark = format!("RUN_NODE_TEST={name}-{}", std::process::id());
        Some(Self { folder, user, mark })
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// `sh -c line` in the folder, as its user.
    fn command(&self, line: &str) -> Command {
        let mut command = match self.user {
            None => Command::new("sh"),
            Some(user) => {
                let mut command = Command::new("setpriv");
                command.args([format!("--reuid={user}"), format!("--regid={user}")]).args(["--clear-groups", "sh"]);
                command
            }
        };
        let (name, value) = self.mark.split_once('=').expect("a name and a value");
        command.args(["-c", line]).current_dir(self.path()).stdin(Stdio::null());
        command.env(name, value).env("HOME", self.path()).env("MAINSTAY_BIN", self.path().join("mainstay"));
        command
    }

    fn run(&self, line: &str) -> Output {
        self.command(line).output().expect("sh runs")
    }

    fn says(&self, line: &str) -> String {
        let output = self.run(line);
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }

    fn start(&self, line: &str, log: &str) -> Running<'_> {
        let log = self.path().join(log);
        let file = File::create(&log).expect("a log");
        let both = file.try_clone().expect("a log");
        // A group of its own: a terminal's Ctrl-C goes to all of it.
        let child = self.command(&format!("exec {line}")).stdout(file).stderr(both).process_group(0).spawn();
        Running { place: self, child: child.expect("sh runs"), log }
    }

    /// Processes that the script started, itself among them.
    fn processes(&self) -> Vec<String> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").expect("/proc").flatten() {
            let environ = fs::read(entry.path().join("environ")).unwrap_or_default();
            if environ.split(|byte| *byte == 0).any(|variable| variable == self.mark.as_bytes()) {
                let line = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
                found.push(format!("{} {}", entry.file_name().display(), line.replace('\0', " ")));
            }
        }
        found
    }

    fn nothing_runs(&self, bound: Duration) {
        until("all processes are gone", bound, || match self.processes() {
            left if left.is_empty() => Ok(()),
            left => Err(left.join("\n")),
        });
        let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
        assert!(!mounts.contains(&*self.path().to_string_lossy()), "a mount is left:\n{mounts}");
    }

    fn entries(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path()).expect("the folder").flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.retain(|name| !matches!(&**name, "run-node.sh" | "mainstay") && !name.ends_with(".log"));
        names.sort();
        names
    }

    /// The ordinary user's files can be told from everybody else's.
    fn no_file_outside(&self) {
        let Some(user) = self.user else { return };
        let line = format!("find /tmp /run /var /dev/shm -xdev -user {user} 2>/dev/null");
        let found = Command::new("sh").args(["-c", &line]).output().expect("find runs").stdout;
        let own = self.path().to_string_lossy().into_owned();
        let found = String::from_utf8_lossy(&found).into_owned();
        let strangers: Vec<&str> = found.lines().filter(|line| !line.starts_with(&own)).collect();
        assert!(strangers.is_empty(), "files outside the folder: {strangers:?}");
    }
}

impl Place {
    /// What every script said, for whoever looks at a failed test.
    fn show_logs(&self) {
        for entry in self.path().read_dir().into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|ending| ending == "log") {
                println!("--- {}\n{}", path.display(), fs::read_to_string(&path).unwrap_or_default());
            }
        }
    }
}

impl Drop for Place {
    /// A test that failed because something was left must not leave it.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_logs();
        }
        for process in self.processes() {
            if let Some(pid) = process.split(' ').next().and_then(|pid| pid.parse().ok()) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
}

/// A script that runs; killed when it is dropped.
struct Running<'a> {
    place: &'a Place,
    child: Child,
    log: PathBuf,
}

impl Running<'_> {
    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"))
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn shows(&self, what: &str, bound: Duration) {
        until(what, bound, || if self.text().contains(what) { Ok(()) } else { Err(self.text()) });
    }

    /// Ctrl-C; it ends well, and in time.
    fn interrupt(mut self) {
        killpg(self.pid(), Signal::SIGINT).expect("it runs");
        self.ends(Duration::from_secs(25));
    }

    fn ends(&mut self, bound: Duration) {
        until("the script has ended", bound, || match self.child.try_wait().expect("wait") {
            Some(status) if status.success() => Ok(()),
            Some(status) => panic!("{status}:\n{}", self.text()),
            None => Err(self.place.processes().join("\n")),
        });
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // Everything below dies with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

fn until<T>(what: &str, bound: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let end = Instant::now() + bound;
    loop {
        match look() {
            Ok(found) => return found,
            Err(last) => assert!(Instant::now() < end, "not within {bound:?}: {what}; last:\n{last}"),
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

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
