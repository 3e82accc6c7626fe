//! Restarts, membership and long service: state is kept, nodes join, many
//! failovers in a row need no hand.

use std::time::Instant;

use crate::cluster::{Cluster, Options};
use crate::lab::{in_lab, ms, secs, wait_for};
use crate::switch::HostNo;

fn roles(c: &Cluster, host: HostNo) -> Result<Vec<(String, String, String)>, String> {
    let status = c.status(host)?;
    let nodes = status["nodes"].as_array().ok_or("no nodes")?;
    let text = |v: &serde_json::Value| v.as_str().unwrap_or_default().to_owned();
    Ok(nodes.iter().map(|n| (text(&n["name"]), text(&n["role"]), text(&n["reason"]))).collect())
}

fn wait_voters(c: &Cluster, voters: usize, all: usize) -> Vec<(String, String, String)> {
    wait_for("voters", secs(30), || {
        let roles = roles(c, 1)?;
        let now = roles.iter().filter(|(_, role, _)| role == "voter").count();
        if (now, roles.len()) == (voters, all) { Ok(roles) } else { Err(format!("{roles:?}")) }
    })
}

/// What a restart must not change, as one node sees it: the nodes and who of them are guardians, the group's members,
/// who of them may be promoted, W and R, and the history.
fn lasting(c: &Cluster, host: HostNo) -> Result<serde_json::Value, String> {
    let status = c.status(host)?;
    let group = &status["groups"][0];
    let pick = |of: &serde_json::Value, keys: &[&str]| -> Vec<serde_json::Value> {
        keys.iter().map(|key| of[*key].clone()).collect()
    };
    let each = |of: &serde_json::Value, keys: &[&str]| -> Vec<Vec<serde_json::Value>> {
        of.as_array().into_iter().flatten().map(|one| pick(one, keys)).collect()
    };
    // Another primary may be there by then: it came out of F, and the old one is in it.
    let followers = group["followers"].as_array().into_iter().flatten();
    let mut electable: Vec<String> = followers.chain([&group["last_primary"]]).map(ToString::to_string).collect();
    electable.sort();
    Ok(serde_json::json!({
        "nodes": each(&status["nodes"], &["name", "address", "role"]),
        "members": each(&group["instances"], &["node", "priority"]),
        "electable": electable,
        "group": pick(group, &["name", "vip", "quorum", "reports_needed", "durability", "paused"]),
        "lease": status["lease_ms"],
        "first change": group["changes"].as_array().and_then(|all| all.last()).map(|first| pick(first, &["epoch", "to"])),
    }))
}

#[test]
fn three_agents_restarted_at_once_keep_their_state() {
    in_lab(|| {
        let c = Cluster::start(Options::new(3));
        let old = c.wait_healthy(secs(30));
        let before = c.status(1).expect("status");
        let lasted = lasting(&c, 1).expect("status");
        assert_eq!(lasted["electable"], serde_json::json!(["\"n1\"", "\"n2\"", "\"n3\""]));
        assert!(
            lasted["nodes"].as_array().is_some_and(|all| all.len() == 3 && all.iter().all(|node| node[2] == "voter"))
        );
        let load = c.load();
        std::thread::sleep(ms(300));
        let cut = Instant::now();
        for host in c.hosts.values() {
            assert!(host.agent().kill());
        }
        std::thread::sleep(secs(1));
        let now = c.wait_steady(secs(30));
        let served = Instant::now();
        let history = load.stop();
        let after = wait_for("status", secs(10), || c.status(1));
        assert!(history.two_servers().is_empty(), "{:#?}", history.two_servers());
        assert!(after["term"].as_u64() >= before["term"].as_u64(), "the term went back");
        assert!(after["groups"][0]["epoch"].as_u64() >= before["groups"][0]["epoch"].as_u64(), "the epoch went back");
        let gap = history.by("vip").gap(cut..served);
        println!("FIGURE three agents killed at once: gap {gap:?}, primary n{old} then n{now}");
        assert!(c.lost(&history.by("vip"), now).is_empty());
        c.wait_healthy(secs(30));
        for host in 1..=3 {
            wait_for("the same state", secs(5), || match lasting(&c, host)? {
                now if now == lasted => Ok(()),
                now => Err(format!("n{host}: {now:#}, before {lasted:#}")),
            });
        }
    });
}

#[test]
fn a_fourth_and_a_fifth_node_join() {
    in_lab(|| {
        let mut c = Cluster::start(Options::new(3));
        c.wait_steady(secs(30));
        c.add_host(4, false).expect("n4");
        wait_voters(&c, 3, 4);
        wait_for("the reason why n4 stays a learner", secs(10), || {
            let roles = roles(&c, 1)?;
            let says = roles.iter().any(|(name, _, reason)| name == "n4" && reason.contains("even"));
            if says { Ok(()) } else { Err(format!("{roles:?}")) }
        });
        c.wait_steady(secs(30));
        c.add_host(5, false).expect("n5");
        wait_voters(&c, 5, 5);
        let old = c.wait_healthy(secs(30));
        let load = c.load();
        std::thread::sleep(ms(300));
        c.kill_host(old);
        let new = c.wait_new_primary(old, secs(12));
        std::thread::sleep(ms(300));
        c.revive_host(old);
        assert_eq!(c.wait_steady(secs(40)), new);
        let history = load.stop();
        assert!(history.two_servers().is_empty(), "{:#?}", history.two_servers());
    });
}

/// One node grows to three while clients write: the primary counts the coming guardians only once they promise.
#[test]
fn one_node_grows_to_three_unfelt() {
    in_lab(|| {
        let mut c = Cluster::start(Options::new(1));
        c.wait_primary(secs(30));
        let load = c.load();
        std::thread::sleep(ms(300));
        let begun = Instant::now();
        c.add_host(2, false).expect("n2");
        c.add_host(3, false).expect("n3");
        wait_voters(&c, 3, 3);
        c.wait_steady(secs(30));
        std::thread::sleep(secs(2));
        let history = load.stop();
        assert_eq!(c.wait_steady(secs(30)), 1);
        assert!(history.two_servers().is_empty(), "{:#?}", history.two_servers());
        let epoch = c.status(1).expect("status")["groups"][0]["epoch"].as_u64();
        assert_eq!(epoch, Some(1), "the primary changed while the cluster grew");
        println!("FIGURE growing from one to three: gap {:?}", history.by("vip").gap(begun..Instant::now()));
    });
}

/// Two nodes are replaced while a third is off; then the only majority is of the two and the third, which knows
/// neither, and which one of them must lead.
#[test]
fn a_node_that_was_off_takes_up_with_members_it_never_heard_of() {
    in_lab(|| {
        let c = Cluster::start(Options::new(5));
        c.wait_healthy(secs(40));
        let load = c.load();
        c.kill_host(5);
        for no in [4, 3] {
            c.kill_host(no);
            wait_for("another primary", secs(15), || match c.primary_now()? {
                now if now == no => Err("not yet".to_owned()),
                now => Ok(now),
            });
            c.replace_host(no);
            wait_voters(&c, 5, 5);
            c.wait_steady(secs(30));
        }
        // Whose data is not proved yet could not take over.
        wait_for("proved data", secs(20), || {
            let status = c.status(1)?;
            let problems = status["groups"][0]["problems"].to_string();
            if problems.contains("not proved") { Err(problems) } else { Ok(()) }
        });
        c.kill_host(1);
        c.kill_host(2);
        c.revive_host(5);
        let now = c.wait_steady(secs(40));
        assert!((3..=5).contains(&now));
        let leader = c.status(5).expect("status")["leader"].to_string();
        assert!(leader.contains("n3") || leader.contains("n4"), "{leader} leads");
        c.revive_host(1);
        c.revive_host(2);
        c.wait_healthy(secs(40));
        let history = load.stop();
        assert!(history.two_servers().is_empty(), "{:#?}", history.two_servers());
    });
}

/// S7: a script that blocks an instance is stopped once; the instance is as good as before.
#[test]
fn a_blocking_script_leaves_no_trace() {
    in_lab(|| {
        let c = Cluster::start(Options::new(3));
        let old = c.wait_healthy(secs(30));
        for host in c.data_hosts() {
            let net = std::sync::Arc::clone(&host.net);
            std::thread::spawn(move || {
                let stream = net.connect(crate::writer::own_instance(), ms(300));
                let client = stream.and_then(|stream| crate::resp::Client::over(stream, secs(10)));
                let _ = client.and_then(|mut client| client.command(&["EVAL", "while true do end", "0"]));
            });
        }
        // Redis calls a script slow after five seconds.
        std::thread::sleep(secs(9));
        let steady = c.wait_healthy(secs(30));
        println!("primary n{old}, now n{steady}");
        assert!(c.host(steady).redis().kill());
        let new = c.wait_new_primary(steady, secs(12));
        assert_eq!(c.wait_steady(secs(40)), new);
    });
}

#[test]
fn a_pair_with_a_witness_survives_either_host() {
    in_lab(|| {
        let c = Cluster::start(Options::new(2).with_witnesses(1));
        for _ in 0..2 {
            let old = c.wait_healthy(secs(40));
            let load = c.load();
            std::thread::sleep(ms(300));
            c.kill_host(old);
            let new = c.wait_new_primary(old, secs(12));
            std::thread::sleep(secs(1));
            c.revive_host(old);
            assert_eq!(c.wait_steady(secs(40)), new);
            let history = load.stop();
            assert!(history.two_servers().is_empty(), "{:#?}", history.two_servers());
        }
    });
}

/// Alternating faults on one cluster, without a hand on it.
#[test]
fn many_failovers_in_a_row() {
    let rounds = std::env::var("LAB_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(6);
    in_lab(|| {
        let c = Cluster::start(Options::new(3));
        let mut gaps = Vec::new();
        for round in 0..rounds {
            let old = c.wait_healthy(secs(40));
            let load = c.load();
            std::thread::sleep(ms(300));
            let cut = Instant::now();
            match round % 4 {
                0 => assert!(c.host(old).redis().kill()),
                1 => c.kill_host(old),
                2 => c.wire.isolate(old),
                _ => assert!(c.host(old).agent().freeze()),
            }
            c.wait_new_primary(old, secs(12));
            std::thread::sleep(ms(300));
            let served = Instant::now();
            match round % 4 {
                0 => {}
                1 => c.revive_host(old),
                2 => c.wire.heal(old),
                _ => assert!(c.host(old).agent().thaw()),
            }
            c.wait_steady(secs(40));
            let history = load.stop();
            assert!(history.two_servers().is_empty(), "round {round}: {:#?}", history.two_servers());
            gaps.push(history.by("vip").gap(cut..served));
        }
        println!("FIGURE {rounds} failovers in a row: gaps {gaps:?}");
        let idle = std::env::var("LAB_IDLE").ok().and_then(|n| n.parse().ok()).unwrap_or(2);
        let agents: Vec<u32> = c.hosts.values().filter_map(|host| host.agent().pid()).collect();
        let before: Vec<Usage> = agents.iter().map(|pid| Usage::of(*pid)).collect();
        std::thread::sleep(secs(idle));
        for (pid, before) in agents.iter().zip(before) {
            let after = Usage::of(*pid);
            println!(
                "FIGURE agent after {rounds} failovers, {idle} idle seconds: RSS {} kB, processor {:.2} %, written {} bytes",
                after.rss_kb,
                (after.ticks - before.ticks) as f64 / idle as f64,
                after.written - before.written
            );
            assert!(after.rss_kb < 60_000, "the agent grows: {} kB", after.rss_kb);
        }
    });
}

/// What a process has used, by /proc.
struct Usage {
    rss_kb: u64,
    /// Hundredths of a second.
    ticks: u64,
    /// Bytes it caused to be written to disk.
    written: u64,
}

impl Usage {
    fn of(pid: u32) -> Self {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0)
        };
        let stat = read("stat");
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        let times = after_name.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok());
        Self {
            rss_kb: field(&read("status"), "VmRSS:"),
            ticks: times.sum(),
            written: field(&read("io"), "write_bytes:"),
        }
    }
}
