//! The VIP shell against real kernels: every test makes its own network namespaces, wires them with veth and a bridge,
//! and leaves nothing behind, since a namespace ends with the thread that made it.
//!
//! The `ip` tool sets the scenes and gives second opinions here; the code under test never uses it.
//! Needs root. Where namespaces are refused a test says so and is skipped, or fails when `CI=true`.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    process::Command,
    sync::{Arc, mpsc as std_mpsc},
    thread,
    time::{Duration, Instant},
};

use mainstay::vip::{AnnounceSeries, Capability, Presence, Remaining, Vip, VipError, VipEvent, VipSpec, destroy_port};
use nix::sched::{CloneFlags, unshare};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

#[path = "ci/mod.rs"]
mod ci;
#[path = "vip/model.rs"]
mod model;

const SOON: Duration = Duration::from_secs(2);
const LONG: Duration = Duration::from_secs(60);

/// One address family's cast.
#[derive(Debug, Clone, Copy)]
struct Net {
    vip: &'static str,
    /// Length of the subnet.
    prefix: u8,
    /// Length on the wire.
    full: u8,
    own: [&'static str; 3],
    option: &'static str,
}

const V4: Net =
    Net { vip: "10.9.0.100", prefix: 24, full: 32, own: ["10.9.0.1", "10.9.0.2", "10.9.0.3"], option: "-4" };
const V6: Net =
    Net { vip: "fd00:9::100", prefix: 64, full: 128, own: ["fd00:9::1", "fd00:9::2", "fd00:9::3"], option: "-6" };

impl Net {
    fn address(&self) -> IpAddr {
        self.vip.parse().unwrap()
    }

    fn spec(&self, interface: &str) -> VipSpec {
        VipSpec { address: self.address(), prefix_len: self.prefix, interface: interface.into() }
    }

    fn give_own(&self, which: usize, interface: &str) {
        let nodad = if self.full == 128 { "nodad" } else { "" };
        ip(&format!("addr add {}/{} dev {interface} {nodad}", self.own[which], self.prefix));
    }
}

// ---- hosts -------------------------------------------------------------------------------------------------------

type Task = Box<dyn FnOnce() + Send>;

/// A thread in a network namespace of its own.
struct Host {
    tasks: std_mpsc::Sender<Task>,
    tid: i32,
}

impl Host {
    fn new() -> Result<Host, String> {
        let (tasks, queue) = std_mpsc::channel::<Task>();
        let (ready, started) = std_mpsc::channel();
        thread::spawn(move || {
            if let Err(errno) = unshare(CloneFlags::CLONE_NEWNET) {
                let _ = ready.send(Err(format!("no network namespace: {errno}")));
                return;
            }
            let _ = ready.send(Ok(nix::unistd::gettid().as_raw()));
            for task in queue {
                task();
            }
        });
        let tid = started.recv().unwrap()?;
        let host = Host { tasks, tid };
        host.run(|| ip("link set dev lo up"));
        Ok(host)
    }

    /// Runs a closure in the host and hands back its result or its panic.
    fn run<T: Send + 'static>(&self, task: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = std_mpsc::channel();
        self.tasks
            .send(Box::new(move || {
                let _ = done.send(catch_unwind(AssertUnwindSafe(task)));
            }))
            .unwrap();
        result.recv().unwrap().unwrap_or_else(|panic| resume_unwind(panic))
    }

    fn run_async<F: Future>(&self, task: impl FnOnce() -> F + Send + 'static) -> F::Output
    where
        F::Output: Send + 'static,
    {
        self.run(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(task())
        })
    }
}

/// Makes `N` hosts, or ends the test in the way the environment asks for.
fn hosts<const N: usize>() -> Option<[Host; N]> {
    let mut made = Vec::new();
    for _ in 0..N {
        match Host::new() {
            Ok(host) => made.push(host),
            Err(reason) => {
                ci::skip(&reason);
                return None;
            }
        }
    }
    made.try_into().ok()
}

/// Patient enough for a busy test machine; the bound itself is tested beside the code.
async fn open(spec: VipSpec) -> Result<(Vip, mpsc::Receiver<VipEvent>), VipError> {
    Vip::open(spec, Duration::from_secs(5)).await
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().expect("the ip tool is installed");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A pair of cables' worth of wire: `e0` in this host, its other end `e0` in the other.
fn wire(a: &Host, b: &Host, net: Net) {
    let tid = b.tid;
    a.run(move || ip(&format!("link add e0 type veth peer name e0 netns {tid}")));
    for (which, host) in [a, b].into_iter().enumerate() {
        host.run(move || {
            ip("link set dev e0 up");
            net.give_own(which, "e0");
        });
    }
}

/// Hosts 0 and 1 with `e0` each, on a bridge `br0` that is host 2's own interface.
fn switch(hosts: &[Host; 3], net: Net) {
    let tid = hosts[2].tid;
    hosts[2].run(|| {
        ip("link add br0 type bridge");
        ip("link set dev br0 up")
    });
    for which in 0..2 {
        hosts[which].run(move || ip(&format!("link add e0 type veth peer name p{which} netns {tid}")));
        hosts[2].run(move || ip(&format!("link set dev p{which} up master br0")));
        hosts[which].run(move || {
            ip("link set dev e0 up");
            net.give_own(which, "e0");
        });
    }
    hosts[2].run(move || net.give_own(2, "br0"));
}

/// An interface with a carrier and nobody behind it.
fn lone(name: &str) {
    ip(&format!("link add {name} type veth peer name {name}-x"));
    ip(&format!("link set dev {name}-x up"));
    ip(&format!("link set dev {name} up"));
}

fn mac_of(interface: &str) -> [u8; 6] {
    let text = ip(&format!("-o link show dev {interface}"));
    let mac = text.split("link/ether ").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    parse_mac(&mac)
}

fn parse_mac(text: &str) -> [u8; 6] {
    let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

/// The hardware address that the kernel's neighbour table has for the VIP.
fn neighbour(net: Net, interface: &str) -> Option<[u8; 6]> {
    let text = ip(&format!("{} neigh show {} dev {interface}", net.option, net.vip));
    text.split("lladdr ").nth(1)?.split_whitespace().next().map(parse_mac)
}

async fn until<T>(what: &str, within: Duration, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(start.elapsed() < within, "not within {within:?}: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

async fn next(events: &mut mpsc::Receiver<VipEvent>) -> VipEvent {
    timeout(SOON, events.recv()).await.expect("an event in time").expect("the watcher runs")
}

async fn quiet(events: &mut mpsc::Receiver<VipEvent>, during: Duration) {
    if let Ok(event) = timeout(during, events.recv()).await {
        panic!("unexpected event {event:?}");
    }
}

/// Runs a test for both address families, each in fresh namespaces.
fn both(test: impl Fn(Net)) {
    for net in [V4, V6] {
        test(net);
    }
}

// ---- the address itself --------------------------------------------------------------------------------------------

#[test]
fn hold_puts_a_host_address_with_a_lifetime() {
    both(|net| {
        let Some([host]) = hosts() else { return };
        host.run_async(move || async move {
            lone("e0");
            net.give_own(0, "e0");
            let (vip, mut events) = open(net.spec("e0")).await.unwrap();
            assert_eq!(vip.present().await.unwrap(), None);
            assert!(vip.hold(Duration::from_millis(7001)).await.unwrap().newly_added);
            assert!(!vip.hold(Duration::from_secs(9)).await.unwrap().newly_added);
            let text = ip(&format!("-o {} addr show dev e0 to {}", net.option, net.vip));
            assert!(text.contains(&format!("{}/{} ", net.vip, net.full)), "{text}");
            assert!(text.contains("noprefixroute") && text.contains("dynamic"), "{text}");
            assert!(text.contains("preferred_lft 0sec") && text.contains("valid_lft 9sec"), "{text}");
            if net.full == 128 {
                assert!(text.contains("nodad") && !text.contains("tentative"), "{text}");
            }
            let presence = vip.present().await.unwrap().unwrap();
            assert!(presence.on_interface);
            assert!(presence.remaining >= Remaining::For(Duration::from_secs(8)));
            assert!(presence.remaining <= Remaining::For(Duration::from_secs(9)));

            vip.drop_address().await.unwrap();
            assert_eq!(vip.present().await.unwrap(), None);
            vip.drop_address().await.unwrap();
            assert!(ip(&format!("-o {} addr show dev e0", net.option)).contains(net.own[0]));
            quiet(&mut events, Duration::from_millis(300)).await;
        });
    });
}

#[test]
fn the_kernel_removes_it_when_nobody_refreshes() {
    both(|net| {
        let Some([host]) = hosts() else { return };
        host.run_async(move || async move {
            lone("e0");
            let (vip, mut events) = open(net.spec("e0")).await.unwrap();
            // The host's own address comes after the VIP: the order in which its expiry could take it along.
            vip.hold(LONG).await.unwrap();
            net.give_own(0, "e0");
            for seconds in [1, 2] {
                vip.hold(Duration::from_secs(seconds)).await.unwrap();
                let start = Instant::now();
                until("expiry", Duration::from_secs(seconds + 2), async || {
                    vip.present().await.unwrap().is_none().then_some(())
                })
                .await;
                let took = start.elapsed();
                println!("{} valid_lft {seconds} s: gone after {took:?}", net.option);
                assert!(took >= Duration::from_secs(seconds) - Duration::from_millis(50), "too early: {took:?}");
                assert!(took <= Duration::from_secs(seconds + 1), "too late: {took:?}");
                assert_eq!(next(&mut events).await, VipEvent::Removed);
                assert!(ip(&format!("-o {} addr show dev e0", net.option)).contains(net.own[0]));
                assert!(
                    ip(&format!("{} route show dev e0", net.option)).contains("proto kernel"),
                    "the subnet's route stays"
                );
            }
        });
    });
}

#[test]
fn a_refresh_extends_it_without_a_gap() {
    both(|net| {
        let Some([host]) = hosts() else { return };
        host.run_async(move || async move {
            lone("e0");
            let (vip, mut events) = open(net.spec("e0")).await.unwrap();
            let start = Instant::now();
            assert!(vip.hold(Duration::from_secs(1)).await.unwrap().newly_added);
            while start.elapsed() < Duration::from_secs(4) {
                sleep(Duration::from_millis(160)).await;
                assert!(!vip.hold(Duration::from_secs(1)).await.unwrap().newly_added);
            }
            quiet(&mut events, Duration::from_millis(100)).await;
            assert_eq!(next(&mut events).await, VipEvent::Removed, "once nobody refreshes");
        });
    });
}

#[test]
fn hold_and_drop_are_fast() {
    both(|net| {
        let Some([host]) = hosts() else { return };
        host.run_async(move || async move {
            lone("e0");
            let (vip, _events) = open(net.spec("e0")).await.unwrap();
            let (mut holds, mut drops) = (Vec::new(), Vec::new());
            for _ in 0..200 {
                let start = Instant::now();
                vip.hold(LONG).await.unwrap();
                holds.push(start.elapsed());
                let start = Instant::now();
                vip.drop_address().await.unwrap();
                drops.push(start.elapsed());
            }
            for (what, times) in [("hold", &mut holds), ("drop", &mut drops)] {
                times.sort();
                println!("{} {what}: median {:?}, worst {:?}", net.option, times[100], times[199]);
                assert!(times[100] < Duration::from_millis(20), "{what} takes {:?}", times[100]);
            }
        });
    });
}

#[test]
fn a_drop_wins_over_a_hold_asked_for_before() {
    both(|net| {
        let Some([host]) = hosts() else { return };
        host.run_async(move || async move {
            lone("e0");
            let (vip, mut events) = open(net.spec("e0")).await.unwrap();
            let mut superseded = 0;
            for _ in 0..50 {
                let (held, dropped) = tokio::join!(vip.hold(LONG), vip.drop_address());
                dropped.unwrap();
                match held {
                    Ok(_) => {}
                    Err(VipError::Superseded) => superseded += 1,
                    Err(fault) => panic!("{fault}"),
                }
                assert_eq!(vip.present().await.unwrap(), None);
                assert!(matches!(vip.announce().await, Err(VipError::NotHeld)));
            }
            println!("{} superseded {superseded} of 50", net.option);
            // A removal that nobody waits for is carried out all the same.
            vip.hold(LONG).await.unwrap();
            let _ = timeout(Duration::ZERO, vip.drop_address()).await;
            until("the drop nobody waited for", SOON, async || vip.present().await.unwrap().is_none().then_some(()))
                .await;
            quiet(&mut events, Duration::from_millis(200)).await;
        });
    });
}

#[test]
fn stale_copies_are_found_and_removed() {
    both(|net| {
        let Some([host]) = hosts() else { return };
        host.run_async(move || async move {
            lone("e0");
            lone("e1");
            let stale = |interface: &str| {
                let nodad = if net.full == 128 { "nodad" } else { "" };
                ip(&format!("addr add {}/{} dev {interface} {nodad}", net.vip, net.prefix));
            };
            let count = || ip(&format!("-o {} addr show to {}", net.option, net.vip)).lines().count();
            let (vip, mut events) = open(net.spec("e0")).await.unwrap();

            stale("e1");
            let stands = Presence { remaining: Remaining::Forever, on_interface: false };
            assert_eq!(vip.present().await.unwrap(), Some(stands));
            vip.drop_address().await.unwrap();
            assert_eq!((vip.present().await.unwrap(), count()), (None, 0));

            stale("e0");
            stale("e1");
            vip.hold(LONG).await.unwrap();
            assert_eq!(count(), 1);
            let presence = vip.present().await.unwrap().unwrap();
            assert!(presence.on_interface && presence.remaining <= Remaining::For(LONG), "{presence:?}");
            quiet(&mut events, Duration::from_millis(200)).await;
        });
    });
}

#[test]
fn removing_a_stale_vip_spares_the_hosts_own_address() {
    let Some([host]) = hosts() else { return };
    host.run_async(move || async move {
        lone("e0");
        for scope in ["all", "e0"] {
            let path = format!("/proc/sys/net/ipv4/conf/{scope}/promote_secondaries");
            std::fs::write(path, "0").unwrap();
        }
        // The stale VIP came first and owns the subnet; the host's own address is its secondary.
        ip(&format!("addr add {}/{} dev e0", V4.vip, V4.prefix));
        V4.give_own(0, "e0");
        assert!(ip("-4 addr show dev e0").contains("secondary"));
        ip("route add default via 10.9.0.2 dev e0");
        let (vip, _events) = open(V4.spec("e0")).await.unwrap();
        vip.hold(LONG).await.unwrap();
        let text = ip("-4 addr show dev e0");
        assert!(text.contains(&format!("{}/24", V4.own[0])), "{text}");
        let routes = ip("-4 route show dev e0");
        assert!(routes.contains("default via") && routes.contains("10.9.0.0/24"), "{routes}");
    });
}

#[test]
fn the_vip_is_never_the_source_of_the_hosts_own_connections() {
    both(|net| {
        for own_first in [true, false] {
            let Some([host]) = hosts() else { return };
            host.run_async(move || async move {
                lone("e0");
                let (vip, _events) = open(net.spec("e0")).await.unwrap();
                if own_first {
                    net.give_own(0, "e0");
                }
                vip.hold(LONG).await.unwrap();
                if !own_first {
                    net.give_own(0, "e0");
                }
                // On-link, by gateway, and by routes without a gateway of either scope.
                let (gateway, far, links) = match net.full {
                    32 => ("10.9.0.2", "203.0.113.7", ["10.20.0.0/16", "10.30.0.0/16 scope global"]),
                    _ => ("fd00:9::2", "2001:db8::7", ["fd00:20::/64", "fd00:30::/64"]),
                };
                ip(&format!("{} route add default via {gateway} dev e0", net.option));
                for link in links {
                    ip(&format!("{} route add {link} dev e0", net.option));
                }
                let near = match net.full {
                    32 => ["10.9.0.101", "10.20.0.1", "10.30.0.1"],
                    _ => ["fd00:9::101", "fd00:20::1", "fd00:30::1"],
                };
                for target in near.into_iter().chain([far, gateway]) {
                    let any = if net.full == 32 { "0.0.0.0:0" } else { "[::]:0" };
                    let socket = UdpSocket::bind(any).unwrap();
                    socket.connect((target.parse::<IpAddr>().unwrap(), 9)).unwrap();
                    let source = socket.local_addr().unwrap().ip();
                    assert_eq!(source.to_string(), net.own[0], "to {target}, own address first: {own_first}");
                }
            });
        }
    });
}

#[test]
fn an_interface_that_comes_late_and_comes_back() {
    both(|net| {
        let Some([host]) = hosts() else { return };
        host.run_async(move || async move {
            let (vip, mut events) = open(net.spec("late0")).await.unwrap();
            let fault = vip.hold(LONG).await.unwrap_err();
            assert!(matches!(&fault, VipError::NoInterface { name } if name == "late0"));
            assert!(fault.to_string().contains("late0") && fault.to_string().contains("does not exist"), "{fault}");
            assert!(matches!(vip.announce().await, Err(VipError::NoInterface { .. })));
            vip.drop_address().await.unwrap();
            assert_eq!(vip.present().await.unwrap(), None);

            for _ in 0..2 {
                lone("late0");
                assert_eq!(next(&mut events).await, VipEvent::LinkChanged { up: true });
                assert!(vip.hold(LONG).await.unwrap().newly_added);
                vip.announce().await.unwrap();
                ip("link del late0");
                let mut seen = [next(&mut events).await, next(&mut events).await];
                seen.sort_by_key(|event| matches!(event, VipEvent::Removed));
                assert_eq!(seen, [VipEvent::LinkChanged { up: false }, VipEvent::Removed]);
                // A filler takes the index, so that the interface comes back under another.
                ip("link add type veth");
            }
        });
    });
}

#[test]
fn disabled_ipv6_is_named_as_such() {
    let Some([host]) = hosts() else { return };
    host.run_async(move || async move {
        lone("e0");
        // What /proc/sys/net shows is the namespace of the thread that looks.
        std::fs::write("/proc/sys/net/ipv6/conf/e0/disable_ipv6", "1").unwrap();
        let (vip, _events) = open(V6.spec("e0")).await.unwrap();
        let fault = vip.hold(LONG).await.unwrap_err();
        assert!(matches!(&fault, VipError::Ipv6Disabled { name } if name == "e0"), "{fault}");
    });
}

#[test]
fn a_carrier_that_goes_and_returns_is_reported() {
    let Some([a, b]) = hosts() else { return };
    wire(&a, &b, V4);
    a.run_async(move || async move {
        until("carrier", SOON, async || ip("link show dev e0").contains("LOWER_UP").then_some(())).await;
        let (_vip, mut events) = open(V4.spec("e0")).await.unwrap();
        b.run(|| ip("link set dev e0 down"));
        assert_eq!(next(&mut events).await, VipEvent::LinkChanged { up: false });
        b.run(|| ip("link set dev e0 up"));
        assert_eq!(next(&mut events).await, VipEvent::LinkChanged { up: true });
    });
}

#[test]
fn removal_by_somebody_else_is_reported_and_put_right() {
    both(|net| {
        let Some([host]) = hosts() else { return };
        host.run_async(move || async move {
            lone("e0");
            let (vip, mut events) = open(net.spec("e0")).await.unwrap();
            for _ in 0..3 {
                assert!(vip.hold(LONG).await.unwrap().newly_added);
                ip(&format!("addr del {}/{} dev e0", net.vip, net.full));
                let start = Instant::now();
                assert_eq!(next(&mut events).await, VipEvent::Removed);
                println!("{} removal reported {:?} after `ip` returned", net.option, start.elapsed());
                assert!(matches!(vip.announce().await, Err(VipError::NotHeld)));
            }
            // Put back before the watcher looked: no report, but hold says that it was gone.
            vip.hold(LONG).await.unwrap();
            ip(&format!("addr del {}/{} dev e0", net.vip, net.full));
            assert!(vip.hold(LONG).await.unwrap().newly_added);
            quiet(&mut events, Duration::from_millis(300)).await;
            // Somebody else's address on the same interface is nobody's business.
            net.give_own(1, "e0");
            ip(&format!("addr del {}/{} dev e0", net.own[1], net.prefix));
            quiet(&mut events, Duration::from_millis(300)).await;
        });
    });
}

// ---- the network ---------------------------------------------------------------------------------------------------

/// Says something to the VIP so that the neighbour table learns it.
fn greet(net: Net) {
    let any = if net.full == 32 { "0.0.0.0:0" } else { "[::]:0" };
    UdpSocket::bind(any).unwrap().send_to(b"hello", (net.address(), 9)).unwrap();
}

#[test]
fn an_announcement_moves_the_neighbours_caches() {
    both(|net| {
        let Some(all) = hosts::<3>() else { return };
        switch(&all, net);
        let [a, b, client] = all;
        let (mac_a, mac_b) = (a.run(|| mac_of("e0")), b.run(|| mac_of("e0")));
        // The old holder's VIP, never dropped: only the announcement can move the client.
        a.run(move || {
            ip(&format!("addr add {}/{} dev e0{}", net.vip, net.full, if net.full == 128 { " nodad" } else { "" }))
        });
        b.run_async(move || async move {
            let (vip, _events) = open(net.spec("e0")).await.unwrap();
            let learnt = until("the client learns the VIP", SOON, async || {
                client.run(move || {
                    greet(net);
                    neighbour(net, "br0")
                })
            })
            .await;
            assert_eq!(learnt, mac_a);
            a.run(|| ip("link set dev e0 arp off"));
            vip.hold(LONG).await.unwrap();
            sleep(Duration::from_millis(200)).await;
            assert_eq!(client.run(move || neighbour(net, "br0")), Some(mac_a), "holding alone tells nobody");
            let start = Instant::now();
            vip.announce().await.unwrap();
            until("the client's cache moves", SOON, async || {
                (client.run(move || neighbour(net, "br0")) == Some(mac_b)).then_some(())
            })
            .await;
            println!("{} cache moved within {:?}", net.option, start.elapsed());

            // And it serves there: scope and deprecation do not keep clients out.
            let listener = TcpListener::bind((net.address(), 7000)).unwrap();
            let server = thread::spawn(move || listener.accept().unwrap().0.write_all(b"+").unwrap());
            let reply = client.run(move || {
                let mut stream = TcpStream::connect_timeout(&SocketAddr::new(net.address(), 7000), SOON).unwrap();
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                byte
            });
            assert_eq!(&reply, b"+");
            server.join().unwrap();
        });
    });
}

#[test]
fn the_kernel_answers_for_the_vip_and_probe_finds_the_holder() {
    both(|net| {
        let Some([a, b]) = hosts() else { return };
        wire(&a, &b, net);
        let mac_b = b.run(|| mac_of("e0"));
        a.run_async(move || async move {
            let (vip, _events) = open(net.spec("e0")).await.unwrap();
            let start = Instant::now();
            assert_eq!(vip.probe(Duration::from_millis(300)).await.unwrap(), None);
            let took = start.elapsed();
            assert!(took >= Duration::from_millis(295) && took < Duration::from_millis(600), "{took:?}");

            let (b, held) = (b, net.spec("e0"));
            b.run_async(move || async move {
                let (vip, _events) = open(held).await.unwrap();
                vip.hold(LONG).await.unwrap();
            });
            let start = Instant::now();
            assert_eq!(vip.probe(SOON).await.unwrap(), Some(mac_b));
            println!("{} probe answered after {:?}", net.option, start.elapsed());
            // Asking claims nothing: the other's table has nothing about the VIP, and ours stays ours.
            assert_eq!(b.run(move || neighbour(net, "e0")), None);
        });
    });
}

#[test]
fn a_second_holder_is_reported_and_not_too_often() {
    both(|net| {
        let Some([a, b]) = hosts() else { return };
        wire(&a, &b, net);
        let mac_b = b.run(|| mac_of("e0"));
        a.run_async(move || async move {
            let (vip, mut events) = open(net.spec("e0")).await.unwrap();
            let b = Arc::new(b);
            // On a thread of its own, so that this host hears each burst when it comes.
            let announce_from_b = async |times: u32| {
                let b = Arc::clone(&b);
                let talk = move || async move {
                    let (vip, _events) = open(net.spec("e0")).await.unwrap();
                    vip.hold(LONG).await.unwrap();
                    for _ in 0..times {
                        vip.announce().await.unwrap();
                        sleep(Duration::from_millis(150)).await;
                    }
                    vip.drop_address().await.unwrap();
                };
                tokio::task::spawn_blocking(move || b.run_async(talk)).await.unwrap();
            };
            // Not held here: somebody else's VIP is as it should be.
            announce_from_b(3).await;
            quiet(&mut events, Duration::from_millis(300)).await;
            vip.hold(LONG).await.unwrap();
            vip.announce().await.unwrap();
            quiet(&mut events, Duration::from_millis(300)).await;
            let start = Instant::now();
            announce_from_b(12).await;
            assert_eq!(next(&mut events).await, VipEvent::Conflict { mac: mac_b });
            let mut reports = 1;
            while let Ok(event) = timeout(Duration::from_millis(300), events.recv()).await {
                assert_eq!(event, Some(VipEvent::Conflict { mac: mac_b }));
                reports += 1;
            }
            let most = start.elapsed().as_secs() + 1;
            assert!((2..=most).contains(&reports), "{reports} reports for 12 bursts, at most {most} allowed");
        });
    });
}

#[test]
fn ones_own_second_interface_is_no_conflict() {
    both(|net| {
        let Some([a, b]) = hosts() else { return };
        wire(&a, &b, net);
        // With two interfaces on one network a host answers for the VIP on both, and hears itself: here the other host
        // speaks with the hardware address of the second interface.
        a.run(|| lone("e1"));
        let (second, foreign) = (a.run(|| mac_of("e1")), b.run(|| mac_of("e0")));
        a.run_async(move || async move {
            let (vip, mut events) = open(net.spec("e0")).await.unwrap();
            vip.hold(LONG).await.unwrap();
            for (mac, conflict) in [(second, false), (foreign, true)] {
                b.run_async(move || async move {
                    let text = mac.map(|byte| format!("{byte:02x}")).join(":");
                    ip(&format!("link set dev e0 address {text}"));
                    let (vip, _events) = open(net.spec("e0")).await.unwrap();
                    vip.hold(LONG).await.unwrap();
                    vip.announce().await.unwrap();
                });
                match conflict {
                    false => quiet(&mut events, Duration::from_millis(400)).await,
                    true => {
                        assert_eq!(next(&mut events).await, VipEvent::Conflict { mac: foreign })
                    }
                }
            }
        });
    });
}

#[test]
fn a_series_announces_for_four_seconds_and_stops_with_the_vip() {
    let Some([a, b]) = hosts() else { return };
    wire(&a, &b, V4);
    a.run_async(move || async move {
        let (vip, _events) = open(V4.spec("e0")).await.unwrap();
        let none: AnnounceSeries = vip.announce_series();
        assert_eq!(none.finished().await, 0, "nothing is announced that is not held");
        vip.hold(LONG).await.unwrap();
        let whole = vip.announce_series();
        let start = Instant::now();
        assert_eq!(whole.finished().await, 6);
        let took = start.elapsed();
        assert!(took > Duration::from_millis(3950) && took < Duration::from_millis(5000), "{took:?}");

        let cut = vip.announce_series();
        sleep(Duration::from_millis(200)).await;
        vip.drop_address().await.unwrap();
        assert_eq!(cut.finished().await, 2, "the bursts at 0 and 100 ms");
    });
}

// ---- connections ---------------------------------------------------------------------------------------------------

/// What the other end of a connection sees.
fn fate(stream: &mut TcpStream) -> Result<usize, ErrorKind> {
    stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    stream.read(&mut [0; 16]).map_err(|fault| fault.kind())
}

/// A listener on every address of host `a`, and connections of host `b` to it.
fn connect(a: &TcpListener, b: &Host, to: IpAddr) -> (TcpStream, TcpStream) {
    let target = SocketAddr::new(to, a.local_addr().unwrap().port());
    let client = b.run(move || TcpStream::connect_timeout(&target, SOON).unwrap());
    (a.accept().unwrap().0, client)
}

#[test]
fn destroying_the_vips_connections_resets_both_ends() {
    // The listener on [::] serves IPv4 clients too, as mapped addresses.
    for (net, listen) in [(V4, "0.0.0.0:0"), (V6, "[::]:0"), (V4, "[::]:0")] {
        let Some([a, b]) = hosts() else { return };
        wire(&a, &b, net);
        a.run_async(move || async move {
            let (vip, _events) = open(net.spec("e0")).await.unwrap();
            vip.hold(LONG).await.unwrap();
            let listener = TcpListener::bind(listen).unwrap();
            let (mut by_own, mut own_client) = connect(&listener, &b, net.own[0].parse().unwrap());
            let mut pairs: Vec<_> = (0..5).map(|_| connect(&listener, &b, net.address())).collect();
            let start = Instant::now();
            assert_eq!(vip.destroy_sockets().await.unwrap(), 5);
            println!("{} on {listen}: 5 connections in {:?}", net.option, start.elapsed());
            for (server, client) in &mut pairs {
                assert_eq!(fate(server), Err(ErrorKind::ConnectionAborted));
                assert_eq!(fate(client), Err(ErrorKind::ConnectionReset));
            }
            assert_eq!(vip.destroy_sockets().await.unwrap(), 0);

            // The host's own address is untouched, and the listener still listens.
            own_client.write_all(b"x").unwrap();
            assert_eq!(fate(&mut by_own), Ok(1));
            connect(&listener, &b, net.address());
        });
    }
}

#[test]
fn connections_survive_the_address_and_are_destroyed_without_it() {
    both(|net| {
        let Some([a, b]) = hosts() else { return };
        wire(&a, &b, net);
        a.run_async(move || async move {
            let (vip, _events) = open(net.spec("e0")).await.unwrap();
            vip.hold(LONG).await.unwrap();
            let any = if net.full == 32 { "0.0.0.0:0" } else { "[::]:0" };
            let listener = TcpListener::bind(any).unwrap();
            let (mut server, mut client) = connect(&listener, &b, net.address());
            vip.drop_address().await.unwrap();
            assert_eq!(fate(&mut server), Err(ErrorKind::WouldBlock), "the connection outlives its address");
            assert_eq!(vip.destroy_sockets().await.unwrap(), 1);
            assert_eq!(fate(&mut server), Err(ErrorKind::ConnectionAborted));
            // IPv6 still lets the reset out. IPv4 has no route from an address that is gone: hence destroy, then drop.
            let heard = if net.full == 32 { ErrorKind::WouldBlock } else { ErrorKind::ConnectionReset };
            assert_eq!(fate(&mut client), Err(heard));
        });
    });
}

#[test]
fn withdrawing_lets_clients_hear_of_it() {
    both(|net| {
        let Some([a, b]) = hosts() else { return };
        wire(&a, &b, net);
        a.run_async(move || async move {
            let (vip, mut events) = open(net.spec("e0")).await.unwrap();
            vip.hold(LONG).await.unwrap();
            let any = if net.full == 32 { "0.0.0.0:0" } else { "[::]:0" };
            let listener = TcpListener::bind(any).unwrap();
            let (mut server, mut client) = connect(&listener, &b, net.address());
            let start = Instant::now();
            vip.withdraw(SOON).await.unwrap();
            println!("{} withdrawn in {:?}", net.option, start.elapsed());
            assert_eq!(vip.present().await.unwrap(), None);
            assert_eq!(fate(&mut server), Err(ErrorKind::ConnectionAborted));
            assert_eq!(fate(&mut client), Err(ErrorKind::ConnectionReset));
            // Without any notice the address goes all the same.
            vip.hold(LONG).await.unwrap();
            vip.withdraw(Duration::ZERO).await.unwrap();
            assert_eq!(vip.present().await.unwrap(), None);
            quiet(&mut events, Duration::from_millis(100)).await;
        });
    });
}

#[test]
fn destroying_a_port_reaches_every_address_but_the_spared() {
    both(|net| {
        let Some([a, b]) = hosts() else { return };
        wire(&a, &b, net);
        a.run_async(move || async move {
            let (vip, _events) = open(net.spec("e0")).await.unwrap();
            vip.hold(LONG).await.unwrap();
            let listener = TcpListener::bind("[::]:0").unwrap();
            let other = TcpListener::bind("[::]:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            let (mut by_vip, mut vip_client) = connect(&listener, &b, net.address());
            let (mut by_own, mut own_client) = connect(&listener, &b, net.own[0].parse().unwrap());
            let (mut elsewhere, mut else_client) = connect(&other, &b, net.address());
            let local = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let (mut by_local, mut local) = (listener.accept().unwrap().0, local);
            let spared = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let (mut by_spared, mut spared) = (listener.accept().unwrap().0, spared);

            let except = [spared.local_addr().unwrap()];
            assert_eq!(destroy_port(port, &except).await.unwrap(), 3);
            for stream in [&mut by_vip, &mut by_own, &mut by_local] {
                assert_eq!(fate(stream), Err(ErrorKind::ConnectionAborted));
            }
            for stream in [&mut vip_client, &mut own_client, &mut local] {
                assert_eq!(fate(stream), Err(ErrorKind::ConnectionReset));
            }
            for (from, to) in [(&mut spared, &mut by_spared), (&mut else_client, &mut elsewhere)] {
                from.write_all(b"x").unwrap();
                assert_eq!(fate(to), Ok(1));
            }
            let everyone_local = ["127.0.0.1:0".parse().unwrap()];
            assert_eq!(destroy_port(port, &everyone_local).await.unwrap(), 0);
            assert_eq!(destroy_port(port, &[]).await.unwrap(), 1);
        });
    });
}

#[test]
fn many_connections_are_destroyed_in_time() {
    let Some([a, b]) = hosts() else { return };
    wire(&a, &b, V4);
    a.run_async(move || async move {
        const MANY: usize = 400;
        let (vip, _events) = open(V4.spec("e0")).await.unwrap();
        vip.hold(LONG).await.unwrap();
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let pairs: Vec<_> = (0..MANY).map(|_| connect(&listener, &b, V4.address())).collect();
        let start = Instant::now();
        assert_eq!(vip.destroy_sockets().await.unwrap(), MANY);
        println!("{MANY} connections destroyed in {:?}", start.elapsed());
        drop(pairs);
    });
}

// ---- rights --------------------------------------------------------------------------------------------------------

/// Leaves the calling thread with these capabilities only.
#[allow(unsafe_code)]
fn keep_capabilities(keep: u32) {
    let header: [u32; 2] = [0x2008_0522, 0];
    let sets: [u32; 6] = [keep, keep, 0, 0, 0, 0];
    // SAFETY: the two arrays have the layout of the version 3 header and its two data elements, and outlive the call.
    // The raw call changes the calling thread only, which serves this one test.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

const NET_ADMIN: u32 = 1 << 12;
const NET_RAW: u32 = 1 << 13;

#[test]
fn a_missing_capability_is_named() {
    both(|net| {
        for (keep, missing) in [(NET_ADMIN, Capability::NetRaw), (NET_RAW, Capability::NetAdmin)] {
            let Some([host]) = hosts() else { return };
            host.run(|| lone("e0"));
            host.run_async(move || async move {
                keep_capabilities(keep);
                let fault = open(net.spec("e0")).await.unwrap_err();
                assert!(
                    matches!(fault, VipError::MissingCapability { capability, .. } if capability == missing),
                    "{fault}"
                );
                assert!(fault.to_string().contains(&missing.to_string()), "{fault}");
            });
        }
    });
}

#[test]
fn the_two_capabilities_suffice() {
    both(|net| {
        let Some([host]) = hosts() else { return };
        host.run(|| lone("e0"));
        host.run_async(move || async move {
            keep_capabilities(NET_ADMIN | NET_RAW);
            let (vip, _events) = open(net.spec("e0")).await.unwrap();
            vip.hold(LONG).await.unwrap();
            vip.announce().await.unwrap();
            assert_eq!(vip.probe(Duration::from_millis(50)).await.unwrap(), None);
            assert_eq!(vip.destroy_sockets().await.unwrap(), 0);
            vip.drop_address().await.unwrap();
            assert_eq!(vip.present().await.unwrap(), None);
        });
    });
}
