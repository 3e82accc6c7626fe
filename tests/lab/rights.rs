//! An agent needs two capabilities and no more: as an ordinary user with CAP_NET_ADMIN and CAP_NET_RAW it holds the
//! address, takes over, fences, and kills an instance of the same user that hangs.

use std::time::Instant;

use nix::sys::signal::Signal;

use crate::cluster::{Cluster, Options};
use crate::lab::{in_lab, ms, secs, wait_for};
use crate::proc::Proc;

/// Nobody on this machine has that number.
const USER: u32 = 42_424;
/// CAP_NET_ADMIN and CAP_NET_RAW, as /proc writes them.
const TWO: &str = "0000000000003000";
const NONE: &str = "0000000000000000";

/// User and capabilities of a process, by the kernel: effective, and all that it could ever get.
fn rights(process: &Proc) -> (String, String, String) {
    let pid = process.pid().expect("it runs");
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().next().unwrap_or_default().to_owned()
    };
    (field("Uid:"), field("CapEff:"), field("CapBnd:"))
}

#[test]
fn two_capabilities_suffice_an_agent() {
    in_lab(|| {
        let c = Cluster::start(Options { user: Some(USER), hang_after: secs(1), ..Options::new(3) });
        let first = c.wait_healthy(secs(40));
        for host in c.hosts.values() {
            assert_eq!(rights(host.agent()), (USER.to_string(), TWO.into(), TWO.into()));
            assert_eq!(rights(host.redis()), (USER.to_string(), NONE.into(), NONE.into()));
        }
        assert_eq!(c.vip_holders(), [first]);
        let load = c.load();
        std::thread::sleep(ms(300));

        // Hangs: killed, which is how it comes back.
        let (starts, cut) = (c.host(first).redis().starts(), Instant::now());
        assert!(c.host(first).redis().signal(Signal::SIGSTOP));
        let second = c.wait_new_primary(first, secs(10));
        println!("FIGURE two capabilities, Redis SIGSTOP: served again after {:?}", cut.elapsed());
        assert_eq!(c.wait_healthy(secs(40)), second);
        assert!(c.host(first).redis().starts() > starts, "it was not killed");

        // Cut off: fenced, and relieved.
        c.wire.isolate(second);
        wait_for("the fence", secs(3), || match (c.host(second).cmd(&["ROLE"]).items()[0].text(), c.vip_holders()) {
            (role, holders) if role == "slave" && !holders.contains(&second) => Ok(()),
            other => Err(other),
        });
        let third = c.wait_new_primary(second, secs(10));
        c.wire.heal(second);
        assert_eq!(c.wait_healthy(secs(40)), third);
        let history = load.stop();
        assert!(history.two_servers().is_empty(), "{:#?}", history.two_servers());
    });
}
