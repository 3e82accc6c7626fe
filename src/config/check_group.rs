//! What a group says together with itself, with the other groups and with the cluster's members.
//!
//! The mistakes looked for are those of a file copied from another host (its `announce`, its `redis`), of a VIP used
//! where a host's own address belongs, and of two groups sharing what only one can have. Upholds S5's config error
//! (`quorum` with fewer than three members) and the rule that a VIP is never announced.

use std::net::IpAddr;

use super::Durability;
use super::address::{HostPort, RedisAddress};
use super::findings::{At, FaultKind, Finding, Findings, Span};
use super::read::{Draft, GroupDraft, MemberDraft};

const BAD: FaultKind = FaultKind::Contradiction;

/// All checks of all groups.
pub(super) fn check(draft: &Draft, out: &mut Findings) {
    for group in &draft.groups {
        pairs(group, out);
        unsupported(group, out);
        announce(draft, group, out);
        instance(draft, group, out);
        vip(draft, group, out);
        durability(draft, group, out);
    }
    shared(draft, out);
}

fn label(group: &GroupDraft) -> String {
    match &group.name {
        Some(name) => format!("group \"{}\"", name.value),
        None => "[[group]]".to_owned(),
    }
}

fn bad(span: &Span, message: String) -> Finding {
    Finding::new(BAD, span.clone(), message)
}

fn members(draft: &Draft) -> &[MemberDraft] {
    let members = draft
        .cluster
        .as_ref()
        .and_then(|cluster| cluster.members.as_ref());
    members.map_or(&[], |members| &members.value)
}

fn own_address(draft: &Draft) -> Option<&At<HostPort>> {
    draft.node.as_ref()?.address.as_ref()
}

/// Keys that make sense only together.
fn pairs(group: &GroupDraft, out: &mut Findings) {
    match (&group.vip_written, &group.interface_written) {
        (Some(vip), None) => out.fault(
            bad(vip, format!("{} has a `vip` but no `interface` to carry it", label(group)))
                .help("add interface = \"eth0\" (`ip -br link` lists the names)"),
        ),
        (None, Some(interface)) => out.fault(
            bad(interface, format!("{} has an `interface` but no `vip` for it", label(group)))
                .help("add vip = \"ADDRESS/PREFIX\", or leave out `interface` for discovery through Sentinel only"),
        ),
        _ => {}
    }
    if let (Some(username), false) = (&group.username, group.has_password_file) {
        let finding = bad(
            &username.span,
            format!(
                "{} has a `redis_username` but no `redis_password_file`",
                label(group)
            ),
        );
        out.fault(finding.help("add redis_password_file = \"/etc/mainstay/redis.password\""));
    }
}

fn unsupported(group: &GroupDraft, out: &mut Findings) {
    let Some(span) = &group.tls_written else {
        return;
    };
    let message = format!("{}: redis_tls is not supported yet", label(group));
    let finding = Finding::new(FaultKind::Unsupported, span.clone(), message);
    out.fault(finding.help("remove it; without it the connection to Redis is in clear, so use a loopback address or a UNIX socket"));
    if let Some(RedisAddress::Unix(_)) = group.redis.as_ref().map(|redis| &redis.value) {
        out.fault(bad(
            span,
            format!("{} asks for TLS on a UNIX socket", label(group)),
        ));
    }
}

/// Another member's host, where this node's own is meant.
fn stranger<'a>(draft: &'a Draft, address: &HostPort) -> Option<&'a MemberDraft> {
    let node = draft.node.as_ref()?;
    let (name, own) = (node.name.as_ref()?, node.address.as_ref()?);
    if address.is_loopback() || address.host == own.value.host {
        return None;
    }
    members(draft)
        .iter()
        .filter(|member| member.name.value != name.value)
        .find(|member| {
            member
                .address
                .as_ref()
                .is_some_and(|at| at.value.host == address.host)
        })
}

fn announce(draft: &Draft, group: &GroupDraft, out: &mut Findings) {
    let Some(announce) = &group.announce else {
        return;
    };
    let label = label(group);
    let at = &announce.value;
    if let Some(other) = stranger(draft, at) {
        let message = format!(
            "{label} announces {at}, but that host is {}'s",
            other.name.value
        );
        let finding = bad(&announce.span, message).see(
            &other.name.span,
            format!("[cluster] members.{}", other.name.value),
        );
        out.fault(
            finding.help("announce the address at which others reach the instance of this node"),
        );
    }
    let Some(own) = own_address(draft) else {
        return;
    };
    if at.is_loopback() {
        let far = members(draft)
            .iter()
            .filter_map(|m| m.address.as_ref())
            .find(|a| !a.value.is_loopback());
        let far = far.or((!own.value.is_loopback()).then_some(own));
        if let Some(far) = far {
            let message =
                format!("{label} announces {at}, which on every other node means that node itself");
            let finding = bad(&announce.span, message).see(&far.span, "nodes are on other hosts");
            out.fault(
                finding.help("announce the address at which the other nodes reach this instance"),
            );
        }
    } else if at.ip().is_none() {
        let message = format!(
            "{label} announces the host name {}: replicas and clients must resolve it at each change",
            at.host
        );
        out.warn(bad(&announce.span, message).help("prefer an IP address"));
    }
    if let Some(RedisAddress::Tcp(redis)) = group.redis.as_ref().map(|redis| &redis.value)
        && redis.port != at.port
    {
        let message = format!(
            "{label} announces port {}, but its instance listens on port {}",
            at.port, redis.port
        );
        out.warn(
            bad(&announce.span, message)
                .help("right only where something maps the one to the other"),
        );
    }
}

fn instance(draft: &Draft, group: &GroupDraft, out: &mut Findings) {
    let Some(redis) = &group.redis else { return };
    let Some(address) = redis.value.tcp() else {
        return;
    };
    if let Some(other) = stranger(draft, address) {
        let message = format!(
            "{} watches the instance at {address}, but that host is {}'s",
            label(group),
            other.name.value
        );
        let finding = bad(&redis.span, message).see(
            &other.name.span,
            format!("[cluster] members.{}", other.name.value),
        );
        out.fault(
            finding.help("an agent watches the instance on its own host, such as 127.0.0.1:6379"),
        );
    }
}

/// Whose fixed address `ip` is, and where that is written.
fn host_with(draft: &Draft, ip: IpAddr) -> Option<(String, &Span)> {
    let is_it = |at: &At<HostPort>| at.value.ip() == Some(ip);
    if let Some(own) = own_address(draft).filter(|own| is_it(own)) {
        return Some(("this node".to_owned(), &own.span));
    }
    let mut addresses = members(draft)
        .iter()
        .filter_map(|member| Some((&member.name.value, member.address.as_ref()?)));
    if let Some((name, at)) = addresses.find(|(_, at)| is_it(at)) {
        return Some((format!("member {name}"), &at.span));
    }
    let join = draft.cluster.as_ref()?.join.as_ref()?;
    let at = join.value.iter().find(|at| is_it(at))?;
    Some(("an agent to join".to_owned(), &at.span))
}

/// A VIP comes and goes; nothing that must stay may use it.
fn vip(draft: &Draft, group: &GroupDraft, out: &mut Findings) {
    let Some(vip) = &group.vip else { return };
    let vip_ip = vip.value.address;
    let label = label(group);
    if let Some((whose, span)) = host_with(draft, vip_ip) {
        let finding = bad(
            &vip.span,
            format!("{label} has the vip {vip_ip}, which is the address of {whose}"),
        );
        out.fault(
            finding
                .see(span, whose)
                .help("a VIP is an address of its own that no host has by itself"),
        );
        return;
    }
    let mut refuse = |ip: Option<IpAddr>, span: &Span, what: String| {
        if ip == Some(vip_ip) {
            let finding = bad(
                span,
                format!("{what} uses the VIP of {label}, {vip_ip}, which moves between nodes"),
            );
            out.fault(
                finding
                    .see(&vip.span, "vip")
                    .help("use the host's own address"),
            );
        }
    };
    let node = draft.node.as_ref();
    if let Some(bind) = node.and_then(|node| node.bind.as_ref()) {
        refuse(Some(bind.value.ip()), &bind.span, "[node] bind".to_owned());
    }
    for other in &draft.groups {
        if let Some(announce) = &other.announce {
            refuse(
                announce.value.ip(),
                &announce.span,
                format!("{} announce", self::label(other)),
            );
        }
        if let Some(redis) = &other.redis {
            refuse(
                redis.value.tcp().and_then(HostPort::ip),
                &redis.span,
                format!("{} redis", self::label(other)),
            );
        }
    }
    let sentinel = draft
        .sentinel
        .as_ref()
        .and_then(|sentinel| sentinel.listen.as_ref());
    if let Some(listen) = sentinel {
        refuse(
            Some(listen.value.ip()),
            &listen.span,
            "[sentinel] listen".to_owned(),
        );
    }
    if let Some(Some(listen)) = &draft.http {
        refuse(
            Some(listen.value.ip()),
            &listen.span,
            "[http] listen".to_owned(),
        );
    }
}

fn durability(draft: &Draft, group: &GroupDraft, out: &mut Findings) {
    let Some(durability) = &group.durability else {
        return;
    };
    let Some(members) = draft
        .cluster
        .as_ref()
        .and_then(|cluster| cluster.members.as_ref())
    else {
        return;
    };
    if durability.value == Durability::Quorum && members.value.len() < 3 {
        let message = format!(
            "{} asks for durability \"quorum\" with {} members; it needs three with data",
            label(group),
            members.value.len()
        );
        let finding = bad(&durability.span, message).see(&members.span, "[cluster] members");
        out.fault(finding.allowed("\"available\", or three or more members that hold the group"));
    }
}

/// What only one group can have.
fn shared(draft: &Draft, out: &mut Findings) {
    for (i, group) in draft.groups.iter().enumerate() {
        let earlier = &draft.groups[..i];
        same(
            group,
            earlier,
            "name",
            |g| g.name.as_ref().map(|at| (at.value.clone(), &at.span)),
            out,
        );
        same(
            group,
            earlier,
            "redis",
            |g| g.redis.as_ref().map(|at| (at.value.to_string(), &at.span)),
            out,
        );
        same(
            group,
            earlier,
            "announce",
            |g| {
                g.announce
                    .as_ref()
                    .map(|at| (at.value.to_string(), &at.span))
            },
            out,
        );
        same(
            group,
            earlier,
            "vip",
            |g| {
                g.vip
                    .as_ref()
                    .map(|at| (at.value.address.to_string(), &at.span))
            },
            out,
        );
        same(
            group,
            earlier,
            "redis_unit",
            |g| g.unit.as_ref().map(|at| (at.value.clone(), &at.span)),
            out,
        );
    }
}

fn same<'a>(
    group: &'a GroupDraft,
    earlier: &'a [GroupDraft],
    key: &str,
    value: impl Fn(&'a GroupDraft) -> Option<(String, &'a Span)>,
    out: &mut Findings,
) {
    let Some((text, span)) = value(group) else {
        return;
    };
    let first = earlier
        .iter()
        .find_map(|other| value(other).filter(|(first, _)| *first == text));
    if let Some((_, first)) = first {
        let finding = bad(span, format!("two groups have the same {key}, {text}"));
        out.fault(finding.see(first, "the first"));
    }
}
