//! The instance's own process: is it the one, does it make progress, has it exited, kill it.
//!
//! A [`ProcRef`] holds a pidfd, so a signal can never reach another process that got the same pid later, and its
//! exit is known without polling (S7). A process is only taken for the instance's when its name is that of a
//! Redis or Valkey server and it lives in this pid namespace; where /proc hides the processes of other users, as the
//! package's unit has it, when the kernel or the service manager vouches for it. Killing is done when the caller says
//! so, never here on its own account.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The names under which a server process is known to the kernel.
const SERVER_NAMES: [&str; 2] = ["redis-server", "valkey-server"];
/// Two readings of the processor time that lie in the same tick are equal: what housekeeping threads use up beside a
/// hung one is less.
const TICK_MS: u128 = 10;

/// The main process of the instance's unit: whoever watches the service manager sets it.
#[derive(Clone, Default, Debug)]
pub struct MainPid(Arc<AtomicU32>);

impl MainPid {
    /// Zero for none.
    pub fn set(&self, pid: u32) {
        self.0.store(pid, Ordering::Relaxed);
    }

    /// The process, if one runs and is known.
    pub fn get(&self) -> Option<u32> {
        Some(self.0.load(Ordering::Relaxed)).filter(|pid| *pid > 0)
    }
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
    pidfd: Arc<AsyncFd<OwnedFd>>,
}

impl ProcRef {
    /// Takes hold of the server process with this pid. `None` if there is none, if it is not a Redis or Valkey
    /// server, if it lives in another pid namespace, if /proc hides it and it is not `vouched` for, or if the kernel
    /// has no pidfd (before 5.3). Vouched for is what the kernel names as the other end of a socket, or the service
    /// manager as the main process of the instance's unit. Must be called inside a tokio runtime and while a connection
    /// to the instance proves that the process lives.
    pub fn open(pid: u32, vouched: bool) -> Option<Self> {
        let fd = pidfd_open(pid)?;
        // Read after the pidfd is held: what is read is about the process that the pidfd names, or, when that
        // exited and its pid was reused in between, the pidfd says so below.
        let taken = match fs::read_to_string(format!("/proc/{pid}/comm")) {
            Ok(comm) => SERVER_NAMES.contains(&comm.trim_end()) && !in_other_namespace(pid),
            Err(_) => vouched,
        };
        if !taken {
            return None;
        }
        let pidfd = Arc::new(register(fd)?);
        let proc = Self { pid, pidfd };
        proc.is_alive().then_some(proc)
    }

    /// Takes hold of the server process that listens at a TCP address of this network namespace: one that refuses
    /// INFO, or gives no answer, does not say its pid. `None` also where more than one might be meant, or where this user
    /// may not look at it. Must be called inside a tokio runtime.
    pub async fn listening(at: SocketAddr) -> Option<Self> {
        // Reads a good part of /proc.
        let found = tokio::task::spawn_blocking(move || listener(at)).await.ok()??;
        let process = Self::open(found, false)?;
        // The pid may have been another's by then.
        let again = tokio::task::spawn_blocking(move || listener(at)).await.ok()??;
        (again == found && process.is_alive()).then_some(process)
    }

    /// The pid in this namespace.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The processor time it has had, of all its threads, in ticks of 10 ms: two equal readings mean no progress between
    /// them. `None` once it has exited.
    pub fn ticks(&self) -> Option<u64> {
        let pid = Pid::from_raw(self.pid.cast_signed());
        let time = clock_getcpuclockid(pid).and_then(clock_gettime).map(Duration::from).ok()?;
        // Looked at last: as long as it lives its pid is nobody else's.
        self.is_alive().then(|| u64::try_from(time.as_millis() / TICK_MS).unwrap_or(u64::MAX))
    }

    /// It has not exited. A zombie has.
    pub fn is_alive(&self) -> bool {
        let mut fds = [PollFd::new(self.pidfd.get_ref().as_fd(), PollFlags::POLLIN)];
        loop {
            match poll(&mut fds, PollTimeout::ZERO) {
                Ok(ready) => return ready == 0,
                Err(nix::errno::Errno::EINTR) => {}
                // What cannot be asked is not taken for a crash.
                Err(_) => return true,
            }
        }
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
        let me = std::process::id();
        assert!(ProcRef::open(me, false).is_none(), "a test is no Redis server");
        assert!(
            ProcRef::open(me, true).is_none(),
            "nor is it one because somebody says so, where its name can be read"
        );
        assert!(ProcRef::open(0, true).is_none());
        assert!(ProcRef::open(u32::MAX, true).is_none());
    }

    #[test]
    fn the_main_process_is_none_until_it_is_told() {
        let (told, heard) = {
            let told = MainPid::default();
            (told.clone(), told)
        };
        assert_eq!(heard.get(), None);
        told.set(42);
        assert_eq!(heard.get(), Some(42));
        told.set(0);
        assert_eq!(heard.get(), None);
    }
}
