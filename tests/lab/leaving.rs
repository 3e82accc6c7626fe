//! Followers that leave: stopped, removed for good, replaced; what is promised for writes meanwhile (S5, S12).

use std::time::Instant;

use crate::cluster::{Cluster, Options};
use crate::lab::{in_lab, ms, secs, wait_for};
use crate::switch::HostNo;
use crate::writer::WriterOptions;

pub fn group(c: &Cluster, host: HostNo) -> Result<serde_json::Value, String> {
    Ok(c.status(host)?["groups"][0].clone())
}

fn other(not: &[HostNo]) -> HostNo {
    (1..=3).find(|no| !not.contains(no)).expect("three hosts")
}

/// Under `quorum` a stopped follower leaves by two commits, so that the next failure finds its proof without it.
#[test]
fn a_stopped_follower_leaves_and_the_next_failure_is_proved() {
    in_lab(|| {
        let c = Cluster::start(Options { durability: "quorum", ..Options::new(3).with_witnesses(2) });
        let first = c.wait_healthy(secs(40));
        let stopped = other(&[first]);
        let last = other(&[first, stopped]);
        let load = c.load().with(c.write_vip(WriterOptions::waiting(1)));
        std::thread::sleep(ms(500));
        let cut = Instant::now();
        assert!(c.host(stopped).agent().stop(secs(8)), "the agent did not end");
        println!("FIGURE stop of a follower under quorum: {:?}", cut.elapsed());
        let followers = group(&c, first).expect("status")["followers"].clone();
        assert_eq!(followers, serde_json::json!([format!("n{last}")]), "it did not leave by two commits");
        c.kill_host(first);
        assert_eq!(c.wait_new_primary(first, secs(12)), last);
        let change = group(&c, last).expect("status")["changes"][0].clone();
        assert_eq!(change["guarantee"], "every acknowledged write kept", "{change}");
        c.host(stopped).agent().release();
        c.revive_host(first);
        assert_eq!(c.wait_steady(secs(40)), last);
        let history = load.stop();
        assert!(history.two_servers().is_empty(), "{:#?}", history.two_servers());
        let mut client = c.host(last).client().expect("the primary");
        let lost = history.lost_waited(&mut client, 1).expect("the primary's answer");
        assert!(lost.is_empty(), "{} writes that a replica acknowledged are lost: {:?}", lost.len(), lost.first());
    });
}

/// Under `quorum` one that merely vanished counts on: nobody is promoted without the proof.
#[test]
fn a_follower_that_vanished_counts_on() {
    in_lab(|| {
        let c = Cluster::start(Options { durability: "quorum", ..Options::new(3).with_witnesses(2) });
        let first = c.wait_healthy(secs(40));
        let (gone, last) = (other(&[first]), other(&[first, other(&[first])]));
        c.kill_host(gone);
        std::thread::sleep(secs(3));
        let followers = group(&c, last).expect("status")["followers"].clone();
        assert_eq!(followers.as_array().map(Vec::len), Some(2), "{followers}");
        c.kill_host(first);
        wait_for("the reason", secs(10), || {
            let waits = group(&c, last)?["waits"].as_str().unwrap_or_default().to_owned();
            if waits.contains("2 reports") { Ok(()) } else { Err(waits) }
        });
        std::thread::sleep(secs(2));
        assert!(c.primary_now().is_err(), "promoted without proof");
        let to = format!("n{last}");
        let force = ["failover", "--force", "--to", &to];
        let asked = c.mainstay(last, &force);
        assert_eq!(asked.status.code(), Some(64), "nobody was there to agree: {asked:?}");
        assert!(c.primary_now().is_err(), "promoted without a yes");
        let done = c.mainstay(last, &[&force[..], &["--yes"]].concat());
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(done.status.success(), "{said} {}", String::from_utf8_lossy(&done.stderr));
        for silent in [gone, first] {
            assert!(said.contains(&format!("n{silent} is not heard for")), "it does not say what may be lost: {said}");
        }
        assert_eq!(c.wait_primary(secs(5)), last);
        let change = group(&c, last).expect("status")["changes"][0].clone();
        assert_eq!(change["guarantee"], "by an operator's word, without proof", "{change}");
        c.revive_host(gone);
        c.revive_host(first);
        assert_eq!(c.wait_healthy(secs(40)), last);
    });
}
