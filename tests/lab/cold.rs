//! Starts with data that is there already: adoption of what runs (S13), and power back on all hosts at once (S14).

use crate::cluster::{Cluster, Options};
use crate::lab::{in_lab, ms, secs, wait_for};
use crate::net::address;
use crate::switch::HostNo;
use crate::writer::WriterOptions;

/// Every host's agent and instance are up, and the agents are held: the test moves the instances by hand first.
fn before_mainstay(options: Options) -> Cluster {
    let c = Cluster::start(options);
    for host in c.hosts.values() {
        host.agent().hold();
    }
    for host in c.hosts.values() {
        std::fs::remove_dir_all(host.files.agent()).expect("the agent's directory");
        std::fs::create_dir_all(host.files.agent()).expect("the agent's directory");
    }
    c.data_hosts().for_each(|host| {
        wait_for("an instance", secs(5), || host.info());
    });
    c
}

fn begin_mainstay(c: &Cluster) {
    c.hosts.values().for_each(|host| host.agent().release());
}

fn follow(c: &Cluster, replica: HostNo, primary: HostNo) {
    let to = address(primary).to_string();
    c.host(replica).cmd(&["REPLICAOF", &to, "6379"]);
    wait_for("a link", secs(10), || {
        let info = c.host(replica).info()?;
        let up = info.get("master_link_status").is_some_and(|status| status == "up");
        if up { Ok(()) } else { Err(std::io::Error::other("down")) }
    });
}

fn count(c: &Cluster, host: HostNo, field: &str) -> u64 {
    c.host(host).info().expect("INFO").get(field).and_then(|value| value.parse().ok()).unwrap_or_default()
}

fn waits(c: &Cluster, host: HostNo) -> Result<String, String> {
    let status = c.status(host)?;
    status["groups"][0]["waits"].as_str().map(str::to_owned).ok_or_else(|| status.to_string())
}

/// S13: B runs with data, A and C replicate from it: B stays the primary, and nobody is synchronised in full.
#[test]
fn a_running_topology_is_adopted_without_a_full_resynchronisation() {
    in_lab(|| {
        let c = before_mainstay(Options::new(3));
        c.host(2).cmd(&["REPLICAOF", "NO", "ONE"]);
        follow(&c, 1, 2);
        follow(&c, 3, 2);
        for i in 0..100 {
            c.host(2).cmd(&["SET", &format!("old:{i}"), "kept"]);
        }
        let full = count(&c, 2, "sync_full");
        begin_mainstay(&c);
        assert_eq!(c.wait_healthy(secs(40)), 2, "the running primary stays it");
        assert_eq!(count(&c, 2, "sync_full"), full, "a full resynchronisation");
        assert!(count(&c, 2, "sync_partial_ok") >= 2);
        for host in 1..=3 {
            assert_eq!(c.host(host).cmd(&["GET", "old:99"]).text(), "kept");
        }
    });
}

/// S13: two primaries with data are refused, both named, nothing wiped; the operator chooses, and the other's data is
/// saved and given up.
#[test]
fn two_data_sets_are_refused_until_the_operator_chooses() {
    in_lab(|| {
        let c = before_mainstay(Options { quarantine: true, ..Options::new(3) });
        for host in [1, 2] {
            c.host(host).cmd(&["REPLICAOF", "NO", "ONE"]);
            c.host(host).cmd(&["SET", &format!("of:{host}"), "x"]);
        }
        begin_mainstay(&c);
        let said = wait_for("a refusal", secs(20), || match waits(&c, 3)? {
            said if said.contains("bootstrap") => Ok(said),
            other => Err(other),
        });
        assert!(said.contains("n1 and n2"), "{said}");
        std::thread::sleep(secs(1));
        assert!(c.primary_now().is_err());
        for host in [1, 2] {
            assert_eq!(c.host(host).cmd(&["GET", &format!("of:{host}")]).text(), "x", "nothing is wiped");
        }
        let refused = c.mainstay(3, &["bootstrap", "--primary", "n9"]);
        assert_eq!(refused.status.code(), Some(65), "{}", String::from_utf8_lossy(&refused.stderr));
        let done = c.mainstay(3, &["bootstrap", "--primary", "n2"]);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        assert_eq!(c.wait_healthy(secs(30)), 2);
        for host in 1..=3 {
            assert_eq!(c.host(host).cmd(&["EXISTS", "of:1"]).text(), "0");
            assert_eq!(c.host(host).cmd(&["GET", "of:2"]).text(), "x");
        }
        let saved = c.host(1).files.agent().join("quarantine");
        assert_eq!(std::fs::read_dir(saved).expect("the quarantine").count(), 1, "saved before it was given up");
    });
}

/// Without it a replica keeps the file of its last full resynchronisation, though nothing is to be kept: after a power
/// cut that is data, however old.
const NOTHING_KEPT: &str = "rdb-del-sync-files yes";

/// What is the same in each power cut: hosts lose power at once, some come back.
struct Power {
    persistence: &'static [&'static str],
    /// Does not come back.
    lost: Option<Which>,
    /// Whether what was written before the last second must be there again.
    kept: bool,
    ground: &'static str,
}

/// Changes that are in no RDB file yet, over all instances.
fn unsaved(c: &Cluster) -> u64 {
    let of = |host| count(c, host, "rdb_changes_since_last_save") + count(c, host, "rdb_bgsave_in_progress");
    (1..=3).map(of).sum()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    Primary,
    Replica,
}

fn power_cut(story: &Power) {
    let conf = story.persistence.iter().map(|line| (*line).to_owned()).collect();
    let c = Cluster::start(Options { redis_conf: conf, ..Options::new(3) });
    let old = c.wait_healthy(secs(40));
    let load = c.write_vip(WriterOptions::gentle());
    std::thread::sleep(secs(3));
    let early = load.stop();
    // On disk everywhere: an append-only file is synced, an RDB saved, once a second.
    std::thread::sleep(ms(1500));
    if story.persistence.iter().any(|line| line.starts_with("save")) {
        wait_for("saved files", secs(20), || match unsaved(&c) {
            0 => Ok(()),
            left => Err(left),
        });
    }
    (1..=3).for_each(|host| c.kill_host(host));
    let replica = (1..=3).find(|host| *host != old).expect("a replica");
    let lost = story.lost.map(|which| if which == Which::Primary { old } else { replica });
    (1..=3).filter(|host| Some(*host) != lost).for_each(|host| c.revive_host(host));
    let bound = if lost.is_some() { secs(60) } else { secs(30) };
    let started = std::time::Instant::now();
    let now = c.wait_primary(bound);
    println!("FIGURE power cut {:?}: primary after {:?}", story.persistence, started.elapsed());
    let history = crate::history::History::of([early]);
    assert!(history.acked() > 100, "{} writes", history.acked());
    let gone = c.lost(&history, now);
    assert_eq!(gone.is_empty(), story.kept, "{} of {} writes lost", gone.len(), history.acked());
    let said = wait_for("the event", secs(10), || {
        let status = c.status(now)?;
        status["groups"][0]["changes"][0]["guarantee"].as_str().map(str::to_owned).ok_or_else(|| status.to_string())
    });
    assert!(said.contains(story.ground), "{said}");
    c.wait_steady(secs(40));
}

#[test]
fn power_back_with_rdb() {
    let story = Power { persistence: &["save 1 1"], lost: None, kept: true, ground: "replication offset" };
    in_lab(|| power_cut(&story));
}

#[test]
fn power_back_with_aof() {
    in_lab(|| power_cut(&Power { persistence: AOF, lost: None, kept: true, ground: "last primary" }));
}

#[test]
fn power_back_with_nothing_kept() {
    let story = Power { persistence: &[NOTHING_KEPT], lost: None, kept: false, ground: "none holds data" };
    in_lab(|| power_cut(&story));
}

const AOF: &[&str] = &["appendonly yes", "appendfsync everysec"];

/// One host does not return. The others wait for it for half a minute, all stories at the same time.
#[test]
fn power_back_but_for_one_host() {
    let rdb = &["save 1 1"];
    let (primary, replica) = (Some(Which::Primary), Some(Which::Replica));
    let stories = [
        ("rdb", Power { persistence: rdb, lost: primary, kept: true, ground: "replication offset" }),
        ("aof", Power { persistence: AOF, lost: primary, kept: true, ground: "cold start" }),
        ("aof-replica", Power { persistence: AOF, lost: replica, kept: true, ground: "last primary" }),
    ];
    in_lab(|| {
        std::thread::scope(|scope| {
            for (name, story) in &stories {
                spawn(scope, &format!("power_back_but_for_one_host-{name}"), move || power_cut(story));
            }
            spawn(scope, "power_back_but_for_one_host-empty", an_empty_one_is_not_chosen);
            spawn(scope, "power_back_but_for_one_host-quorum", quorum_waits_for_the_last_one);
        });
    });
}

fn spawn<'a>(scope: &'a std::thread::Scope<'a, '_>, name: &str, story: impl FnOnce() + Send + 'a) {
    std::thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, story).expect("a thread");
}

/// All hosts lose power, and all but the primary's return. Nobody is promoted before that one is back, and they say so.
fn waits_for_the_primary(options: Options) -> Cluster {
    let c = Cluster::start(options);
    let old = c.wait_healthy(secs(40));
    c.host(old).cmd(&["SET", "a", "b"]);
    std::thread::sleep(ms(1500));
    (1..=3).for_each(|host| c.kill_host(host));
    let back: Vec<HostNo> = (1..=3).filter(|host| *host != old).collect();
    back.iter().for_each(|host| c.revive_host(*host));
    let said = wait_for("what is waited for", secs(20), || waits(&c, back[0]));
    assert!(said.contains(&format!("n{old}")), "{said}");
    std::thread::sleep(secs(35));
    assert!(c.primary_now().is_err(), "promoted without n{old}");
    c.revive_host(old);
    c.wait_steady(secs(40));
    c
}

/// Nothing was kept and one host is missing: an empty instance is chosen only by force.
fn an_empty_one_is_not_chosen() {
    waits_for_the_primary(Options { redis_conf: vec![NOTHING_KEPT.into()], ..Options::new(3) });
}

/// Under `quorum` a cold start waits for everybody, however long that takes.
fn quorum_waits_for_the_last_one() {
    let redis_conf = AOF.iter().map(|line| (*line).to_owned()).collect();
    let c = waits_for_the_primary(Options { durability: "quorum", redis_conf, ..Options::new(3) });
    let now = c.wait_primary(secs(10));
    assert_eq!(c.host(now).cmd(&["GET", "a"]).text(), "b");
}
