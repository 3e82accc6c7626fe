//! A network namespace that lives through descriptors alone, and commands in it that die with this process.

use std::io::{self, Write as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::Arc;

use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::Mode;

pub use crate::within::{inside, output_within};

/// A namespace: gone when the last descriptor and the last process in it are.
#[derive(Debug)]
pub struct Netns {
    fd: OwnedFd,
}

impl Netns {
    /// A new one. Made by a thread of its own, which stays in it.
    pub fn new() -> io::Result<Arc<Self>> {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            open("/proc/thread-self/ns/net", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
        });
        let fd = made.join().map_err(|_| io::Error::other("the namespace's thread panicked"))??;
        Ok(Arc::new(Self { fd }))
    }

    /// Puts the calling thread into this namespace, for good: for threads made for it only.
    pub fn enter(&self) -> io::Result<()> {
        Ok(setns(self.fd.as_fd(), CloneFlags::CLONE_NEWNET)?)
    }

    /// Which one it is, as `/proc/PID/ns/net` has it.
    pub fn name(&self) -> String {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", self.fd.as_raw_fd()));
        link.map(|link| link.display().to_string()).unwrap_or_default()
    }
}

/// The place of a client on the wire, as the writers know it.
#[derive(Debug)]
pub struct HostNet {
    pub ns: Arc<Netns>,
}

impl HostNet {
    /// The namespace; this host is never off.
    pub fn netns(&self) -> io::Result<Arc<Netns>> {
        Ok(Arc::clone(&self.ns))
    }

    /// Runs `body` on a thread of its own inside.
    ///
    /// # Panics
    /// With `body`.
    pub fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.ns.enter().expect("setns");
                body()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// `ip` commands, one a line.
    pub fn ip(&self, lines: &str) -> io::Result<()> {
        let mut command = Command::new("ip");
        command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        inside(&mut command, Arc::clone(&self.ns));
        let mut child = command.spawn()?;
        child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(lines.as_bytes()))?;
        let output = child.wait_with_output()?;
        match output.status.success() {
            true => Ok(()),
            false => Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned())),
        }
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
