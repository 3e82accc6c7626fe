//! The hands that strike: each fault done to a real process, disk, clock or wire, and undone again.
//!
//! Faults overlap, so undoing one must not undo another: the wire is set anew from all that still hold. Whatever is
//! left is undone by [`Hands::heal`], also when a run fails (a frozen disk would hold its processes for ever).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, Host};
use crate::lab::{ms, secs, wait_for};
use crate::plan::{Fault, Kind, Whom};
use crate::policy::Policy;
use crate::resp::Client;
use crate::switch::HostNo;
use crate::timeline::Timeline;
use crate::writer::own_instance;

/// The hour that a clock jumps.
const HOUR: i64 = 3600;

/// A host that was cut off from every other one: no lease is renewed there.
pub struct Cut {
    pub host: HostNo,
    pub from: Instant,
    pub until: Instant,
}

pub struct Hands<'a> {
    c: &'a Cluster,
    told: &'a Timeline,
    active: Vec<(usize, Fault, HostNo)>,
    /// Hosts that are cut off, and since when.
    cut_since: BTreeMap<HostNo, Instant>,
    pub cuts: Vec<Cut>,
    /// The one host that may lose its memory in this round.
    victim: Option<HostNo>,
    /// The one host that loses its store in this round.
    storeless: Option<HostNo>,
    /// Under `available` now and then any host may.
    spare_nobody: bool,
    last_primary: HostNo,
    /// A command was not confirmed in time; what it asked for may still come.
    unconfirmed: bool,
    /// Hosts that are off and known to nobody; and whether they were switched on.
    pub spares: &'a [HostNo],
    spares_are_on: bool,
    threads: Vec<JoinHandle<()>>,
}

/// Unconfirmed, in sysexits' words.
const TEMPFAIL: i32 = 75;
/// With all links whole, the log that may hold an unconfirmed command is agreed on, and the command carried out, sooner.
const CONFIRMED: Duration = secs(3);

impl<'a> Hands<'a> {
    pub fn new(c: &'a Cluster, told: &'a Timeline, primary: HostNo, spare_nobody: bool) -> Self {
        Self {
            c,
            told,
            active: Vec::new(),
            cut_since: BTreeMap::new(),
            cuts: Vec::new(),
            victim: None,
            storeless: None,
            spare_nobody,
            last_primary: primary,
            unconfirmed: false,
            spares: &[],
            spares_are_on: false,
            threads: Vec::new(),
        }
    }

    fn whom(&mut self, fault: &Fault) -> HostNo {
        if let Some(holder) = self.c.vip_holders().first() {
            self.last_primary = *holder;
        }
        let wished = match fault.whom {
            Whom::Host(no) if !fault.kind.is_of_redis() || self.c.host(no).redis.is_some() => no,
            _ => self.last_primary,
        };
        // Under `quorum` a stop takes the member out of F by a promise that only an operator takes back: while it is on its way
        // in again, another one's memory is one too many.
        let leaves = fault.kind == Kind::RestartAgent && self.c.options.durability == "quorum";
        if !(fault.kind.takes_memory() || leaves) || self.spare_nobody || self.c.host(wished).redis.is_none() {
            return wished;
        }
        *self.victim.get_or_insert(wished)
    }

    /// Does it, if the host is in a state to be hit by it.
    pub fn strike(&mut self, i: usize, fault: &Fault) -> Option<(Kind, HostNo)> {
        let no = self.whom(fault);
        let host = self.c.host(no);
        // A minority of the stores may be lost, and no more: the one rule that all others rest on.
        let second = fault.kind.takes_store() && self.storeless.is_some_and(|other| other != no);
        if !host.is_on() || second || self.clashes(fault.kind, no) {
            self.told.say(&format!("   #{i} {:?} on n{no}: left out, n{no} is being hit already", fault.kind));
            return None;
        }
        self.told.say(&format!("-> #{i} {:?} on n{no} for {:?}", fault.kind, fault.lasts));
        self.active.push((i, *fault, no));
        match self.hit(fault, host) {
            Ok(()) => {
                self.storeless = self.storeless.or(fault.kind.takes_store().then_some(no));
                Some((fault.kind, no))
            }
            Err(why) => {
                self.told.say(&format!("   #{i} was refused: {why}"));
                self.active.pop();
                None
            }
        }
    }

    /// One disk, one clock, one power supply.
    fn clashes(&self, kind: Kind, no: HostNo) -> bool {
        use Kind::{DiskFull, DiskHang, KillAgent, Leave, LoseStore, ReplaceHost, RestartAgent, RestartHost};
        let disk = [DiskFull, DiskHang, RestartHost, ReplaceHost, Leave, LoseStore, RestartAgent, KillAgent];
        let here = |other: &&(usize, Fault, HostNo)| other.2 == no;
        let mut others = self.active.iter().filter(here).map(|(_, fault, _)| fault.kind);
        others.any(|other| other == kind || (disk.contains(&other) && disk.contains(&kind)))
    }

    fn hit(&mut self, fault: &Fault, host: &'a Host) -> Result<(), String> {
        let text = |error: std::io::Error| error.to_string();
        let disk = || host.disk.as_ref().ok_or("it has no disk of its own");
        match fault.kind {
            Kind::KillAgent => _ = host.agent().kill(),
            Kind::KillRedis => _ = host.redis().kill(),
            Kind::FreezeAgent => _ = host.agent().freeze(),
            Kind::FreezeRedis => _ = host.redis().freeze(),
            Kind::Unplug | Kind::Isolate | Kind::OneWay | Kind::Lossy | Kind::Jitter => self.rewire(),
            Kind::DiskFull => disk()?.fill().map_err(text)?,
            Kind::DiskHang => disk()?.freeze().map_err(text)?,
            Kind::ClockJump => {
                let jump = if fault.dice.is_multiple_of(2) { HOUR } else { -HOUR };
                crate::wall::set(&host.files, jump).map_err(text)?;
            }
            Kind::DebugSleep => {
                self.ask(host, vec!["DEBUG".into(), "SLEEP".into(), fault.lasts.as_secs_f64().to_string()])
            }
            Kind::ClientPause => {
                let what = if fault.dice.is_multiple_of(2) { "ALL" } else { "WRITE" };
                self.ask(host, vec!["CLIENT".into(), "PAUSE".into(), fault.lasts.as_millis().to_string(), what.into()]);
            }
            Kind::Script => {
                // One that has written can only be waited for, or killed with all that the instance holds.
                let script = match fault.dice.is_multiple_of(2) {
                    true => "redis.call('SET', 'script', '1') local e = os.clock() + 4 while os.clock() < e do end",
                    false => "while true do end",
                };
                self.ask(host, vec!["EVAL".into(), script.into(), "0".into()]);
            }
            Kind::ConfigRewrite => {
                let samples = (3 + fault.dice % 8).to_string();
                self.ask(host, vec!["CONFIG".into(), "SET".into(), "maxmemory-samples".into(), samples]);
                self.ask(host, vec!["CONFIG".into(), "REWRITE".into()]);
            }
            Kind::RestartAgent => self.restart_agent(host),
            Kind::RestartHost | Kind::ReplaceHost => self.c.kill_host(host.no),
            Kind::Leave => return self.leave(host),
            Kind::LoseStore => host.agent().hold(),
            Kind::Join => self.spares.iter().for_each(|no| self.c.replace_host(*no)),
            Kind::Switchover => self.switchover(host),
        }
        Ok(())
    }

    /// Undoes it; what others still do holds on.
    pub fn relent(&mut self, i: usize) {
        let Some(at) = self.active.iter().position(|(other, ..)| *other == i) else { return };
        let (_, fault, no) = self.active.remove(at);
        let host = self.c.host(no);
        self.told.say(&format!("<- #{i} {:?} on n{no}", fault.kind));
        match fault.kind {
            Kind::FreezeAgent => _ = host.agent().thaw(),
            Kind::FreezeRedis => _ = host.redis().thaw(),
            Kind::Unplug | Kind::Isolate | Kind::OneWay | Kind::Lossy | Kind::Jitter => self.rewire(),
            Kind::DiskFull => host.disk.iter().for_each(crate::disk::Disk::empty),
            Kind::DiskHang => host.disk.iter().for_each(crate::disk::Disk::thaw),
            Kind::ClockJump => drop(crate::wall::set(&host.files, 0)),
            Kind::RestartHost => {
                self.c.revive_host(no);
                self.rewire();
            }
            Kind::ReplaceHost | Kind::Leave => {
                self.c.replace_host(no);
                self.rewire();
            }
            Kind::RestartAgent => self.join_threads(),
            Kind::LoseStore => {
                self.c.lose_store(no).expect("a config for the new node");
                host.agent().release();
            }
            Kind::Join => self.spares_are_on = true,
            _ => {}
        }
    }

    /// Undoes everything that is left.
    pub fn heal(&mut self) {
        while let Some((i, ..)) = self.active.first().copied() {
            self.relent(i);
        }
        self.join_threads();
        for host in self.c.hosts.values() {
            host.agent().thaw();
            if let Some(redis) = &host.redis {
                redis.thaw();
            }
        }
        if std::mem::take(&mut self.spares_are_on) {
            self.spares.iter().for_each(|no| self.remove(*no));
        }
        // What comes of it belongs to this round.
        if std::mem::take(&mut self.unconfirmed) {
            std::thread::sleep(CONFIRMED);
        }
    }

    /// The wire as all that still holds makes it.
    fn rewire(&mut self) {
        let cut =
            |(_, fault, no): &(usize, Fault, HostNo)| matches!(fault.kind, Kind::Unplug | Kind::Isolate).then_some(*no);
        let cut: BTreeSet<HostNo> = self.active.iter().filter_map(cut).collect();
        let until = Instant::now();
        let ended = self.cut_since.iter().filter(|(host, _)| !cut.contains(host));
        self.cuts.extend(ended.map(|(host, from)| Cut { host: *host, from: *from, until }));
        self.cut_since.retain(|host, _| cut.contains(host));
        self.set_wire();
        for host in cut {
            self.cut_since.entry(host).or_insert_with(Instant::now);
        }
    }

    fn set_wire(&self) {
        let wire = &self.c.wire;
        let hosts: Vec<HostNo> = self.c.hosts.keys().copied().chain([crate::net::CLIENT]).collect();
        wire.set_all(Policy::default());
        let unplugged = |no: &HostNo| self.active.iter().any(|(_, f, at)| f.kind == Kind::Unplug && at == no);
        hosts.iter().for_each(|no| wire.carrier(*no, !unplugged(no)));
        for (_, fault, no) in &self.active {
            let others = hosts.iter().copied().filter(|other| other != no);
            match fault.kind {
                Kind::Isolate => wire.isolate(*no),
                Kind::OneWay => {
                    let others: Vec<HostNo> = others.collect();
                    let other = others[(fault.dice / 2) as usize % others.len()];
                    let (from, to) = if fault.dice.is_multiple_of(2) { (*no, other) } else { (other, *no) };
                    wire.block(from, to);
                }
                Kind::Lossy => others.for_each(|other| {
                    wire.set(*no, other, Policy::lossy(0.2));
                    wire.set(other, *no, Policy::lossy(0.2));
                }),
                Kind::Jitter => others.for_each(|other| {
                    wire.set(*no, other, Policy::default().with_jitter(ms(200)));
                    wire.set(other, *no, Policy::default().with_jitter(ms(200)));
                }),
                _ => {}
            }
        }
        // A policy replaces the one before: what cuts off is set last.
        for (_, _, no) in self.active.iter().filter(|(_, fault, _)| fault.kind == Kind::Isolate) {
            wire.isolate(*no);
        }
    }

    /// One command, whose answer nobody waits for.
    fn ask(&mut self, host: &Host, args: Vec<String>) {
        let net = Arc::clone(&host.net);
        self.threads.push(std::thread::spawn(move || {
            let stream = net.connect(own_instance(), ms(300));
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            let _ = stream.and_then(|stream| Client::over(stream, secs(10))).and_then(|mut c| c.command(&args));
        }));
    }

    fn switchover(&mut self, host: &Host) {
        // Bounded by itself; what it answers is told, nothing is demanded of it among other faults.
        let out = self.c.mainstay(host.no, &["switchover"]);
        let said = [out.stdout, out.stderr].map(|text| String::from_utf8_lossy(&text).trim().replace('\n', " "));
        self.told.say(&format!("   switchover: {} {}{}", out.status, said[0], said[1]));
        self.unconfirmed |= out.status.code() == Some(TEMPFAIL);
    }

    /// SIGTERM, a bound as systemd's, and a new start.
    fn restart_agent(&self, host: &Host) {
        if !host.agent().stop(secs(10)) {
            self.told.say(&format!("   the agent of n{} did not end by itself", host.no));
        }
        host.agent().release();
    }

    fn leave(&mut self, host: &Host) -> Result<(), String> {
        let name = format!("n{}", host.no);
        let by = self.c.hosts.keys().copied().find(|no| *no != host.no && self.c.host(*no).is_on());
        let out = self.c.mainstay(by.ok_or("nobody to ask")?, &["leave", &name]);
        let said = String::from_utf8_lossy(&out.stderr).trim().replace('\n', " ");
        let unconfirmed = out.status.code() == Some(TEMPFAIL);
        if !out.status.success() && !unconfirmed {
            // Of a primary, or without a majority.
            return Err(said);
        }
        // It may come all the same: then this is a host that is replaced.
        self.unconfirmed |= unconfirmed;
        self.c.kill_host(host.no);
        Ok(())
    }

    /// For good, and off; asked for until it is so, since the witness may not have joined yet.
    fn remove(&self, no: HostNo) {
        let name = format!("n{no}");
        let able = |other: &HostNo| !self.spares.contains(other) && self.c.host(*other).is_on();
        let by = self.c.hosts.keys().copied().find(able).expect("a host that is on");
        let mut unconfirmed = false;
        wait_for("the witness to be removed", secs(30), || {
            let known = self.c.status(by)?["nodes"].as_array().cloned().unwrap_or_default();
            let member = known.iter().any(|node| node["name"] == name.as_str());
            if !member && (unconfirmed || !self.c.host(no).is_on()) {
                self.c.kill_host(no);
                return Ok(());
            }
            let out = self.c.mainstay(by, &["leave", &name]);
            if out.status.success() {
                self.c.kill_host(no);
            }
            unconfirmed |= out.status.code() == Some(TEMPFAIL);
            Err(String::from_utf8_lossy(&out.stderr).trim().to_owned())
        });
    }

    fn join_threads(&mut self) {
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Hands<'_> {
    fn drop(&mut self) {
        for host in self.c.hosts.values() {
            host.disk.iter().for_each(crate::disk::Disk::thaw);
        }
    }
}
