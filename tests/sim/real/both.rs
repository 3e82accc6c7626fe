//! One sequence on both sides: the model first, then the real instances, which have a bounded time to become the same.

use super::look::{Answer, Kin, Look, State, VALUE, table, units};
use super::model::{Model, Step};
use super::plan::{Cut, INSTANCES, Keep, Op, Order, plan};
use super::server::{Client, Reply, Server};
use crate::redis::{Refusal, Upstream};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A replica tries again once a second, an AOF is written anew after a full resynchronisation: on a loaded machine the
/// quiet after a step takes this long at most.
const QUIET: Duration = Duration::from_secs(15);
/// `min-replicas-to-write` counts once a second, with a lag in whole seconds.
const COUNTED: Duration = Duration::from_secs(6);
/// An answer that does not come within this does not come.
const HELD: Duration = Duration::from_millis(250);
/// The first round of replication work sends a ping, whatever the period; after a load it may be a second away.
const FIRST_ROUND: Duration = Duration::from_millis(1100);
/// What is late would be seen by then.
const LATE: Duration = Duration::from_millis(1300);

/// What came of a sequence.
#[derive(Debug, Default)]
pub struct Run {
    pub tally: Tally,
    pub mismatch: Option<String>,
}

/// What was compared.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    pub sequences: u64,
    pub steps: u64,
    pub full_syncs: u64,
    pub partial_syncs: u64,
    /// Met during the transfer, and during the load.
    pub cut_syncs: u64,
    pub cut_loads: u64,
    pub slow_loads: u64,
    pub waits: BTreeMap<bool, u64>,
    pub answers: BTreeMap<String, u64>,
}

impl Tally {
    pub fn add(&mut self, other: &Self) {
        self.sequences += other.sequences;
        self.steps += other.steps;
        self.full_syncs += other.full_syncs;
        self.partial_syncs += other.partial_syncs;
        self.cut_syncs += other.cut_syncs;
        self.cut_loads += other.cut_loads;
        self.slow_loads += other.slow_loads;
        other.waits.iter().for_each(|(kind, count)| *self.waits.entry(*kind).or_default() += count);
        other.answers.iter().for_each(|(kind, count)| *self.answers.entry(kind.clone()).or_default() += count);
    }

    fn note(&mut self, op: Op, step: &Step) {
        self.steps += u64::from(!step.answers.is_empty());
        self.cut_syncs += u64::from(step.met && matches!(op, Op::CutSync { load: false, .. }));
        self.cut_loads += u64::from(step.met && matches!(op, Op::CutSync { load: true, .. }));
        self.slow_loads += u64::from(step.met && matches!(op, Op::Load(..)));
        for answer in &step.answers {
            match answer {
                Answer::Waited(done) => *self.waits.entry(*done).or_default() += 1,
                other => *self.answers.entry(format!("{other:?}")).or_default() += 1,
            }
        }
    }

    /// Everything that can be compared was.
    ///
    /// # Panics
    /// When something was not.
    pub fn floor(&self) {
        use Refusal::{Gone, Held, Loading, NoReplicas, ReadOnly, Silent};
        for refusal in [Gone, Silent, ReadOnly, NoReplicas, Loading, Held] {
            let kind = format!("{:?}", Answer::Refused(refusal));
            assert!(self.answers.contains_key(&kind), "no command was answered so: {kind}");
        }
        let rare = [self.full_syncs, self.partial_syncs, self.cut_syncs, self.cut_loads, self.slow_loads];
        assert!(rare.iter().all(|count| *count > 0) && self.waits.len() == 2, "something never came about: {self:?}");
    }
}

/// One sequence.
pub fn run(seed: u64, print: bool) -> Run {
    run_with(&mut Model::new(seed, plan(seed).keep), seed, print)
}

/// One sequence on that model.
pub fn run_with(model: &mut Model, seed: u64, print: bool) -> Run {
    let mut run = Run::default();
    run.tally.sequences = 1;
    let mut story = String::new();
    if let Err(why) = compare(model, seed, print, &mut run.tally, &mut story) {
        run.mismatch = Some(format!(
            "seed {seed}: {why}\n{story}replay: MAINSTAY_SIM_REAL_SEED={seed} cargo nextest run \
             --manifest-path tests/sim/Cargo.toml --target-dir target/simulator --no-capture redis_is_as_the_model_has_it"
        ));
    }
    run
}

fn compare(model: &mut Model, seed: u64, print: bool, tally: &mut Tally, story: &mut String) -> Result<(), String> {
    let plan = plan(seed);
    let mut real = Real::start(plan.keep).map_err(|error| error.to_string())?;
    for (number, op) in plan.ops.iter().enumerate() {
        let before = model.looks();
        let expected = model.step(*op);
        let _ =
            writeln!(story, "{number:>2} {op:?}: {:?}{}", expected.answers, if expected.met { ", met" } else { "" });
        if print {
            println!("{number:>2} {op:?}: {:?}", expected.answers);
        }
        if expected.answers.is_empty() {
            continue;
        }
        tally.note(*op, &expected);
        let given = real.step(*op, &expected).map_err(|error| format!("step {number} {op:?}: {error}"))?;
        let looks = model.looks();
        tally_syncs(tally, &before, &looks);
        let same = real.quiet(&looks).map_err(|error| format!("step {number} {op:?}: {error}"))?;
        if print {
            println!("{}", table(&same.model, &same.real));
        }
        if given != expected.answers || same.differ {
            return Err(format!(
                "step {number} {op:?}: the real one answers {given:?}\n{}{}",
                table(&same.model, &same.real),
                real.more(print)
            ));
        }
    }
    std::thread::sleep(LATE);
    let same = real.quiet(&model.looks()).map_err(|error| error.to_string())?;
    if same.differ {
        return Err(format!("a moment after the last step\n{}{}", table(&same.model, &same.real), real.more(print)));
    }
    Ok(())
}

fn tally_syncs(tally: &mut Tally, before: &[Look], after: &[Look]) {
    for (before, after) in before.iter().zip(after) {
        if let (Look::Up(before), Look::Up(after)) = (before, after) {
            tally.full_syncs += after.served.0.saturating_sub(before.served.0);
            tally.partial_syncs += after.served.1.saturating_sub(before.served.1);
        }
    }
}

/// Both tables with ids by their names.
struct Same {
    model: Vec<Look>,
    real: Vec<Look>,
    differ: bool,
}

/// The real side of a sequence.
struct Real {
    servers: Vec<Server>,
    kin: (Kin, Kin),
    /// A connection whose command waits in a stopped instance.
    waiting: Option<(Client, usize)>,
}

impl Real {
    fn start(keep: [Keep; INSTANCES]) -> io::Result<Self> {
        // A loopback address of its own for every sequence of every process: any port is free there.
        let [.., high, low] = std::process::id().to_be_bytes();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let last = u8::try_from(NEXT.fetch_add(1, Ordering::Relaxed) % 250).unwrap_or(0) + 1;
        let ip = Ipv4Addr::new(127, 64 + high % 128, low, last);
        let servers = (0u16..).zip(keep).map(|(number, keep)| Server::start(ip, number, keep == Keep::Aof));
        Ok(Self { servers: servers.collect::<io::Result<_>>()?, kin: Default::default(), waiting: None })
    }

    /// What the tables do not show: offsets in bytes, and with `logs` what the instances wrote.
    fn more(&mut self, logs: bool) -> String {
        let mut text = String::new();
        for (at, server) in self.servers.iter_mut().enumerate().filter(|(_, server)| server.runs() && !server.stopped) {
            let offset =
                server.info().ok().and_then(|info| info.get("master_repl_offset").cloned()).unwrap_or_default();
            let _ = writeln!(text, "  r{at}: {offset} bytes\n{}", if logs { server.log(40) } else { String::new() });
        }
        text
    }

    fn step(&mut self, op: Op, expected: &Step) -> io::Result<Vec<Answer>> {
        match op {
            Op::Write { at, count, .. } => return self.write(at, count, expected),
            Op::Order(at, order) => return Ok(vec![self.order(at, order)?]),
            Op::Save(at) => drop(self.done(at, &["SAVE"])?),
            Op::Kill(at) => self.kill(at),
            Op::Shutdown(at) => self.servers[at].shut_down()?,
            Op::Restart { at, empty } => {
                if empty {
                    self.servers[at].wipe()?;
                }
                self.servers[at].launch(&[])?;
                if !empty {
                    std::thread::sleep(FIRST_ROUND);
                }
            }
            Op::Load(at, order) => return self.load(at, order, expected),
            Op::Hang(at) => self.servers[at].signal("-STOP")?,
            Op::Resume(at) => {
                self.servers[at].signal("-CONT")?;
                if let Some((mut client, replies)) = self.waiting.take() {
                    client.patience(QUIET)?;
                    for _ in 0..replies {
                        client.read()?;
                    }
                }
            }
            Op::CutLinks(at) => drop(self.servers[at].ask(&["CLIENT", "KILL", "TYPE", "replica"])?),
            Op::Pause(at) => self.done(at, &["CLIENT", "PAUSE", "1000000", "WRITE"])?,
            Op::Unpause(at) => self.done(at, &["CLIENT", "UNPAUSE"])?,
            Op::CutSync { at, to, load, cut } => return self.cut_sync(at, to, (load, cut), expected),
        }
        Ok(vec![Answer::Done])
    }

    fn kill(&mut self, at: usize) {
        if self.servers[at].stopped {
            self.waiting = None;
        }
        self.servers[at].kill();
    }

    fn done(&mut self, at: usize, command: &[&str]) -> io::Result<()> {
        match self.servers[at].ask(command)? {
            Reply::Error(error) => Err(io::Error::other(format!("{command:?}: {error}"))),
            _ => Ok(()),
        }
    }

    /// How a write would be answered, by one that changes nothing.
    fn probe(&mut self, at: usize) -> io::Result<Answer> {
        if !self.servers[at].runs() {
            return refused(self.servers[at].ask(&["PING"]));
        }
        let mut client = Client::connect(self.servers[at].address)?;
        client.send(&[vec!["DEL", "none"]])?;
        client.patience(HELD)?;
        match client.read() {
            Ok(reply) => Ok(class(&reply)),
            Err(_) if self.servers[at].stopped => Ok(Answer::Refused(Refusal::Silent)),
            // A second look: paused, or merely slow.
            Err(_) => {
                self.servers[at].ask(&["PING"])?;
                Ok(client.read().map_or(Answer::Refused(Refusal::Held), |reply| class(&reply)))
            }
        }
    }

    fn write(&mut self, at: usize, count: usize, expected: &Step) -> io::Result<Vec<Answer>> {
        let end = Instant::now() + COUNTED;
        let few = Answer::Refused(Refusal::NoReplicas);
        let wanted = expected.answers.first();
        let mut found = self.probe(at)?;
        while wanted != Some(&found) && (found == few || wanted == Some(&few)) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(50));
            found = self.probe(at)?;
        }
        if found != Answer::Done || wanted != Some(&found) {
            return Ok(vec![found]);
        }
        let value = "x".repeat(VALUE);
        let keys: Vec<String> = (expected.first..).take(count).map(|id| format!("w{id:07}")).collect();
        let mut commands: Vec<Vec<&str>> = keys.iter().map(|key| vec!["SET", key.as_str(), value.as_str()]).collect();
        let waited = expected.answers.get(1);
        // Long where it is to come true, short where it is not.
        let patience = if waited == Some(&Answer::Waited(true)) { "8000" } else { "300" };
        if waited.is_some() {
            commands.push(vec!["WAIT", "1", patience]);
        }
        let replies = self.servers[at].call(&commands)?;
        let mut answers: Vec<Answer> = replies.iter().take(count).map(class).collect();
        answers.dedup();
        answers.extend(replies.get(count).map(|reply| Answer::Waited(*reply != Reply::Number(0))));
        Ok(answers)
    }

    fn order(&mut self, at: usize, order: Order) -> io::Result<Answer> {
        let (ip, to, min);
        let read_only = vec!["CONFIG", "SET", "replica-read-only", "yes"];
        let nowhere = vec!["REPLICAOF", "127.0.0.1", "1"];
        // The command that counts comes last but for the fence's.
        let (commands, counts) = match order {
            Order::Seal => (vec![read_only, nowhere], 1),
            Order::Fence => {
                let kill = |kind| vec!["CLIENT", "KILL", "TYPE", kind];
                let unpause = vec!["CLIENT", "UNPAUSE"];
                (vec![read_only, nowhere, unpause, kill("normal"), kill("pubsub"), kill("replica")], 1)
            }
            Order::Follow(target) => {
                ip = self.servers[target].address.ip().to_string();
                to = self.servers[target].address.port().to_string();
                (vec![vec!["REPLICAOF", &ip, &to]], 0)
            }
            Order::Serve(replicas) => {
                min = replicas.to_string();
                (vec![vec!["CONFIG", "SET", "min-replicas-to-write", &min], vec!["REPLICAOF", "NO", "ONE"]], 1)
            }
            Order::Tune(replicas) => {
                min = replicas.to_string();
                (vec![vec!["CONFIG", "SET", "min-replicas-to-write", &min]], 0)
            }
        };
        if !self.servers[at].runs() {
            return refused(self.servers[at].call(&commands));
        }
        let mut client = Client::connect(self.servers[at].address)?;
        client.send(&commands)?;
        if self.servers[at].stopped {
            client.patience(HELD)?;
            let answer = client.read().map_or(Answer::Refused(Refusal::Silent), |reply| class(&reply));
            self.waiting = Some((client, commands.len()));
            return Ok(answer);
        }
        let replies: Vec<Reply> = commands.iter().map(|_| client.read()).collect::<io::Result<_>>()?;
        Ok(class(&replies[counts]))
    }

    fn load(&mut self, at: usize, order: Order, expected: &Step) -> io::Result<Vec<Answer>> {
        if !expected.met {
            self.servers[at].launch(&[])?;
            std::thread::sleep(FIRST_ROUND);
            return Ok(vec![Answer::Done]);
        }
        self.servers[at].launch(&["--key-load-delay", "300000"])?;
        if self.servers[at].info()?.get("loading").map(String::as_str) != Some("1") {
            return Err(io::Error::other("it does not load slowly"));
        }
        let answers = vec![self.order(at, order)?, self.probe(at)?];
        self.done(at, &["CONFIG", "SET", "key-load-delay", "0"])?;
        std::thread::sleep(FIRST_ROUND);
        Ok(answers)
    }

    fn cut_sync(&mut self, at: usize, to: usize, (load, cut): (bool, Cut), expected: &Step) -> io::Result<Vec<Answer>> {
        if !expected.met {
            return Ok(vec![self.order(at, Order::Follow(to))?]);
        }
        let keys = match self.servers[to].ask(&["DBSIZE"])? {
            Reply::Number(keys) => keys.max(1),
            _ => 1,
        };
        // Three seconds, on any machine long enough for what follows.
        let (slow, setting, sign) = match load {
            true => (at, "key-load-delay", "loading"),
            false => (to, "rdb-key-save-delay", "master_sync_in_progress"),
        };
        let delay = (3_000_000 / keys).to_string();
        self.done(slow, &["CONFIG", "SET", setting, &delay])?;
        let mut answers = vec![self.order(at, Order::Follow(to))?];
        let end = Instant::now() + QUIET;
        while self.servers[at].info()?.get(sign).map(String::as_str) != Some("1") {
            if Instant::now() > end {
                return Err(io::Error::other("no full resynchronisation begins"));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        if !load {
            self.done(slow, &["CONFIG", "SET", setting, "0"])?;
        }
        answers.push(match cut {
            Cut::Replica(order) => self.order(at, order)?,
            Cut::Primary(order) => self.order(to, order)?,
            Cut::KillReplica | Cut::KillPrimary => {
                self.kill(if cut == Cut::KillReplica { at } else { to });
                Answer::Done
            }
            Cut::Link => {
                self.servers[to].ask(&["CLIENT", "KILL", "TYPE", "replica"])?;
                Answer::Done
            }
        });
        if load && self.servers[at].runs() {
            self.done(slow, &["CONFIG", "SET", setting, "0"])?;
        }
        Ok(answers)
    }

    /// Waits until all is as the model has it, or does not become so.
    fn quiet(&mut self, model: &[Look]) -> io::Result<Same> {
        let end = Instant::now() + QUIET;
        let mut before = false;
        loop {
            let looks: Vec<Look> = (0..INSTANCES).map(|at| self.look(at)).collect::<io::Result<_>>()?;
            let mut kin = self.kin.clone();
            let (model, real) = (kin.0.named(model), kin.1.named(&looks));
            let same = model == real;
            if (same && before) || Instant::now() > end {
                self.kin = kin;
                return Ok(Same { model, real, differ: !same });
            }
            before = same;
            std::thread::sleep(Duration::from_millis(if same { 25 } else { 10 }));
        }
    }

    fn look(&mut self, at: usize) -> io::Result<Look> {
        let server = &mut self.servers[at];
        if server.stopped {
            return Ok(Look::Silent);
        }
        if !server.runs() {
            return match Client::connect(server.address) {
                Err(_) => Ok(Look::Gone),
                Ok(_) => Err(io::Error::other(format!("somebody listens in place of the dead r{at}"))),
            };
        }
        let info = server.info()?;
        let text = |name: &str| info.get(name).cloned().unwrap_or_default();
        let number = |name: &str| text(name).parse::<i64>().unwrap_or(-1);
        if number("loading") != 0 {
            return Ok(Look::Loading);
        }
        let offset = |bytes: i64| units(u64::try_from(bytes).unwrap_or(0));
        let replica = text("role") == "slave";
        let total = number("master_repl_offset");
        let processed = if replica { total.min(number("slave_repl_offset")) } else { total };
        let base = i64::from(server.address.port() - u16::try_from(at).unwrap_or(0));
        let place = |port: &str| port.parse::<i64>().ok().and_then(|port| usize::try_from(port - base).ok());
        let upstream = replica.then(|| match place(&text("master_port")).filter(|place| *place < INSTANCES) {
            Some(place) => Upstream::Host(place),
            None => Upstream::Nowhere,
        });
        let mut attached: Vec<usize> = Vec::new();
        for at in 0..number("connected_slaves") {
            let row = text(&format!("slave{at}"));
            let port = row.split(',').find_map(|part| part.strip_prefix("port="));
            attached.extend(port.and_then(place).filter(|_| row.contains("state=online")));
        }
        attached.sort_unstable();
        // A rewrite under way would make a kill's outcome a matter of chance.
        let busy =
            number("aof_rewrite_in_progress") + number("aof_rewrite_scheduled") + number("rdb_bgsave_in_progress") > 0;
        let second = number("second_repl_offset");
        let state = State {
            upstream,
            link_up: text("master_link_status") == "up",
            id: text("master_replid"),
            second: (second >= 0).then(|| (text("master_replid2"), offset(second - 1))),
            offset: offset(processed),
            backlog: number("repl_backlog_active") == 1,
            attached: if busy { vec![usize::MAX] } else { attached },
            served: (
                u64::try_from(number("sync_full")).unwrap_or(0),
                u64::try_from(number("sync_partial_ok")).unwrap_or(0),
            ),
            data: data(server)?,
        };
        Ok(Look::Up(Box::new(state)))
    }
}

fn data(server: &mut Server) -> io::Result<Vec<u64>> {
    let Reply::List(keys) = server.ask(&["KEYS", "*"])? else { return Ok(Vec::new()) };
    let id = |key: &Reply| match key {
        Reply::Text(key) => key.strip_prefix('w').and_then(|id| id.parse().ok()),
        _ => None,
    };
    let mut ids: Vec<u64> = keys.iter().map(|key| id(key).unwrap_or(u64::MAX)).collect();
    ids.sort_unstable();
    Ok(ids)
}

/// What an instance that does not run answers.
fn refused<T: std::fmt::Debug>(answer: io::Result<T>) -> io::Result<Answer> {
    match answer {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(Answer::Refused(Refusal::Gone)),
        other => Ok(Answer::Other(format!("{other:?}"))),
    }
}

fn class(reply: &Reply) -> Answer {
    let Reply::Error(text) = reply else { return Answer::Done };
    match text.split(' ').next().unwrap_or_default() {
        "READONLY" => Answer::Refused(Refusal::ReadOnly),
        "NOREPLICAS" => Answer::Refused(Refusal::NoReplicas),
        "LOADING" => Answer::Refused(Refusal::Loading),
        _ => Answer::Other(text.clone()),
    }
}
