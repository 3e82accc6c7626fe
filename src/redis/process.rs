//! The instance's own process: is it the one, does it make progress, has it exited, kill it.
//!
//! A [`ProcRef`] holds a pidfd, so a signal can never reach another process that got the same pid later, and its
//! exit is known without polling (S7). A process is only taken for the instance's when its name is that of a
//! Redis or Valkey server and it lives in this pid namespace. Killing is done when the caller says so, never here
//! on its own account.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The names under which a server process is known to the kernel.
const SERVER_NAMES: [&str; 2] = ["redis-server", "valkey-server"];
/// `PF_EXITING` of the kernel's task flags: the process is on its way out, its memory being freed.
const PF_EXITING: u64 = 0x4;

/// What the kernel says a process is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RunState {
    /// On a CPU or waiting for one.
    Running,
    /// Waits for an event.
    Sleeping,
    /// Waits for a disk or another uninterruptible thing.
    DiskSleep,
    /// Stopped by a signal or a debugger: makes no progress until continued.
    Stopped,
    /// Dead, not yet reaped.
    Zombie,
    /// Another state.
    Other(char),
}

/// A process's state and the CPU time it has had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProcessState {
    /// User and system CPU time in clock ticks (10 ms each): two equal readings mean no progress between them.
    pub ticks: u64,
    /// What it is doing.
    pub state: RunState,
    /// It is exiting: killed, and the kernel frees its memory (a second or so for tens of GB).
    pub exiting: bool,
}

/// Why a process could not be killed.
#[derive(Debug, thiserror::Error)]
pub enum KillError {
    /// Another user's process.
    #[error(
        "pid {pid}: not permitted to kill it; run as root or the same user, grant CAP_KILL, or name its unit in redis_unit"
    )]
    NotPermitted {
        /// The process.
        pid: u32,
    },
    /// It had exited already.
    #[error("pid {pid}: has exited already")]
    Exited {
        /// The process.
        pid: u32,
    },
    /// Another failure of the system call.
    #[error("pid {pid}: kill failed: {source}")]
    System {
        /// The process.
        pid: u32,
        /// The system's words.
        #[source]
        source: io::Error,
    },
}

/// A verified reference to the instance's process.
#[derive(Clone, Debug)]
pub struct ProcRef {
    pid: u32,
    start_ticks: u64,
    pidfd: Arc<AsyncFd<OwnedFd>>,
}

impl ProcRef {
    /// Takes hold of the server process with this pid. `None` if there is none, if it is not a Redis or Valkey
    /// server, if it lives in another pid namespace, or if the kernel has no pidfd (before 5.3). Must be called
    /// inside a tokio runtime and while a connection to the instance proves that the process lives.
    pub fn open(pid: u32) -> Option<Self> {
        let fd = pidfd_open(pid)?;
        // Read after the pidfd is held: what is read is about the process that the pidfd names, or, when that
        // exited and its pid was reused in between, the pidfd says so below.
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        if !SERVER_NAMES.contains(&comm.trim_end()) || in_other_namespace(pid) {
            return None;
        }
        let start_ticks = read_stat(pid)?.start_ticks;
        let pidfd = Arc::new(register(fd)?);
        let proc = Self { pid, start_ticks, pidfd };
        proc.is_alive().then_some(proc)
    }

    /// Takes hold of the server process that listens at a TCP address of this network namespace: one that refuses
    /// INFO, or gives no answer, does not say its pid. `None` also where more than one might be meant. Must be called
    /// inside a tokio runtime.
    pub async fn listening(at: SocketAddr) -> Option<Self> {
        // Reads a good part of /proc.
        let found = tokio::task::spawn_blocking(move || listener(at)).await.ok()??;
        let process = Self::open(found)?;
        // The pid may have been another's by then.
        let again = tokio::task::spawn_blocking(move || listener(at)).await.ok()??;
        (again == found && process.is_alive()).then_some(process)
    }

    /// The pid in this namespace.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// CPU time and state now; `None` once it has exited.
    pub fn progress(&self) -> Option<ProcessState> {
        let stat = read_stat(self.pid)?;
        (stat.start_ticks == self.start_ticks && stat.now.state != RunState::Zombie).then_some(stat.now)
    }

    /// It has not exited.
    pub fn is_alive(&self) -> bool {
        // Signal 0 only asks; a zombie still takes it, so its state is looked at as well.
        let reaped = pidfd_signal(self.pidfd.get_ref(), 0).is_err_and(|e| e.raw_os_error() == Some(libc::ESRCH));
        !reaped && self.progress().is_some()
    }

    /// Returns when it has exited.
    pub async fn exited(&self) {
        loop {
            match self.pidfd.readable().await {
                Ok(mut guard) if self.is_alive() => guard.clear_ready(),
                Ok(_) => return,
                // The reactor is gone with its runtime; no event can come any more.
                Err(_) => std::future::pending().await,
            }
        }
    }

    /// Sends SIGKILL to exactly this process.
    pub fn kill(&self) -> Result<(), KillError> {
        let pid = self.pid;
        match pidfd_signal(self.pidfd.get_ref(), libc::SIGKILL) {
            Ok(()) => Ok(()),
            Err(err) => Err(match err.raw_os_error() {
                Some(libc::EPERM) => KillError::NotPermitted { pid },
                Some(libc::ESRCH) => KillError::Exited { pid },
                _ => KillError::System { pid, source: err },
            }),
        }
    }
}

/// The one server process that holds a socket listening there.
fn listener(at: SocketAddr) -> Option<u32> {
    let tables = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
    let sockets: Vec<String> = tables
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|text| listening(&text, at))
        .collect();
    let pids =
        fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut holders = pids
        .filter(|pid| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| SERVER_NAMES.contains(&comm.trim_end()))
        })
        .filter(|pid| {
            let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
            let mut links = open.filter_map(|fd| fs::read_link(fd.path()).ok());
            links.any(|link| link.to_str().is_some_and(|link| sockets.iter().any(|socket| socket == link)))
        });
    // Servers that listen at the same port of different addresses, one of them at all: no guess which one answers.
    holders.next().filter(|_| holders.next().is_none())
}

/// The sockets of a table of the kernel (proc(5)) that listen at this address, or at all of this host's, as
/// descriptors name them.
fn listening(table: &str, at: SocketAddr) -> Vec<String> {
    const LISTEN: &str = "0A";
    // Addresses are written as words in the host's own order.
    let words = |octets: &[u8]| {
        let word = |four: &[u8]| four.try_into().map_or(0, u32::from_ne_bytes);
        octets.chunks(4).map(|four| format!("{:08X}", word(four))).collect::<String>()
    };
    let port = at.port();
    let mut meant = vec![format!("{}:{port:04X}", words(&[0; 4])), format!("{}:{port:04X}", words(&[0; 16]))];
    match at.ip().to_canonical() {
        IpAddr::V4(ip) => {
            meant.push(format!("{}:{port:04X}", words(&ip.octets())));
            meant.push(format!("{}:{port:04X}", words(&ip.to_ipv6_mapped().octets())));
        }
        IpAddr::V6(ip) => meant.push(format!("{}:{port:04X}", words(&ip.octets()))),
    }
    let of = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let local = *fields.get(1)?;
        let found = *fields.get(3)? == LISTEN && meant.iter().any(|meant| meant == local);
        found.then(|| fields.get(9).map(|inode| format!("socket:[{inode}]")))?
    };
    table.lines().skip(1).filter_map(of).collect()
}

struct Stat {
    now: ProcessState,
    start_ticks: u64,
}

fn read_stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Reads `/proc/<pid>/stat` (proc(5)): the name in field 2 may hold anything, so fields count from its last `)`.
fn parse_stat(text: &str) -> Option<Stat> {
    let rest = &text[text.rfind(')')? + 1..];
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let state = match fields.first()?.chars().next()? {
        'R' => RunState::Running,
        'S' | 'I' => RunState::Sleeping,
        'D' => RunState::DiskSleep,
        'T' | 't' => RunState::Stopped,
        'Z' | 'X' => RunState::Zombie,
        other => RunState::Other(other),
    };
    let ticks = number(14)?.checked_add(number(15)?)?;
    let exiting = number(9)? & PF_EXITING != 0;
    Some(Stat { now: ProcessState { ticks, state, exiting }, start_ticks: number(22)? })
}

/// A process in a container's pid namespace shows more than one id here; its INFO pid is not ours.
fn in_other_namespace(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/status"))
        .ok()
        .and_then(|s| s.lines().find_map(|l| l.strip_prefix("NSpid:").map(|ids| ids.split_whitespace().count())))
        .is_some_and(|n| n > 1)
}

#[allow(unsafe_code)]
fn pidfd_open(pid: u32) -> Option<OwnedFd> {
    let pid = libc::pid_t::try_from(pid).ok().filter(|pid| *pid > 0)?;
    // SAFETY: pidfd_open takes two integers and touches no memory; a non-negative result is a new descriptor
    // that nobody else owns.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, libc::PIDFD_NONBLOCK);
        let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0)?;
        Some(OwnedFd::from_raw_fd(fd))
    }
}

#[allow(unsafe_code)]
fn register(fd: OwnedFd) -> Option<AsyncFd<OwnedFd>> {
    // SAFETY: the AsyncFd owns the descriptor, which therefore stays open and the same as long as it is
    // registered; nothing here closes it by number.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE).ok() }
}

#[allow(unsafe_code)]
fn pidfd_signal(fd: &OwnedFd, signal: i32) -> io::Result<()> {
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the descriptor is a pidfd owned by the caller for the whole call; a null siginfo is allowed and
    // means what kill(2) would send.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd.as_raw_fd(), signal, no_info, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_with_a_wild_name() {
        let text = "42 (redis) S 1) T 1 42 42 0 -1 4194564 1 0 0 0 7 5 0 0 20 0 5 0 1234 0 0";
        let stat = parse_stat(text).unwrap();
        assert_eq!(stat.now, ProcessState { ticks: 12, state: RunState::Stopped, exiting: true });
        assert_eq!(stat.start_ticks, 1234);
        assert!(parse_stat("42 (x").is_none());
        assert!(parse_stat("").is_none());
        assert!(parse_stat("1 (x) R 1").is_none());
    }

    #[test]
    fn a_listening_socket_is_told_from_others() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
             0: 0100007F:18EB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0\n   \
             1: 0100007F:18EB 0100007F:D431 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 20 4\n   \
             2: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0 100 0\n";
        let at = |address: &str| listening(table, address.parse().unwrap());
        assert_eq!(at("127.0.0.1:6379"), ["socket:[4711]"]);
        assert_eq!(at("127.0.0.2:6379"), [""; 0], "another server's address");
        assert_eq!(at("127.0.0.9:22"), ["socket:[4713]"], "it listens at every address");
        assert!(listening("", "127.0.0.1:6379".parse().unwrap()).is_empty());
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
             0: 00000000000000000000000001000000:18EB 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4714 1 0 100 0\n";
        assert_eq!(listening(table, "[::1]:6379".parse().unwrap()), ["socket:[4714]"]);
        assert!(listening(table, "127.0.0.1:6379".parse().unwrap()).is_empty());
    }

    #[tokio::test]
    async fn a_listener_that_is_no_server_is_nobody() {
        let here = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(ProcRef::listening(here.local_addr().unwrap()).await.is_none());
    }

    #[tokio::test]
    async fn only_servers_are_taken() {
        assert!(ProcRef::open(std::process::id()).is_none(), "a test is no Redis server");
        assert!(ProcRef::open(0).is_none());
        assert!(ProcRef::open(u32::MAX).is_none());
    }
}
