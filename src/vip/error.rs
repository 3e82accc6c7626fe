//! What can go wrong with the VIP, said so that an operator can act on it.
//!
//! Every error names the place (interface, address, request) and, where there is one, the remedy. A missing capability
//! is told apart from every other refusal, because it is the one fault that an installation can have from the start:
//! the agent is then able to talk but not to fence (S8, S9), and must say so at once.
//! Nothing in here decides anything; the caller does.

use std::{fmt, io, net::IpAddr, time::Duration};

use nix::errno::Errno;

/// A Linux capability this module needs; it needs no others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    /// `CAP_NET_ADMIN`: add and remove addresses, destroy sockets.
    NetAdmin,
    /// `CAP_NET_RAW`: send and watch ARP and neighbour discovery.
    NetRaw,
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Capability::NetAdmin => "CAP_NET_ADMIN",
            Capability::NetRaw => "CAP_NET_RAW",
        })
    }
}

/// Why an operation on the VIP failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VipError {
    /// The process lacks a capability.
    #[error(
        "{what} needs {capability}: run as root, or grant it to the service (AmbientCapabilities={capability})"
    )]
    MissingCapability {
        /// The one that is missing.
        capability: Capability,
        /// What was to be done with it.
        what: &'static str,
    },
    /// The interface is not there now; it may still appear (a bond or VLAN that comes late).
    #[error(
        "interface {name} does not exist; it is looked up again at every use, so nothing is lost if it is still to come, \
         else correct `interface` (`ip link` lists them)"
    )]
    NoInterface {
        /// As configured.
        name: String,
    },
    /// The VIP is an IPv6 address and the interface is told to have none.
    #[error(
        "IPv6 is disabled on {name}: set net.ipv6.conf.{name}.disable_ipv6 = 0, or choose an IPv4 VIP"
    )]
    Ipv6Disabled {
        /// As configured.
        name: String,
    },
    /// ARP and neighbour discovery need a six-byte hardware address.
    #[error(
        "interface {name} has no Ethernet address, so nobody there can be told where the VIP is"
    )]
    NotEthernet {
        /// As configured.
        name: String,
    },
    /// The VIP as configured cannot be one.
    #[error("{address}/{prefix_len} on {interface:?} cannot be a VIP: {fault}")]
    InvalidSpec {
        /// As configured.
        address: IpAddr,
        /// As configured.
        prefix_len: u8,
        /// As configured.
        interface: String,
        /// What is wrong and what is allowed.
        fault: &'static str,
    },
    /// No answer in time. The request may still take effect, in the order asked.
    #[error(
        "{what} took longer than {after:?}; the kernel's network lock is probably held by something slow"
    )]
    TimedOut {
        /// What was asked.
        what: &'static str,
        /// The bound that ran out.
        after: Duration,
    },
    /// A `drop_address` asked for later overtook this `hold`, which then did nothing, or was undone.
    #[error("the VIP was told to go while this hold was waiting")]
    Superseded,
    /// Announcing an address that this host does not hold would send clients into the void.
    #[error("the VIP is not held here, so it is not announced")]
    NotHeld,
    /// More requests are waiting than the queue takes.
    #[error("too many requests are waiting for the kernel's network lock")]
    Busy,
    /// This kernel cannot destroy sockets.
    #[error("this kernel cannot close connections from outside (CONFIG_INET_DIAG_DESTROY is off)")]
    NoSocketDestroy,
    /// The kernel said no.
    #[error("{what}: the kernel refused: {errno}")]
    Kernel {
        /// What was asked.
        what: &'static str,
        /// Its answer.
        #[source]
        errno: Errno,
    },
    /// A socket failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// The failure.
        #[source]
        source: io::Error,
    },
    /// The kernel's answer was not understood.
    #[error("{what}: the kernel's answer was not understood ({fault})")]
    Malformed {
        /// What was asked.
        what: &'static str,
        /// What did not fit.
        fault: String,
    },
    /// The thread that talks to the kernel is gone.
    #[error("the VIP's kernel thread has ended")]
    Closed,
}

impl VipError {
    /// Turns an errno into an error, `EPERM` into the missing capability.
    pub(super) fn from_errno(errno: Errno, capability: Capability, what: &'static str) -> Self {
        match errno {
            Errno::EPERM => VipError::MissingCapability { capability, what },
            errno => VipError::Kernel { what, errno },
        }
    }
}
