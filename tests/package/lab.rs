//! What every part of these tests uses: bounds, waits, where things lie, and whether they can run here at all.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// The project's own directory.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where packages and images are kept from one run to the next.
pub fn store() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let store = target.join("package");
    std::fs::create_dir_all(&store).expect("target/package");
    store.canonicalize().expect("target/package")
}

/// Asks until there is an answer.
///
/// # Panics
/// When `bound` passes first; it then names what was waited for and the last reason for not having it.
pub fn wait_for<T, E: Debug>(what: &str, bound: Duration, mut ask: impl FnMut() -> Result<T, E>) -> T {
    let end = Instant::now() + bound;
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(why) if Instant::now() > end => panic!("no {what} within {bound:?}: {why:?}"),
            Err(_) => std::thread::sleep(ms(10)),
        }
    }
}

/// Programs these tests are made of, and the packages that have them.
const NEEDED: &[(&str, &str)] = &[
    ("systemd-nspawn", "systemd-container"),
    ("mmdebstrap", "mmdebstrap"),
    ("dpkg-buildpackage", "dpkg-dev"),
    ("dh", "debhelper"),
    ("lintian", "lintian"),
    ("nsenter", "util-linux"),
    ("ip", "iproute2"),
    ("gpg", "gnupg"),
    ("cargo", "a Rust toolchain"),
];

/// One story at a time, also under a plain `cargo test`: two would spoil each other's times.
static ALONE: Mutex<()> = Mutex::new(());

/// The right to build and boot, if this machine can do it.
///
/// # Panics
/// In CI, when it cannot.
pub fn alone() -> Option<MutexGuard<'static, ()>> {
    let Some(reason) = impossible() else { return Some(ALONE.lock().unwrap_or_else(PoisonError::into_inner)) };
    crate::ci::skip(&format!("no package test: {reason}"));
    None
}

fn impossible() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("containers need root".to_owned());
    }
    let there = |program: &str| {
        let found = Command::new("sh").args(["-c", "command -v \"$1\"", "sh", program]).stdout(Stdio::null()).status();
        found.is_ok_and(|status| status.success())
    };
    let missing: Vec<&str> =
        NEEDED.iter().filter(|(program, _)| !there(program)).map(|(_, package)| *package).collect();
    (!missing.is_empty()).then(|| format!("it has no {}", missing.join(", ")))
}

/// Runs a program of the machine's to its end and returns what it said.
///
/// # Panics
/// When it fails; it then shows what it said.
pub fn run(command: &mut Command, bound: Duration) -> String {
    let output = crate::net::output_within(command.stdin(Stdio::null()), bound);
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{said}", output.status);
    said
}

/// One at a time over all test processes: two would build the same thing at once, or spoil each other's times.
pub struct Locked {
    _file: nix::fcntl::Flock<std::fs::File>,
}

impl Locked {
    /// # Panics
    /// When the lock's file cannot be made.
    pub fn take(name: &str) -> Self {
        let file = std::fs::File::create(store().join(name).with_extension("lock")).expect("a lock file");
        let file = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive).map_err(|(_, error)| error);
        Self { _file: file.expect("the lock") }
    }
}

/// A checksum of files and folders: whether what was made of them is still good.
pub fn fingerprint(of: &[PathBuf]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for path in of {
        add(&mut hasher, path);
    }
    hasher.finalize()
}

fn add(hasher: &mut crc32fast::Hasher, path: &Path) {
    hasher.update(path.as_os_str().as_encoded_bytes());
    if path.is_dir() {
        let entries = std::fs::read_dir(path).expect("a folder").map(|entry| entry.expect("an entry").path());
        let mut entries: Vec<PathBuf> = entries.collect();
        entries.sort();
        entries.iter().for_each(|entry| add(hasher, entry));
    } else {
        hasher.update(&std::fs::read(path).unwrap_or_default());
    }
}
