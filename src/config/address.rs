//! Addresses as the config and the command line write them: `HOST:PORT`, an instance's address, a VIP with prefix.
//!
//! Parsing only: nothing here resolves names or opens sockets. Every error is phrased to follow the quoted text
//! (`"10.0.0.1" has no port`), so that config faults and command-line errors read alike. What an address may be
//! *used* for (no wildcard to connect to, no VIP to announce) is judged in `check_group.rs` and its siblings.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The kernel's limit on a UNIX socket's path, without the closing NUL (`sun_path`).
pub const MAX_SOCKET_PATH: usize = 107;

/// Where a peer is reached: an address or a name, and a port that is never 0.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    /// Address or name.
    pub host: Host,
    /// TCP port, 1 to 65535.
    pub port: u16,
}

/// The host half of a [`HostPort`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// A literal address; IPv4-mapped IPv6 is stored as IPv4.
    Ip(IpAddr),
    /// A name to resolve when connecting, in lower case.
    Name(String),
}

impl HostPort {
    /// The literal address, if it is one.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.ip()
    }

    /// The socket address, unless the host is a name.
    #[must_use]
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        self.ip().map(|ip| SocketAddr::new(ip, self.port))
    }

    /// Whether this can only ever mean the host itself.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.host.is_loopback()
    }
}

impl Host {
    /// The literal address, if it is one.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Host::Ip(ip) => Some(*ip),
            Host::Name(_) => None,
        }
    }

    /// Whether this can only ever mean the host itself.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self {
            Host::Ip(ip) => ip.is_loopback(),
            Host::Name(name) => name == "localhost" || name.ends_with(".localhost"),
        }
    }

    /// As Redis and resolvers take it: without the brackets that an IPv6 literal has beside a port.
    #[must_use]
    pub fn bare(&self) -> String {
        match self {
            Host::Ip(ip) => ip.to_string(),
            Host::Name(name) => name.clone(),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
            Host::Ip(IpAddr::V4(ip)) => write!(f, "{ip}"),
            Host::Name(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Why a text is no address. Reads on from the quoted text: `"10.0.0.1" has no port`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Nothing written.
    #[error("is empty")]
    Empty,
    /// Blanks inside or around.
    #[error("contains a blank")]
    Blank,
    /// `redis://…`, `tcp://…`.
    #[error("starts with a scheme; leave out `{}`", .0.escape_default())]
    Scheme(String),
    /// A host alone.
    #[error("has no port")]
    NoPort,
    /// A port alone.
    #[error("has no host before the port")]
    NoHost,
    /// Port 0 means "any" and cannot be dialled.
    #[error("has port 0; a port is 1 to 65535")]
    PortZero,
    /// Not a number, or too large.
    #[error("has the bad port `{}`; a port is 1 to 65535", .0.escape_default())]
    BadPort(String),
    /// Which colon is the port's cannot be told.
    #[error("is an IPv6 address without brackets; write [ADDRESS]:PORT")]
    Unbracketed,
    /// `[` without `]`, or text between `]` and the port.
    #[error("has misplaced brackets; write [ADDRESS]:PORT")]
    Brackets,
    /// Brackets around something else.
    #[error("has no valid IPv6 address between its brackets")]
    BadIpv6,
    /// `fe80::1%eth0`.
    #[error("has a zone (`%{}`), which peers cannot use; give an address that is valid on every host", .0.escape_default())]
    Zone(String),
    /// Digits and dots that form no address.
    #[error("looks like an IPv4 address but `{}` is none", .0.escape_default())]
    BadIpv4(String),
    /// Not a host name either.
    #[error("has the bad character `{}` in its host name", .0.escape_default())]
    BadNameCharacter(char),
    /// A label that is empty, too long, or starts or ends with a dash.
    #[error("is no valid host name")]
    BadName,
    /// A name where only an address can be bound.
    #[error("is a host name; an address to listen on is a literal IP address")]
    NameToBind,
    /// `*:26379`.
    #[error("uses `*`; every address is 0.0.0.0 (IPv4) or [::] (both)")]
    Star,
    /// A socket path without `unix:`.
    #[error("looks like a socket path; write \"unix:{}\"", .0.escape_default())]
    PathWithoutUnix(String),
    /// `unix:run/redis.sock`.
    #[error("has a socket path that is not absolute")]
    RelativeSocket,
    /// Longer than `sun_path`.
    #[error("has a socket path of {0} bytes; the kernel allows 107")]
    LongSocket(usize),
    /// A VIP without its subnet.
    #[error("has no prefix length; write ADDRESS/PREFIX, the prefix of its subnet")]
    NoPrefix,
    /// A prefix length that is no number or too long for the address.
    #[error("has the bad prefix length `{prefix}`; {family} takes 1 to {longest}")]
    BadPrefix {
        /// As written.
        prefix: String,
        /// IPv4 or IPv6.
        family: &'static str,
        /// 32 or 128.
        longest: u8,
    },
    /// `10.0.0.100:6379/24`.
    #[error("is no IP address with a prefix length; a VIP takes no port and no name")]
    NotAnAddress,
    /// An address that cannot float, and why.
    #[error("is {0}, which cannot be a VIP")]
    NotAVip(&'static str),
}

fn check_name(name: &str) -> Result<String, AddressError> {
    let bad = |c: &char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'));
    if let Some(c) = name.chars().find(bad) {
        return Err(AddressError::BadNameCharacter(c));
    }
    if name.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(AddressError::BadIpv4(name.to_owned()));
    }
    let trimmed = name.strip_suffix('.').unwrap_or(name);
    let good_label = |l: &str| !l.is_empty() && l.len() <= 63 && !l.starts_with('-') && !l.ends_with('-');
    if name.len() > 253 || !trimmed.split('.').all(good_label) {
        return Err(AddressError::BadName);
    }
    Ok(trimmed.to_ascii_lowercase())
}

fn check_port(port: &str) -> Result<u16, AddressError> {
    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    match port.parse::<u16>() {
        Ok(0) => Err(AddressError::PortZero),
        Ok(port) if digits => Ok(port),
        _ => Err(AddressError::BadPort(port.to_owned())),
    }
}

fn bracketed(text: &str) -> Result<HostPort, AddressError> {
    let (inside, after) = text[1..].split_once(']').ok_or(AddressError::Brackets)?;
    if let Some((_, zone)) = inside.split_once('%') {
        return Err(AddressError::Zone(zone.to_owned()));
    }
    let ip: Ipv6Addr = inside.parse().map_err(|_| AddressError::BadIpv6)?;
    if after.is_empty() {
        return Err(AddressError::NoPort);
    }
    let port = check_port(after.strip_prefix(':').ok_or(AddressError::Brackets)?)?;
    let host = Host::Ip(IpAddr::V6(ip).to_canonical());
    Ok(HostPort { host, port })
}

impl FromStr for HostPort {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.is_empty() {
            return Err(AddressError::Empty);
        }
        if text.contains(char::is_whitespace) {
            return Err(AddressError::Blank);
        }
        if let Some((scheme, _)) = text.split_once("://") {
            return Err(AddressError::Scheme(format!("{scheme}://")));
        }
        if text.starts_with('[') {
            return bracketed(text);
        }
        if text.parse::<Ipv6Addr>().is_ok() || text.matches(':').count() > 1 {
            return Err(AddressError::Unbracketed);
        }
        let Some((host, port)) = text.split_once(':') else {
            let port_alone = text.bytes().all(|b| b.is_ascii_digit());
            return Err(if port_alone { AddressError::NoHost } else { AddressError::NoPort });
        };
        if host.is_empty() {
            return Err(AddressError::NoHost);
        }
        if host == "*" {
            return Err(AddressError::Star);
        }
        let host = match host.parse::<Ipv4Addr>() {
            Ok(ip) => Host::Ip(IpAddr::V4(ip)),
            Err(_) => Host::Name(check_name(host)?),
        };
        let port = check_port(port)?;
        Ok(HostPort { host, port })
    }
}

impl FromStr for Host {
    type Err = AddressError;

    /// An address, an IPv6 one with or without brackets, or a name.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        match text.parse::<IpAddr>() {
            Ok(ip) => Ok(Host::Ip(ip.to_canonical())),
            Err(_) if text.is_empty() => Err(AddressError::Empty),
            Err(_) => format!("{text}:1").parse::<HostPort>().map(|address| address.host),
        }
    }
}

/// Reads an address to listen on: a literal IP address and a port.
pub(super) fn parse_listen(text: &str) -> Result<SocketAddr, AddressError> {
    let address: HostPort = text.parse()?;
    address.socket_addr().ok_or(AddressError::NameToBind)
}

/// How the agent reaches its own instance.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RedisAddress {
    /// Over TCP.
    Tcp(HostPort),
    /// Over a UNIX socket, by absolute path.
    Unix(PathBuf),
}

impl RedisAddress {
    /// The TCP address, unless it is a UNIX socket.
    #[must_use]
    pub fn tcp(&self) -> Option<&HostPort> {
        match self {
            RedisAddress::Tcp(address) => Some(address),
            RedisAddress::Unix(_) => None,
        }
    }
}

impl fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RedisAddress::Tcp(address) => write!(f, "{address}"),
            RedisAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for RedisAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.starts_with('/') {
            return Err(AddressError::PathWithoutUnix(text.to_owned()));
        }
        if text.starts_with("unix://") {
            return Err(AddressError::Scheme("//".to_owned()));
        }
        let Some(path) = text.strip_prefix("unix:") else {
            return text.parse().map(RedisAddress::Tcp);
        };
        if !Path::new(path).is_absolute() {
            return Err(AddressError::RelativeSocket);
        }
        if path.len() > MAX_SOCKET_PATH {
            return Err(AddressError::LongSocket(path.len()));
        }
        Ok(RedisAddress::Unix(PathBuf::from(path)))
    }
}

/// The floating address with the prefix length of its subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Vip {
    /// The address clients use.
    pub address: IpAddr,
    /// 1 to 32 or 1 to 128.
    pub prefix_len: u8,
}

impl fmt::Display for Vip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

fn not_a_vip(address: IpAddr, prefix_len: u8) -> Option<&'static str> {
    if address.is_unspecified() {
        return Some("the wildcard address");
    }
    if address.is_loopback() {
        return Some("a loopback address");
    }
    if address.is_multicast() {
        return Some("a multicast address");
    }
    match address {
        IpAddr::V4(ip) => {
            let host_mask = u32::MAX.checked_shr(u32::from(prefix_len)).unwrap_or(0);
            let host = u32::from(ip) & host_mask;
            if ip.is_broadcast() {
                return Some("the broadcast address");
            }
            match prefix_len {
                // RFC 3021: both addresses of a /31 are hosts; a /32 has no subnet.
                31 | 32 => None,
                _ if host == 0 => Some("the network address of its subnet"),
                _ if host == host_mask => Some("the broadcast address of its subnet"),
                _ => None,
            }
        }
        IpAddr::V6(ip) => {
            if ip.to_ipv4_mapped().is_some() {
                return Some("an IPv4 address written as IPv6");
            }
            if ip.is_unicast_link_local() {
                return Some("a link-local address (clients would need a zone)");
            }
            let host_mask = u128::MAX.checked_shr(u32::from(prefix_len)).unwrap_or(0);
            let anycast = prefix_len < 127 && u128::from(ip) & host_mask == 0;
            anycast.then_some("the router anycast address of its subnet")
        }
    }
}

impl FromStr for Vip {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.is_empty() {
            return Err(AddressError::Empty);
        }
        if text.contains(char::is_whitespace) {
            return Err(AddressError::Blank);
        }
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| AddressError::NotAnAddress)?;
        let (family, longest) = match address {
            IpAddr::V4(_) => ("IPv4", 32),
            IpAddr::V6(_) => ("IPv6", 128),
        };
        let prefix = prefix.ok_or(AddressError::NoPrefix)?;
        let bad = || AddressError::BadPrefix { prefix: prefix.to_owned(), family, longest };
        let digits = !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_digit());
        let prefix_len: u8 = prefix.parse().map_err(|_| bad())?;
        if !digits || prefix_len == 0 || prefix_len > longest {
            return Err(bad());
        }
        match not_a_vip(address, prefix_len) {
            Some(what) => Err(AddressError::NotAVip(what)),
            None => Ok(Vip { address, prefix_len }),
        }
    }
}
