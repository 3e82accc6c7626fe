//! The floating address with real agents (S8): over IPv6, taken away by somebody else, left over from before, claimed by
//! a stranger.

use std::time::{Duration, Instant};

use crate::cluster::{Cluster, Options};
use crate::lab::{in_lab, ms, secs, wait_for};
use crate::net::{HostNet, VIP};
use crate::switch::HostNo;
use crate::watch::doubled;

/// A client's longest wait, when the address moves or comes back. Well below what it takes a client to find out by itself
/// that its neighbour has moved.
const FELT: Duration = secs(3);

/// Somebody else's machine on the same wire.
const STRANGER: HostNo = 150;

#[test]
fn an_ipv6_address_moves_at_a_kill_and_at_a_switchover() {
    in_lab(|| {
        let c = Cluster::start(Options { vip6: true, ..Options::new(3) });
        let first = c.wait_healthy(secs(40));
        let (watch, mut old) = (c.watch_vip(), first);
        for planned in [false, true] {
            let load = c.load();
            std::thread::sleep(ms(300));
            let cut = Instant::now();
            if planned {
                let output = c.mainstay(old, &["switchover"]);
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            } else {
                assert!(c.host(old).redis().kill());
            }
            let new = c.wait_new_primary(old, secs(10));
            std::thread::sleep(ms(300));
            let served = Instant::now();
            assert_eq!(c.wait_healthy(secs(40)), new);
            let history = load.stop();
            let gap = history.by("vip").gap(cut..served);
            println!("FIGURE IPv6 VIP, {}: gap {gap:?}", if planned { "switchover" } else { "kill -9 of Redis" });
            assert!(gap < FELT, "clients waited {gap:?}");
            assert!(history.two_servers().is_empty(), "{:#?}", history.two_servers());
            assert!(!planned || c.lost(&history, new).is_empty(), "a switchover lost writes");
            old = new;
        }
        let long: Vec<_> = doubled(&watch.stop()).into_iter().filter(|(_, length)| *length > ms(50)).collect();
        assert!(long.is_empty(), "two hosts held the address: {long:?}");
    });
}

fn holds(c: &Cluster, host: HostNo) -> Result<(), String> {
    let holders = c.vip_holders();
    if holders.contains(&host) { Ok(()) } else { Err(format!("held by {holders:?}")) }
}

fn says(c: &Cluster, host: HostNo, words: &str) -> Result<(), String> {
    let log = c.host(host).agent_log();
    if log.contains(words) { Ok(()) } else { Err(log.lines().last().unwrap_or_default().to_owned()) }
}

/// systemd-networkd does so when it is restarted.
fn put_back(c: &Cluster, primary: HostNo) {
    let load = c.load();
    std::thread::sleep(ms(300));
    let cut = Instant::now();
    c.host(primary).net.ip(&format!("addr del {VIP}/32 dev eth0"));
    wait_for("the address again", secs(2), || holds(c, primary));
    println!("FIGURE VIP removed by somebody else: put back after {:?}", cut.elapsed());
    std::thread::sleep(secs(1));
    let served = Instant::now();
    let history = load.stop();
    let gap = history.by("vip").gap(cut..served);
    assert!(gap < FELT, "clients waited {gap:?}");
    assert!(history.two_servers().is_empty(), "{:#?}", history.two_servers());
}

/// On a replica's host, without a lifetime, as a script or an earlier tool leaves it.
fn stale_is_removed(c: &Cluster, primary: HostNo) {
    let replica = primary % 3 + 1;
    c.host(replica).agent().hold();
    c.host(replica).net.ip(&format!("addr add {VIP}/32 dev eth0"));
    holds(c, replica).expect("it stands there");
    c.host(replica).agent().release();
    wait_for("the stale address is gone", secs(5), || match holds(c, replica) {
        Err(_) => Ok(()),
        Ok(()) => Err("it is still there"),
    });
    says(c, replica, "stale VIP on this host").expect("it is said");
    assert_eq!(c.vip_holders(), [primary], "the primary's own stays");
}

/// A machine that has the address too and never says so by itself: it is asked for, a while after the address came here.
fn conflict_is_reported(c: &Cluster, primary: HostNo) {
    let stranger = HostNet::boot(STRANGER, &c.wire).expect("a machine");
    stranger.ip(&format!("addr add {VIP}/32 dev eth0"));
    let words = format!("the host with the address 02:77:00:00:00:{STRANGER:02x} answers for it as well");
    wait_for("the conflict in the log", secs(15), || says(c, primary, &words));
    for node in 1..=3 {
        wait_for("the conflict in the status", secs(5), || {
            let status = c.status(node)?;
            let problems = status["groups"][0]["problems"].to_string();
            let said = problems.contains(&format!("the VIP on n{primary}: {words}")) && status["health"] == "degraded";
            if said { Ok(()) } else { Err(problems) }
        });
    }
    stranger.unplug();
}

#[test]
fn what_others_do_to_the_address_is_put_right_or_reported() {
    in_lab(|| {
        let c = Cluster::start(Options::new(3));
        let primary = c.wait_healthy(secs(40));
        stale_is_removed(&c, primary);
        c.wait_healthy(secs(40));
        put_back(&c, primary);
        conflict_is_reported(&c, primary);
        // It is told for a while; nobody else gets at the address through it.
        assert_eq!(c.wait_steady(secs(40)), primary);
        assert_eq!(c.status(primary).expect("status")["groups"][0]["epoch"], 1, "nobody took over");
    });
}
