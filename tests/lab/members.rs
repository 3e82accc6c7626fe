//! Members that come and go while clients write and something fails; the pause (S12).

use std::time::Instant;

use crate::cluster::{Cluster, Options};
use crate::lab::{in_lab, ms, secs, wait_for};
use crate::leaving::group;
use crate::net::address;
use crate::switch::HostNo;

fn names(c: &Cluster, at: HostNo) -> Result<Vec<String>, String> {
    let status = c.status(at)?;
    let nodes = status["nodes"].as_array().ok_or("no nodes")?;
    Ok(nodes.iter().filter_map(|node| node["name"].as_str().map(str::to_owned)).collect())
}

fn leave(c: &Cluster, at: HostNo, node: HostNo) {
    let output = c.mainstay(at, &["leave", &format!("n{node}")]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let left = names(c, at).expect("status");
    assert!(!left.contains(&format!("n{node}")), "{left:?}");
}

/// A host that is gone for good is removed, and a new one takes its name with an empty disk, while clients write.
#[test]
fn a_lost_node_is_replaced_under_its_name() {
    in_lab(|| {
        let c = Cluster::start(Options::new(3));
        let primary = c.wait_healthy(secs(40));
        let (lost, other) = (primary % 3 + 1, (primary + 1) % 3 + 1);
        let load = c.load();
        std::thread::sleep(ms(300));
        c.kill_host(lost);
        leave(&c, primary, lost);
        // Ordered before the agent runs: its file still lists the members of the first start.
        c.revive_host_empty(lost);
        let (config, seed) = (c.host(lost).files.config().display().to_string(), format!("{}:7400", address(other)));
        wait_for("the order to join", secs(20), || {
            let output = c.mainstay_plain(lost, &["join", &seed, "--config", &config]);
            if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
        });
        wait_for("the new node", secs(30), || {
            let now = names(&c, primary)?;
            if now.contains(&format!("n{lost}")) { Ok(()) } else { Err(format!("{now:?}")) }
        });
        assert_eq!(c.wait_healthy(secs(40)), primary);
        let voters = c.status(primary).expect("status")["nodes"]
            .as_array()
            .map_or(0, |all| all.iter().filter(|node| node["role"] == "voter").count());
        assert_eq!(voters, 3);
        let history = load.stop();
        assert!(history.two_servers().is_empty(), "{:#?}", history.two_servers());
        assert!(c.lost(&history.by("vip"), primary).is_empty());
    });
}

/// Five become three while clients write and instances die; with the former members gone the rest survives a loss.
#[test]
fn members_leave_while_instances_are_killed() {
    in_lab(|| {
        let c = Cluster::start(Options::new(5));
        let primary = c.wait_healthy(secs(40));
        let others: Vec<HostNo> = (1..=5).filter(|no| *no != primary).collect();
        let load = c.load();
        std::thread::sleep(ms(300));
        // A replica that stays, then the primary, each while another node is being removed.
        for (killed, leaver) in [(others[0], others[2]), (primary, others[3])] {
            assert!(c.host(killed).redis().kill());
            let asker = others[1];
            wait_for("the leave", secs(40), || {
                let output = c.mainstay(asker, &["leave", &format!("n{leaver}")]);
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                if said.contains("it is the primary") {
                    c.mainstay(asker, &["switchover", "--to", &format!("n{asker}")]);
                }
                if output.status.success() || said.contains("no node is named") { Ok(()) } else { Err(said) }
            });
            c.host(leaver).agent().hold();
            c.host(leaver).redis().hold();
            c.kill_host(leaver);
        }
        let now = c.wait_healthy(secs(60));
        assert_eq!(names(&c, now).expect("status").len(), 3);
        assert_eq!(group(&c, now).expect("status")["quorum"], 2);
        c.kill_host(now);
        c.wait_new_primary(now, secs(12));
        let history = load.stop();
        assert!(history.two_servers().is_empty(), "{:#?}", history.two_servers());
    });
}

/// While paused nobody is promoted, whatever dies; when the pause is over, somebody is.
#[test]
fn a_pause_holds_and_ends() {
    in_lab(|| {
        let c = Cluster::start(Options::new(3));
        let old = c.wait_healthy(secs(40));
        let witness = old % 3 + 1;
        let output = c.mainstay(witness, &["pause", "--for", "8s", "--reason", "kernel upgrade"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let begun = Instant::now();
        std::thread::sleep(secs(1));
        c.kill_host(old);
        while begun.elapsed() < ms(7500) {
            assert!(c.primary_now().is_err(), "promoted after {:?}", begun.elapsed());
            std::thread::sleep(ms(50));
        }
        let status = group(&c, witness).expect("status");
        assert_eq!(
            (&status["paused"], &status["pause"]["reason"]),
            (&true.into(), &"kernel upgrade".into()),
            "{status}"
        );
        let waits = status["waits"].as_str().unwrap_or_default();
        assert!(waits.contains("paused: kernel upgrade"), "{status}");
        // Another leader has counted anew, if the one that saw the pause was on the host that died.
        c.wait_new_primary(old, secs(20));
        println!("FIGURE a pause of 8 s ended after {:?}", begun.elapsed());
        c.revive_host(old);
        let now = c.wait_healthy(secs(40));
        assert_eq!(group(&c, now).expect("status")["paused"], false);
    });
}

/// The lease is the cluster's: whose file says another starts again with it, before it serves, and its bounds are right.
#[test]
fn a_file_with_another_lease_gives_way() {
    in_lab(|| {
        let c = Cluster::start(Options { leases: vec![(2, ms(5000)), (3, ms(5000))], ..Options::new(3) });
        let old = c.wait_healthy(secs(60));
        let lease = c.status(old).expect("a status")["lease_ms"].as_u64().expect("a lease");
        for host in c.hosts.values() {
            let own = if host.no == 1 { 800 } else { 5000 };
            let said = format!("the cluster's lease is {lease} ms, not {own} ms as in this node's file");
            assert_eq!(host.agent_log().matches(&said).count(), usize::from(own != lease), "n{}", host.no);
        }
        // The kernel's leash is a second longer than the lease, in whole seconds.
        let mut show = c.host(old).net.command("ip").expect("a command");
        let shown = show.args(["-4", "addr", "show", "to", "10.77.0.100"]).output().expect("it ran").stdout;
        let shown = String::from_utf8_lossy(&shown).into_owned();
        let left = shown.split("valid_lft ").nth(1).and_then(|rest| rest.split("sec").next()?.parse::<u64>().ok());
        let leash = lease.div_ceil(1000) + 1;
        assert!(left.is_some_and(|left| left <= leash && left + 3 >= leash), "of {leash} s: {shown}");
    });
}
