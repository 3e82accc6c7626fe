//! The fields of SENTINEL MASTER, REPLICAS and SENTINELS, named and ordered as Redis has them.
//!
//! What a Sentinel measures by its own pings is here what the agents tell each other: `last-ok-ping-reply` is since when
//! the instance's agent was heard. Limits that mainstay derives from the lease are given as such.

use super::picture::{Agent, Group, Instance, Picture, Role, Stage};
use crate::view::Moment;
use std::time::Duration;

/// How long a failover that was asked for may take: as long as an operator's switchover is waited for.
const FAILOVER_TIMEOUT: Duration = Duration::from_secs(15);

/// Names and values, in order.
pub(super) type Fields = Vec<(&'static str, String)>;

fn ago(now: Moment, at: Option<Moment>) -> String {
    at.map_or(Duration::ZERO, |at| now.since(at)).as_millis().to_string()
}

/// What all three kinds have; an unanswered ping is one sent when the other was heard last.
fn link(now: Moment, heard: Option<Moment>, down: Option<Moment>) -> Fields {
    vec![
        ("last-ping-sent", if down.is_some() { ago(now, heard.or(down)) } else { "0".to_owned() }),
        ("last-ok-ping-reply", ago(now, heard)),
        ("last-ping-reply", ago(now, heard)),
    ]
}

fn head(name: String, host: &str, port: u16, run_id: &str, flags: String) -> Fields {
    vec![
        ("name", name),
        ("ip", host.to_owned()),
        ("port", port.to_string()),
        ("runid", run_id.to_owned()),
        ("flags", flags),
        ("link-pending-commands", "0".to_owned()),
        ("link-refcount", "1".to_owned()),
    ]
}

fn role(found: &Instance, known_as: Role, now: Moment) -> Fields {
    let reported = if found.role.0 == Role::Unknown { known_as } else { found.role.0 };
    let word = if reported == Role::Primary { "master" } else { "slave" };
    vec![
        ("info-refresh", ago(now, found.heard)),
        ("role-reported", word.to_owned()),
        ("role-reported-time", ago(now, Some(found.role.1))),
    ]
}

fn millis(length: Duration) -> String {
    length.as_millis().to_string()
}

/// The primary's flags. Down is what must not be used: from the moment its word that it serves has run out.
pub(super) fn master_flags(group: &Group, now: Moment) -> String {
    let mut flags = Vec::new();
    if !group.served(now) {
        flags.push("s_down");
    }
    if group.agreed_down(now) {
        flags.push("o_down");
    }
    flags.push("master");
    if group.primary.down.is_some() {
        flags.push("disconnected");
    }
    if failover_state(group).is_some() {
        flags.push("failover_in_progress");
    }
    flags.join(",")
}

fn failover_state(group: &Group) -> Option<&'static str> {
    match group.stage {
        Stage::Switching(_) => Some("wait_promotion"),
        Stage::Sealing { .. } => Some("select_slave"),
        Stage::Stable => None,
    }
}

/// SENTINEL MASTER.
pub(super) fn master(picture: &Picture, group: &Group, now: Moment) -> Fields {
    let primary = &group.primary;
    let address = &primary.address;
    let mut fields = head(group.name.clone(), &address.host, address.port, &primary.run_id, master_flags(group, now));
    fields.extend(failover_state(group).map(|state| ("failover-state", state.to_owned())));
    fields.extend(link(now, primary.heard, primary.down));
    if !group.served(now) {
        fields.push(("s-down-time", ago(now, group.down.or(group.until))));
    }
    if group.agreed_down(now) {
        fields.push(("o-down-time", ago(now, group.sealing)));
    }
    fields.push(("down-after-milliseconds", millis(picture.lease)));
    fields.extend(role(primary, Role::Primary, now));
    fields.extend([
        ("config-epoch", group.epoch.to_string()),
        ("num-slaves", group.replicas.len().to_string()),
        ("num-other-sentinels", listed(picture).count().to_string()),
        ("quorum", picture.quorum.to_string()),
        ("failover-timeout", millis(FAILOVER_TIMEOUT)),
        ("parallel-syncs", "1".to_owned()),
    ]);
    fields
}

/// A row of SENTINEL REPLICAS.
pub(super) fn replica(picture: &Picture, group: &Group, found: &Instance, now: Moment) -> Fields {
    let unfit = found.unfit(now, picture.lease);
    let mut flags = Vec::new();
    if unfit {
        flags.push("s_down");
    }
    flags.push("slave");
    if unfit {
        flags.push("disconnected");
    }
    let address = &found.address;
    let mut fields = head(found.label(), &address.host, address.port, &found.run_id, flags.join(","));
    fields.extend(link(now, found.heard, found.down));
    if unfit {
        fields.push(("s-down-time", ago(now, found.down.or(found.apart))));
    }
    fields.push(("down-after-milliseconds", millis(picture.lease)));
    fields.extend(role(found, Role::Replica, now));
    let attached = linked(group, found, now);
    let primary = &group.primary.address;
    fields.extend([
        ("master-link-down-time", if attached { "0".to_owned() } else { ago(now, found.apart.or(group.down)) }),
        ("master-link-status", if attached { "ok" } else { "err" }.to_owned()),
        ("master-host", primary.host.clone()),
        ("master-port", primary.port.to_string()),
        ("slave-priority", found.redis_priority().to_string()),
        ("slave-repl-offset", found.offset.to_string()),
        ("replica-announced", "1".to_owned()),
    ]);
    fields
}

/// Whether a replica is in step with a primary that serves.
pub(super) fn linked(group: &Group, found: &Instance, now: Moment) -> bool {
    group.served(now) && found.follows && found.apart.is_none() && found.down.is_none()
}

/// Agents whose endpoint is known: the ones clients are told of.
pub(super) fn listed(picture: &Picture) -> impl Iterator<Item = &Agent> {
    picture.others.iter().filter(|agent| agent.address.is_some())
}

/// A row of SENTINEL SENTINELS; None for an agent that has no endpoint.
pub(super) fn sentinel(picture: &Picture, agent: &Agent, now: Moment) -> Option<Fields> {
    let address = agent.address.as_ref()?;
    let flags = if agent.down.is_some() { "s_down,sentinel,disconnected" } else { "sentinel" };
    let mut fields = head(agent.id.clone(), &address.host, address.port, &agent.id, flags.to_owned());
    fields.extend(link(now, agent.heard, agent.down));
    if agent.down.is_some() {
        fields.push(("s-down-time", ago(now, agent.down)));
    }
    fields.push(("down-after-milliseconds", millis(picture.lease)));
    fields.extend([
        ("last-hello-message", ago(now, agent.heard)),
        ("voted-leader", "?".to_owned()),
        ("voted-leader-epoch", "0".to_owned()),
    ]);
    Some(fields)
}
