//! The VIP in the kernel's address table: put, look, remove.
//!
//! Upholds S8: what is put there always has a finite lifetime, and any other copy of the VIP (another interface, another
//! prefix length, no lifetime), which would outlive the leash, is removed.
//! The VIP must never become the source of the host's own connections, because a replica records the address that its
//! link comes from. IPv6: preferred lifetime 0, so that it is deprecated from the start. IPv4 knows no such thing:
//! there only scope `host` keeps it out of source selection whatever the order of addresses and the kind of route (it
//! is still answered for in ARP and served like any other, unless `arp_ignore` is 3).
//! Everything here blocks and belongs on the kernel thread. Nothing here remembers anything.

use std::{net::IpAddr, time::Duration};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE, NlasIterator, Parseable};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{
        AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope, CacheInfo,
    },
    link::{LinkAttribute, LinkMessage},
};
use nix::errno::Errno;

use super::{
    error::VipError,
    netlink::{Answer, Channel},
};

const RTM_NEWADDR: u16 = 20;
const RTM_NEWLINK: u16 = 16;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const ARPHRD_ETHER: u16 = 1;
const IFINFOMSG: usize = 16;
/// The kernel's lifetime that never ends.
const FOREVER: u32 = u32::MAX;

/// What is known of an interface at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    /// Administratively up and with a carrier.
    pub(super) up: bool,
    /// Present on Ethernet only.
    pub(super) mac: Option<[u8; 6]>,
}

impl Link {
    /// Reads the few fields we use from an `RTM_NEWLINK` or `RTM_DELLINK` body.
    pub(super) fn parse(body: &[u8]) -> Option<Link> {
        let (head, attributes) = body.split_at_checked(IFINFOMSG)?;
        let hardware = u16::from_ne_bytes([head[2], head[3]]);
        let index = u32::from_ne_bytes(*head[4..].first_chunk()?);
        let flags = u32::from_ne_bytes(*head[8..].first_chunk()?);
        let wanted = (libc::IFF_UP | libc::IFF_LOWER_UP) as u32;
        let mut link = Link {
            index,
            name: String::new(),
            up: flags & wanted == wanted,
            mac: None,
        };
        for attribute in NlasIterator::new(attributes) {
            let attribute = attribute.ok()?;
            match attribute.kind() {
                IFLA_ADDRESS if hardware == ARPHRD_ETHER => {
                    link.mac = attribute.value().try_into().ok()
                }
                IFLA_IFNAME => {
                    let name = attribute
                        .value()
                        .split(|byte| *byte == 0)
                        .next()
                        .unwrap_or_default();
                    link.name = String::from_utf8_lossy(name).into_owned();
                }
                _ => {}
            }
        }
        Some(link)
    }
}

/// One entry of the address table that carries the VIP.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) index: u32,
    pub(super) prefix_len: u8,
    /// What `IFA_ADDRESS` says: the peer on a point-to-point entry, else the address itself.
    peer: IpAddr,
    scope: AddressScope,
    /// `None`: for ever.
    pub(super) valid: Option<Duration>,
}

/// Looks the interface up by name; `None` when it does not exist.
pub(super) fn link(channel: &mut Channel, name: &str) -> Result<Option<Link>, VipError> {
    let what = "looking up the interface";
    let mut query = LinkMessage::default();
    query
        .attributes
        .push(LinkAttribute::IfName(name.to_owned()));
    match channel.request(what, RouteNetlinkMessage::GetLink(query), 0) {
        Ok(answers) => match answers.iter().find(|answer| answer.kind == RTM_NEWLINK) {
            Some(answer) => match Link::parse(&answer.payload) {
                Some(link) => Ok(Some(link)),
                None => Err(VipError::Malformed {
                    what,
                    fault: "not an interface".into(),
                }),
            },
            None => Ok(None),
        },
        Err(VipError::Kernel {
            errno: Errno::ENODEV,
            ..
        }) => Ok(None),
        Err(fault) => Err(fault),
    }
}

/// The hardware addresses of all interfaces of this host.
pub(super) fn own_macs(channel: &mut Channel) -> Result<Vec<[u8; 6]>, VipError> {
    let answers = channel.dump(
        "listing the interfaces",
        RouteNetlinkMessage::GetLink(LinkMessage::default()),
    )?;
    Ok(answers
        .iter()
        .filter_map(|answer| Link::parse(&answer.payload)?.mac)
        .collect())
}

/// All entries that carry the address, on whichever interface.
pub(super) fn entries(channel: &mut Channel, address: IpAddr) -> Result<Vec<Entry>, VipError> {
    let what = "listing the addresses";
    let mut query = AddressMessage::default();
    query.header.family = family(address);
    let answers = channel.dump(what, RouteNetlinkMessage::GetAddress(query))?;
    let mut found = Vec::new();
    for Answer { kind, payload } in answers {
        if kind != RTM_NEWADDR {
            continue;
        }
        let message =
            AddressMessage::parse(payload.as_slice()).map_err(|fault| VipError::Malformed {
                what,
                fault: fault.to_string(),
            })?;
        if owner(&message) == Some(address) {
            found.push(Entry {
                index: message.header.index,
                prefix_len: message.header.prefix_len,
                peer: attribute(&message, false).unwrap_or(address),
                scope: message.header.scope,
                valid: lifetime(&message),
            });
        }
    }
    Ok(found)
}

/// The host's own side of an address message: `IFA_LOCAL` where present (point-to-point), else `IFA_ADDRESS`.
pub(super) fn owner(message: &AddressMessage) -> Option<IpAddr> {
    attribute(message, true).or_else(|| attribute(message, false))
}

fn attribute(message: &AddressMessage, local: bool) -> Option<IpAddr> {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Local(address) if local => Some(*address),
            AddressAttribute::Address(address) if !local => Some(*address),
            _ => None,
        })
}

fn lifetime(message: &AddressMessage) -> Option<Duration> {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::CacheInfo(info) if info.ifa_valid != FOREVER => {
                Some(Duration::from_secs(info.ifa_valid.into()))
            }
            _ => None,
        })
}

/// Makes the address stand exactly once, on this interface, for `seconds` from now; true when it was not there before.
pub(super) fn put(
    channel: &mut Channel,
    address: IpAddr,
    link: &Link,
    seconds: u32,
) -> Result<bool, VipError> {
    let mut newly_added = true;
    for entry in entries(channel, address)? {
        if is_ours(&entry, address, link) {
            newly_added = false;
        } else {
            remove(channel, address, entry.peer, entry.index, entry.prefix_len)?;
        }
    }
    let mut message = body(address, address, link.index, full_length(address));
    message.header.scope = scope(address);
    let mut flags = AddressFlags::Noprefixroute;
    if address.is_ipv6() {
        flags |= AddressFlags::Nodad;
        message.header.flags = AddressHeaderFlags::Nodad;
    }
    message.attributes.push(AddressAttribute::Flags(flags));
    let mut lifetimes = CacheInfo::default();
    lifetimes.ifa_preferred = 0;
    lifetimes.ifa_valid = seconds;
    message
        .attributes
        .push(AddressAttribute::CacheInfo(lifetimes));
    channel.request(
        "adding the VIP",
        RouteNetlinkMessage::NewAddress(message),
        NLM_F_CREATE | NLM_F_REPLACE,
    )?;
    Ok(newly_added)
}

/// An entry that a mere refresh turns into ours. The scope cannot be changed in place.
fn is_ours(entry: &Entry, address: IpAddr, link: &Link) -> bool {
    entry.index == link.index
        && entry.prefix_len == full_length(address)
        && (address.is_ipv6() || entry.scope == scope(address))
}

/// Removes every entry with the address; the one on `link` first and without looking. Returns how many there were.
pub(super) fn clear(
    channel: &mut Channel,
    address: IpAddr,
    link: Option<&Link>,
) -> Result<usize, VipError> {
    let mut removed = 0;
    if let Some(link) = link {
        removed += usize::from(remove(
            channel,
            address,
            address,
            link.index,
            full_length(address),
        )?);
    }
    for entry in entries(channel, address)? {
        removed += usize::from(remove(
            channel,
            address,
            entry.peer,
            entry.index,
            entry.prefix_len,
        )?);
    }
    Ok(removed)
}

/// Removes one entry; false when it was not there.
fn remove(
    channel: &mut Channel,
    address: IpAddr,
    peer: IpAddr,
    index: u32,
    prefix_len: u8,
) -> Result<bool, VipError> {
    let message = RouteNetlinkMessage::DelAddress(body(address, peer, index, prefix_len));
    match channel.request("removing the VIP", message, 0) {
        Ok(_) => Ok(true),
        Err(VipError::Kernel {
            errno: Errno::EADDRNOTAVAIL | Errno::ENODEV | Errno::ENXIO,
            ..
        }) => Ok(false),
        Err(fault) => Err(fault),
    }
}

/// Asks for something that needs `CAP_NET_ADMIN` and changes nothing: the kernel checks the right before it finds that
/// there is no interface 0.
pub(super) fn check_right(channel: &mut Channel, address: IpAddr) -> Result<(), VipError> {
    let message = RouteNetlinkMessage::DelAddress(body(address, address, 0, full_length(address)));
    match channel.request("changing addresses", message, 0) {
        Err(
            fault @ (VipError::MissingCapability { .. }
            | VipError::TimedOut { .. }
            | VipError::Io { .. }),
        ) => Err(fault),
        _ => Ok(()),
    }
}

fn body(address: IpAddr, peer: IpAddr, index: u32, prefix_len: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.index = index;
    message.header.prefix_len = prefix_len;
    message.attributes.push(AddressAttribute::Local(address));
    message.attributes.push(AddressAttribute::Address(peer));
    message
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    }
}

/// The prefix length on the wire: the VIP brings no subnet of its own, whose end would take the host's along.
pub(super) fn full_length(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn scope(address: IpAddr) -> AddressScope {
    if address.is_ipv4() {
        AddressScope::Host
    } else {
        AddressScope::Universe
    }
}
