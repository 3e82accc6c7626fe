//! Commands in a network namespace: they die with the thread that started them, and none runs longer than it may.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

/// Makes a command start inside a namespace and die with its parent thread.
pub fn inside(command: &mut Command, namespace: Arc<impl AsFd + Send + Sync + 'static>) {
    let parent = std::process::id().cast_signed();
    let enter = move || -> io::Result<()> {
        setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?;
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
        if nix::unistd::getppid().as_raw() != parent {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    };
    // SAFETY: between fork and exec only system calls: no allocation, no lock.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(enter);
    }
}

/// Runs a command to its end; kills it and says so when `bound` passes first.
pub fn output_within(command: &mut Command, bound: Duration) -> io::Result<Output> {
    // A group of its own, so that what it started ends with it and no longer holds the pipes.
    let mut child = command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let group = nix::unistd::Pid::from_raw(child.id().cast_signed());
    let (out, err) = (child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        // Both pipes are read while it runs, or a talkative command would hang.
        let out = scope.spawn(move || slurp(out));
        let err = scope.spawn(move || slurp(err));
        let end = Instant::now() + bound;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if Instant::now() > end {
                let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
                child.wait()?;
                return Err(io::Error::new(io::ErrorKind::TimedOut, format!("it did not end within {bound:?}")));
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        Ok(Output { status, stdout: out.join().unwrap_or_default(), stderr: err.join().unwrap_or_default() })
    })
}

fn slurp(pipe: Option<impl io::Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        let _ = pipe.read_to_end(&mut bytes);
    }
    bytes
}
