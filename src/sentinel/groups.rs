//! SENTINEL: what clients and operators ask of the groups.
//!
//! What is asked is answered as a Sentinel would. What would change the configuration is Raft's, and is refused by an error
//! that names mainstay's own way; only FAILOVER is done, as a switchover that loses nothing. An address is given out by
//! GET-MASTER-ADDR-BY-NAME only while its instance may be said to serve; MASTER and MASTERS go on naming the last primary,
//! with the flags that tell clients to wait.

use super::commands::{arguments, short, unknown_subcommand};
use super::fields;
use super::glob;
use super::info;
use super::picture::{Address, Group, Picture};
use super::session::{Context, Effect};
use crate::resp::{Request, Value};

/// What an operator of a Sentinel might change, and where mainstay has it.
const SETTINGS: [(&str, &str); 7] = [
    ("quorum", "the quorum is a majority of the nodes: `mainstay join` and `mainstay leave` change them"),
    ("down-after-milliseconds", "every interval follows from the lease, which `[timing] lease_ms` seeds"),
    ("failover-timeout", "every interval follows from the lease, which `[timing] lease_ms` seeds"),
    ("parallel-syncs", "replicas are synchronised in full one after the other"),
    ("auth-pass", "the instances' password is in `redis_password_file` of the [[group]]"),
    ("auth-user", "the agent's user is `redis_username` of the [[group]]"),
    ("notification-script", "`[notify] command` is run with every event"),
];

/// Answers `SENTINEL ...`.
pub(super) fn sentinel(request: &Request, context: &Context<'_>) -> (Option<Value>, Effect) {
    let word = request[1].to_ascii_lowercase();
    let rest = &request[2..];
    if word == b"failover" && rest.len() == 1 {
        return match context.picture.group(&rest[0]) {
            Some(group) => (None, Effect::Failover(group.name.clone())),
            None => (Some(no_such_master()), Effect::None),
        };
    }
    (Some(answer(&word, request, rest, context)), Effect::None)
}

fn answer(word: &[u8], request: &Request, rest: &[Vec<u8>], context: &Context<'_>) -> Value {
    let picture = context.picture;
    match (word, rest) {
        (b"masters" | b"primaries", []) => {
            let row = |group: &Group| Value::fields(fields::master(picture, group, context.now));
            Value::Array(picture.groups.iter().map(row).collect())
        }
        (b"master" | b"primary", [name]) => {
            of_group(picture, name, |group| Value::fields(fields::master(picture, group, context.now)))
        }
        (b"replicas" | b"slaves", [name]) => of_group(picture, name, |group| {
            let rows = group.replicas.iter();
            Value::Array(rows.map(|found| Value::fields(fields::replica(picture, group, found, context.now))).collect())
        }),
        (b"sentinels", [name]) => of_group(picture, name, |_| {
            let rows = picture.others.iter().filter_map(|agent| fields::sentinel(picture, agent, context.now));
            Value::Array(rows.map(Value::fields).collect())
        }),
        (b"get-master-addr-by-name" | b"get-primary-addr-by-name", [name]) => address(context, name),
        (b"is-master-down-by-addr" | b"is-primary-down-by-addr", [host, port, epoch, _]) => {
            is_down(context, host, port, epoch)
        }
        (b"ckquorum", [name]) => of_group(picture, name, |_| quorum(picture)),
        (b"myid", []) => Value::text(picture.me.id.clone()),
        (b"info-cache", names) if !names.is_empty() => info_cache(context, names),
        (b"pending-scripts", []) => Value::Array(Vec::new()),
        (b"reset", [pattern]) => {
            let fits = picture.groups.iter().filter(|group| glob::fits(pattern, group.name.as_bytes()));
            Value::Int(i64::try_from(fits.count()).unwrap_or(i64::MAX))
        }
        (b"flushconfig", []) => Value::OK,
        (b"config", [verb, names @ ..]) => config(picture, verb, names),
        (b"monitor", [name, host, port, _]) => monitor(picture, name, host, port),
        (b"remove", [name]) => of_group(picture, name, |group| {
            let name = &group.name;
            refused(&format!("a node leaves with `mainstay leave NODE`; {name} itself is in the nodes' files"))
        }),
        (b"set", [name, options @ ..]) if options.len() >= 2 => of_group(picture, name, |_| set(options)),
        (b"debug" | b"simulate-failure", _) => refused("its timing follows from the lease, `[timing] lease_ms`"),
        (b"help", []) => help(),
        _ => wrong(word, request),
    }
}

fn wrong(word: &[u8], request: &Request) -> Value {
    const KNOWN: [&[u8]; 22] = [
        b"masters",
        b"primaries",
        b"master",
        b"primary",
        b"replicas",
        b"slaves",
        b"sentinels",
        b"ckquorum",
        b"myid",
        b"get-master-addr-by-name",
        b"get-primary-addr-by-name",
        b"is-master-down-by-addr",
        b"is-primary-down-by-addr",
        b"info-cache",
        b"pending-scripts",
        b"reset",
        b"flushconfig",
        b"config",
        b"monitor",
        b"remove",
        b"set",
        b"failover",
    ];
    if KNOWN.contains(&word) || word == b"help" {
        return arguments(&format!("sentinel|{}", String::from_utf8_lossy(word)));
    }
    unknown_subcommand("sentinel", &request[1])
}

fn no_such_master() -> Value {
    Value::error("ERR No such master with that name")
}

fn refused(how: &str) -> Value {
    Value::error(format!("ERR not by a Sentinel's command, the nodes agree on it: {how}"))
}

fn of_group(picture: &Picture, name: &[u8], answer: impl FnOnce(&Group) -> Value) -> Value {
    picture.group(name).map_or_else(no_such_master, answer)
}

fn pair(address: &Address) -> Value {
    Value::Array(vec![Value::text(address.host.clone()), Value::text(address.port.to_string())])
}

/// Nil unless somebody serves now: every client library asks the next Sentinel then, or once more after a while.
fn address(context: &Context<'_>, name: &[u8]) -> Value {
    let serving = context.picture.group(name).filter(|group| group.served(context.now));
    serving.map_or(Value::NullArray, |group| pair(&group.primary.address))
}

/// To another Sentinel; it never gets a vote.
fn is_down(context: &Context<'_>, host: &[u8], port: &[u8], epoch: &[u8]) -> Value {
    let number = |word: &[u8]| std::str::from_utf8(word).ok().and_then(|word| word.parse::<i64>().ok());
    let (Some(port), Some(_)) = (number(port), number(epoch)) else {
        return Value::error("ERR value is not an integer or out of range");
    };
    let at = |group: &&Group| {
        let address = &group.primary.address;
        address.host.as_bytes() == host && i64::from(address.port) == port
    };
    let down = context.picture.groups.iter().find(at).is_some_and(|group| !group.served(context.now));
    Value::Array(vec![Value::Int(i64::from(down)), Value::text("*"), Value::Int(0)])
}

fn quorum(picture: &Picture) -> Value {
    let usable = picture.heard;
    if usable >= picture.quorum {
        return Value::Status(
            format!("OK {usable} usable Sentinels. Quorum and failover authorization can be reached").into(),
        );
    }
    Value::error(format!(
        "NOQUORUM {usable} usable Sentinels. Not enough available Sentinels to reach the specified quorum for this master. \
         Not enough available Sentinels to reach the majority and authorize a failover"
    ))
}

fn info_cache(context: &Context<'_>, names: &[Vec<u8>]) -> Value {
    let (picture, now) = (context.picture, context.now);
    let mut rows = Vec::new();
    for group in picture.groups.iter().filter(|group| names.iter().any(|name| name == group.name.as_bytes())) {
        let known = |found| {
            let age = i64::try_from(now.since(picture.at).as_millis()).unwrap_or(i64::MAX);
            Value::Array(vec![Value::Int(age), Value::text(info::of_instance(group, found, now))])
        };
        let instances = std::iter::once(&group.primary).chain(&group.replicas);
        rows.push(Value::text(group.name.clone()));
        rows.push(Value::Array(instances.map(known).collect()));
    }
    Value::Array(rows)
}

fn config(picture: &Picture, verb: &[u8], names: &[Vec<u8>]) -> Value {
    if verb.eq_ignore_ascii_case(b"set") {
        return refused("[sentinel] in the file of each node");
    }
    if !verb.eq_ignore_ascii_case(b"get") || names.is_empty() {
        return Value::error("ERR Only GET and SET are supported, with at least one name");
    }
    let address = picture.me.address.clone().unwrap_or_default();
    let all = [
        ("resolve-hostnames", "yes".to_owned()),
        ("announce-hostnames", "yes".to_owned()),
        ("announce-ip", address.host),
        ("announce-port", address.port.to_string()),
        ("sentinel-user", String::new()),
        ("sentinel-pass", String::new()),
    ];
    let wanted = |name: &str| names.iter().any(|pattern| glob::fits(&pattern.to_ascii_lowercase(), name.as_bytes()));
    Value::fields(all.into_iter().filter(|(name, _)| wanted(name)).collect())
}

/// Of a group that there is already it says so, as Sentinel does: who sets Sentinels up takes that for done.
fn monitor(picture: &Picture, name: &[u8], host: &[u8], port: &[u8]) -> Value {
    if picture.group(name).is_some() {
        return Value::error("ERR Duplicate master name.");
    }
    refused(&format!(
        "a [[group]] with name = \"{}\" and announce = \"{}:{}\" in the files of its nodes makes one",
        short(name),
        short(host),
        short(port)
    ))
}

fn set(options: &[Vec<u8>]) -> Value {
    let option = String::from_utf8_lossy(&options[0]).to_lowercase();
    match SETTINGS.iter().find(|(name, _)| *name == option) {
        Some((_, how)) => refused(how),
        None => {
            Value::error(format!("ERR Unknown option or number of arguments for SENTINEL SET '{}'", short(&options[0])))
        }
    }
}

fn help() -> Value {
    const LINES: [&str; 20] = [
        "SENTINEL <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
        "CKQUORUM <master-name>",
        "CONFIG GET <pattern>",
        "FAILOVER <master-name> (a switchover that loses nothing)",
        "FLUSHCONFIG (does nothing)",
        "GET-MASTER-ADDR-BY-NAME <master-name>",
        "INFO-CACHE <master-name>",
        "IS-MASTER-DOWN-BY-ADDR <ip> <port> <current-epoch> <runid>",
        "MASTER <master-name>",
        "MASTERS",
        "MONITOR (refused: a [[group]] in the nodes' files makes one)",
        "MYID",
        "PENDING-SCRIPTS",
        "REMOVE (refused: `mainstay leave`)",
        "REPLICAS <master-name>",
        "RESET <pattern> (does nothing)",
        "SENTINELS <master-name>",
        "SET (refused: the nodes' files and `mainstay` change settings)",
        "Also by their newer names: PRIMARIES, PRIMARY, GET-PRIMARY-ADDR-BY-NAME, IS-PRIMARY-DOWN-BY-ADDR.",
        "HELP",
    ];
    Value::Array(LINES.into_iter().map(|line| Value::Status(line.into())).collect())
}
