//! A disk that a test can fill up and make hang: ext4 on a loop device, in a file.
//!
//! A disk hangs by `fsfreeze`: every write and sync waits until it is thawed. The freeze lives in a process that waits
//! for the end of its standard input, so that it is thawed also when the harness is killed. Mounts are made in a mount
//! namespace of the test's own thread, with which they go.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use nix::sched::{CloneFlags, unshare};

/// Room for a store and for what is put under quarantine; no more of it is written than is used.
const SIZE: u64 = 256 << 20;
/// The file that fills a disk up.
const BALLAST: &str = "ballast";

/// Puts the calling thread, and what it starts from now on, into a mount namespace of its own.
///
/// # Panics
/// When the machine refuses.
pub fn own_mounts() {
    unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace needs root");
    run("mount", &["--make-rprivate", "/"]).expect("private mounts");
}

/// A mounted disk; dropping it thaws and unmounts it.
pub struct Disk {
    at: PathBuf,
    /// Holds the freeze for as long as its standard input is open.
    freezer: Mutex<Option<Child>>,
    /// Why it can be filled up but not made to hang.
    pub no_hang: Option<String>,
}

impl Disk {
    /// A new, empty file system at `at`. Without loop devices it is one in memory, which cannot hang.
    ///
    /// # Panics
    /// When not even that can be mounted.
    pub fn mount(image: &Path, at: &Path) -> Self {
        let no_hang = mount_loop(image, at).err().map(|error| error.to_string());
        if no_hang.is_some() {
            let (size, at) = (format!("size={SIZE}"), at.display().to_string());
            run("mount", &["-t", "tmpfs", "-o", &size, "lab", &at]).expect("a file system in memory");
        }
        Self { at: at.into(), freezer: Mutex::new(None), no_hang }
    }

    /// Leaves not a byte of room.
    pub fn fill(&self) -> io::Result<()> {
        let mut ballast = File::create(self.at.join(BALLAST))?;
        // The most of it without writing; in memory that is refused or slow, and not needed.
        let free = nix::sys::statvfs::statvfs(&self.at).map_err(io::Error::from)?;
        let most = free.blocks_available() as i64 * free.fragment_size() as i64 - (1 << 20);
        let _ = nix::fcntl::fallocate(&ballast, nix::fcntl::FallocateFlags::empty(), 0, most.max(0));
        for block in [1 << 20, 4096, 512] {
            let zeros = vec![0; block];
            io::Seek::seek(&mut ballast, io::SeekFrom::End(0))?;
            while ballast.write_all(&zeros).is_ok() {}
        }
        // What was only promised room must have it.
        let _ = ballast.sync_all();
        Ok(())
    }

    /// There is room again.
    pub fn empty(&self) {
        let _ = std::fs::remove_file(self.at.join(BALLAST));
    }

    /// From now on every write waits.
    pub fn freeze(&self) -> io::Result<()> {
        let mut freezer = self.freezer.lock().unwrap_or_else(PoisonError::into_inner);
        if freezer.is_some() {
            return Ok(());
        }
        let script = "fsfreeze -f \"$1\" && echo frozen && read -r _; fsfreeze -u \"$1\"";
        let mut child = Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(&self.at)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut said = [0; 6];
        let frozen = child.stdout.take().map_or(Ok(()), |mut out| io::Read::read_exact(&mut out, &mut said));
        *freezer = Some(child);
        frozen
    }

    /// Lets the writes go on.
    pub fn thaw(&self) {
        let child = self.freezer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut child) = child {
            drop(child.stdin.take());
            let _ = child.wait();
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.thaw();
        let _ = run("umount", &["-l", &self.at.display().to_string()]);
    }
}

fn mount_loop(image: &Path, at: &Path) -> io::Result<()> {
    File::create(image)?.set_len(SIZE)?;
    let (file, at) = (image.display().to_string(), at.display().to_string());
    let mounted = run("mkfs.ext4", &["-q", "-F", "-O", "^has_journal", "-m", "0", &file])
        .and_then(|()| run("mount", &["-o", "loop,noatime", &file, &at]));
    // The loop device holds it; it goes with the mount.
    std::fs::remove_file(image)?;
    mounted
}

fn run(program: &str, args: &[&str]) -> io::Result<()> {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("{program} {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim())))
}
