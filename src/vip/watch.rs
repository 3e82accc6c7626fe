//! The task that watches the VIP: address table, interface, and claims by others on the wire.
//!
//! It reports facts and changes nothing. What it reads from the kernel are hints: before it reports, it looks at the
//! table as it is now, so a removal that was already put right, or a lost message, yields no wrong event (S8: whoever
//! removed the VIP, the kernel's leash included, the owner hears of it, unless he dropped it himself).
//! Every wait has a bound or is for input; a look that fails is repeated after a pause.

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use netlink_packet_core::Parseable;
use netlink_packet_route::address::AddressMessage;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE};
use nix::errno::Errno;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};

use super::{
    VipEvent,
    address::{self, Link},
    error::VipError,
    kernel::Kernel,
    netlink,
    packet::{Claim, PacketSocket},
};

/// A conflict is reported at most this often.
const CONFLICT_EVERY: Duration = Duration::from_secs(1);
/// A claim that turned out to be our own lets the next be judged this much later.
const JUDGE_EVERY: Duration = Duration::from_millis(100);
/// Pause before a look that failed is repeated.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Pause after a socket failed in a way that should not be.
const SOCKET_PAUSE: Duration = Duration::from_millis(500);

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_DELADDR: u16 = 21;
/// The groups RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR and RTNLGRP_IPV6_IFADDR as a mask.
const GROUPS: u32 = 1 | 1 << 4 | 1 << 8;

pub(super) struct Watch {
    address: IpAddr,
    interface: String,
    kernel: Kernel,
    packets: Arc<PacketSocket>,
    changes: TokioSocket,
    buffer: Vec<u8>,
    events: mpsc::Sender<VipEvent>,
    /// What was last known of the interface.
    link: Option<Link>,
    look_at_address: bool,
    look_at_link: bool,
    judge_from: Instant,
}

impl Watch {
    /// Subscribes; everything that happens after this is seen.
    pub(super) fn open(
        address: IpAddr,
        interface: &str,
        kernel: Kernel,
        packets: Arc<PacketSocket>,
        events: mpsc::Sender<VipEvent>,
    ) -> Result<Watch, VipError> {
        let io = |source| VipError::Io {
            what: "subscribing to address changes",
            source,
        };
        let mut changes = TokioSocket::new(NETLINK_ROUTE).map_err(io)?;
        changes
            .socket_mut()
            .bind(&SocketAddr::new(0, GROUPS))
            .map_err(io)?;
        Ok(Watch {
            address,
            interface: interface.to_owned(),
            kernel,
            packets,
            changes,
            buffer: Vec::with_capacity(netlink::BUFFER),
            events,
            link: None,
            look_at_address: false,
            look_at_link: false,
            judge_from: Instant::now(),
        })
    }

    /// Takes the interface's state as the one against which changes are reported.
    pub(super) fn start_from(&mut self, link: Option<Link>) {
        self.link = link;
    }

    /// Runs until nobody listens any more.
    pub(super) async fn run(mut self) {
        while self.step().await.is_some() {}
    }

    async fn step(&mut self) -> Option<()> {
        if self.look_at_address || self.look_at_link {
            self.look().await?;
        }
        let look_again = Instant::now() + LOOK_AGAIN;
        tokio::select! {
            () = self.events.closed() => return None,
            change = self.changes.recv(&mut self.buffer) => match change {
                Ok(()) => self.note(),
                // Too much happened to be told of: look at everything.
                Err(fault) if fault.raw_os_error() == Some(Errno::ENOBUFS as i32) => {
                    self.look_at_address = true;
                    self.look_at_link = true;
                }
                Err(fault) => pause("address changes", &fault).await,
            },
            claim = self.packets.claim() => match claim {
                Ok(claim) => self.judge(claim).await?,
                Err(fault) => pause("address resolution", &fault).await,
            },
            () = sleep_until(look_again), if self.look_at_address || self.look_at_link => {}
        }
        Some(())
    }

    /// Notes from a kernel message what needs a look.
    fn note(&mut self) {
        let datagram = std::mem::take(&mut self.buffer);
        for message in netlink::split(&datagram) {
            // What cannot be read may concern us.
            let Ok(message) = message else {
                self.look_at_address = true;
                self.look_at_link = true;
                break;
            };
            match message.message_type() {
                RTM_NEWLINK | RTM_DELLINK => {
                    let ours = |link: Link| {
                        link.name == self.interface
                            || self
                                .link
                                .as_ref()
                                .is_some_and(|known| known.index == link.index)
                    };
                    self.look_at_link |= Link::parse(message.payload()).is_none_or(ours);
                }
                RTM_DELADDR => {
                    let ours =
                        |message: AddressMessage| address::owner(&message) == Some(self.address);
                    self.look_at_address |=
                        AddressMessage::parse(message.payload()).map_or(true, ours);
                }
                _ => {}
            }
        }
        self.buffer = datagram;
        self.buffer.clear();
    }

    /// Compares with what was known and reports; what could not be looked at stays noted.
    async fn look(&mut self) -> Option<()> {
        if self.look_at_address
            && let Ok(lost) = self.kernel.lost().await
        {
            self.look_at_address = false;
            if lost {
                self.events.send(VipEvent::Removed).await.ok()?;
            }
        }
        if self.look_at_link
            && let Ok(link) = self.kernel.link().await
        {
            self.look_at_link = false;
            let up = |link: &Option<Link>| link.as_ref().is_some_and(|link| link.up);
            let (before, now) = (up(&self.link), up(&link));
            self.link = link;
            if before != now {
                self.events
                    .send(VipEvent::LinkChanged { up: now })
                    .await
                    .ok()?;
            }
        }
        Some(())
    }

    /// Decides whether a claim is somebody else's.
    async fn judge(&mut self, claim: Claim) -> Option<()> {
        let now = Instant::now();
        if !self.kernel.held() || now < self.judge_from {
            return Some(());
        }
        self.judge_from = now + JUDGE_EVERY;
        let Ok(Some(link)) = self.kernel.link().await else {
            return Some(());
        };
        // A host with two interfaces on one network answers for the VIP on both, with either's hardware address.
        let Ok(own) = self.kernel.own_macs().await else {
            return Some(());
        };
        if link.index == claim.index && !own.contains(&claim.mac) && self.kernel.held() {
            self.judge_from = now + CONFLICT_EVERY;
            self.events
                .send(VipEvent::Conflict { mac: claim.mac })
                .await
                .ok()?;
        }
        Some(())
    }
}

async fn pause(what: &str, fault: &io::Error) {
    tracing::warn!(error = %fault, "watching {what} failed; trying again");
    sleep(SOCKET_PAUSE).await;
}
