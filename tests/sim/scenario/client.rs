//! A story's client: it writes every ten milliseconds, through the VIP as the network leads it there, and keeps account
//! of what was acknowledged to it.

use crate::redis::Waiting;
use crate::world::{MS, Ns, World, place};
use std::collections::BTreeSet;

/// Between two writes.
const EVERY: Ns = 10 * MS;
/// Without an acknowledgement for so long, its writes fail.
const PATIENCE: Ns = 100 * MS;

/// One client.
#[derive(Debug)]
pub struct Client {
    pub group: usize,
    /// The host on whose side of the network it is.
    beside: Option<usize>,
    /// Replicas that it waits for.
    wait: usize,
    pub tries: u64,
    /// Every write that was acknowledged.
    pub acknowledged: Vec<u64>,
    pending: BTreeSet<u64>,
    last: Ns,
    /// The longest time without an acknowledgement, and when it began.
    pub longest: (Ns, Ns),
    failing: bool,
    pub stopped: bool,
}

impl Client {
    pub fn new(group: usize, beside: Option<usize>, wait: usize, now: Ns) -> Self {
        let (acknowledged, pending) = (Vec::new(), BTreeSet::new());
        let longest = (0, now);
        Self {
            group,
            beside,
            wait,
            tries: 0,
            acknowledged,
            pending,
            last: now,
            longest,
            failing: false,
            stopped: false,
        }
    }

    /// The time is up: what is still open counts.
    pub fn stop(&mut self, now: Ns) {
        self.gap(now);
        self.stopped = true;
    }

    fn gap(&mut self, now: Ns) {
        let length = now.saturating_sub(self.last);
        if length > self.longest.0 {
            self.longest = (length, self.last);
        }
    }

    fn hear(&mut self, now: Ns) -> Option<String> {
        self.gap(now);
        let length = now.saturating_sub(self.last);
        self.last = now;
        std::mem::take(&mut self.failing).then(|| format!("writes go on, {:.2} s after the last", length as f64 / 1e9))
    }

    fn fail(&mut self, why: &str) -> Option<String> {
        (!std::mem::replace(&mut self.failing, true)).then(|| format!("writes fail: {why}"))
    }

    /// One millisecond: what there is to tell.
    pub fn step(&mut self, world: &mut World) -> Option<String> {
        let now = world.now;
        if self.stopped {
            return None;
        }
        let told = world.told.as_ref().map(|told| told.waited.as_slice()).unwrap_or_default();
        let fresh: Vec<u64> = told.iter().copied().filter(|write| self.pending.remove(write)).collect();
        let mut news = None;
        if !fresh.is_empty() {
            self.acknowledged.extend(fresh);
            news = self.hear(now);
        }
        if !(now / MS).is_multiple_of(EVERY / MS) {
            return news;
        }
        self.tries += 1;
        let said = match self.target(world) {
            Err(why) => self.fail(why),
            Ok(at) => self.write(world, at),
        };
        said.or(news)
    }

    fn write(&mut self, world: &mut World, at: usize) -> Option<String> {
        world.writes += 1;
        let (write, now) = (world.writes, world.now);
        let redis = &mut world.insts[at].redis;
        redis.write(write);
        if self.wait == 0 {
            self.acknowledged.push(write);
            return self.hear(now);
        }
        if redis.stream.is_some() {
            redis.waiting.push(Waiting { write, offset: redis.offset, need: self.wait });
            self.pending.insert(write);
        }
        if now - self.last > PATIENCE { self.fail("no replica acknowledges them") } else { None }
    }

    /// The instance that takes a write, or why none does.
    fn target(&self, world: &World) -> Result<usize, &'static str> {
        let now = world.now;
        let holds = |host: &usize| world.insts[place(*host, self.group)].vip_until > now;
        let holders: Vec<usize> = (0..world.hosts.len()).filter(holds).collect();
        let near: Vec<usize> = holders.iter().copied().filter(|host| self.reaches(world, *host)).collect();
        // Who announced the address last is whom the network sends it to.
        let last = world.vip_owner[self.group].filter(|host| near.contains(host));
        let Some(host) = last.or(near.first().copied()) else {
            return Err(if holders.is_empty() { "nobody has the VIP" } else { "the VIP does not answer" });
        };
        let at = place(host, self.group);
        let redis = &world.insts[at].redis;
        match redis {
            redis if redis.accepts(now) => Ok(at),
            redis if !redis.alive => Err("connection refused"),
            redis if !redis.answers(now) => Err("no answer"),
            redis if !redis.ready(now) => Err("LOADING"),
            redis if redis.upstream.is_some() => Err("READONLY"),
            redis if now < redis.paused_until => Err("writes are paused"),
            _ => Err("NOREPLICAS"),
        }
    }

    fn reaches(&self, world: &World, host: usize) -> bool {
        let alone = world.hosts.len() == 1;
        let near = |other: usize| other != host && world.net.both(other, host);
        world.hosts[host].up
            && match self.beside {
                Some(beside) => beside == host || near(beside),
                None => alone || (0..world.hosts.len()).any(near),
            }
    }
}
