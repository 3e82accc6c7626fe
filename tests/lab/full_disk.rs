//! A disk without room, or without an answer, under an agent's store: clients feel nothing, the agent says so, another
//! one leads, and it goes on by itself once the disk is well.

use std::time::{Duration, Instant};

use crate::cluster::{Cluster, Options};
use crate::disk::{Disk, own_mounts};
use crate::host::Host;
use crate::lab::{in_lab, ms, secs, wait_for};
use crate::switch::HostNo;

/// Three hosts whose agents have disks of their own; the primary, and the two others.
fn trio() -> (Cluster, HostNo, HostNo, HostNo) {
    own_mounts();
    let c = Cluster::start(Options { disks: true, ..Options::new(3) });
    let primary = c.wait_healthy(secs(40));
    let mut others = (1..=3).filter(|no| *no != primary);
    let two = (others.next().expect("a second host"), others.next().expect("a third host"));
    (c, primary, two.0, two.1)
}

fn disk(c: &Cluster, no: HostNo) -> &Disk {
    c.host(no).disk.as_ref().expect("it has a disk of its own")
}

/// Takes what the store has set aside for itself: a copy of its file has nothing.
fn take_reserve(c: &Cluster, no: HostNo) {
    c.host(no).agent().hold();
    let data = c.host(no).files.agent().join("data.mdb");
    let copy = data.with_extension("copy");
    std::fs::copy(&data, &copy).and_then(|_| std::fs::rename(&copy, &data)).expect("it is copied");
    c.host(no).agent().release();
    c.wait_healthy(secs(40));
}

/// Makes `no` the primary, asked for where the primary is: the others may have been started just now.
fn switch_to(c: &Cluster, no: HostNo) {
    wait_for("switchover", secs(20), || {
        let moved = c.mainstay(c.primary_now()?, &["switchover", "--to", &format!("n{no}")]);
        if moved.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&moved.stderr).into_owned()) }
    });
    assert_eq!(c.wait_healthy(secs(40)), no);
}

fn warnings(c: &Cluster, no: HostNo) -> Vec<String> {
    let status = c.status(no).unwrap_or_default();
    let listed = status["warnings"].as_array().cloned().unwrap_or_default();
    listed.iter().filter_map(|warning| warning.as_str().map(str::to_owned)).collect()
}

fn applied(c: &Cluster, no: HostNo) -> String {
    // The reason of a pause is replicated: what a host says of it, it has applied.
    c.status(no).unwrap_or_default()["groups"][0]["pause"].to_string()
}

/// Lets the log grow until the store of `full` waits for room.
fn grow(c: &Cluster, from: HostNo, full: HostNo) {
    let end = Instant::now() + secs(40);
    let mut turn = 0;
    while !warnings(c, full).iter().any(|warning| warning.contains("the disk is full")) {
        turn += 1;
        assert!(Instant::now() < end, "not full after {turn} commands: {:?}", warnings(c, full));
        c.mainstay(from, &["pause", "--for", "300s", "--reason", &format!("{turn} {}", "x".repeat(480))]);
    }
    println!("full after {turn} commands");
}

fn has_said(host: &Host, text: &str) -> bool {
    host.agent_log().contains(text)
}

/// The leader as a host sees it.
fn leader(c: &Cluster, from: HostNo) -> String {
    c.status(from).unwrap_or_default()["leader"].to_string()
}

#[test]
fn a_full_disk_under_the_primarys_agent_is_not_felt_and_is_said() {
    in_lab(|| {
        let (c, _, full, other) = trio();
        take_reserve(&c, full);
        switch_to(&c, full);
        let (load, begun) = (c.load(), Instant::now());
        disk(&c, full).fill().expect("it is filled");
        grow(&c, other, full);
        let pid = c.host(full).agent().pid();
        std::thread::sleep(secs(5));
        assert_eq!(c.primary_now(), Ok(full), "it serves on");
        assert_eq!(c.host(full).agent().pid(), pid, "by the same agent");
        assert!(has_said(c.host(full), "nothing is recorded until there is room"), "it is in the log");
        let gap = load.so_far().by("vip").gap(begun..Instant::now());
        // Somebody else leads, or the others could not decide anything.
        assert!(!leader(&c, other).contains(&format!("n{full}")), "it leads with a full disk");

        disk(&c, full).empty();
        wait_for("a word that it is well", secs(10), || match warnings(&c, full) {
            said if said.iter().any(|warning| warning.contains("the disk is full")) => Err(said),
            _ => Ok(()),
        });
        assert!(has_said(c.host(full), "there is room on the disk again"));
        c.mainstay(other, &["resume"]);
        wait_for("what was decided meanwhile", secs(20), || {
            let (here, there) = (applied(&c, full), applied(&c, other));
            if here == there && here == "null" { Ok(()) } else { Err((here, there)) }
        });
        assert_eq!(c.wait_healthy(secs(40)), full);
        let history = load.stop();
        assert!(history.two_servers().is_empty(), "{:?}", history.two_servers());
        println!("FIGURE full disk: gap {gap:?} while it was full");
        assert!(gap < ms(1500), "clients waited {gap:?}");
        switch_to(&c, other);
    });
}

/// Whatever is decided goes on without a host whose disk is full.
#[test]
fn a_full_disk_elsewhere_does_not_hold_a_failover_back() {
    in_lab(|| {
        let (c, primary, full, other) = trio();
        take_reserve(&c, full);
        disk(&c, full).fill().expect("it is filled");
        grow(&c, other, full);
        c.mainstay(other, &["resume"]);
        std::thread::sleep(secs(2));
        failover(&c, primary, "full disk elsewhere");
        disk(&c, full).empty();
        c.wait_healthy(secs(60));
    });
}

/// Nor does one that does not answer, even where the Raft leader has it.
#[test]
fn a_hung_disk_under_the_leader_does_not_hold_a_failover_back() {
    in_lab(|| {
        let (c, mut primary, second, _) = trio();
        let leads = leader(&c, primary);
        let hung = (1..=3).find(|no| leads.contains(&format!("n{no}"))).expect("somebody leads");
        if let Some(why) = &disk(&c, hung).no_hang {
            crate::ci::skip(&format!("no disk can be made to hang: {why}"));
            return;
        }
        if hung == primary {
            switch_to(&c, second);
            primary = second;
        }
        disk(&c, hung).freeze().expect("it hangs");
        // Something to write, which the leader cannot.
        c.mainstay(primary, &["pause", "--for", "1s"]);
        std::thread::sleep(secs(4));
        assert!(warnings(&c, hung).iter().any(|said| said.contains("has not answered")), "{:?}", warnings(&c, hung));
        failover(&c, primary, "hung disk of the leader");
        disk(&c, hung).thaw();
        c.wait_healthy(secs(60));
    });
}

/// The primary's instance dies; how long until another host serves.
fn failover(c: &Cluster, primary: HostNo, what: &str) -> Duration {
    let cut = Instant::now();
    c.host(primary).redis().kill();
    let now = c.wait_new_primary(primary, secs(10));
    println!("FIGURE {what}: n{primary} -> n{now} in {:?}", cut.elapsed());
    cut.elapsed()
}
