//! The floating address (VIP) of a group on this host: hold it, drop it, announce it, watch it.
//!
//! Upholds S8: the VIP always stands with a finite kernel lifetime, so it goes without any code of ours running; and its
//! share of S9: dropping is idempotent, bounded, never queues behind a hold, and connections are reset by force.
//! It must never decide: no lease, no retry policy, no posture lives here; it says what is and does what it is told.
//! It must never wait on the runtime's thread: the kernel's network lock is waited for on a thread of its own. It never
//! puts a permanent address on an interface, never starts another program, and keeps nothing on disk.
//! It works in the network namespace of the thread that opens it and needs `CAP_NET_ADMIN` and `CAP_NET_RAW`, no more.
//!
//! Parts: `address` (the table), `kernel` (order and bounds), `netlink` (one request), `frames` and `packet` (ARP,
//! neighbour discovery), `watch` (events), `sockets` (closing connections).

mod address;
mod error;
mod frames;
mod kernel;
mod netlink;
mod packet;
mod sockets;
mod watch;

use std::{net::IpAddr, sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep_until, timeout, timeout_at},
};

use self::{address::Link, kernel::Kernel, packet::PacketSocket, watch::Watch};
pub use self::{
    error::{Capability, VipError},
    sockets::{destroy_address, destroy_port},
};

/// When the bursts of an [`AnnounceSeries`] go out. A switch that just came up, or a receiver that dropped the first,
/// is reached by a later one.
pub const ANNOUNCE_AT: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];
/// Events that may wait for the owner; after that the watcher waits too, and the kernel tells it to look again.
const EVENTS: usize = 64;
/// At the start of an agent nothing waits for the kernel, and at boot many want its network lock.
const OPENING: Duration = Duration::from_secs(1);
/// Questions asked by one [`Vip::probe`], spread over its time.
const PROBES: u32 = 3;
/// The longest name the kernel gives an interface.
const LONGEST_NAME: usize = 15;

/// Which address, where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VipSpec {
    /// The floating address.
    pub address: IpAddr,
    /// Prefix length of the subnet it is reached in. The address itself always goes on the wire as /32 or /128.
    pub prefix_len: u8,
    /// Name of the interface; it may not exist yet.
    pub interface: String,
}

/// What the owner is told without asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VipEvent {
    /// The VIP, held until now, is gone and we did not drop it: somebody removed it, its interface went, or its lifetime
    /// ran out.
    Removed,
    /// Another host says that the VIP is its own while we hold it. At most one a second.
    Conflict {
        /// The other's hardware address.
        mac: [u8; 6],
    },
    /// The interface came up (with a carrier) or went down, appeared or vanished.
    LinkChanged {
        /// Usable now.
        up: bool,
    },
}

/// What [`Vip::hold`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HoldOutcome {
    /// The VIP was not there before: announce it.
    pub newly_added: bool,
}

/// How long the kernel will keep an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Remaining {
    /// In whole seconds.
    For(Duration),
    /// It would outlive any agent; not our doing.
    Forever,
}

/// Where the VIP stands on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Presence {
    /// The longest lifetime, if it stands more than once.
    pub remaining: Remaining,
    /// It stands on the configured interface (perhaps on another too).
    pub on_interface: bool,
}

/// The VIP of one group on this host. Dropping the value stops the watching and leaves the address to its lifetime.
pub struct Vip {
    spec: VipSpec,
    kernel: Kernel,
    packets: Arc<PacketSocket>,
    watch: JoinHandle<()>,
}

impl std::fmt::Debug for Vip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vip").field("spec", &self.spec).field("held", &self.kernel.held()).finish_non_exhaustive()
    }
}

impl Drop for Vip {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

impl Vip {
    /// Checks the capabilities, starts watching. Changes nothing on the host; the interface need not exist. No later call
    /// waits for the kernel longer than `patience`: an eighth of the lease is what a fence can spare (S9), and some tens of
    /// microseconds is what it takes when no other process keeps the kernel's network lock.
    pub async fn open(spec: VipSpec, patience: Duration) -> Result<(Vip, mpsc::Receiver<VipEvent>), VipError> {
        validate(&spec)?;
        let packets = Arc::new(PacketSocket::open(spec.address)?);
        let opening = Kernel::start(spec.address, &spec.interface, patience.max(OPENING))?;
        opening.check_right().await?;
        let link = opening.link().await?;
        let kernel = opening.with_patience(patience);
        let (sender, events) = mpsc::channel(EVENTS);
        let mut watch = Watch::open(spec.address, &spec.interface, kernel.clone(), Arc::clone(&packets), sender)?;
        watch.start_from(link);
        let watch = tokio::spawn(watch.run());
        Ok((Vip { spec, kernel, packets, watch }, events))
    }

    /// As given to [`Vip::open`].
    pub fn spec(&self) -> &VipSpec {
        &self.spec
    }

    /// Adds the VIP or prolongs it: the kernel removes it `valid_lft` (in whole seconds, rounded up, at least one) from
    /// now unless this is called again. Any other copy of it on this host is removed. When the caller stops waiting
    /// before the kernel was asked, nothing is done. What counts is when this is called: a `drop_address` called before
    /// the future is first polled wins, and this is [`VipError::Superseded`].
    pub fn hold(&self, valid_lft: Duration) -> impl Future<Output = Result<HoldOutcome, VipError>> + Send + use<> {
        let held = self.kernel.hold(whole_seconds(valid_lft));
        async move {
            let newly_added = held.await?;
            Ok(HoldOutcome { newly_added })
        }
    }

    /// Removes the VIP from this host, from whichever interface it is on. No error when it was not there. The removal
    /// is asked for by the call itself and carried out even if the future is never polled, is dropped, or times out; a
    /// `hold` called before can no longer bring the VIP back.
    pub fn drop_address(&self) -> impl Future<Output = Result<(), VipError>> + Send + use<> {
        let dropped = self.kernel.drop_address();
        async move { dropped.await.map(|_| ()) }
    }

    /// The address's part of a fence (S9), in the order that lets clients hear of it: resets the VIP's connections for
    /// at most `notice` while it still stands, removes it whether or not that went well, then resets what came in
    /// between. The result is that of the removal.
    pub async fn withdraw(&self, notice: Duration) -> Result<(), VipError> {
        let before = match timeout(notice, self.destroy_sockets()).await {
            Ok(result) => result,
            Err(_) => Err(VipError::TimedOut { what: "closing connections", after: notice }),
        };
        let dropped = self.drop_address().await;
        for fault in [before, self.destroy_sockets().await].into_iter().filter_map(Result::err) {
            tracing::warn!(address = %self.spec.address, error = %fault, "connections to the VIP could not be reset");
        }
        dropped
    }

    /// Tells the network once where the VIP is: a gratuitous ARP request and reply, or an unsolicited neighbour
    /// advertisement. Refused while the VIP is not held here.
    pub async fn announce(&self) -> Result<(), VipError> {
        announce(&self.spec, &self.kernel, &self.packets).await
    }

    /// Announces now and at the later times of [`ANNOUNCE_AT`], until the VIP is no longer held or the series is
    /// dropped.
    pub fn announce_series(&self) -> AnnounceSeries {
        let (spec, kernel, packets) = (self.spec.clone(), self.kernel.clone(), Arc::clone(&self.packets));
        AnnounceSeries { task: tokio::spawn(async move { series(&spec, &kernel, &packets).await }) }
    }

    /// Whether the VIP stands on this host now, on any interface.
    pub async fn present(&self) -> Result<Option<Presence>, VipError> {
        let (link, entries) = self.kernel.look().await?;
        let remaining = |valid: Option<Duration>| valid.map_or(Remaining::Forever, Remaining::For);
        let Some(longest) = entries.iter().map(|entry| remaining(entry.valid)).max() else {
            return Ok(None);
        };
        let on_interface = link.is_some_and(|link| entries.iter().any(|entry| entry.index == link.index));
        Ok(Some(Presence { remaining: longest, on_interface }))
    }

    /// Resets all TCP connections whose local address is the VIP and returns how many. Bounded to one second. Before
    /// [`Vip::drop_address`] clients hear of it, after it IPv4 clients do not; see [`destroy_address`].
    pub async fn destroy_sockets(&self) -> Result<usize, VipError> {
        destroy_address(self.spec.address).await
    }

    /// Asks the network who has the VIP, without claiming it; the hardware address of another host that answers, or
    /// `None` when nobody does within the time.
    pub async fn probe(&self, within: Duration) -> Result<Option<[u8; 6]>, VipError> {
        let (link, mac) = usable(&self.spec, &self.kernel).await?;
        let own = self.kernel.own_macs().await?;
        // A socket of its own, opened before the question, sees every answer and takes none from the watcher.
        let answers = PacketSocket::open(self.spec.address)?;
        let question = frames::probe(self.spec.address, mac);
        let foreign = async {
            loop {
                let claim = answers.claim().await?;
                if claim.index == link.index && !own.contains(&claim.mac) {
                    return Ok(claim.mac);
                }
            }
        };
        tokio::pin!(foreign);
        let start = Instant::now();
        for round in 1..=PROBES {
            answers.send(&question, link.index)?;
            match timeout_at(start + within * round / PROBES, &mut foreign).await {
                Ok(Ok(mac)) => return Ok(Some(mac)),
                Ok(Err(source)) => {
                    return Err(VipError::Io { what: "probing for the VIP", source });
                }
                Err(_) => {}
            }
        }
        Ok(None)
    }
}

/// Announcements that go on in the background; dropping it ends them.
#[derive(Debug)]
pub struct AnnounceSeries {
    task: JoinHandle<usize>,
}

impl AnnounceSeries {
    /// Waits for the end of the series; how many bursts went out.
    pub async fn finished(mut self) -> usize {
        let last = ANNOUNCE_AT[ANNOUNCE_AT.len() - 1] + Duration::from_secs(2);
        timeout(last, &mut self.task).await.map_or(0, |ended| ended.unwrap_or(0))
    }

    /// Whether the series has ended.
    pub fn is_finished(&self) -> bool {
        self.task.is_finished()
    }
}

impl Drop for AnnounceSeries {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn series(spec: &VipSpec, kernel: &Kernel, packets: &PacketSocket) -> usize {
    let start = Instant::now();
    let mut sent = 0;
    for at in ANNOUNCE_AT {
        sleep_until(start + at).await;
        match announce(spec, kernel, packets).await {
            Ok(()) => sent += 1,
            Err(VipError::NotHeld) => break,
            Err(fault) => {
                tracing::warn!(address = %spec.address, error = %fault, "announcing the VIP failed")
            }
        }
    }
    sent
}

async fn announce(spec: &VipSpec, kernel: &Kernel, packets: &PacketSocket) -> Result<(), VipError> {
    let (link, mac) = usable(spec, kernel).await?;
    // Asked last, with no wait between it and sending: never announce what was dropped meanwhile.
    if !kernel.held() {
        return Err(VipError::NotHeld);
    }
    for frame in frames::announcement(spec.address, mac) {
        packets.send(&frame, link.index)?;
    }
    Ok(())
}

async fn usable(spec: &VipSpec, kernel: &Kernel) -> Result<(Link, [u8; 6]), VipError> {
    let name = || spec.interface.clone();
    let link = kernel.link().await?.ok_or_else(|| VipError::NoInterface { name: name() })?;
    let mac = link.mac.ok_or_else(|| VipError::NotEthernet { name: name() })?;
    Ok((link, mac))
}

fn whole_seconds(lifetime: Duration) -> u32 {
    let seconds = lifetime.as_secs().saturating_add(u64::from(lifetime.subsec_nanos() > 0));
    // u32::MAX would mean "for ever" to the kernel.
    seconds.clamp(1, u64::from(u32::MAX - 1)) as u32
}

fn validate(spec: &VipSpec) -> Result<(), VipError> {
    let name = &spec.interface;
    let fault = if spec.address.is_unspecified() || spec.address.is_multicast() || spec.address.is_loopback() {
        "it must be a unicast address that others can reach"
    } else if spec.address != spec.address.to_canonical() {
        "write an IPv4 address as such, not mapped into IPv6"
    } else if spec.prefix_len == 0 || spec.prefix_len > address::full_length(spec.address) {
        "the prefix length must be 1 to 32 for IPv4, 1 to 128 for IPv6"
    } else if name.is_empty()
        || name.len() > LONGEST_NAME
        || name.contains(['/', '\0'])
        || name.contains(char::is_whitespace)
    {
        "an interface name has 1 to 15 characters, no slash and no blank"
    } else {
        return Ok(());
    };
    Err(VipError::InvalidSpec { address: spec.address, prefix_len: spec.prefix_len, interface: name.clone(), fault })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_are_rounded_up_and_never_endless() {
        assert_eq!(whole_seconds(Duration::ZERO), 1);
        assert_eq!(whole_seconds(Duration::from_millis(999)), 1);
        assert_eq!(whole_seconds(Duration::from_secs(2)), 2);
        assert_eq!(whole_seconds(Duration::from_millis(2001)), 3);
        assert_eq!(whole_seconds(Duration::MAX), u32::MAX - 1);
    }

    #[test]
    fn specs_that_cannot_be_vips_are_refused() {
        let spec = |address: &str, prefix_len, interface: &str| VipSpec {
            address: address.parse().unwrap(),
            prefix_len,
            interface: interface.into(),
        };
        assert!(validate(&spec("10.0.0.100", 24, "eth0")).is_ok());
        assert!(validate(&spec("fd00::100", 64, "eth0.100")).is_ok());
        for wrong in [
            spec("10.0.0.100", 33, "eth0"),
            spec("10.0.0.100", 0, "eth0"),
            spec("fd00::1", 129, "eth0"),
            spec("0.0.0.0", 24, "eth0"),
            spec("224.0.0.1", 24, "eth0"),
            spec("::1", 64, "eth0"),
            spec("::ffff:10.0.0.1", 64, "eth0"),
            spec("10.0.0.100", 24, ""),
            spec("10.0.0.100", 24, "a-name-too-long-for-it"),
            spec("10.0.0.100", 24, "et h0"),
        ] {
            assert!(matches!(validate(&wrong), Err(VipError::InvalidSpec { .. })), "{wrong:?}");
        }
    }
}
