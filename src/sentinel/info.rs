//! INFO: the sections a Sentinel has, in its words.

use super::fields::{linked, listed};
use super::picture::{Group, Instance};
use super::session::Context;
use crate::view::Moment;
use std::fmt::Write as _;
use std::sync::atomic::Ordering;

/// The version whose Sentinel this endpoint speaks like: clients choose by it what they send.
pub(super) const REDIS_VERSION: &str = "7.0.15";

/// A section's name, and what makes its text.
type Section = (&'static str, fn(&Context<'_>) -> String);

const SECTIONS: [Section; 4] = [("server", server), ("clients", clients), ("stats", stats), ("sentinel", sentinel)];

/// The sections asked for, all without any name; unknown ones are left out, as Redis does.
pub(super) fn info(wanted: &[Vec<u8>], context: &Context<'_>) -> String {
    let named = |name: &str| wanted.iter().any(|word| word.eq_ignore_ascii_case(name.as_bytes()));
    let all = wanted.is_empty() || ["all", "default", "everything"].into_iter().any(named);
    let chosen = SECTIONS.iter().filter(|(name, _)| all || named(name));
    let texts: Vec<String> = chosen.map(|(_, text)| text(context)).collect();
    texts.join("\r\n")
}

fn section(title: &str, lines: &[(&str, String)]) -> String {
    let mut text = format!("# {title}\r\n");
    for (name, value) in lines {
        // Writing to a String cannot fail.
        let _ = write!(text, "{name}:{value}\r\n");
    }
    text
}

fn server(context: &Context<'_>) -> String {
    let up = context.now.since(context.house.started).as_secs();
    section(
        "Server",
        &[
            ("redis_version", REDIS_VERSION.to_owned()),
            ("redis_mode", "sentinel".to_owned()),
            ("mainstay_version", env!("CARGO_PKG_VERSION").to_owned()),
            ("os", std::env::consts::OS.to_owned()),
            ("arch_bits", usize::BITS.to_string()),
            ("process_id", std::process::id().to_string()),
            ("run_id", context.picture.me.id.clone()),
            ("tcp_port", context.house.port.to_string()),
            ("server_time_usec", context.unix_us.to_string()),
            ("uptime_in_seconds", up.to_string()),
            ("uptime_in_days", (up / 86_400).to_string()),
        ],
    )
}

fn clients(context: &Context<'_>) -> String {
    section(
        "Clients",
        &[
            ("connected_clients", context.house.connected().to_string()),
            ("cluster_connections", "0".to_owned()),
            ("maxclients", context.house.most.to_string()),
            ("blocked_clients", "0".to_owned()),
        ],
    )
}

fn stats(context: &Context<'_>) -> String {
    let house = context.house;
    let (channels, patterns) = house.listened();
    section(
        "Stats",
        &[
            ("total_connections_received", house.connections.load(Ordering::Relaxed).to_string()),
            ("total_commands_processed", house.commands.load(Ordering::Relaxed).to_string()),
            ("rejected_connections", house.refused.load(Ordering::Relaxed).to_string()),
            ("pubsub_channels", channels.to_string()),
            ("pubsub_patterns", patterns.to_string()),
        ],
    )
}

fn sentinel(context: &Context<'_>) -> String {
    let picture = context.picture;
    let mut text = section(
        "Sentinel",
        &[
            ("sentinel_masters", picture.groups.len().to_string()),
            ("sentinel_tilt", "0".to_owned()),
            ("sentinel_tilt_since_seconds", "-1".to_owned()),
            ("sentinel_running_scripts", "0".to_owned()),
            ("sentinel_scripts_queue_length", "0".to_owned()),
            ("sentinel_simulate_failure_flags", "0".to_owned()),
        ],
    );
    for (number, group) in picture.groups.iter().enumerate() {
        let status = match (group.served(context.now), group.agreed_down(context.now)) {
            (true, _) => "ok",
            (false, false) => "sdown",
            (false, true) => "odown",
        };
        // The number of Sentinels includes the one that is asked.
        let _ = write!(
            text,
            "master{number}:name={},status={status},address={},slaves={},sentinels={}\r\n",
            group.name,
            group.primary.label(),
            group.replicas.len(),
            listed(picture).count() + 1,
        );
    }
    text
}

/// For SENTINEL INFO-CACHE: what the agents know of an instance, as its INFO would say it.
pub(super) fn of_instance(group: &Group, found: &Instance, now: Moment) -> String {
    let mut text = format!("# Server\r\nrun_id:{}\r\n\r\n# Replication\r\n", found.run_id);
    if found.node == group.primary.node {
        let _ = write!(text, "role:master\r\nconnected_slaves:{}\r\n", group.replicas.len());
        for (number, replica) in group.replicas.iter().enumerate() {
            let state = if linked(group, replica, now) { "online" } else { "wait_bgsave" };
            let (host, port) = (&replica.address.host, replica.address.port);
            let _ = write!(text, "slave{number}:ip={host},port={port},state={state},offset={}\r\n", replica.offset);
        }
        let _ = write!(text, "master_repl_offset:{}\r\n", found.offset);
        return text;
    }
    let primary = &group.primary.address;
    let link = if linked(group, found, now) { "up" } else { "down" };
    let _ = write!(
        text,
        "role:slave\r\nmaster_host:{}\r\nmaster_port:{}\r\nmaster_link_status:{link}\r\nslave_repl_offset:{}\r\n\
         slave_priority:{}\r\n",
        primary.host,
        primary.port,
        found.offset,
        found.redis_priority(),
    );
    text
}
