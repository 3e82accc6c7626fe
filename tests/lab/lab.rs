//! The frame around every lab test: may it run here, alone, with which seed,
//! in which directory, and what is shown when it fails.
//!
//! A directory outlives its test only when the test failed (or `LAB_KEEP` is
//! set); its path and the end of every log in it are then printed.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::net;

/// One lab at a time, also under a plain `cargo test`: two would share the
/// processors and spoil each other's times.
static ALONE: Mutex<()> = Mutex::new(());

/// Lines of each log shown when a test fails.
const TAIL: usize = 40;

/// Runs a test body, or says why it cannot run here.
///
/// # Panics
/// With the body; and when no lab can be built although `CI=true`.
pub fn in_lab(body: impl FnOnce()) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(reason) = net::impossible() {
        crate::ci::skip(&format!("no lab on this machine: {reason}"));
        return;
    }
    body();
}

/// The program under test; `LAB_BIN` names another, such as a release build, to measure.
pub fn binary() -> String {
    std::env::var("LAB_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_mainstay").to_owned())
}

/// The seed of this run: `LAB_SEED`, or the time; printed either way.
pub fn seed() -> u64 {
    let now = || {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |d| d.as_nanos() as u64)
    };
    let seed = std::env::var("LAB_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(now);
    println!("LAB_SEED={seed}");
    seed
}

/// Asks until there is an answer.
///
/// # Panics
/// When `bound` passes first; it then names what was waited for and the last
/// reason for not having it.
pub fn wait_for<T, E: Debug>(what: &str, bound: Duration, mut ask: impl FnMut() -> Result<T, E>) -> T {
    let end = Instant::now() + bound;
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(why) if Instant::now() > end => panic!("no {what} within {bound:?}: {why:?}"),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

pub const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A test's own directory.
pub struct LabDir {
    path: PathBuf,
}

impl LabDir {
    /// Named after the running test. Short: socket paths must fit 108 bytes.
    pub fn new() -> std::io::Result<Self> {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("lab").rsplit("::").next().unwrap_or("lab");
        let name: String = name.chars().take(32).collect();
        let dir = tempfile::Builder::new().prefix(&format!("lab-{name}-")).tempdir()?;
        Ok(Self { path: dir.keep() })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for LabDir {
    fn drop(&mut self) {
        if std::thread::panicking() {
            show_logs(&self.path);
        }
        if std::thread::panicking() || std::env::var_os("LAB_KEEP").is_some() {
            println!("kept: {}", self.path.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.path);
        }
        crate::files::forget(&self.path);
    }
}

fn show_logs(dir: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            show_logs(&path);
        } else if path.extension().is_some_and(|ext| ext == "log") {
            let text = std::fs::read(&path).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<&str> = text.lines().collect();
            println!("--- {} (last of {} lines)", path.display(), lines.len());
            lines.iter().skip(lines.len().saturating_sub(TAIL)).for_each(|line| println!("{line}"));
        }
    }
}
