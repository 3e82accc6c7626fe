//! The switch: one thread that reads every host's TAP device and hands the
//! frames on, each directed pair of hosts under its own [`Policy`].
//!
//! It learns nothing: host n's device has the address 02:77:00:00:00:n, so the
//! destination says the port; broadcast and multicast go to all others. A
//! floating address therefore moves only when ARP or neighbour discovery says
//! so, as on a real wire. Held frames are bounded per pair; nothing is ever
//! delivered over a blocked pair or to a port without carrier, not even what
//! was under way already.

use std::collections::{BTreeMap, BinaryHeap};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::policy::{Kind, Pair, Policy, Verdict};

/// A host's number: its address is 10.77.0.n, its device 02:77:00:00:00:n.
pub type HostNo = u8;

/// The largest frame a device with an MTU of 1500 sends, VLAN tag included.
const FRAME_MAX: usize = 1522;
/// Frames read from one device before the others get their turn.
const BURST: usize = 64;
/// Announcements kept for [`Switch::announcements`]; later ones are dropped.
const ANNOUNCEMENTS_MAX: usize = 4096;

/// The wire goes before everything that is tested on it.
pub const WIRE_PRIORITY: libc::c_int = 2;
/// Agents go before their clients, as their unit asks.
pub const AGENT_PRIORITY: libc::c_int = 1;

/// A gratuitous ARP or an unsolicited neighbour advertisement the switch saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announcement {
    pub at: Instant,
    pub from: HostNo,
    pub address: IpAddr,
}

struct Port {
    tap: Arc<OwnedFd>,
    carrier: bool,
}

struct Held {
    due: Instant,
    seq: u64,
    from: HostNo,
    to: HostNo,
    frame: Vec<u8>,
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.seq == other.seq
    }
}
impl Eq for Held {}
impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Held {
    /// Earliest first out of a max-heap; equal times keep their arrival order.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.due, other.seq).cmp(&(self.due, self.seq))
    }
}

struct Table {
    seed: u64,
    seq: u64,
    stop: bool,
    ports: BTreeMap<HostNo, Port>,
    pairs: BTreeMap<(HostNo, HostNo), Pair>,
    held: BinaryHeap<Held>,
    announcements: Vec<Announcement>,
}

/// The switch's handle; dropping it ends the thread and closes the devices.
pub struct Switch {
    table: Arc<Mutex<Table>>,
    wake: io::PipeWriter,
    thread: Option<JoinHandle<()>>,
}

impl Switch {
    pub fn start(seed: u64) -> io::Result<Self> {
        let table = Arc::new(Mutex::new(Table {
            seed,
            seq: 0,
            stop: false,
            ports: BTreeMap::new(),
            pairs: BTreeMap::new(),
            held: BinaryHeap::new(),
            announcements: Vec::new(),
        }));
        let (wake_rx, wake) = io::pipe()?;
        let shared = Arc::clone(&table);
        let thread = std::thread::Builder::new().name("switch".into()).spawn(move || run(&shared, &wake_rx))?;
        Ok(Self { table, wake, thread: Some(thread) })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }

    fn poke(&self) {
        let _ = (&self.wake).write(&[0]);
    }

    /// Plugs a host's device in, replacing the one it had. Policies stay.
    pub fn attach(&self, host: HostNo, tap: OwnedFd) {
        let port = Port { tap: Arc::new(tap), carrier: true };
        self.table().ports.insert(host, port);
        self.poke();
    }

    /// Takes a host's device away (its namespace can then go).
    pub fn detach(&self, host: HostNo) {
        self.table().ports.remove(&host);
        self.poke();
    }

    /// Changes the policy from one host to another (this direction only).
    pub fn set(&self, from: HostNo, to: HostNo, policy: Policy) {
        self.table().pair(from, to).policy = policy;
    }

    /// The same policy both ways between every two hosts.
    pub fn set_all(&self, policy: Policy) {
        let mut table = self.table();
        let hosts: Vec<HostNo> = table.ports.keys().copied().collect();
        for &from in &hosts {
            for &to in &hosts {
                if from != to {
                    table.pair(from, to).policy = policy;
                }
            }
        }
    }

    /// Nothing passes from `from` to `to`; the way back is untouched.
    pub fn block(&self, from: HostNo, to: HostNo) {
        self.table().pair(from, to).policy.blocked = true;
    }

    pub fn unblock(&self, from: HostNo, to: HostNo) {
        self.table().pair(from, to).policy.blocked = false;
    }

    /// Cuts a host off from all others, both ways, without carrier loss.
    pub fn isolate(&self, host: HostNo) {
        self.each_pair_of(host, |policy| policy.blocked = true);
    }

    /// Cuts the hosts of `side` off from all the others; both sides stay whole.
    pub fn partition(&self, side: &[HostNo]) {
        let mut table = self.table();
        let hosts: Vec<HostNo> = table.ports.keys().copied().collect();
        for &from in &hosts {
            for &to in &hosts {
                if side.contains(&from) != side.contains(&to) {
                    table.pair(from, to).policy.blocked = true;
                }
            }
        }
    }

    /// Undoes every policy from and to a host, and gives it carrier.
    pub fn heal(&self, host: HostNo) {
        self.each_pair_of(host, |policy| *policy = Policy::default());
        self.carrier(host, true);
    }

    /// Undoes every policy there is; every host has carrier.
    pub fn heal_all(&self) {
        let hosts: Vec<HostNo> = self.table().ports.keys().copied().collect();
        hosts.iter().for_each(|&host| self.heal(host));
    }

    /// Plugs the cable in or out, as the host's kernel sees it too.
    ///
    /// # Panics
    /// When the kernel refuses (it has known TUNSETCARRIER since 5.0).
    pub fn carrier(&self, host: HostNo, up: bool) {
        let mut table = self.table();
        let Some(port) = table.ports.get_mut(&host) else {
            return;
        };
        port.carrier = up;
        let flag = libc::c_int::from(up);
        // SAFETY: the descriptor is an open TAP device, the argument outlives the call.
        #[allow(unsafe_code)]
        let rc = unsafe { libc::ioctl(port.tap.as_raw_fd(), libc::TUNSETCARRIER, &flag) };
        assert_eq!(rc, 0, "TUNSETCARRIER: {}", io::Error::last_os_error());
    }

    /// Frames (handed over, lost) from one host to another so far.
    pub fn counts(&self, from: HostNo, to: HostNo) -> (u64, u64) {
        let mut table = self.table();
        let pair = table.pair(from, to);
        (pair.passed, pair.lost)
    }

    /// Every address announcement seen, in order.
    pub fn announcements(&self) -> Vec<Announcement> {
        self.table().announcements.clone()
    }

    fn each_pair_of(&self, host: HostNo, change: impl Fn(&mut Policy)) {
        let mut table = self.table();
        let others: Vec<HostNo> = table.ports.keys().copied().filter(|&o| o != host).collect();
        for other in others {
            change(&mut table.pair(host, other).policy);
            change(&mut table.pair(other, host).policy);
        }
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.table().stop = true;
        self.poke();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Table {
    fn pair(&mut self, from: HostNo, to: HostNo) -> &mut Pair {
        let seed = self.seed;
        self.pairs.entry((from, to)).or_insert_with(|| Pair::new(seed, from, to))
    }

    /// Removes a host's port, unless it has got another device meanwhile.
    fn remove(&mut self, host: HostNo, tap: &Arc<OwnedFd>) {
        if self.ports.get(&host).is_some_and(|port| Arc::ptr_eq(&port.tap, tap)) {
            self.ports.remove(&host);
        }
    }

    fn forward(&mut self, from: HostNo, frame: &[u8], now: Instant) {
        if frame.len() < 14 || !self.ports.get(&from).is_some_and(|p| p.carrier) {
            return;
        }
        if let Some(address) = announced(frame)
            && self.announcements.len() < ANNOUNCEMENTS_MAX
        {
            self.announcements.push(Announcement { at: now, from, address });
        }
        if frame[0] & 1 == 1 {
            let others: Vec<HostNo> = self.ports.keys().copied().filter(|&o| o != from).collect();
            for to in others {
                self.send(from, to, frame, now);
            }
        } else if frame[..5] == [0x02, 0x77, 0, 0, 0] && frame[5] != from {
            self.send(from, frame[5], frame, now);
        }
    }

    fn send(&mut self, from: HostNo, to: HostNo, frame: &[u8], now: Instant) {
        let pair = self.pair(from, to);
        match pair.judge(Kind::of(frame), now) {
            Verdict::Drop => pair.lost += 1,
            Verdict::DeliverAt(due) if due <= now && pair.held == 0 => {
                self.deliver(from, to, frame);
            }
            Verdict::DeliverAt(due) => {
                pair.held += 1;
                self.seq += 1;
                self.held.push(Held { due, seq: self.seq, from, to, frame: frame.to_vec() });
            }
        }
    }

    fn deliver(&mut self, from: HostNo, to: HostNo, frame: &[u8]) {
        let blocked = self.pair(from, to).policy.blocked;
        let sent = match self.ports.get(&to) {
            Some(port) if port.carrier && !blocked => nix::unistd::write(&*port.tap, frame).is_ok(),
            _ => false,
        };
        let pair = self.pair(from, to);
        if sent {
            pair.passed += 1;
        } else {
            pair.lost += 1;
        }
    }

    fn deliver_due(&mut self, now: Instant) {
        while self.held.peek().is_some_and(|held| held.due <= now) {
            let Some(held) = self.held.pop() else { return };
            self.pair(held.from, held.to).held -= 1;
            self.deliver(held.from, held.to, &held.frame);
        }
    }
}

/// The address a frame announces unasked: ARP whose sender and target address
/// are one, or a neighbour advertisement without the "solicited" flag.
fn announced(frame: &[u8]) -> Option<IpAddr> {
    match (frame[12], frame[13]) {
        (0x08, 0x06) if frame.len() >= 42 && frame[28..32] == frame[38..42] => {
            let ip: [u8; 4] = frame[28..32].try_into().ok()?;
            (ip != [0; 4]).then(|| Ipv4Addr::from(ip).into())
        }
        (0x86, 0xdd) if frame.len() >= 78 && frame[20] == 58 && frame[54] == 136 => {
            let ip: [u8; 16] = frame[62..78].try_into().ok()?;
            (frame[58] & 0x40 == 0).then(|| Ipv6Addr::from(ip).into())
        }
        _ => None,
    }
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn run(shared: &Mutex<Table>, wake: &io::PipeReader) {
    be_prompt(WIRE_PRIORITY);
    let mut frame = [0u8; FRAME_MAX];
    loop {
        let (ports, due) = {
            let table = lock(shared);
            if table.stop {
                return;
            }
            let ports: Vec<(HostNo, Arc<OwnedFd>)> =
                table.ports.iter().map(|(&no, port)| (no, Arc::clone(&port.tap))).collect();
            (ports, table.held.peek().map(|held| held.due))
        };
        let ready = wait(wake, &ports, due);
        if ready[0] {
            let _ = nix::unistd::read(wake, &mut frame);
        }
        let mut table = lock(shared);
        table.deliver_due(Instant::now());
        for ((no, tap), _) in ports.iter().zip(&ready[1..]).filter(|(_, ready)| **ready) {
            for _ in 0..BURST {
                match nix::unistd::read(&**tap, &mut frame) {
                    Ok(len) => table.forward(*no, &frame[..len], Instant::now()),
                    Err(Errno::EAGAIN | Errno::EINTR) => break,
                    Err(_) => {
                        // The device is gone: polling it would spin.
                        table.remove(*no, tap);
                        break;
                    }
                }
            }
        }
    }
}

/// Waits for a frame, a change of the table or the next held frame's time;
/// says which of (wake, ports…) are readable.
fn wait(wake: &io::PipeReader, ports: &[(HostNo, Arc<OwnedFd>)], due: Option<Instant>) -> Vec<bool> {
    let pollfd = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let mut fds: Vec<libc::pollfd> =
        std::iter::once(pollfd(wake.as_raw_fd())).chain(ports.iter().map(|(_, tap)| pollfd(tap.as_raw_fd()))).collect();
    let left = due
        .map_or(Duration::from_secs(1), |due| due.saturating_duration_since(Instant::now()))
        .min(Duration::from_secs(1));
    let left = libc::timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: i64::from(left.subsec_nanos()) };
    // SAFETY: `fds` and `left` are live for the call, the count is the vector's own.
    #[allow(unsafe_code)]
    unsafe {
        libc::ppoll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, &left, std::ptr::null());
    }
    fds.iter().map(|fd| fd.revents != 0).collect()
}

/// A wire does not wait for a busy processor: runs the calling thread before
/// ordinary ones. Where that is refused the lab still works, its delays are less exact.
pub fn be_prompt(priority: libc::c_int) {
    let param = libc::sched_param { sched_priority: priority };
    // SAFETY: `param` is live for the call; 0 means the calling thread.
    #[allow(unsafe_code)]
    unsafe {
        libc::sched_setscheduler(0, libc::SCHED_RR, &param);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcements_are_told_from_answers() {
        let mut arp = [0u8; 42];
        arp[12..14].copy_from_slice(&[0x08, 0x06]);
        arp[28..32].copy_from_slice(&[10, 77, 0, 100]);
        arp[38..42].copy_from_slice(&[10, 77, 0, 100]);
        assert_eq!(announced(&arp), Some(Ipv4Addr::new(10, 77, 0, 100).into()));
        arp[41] = 1;
        assert_eq!(announced(&arp), None);

        let mut na = [0u8; 86];
        na[12..14].copy_from_slice(&[0x86, 0xdd]);
        na[20] = 58;
        na[54] = 136;
        na[58] = 0x20;
        na[62] = 0xfd;
        assert!(announced(&na).is_some());
        na[58] = 0x60;
        assert_eq!(announced(&na), None);
    }
}
