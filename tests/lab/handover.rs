//! Planned changes lose nothing (S10): many in a row in both directions, an agent that is stopped, a successor that lags.
//!
//! `LAB_SWITCHOVERS=100` makes the first test as long as it is meant to be once.

use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use nix::sys::signal::Signal;

use crate::cluster::{Cluster, Options};
use crate::lab::{in_lab, ms, secs, wait_for};
use crate::switch::HostNo;
use crate::writer::WriterOptions;

fn switchovers() -> usize {
    std::env::var("LAB_SWITCHOVERS").ok().and_then(|n| n.parse().ok()).unwrap_or(10)
}

/// A follower that the primary's agent would hand over to now.
fn ready(c: &Cluster, old: HostNo, to: HostNo) {
    wait_for("a follower in step", secs(20), || {
        let status = c.status(old)?;
        let instances = status["groups"][0]["instances"].as_array().cloned().unwrap_or_default();
        let found = instances.iter().find(|found| found["node"] == format!("n{to}"));
        let fit = found.is_some_and(|found| found["posture"] == "following" && !found["lineage"].is_null());
        if fit { Ok(()) } else { Err(status.to_string()) }
    });
}

#[test]
fn switchovers_in_both_directions_lose_nothing() {
    in_lab(|| {
        let c = Cluster::start(Options::new(3));
        let first = c.wait_healthy(secs(40));
        let second = (1..=3).find(|host| *host != first).expect("another host");
        let load = c.load().with(c.write_vip(WriterOptions::bulk()));
        let (mut old, mut new) = (first, second);
        let mut gaps = Vec::new();
        for turn in 0..switchovers() {
            ready(&c, old, new);
            let cut = Instant::now();
            let output = wait_for("a switchover", secs(20), || {
                let output = c.mainstay(old, &["switchover", "--to", &format!("n{new}")]);
                // Its replica may not be listed as online yet: that is refused, and costs nothing.
                if output.status.success() {
                    Ok(output)
                } else {
                    Err(String::from_utf8_lossy(&output.stderr).into_owned())
                }
            });
            assert_eq!(c.wait_new_primary(old, secs(10)), new, "turn {turn}: {output:?}");
            std::thread::sleep(ms(100));
            gaps.push((cut, Instant::now()));
            (old, new) = (new, old);
        }
        std::thread::sleep(ms(300));
        let history = load.stop();
        assert!(history.two_servers().is_empty(), "{:#?}", history.two_servers());
        let lost = c.lost(&history, old);
        let vip = history.by("vip");
        let mut felt: Vec<_> = gaps.into_iter().map(|(cut, served)| vip.gap(cut..served)).collect();
        felt.sort();
        println!(
            "FIGURE {} switchovers, alternating: gap median {:?} max {:?}; {} writes acknowledged, {} lost",
            felt.len(),
            felt.get(felt.len() / 2).copied().unwrap_or_default(),
            felt.last().copied().unwrap_or_default(),
            history.acked(),
            lost.len()
        );
        assert!(lost.is_empty(), "{} lost, first {:?}", lost.len(), lost.first());
    });
}

#[test]
fn stopping_the_primarys_agent_loses_nothing() {
    in_lab(|| {
        let c = Cluster::start(Options::new(3));
        let old = c.wait_healthy(secs(40));
        let load = c.load().with(c.write_vip(WriterOptions::bulk()));
        std::thread::sleep(secs(1));
        let began = Instant::now();
        assert!(c.host(old).agent().stop(secs(10)), "it had to be killed");
        println!("FIGURE stop of the primary's agent: ended after {:?}", began.elapsed());
        let new = c.wait_new_primary(old, secs(10));
        std::thread::sleep(ms(500));
        let history = load.stop();
        assert!(history.two_servers().is_empty(), "{:#?}", history.two_servers());
        let lost = c.lost(&history, new);
        assert!(lost.is_empty(), "{} lost, first {:?}", lost.len(), lost.first());
        c.host(old).agent().release();
        c.wait_steady(secs(40));
    });
}

/// What a unit's `ExecStop` does, twice: on the primary, then on the replica that it has become.
#[test]
fn an_instance_that_is_stopped_hands_over_first_and_loses_nothing() {
    in_lab(|| {
        let c = Cluster::start(Options::new(2).with_witnesses(1));
        let old = c.wait_healthy(secs(40));
        let load = c.load().with(c.write_vip(WriterOptions::bulk()));
        std::thread::sleep(secs(1));
        let cut = Instant::now();
        let output = c.mainstay(old, &["release"]);
        let released = cut.elapsed();
        assert!(output.status.success(), "{output:?}");
        let new = c.wait_primary(secs(1));
        assert_ne!(new, old, "{output:?}");
        assert!(c.host(old).redis().stop(secs(10)), "it had to be killed");
        std::thread::sleep(secs(1));
        c.host(old).redis().release();
        assert_eq!(c.wait_steady(secs(40)), new, "it was left alone");
        let switched = Instant::now();

        let output = c.mainstay(old, &["release"]);
        assert!(output.status.success(), "{output:?}");
        assert!(c.host(old).redis().stop(secs(10)), "it had to be killed");
        std::thread::sleep(secs(1));
        c.host(old).redis().release();
        assert_eq!(c.wait_steady(secs(40)), new, "a replica that stops changes no primary");
        let history = load.stop();
        assert!(history.two_servers().is_empty(), "{:#?}", history.two_servers());
        let lost = c.lost(&history, new);
        let vip = history.by("vip");
        println!(
            "FIGURE instance stopped: released after {released:?}; gap on the primary {:?}, on the replica {:?}; {} writes \
             acknowledged, {} lost",
            vip.gap(cut..switched),
            vip.gap(switched..Instant::now()),
            history.acked(),
            lost.len()
        );
        assert!(lost.is_empty(), "{} lost, first {:?}", lost.len(), lost.first());
        let status = c.status(new).expect("a status");
        let change = &status["groups"][0]["changes"][0];
        assert!(change["why"].as_str().is_some_and(|why| why.contains("stopped on purpose")), "{change}");
    });
}

/// The successor stands still: the old primary goes on, or serves again, and nothing is lost either way.
#[test]
fn a_successor_that_lags_is_not_waited_for() {
    in_lab(|| {
        let c = Cluster::start(Options { hang_after: secs(30), ..Options::new(3) });
        let old = c.wait_healthy(secs(40));
        let new = (1..=3).find(|host| *host != old).expect("another host");
        ready(&c, old, new);
        let load = c.load();
        std::thread::sleep(ms(500));
        let cut = Instant::now();
        assert!(c.host(new).redis().signal(Signal::SIGSTOP));
        let output = c.mainstay(old, &["switchover", "--to", &format!("n{new}")]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{said}");
        wait_for("service", secs(10), || match c.primary_now()? {
            now if now == old => Ok(()),
            now => Err(format!("n{now}")),
        });
        std::thread::sleep(secs(1));
        let served = Instant::now();
        assert!(c.host(new).redis().signal(Signal::SIGCONT));
        c.wait_steady(secs(40));
        let history = load.stop();
        let gap = history.by("vip").gap(cut..served);
        println!("FIGURE lagging successor: clients waited {gap:?}; {}", said.trim());
        assert!(gap < secs(6), "clients waited {gap:?}");
        assert!(history.two_servers().is_empty(), "{:#?}", history.two_servers());
        let lost = c.lost(&history, old);
        assert!(lost.is_empty(), "{} lost, first {:?}", lost.len(), lost.first());
    });
}

/// Nobody is there to hand over to: the agent fences before it ends, and ends well (S10). What it told the service
/// manager until then says role, epoch, group and VIP.
#[test]
fn a_primarys_agent_that_is_stopped_alone_fences() {
    in_lab(|| {
        let dir = tempfile::tempdir().expect("a directory");
        let manager = dir.path().join("notify");
        let socket = UnixDatagram::bind(&manager).expect("a socket");
        let heard = Arc::new(Mutex::new(String::new()));
        let told = Arc::clone(&heard);
        // Read all the time, as the service manager does.
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length) = socket.recv(&mut buffer) {
                let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
                told.push_str(&String::from_utf8_lossy(&buffer[..length]));
                told.push('\n');
            }
        });
        let mut options = Options::new(1);
        options.agent_env.push(("NOTIFY_SOCKET".into(), manager.display().to_string()));
        let c = Cluster::start(options);
        assert_eq!(c.wait_healthy(secs(30)), 1);
        wait_for("the status line", secs(5), || {
            let heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
            let status = heard.lines().rfind(|line| line.starts_with("STATUS=")).unwrap_or_default().to_owned();
            if status == "STATUS=mymaster: primary (epoch 1, VIP held); leader n1" { Ok(()) } else { Err(status) }
        });

        let load = c.load();
        std::thread::sleep(ms(300));
        let began = Instant::now();
        assert!(c.host(1).agent().stop(secs(10)), "it had to be killed");
        println!("FIGURE stop of a primary's agent without a successor: ended after {:?}", began.elapsed());
        let ended = Instant::now();
        assert_eq!(c.host(1).agent().last_exit().and_then(|status| status.code()), Some(0));
        assert_eq!(c.vip_holders(), Vec::<HostNo>::new(), "the address is still there");
        assert_eq!(c.host(1).cmd(&["ROLE"]).items()[0].text(), "slave", "not sealed");
        let refused = c.host(1).client().and_then(|mut client| client.command(&["SET", "a", "b"])).expect("an answer");
        assert!(refused.text().starts_with("READONLY"), "{}", refused.text());
        std::thread::sleep(ms(200));
        let history = load.stop();
        assert!(history.acked() > 0);
        assert!(!history.writes().any(|write| write.acked() && write.sent > ended), "it is served after the fence");
        c.host(1).agent().release();
        assert_eq!(c.wait_healthy(secs(30)), 1);
        assert!(c.lost(&history, 1).is_empty());
    });
}
