//! No majority is left: one survivor goes on alone by an operator's word, and the lost ones join anew (S5, S12).

use std::time::{Duration, Instant};

use crate::cluster::{Cluster, Options};
use crate::lab::{in_lab, ms, secs, wait_for};
use crate::leaving::group;
use crate::net::address;
use crate::switch::HostNo;

fn said(output: &std::process::Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The new generation serves, alone and undisturbed, for so long; nobody else leaves the sealed posture.
fn undisturbed(c: &Cluster, primary: HostNo, sealed: &[HostNo], length: Duration) {
    let end = Instant::now() + length;
    while Instant::now() < end {
        assert_eq!(c.primary_now(), Ok(primary));
        assert_eq!(c.vip_holders(), [primary]);
        for no in sealed {
            if let Ok(info) = c.host(*no).info() {
                assert_eq!((info["role"].as_str(), info["master_host"].as_str()), ("slave", "127.0.0.1"), "n{no}");
            }
        }
        std::thread::sleep(ms(50));
    }
}

fn superseded(c: &Cluster, no: HostNo) {
    wait_for("word of the newer generation", secs(15), || {
        let waiting = c.status(no)?["waiting"].as_str().unwrap_or_default().to_owned();
        if waiting.contains("generation 2") { Ok(()) } else { Err(waiting) }
    });
}

fn join(c: &Cluster, no: HostNo, to: HostNo) {
    let (config, seed) = (c.host(no).files.config().display().to_string(), format!("{}:7400", address(to)));
    let output = c.mainstay_plain(no, &["join", &seed, "--config", &config]);
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn a_survivor_goes_on_alone_and_the_lost_ones_join_anew() {
    in_lab(|| {
        let c = Cluster::start(Options { redis_conf: vec!["appendonly yes".into()], ..Options::new(3) });
        let first = c.wait_healthy(secs(40));
        let survivor = if first == 3 { 1 } else { 3 };
        let third = 6 - first - survivor;
        let load = c.load();
        std::thread::sleep(ms(500));
        c.kill_host(first);
        c.kill_host(third);
        let (to, elsewhere) = (format!("n{survivor}"), format!("n{third}"));
        let force = |to: &str, yes: bool| {
            let more: &[&str] = if yes { &["--yes"] } else { &[] };
            c.mainstay(survivor, &[&["failover", "--force", "--to", to], more].concat())
        };
        let early = force(&to, true);
        assert_eq!(early.status.code(), Some(75), "the majority was there a moment ago: {}", said(&early));
        std::thread::sleep(secs(5));
        assert!(c.primary_now().is_err(), "a minority serves");
        let wrong = force(&elsewhere, true);
        assert!(!wrong.status.success() && said(&wrong).contains("run this command on"), "{}", said(&wrong));
        let asked = force(&to, false);
        assert_eq!(asked.status.code(), Some(64), "{}", said(&asked));
        assert!(said(&asked).contains("TWO PRIMARIES"), "{}", said(&asked));
        let begun = Instant::now();
        let done = force(&to, true);
        assert!(done.status.success(), "{}", said(&done));
        assert_eq!(c.wait_primary(secs(10)), survivor);
        println!("FIGURE a new generation serves after {:?}", begun.elapsed());
        let change = group(&c, survivor).expect("status")["changes"][0].clone();
        assert_eq!(change["guarantee"], "by an operator's word, without proof", "{change}");
        // The lost hosts come back as they were, one and then the other: together they would be a majority.
        c.revive_host(third);
        superseded(&c, third);
        undisturbed(&c, survivor, &[third], secs(2));
        c.revive_host(first);
        undisturbed(&c, survivor, &[first, third], secs(5));
        superseded(&c, first);
        for no in [third, first] {
            join(&c, no, survivor);
            wait_for("another member", secs(30), || {
                let nodes = c.status(survivor)?["nodes"].as_array().map_or(0, Vec::len);
                if nodes > 1 { Ok(()) } else { Err(nodes) }.map_err(|n| n.to_string())
            });
        }
        assert_eq!(c.wait_healthy(secs(60)), survivor);
        let status = c.status(survivor).expect("status");
        let voters = status["nodes"].as_array().map_or(0, |all| all.iter().filter(|n| n["role"] == "voter").count());
        assert_eq!(voters, 3, "{status}");
        // It is a cluster like any other again.
        c.kill_host(survivor);
        c.wait_new_primary(survivor, secs(12));
        c.revive_host(survivor);
        c.wait_steady(secs(40));
        let history = load.stop();
        assert!(history.two_servers().is_empty(), "{:#?}", history.two_servers());
    });
}
