//! What node, cluster and timing say together: the contradictions an operator makes when copying a file from one
//! host to the next.
//!
//! Works on the draft, so every finding points at the value's place. Absent and faulty values are skipped: their
//! fault is already named. Upholds the config's part of S5 (a quorum needs three members) and of the relations
//! between the timing fractions.

use std::collections::BTreeMap;
use std::time::Duration;

use super::address::{HostPort, RedisAddress};
use super::findings::{FaultKind, Finding, Findings};
use super::read::{ClusterDraft, Draft, MemberDraft, NodeDraft};
use super::reference::did_you_mean;
use super::timing::{DEFAULT_LEASE, Fractions};

const BAD: FaultKind = FaultKind::Contradiction;

/// All checks that need more than one value.
pub(super) fn check(draft: &Draft, joining: Option<&HostPort>, out: &mut Findings) {
    if let Some(cluster) = &draft.cluster {
        start(cluster, joining.is_some(), out);
        if let Some(node) = &draft.node {
            members(node, cluster, out);
            join(node, cluster, joining, out);
        }
    }
    if let Some(node) = &draft.node {
        binding(node, out);
        places(draft, node, out);
    }
    timing(draft, out);
    super::check_group::check(draft, out);
    super::check_listen::check(draft, out);
}

/// Exactly one of `members` and `join`.
fn start(cluster: &ClusterDraft, joining: bool, out: &mut Findings) {
    match (&cluster.members, &cluster.join) {
        (Some(members), Some(join)) => out.fault(
            Finding::new(BAD, join.span.clone(), "[cluster] has both `members` and `join`")
                .see(&members.span, "members")
                .help("keep `members` on the first nodes of a new cluster, `join` on a node added to a running one"),
        ),
        (None, None) if !joining && !cluster.has_start => out.fault(
            Finding::new(FaultKind::MissingKey, cluster.span.clone(), "[cluster] has neither `members` nor `join`")
                .allowed("members = { n1 = \"10.0.0.1:7400\", ... } for a new cluster, join = [\"10.0.0.1:7400\"] for a running one"),
        ),
        _ => {}
    }
}

fn members(node: &NodeDraft, cluster: &ClusterDraft, out: &mut Findings) {
    let Some(members) = &cluster.members else {
        return;
    };
    if cluster.member_count == 0 {
        let finding = Finding::new(FaultKind::BadValue, members.span.clone(), "[cluster] members is empty");
        out.fault(finding.allowed("every first node of the cluster, this one included"));
    }
    if members.value.is_empty() {
        return;
    }
    own_entry(node, &members.value, out);
    duplicates(&members.value, out);
    reachability(&members.value, out);
    let count = cluster.member_count;
    if count > 0 && count.is_multiple_of(2) {
        let message =
            format!("[cluster] members has {count} nodes; an even one adds no safety, so one of them stays a learner");
        let finding = Finding::new(BAD, members.span.clone(), message);
        out.warn(finding.help("add a node without a [[group]] (a witness) to make the number odd"));
    }
}

/// This node is a member, at the address it gives itself.
fn own_entry(node: &NodeDraft, members: &[MemberDraft], out: &mut Findings) {
    let Some(name) = &node.name else { return };
    let Some(own) = members.iter().find(|member| member.name.value == name.value) else {
        let names: Vec<&str> = members.iter().map(|member| member.name.value.as_str()).collect();
        let message = format!("[node] name \"{}\" is not among the members of the cluster", name.value);
        let finding = Finding::new(BAD, name.span.clone(), message)
            .see(&members[0].name.span, "the first of the members")
            .allowed(&names.join(", "));
        let near = did_you_mean(&name.value, names.iter().copied());
        out.fault(match near {
            Some(near) => {
                finding.help(format!("did you mean \"{near}\"? Else add {} to the members on every node", name.value))
            }
            None => finding.help(format!("add {} to the members on every node", name.value)),
        });
        return;
    };
    if let (Some(listed), Some(address)) = (&own.address, &node.address)
        && listed.value != address.value
    {
        let message =
            format!("[cluster] members.{} is {}, but [node] address is {}", name.value, listed.value, address.value);
        let finding = Finding::new(BAD, listed.span.clone(), message).see(&address.span, "[node] address");
        let other = members.iter().find(|m| m.address.as_ref().is_some_and(|a| a.value == address.value));
        out.fault(match other {
            Some(other) => {
                finding.help(format!("that address is {}'s: is this {}'s file?", other.name.value, other.name.value))
            }
            None => finding.help("make them equal; what to bind can be set apart with `bind`"),
        });
    }
}

fn duplicates(members: &[MemberDraft], out: &mut Findings) {
    let mut seen: BTreeMap<&HostPort, &MemberDraft> = BTreeMap::new();
    for member in members {
        let Some(address) = &member.address else {
            continue;
        };
        if let Some(first) = seen.insert(&address.value, member) {
            let message = format!(
                "[cluster] members {} and {} have the same address {}",
                first.name.value, member.name.value, address.value
            );
            let finding = Finding::new(BAD, address.span.clone(), message);
            out.fault(finding.see(&first.name.span, first.name.value.clone()).help("every agent has its own address"));
        }
    }
}

/// Either all members are on this host, or none uses an address that means "this host".
fn reachability(members: &[MemberDraft], out: &mut Findings) {
    let addresses: Vec<_> = members.iter().filter_map(|member| Some((member, member.address.as_ref()?))).collect();
    let Some((far, _)) = addresses.iter().find(|(_, address)| !address.value.is_loopback()) else {
        return;
    };
    for (member, address) in addresses.iter().filter(|(_, address)| address.value.is_loopback()) {
        let message = format!(
            "[cluster] members.{} is {}, which on every other node means that node itself",
            member.name.value, address.value
        );
        let finding = Finding::new(BAD, address.span.clone(), message)
            .see(&far.name.span, format!("{} is on another host", far.name.value));
        out.fault(finding.help("give the address at which the other nodes reach it"));
    }
}

fn join(node: &NodeDraft, cluster: &ClusterDraft, joining: Option<&HostPort>, out: &mut Findings) {
    let own = node.address.as_ref();
    if let (Some(target), Some(own)) = (joining, own)
        && *target == own.value
    {
        let message = format!("--join {target} is this node's own address");
        out.fault(
            Finding::new(BAD, own.span.clone(), message)
                .help("give the address of an agent that is already in the cluster"),
        );
    }
    let Some(join) = &cluster.join else { return };
    if join.value.is_empty() && !out.has_fault_within(&join.span) {
        let finding = Finding::new(FaultKind::BadValue, join.span.clone(), "[cluster] join is empty");
        out.fault(finding.allowed("HOST:PORT of running agents, such as [\"10.0.0.1:7400\"]"));
    }
    for (i, target) in join.value.iter().enumerate() {
        if let Some(first) = join.value[..i].iter().find(|first| first.value == target.value) {
            let finding =
                Finding::new(BAD, target.span.clone(), format!("[cluster] join names {} twice", target.value));
            out.fault(finding.see(&first.span, "the first time"));
        }
        let Some(own) = own else { continue };
        if target.value == own.value {
            let message = format!("[cluster] join names {}, this node's own address", target.value);
            let finding = Finding::new(BAD, target.span.clone(), message).see(&own.span, "[node] address");
            out.fault(finding.help("name agents that are already in the cluster; a new cluster starts with `members`"));
        } else if target.value.is_loopback() && !own.value.is_loopback() {
            let message = format!("[cluster] join names {}, which is this host itself", target.value);
            out.warn(
                Finding::new(BAD, target.span.clone(), message).help("right only if another agent runs on this host"),
            );
        }
    }
}

fn binding(node: &NodeDraft, out: &mut Findings) {
    let Some(address) = &node.address else { return };
    if address.value.ip().is_none() && !address.value.is_loopback() {
        let message =
            format!("[node] address {} is a host name: a failover then waits for name resolution", address.value);
        out.warn(Finding::new(BAD, address.span.clone(), message).help("prefer an IP address"));
    }
    let Some(bind) = &node.bind else { return };
    if bind.value.ip().is_loopback() && !address.value.is_loopback() {
        let message =
            format!("[node] bind {} lets nobody else in, but peers are to reach {}", bind.value, address.value);
        out.fault(
            Finding::new(BAD, bind.span.clone(), message)
                .see(&address.span, "[node] address")
                .help("leave out `bind`, or bind 0.0.0.0"),
        );
    }
    if bind.value.port() != address.value.port {
        let message = format!("[node] bind uses port {}, address port {}", bind.value.port(), address.value.port);
        let finding = Finding::new(BAD, bind.span.clone(), message).see(&address.span, "[node] address");
        out.warn(finding.help("right only where something maps the one to the other"));
    }
}

/// State that must survive a reboot, and files that must not be the same one.
fn places(draft: &Draft, node: &NodeDraft, out: &mut Findings) {
    if let Some(dir) = &node.data_dir
        && ["/run", "/var/run", "/dev/shm"].iter().any(|gone| dir.value.starts_with(gone))
    {
        let message = format!(
            "[node] data_dir {} is emptied by a reboot, and with it every promise and seal",
            dir.value.display()
        );
        out.fault(
            Finding::new(BAD, dir.span.clone(), message).help("use a directory on a disk, such as /var/lib/mainstay"),
        );
    }
    for redis in draft.groups.iter().filter_map(|group| group.redis.as_ref()) {
        if let (RedisAddress::Unix(path), Some(socket)) = (&redis.value, &draft.socket)
            && *path == socket.value
        {
            let message = format!("{} is both an instance's socket and the agent's own", path.display());
            let finding = Finding::new(BAD, socket.span.clone(), message);
            out.fault(finding.see(&redis.span, "redis"));
        }
    }
    if let Some(sentinel) = &draft.sentinel
        && let (Some(username), None) = (&sentinel.username, &sentinel.password_file)
    {
        let finding = Finding::new(BAD, username.span.clone(), "[sentinel] has a `username` but no `password_file`");
        out.fault(finding.help("add password_file = \"/etc/mainstay/sentinel.password\""));
    }
    let Some(key) = draft.cluster.as_ref().and_then(|cluster| cluster.key_file.as_ref()) else {
        return;
    };
    let passwords = draft.groups.iter().filter_map(|group| group.password_file.as_ref());
    let passwords = passwords.chain(draft.sentinel.as_ref().and_then(|sentinel| sentinel.password_file.as_ref()));
    for password in passwords.filter(|password| password.value == key.value) {
        let message = format!("{} cannot hold both a password and the cluster's key", key.value.display());
        out.fault(Finding::new(BAD, password.span.clone(), message).see(&key.span, "[cluster] key_file"));
    }
}

fn timing(draft: &Draft, out: &mut Findings) {
    let timing = &draft.timing;
    if timing.lease_is_bad {
        return;
    }
    let lease = timing.lease_ms.as_ref().map_or(DEFAULT_LEASE, |at| Duration::from_millis(at.value));
    if let (Err(broken), Some(at)) = (Fractions::of(lease).check(), &timing.lease_ms) {
        out.fault(Finding::new(BAD, at.span.clone(), format!("[timing] lease_ms {}: {broken}", at.value)));
    }
    if let Some(hang) = &timing.hang_after_ms
        && Duration::from_millis(hang.value) < lease
    {
        let message =
            format!("[timing] hang_after_ms {} is shorter than the lease of {} ms", hang.value, lease.as_millis());
        let finding = Finding::new(BAD, hang.span.clone(), message)
            .allowed(&format!("{} to 600000 (milliseconds)", lease.as_millis()));
        out.fault(match &timing.lease_ms {
            Some(at) => finding.see(&at.span, "lease_ms"),
            None => finding,
        });
    }
}
