//! Proof that the wire does what a test asks of it, before any test builds on
//! it: its speed, its delays, its seeded chance, its blocks, its carrier.

use std::collections::BTreeSet;
use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::lab::{in_lab, ms, secs, wait_for};
use crate::net::{HostNet, address, address6};
use crate::policy::Policy;
use crate::switch::{HostNo, Switch, WIRE_PRIORITY, be_prompt};

fn wire(seed: u64, hosts: u8) -> (Arc<Switch>, Vec<Arc<HostNet>>) {
    let wire = Arc::new(Switch::start(seed).expect("a switch"));
    let hosts = (1..=hosts).map(|no| HostNet::boot(no, &wire).expect("a host")).collect();
    (wire, hosts)
}

fn socket(host: &HostNet, bound: Duration) -> UdpSocket {
    let socket = host.run(|| UdpSocket::bind("[::]:7")).expect("bind");
    socket.set_read_timeout(Some(bound)).expect("timeout");
    socket
}

/// Sends numbered packets and returns the round trips of those that came back
/// before the next was sent.
fn round_trips(from: &HostNet, to: &HostNet, target: IpAddr, count: u32) -> Vec<Duration> {
    let (here, there) = (socket(from, ms(100)), socket(to, ms(20)));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            be_prompt(WIRE_PRIORITY);
            let mut buffer = [0; 64];
            while !done.load(Ordering::Relaxed) {
                if let Ok((len, back)) = there.recv_from(&mut buffer) {
                    let _ = there.send_to(&buffer[..len], back);
                }
            }
        });
        let client = scope.spawn(|| {
            // The wire is measured, not the share of the processor.
            be_prompt(WIRE_PRIORITY);
            let times = (0..count).filter_map(|n| round_trip(&here, (target, 7), n));
            let mut times: Vec<Duration> = times.collect();
            times.sort();
            times
        });
        let times = client.join();
        done.store(true, Ordering::Relaxed);
        times.expect("the pinging thread")
    })
}

fn round_trip(here: &UdpSocket, to: (IpAddr, u16), n: u32) -> Option<Duration> {
    let start = Instant::now();
    here.send_to(&n.to_be_bytes(), to).expect("send");
    let mut buffer = [0; 64];
    while let Ok(len) = here.recv(&mut buffer) {
        if buffer[..len] == n.to_be_bytes() {
            return Some(start.elapsed());
        }
    }
    None
}

fn median(times: &[Duration]) -> Duration {
    times[times.len() / 2]
}

fn mapped(host: HostNo) -> IpAddr {
    address(host).to_ipv6_mapped().into()
}

#[test]
fn round_trip_is_short_and_delays_are_exact() {
    in_lab(|| {
        let (wire, hosts) = wire(1, 2);
        // A busy machine may spoil one try; a slow switch spoils them all.
        let quickest = |what: &str, target: IpAddr, count: u32| {
            let tries = (0..5).map(|_| {
                let times = round_trips(&hosts[0], &hosts[1], target, count);
                assert!(times.len() > count as usize * 9 / 10, "{} of {count} answers", times.len());
                println!("{what}: median {:?}, p99 {:?}", median(&times), times[times.len() * 99 / 100]);
                median(&times)
            });
            tries.min().expect("a try")
        };
        assert!(quickest("IPv4", mapped(2), 500) <= Duration::from_micros(300));
        assert!(quickest("IPv6", address6(2).into(), 500) <= Duration::from_micros(300));
        wire.set(1, 2, Policy::slow(ms(5)));
        let slow = quickest("5 ms more", mapped(2), 50);
        assert!((ms(5)..ms(6)).contains(&slow), "{slow:?}");
    });
}

/// The numbers that arrived at host 2, and those that came late.
fn received(seed: u64, policy: Policy, count: u32) -> (BTreeSet<u32>, BTreeSet<u32>) {
    let (wire, hosts) = wire(seed, 2);
    // Addresses are resolved first: chance is about the packets sent below.
    assert!(!round_trips(&hosts[0], &hosts[1], mapped(2), 3).is_empty());
    wire.set(1, 2, policy);
    let (here, there) = (socket(&hosts[0], ms(10)), socket(&hosts[1], ms(400)));
    let start = Instant::now();
    for n in 0..count {
        std::thread::sleep((start + ms(1) * n).saturating_duration_since(Instant::now()));
        here.send_to(&n.to_be_bytes(), (mapped(2), 7)).expect("send");
    }
    let mut seen = BTreeSet::new();
    let mut late = BTreeSet::new();
    let mut buffer = [0; 4];
    while there.recv(&mut buffer).is_ok() {
        let n = u32::from_be_bytes(buffer);
        if seen.last().is_some_and(|&last| last > n) {
            late.insert(n);
        }
        seen.insert(n);
    }
    (seen, late)
}

#[test]
fn chance_repeats_from_its_seed() {
    in_lab(|| {
        let mut policy = Policy::lossy(0.2).with_reorder(0.1);
        policy.reorder_by = ms(100);
        let first = received(11, policy, 300);
        println!("{} of 300 arrived, {} late", first.0.len(), first.1.len());
        assert_eq!(first, received(11, policy, 300));
        assert_ne!(first.0, received(12, policy, 300).0);
        assert!((200..270).contains(&first.0.len()));
        assert!((8..60).contains(&first.1.len()));
    });
}

#[test]
fn a_block_is_one_way() {
    in_lab(|| {
        let (wire, hosts) = wire(1, 2);
        assert_eq!(round_trips(&hosts[0], &hosts[1], mapped(2), 20).len(), 20);
        let (there, _) = wire.counts(1, 2);
        let (back, _) = wire.counts(2, 1);
        wire.block(2, 1);
        assert_eq!(round_trips(&hosts[0], &hosts[1], mapped(2), 5).len(), 0);
        assert!(wire.counts(1, 2).0 >= there + 5);
        assert_eq!(wire.counts(2, 1).0, back);
        assert!(wire.counts(2, 1).1 >= 5);
        wire.unblock(2, 1);
        assert!(!round_trips(&hosts[0], &hosts[1], mapped(2), 20).is_empty());
    });
}

#[test]
fn partitions_and_isolation_cut_what_they_say() {
    in_lab(|| {
        let (wire, hosts) = wire(1, 3);
        let reach = |a: usize, b: usize| {
            let target = mapped(u8::try_from(b + 1).expect("a host"));
            !round_trips(&hosts[a], &hosts[b], target, 3).is_empty()
        };
        wire.partition(&[3]);
        assert_eq!((reach(0, 1), reach(0, 2), reach(2, 1)), (true, false, false));
        wire.heal_all();
        wire.isolate(1);
        assert_eq!((reach(0, 1), reach(2, 0), reach(1, 2)), (false, false, true));
        wire.heal(1);
        // Resolution of the address may have failed meanwhile: it is tried anew.
        wait_for("way back", secs(5), || if reach(0, 1) { Ok(()) } else { Err("none") });
    });
}

#[test]
fn carrier_loss_is_seen_by_the_host() {
    in_lab(|| {
        let (wire, hosts) = wire(1, 2);
        let link = || {
            let output = hosts[1].output("ip", &["-o", "link", "show", "eth0"], secs(5)).expect("ip");
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        assert!(link().contains("LOWER_UP"), "{}", link());
        wire.carrier(2, false);
        assert!(link().contains("NO-CARRIER"), "{}", link());
        assert!(hosts[1].addresses().contains(&address(2).into()));
        assert_eq!(round_trips(&hosts[0], &hosts[1], mapped(2), 3).len(), 0);
        wire.carrier(2, true);
        assert!(link().contains("LOWER_UP"), "{}", link());
        wait_for("traffic", secs(5), || {
            let back = round_trips(&hosts[0], &hosts[1], mapped(2), 3);
            if back.is_empty() { Err("none") } else { Ok(()) }
        });
    });
}

#[test]
fn announcements_are_seen() {
    in_lab(|| {
        let (wire, hosts) = wire(1, 2);
        hosts[0].run(|| std::fs::write("/proc/sys/net/ipv4/conf/eth0/arp_notify", "1")).expect("sysctl");
        let before = Instant::now();
        hosts[0].ip("link set eth0 down");
        hosts[0].ip("link set eth0 up");
        wait_for("gratuitous ARP", secs(2), || {
            let seen = wire.announcements();
            let ours = seen.iter().any(|a| a.at > before && a.from == 1 && a.address == address(1));
            if ours { Ok(()) } else { Err(seen) }
        });
    });
}

#[test]
fn a_rebooted_host_remembers_nothing() {
    in_lab(|| {
        let (_wire, hosts) = wire(1, 2);
        hosts[0].ip("addr add 10.77.0.100/32 dev eth0");
        let before = hosts[0].netns().expect("on").inode().expect("inode");
        hosts[0].reboot().expect("reboot");
        assert_ne!(hosts[0].netns().expect("on").inode().expect("inode"), before);
        assert!(!hosts[0].addresses().contains(&crate::net::VIP.into()));
        assert!(!round_trips(&hosts[1], &hosts[0], mapped(1), 5).is_empty());
        hosts[0].unplug();
        assert!(hosts[0].netns().is_err());
        assert!(hosts[0].addresses().is_empty());
    });
}
