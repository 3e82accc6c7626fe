//! The store against `kill -9` in mid-write, power loss at any write, and a full disk.
//!
//! The process that writes is this same binary, started again on an ignored test that plays a seeded run of Raft's
//! calls (`model.rs`); the test that kills it, or rebuilds what a power loss leaves, knows from the model what must be
//! there. `MAINSTAY_TEST_SEED` repeats a run; `MAINSTAY_TEST_KILLS` and `MAINSTAY_TEST_POWER_LOSSES` make it longer.

mod full;
mod kill;
mod model;
mod power;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const DIR: &str = "MAINSTAY_TEST_STORE";

/// Starts the ignored test `name` of this binary on `dir` as a process of its own, with `before` in front of it.
fn start(name: &str, dir: &Path, before: &[&str], variables: &[(&str, String)]) -> Child {
    let exe = std::env::current_exe().unwrap();
    let mut process = match before {
        [] => Command::new(exe),
        [first, rest @ ..] => {
            let mut process = Command::new(first);
            process.args(rest).arg(exe);
            process
        }
    };
    let line = [name, "--exact", "--ignored", "--nocapture"];
    process.args(line).env(DIR, dir).envs(variables.iter().map(|(key, value)| (key, value)));
    process.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

fn told_dir() -> PathBuf {
    PathBuf::from(std::env::var_os(DIR).expect("started by the test that needs it"))
}

/// A number from the environment.
fn told(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect(variable))
}

/// A directory in memory where there is one: what is proved here is what was asked of the file system, not its speed.
fn fast_dir() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}
