//! Wall clocks that a test can set: a few lines of C under a host's processes, compiled when they are first needed.
//!
//! Only CLOCK_REALTIME is changed; what agents and instances measure time with stays what it is. (libfaketime cannot
//! do this for Debian's Redis: its allocator asks for the time before that library is ready.)

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::files::Files;

const SOURCE: &str = include_str!("wallclock.c");

/// Compiles it into the lab's directory.
pub fn build(lab: &Path) -> io::Result<PathBuf> {
    let library = lab.join("wallclock.so");
    let mut child = Command::new("cc")
        .args(["-O2", "-Wall", "-shared", "-fPIC", "-x", "c", "-", "-o"])
        .arg(&library)
        .stdin(Stdio::piped())
        .spawn()?;
    child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(SOURCE.as_bytes()))?;
    match child.wait()?.success() {
        true => Ok(library),
        false => Err(io::Error::other("cc refuses wallclock.c")),
    }
}

/// What makes a process of this host see the host's wall clock.
pub fn environment(library: &Path, files: &Files) -> Vec<(String, String)> {
    let text = |path: &Path| path.display().to_string();
    vec![("LD_PRELOAD".into(), text(library)), ("LAB_CLOCK".into(), text(&files.clock()))]
}

/// Sets the host's wall clock so many seconds off the machine's, at once.
pub fn set(files: &Files, offset_s: i64) -> io::Result<()> {
    // In place: it is mapped.
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(files.clock())?;
    file.write_all(&offset_s.to_ne_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wall_clock_jumps_and_no_other() {
        let dir = tempfile::tempdir().expect("a directory");
        let library = build(dir.path()).expect("cc");
        let files = Files::create(dir.path(), 1).expect("directories");
        let now = |offset: i64| -> i64 {
            set(&files, offset).expect("the clock");
            let output = Command::new("date").arg("+%s").envs(environment(&library, &files)).output().expect("date");
            String::from_utf8_lossy(&output.stdout).trim().parse().expect("seconds")
        };
        let (before, later) = (now(0), now(3600));
        assert!((3600..3660).contains(&(later - before)), "{before} {later}");
        let _ = std::fs::remove_dir_all(std::fs::read_link(files.run()).expect("the run directory"));
    }
}
