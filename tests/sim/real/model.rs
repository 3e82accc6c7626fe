//! The model's side: each step of a sequence on the simulated instances, and time for it to come to rest.

use super::look::{Answer, Look, State};
use super::plan::{Cut, INSTANCES, Keep, Op, Order};
use crate::redis::{Command, Link, Redis, Refusal, Saved, Upstream, Waiting};
use crate::world::{MS, Ns, Shape, World};
use mainstay::cluster::Durability;

/// What a real backlog holds lies between the few writes and the burst (see `plan.rs`), in the middle this.
const BACKLOG: usize = 40;
/// Fewer keys load too fast for anything to be done meanwhile.
const SLOW_KEYS: usize = 8;
/// Longer than any sequence.
const FOREVER: Ns = Ns::MAX / 2;

/// The model's side of a sequence.
pub struct Model {
    pub world: World,
    keep: [Keep; INSTANCES],
}

/// What a step came to.
#[derive(Debug, Clone, Default)]
pub struct Step {
    /// Empty: not possible in the state that the instances are in; nothing is done on either side.
    pub answers: Vec<Answer>,
    /// The first write's number.
    pub first: u64,
    /// The step's special condition came: it loaded slowly, or a full resynchronisation was met half way.
    pub met: bool,
}

impl Step {
    fn done() -> Self {
        Self { answers: vec![Answer::Done], ..Self::default() }
    }

    fn of(answer: Answer) -> Self {
        Self { answers: vec![answer], ..Self::default() }
    }
}

impl Model {
    pub fn new(seed: u64, keep: [Keep; INSTANCES]) -> Self {
        let members = vec![(0..INSTANCES).collect()];
        let shape = Shape {
            nodes: INSTANCES,
            first: INSTANCES,
            members,
            durability: Durability::Available,
            drift: 0,
            start: crate::starts::Start::Empty,
        };
        let mut world = World::new(seed, &shape, None, false);
        world.instances_only();
        for inst in &mut world.insts {
            inst.redis.backlog = BACKLOG;
        }
        Self { world, keep }
    }

    fn redis(&mut self, at: usize) -> &mut Redis {
        &mut self.world.insts[at].redis
    }

    fn ready(&self, at: usize) -> bool {
        self.world.insts[at].redis.ready(self.world.now)
    }

    fn answers(&self, at: usize) -> bool {
        self.world.insts[at].redis.answers(self.world.now)
    }

    fn pass(&mut self, time: Ns) {
        self.world.run_until(self.world.now + time);
    }

    /// One step, up to the quiet after it.
    pub fn step(&mut self, op: Op) -> Step {
        let step = self.act(op);
        self.pass(4000 * MS);
        step
    }

    fn act(&mut self, op: Op) -> Step {
        match op {
            Op::Write { at, count, wait } => self.write(at, count, wait),
            Op::Order(at, order) => self.order(at, order).map_or_else(Step::default, Step::of),
            Op::Save(at) if self.ready(at) => {
                self.redis(at).save();
                Step::done()
            }
            Op::Kill(at) if self.redis(at).alive => {
                self.redis(at).die();
                Step::done()
            }
            Op::Shutdown(at) if self.ready(at) => {
                self.redis(at).save();
                self.redis(at).die();
                Step::done()
            }
            Op::Restart { at, empty } if !self.redis(at).alive => {
                let file = self.file(at).filter(|_| !empty);
                self.start(at, file, 0);
                Step::done()
            }
            Op::Load(at, order) if !self.redis(at).alive => self.load(at, order),
            Op::Hang(at) if self.ready(at) && self.world.insts.iter().all(|inst| inst.redis.hung_until == 0) => {
                self.redis(at).hung_until = FOREVER;
                Step::done()
            }
            Op::Resume(at) if self.redis(at).alive && !self.answers(at) => {
                self.resume(at);
                Step::done()
            }
            Op::CutLinks(at) if self.answers(at) => {
                self.redis(at).replicas.clear();
                Step::done()
            }
            Op::Pause(at) if self.ready(at) && self.redis(at).upstream.is_none() => {
                self.world.command(at, 0, Command::Pause(FOREVER));
                Step::done()
            }
            Op::Unpause(at) if self.answers(at) => {
                self.world.command(at, 0, Command::Unpause);
                Step::done()
            }
            Op::CutSync { at, to, load, cut } if self.ready(at) && self.ready(to) => self.cut_sync(at, to, load, cut),
            _ => Step::default(),
        }
    }

    fn write(&mut self, at: usize, count: usize, wait: bool) -> Step {
        let now = self.world.now;
        if let Some(refusal) = self.redis(at).refuses(now) {
            return Step::of(Answer::Refused(refusal));
        }
        let first = self.world.writes + 1;
        for _ in 0..count {
            self.world.writes += 1;
            let id = self.world.writes;
            self.redis(at).write(id);
        }
        let mut answers = vec![Answer::Done];
        if wait {
            let (write, redis) = (self.world.writes, self.redis(at));
            redis.waiting = vec![Waiting { write, offset: redis.offset, need: 1 }];
            // GETACK is a part of the stream, as a ping is.
            redis.write(0);
            self.pass(4000 * MS);
            answers.push(Answer::Waited(self.redis(at).waiting.is_empty()));
            self.redis(at).waiting.clear();
        }
        Step { answers, first, met: false }
    }

    /// What its primary sent comes first: a command's connection has yet to be accepted. (In the simulation it may be the
    /// other way round, as with a connection that was there before.)
    fn resume(&mut self, at: usize) {
        let queue = std::mem::take(&mut self.redis(at).queue);
        self.redis(at).hung_until = 0;
        self.pass(500 * MS);
        self.redis(at).queue = queue;
        let run = self.redis(at).run;
        self.world.unhang(at, run);
    }

    /// Whether `at` would come to replicate from itself, which no agent ever asks for: who continues from whom is then a
    /// race.
    fn circle(&self, at: usize, to: usize) -> bool {
        let mut next = Some(to);
        for _ in 0..INSTANCES {
            let Some(place) = next.filter(|place| *place != at) else { break };
            let redis = &self.world.insts[place].redis;
            let queued = redis.queue.iter().find_map(|(_, command)| match command {
                Command::ReplicaOf(to) => Some(*to),
                _ => None,
            });
            let now = match redis.upstream {
                Some(Upstream::Host(to)) => Some(to),
                _ => None,
            };
            next = queued.or(now);
        }
        next == Some(at)
    }

    /// None: it would make a circle, or another waits in its socket already, and which comes first could not be told.
    fn order(&mut self, at: usize, order: Order) -> Option<Answer> {
        let (now, redis) = (self.world.now, &self.world.insts[at].redis);
        if matches!(order, Order::Follow(to) if self.circle(at, to)) {
            return None;
        }
        if !redis.alive {
            return Some(Answer::Refused(Refusal::Gone));
        }
        if !redis.answers(now) && !redis.queue.is_empty() {
            return None;
        }
        let answer = match order {
            _ if !redis.answers(now) => Answer::Refused(Refusal::Silent),
            Order::Tune(_) => Answer::Done,
            _ if !redis.ready(now) => Answer::Refused(Refusal::Loading),
            _ => Answer::Done,
        };
        let run_id = redis.run_id();
        self.world.books[0].promoted.insert((at, run_id));
        let command = match order {
            Order::Seal => Command::Nowhere { close: false },
            Order::Fence => Command::Nowhere { close: true },
            Order::Follow(to) => Command::ReplicaOf(to),
            Order::Serve(min) => Command::NoOne(min),
            Order::Tune(min) => Command::Tune(min),
        };
        self.world.command(at, 0, command);
        Some(answer)
    }

    fn file(&mut self, at: usize) -> Option<Saved> {
        match self.keep[at] {
            Keep::Rdb => self.redis(at).saved,
            Keep::Aof => Some(Saved { kept: self.redis(at).data.len(), history: None }),
        }
    }

    fn start(&mut self, at: usize, file: Option<Saved>, loading_until: Ns) {
        self.world.runs += 1;
        let (run, fresh) = (self.world.runs, self.world.rng.draw());
        let file = file.unwrap_or(Saved { kept: 0, history: None });
        self.redis(at).load(run, fresh, file, loading_until);
    }

    fn load(&mut self, at: usize, order: Order) -> Step {
        let file = self.file(at);
        let circle = matches!(order, Order::Follow(to) if self.circle(at, to));
        let slow = !circle && self.keep[at] == Keep::Rdb && file.is_some_and(|file| file.kept >= SLOW_KEYS);
        if !slow {
            self.start(at, file, 0);
            return Step::done();
        }
        self.start(at, file, FOREVER);
        self.pass(1000 * MS);
        let mut answers: Vec<Answer> = self.order(at, order).into_iter().collect();
        answers.extend(self.redis(at).refuses(0).map(Answer::Refused));
        self.pass(1000 * MS);
        self.redis(at).loading_until = 0;
        Step { answers, first: 0, met: true }
    }

    fn cut_sync(&mut self, at: usize, to: usize, load: bool, cut: Cut) -> Step {
        let Some(followed) = self.order(at, Order::Follow(to)) else { return Step::default() };
        let least = if load { SLOW_KEYS } else { 1 };
        // An AOF still holds what was there before the load.
        let old = load && cut == Cut::KillReplica && self.keep[at] == Keep::Aof;
        let nothing = old || self.redis(to).data.len() < least || self.redis(at).link != Link::Down;
        for _ in 0..2500 {
            if nothing || self.redis(at).link != Link::Down {
                break;
            }
            self.pass(MS);
        }
        let mut step = Step::of(followed);
        if nothing || !matches!(self.redis(at).link, Link::Syncing(_)) {
            return step;
        }
        self.redis(at).link = Link::Syncing(if load { 0 } else { FOREVER });
        if load {
            while matches!(self.redis(at).link, Link::Syncing(_)) {
                self.pass(MS);
            }
            self.hold_load(at, FOREVER);
        }
        let answer = match cut {
            Cut::Replica(order) => self.order(at, order),
            Cut::Primary(order) => self.order(to, order),
            Cut::KillReplica => Some(self.kill(at)),
            Cut::KillPrimary => Some(self.kill(to)),
            Cut::Link => {
                self.redis(to).replicas.clear();
                Some(Answer::Done)
            }
        };
        step.met = answer.is_some();
        step.answers.extend(answer);
        self.pass(300 * MS);
        if self.redis(at).link == Link::Syncing(FOREVER) {
            self.redis(at).link = Link::Syncing(0);
        }
        self.hold_load(at, 0);
        step
    }

    fn hold_load(&mut self, at: usize, time: Ns) {
        if let Link::Loading { until, .. } = &mut self.redis(at).link {
            *until = time;
        }
    }

    fn kill(&mut self, at: usize) -> Answer {
        self.redis(at).die();
        Answer::Done
    }

    /// All instances now.
    pub fn looks(&self) -> Vec<Look> {
        (0..INSTANCES).map(|at| self.look(at)).collect()
    }

    fn look(&self, at: usize) -> Look {
        let redis = &self.world.insts[at].redis;
        if !redis.alive {
            return Look::Gone;
        }
        if !redis.answers(self.world.now) {
            return Look::Silent;
        }
        if !redis.ready(self.world.now) {
            return Look::Loading;
        }
        let mut data = redis.data.clone();
        data.sort_unstable();
        Look::Up(Box::new(State {
            upstream: redis.upstream,
            link_up: redis.link == Link::Up,
            id: redis.replid.to_string(),
            second: (redis.replid2 != 0).then(|| (redis.replid2.to_string(), Ok(redis.second_offset))),
            offset: Ok(redis.offset),
            backlog: redis.stream.is_some(),
            attached: redis.replicas.iter().filter(|(_, a)| a.online).map(|(at, _)| *at).collect(),
            served: redis.served,
            data,
        }))
    }
}
