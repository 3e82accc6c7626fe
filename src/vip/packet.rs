//! A packet socket that sends address-resolution packets and hears those that concern the VIP.
//!
//! It is bound to no interface, so it survives an interface that comes late or comes back under another index; the
//! receiver compares the index. The kernel-side filter is set before the socket is bound, so nothing else ever gets in.
//! Sending never waits: a full queue is an error, and announcements are repeated anyway. Needs `CAP_NET_RAW`.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike, bind, recvfrom,
        sendto, socket,
    },
};
use socket2::SockRef;
use tokio::io::{Interest, unix::AsyncFd};

use super::{
    error::{Capability, VipError},
    frames::{self, Frame, Mac},
};

/// Longer than any packet the filter lets through that we read.
const LONGEST: usize = 256;

/// A claim to the VIP, heard on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) mac: Mac,
    pub(super) index: u32,
}

pub(super) struct PacketSocket {
    fd: AsyncFd<OwnedFd>,
    address: IpAddr,
}

impl PacketSocket {
    /// Opens the socket in the network namespace of the calling thread.
    pub(super) fn open(address: IpAddr) -> Result<Self, VipError> {
        let what = "watching address resolution";
        let refused = |errno| VipError::from_errno(errno, Capability::NetRaw, what);
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let fd = socket(AddressFamily::Packet, SockType::Datagram, flags, None).map_err(refused)?;
        SockRef::from(&fd)
            .attach_filter(&frames::filter(address))
            .map_err(|source| VipError::Io { what, source })?;
        bind(
            fd.as_raw_fd(),
            &link_address(frames::ethertype(address), 0, [0; 6]),
        )
        .map_err(refused)?;
        let fd = watched(fd).map_err(|source| VipError::Io { what, source })?;
        Ok(PacketSocket { fd, address })
    }

    /// Sends one packet out of an interface, at once or not at all.
    pub(super) fn send(&self, frame: &Frame, index: u32) -> Result<(), VipError> {
        let to = link_address(frame.ethertype, index, frame.to);
        match sendto(self.fd.as_raw_fd(), &frame.body, &to, MsgFlags::empty()) {
            Ok(_) => Ok(()),
            Err(errno) => Err(VipError::from_errno(
                errno,
                Capability::NetRaw,
                "sending address resolution",
            )),
        }
    }

    /// Waits for the next claim to the VIP from anywhere but this socket.
    pub(super) async fn claim(&self) -> io::Result<Claim> {
        loop {
            let received = self.fd.async_io(Interest::READABLE, |fd| {
                let mut buffer = [0; LONGEST];
                let (length, from) = recvfrom::<LinkAddr>(fd.as_raw_fd(), &mut buffer)?;
                Ok((buffer, length, from))
            });
            let (buffer, length, from) = match received.await {
                Ok(received) => received,
                // An interface that goes down reports it to every packet socket, once.
                Err(fault) if fault.raw_os_error() == Some(Errno::ENETDOWN as i32) => continue,
                Err(fault) => return Err(fault),
            };
            let Some((from, source)) = from.and_then(|from| Some((from, from.addr()?))) else {
                continue;
            };
            if from.pkttype() == libc::PACKET_OUTGOING {
                continue;
            }
            let body = &buffer[..length.min(LONGEST)];
            if let Some(mac) = frames::claimant(self.address, body, source) {
                return Ok(Claim {
                    mac,
                    index: from.ifindex() as u32,
                });
            }
        }
    }
}

#[allow(unsafe_code)]
fn watched(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the OwnedFd is open, moves into the AsyncFd, and nothing here takes it out, replaces or closes it before.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

#[allow(unsafe_code)]
fn link_address(ethertype: u16, index: u32, mac: Mac) -> LinkAddr {
    let mut address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: ethertype.to_be(),
        sll_ifindex: index as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: mac.len() as u8,
        sll_addr: [0; 8],
    };
    address.sll_addr[..mac.len()].copy_from_slice(&mac);
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the pointer is to a live, fully initialised sockaddr_ll and the length is that of the type; nix has no
    // safe constructor for it.
    let converted = unsafe { LinkAddr::from_raw((&raw const address).cast(), Some(length)) };
    match converted {
        Some(address) => address,
        None => unreachable!("from_raw refuses only another family or length"),
    }
}
