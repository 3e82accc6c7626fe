//! Two groups on the same hosts, with their primaries on different ones: what happens to one is not felt in the other.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::cluster::{ASK, Cluster, Options, SECOND};
use crate::lab::{in_lab, ms, secs, wait_for};
use crate::net::{VIP, VIP2, address};
use crate::resp::{Client, Reply};
use crate::switch::HostNo;
use crate::writer::{Load, Writer, WriterOptions};

/// What a group that is not hit may wait at most: less than the shortest failover that needs a lease to run out.
const UNFELT: Duration = ms(300);

#[derive(Clone, Copy)]
struct Group {
    name: &'static str,
    service: SocketAddr,
}

fn groups() -> [Group; 2] {
    let (second, port) = SECOND;
    [Group { name: "mymaster", service: (VIP, 6379).into() }, Group { name: second, service: (VIP2, port).into() }]
}

impl Group {
    fn client(self, c: &Cluster, host: HostNo) -> std::io::Result<Client> {
        Client::over(c.host(host).net.connect(([127, 0, 0, 1], self.service.port()).into(), ASK)?, ASK)
    }

    /// Who serves at the floating address, with every other instance in step behind it.
    fn steady(self, c: &Cluster) -> Result<HostNo, String> {
        let text = |error: std::io::Error| format!("{}: {error}", self.name);
        let run_id = |client: &mut Client| Ok(client.info(&["server"]).map_err(text)?.remove("run_id"));
        let mut client =
            c.client.connect(self.service, ASK).and_then(|stream| Client::over(stream, secs(1))).map_err(text)?;
        let served: Option<String> = run_id(&mut client)?;
        let others = c.data_hosts().count() - 1;
        client.command(&["SET", "lab:probe", "1"]).map_err(text)?;
        let have = client.command(&["WAIT", &others.to_string(), "500"]).map_err(text)?.text();
        if have != others.to_string() {
            return Err(format!("{}: {have} of {others} replicas acknowledge", self.name));
        }
        let hosts: Vec<HostNo> = c.data_hosts().map(|host| host.no).collect();
        let mut found = hosts.into_iter().filter(|host| {
            self.client(c, *host).map_err(text).and_then(|mut own| run_id(&mut own)).is_ok_and(|own| own == served)
        });
        found.next().ok_or_else(|| format!("{}: nobody has run_id {served:?}", self.name))
    }

    fn wait_steady(self, c: &Cluster) -> HostNo {
        wait_for("steady group", secs(40), || self.steady(c))
    }

    /// Moves the primary there, if it is elsewhere.
    fn place(self, c: &Cluster, to: HostNo) {
        wait_for("the group on its host", secs(30), || {
            let now = self.steady(c)?;
            if now == to {
                return Ok(());
            }
            let output = c.mainstay(now, &["switchover", "--group", self.name, "--to", &format!("n{to}")]);
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        });
    }

    /// A client of the floating address, and one beside each instance.
    fn load(self, c: &Cluster, turn: &str) -> Load {
        let client =
            Writer::start(&format!("{turn}.{}.vip", self.name), &c.client, self.service, WriterOptions::default());
        c.data_hosts().fold(Load::default().with(client), |load, host| {
            let own = (address(host.no), self.service.port()).into();
            let name = format!("{turn}.{}.n{}", self.name, host.no);
            load.with(Writer::start(&name, &host.net, own, WriterOptions::gentle()))
        })
    }
}

/// Strikes while clients write to both groups; who serves each group then, and the gap that each group's clients saw.
fn while_written(c: &Cluster, turn: &str, fault: impl FnOnce(), repair: impl FnOnce()) -> [(HostNo, Duration); 2] {
    let loads = groups().map(|group| group.load(c, turn));
    std::thread::sleep(ms(500));
    let cut = Instant::now();
    fault();
    std::thread::sleep(secs(3));
    let served = Instant::now();
    repair();
    let now = groups().map(|group| group.wait_steady(c));
    let mut seen = loads.into_iter().zip(groups()).zip(now).map(|((load, group), now)| {
        let history = load.stop();
        assert!(history.two_servers().is_empty(), "{turn}, {}: {:#?}", group.name, history.two_servers());
        (now, history.by(&format!("{turn}.{}.vip", group.name)).gap(cut..served))
    });
    [seen.next(), seen.next()].map(|seen| seen.expect("two groups"))
}

/// What Sentinel clients are told of both groups by one agent.
fn told(c: &Cluster, asked: HostNo, primaries: [HostNo; 2]) {
    wait_for("both groups at the Sentinel endpoint", secs(5), || {
        let text = |error: std::io::Error| error.to_string();
        let mut client = crate::sentinel::agent(&c.client, asked).map_err(text)?;
        let masters = client.command(&["SENTINEL", "MASTERS"]).map_err(text)?.items().len();
        let named = groups().map(|group| {
            let said = client.command(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", group.name]).map_err(text)?;
            Ok::<_, String>(said.items().iter().map(Reply::text).collect::<Vec<_>>().join(":"))
        });
        let meant = groups().map(|group| group.service.port());
        let meant = [0, 1].map(|at| Ok(format!("{}:{}", address(primaries[at]), meant[at])));
        if masters == 2 && named == meant { Ok(()) } else { Err(format!("{masters} masters, {named:?}")) }
    });
}

#[test]
fn what_happens_to_one_group_is_not_felt_in_the_other() {
    in_lab(|| {
        let c = Cluster::start(Options { second_group: true, ..Options::new(3) });
        let [first, second] = groups();
        for group in groups() {
            group.wait_steady(&c);
        }
        first.place(&c, 1);
        second.place(&c, 2);
        told(&c, 3, [1, 2]);

        let [(one, felt), (two, unfelt)] = while_written(&c, "killed", || assert!(c.host(1).redis().kill()), || {});
        println!("FIGURE two groups, kill -9 of one's Redis: gap {felt:?}, the other's {unfelt:?}");
        assert!(one != 1 && two == 2, "{one} {two}");
        assert!(unfelt < UNFELT, "{unfelt:?}");

        first.place(&c, 3);
        let [(one, unfelt), (two, felt)] = while_written(&c, "host", || c.kill_host(2), || c.revive_host(2));
        println!("FIGURE two groups, one's host lost: gap {felt:?}, the other's {unfelt:?}");
        assert!(one == 3 && two != 2, "{one} {two}");
        told(&c, 1, [one, two]);
        assert!(unfelt < UNFELT, "{unfelt:?}");

        // Both on one host, which is lost: both move.
        second.place(&c, 3);
        let [(one, gap), (two, other)] = while_written(&c, "both", || c.kill_host(3), || c.revive_host(3));
        println!("FIGURE two groups, the host of both lost: gaps {gap:?} and {other:?}");
        assert!(one != 3 && two != 3, "{one} {two}");

        first.place(&c, 1);
        second.place(&c, 2);
        let [(one, felt), (two, other)] = while_written(&c, "isolated", || c.wire.isolate(1), || c.wire.heal(1));
        println!("FIGURE two groups, one's host isolated: gap {felt:?}, the other's {other:?}");
        assert!(one != 1 && two == 2, "{one} {two}");
        assert!(other < UNFELT, "{other:?}");
    });
}
