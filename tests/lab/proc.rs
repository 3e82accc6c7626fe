//! A supervised process, as systemd would run it: started again a while after
//! its end, unless it is held; its output in a log; dead with the harness.
//!
//! Each process has a thread that spawns it and waits for it, because
//! `PR_SET_PDEATHSIG` follows the spawning *thread*. A signal is sent only
//! under the lock that also guards reaping, so never to a reused pid.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use crate::net::{HostNet, inside, output_within};
use crate::switch::{AGENT_PRIORITY, be_prompt};

/// The longest a stop-post command may take, as `TimeoutStopSec` bounds it.
const STOP_POST_MAX: Duration = Duration::from_secs(5);

/// What to run and how to keep it running.
pub struct Spec {
    pub name: String,
    pub program: PathBuf,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub net: Arc<HostNet>,
    pub log: PathBuf,
    /// Started again this long after its end; `None`: stays dead.
    pub restart: Option<Duration>,
    /// Scheduled before ordinary processes, as `CPUSchedulingPolicy=rr` has it.
    pub realtime: bool,
    /// Run after every end, before the restart, as `ExecStopPost` is.
    pub stop_post: Option<Vec<String>>,
}

impl Spec {
    /// The same as an ordinary user, with no more than these capabilities.
    pub fn unprivileged(self, user: u32, capabilities: &[&str]) -> Self {
        let only: String = capabilities.iter().map(|name| format!(",+{name}")).collect();
        let mut args = vec![format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".into()];
        args.extend(["--bounding-set", "--inh-caps", "--ambient-caps"].map(|set| format!("{set}=-all{only}")));
        // Asked for anew: a change of user ends it.
        args.extend(["--pdeathsig=KILL".into(), self.program.display().to_string()]);
        let ahead = |rest: Vec<String>| args.iter().cloned().chain(rest).collect::<Vec<_>>();
        let stop_post = self.stop_post.map(ahead);
        Self { program: "setpriv".into(), args: ahead(self.args), stop_post, ..self }
    }
}

#[derive(Default)]
struct State {
    pid: Option<Pid>,
    starts: u32,
    last_exit: Option<ExitStatus>,
    last_end: Option<Instant>,
    held: bool,
    quit: bool,
    restart: Option<Duration>,
    error: Option<String>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The handle; dropping it kills the process and waits for its end.
pub struct Proc {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    name: String,
}

impl Proc {
    /// Starts the process, and returns when it has been spawned.
    pub fn start(spec: Spec) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State { restart: spec.restart, ..State::default() }),
            changed: Condvar::new(),
        });
        let name = spec.name.clone();
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name(name.clone()).spawn(move || supervise(&theirs, &spec))?;
        let process = Self { shared, thread: Some(thread), name };
        process.wait(Duration::from_secs(5), |s| s.starts > 0 || s.error.is_some());
        let error = process.shared.lock().error.clone();
        match error {
            Some(error) => Err(io::Error::other(error)),
            None => Ok(process),
        }
    }

    pub fn pid(&self) -> Option<u32> {
        self.shared.lock().pid.map(|pid| pid.as_raw().cast_unsigned())
    }

    pub fn is_running(&self) -> bool {
        self.pid().is_some()
    }

    /// How often it has been started.
    pub fn starts(&self) -> u32 {
        self.shared.lock().starts
    }

    pub fn last_exit(&self) -> Option<ExitStatus> {
        self.shared.lock().last_exit
    }

    /// Sends a signal to the running process, if there is one.
    pub fn signal(&self, signal: Signal) -> bool {
        let state = self.shared.lock();
        state.pid.is_some_and(|pid| kill(pid, signal).is_ok())
    }

    /// SIGKILL; it comes back as its unit says.
    pub fn kill(&self) -> bool {
        self.signal(Signal::SIGKILL)
    }

    /// SIGSTOP: alive, but doing nothing.
    pub fn freeze(&self) -> bool {
        self.signal(Signal::SIGSTOP)
    }

    /// SIGCONT.
    pub fn thaw(&self) -> bool {
        self.signal(Signal::SIGCONT)
    }

    /// SIGKILL, and no restart until [`Proc::release`].
    pub fn hold(&self) {
        let mut state = self.shared.lock();
        state.held = true;
        if let Some(pid) = state.pid {
            let _ = kill(pid, Signal::SIGKILL);
        }
        drop(state);
        self.wait(Duration::from_secs(5), |s| s.pid.is_none());
    }

    /// SIGTERM and no restart, as `systemctl stop` does; false when it took
    /// longer than `bound` and was killed.
    pub fn stop(&self, bound: Duration) -> bool {
        let mut state = self.shared.lock();
        state.held = true;
        if let Some(pid) = state.pid {
            let _ = kill(pid, Signal::SIGTERM);
        }
        drop(state);
        if self.try_wait(bound, |s| s.pid.is_none()) {
            return true;
        }
        self.hold();
        false
    }

    /// Ends a hold: starts it again.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn release(&self) {
        self.shared.lock().held = false;
        self.shared.changed.notify_all();
        self.wait(Duration::from_secs(5), |s| s.pid.is_some() || s.error.is_some());
        let error = self.shared.lock().error.clone();
        assert!(error.is_none(), "{}: {error:?}", self.name);
    }

    /// From now on it comes back this long after its end; `None`: never.
    pub fn set_restart(&self, delay: Option<Duration>) {
        self.shared.lock().restart = delay;
    }

    /// Waits until it has been started more often than `starts` says.
    ///
    /// # Panics
    /// When that takes longer than `bound`.
    pub fn wait_restart(&self, starts: u32, bound: Duration) {
        self.wait(bound, |s| s.starts > starts && s.pid.is_some());
    }

    fn wait(&self, bound: Duration, done: impl Fn(&State) -> bool) {
        assert!(self.try_wait(bound, done), "{} not as awaited within {bound:?}", self.name);
    }

    fn try_wait(&self, bound: Duration, done: impl Fn(&State) -> bool) -> bool {
        let state = self.shared.lock();
        let (state, _) =
            self.shared.changed.wait_timeout_while(state, bound, |s| !done(s)).unwrap_or_else(PoisonError::into_inner);
        done(&state)
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.quit = true;
        if let Some(pid) = state.pid {
            let _ = kill(pid, Signal::SIGKILL);
        }
        drop(state);
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn supervise(shared: &Shared, spec: &Spec) {
    loop {
        let state = shared.lock();
        let mut state = shared.changed.wait_while(state, |s| s.held && !s.quit).unwrap_or_else(PoisonError::into_inner);
        if state.quit {
            return;
        }
        let mut child = match spawn(spec, state.starts + 1) {
            Ok(child) => child,
            Err(error) => {
                state.error = Some(format!("{}: {error}", spec.program.display()));
                shared.changed.notify_all();
                return;
            }
        };
        let pid = Pid::from_raw(child.id().cast_signed());
        state.pid = Some(pid);
        state.starts += 1;
        drop(state);
        shared.changed.notify_all();

        // Not reaped here: until the lock is held the pid must stay taken.
        while let Err(nix::Error::EINTR) = waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {}
        let mut state = shared.lock();
        // What it forked goes with it, as with a systemd unit.
        let _ = killpg(pid, Signal::SIGKILL);
        state.pid = None;
        state.last_exit = child.wait().ok();
        state.last_end = Some(Instant::now());
        let quit = state.quit;
        drop(state);
        shared.changed.notify_all();
        if !quit {
            stop_post(spec);
        }
        rest(shared);
    }
}

/// Waits for the restart delay; without one the process counts as held.
fn rest(shared: &Shared) {
    let mut state = shared.lock();
    let Some(delay) = state.restart else {
        state.held = true;
        return;
    };
    let wait = shared.changed.wait_timeout_while(state, delay, |s| !s.quit);
    drop(wait.unwrap_or_else(PoisonError::into_inner));
}

fn spawn(spec: &Spec, start: u32) -> io::Result<Child> {
    let mut log = OpenOptions::new().create(true).append(true).open(&spec.log)?;
    writeln!(log, "--- start {start}")?;
    let mut command = Command::new(&spec.program);
    command
        .args(&spec.args)
        .envs(spec.env.iter().map(|(k, v)| (k, v)))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0);
    inside(&mut command, spec.net.netns()?);
    if spec.realtime {
        // SAFETY: between fork and exec a single system call.
        #[allow(unsafe_code)]
        unsafe {
            command.pre_exec(|| {
                be_prompt(AGENT_PRIORITY);
                Ok(())
            });
        }
    }
    command.spawn()
}

fn stop_post(spec: &Spec) {
    let (Some(args), Ok(ns)) = (&spec.stop_post, spec.net.netns()) else {
        return;
    };
    let mut command = Command::new(&spec.program);
    command.args(args).envs(spec.env.iter().map(|(k, v)| (k, v))).stdin(Stdio::null());
    inside(&mut command, ns);
    let said = match output_within(&mut command, STOP_POST_MAX) {
        Ok(output) => format!(
            "--- stop-post: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ),
        Err(error) => format!("--- stop-post: {error}\n"),
    };
    if let Ok(mut log) = OpenOptions::new().append(true).open(&spec.log) {
        let _ = log.write_all(said.as_bytes());
    }
}
