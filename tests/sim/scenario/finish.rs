//! How a story ends: who serves, what each instance is at, and the clients' accounts.

use super::client::Client;
use super::tale::{name_of, node_host};
use crate::redis::{Link, Upstream};
use crate::world::{Ns, World, place};
use mainstay::cluster::{Durability, Group, NodeId, Phase};
use mainstay::decide::decide;
use std::collections::HashSet;
use std::fmt::Write as _;

fn secs(time: Ns) -> f64 {
    time as f64 / 1e9
}

/// The last part of the outcome.
pub fn finish(world: &World, names: &[String], clients: &[Client], begin: Ns) -> String {
    let mut out = format!("\nat the end, {} s\n", secs(world.now - begin).round());
    for number in 0..world.names.len() {
        group(world, names, number, &mut out);
    }
    for client in clients {
        account(world, client, begin, &mut out);
    }
    out
}

fn serving(world: &World, group: &Group, number: usize) -> Option<usize> {
    let host = node_host(world, group.primary_node()?)?;
    let at = place(host, number);
    let stable = !matches!(group.phase, Phase::Sealing { .. });
    (stable && world.insts[at].redis.alive && world.insts[at].redis.upstream.is_none()).then_some(host)
}

fn group(world: &World, names: &[String], number: usize, out: &mut String) {
    let name = &world.names[number];
    let Some(group) = world.committed().groups.get(name) else { return };
    let last = group.primary_node().map_or_else(|| "nobody".to_owned(), |node| name_of(world, node));
    let primary = match serving(world, group, number) {
        Some(_) => format!("primary {last}"),
        None => format!("NO PRIMARY (was {last})"),
    };
    let holders: Vec<&str> = (0..world.hosts.len())
        .filter(|host| world.insts[place(*host, number)].vip_until > world.now)
        .map(|host| names[host].as_str())
        .collect();
    let vip = if holders.is_empty() { "nowhere".to_owned() } else { format!("on {}", holders.join(" AND ")) };
    let durability = if group.durability == Durability::Quorum { ", durability quorum" } else { "" };
    let paused = if group.pause.is_some() { ", PAUSED" } else { "" };
    let _ = writeln!(out, "  {name}: {primary}, epoch {}, VIP {vip}{durability}{paused}", group.epoch);
    for node in group.members.keys() {
        let Some(host) = node_host(world, *node) else { continue };
        let lineage = instance(world, group, number, *node, host);
        let label = if names[host] == name_of(world, *node) {
            names[host].clone()
        } else {
            format!("{} as {}", names[host], name_of(world, *node))
        };
        let _ = writeln!(out, "    {label:<8} {lineage}");
    }
}

/// What its agent says of it; its data, if that is not proved to be the group's.
fn instance(world: &World, group: &Group, number: usize, node: NodeId, host: usize) -> String {
    let (own, redis) = (&world.hosts[host], &world.insts[place(host, number)].redis);
    let held = if redis.alive { format!(", {} writes", redis.data.len()) } else { String::new() };
    let agent = match &own.agent {
        _ if !own.up => return "the host is down".to_owned(),
        None => return format!("no agent{held}"),
        Some(_) if own.stalled => return format!("its agent is frozen{held}"),
        Some(agent) => agent,
    };
    let name = &world.names[number];
    let reason = decide(&agent.view, &own.policy).reasons.get(name).map(ToString::to_string).unwrap_or_default();
    let follows = redis.link == Link::Up && matches!(redis.upstream, Some(Upstream::Host(_)));
    let seat = agent.view.seats.get(name);
    let lineage = seat.and_then(|seat| seat.instance.seen()).and_then(|info| agent.view.lineage_of(name, info));
    let proved = lineage == Some(group.epoch) || group.primary_node() == Some(node);
    let doubt = if follows && !proved { ", its data is not proved yet" } else { "" };
    format!("{reason}{held}{doubt}")
}

fn account(world: &World, client: &Client, begin: Ns, out: &mut String) {
    let (tries, acknowledged) = (client.tries, client.acknowledged.len());
    let (length, since) = client.longest;
    let _ = writeln!(
        out,
        "  client: {tries} writes, {acknowledged} acknowledged; the longest time without: {:.2} s, from {:.2} s on",
        secs(length),
        secs(since - begin)
    );
    let found = world.committed().groups.get(&world.names[client.group]);
    let primary = found.and_then(|group| serving(world, group, client.group));
    let text = match primary {
        Some(host) => {
            let held: HashSet<u64> = world.insts[place(host, client.group)].redis.data.iter().copied().collect();
            let lost = client.acknowledged.iter().filter(|write| !held.contains(write)).count();
            format!("acknowledged and lost: {lost}")
        }
        None => "acknowledged and lost: not known while nobody serves".to_owned(),
    };
    let _ = writeln!(out, "  client: {text}");
}
