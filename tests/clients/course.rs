//! The course every client runs, on both systems: kill, host loss, switchover; what it saw, and what it lost.
//!
//! All clients write at once. A fault is over for a client when a write that it sent after the new primary was one is found
//! there: what the old one still acknowledged, and what came over with its data, ends nothing. The gap is the longest time without an acknowledgement since the fault; writes are lost that were
//! acknowledged and are not on the primary once everybody follows it again.
//!
//! CI runs each fault once on each system. `CLIENTS_RUNS=n` runs all faults n times and prints the table of the
//! documents: `CLIENTS_RUNS=5 cargo test --test clients follow -- --nocapture`. `CLIENTS_ONLY=jedis,kombu` picks clients.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use base64::Engine as _;

use crate::client::{Clients, KINDS, Kind, QUEUE, Running, refused};
use crate::cluster::{Cluster, Host};
use crate::lab::{ms, secs, wait_for};
use crate::record::{Ack, Record, now};
use crate::resp::{Client, Reply};
use crate::switch::HostNo;
use crate::system::{Fault, System, with};
use crate::writer::own_instance;

/// Longer than any library rests by itself before it looks again.
const RECOVERY: Duration = secs(40);
/// What a client of Sentinel is given; one that takes longer waits for the lost host itself.
const ENOUGH: Duration = secs(20);
/// Keys asked for at once.
const BATCH: usize = 500;

/// Per fault and client: gaps and lost writes of all runs.
type Figures = BTreeMap<(usize, &'static str), Vec<(Duration, usize)>>;

fn runs() -> Option<usize> {
    std::env::var("CLIENTS_RUNS").ok().map(|runs| runs.parse().expect("CLIENTS_RUNS is a number"))
}

fn kinds() -> Vec<Kind> {
    let only = std::env::var("CLIENTS_ONLY").unwrap_or_default();
    let wanted = |kind: &Kind| only.is_empty() || only.split(',').any(|name| name == kind.name);
    KINDS.into_iter().filter(wanted).collect()
}

fn instance(host: &Host) -> Result<Client, String> {
    let stream = host.net.connect(own_instance(), ms(500)).map_err(|error| error.to_string())?;
    Client::over(stream, secs(5)).map_err(|error| error.to_string())
}

/// The number in a message that kombu put into its list.
fn number(message: &Reply) -> Option<u64> {
    let message: serde_json::Value = serde_json::from_str(&message.text()).ok()?;
    let body = base64::engine::general_purpose::STANDARD.decode(message["body"].as_str()?).ok()?;
    String::from_utf8(body).ok()?.parse().ok()
}

fn ask(client: &mut Client, args: &[&str]) -> Result<Reply, String> {
    match client.command(args) {
        Ok(Reply::Error(text)) => Err(text),
        Ok(reply) => Ok(reply),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether the instance has the client's last acknowledged write.
fn arrived(kind: Kind, record: &Record, cut: u64, host: &Host) -> Result<(), String> {
    let last = record.last().filter(|ack| ack.sent > cut).ok_or_else(|| format!("{:?}", record.complaints(cut)))?;
    let mut client = instance(host)?;
    let there = if kind.name == QUEUE {
        number(&ask(&mut client, &["LINDEX", QUEUE, "0"])?).is_some_and(|newest| newest >= last.n)
    } else {
        ask(&mut client, &["GET", &format!("{}:{}", kind.name, last.n)])?.text() == last.n.to_string()
    };
    if there { Ok(()) } else { Err(format!("write {} is not on n{}", last.n, host.no)) }
}

/// Which of the acknowledged writes the instance does not have.
fn lost(kind: Kind, acks: &[Ack], host: &Host) -> Result<Vec<u64>, String> {
    let mut client = instance(host)?;
    if kind.name == QUEUE {
        let list = ask(&mut client, &["LRANGE", QUEUE, "0", "-1"])?;
        let has: BTreeSet<u64> = list.items().iter().filter_map(number).collect();
        return Ok(acks.iter().map(|ack| ack.n).filter(|n| !has.contains(n)).collect());
    }
    let mut missing = Vec::new();
    for batch in acks.chunks(BATCH) {
        let keys: Vec<String> = batch.iter().map(|ack| format!("{}:{}", kind.name, ack.n)).collect();
        let args: Vec<&str> = std::iter::once("MGET").chain(keys.iter().map(String::as_str)).collect();
        let values = ask(&mut client, &args)?;
        let absent = batch.iter().zip(values.items()).filter(|(ack, value)| value.text() != ack.n.to_string());
        missing.extend(absent.map(|(ack, _)| ack.n));
    }
    Ok(missing)
}

/// Somebody other than the old one who calls itself primary.
pub fn new_primary(c: &Cluster, old: HostNo) -> Result<HostNo, String> {
    let role = |host: &&Host| host.info().is_ok_and(|info| info.get("role").is_some_and(|role| role == "master"));
    let other = c.data_hosts().filter(|host| host.no != old).find(role).map(|host| host.no);
    other.ok_or_else(|| format!("nobody but n{old} is primary"))
}

/// Waits until each client has an acknowledged write, sent after `cut`, on that host.
///
/// # Panics
/// When one has none in time.
pub fn all_arrive(clients: &Clients, cut: u64, host: &Host, after: &str) {
    for client in &clients.all {
        let what = format!("write of {} on n{} after {after}", client.kind.name, host.no);
        wait_for(&what, RECOVERY, || arrived(client.kind, &client.record.lock(), cut, host));
    }
}

/// As [`all_arrive`], for as long as that takes under Sentinel; who is missing then is told, and counts with the gap so far.
fn most_arrive(clients: &Clients, cut: u64, host: &Host) {
    let end = Instant::now() + ENOUGH;
    for client in &clients.all {
        while let Err(why) = arrived(client.kind, &client.record.lock(), cut, host) {
            if Instant::now() > end {
                println!("{} has no write on n{} within {ENOUGH:?}: {why}", client.kind.name, host.no);
                break;
            }
            std::thread::sleep(ms(5));
        }
    }
}

/// Each client, with those of all its acknowledged writes that the host does not have.
pub fn all_lost<'a>(clients: &'a Clients, host: &Host) -> Vec<(&'a Running, Vec<u64>)> {
    let judge = |client: &'a Running| {
        let acks = client.record.lock().acks.clone();
        (client, lost(client.kind, &acks, host).expect("the instance answers"))
    };
    clients.all.iter().map(judge).collect()
}

/// One fault: gap of each client, and what it lost of all that was acknowledged since the last reckoning, which is made anew.
fn strike(system: &System, clients: &Clients, fault: Fault, reckoned: &mut u64) -> Vec<(Kind, Duration, usize)> {
    let old = wait_for("primary", secs(30), || system.primary());
    std::thread::sleep(ms(500));
    let cut = now();
    system.strike(fault, old);
    let new = wait_for("new primary", RECOVERY, || new_primary(&system.c, old));
    let seen = now();
    if system.is_ours() {
        all_arrive(clients, seen, system.c.host(new), fault.name());
    } else {
        most_arrive(clients, seen, system.c.host(new));
    }
    let gaps: Vec<Duration> = clients.all.iter().map(|client| client.record.lock().gap(cut, now())).collect();
    system.repair(fault, old);
    let primary = wait_for("primary", secs(30), || system.primary());
    all_arrive(clients, now(), system.c.host(primary), "repair");
    let since = std::mem::replace(reckoned, now());
    let judge = |(client, gap): (&Running, Duration)| {
        let due = |ack: &&Ack| (since..*reckoned).contains(&ack.done);
        let acks: Vec<Ack> = client.record.lock().acks.iter().filter(due).copied().collect();
        let lost = lost(client.kind, &acks, system.c.host(primary)).expect("the primary answers");
        println!(
            "FIGURE {}, {}, {}: gap {gap:?}, {} of {} acknowledged writes lost; told {:?}",
            system.name(),
            client.kind.name,
            fault.name(),
            lost.len(),
            acks.len(),
            client.record.lock().complaints(cut),
        );
        (client.kind, gap, lost.len())
    };
    clients.all.iter().zip(gaps).map(judge).collect()
}

/// Every client that can has read from a replica.
fn read_from_replicas(clients: &Clients) {
    for client in clients.all.iter().filter(|client| client.kind.reads) {
        wait_for(&format!("read of {} from a replica", client.kind.name), secs(20), || {
            let record = client.record.lock();
            let seen = record.roles.iter().any(|(_, role)| role == "slave");
            if seen { Ok(()) } else { Err(format!("{:?}", record.roles.last())) }
        });
    }
}

/// Reads go on, from whatever instance the library holds on to.
fn reads_go_on(clients: &Clients, since: u64) {
    for client in clients.all.iter().filter(|client| client.kind.reads) {
        wait_for(&format!("read of {}", client.kind.name), secs(20), || {
            let record = client.record.lock();
            let good = |(at, role): &&(u64, String)| *at > since && !role.starts_with("none");
            record.roles.iter().rev().find(good).map(drop).ok_or_else(|| format!("{:?}", record.roles.last()))
        });
    }
}

fn wrong_password_is_refused(system: &System, kinds: &[Kind]) {
    let place = system.place();
    std::thread::scope(|scope| {
        let asked: Vec<_> = kinds.iter().map(|kind| (kind, scope.spawn(|| refused(*kind, &place)))).collect();
        for (kind, asked) in asked {
            let said = asked.join().expect("it does not panic");
            let said = said.unwrap_or_else(|| panic!("{} lets {} in with a wrong password", system.name(), kind.name));
            println!("{}, {}, wrong password: {said}", system.name(), kind.name);
        }
    });
}

fn run(system: &System) -> Figures {
    let kinds = kinds();
    let (faults, rounds) = (vec![Fault::Kill, Fault::Host, Fault::Switchover], runs().unwrap_or(1));
    wrong_password_is_refused(system, &kinds);
    let clients = Clients::start(&kinds, &system.place());
    read_from_replicas(&clients);
    let (mut figures, mut reckoned) = (Figures::new(), 0);
    for _ in 0..rounds {
        for fault in &faults {
            for (kind, gap, lost) in strike(system, &clients, *fault, &mut reckoned) {
                figures.entry((*fault as usize, kind.name)).or_default().push((gap, lost));
            }
            reads_go_on(&clients, now());
        }
    }
    print_table(system, &kinds, &faults, &figures);
    figures
}

/// Median and longest gap, and the writes lost in all runs, as the documents have them.
fn print_table(system: &System, kinds: &[Kind], faults: &[Fault], figures: &Figures) {
    let head: Vec<&str> = faults.iter().map(|fault| fault.name()).collect();
    println!("| {} | {} |", system.name(), head.join(" | "));
    for kind in kinds {
        let cells: Vec<String> = faults
            .iter()
            .map(|fault| {
                let mut seen = figures[&(*fault as usize, kind.name)].clone();
                seen.sort();
                let lost: usize = seen.iter().map(|(_, lost)| lost).sum();
                let gap = |at: usize| seen[at].0.as_millis();
                format!("{} ms ({} ms), {lost} lost", gap(seen.len() / 2), gap(seen.len() - 1))
            })
            .collect();
        println!("| {} | {} |", kind.name, cells.join(" | "));
    }
}

#[test]
fn clients_follow_the_agents() {
    with(System::agents, |system| {
        let figures = run(system);
        for ((fault, client), seen) in &figures {
            if *fault == Fault::Switchover as usize {
                let lost: usize = seen.iter().map(|(_, lost)| lost).sum();
                assert_eq!(lost, 0, "{client} lost acknowledged writes in a switchover");
            }
        }
    });
}

#[test]
fn clients_follow_redis_sentinel() {
    with(System::sentinels, |system| drop(run(system)));
}
