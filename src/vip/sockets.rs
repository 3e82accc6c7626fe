//! Closing TCP connections from outside (`SOCK_DESTROY`).
//!
//! A TCP connection survives the removal of its address, and a client that came by the host's own address never used
//! the VIP at all; both must be told by a reset that this primary has stopped (S9). Listening sockets are left alone.
//! The work runs on a blocking thread within a bound. It needs no network lock, so it works while address changes wait.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use netlink_packet_core::Parseable;
use netlink_packet_sock_diag::{
    AF_INET, AF_INET6, IPPROTO_TCP, SockDiagDestroy, SockDiagMessage,
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags},
};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use nix::errno::Errno;

use super::{error::VipError, netlink::Channel};

/// The whole operation's bound; a thousand connections take a few milliseconds.
const WITHIN: Duration = Duration::from_secs(1);
/// Connections that were still being set up appear a moment later; a table that never empties must not hold us.
const PASSES: usize = 3;

/// Resets every TCP connection whose local address is `address`, also where an IPv6 socket serves an IPv4 client.
/// Returns how many. Needs `CAP_NET_ADMIN`; bounded to one second.
///
/// Call it while the address still stands, and again once it is gone: without it an IPv4 connection is closed on this
/// side, but its reset finds no way out and the client hears nothing.
pub async fn destroy_address(address: IpAddr) -> Result<usize, VipError> {
    let address = address.to_canonical();
    destroy(0, move |id| id.source_address.to_canonical() == address).await
}

/// Resets every TCP connection whose local port is `port`, whatever local address it came by. `except` names remote
/// ends to spare; port 0 there means every port of that address. Returns how many. Needs `CAP_NET_ADMIN`; bounded to
/// one second.
pub async fn destroy_port(port: u16, except: &[SocketAddr]) -> Result<usize, VipError> {
    let except: Vec<(IpAddr, u16)> = except
        .iter()
        .map(|end| (end.ip().to_canonical(), end.port()))
        .collect();
    destroy(port, move |id| {
        let remote = id.destination_address.to_canonical();
        let spared = |(address, port): &(IpAddr, u16)| {
            *address == remote && (*port == 0 || *port == id.destination_port)
        };
        id.source_port == port && !except.iter().any(spared)
    })
    .await
}

async fn destroy(
    port: u16,
    wanted: impl Fn(&SocketId) -> bool + Send + 'static,
) -> Result<usize, VipError> {
    let what = "closing connections";
    let late = || VipError::TimedOut {
        what,
        after: WITHIN,
    };
    let deadline = Instant::now() + WITHIN;
    let work = tokio::task::spawn_blocking(move || destroy_blocking(port, wanted, deadline));
    match tokio::time::timeout(WITHIN, work).await {
        Ok(Ok(Some(result))) => result,
        Ok(Ok(None)) | Err(_) => Err(late()),
        Ok(Err(_)) => Err(VipError::Closed),
    }
}

/// `None` when the deadline passed before the table was empty.
fn destroy_blocking(
    port: u16,
    wanted: impl Fn(&SocketId) -> bool,
    deadline: Instant,
) -> Option<Result<usize, VipError>> {
    let mut destroyed = 0;
    for _ in 0..PASSES {
        let mut found = false;
        for family in [AF_INET, AF_INET6] {
            let mut channel = match Channel::open(NETLINK_SOCK_DIAG) {
                Ok(channel) => channel,
                Err(fault) => return Some(Err(fault)),
            };
            let sockets = match list(&mut channel, family, port) {
                Ok(sockets) => sockets,
                Err(fault) => return Some(Err(fault)),
            };
            for id in sockets.into_iter().filter(|id| wanted(id)) {
                found = true;
                if Instant::now() >= deadline {
                    return None;
                }
                match destroy_one(&mut channel, family, id) {
                    Ok(gone) => destroyed += usize::from(gone),
                    Err(fault) => return Some(Err(fault)),
                }
            }
        }
        if !found {
            break;
        }
    }
    Some(Ok(destroyed))
}

fn list(channel: &mut Channel, family: u8, port: u16) -> Result<Vec<SocketId>, VipError> {
    let what = "listing connections";
    let mut id = if family == AF_INET {
        SocketId::new_v4()
    } else {
        SocketId::new_v6()
    };
    id.source_port = port;
    let answers = channel.dump(what, SockDiagMessage::InetRequest(request(family, id)))?;
    let parse = |body: &[u8]| {
        InetResponse::parse(body)
            .map(|response| response.header.socket_id)
            .map_err(|fault| VipError::Malformed {
                what,
                fault: fault.to_string(),
            })
    };
    answers
        .iter()
        .map(|answer| parse(&answer.payload))
        .collect()
}

/// False when the connection ended by itself meanwhile.
fn destroy_one(channel: &mut Channel, family: u8, id: SocketId) -> Result<bool, VipError> {
    let message = SockDiagDestroy::new(SockDiagMessage::InetRequest(request(family, id)));
    match channel.request("closing a connection", message, 0) {
        Ok(_) => Ok(true),
        Err(VipError::Kernel {
            errno: Errno::ENOENT | Errno::ESTALE,
            ..
        }) => Ok(false),
        Err(VipError::Kernel {
            errno: Errno::EOPNOTSUPP,
            ..
        }) => Err(VipError::NoSocketDestroy),
        Err(fault) => Err(fault),
    }
}

fn request(family: u8, socket_id: SocketId) -> InetRequest {
    InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        // Not LISTEN, which must survive, and not TIME_WAIT and CLOSE, which are nobody's connection any more.
        states: StateFlags::ESTABLISHED
            | StateFlags::SYN_SENT
            | StateFlags::SYN_RECV
            | StateFlags::FIN_WAIT1
            | StateFlags::FIN_WAIT2
            | StateFlags::CLOSE_WAIT
            | StateFlags::LAST_ACK
            | StateFlags::CLOSING,
        socket_id,
    }
}
