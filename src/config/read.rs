//! From TOML tables to a draft: every value read and judged by itself, with its place kept for the checks that follow.
//!
//! A value that is absent or faulty is `None` in the draft; the fault is already among the findings. What two values
//! say together is judged in `check.rs` and its siblings, never here.

use std::net::SocketAddr;
use std::path::PathBuf;

use toml::de::DeTable;

use super::RedisTls;
use super::address::{AddressError, HostPort, MAX_SOCKET_PATH, RedisAddress, Vip, parse_listen};
use super::findings::{At, FaultKind, Finding, Findings, Span, quoted};
use super::reader::{Found, Table};
use super::timing::{LEASE_RANGE_MS, MAX_HANG_AFTER_MS};
use crate::cluster::Durability;

/// Longer paths are refused by the kernel (`PATH_MAX` less the closing NUL).
const MAX_PATH: usize = 4095;

#[derive(Default)]
pub(super) struct Draft {
    pub(super) node: Option<NodeDraft>,
    pub(super) cluster: Option<ClusterDraft>,
    pub(super) timing: TimingDraft,
    pub(super) groups: Vec<GroupDraft>,
    pub(super) sentinel: Option<SentinelDraft>,
    pub(super) http: Option<Option<At<SocketAddr>>>,
    pub(super) socket: Option<At<PathBuf>>,
    pub(super) notify: Option<At<PathBuf>>,
}

pub(super) struct NodeDraft {
    pub(super) name: Option<At<String>>,
    pub(super) address: Option<At<HostPort>>,
    pub(super) bind: Option<At<SocketAddr>>,
    pub(super) data_dir: Option<At<PathBuf>>,
}

pub(super) struct ClusterDraft {
    pub(super) span: Span,
    pub(super) name: Option<At<String>>,
    pub(super) key_file: Option<At<PathBuf>>,
    pub(super) members: Option<At<Vec<MemberDraft>>>,
    /// How many are written, faulty ones included.
    pub(super) member_count: usize,
    pub(super) join: Option<At<Vec<At<HostPort>>>>,
    /// `members` or `join` is there, if only with a wrong type.
    pub(super) has_start: bool,
}

pub(super) struct MemberDraft {
    pub(super) name: At<String>,
    pub(super) address: Option<At<HostPort>>,
}

#[derive(Default)]
pub(super) struct TimingDraft {
    pub(super) lease_ms: Option<At<u64>>,
    pub(super) hang_after_ms: Option<At<u64>>,
    /// A lease was written but is no lease; comparisons with it would only mislead.
    pub(super) lease_is_bad: bool,
}

pub(super) struct GroupDraft {
    pub(super) name: Option<At<String>>,
    pub(super) redis: Option<At<RedisAddress>>,
    pub(super) announce: Option<At<HostPort>>,
    pub(super) username: Option<At<String>>,
    pub(super) password_file: Option<At<PathBuf>>,
    pub(super) has_password_file: bool,
    pub(super) tls: Option<RedisTls>,
    pub(super) tls_written: Option<Span>,
    pub(super) unit: Option<At<String>>,
    pub(super) vip: Option<At<Vip>>,
    /// Where `vip` and `interface` stand, also when their values are faulty.
    pub(super) vip_written: Option<Span>,
    pub(super) interface: Option<At<String>>,
    pub(super) interface_written: Option<Span>,
    pub(super) priority: Option<At<u64>>,
    pub(super) durability: Option<At<Durability>>,
    pub(super) quarantine: Option<At<bool>>,
}

pub(super) struct SentinelDraft {
    pub(super) listen: Option<At<SocketAddr>>,
    pub(super) username: Option<At<String>>,
    pub(super) password_file: Option<At<PathBuf>>,
}

/// Why a text is not what its key wants. Reads on from the quoted text.
#[derive(Debug, thiserror::Error)]
enum TextError {
    #[error("is empty")]
    Empty,
    #[error("is {0} bytes long; {1} are allowed")]
    TooLong(usize, usize),
    #[error("contains {0}")]
    BadCharacter(String),
    #[error("does not start with a letter or digit")]
    BadStart,
    #[error("is no unit name ending in `.service`")]
    NoService,
    #[error("names the address label of an interface; write the interface before the colon")]
    Label,
    #[error("is no interface name")]
    NoInterface,
    #[error("is no durability")]
    NoDurability,
    #[error("is {0}, which {1}")]
    WrongClass(&'static str, &'static str),
    #[error(transparent)]
    Address(#[from] AddressError),
}

fn show(c: char) -> String {
    match c {
        ' ' => "a blank".to_owned(),
        c => format!("`{}`", c.escape_default()),
    }
}

/// Names of nodes, clusters and groups: safe in file names, metrics labels and the Sentinel protocol.
fn name(text: &str) -> Result<String, TextError> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    match text.chars().find(|c| !good(*c)) {
        _ if text.is_empty() => Err(TextError::Empty),
        Some(c) => Err(TextError::BadCharacter(show(c))),
        None if text.len() > 63 => Err(TextError::TooLong(text.len(), 63)),
        None if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) => Err(TextError::BadStart),
        None => Ok(text.to_owned()),
    }
}

fn username(text: &str) -> Result<String, TextError> {
    match text.chars().find(|c| c.is_whitespace() || c.is_control()) {
        _ if text.is_empty() => Err(TextError::Empty),
        Some(c) => Err(TextError::BadCharacter(show(c))),
        None => Ok(text.to_owned()),
    }
}

fn unit(text: &str) -> Result<String, TextError> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '\\' | '@');
    match text.chars().find(|c| !good(*c)) {
        _ if text.is_empty() => Err(TextError::Empty),
        Some(c) => Err(TextError::BadCharacter(show(c))),
        None if text.len() > 255 => Err(TextError::TooLong(text.len(), 255)),
        None if text.strip_suffix(".service").is_none_or(str::is_empty) => Err(TextError::NoService),
        None => Ok(text.to_owned()),
    }
}

/// As the kernel's `dev_valid_name` has it.
fn interface(text: &str) -> Result<String, TextError> {
    match text.chars().find(|c| c.is_whitespace() || c.is_control() || *c == '/') {
        _ if text.is_empty() => Err(TextError::Empty),
        Some(c) => Err(TextError::BadCharacter(show(c))),
        None if text.contains(':') => Err(TextError::Label),
        None if text == "." || text == ".." => Err(TextError::NoInterface),
        None if text.len() > 15 => Err(TextError::TooLong(text.len(), 15)),
        None => Ok(text.to_owned()),
    }
}

fn durability(text: &str) -> Result<Durability, TextError> {
    match text {
        "available" => Ok(Durability::Available),
        "quorum" => Ok(Durability::Quorum),
        _ => Err(TextError::NoDurability),
    }
}

/// An address that somebody connects to.
fn reachable(text: &str) -> Result<HostPort, TextError> {
    let address: HostPort = text.parse()?;
    match address.ip().and_then(unreachable_class) {
        Some(class) => Err(TextError::WrongClass(class, "nobody can connect to")),
        None => Ok(address),
    }
}

fn unreachable_class(ip: std::net::IpAddr) -> Option<&'static str> {
    match ip {
        ip if ip.is_unspecified() => Some("the wildcard address"),
        ip if ip.is_multicast() => Some("a multicast address"),
        std::net::IpAddr::V4(ip) if ip.is_broadcast() => Some("the broadcast address"),
        std::net::IpAddr::V6(ip) if ip.is_unicast_link_local() => Some("a link-local address without its zone"),
        _ => None,
    }
}

fn listen(text: &str) -> Result<SocketAddr, TextError> {
    let address = parse_listen(text)?;
    match unreachable_class(address.ip()).filter(|_| !address.ip().is_unspecified()) {
        Some(class) => Err(TextError::WrongClass(class, "nothing can listen on")),
        None => Ok(address),
    }
}

fn redis(text: &str) -> Result<RedisAddress, TextError> {
    let address: RedisAddress = text.parse()?;
    match address.tcp().and_then(HostPort::ip).and_then(unreachable_class) {
        Some(class) => Err(TextError::WrongClass(class, "the agent cannot connect to")),
        None => Ok(address),
    }
}

/// Reads the whole file.
pub(super) fn read(entries: &DeTable<'_>, out: &mut Findings) -> Draft {
    let root = Table::root(entries);
    root.refuse_unknown(out);
    let node = root.table("node", true, out);
    let cluster = root.table("cluster", true, out);
    let mut draft = Draft {
        node: node.map(|found| read_node(&found, out)),
        cluster: cluster.map(|found| read_cluster(&found, out)),
        ..Draft::default()
    };
    if let Some(found) = root.table("timing", false, out) {
        let table = Table::new("timing", &found);
        table.refuse_unknown(out);
        let lease_ms = table.integer("lease_ms", LEASE_RANGE_MS, out);
        draft.timing = TimingDraft {
            lease_is_bad: lease_ms.is_none() && found.entries.contains_key("lease_ms"),
            lease_ms,
            hang_after_ms: table.integer("hang_after_ms", 1..=MAX_HANG_AFTER_MS, out),
        };
    }
    draft.groups = root.tables("group", out).iter().map(|found| read_group(found, out)).collect();
    read_endpoints(&root, &mut draft, out);
    draft
}

fn read_node(found: &Found<'_>, out: &mut Findings) -> NodeDraft {
    let table = Table::new("node", found);
    table.refuse_unknown(out);
    NodeDraft {
        name: table.parsed("name", out, name),
        address: table.parsed("address", out, reachable),
        bind: table.parsed("bind", out, listen),
        data_dir: table.path("data_dir", MAX_PATH, out),
    }
}

fn read_cluster(found: &Found<'_>, out: &mut Findings) -> ClusterDraft {
    let table = Table::new("cluster", found);
    table.refuse_unknown(out);
    let members = table.map("members", out).map(|map| {
        let members = map.value.into_iter().filter_map(|(key, value)| read_member(key, value, out)).collect();
        At::new(members, map.span)
    });
    ClusterDraft {
        span: found.span.clone(),
        member_count: table.count("members"),
        name: table.parsed("name", out, name),
        key_file: table.path("key_file", MAX_PATH, out),
        members,
        join: table.array("join", out, reachable),
        has_start: ["members", "join"].iter().any(|key| found.entries.contains_key(*key)),
    }
}

fn read_member(key: At<&str>, value: Option<At<&str>>, out: &mut Findings) -> Option<MemberDraft> {
    let allowed = "NAME = \"HOST:PORT\", such as n1 = \"10.0.0.1:7400\"";
    let address = value.and_then(|text| match reachable(text.value) {
        Ok(address) => Some(At::new(address, text.span)),
        Err(error) => {
            let message = format!("[cluster] members.{} {} {error}", key.value.escape_default(), quoted(text.value));
            out.fault(Finding::new(FaultKind::BadValue, text.span, message).allowed(allowed));
            None
        }
    });
    match name(key.value) {
        Ok(name) => Some(MemberDraft { name: At::new(name, key.span), address }),
        Err(error) => {
            let message = format!("[cluster] members: the name {} {error}", quoted(key.value));
            let allowed = super::reference::keys_of("node").find(|k| k.name() == "name").map_or(allowed, |k| k.allowed);
            out.fault(Finding::new(FaultKind::BadValue, key.span, message).allowed(allowed));
            None
        }
    }
}

fn read_group(found: &Found<'_>, out: &mut Findings) -> GroupDraft {
    let table = Table::new("group", found);
    table.refuse_unknown(out);
    let written = |name: &str| found.entries.get(name).map(|value| value.span());
    GroupDraft {
        name: table.parsed("name", out, name),
        redis: table.parsed("redis", out, redis),
        announce: table.parsed("announce", out, reachable),
        username: table.parsed("redis_username", out, username),
        password_file: table.path("redis_password_file", MAX_PATH, out),
        has_password_file: found.entries.contains_key("redis_password_file"),
        tls: read_tls(&table, out),
        tls_written: written("redis_tls"),
        unit: table.parsed("redis_unit", out, unit),
        vip: table.parsed("vip", out, |text| text.parse::<Vip>()),
        vip_written: written("vip"),
        interface: table.parsed("interface", out, interface),
        interface_written: written("interface"),
        priority: table.integer("priority", 0..=1000, out),
        durability: table.parsed("durability", out, durability),
        quarantine: table.boolean("quarantine", out),
    }
}

fn read_tls(group: &Table<'_>, out: &mut Findings) -> Option<RedisTls> {
    let found = group.table("redis_tls", false, out)?;
    let table = Table::new("group.redis_tls", &found);
    table.refuse_unknown(out);
    let ca = table.path("ca", MAX_PATH, out);
    let cert = table.path("cert", MAX_PATH, out);
    let key = table.path("key", MAX_PATH, out);
    if found.entries.contains_key("cert") != found.entries.contains_key("key") {
        let message = "redis_tls has only one of `cert` and `key`";
        let finding = Finding::new(FaultKind::Contradiction, found.span.clone(), message);
        out.fault(finding.allowed("both for a client certificate, neither for none"));
    }
    Some(RedisTls { ca: ca?.value, cert: cert.map(|path| path.value), key: key.map(|path| path.value) })
}

fn read_endpoints(root: &Table<'_>, draft: &mut Draft, out: &mut Findings) {
    if let Some(found) = root.table("sentinel", false, out) {
        let table = Table::new("sentinel", &found);
        table.refuse_unknown(out);
        draft.sentinel = Some(SentinelDraft {
            listen: table.parsed("listen", out, listen),
            username: table.parsed("username", out, username),
            password_file: table.path("password_file", MAX_PATH, out),
        });
    }
    if let Some(found) = root.table("http", false, out) {
        let table = Table::new("http", &found);
        table.refuse_unknown(out);
        draft.http = Some(table.parsed("listen", out, listen));
    }
    if let Some(found) = root.table("control", false, out) {
        let table = Table::new("control", &found);
        table.refuse_unknown(out);
        draft.socket = table.path("socket", MAX_SOCKET_PATH, out);
    }
    if let Some(found) = root.table("notify", false, out) {
        let table = Table::new("notify", &found);
        table.refuse_unknown(out);
        draft.notify = table.path("command", MAX_PATH, out);
    }
}
