//! A living Sentinel group is taken over, step by step as `packaging/docs/from-sentinel.md` tells it, under clients that find
//! their primary through Sentinel all the while, and given back: nothing acknowledged is lost, no client is touched, no data
//! is copied.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use crate::client::{Clients, KINDS};
use crate::cluster::{Cluster, Host};
use crate::course;
use crate::lab::{in_lab, ms, secs, wait_for};
use crate::net::address;
use crate::proc::{Proc, Spec};
use crate::record::now;
use crate::sentinels::{GROUP, PORT, Trio};
use crate::session::Place;
use crate::switch::HostNo;
use crate::system::PASSWORD;

fn secret(path: &Path, text: &str) {
    let file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    writeln!(file.expect("a file"), "{text}").expect("it is written");
}

/// Step 1 on one host: the config, and what its notes ask for. Where the documents have /etc and /var, the lab has the
/// host's own directory.
fn import(c: &Cluster, host: &Host, sentinel_conf: &Path, key: &str) {
    let out = c.mainstay_plain(host.no, &["import-sentinel", &sentinel_conf.display().to_string()]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{said}");
    assert!(said.contains("write it into /etc/mainstay/sentinel.password"), "{said}");
    assert!(!said.contains(PASSWORD), "{said}");
    let config = String::from_utf8(out.stdout).expect("text");
    let root = host.files.root.display();
    let config = config
        .replace("[node]\n", &format!("[node]\ndata_dir = \"{}\"\n", host.files.agent().display()))
        .replace("[cluster]\n", &format!("[cluster]\nkey_file = \"{root}/cluster.key\"\n"))
        .replace("/etc/mainstay/sentinel.password", &format!("{root}/sentinel.password"));
    let config = format!("{config}\n[control]\nsocket = \"{}\"\n", host.files.control().display());
    std::fs::write(host.files.config(), config).expect("it is written");
    secret(&host.files.root.join("cluster.key"), key);
    secret(&host.files.root.join("sentinel.password"), PASSWORD);
}

/// The last step on one host: its agent.
fn agent(host: &Host) -> Proc {
    let spec = Spec {
        name: format!("agent n{}", host.no),
        program: crate::lab::binary().into(),
        args: vec!["run".into(), "--config".into(), host.files.config().display().to_string()],
        env: vec![("RUST_BACKTRACE".into(), "1".into())],
        net: Arc::clone(&host.net),
        log: host.files.agent_log(),
        restart: Some(ms(200)),
        realtime: true,
        stop_post: None,
    };
    Proc::start(spec).expect("an agent")
}

fn info(host: &Host, field: &str) -> String {
    host.info().expect("it answers").remove(field).unwrap_or_default()
}

fn healthy(c: &Cluster, no: HostNo) -> Result<String, String> {
    let status = c.status(no)?;
    match status["health"].as_str() {
        Some("healthy") => Ok(status["groups"][0]["primary"].as_str().unwrap_or_default().to_owned()),
        _ => Err(status.to_string()),
    }
}

#[test]
fn a_living_sentinel_group_is_taken_over() {
    in_lab(|| {
        let c = Cluster::start(crate::sentinels::hosts());
        let mut trio = Trio::start(&c, PASSWORD);
        let place = Place {
            net: Arc::clone(&c.client),
            sentinels: c.hosts.keys().map(|no| (address(*no), PORT).into()).collect(),
            group: GROUP,
            password: PASSWORD.into(),
        };
        // Sentinel writes down whom it has found; the import reads it there.
        for host in c.data_hosts() {
            trio.ask(host, &["SENTINEL", "FLUSHCONFIG"]).expect("it writes its file");
        }
        let clients = Clients::start(&KINDS, &place);
        let (run_id, full_copies) = (info(c.host(1), "run_id"), info(c.host(1), "sync_full"));

        let key = c.mainstay_plain(1, &["keygen"]);
        let key = String::from_utf8(key.stdout).expect("text");
        for host in c.data_hosts() {
            import(&c, host, &trio.conf(host), key.trim());
        }
        std::thread::sleep(ms(500));
        let begun = now();
        for host in c.data_hosts() {
            assert!(trio.proc(host.no).stop(secs(10)), "the Sentinel of n{} ends", host.no);
        }
        let agents: Vec<Proc> = c.data_hosts().map(agent).collect();
        let primary = wait_for("healthy cluster", secs(60), || healthy(&c, 1));
        let taken = now();
        println!("FIGURE takeover: healthy {} ms after the first Sentinel was stopped", (taken - begun) / 1_000_000);
        assert_eq!(primary, "n1", "the primary stays where it was");
        assert_eq!(info(c.host(1), "run_id"), run_id, "no instance is restarted");
        assert_eq!(info(c.host(1), "sync_full"), full_copies, "no replica copies the data anew");

        course::all_arrive(&clients, taken, c.host(1), "takeover");
        for (client, lost) in course::all_lost(&clients, c.host(1)) {
            let gap = client.record.lock().gap(begun, now());
            println!(
                "FIGURE takeover, {}: gap {gap:?}, told {:?}",
                client.kind.name,
                client.record.lock().complaints(begun)
            );
            assert!(lost.is_empty(), "{} lost {lost:?}", client.kind.name);
        }

        // From here on the agents are the clients' Sentinels.
        let cut = now();
        c.host(1).redis().hold();
        let new = wait_for("new primary", secs(30), || course::new_primary(&c, 1));
        course::all_arrive(&clients, now(), c.host(new), "a kill after the takeover");
        for client in &clients.all {
            println!(
                "FIGURE kill after the takeover, {}: gap {:?}",
                client.kind.name,
                client.record.lock().gap(cut, now())
            );
        }
        c.host(1).redis().release();
        way_back(&c, &mut trio, &clients, agents);
    });
}

/// As the documents tell it under that name.
fn way_back(c: &Cluster, trio: &mut Trio, clients: &Clients, agents: Vec<Proc>) {
    let name = wait_for("healthy cluster", secs(30), || healthy(c, 2));
    let primary = c.data_hosts().map(|host| host.no).find(|no| name == format!("n{no}")).expect("one of the hosts");
    course::all_arrive(clients, now(), c.host(primary), "healing");
    let full_copies = info(c.host(primary), "sync_full");
    let begun = now();
    // Step 3: the agents, the primary's host last.
    let last = usize::from(primary) - 1;
    for (at, agent) in agents.iter().enumerate().filter(|(at, _)| *at != last).chain([(last, &agents[last])]) {
        assert!(agent.stop(secs(20)), "the agent of n{} ends", at + 1);
    }
    let offset = |host: &Host| info(host, "slave_repl_offset").parse::<u64>().unwrap_or_default();
    let offsets: Vec<(HostNo, u64)> = c.data_hosts().map(|host| (host.no, offset(host))).collect();
    assert!(c.data_hosts().all(|host| info(host, "role") == "slave"), "all are sealed");
    let (_, most) = offsets.iter().max_by_key(|(_, offset)| *offset).expect("three");
    assert!(offsets.contains(&(primary, *most)), "the old primary has most: {offsets:?}");
    // Step 4: what the agents had set, then who follows whom.
    for host in c.data_hosts() {
        host.cmd(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
        host.cmd(&["CONFIG", "SET", "min-replicas-max-lag", "10"]);
    }
    c.host(primary).cmd(&["REPLICAOF", "NO", "ONE"]);
    for host in c.data_hosts().filter(|host| host.no != primary) {
        host.cmd(&["REPLICAOF", &address(primary).to_string(), "6379"]);
    }
    // Step 5, and the clients are where they were.
    trio.watch(c, primary);
    course::all_arrive(clients, now(), c.host(primary), "the way back");
    assert_eq!(info(c.host(primary), "sync_full"), full_copies, "no replica copies the data anew");
    for (client, lost) in course::all_lost(clients, c.host(primary)) {
        println!("FIGURE way back, {}: gap {:?}", client.kind.name, client.record.lock().gap(begun, now()));
        assert!(lost.is_empty(), "{} lost {lost:?}", client.kind.name);
    }
}
