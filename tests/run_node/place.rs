//! Where a script runs and what may be left of it: a folder of its own, its processes by a mark in their environment,
//! what it wrote elsewhere.
//!
//! Root's files cannot be told from everybody else's by their owner. So a script of root's is started where the folders
//! for such files are empty ones of its own, in a mount namespace, and what is in them afterwards is its.

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Gid, Pid, Uid, chown};
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// An ordinary user: nobody on this machine has that number.
pub const USER: u32 = 42_424;

/// Folders that programs write to without being asked.
const OUTSIDE: [&str; 4] = ["run", "var", "dev/shm", "tmp"];

/// Runs $LINE where they are those below $ASIDE; the own folder stays where it is, though it is below one of them.
const PRIVATE: &str = r#"
set -e
mount -n --make-rprivate /
mount -n --bind "$PWD" /mnt
for dir in run var dev/shm tmp; do mount -n --bind "$ASIDE/$dir" "/$dir"; done
mkdir -p "$HERE"
mount -n --move /mnt "$HERE"
cd "$HERE"
eval "exec $LINE"
"#;

/// A folder with a copy of the script and of the binary.
pub struct Place {
    folder: tempfile::TempDir,
    /// What root's scripts wrote outside it.
    aside: tempfile::TempDir,
    user: Option<u32>,
    mark: String,
}

impl Place {
    pub fn new(name: &str, user: Option<u32>) -> Option<Self> {
        if !Uid::effective().is_root() {
            crate::ci::skip("run-node.sh is tested as root and as an ordinary user, which needs root");
            return None;
        }
        let folder = tempfile::Builder::new().prefix("run-node-").tempdir().expect("a folder");
        let aside = tempfile::Builder::new().prefix("run-node-aside-").tempdir().expect("a folder");
        // The last one is what mount(8) keeps its notes in, on every machine.
        let dirs = OUTSIDE.iter().chain(&["run/mount"]);
        dirs.for_each(|dir| fs::create_dir_all(aside.path().join(dir)).expect("a folder"));
        let copy = |from: &str, to: &str| fs::copy(from, folder.path().join(to)).expect("a copy");
        copy(concat!(env!("CARGO_MANIFEST_DIR"), "/run-node.sh"), "run-node.sh");
        copy(env!("CARGO_BIN_EXE_mainstay"), "mainstay");
        if let Some(user) = user {
            chown(folder.path(), Some(Uid::from_raw(user)), Some(Gid::from_raw(user))).expect("chown");
        }
        let mark = format!("RUN_NODE_TEST={name}-{}", std::process::id());
        Some(Self { folder, aside, user, mark })
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// `sh -c line` in the folder, as its user.
    pub fn command(&self, line: &str) -> Command {
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

    pub fn run(&self, line: &str) -> Output {
        self.command(line).output().expect("sh runs")
    }

    pub fn says(&self, line: &str) -> String {
        let output = self.run(line);
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }

    /// Starts a script; what root's writes outside its folder is kept apart.
    pub fn start(&self, line: &str, log: &str) -> Running<'_> {
        if self.user.is_some() {
            return self.start_openly(line, log);
        }
        let mut command = self.command("exec unshare --mount sh -c \"$PRIVATE\"");
        command.env("PRIVATE", PRIVATE).env("LINE", line).env("ASIDE", self.aside.path()).env("HERE", self.path());
        self.spawn(command, log)
    }

    pub fn start_openly(&self, line: &str, log: &str) -> Running<'_> {
        self.spawn(self.command(&format!("exec {line}")), log)
    }

    fn spawn(&self, mut command: Command, log: &str) -> Running<'_> {
        let log = self.path().join(log);
        let file = File::create(&log).expect("a log");
        let both = file.try_clone().expect("a log");
        // A group of its own: a terminal's Ctrl-C goes to all of it.
        let child = command.stdout(file).stderr(both).process_group(0).spawn();
        Running { place: self, child: child.expect("sh runs"), log }
    }

    /// Processes that the script started, itself among them.
    pub fn processes(&self) -> Vec<String> {
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

    pub fn nothing_runs(&self, bound: Duration) {
        until("all processes are gone", bound, || match self.processes() {
            left if left.is_empty() => Ok(()),
            left => Err(left.join("\n")),
        });
        let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
        assert!(!mounts.contains(&*self.path().to_string_lossy()), "a mount is left:\n{mounts}");
    }

    pub fn entries(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path()).expect("the folder").flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.retain(|name| !matches!(&**name, "run-node.sh" | "mainstay") && !name.ends_with(".log"));
        names.sort();
        names
    }

    pub fn no_file_outside(&self) {
        let own = self.path().to_string_lossy().into_owned();
        let (line, own) = match self.user {
            Some(user) => (format!("find /tmp /run /var /dev/shm -xdev -user {user} 2>/dev/null"), own),
            None => {
                let aside = self.aside.path().to_string_lossy().into_owned();
                // Its own folder's place, through which it was seen.
                (
                    format!("cd {aside} && find {} -mindepth 1 ! -path run/mount", OUTSIDE.join(" ")),
                    own.trim_start_matches('/').to_owned(),
                )
            }
        };
        let found = Command::new("sh").args(["-c", &line]).output().expect("find runs").stdout;
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
pub struct Running<'a> {
    place: &'a Place,
    child: Child,
    log: PathBuf,
}

impl Running<'_> {
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"))
    }

    pub fn text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn shows(&self, what: &str, bound: Duration) {
        until(what, bound, || if self.text().contains(what) { Ok(()) } else { Err(self.text()) });
    }

    /// Ctrl-C; it ends well, and in time.
    pub fn interrupt(mut self) {
        killpg(self.pid(), Signal::SIGINT).expect("it runs");
        self.ends(Duration::from_secs(25));
    }

    pub fn ends(&mut self, bound: Duration) {
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

pub fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

pub fn until<T>(what: &str, bound: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let end = Instant::now() + bound;
    loop {
        match look() {
            Ok(found) => return found,
            Err(last) => assert!(Instant::now() < end, "not within {bound:?}: {what}; last:\n{last}"),
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
