//! Hosts as network namespaces that nobody has to clean up.
//!
//! A namespace lives only through descriptors this process holds and the
//! processes it started in it, all of which die with it (`PR_SET_PDEATHSIG`):
//! the kernel frees the namespace and its TAP device even after a SIGKILL.
//! Nothing is mounted, nothing is named under /run, and the machine's own
//! network is never touched.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::Mode;

use crate::switch::{HostNo, Switch};
pub use crate::within::{inside, output_within};

/// The client's host number.
pub const CLIENT: HostNo = 200;
/// The floating address.
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
/// The second group's.
pub const VIP2: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 101);
/// The floating address where a test asks for IPv6.
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x100);

/// A host's own IPv4 address.
pub fn address(host: HostNo) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, host)
}

/// A host's own IPv6 address, fd77::n with n written in decimal.
pub fn address6(host: HostNo) -> Ipv6Addr {
    let digits = u16::from_str_radix(&host.to_string(), 16).unwrap_or(0);
    Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, digits)
}

/// Why no lab can be built on this machine, if so.
pub fn impossible() -> Option<String> {
    match std::thread::spawn(make).join() {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some("the probe panicked".into()),
    }
}

/// A namespace and the TAP device `eth0` in it. Runs on a thread of its own:
/// it leaves that thread in the new namespace.
fn make() -> io::Result<(OwnedFd, OwnedFd)> {
    let at = |what: &str, error: nix::Error| {
        io::Error::new(io::Error::from(error).kind(), format!("{what}: {}", error.desc()))
    };
    unshare(CloneFlags::CLONE_NEWNET).map_err(|e| at("a network namespace needs root", e))?;
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let ns = open("/proc/thread-self/ns/net", flags, Mode::empty()).map_err(|e| at("/proc/thread-self/ns/net", e))?;
    let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let tap = open("/dev/net/tun", flags, Mode::empty()).map_err(|e| at("/dev/net/tun", e))?;
    #[repr(C)]
    struct Request {
        name: [u8; libc::IFNAMSIZ],
        flags: libc::c_short,
        unused: [u8; 22],
    }
    let mut request = Request {
        name: [0; libc::IFNAMSIZ],
        flags: (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short,
        unused: [0; 22],
    };
    request.name[..4].copy_from_slice(b"eth0");
    // SAFETY: the descriptor is /dev/net/tun, `request` has the layout and size of struct ifreq.
    #[allow(unsafe_code)]
    let rc = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETIFF, &request) };
    nix::errno::Errno::result(rc).map_err(|e| at("a TAP device", e))?;
    Ok((ns, tap))
}

/// One boot of a host: dropped when the host is rebooted or the lab ends.
#[derive(Debug)]
pub struct Netns {
    fd: OwnedFd,
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Netns {
    /// Puts the calling thread into this namespace, for good: for threads made
    /// for it only.
    pub fn enter(&self) -> io::Result<()> {
        Ok(setns(self.fd.as_fd(), CloneFlags::CLONE_NEWNET)?)
    }

    /// The kernel's number of this namespace, as in `net:[n]`.
    pub fn inode(&self) -> io::Result<u64> {
        let path = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        Ok(std::fs::metadata(path)?.ino())
    }
}

/// A host's place on the wire, over all its reboots.
pub struct HostNet {
    pub no: HostNo,
    switch: Arc<Switch>,
    current: Mutex<Option<Arc<Netns>>>,
}

impl HostNet {
    /// Makes the namespace, gives it its addresses and plugs it in.
    pub fn boot(no: HostNo, switch: &Arc<Switch>) -> io::Result<Arc<Self>> {
        let host = Arc::new(Self { no, switch: Arc::clone(switch), current: Mutex::new(None) });
        host.reboot()?;
        Ok(host)
    }

    /// A namespace without any memory of the former one: no floating address,
    /// no ARP cache, no half-closed connection.
    pub fn reboot(&self) -> io::Result<()> {
        self.unplug();
        let (ns, tap) =
            std::thread::spawn(make).join().map_err(|_| io::Error::other("the namespace's thread panicked"))??;
        *self.slot() = Some(Arc::new(Netns { fd: ns }));
        self.switch.attach(self.no, tap);
        let no = self.no;
        self.ip_batch(&format!(
            "link set lo up\n\
             link set eth0 address 02:77:00:00:00:{no:02x}\n\
             link set eth0 up\n\
             addr add {}/24 brd + dev eth0\n\
             addr add {}/64 dev eth0 nodad\n",
            address(no),
            address6(no),
        ))
    }

    /// Takes the device and the namespace away, as a power cut does.
    pub fn unplug(&self) {
        self.switch.detach(self.no);
        self.slot().take();
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Arc<Netns>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The namespace of the host's present boot.
    pub fn netns(&self) -> io::Result<Arc<Netns>> {
        let off = || io::Error::new(io::ErrorKind::NetworkDown, format!("host {} is off", self.no));
        self.slot().clone().ok_or_else(off)
    }

    /// Runs `body` on a thread of its own inside the host.
    ///
    /// # Panics
    /// When the host is off, or with `body`.
    pub fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        let ns = self.netns().expect("host is on");
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                ns.enter().expect("setns");
                body()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A command that runs inside the host and dies with the thread that
    /// spawns it.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> io::Result<Command> {
        let mut command = Command::new(program);
        inside(&mut command, self.netns()?);
        Ok(command)
    }

    /// Runs a command inside the host and waits for its end, at most `bound`.
    pub fn output(&self, program: &str, args: &[&str], bound: Duration) -> io::Result<Output> {
        let mut command = self.command(program)?;
        output_within(command.args(args).stdin(Stdio::null()), bound)
    }

    /// `ip …` inside the host, for tests that move an address by hand.
    ///
    /// # Panics
    /// When `ip` refuses.
    pub fn ip(&self, args: &str) {
        self.ip_batch(&format!("{args}\n")).unwrap_or_else(|e| panic!("host {}: ip {args}: {e}", self.no));
    }

    fn ip_batch(&self, lines: &str) -> io::Result<()> {
        let mut child = self
            .command("ip")?
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(lines.as_bytes()))?;
        let output = child.wait_with_output()?;
        if output.status.success() {
            return Ok(());
        }
        Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()))
    }

    /// Every address of `eth0` right now.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.netns().map(|_| self.run(|| local_addresses().expect("getifaddrs"))).unwrap_or_default()
    }

    /// Connects from inside the host; the socket works on any thread.
    pub fn connect(&self, to: SocketAddr, bound: Duration) -> io::Result<std::net::TcpStream> {
        self.netns()?;
        self.run(|| std::net::TcpStream::connect_timeout(&to, bound))
    }
}

/// Every address of `eth0` in the calling thread's namespace.
pub fn local_addresses() -> nix::Result<Vec<IpAddr>> {
    let of_eth0 = |i: &nix::ifaddrs::InterfaceAddress| i.interface_name.starts_with("eth0");
    let ip = |i: nix::ifaddrs::InterfaceAddress| {
        let address = i.address?;
        let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
    };
    Ok(nix::ifaddrs::getifaddrs()?.filter(of_eth0).filter_map(ip).collect())
}
