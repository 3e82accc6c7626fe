//! What passes between instances: attaching (partial or full), streaming, acknowledging, and clients that wait.

use crate::events::Ev;
use crate::redis::{Attached, Link, Upstream, Waiting};
use crate::trace::label;
use crate::world::{MS, World, host_at};

impl World {
    /// One round of one instance: as a replica it attaches or takes what is new, as a primary it drops dead
    /// connections and finds out who waits no longer.
    pub fn pump(&mut self, place: usize) {
        let pause = self.rng.between(3, 18) * MS;
        self.at(pause, Ev::Pump(place));
        if !self.insts[place].redis.answers(self.now) {
            return;
        }
        self.drop_dead(place);
        if let Some(Upstream::Host(primary)) = self.insts[place].redis.upstream
            && primary != place
            && primary < self.insts.len()
        {
            self.pump_replica(place, primary);
        }
    }

    fn drop_dead(&mut self, place: usize) {
        let dead: Vec<usize> = self.insts[place]
            .redis
            .replicas
            .iter()
            .filter(|(replica, attached)| {
                let other = &self.insts[**replica];
                let up = self.hosts[host_at(**replica)].up;
                let linked = other.redis.alive
                    && other.redis.upstream == Some(Upstream::Host(place))
                    && other.redis.connection == attached.connection
                    && other.redis.link != Link::Down;
                !linked && up && self.net.both(place, **replica)
            })
            .map(|(replica, _)| *replica)
            .collect();
        for replica in dead {
            self.insts[place].redis.replicas.remove(&replica);
        }
    }

    fn pump_replica(&mut self, place: usize, primary: usize) {
        let now = self.now;
        let reach = self.net.both(place, primary) && self.insts[primary].redis.answers(now);
        let (link, connection) = (self.insts[place].redis.link, self.insts[place].redis.connection);
        let known = self.insts[primary].redis.replicas.get(&place).is_some_and(|a| a.connection == connection);
        match link {
            Link::Down if reach && self.insts[place].redis.ready(now) => self.attach(place, primary),
            Link::Down => {}
            Link::Syncing(_) if !self.net.both(place, primary) || !self.insts[primary].redis.alive || !known => {
                // Cut midway: with a diskless load the old data is gone already, and INFO shows the old offset.
                tr!(self, "redis {}: full resynchronisation cut midway", label(place));
                if self.diskless {
                    self.insts[place].redis.empty();
                }
                self.insts[place].redis.link = Link::Down;
            }
            Link::Syncing(until) if now >= until && reach => self.begin_load(place, primary),
            Link::Syncing(_) => {}
            Link::Loading { until, replid, offset } if now >= until => {
                self.finish_sync(place, (replid, offset), Some(primary).filter(|_| known && reach));
            }
            Link::Loading { .. } => {}
            Link::Up if !known && (reach || !self.insts[primary].redis.alive) => {
                self.insts[place].redis.link = Link::Down;
            }
            Link::Up if reach && known => self.stream(place, primary),
            Link::Up => {}
        }
    }

    fn attach(&mut self, place: usize, primary: usize) {
        let now = self.now;
        let upstream = &self.insts[primary].redis;
        if !upstream.ready(now) || (upstream.upstream.is_some() && upstream.link != Link::Up) {
            return;
        }
        if self.insts[primary].redis.stream.is_none() {
            // The first replica of an instance without a backlog: a new replication id, and no second one.
            let fresh = self.rng.draw();
            let upstream = &mut self.insts[primary].redis;
            (upstream.replid, upstream.replid2, upstream.second_offset) = (fresh, 0, 0);
            upstream.begin_history();
        }
        self.insts[primary].redis.trim();
        let first = std::mem::take(&mut self.insts[place].told_to_follow);
        self.connections += 1;
        let connection = self.connections;
        let (replid, offset) = (self.insts[place].redis.replid, self.insts[place].redis.offset);
        let partial = self.insts[place].redis.resumable && self.insts[primary].redis.continues(replid, offset);
        let needs = if partial { offset } else { self.insts[primary].redis.offset };
        let attached =
            Attached { connection, needs, online: partial, acked: if partial { offset } else { 0 }, acked_at: now };
        self.insts[primary].redis.replicas.insert(place, attached);
        self.insts[place].redis.connection = connection;
        if partial {
            let fresh = self.insts[primary].redis.replid;
            let own = &mut self.insts[place].redis;
            if own.replid != fresh {
                own.former.push((own.replid, own.offset));
                (own.replid2, own.second_offset, own.replid) = (own.replid, own.offset, fresh);
                own.replicas.clear();
            }
            if own.stream.is_none() {
                own.new_stream();
            }
            own.link = Link::Up;
            self.insts[primary].redis.served.1 += 1;
            tr!(self, "redis {}: +CONTINUE from {} at offset {offset}", label(place), label(primary));
        } else {
            let until = now + self.rng.between(1, 600) * MS;
            self.insts[place].redis.link = Link::Syncing(until);
            if self.diskless {
                self.check_replaced(place, primary);
                self.insts[place].redis.replicas.clear();
                self.insts[place].redis.empty();
            }
            self.insts[primary].redis.served.0 += 1;
            self.covered.full_syncs += 1;
            self.check_full_sync(place, primary);
            self.check_turn(place, primary, first);
            tr!(self, "redis {}: full resynchronisation from {}", label(place), label(primary));
        }
    }

    /// All has come. A diskless load is over at the same moment.
    fn begin_load(&mut self, place: usize, primary: usize) {
        self.check_replaced(place, primary);
        self.check_foreign(place, primary);
        let time = if self.diskless { 0 } else { self.rng.below(300) * MS };
        let (from, until) = (self.insts[primary].redis.clone(), self.now + time);
        if let Some(attached) = self.insts[primary].redis.replicas.get_mut(&place) {
            attached.needs = from.offset;
        }
        self.insts[place].redis.begin_load(&from, until);
        tr!(self, "redis {}: loads what came, of offset {}", label(place), from.offset);
    }

    /// It has the data; the connection they came on may be gone.
    fn finish_sync(&mut self, place: usize, history: (u64, u64), primary: Option<usize>) {
        let own = &mut self.insts[place].redis;
        (own.replid, own.offset) = history;
        (own.replid2, own.second_offset) = (0, 0);
        own.begin_history();
        own.loading_until = 0;
        own.link = if primary.is_some() { Link::Up } else { Link::Down };
        own.resumable = true;
        let (connection, offset) = (own.connection, own.offset);
        tr!(self, "redis {}: full resynchronisation done at offset {offset}", label(place));
        let Some(primary) = primary else { return };
        if let Some(attached) = self.insts[primary].redis.replicas.get_mut(&place) {
            attached.online = true;
            attached.acked_at = self.now;
        }
        self.acknowledge(place, primary, connection, offset);
    }

    /// It reads what came over its link before anything else.
    pub fn drain(&mut self, place: usize) {
        let redis = &self.insts[place].redis;
        let (Link::Up, Some(Upstream::Host(primary))) = (redis.link, redis.upstream) else { return };
        let attached = self.insts.get(primary).and_then(|inst| inst.redis.replicas.get(&place));
        if attached.is_some_and(|attached| attached.connection == redis.connection) && self.net.both(place, primary) {
            self.stream(place, primary);
        }
    }

    fn stream(&mut self, place: usize, primary: usize) {
        let from = &self.insts[primary].redis;
        let (Some(stream), offset) = (&from.stream, self.insts[place].redis.offset) else { return };
        let missing =
            stream.get(usize::try_from(offset - from.stream_base).unwrap_or(usize::MAX)..).unwrap_or_default();
        let most = if !self.insts[place].redis.narrow { missing.len() } else { usize::from(self.rng.permille(200)) };
        let fresh: Vec<u64> = missing.iter().take(most).copied().collect();
        let own = &mut self.insts[place].redis;
        for id in fresh {
            own.write(id);
        }
        let (connection, offset) = (own.connection, own.offset);
        self.acknowledge(place, primary, connection, offset);
    }

    fn acknowledge(&mut self, place: usize, primary: usize, connection: u64, offset: u64) {
        if self.net.open(place, primary) {
            let delay = MS / 10 + self.rng.below(self.net.jitter);
            let run = self.insts[primary].redis.run;
            self.at(delay, Ev::Acked { primary, run, replica: place, connection, offset });
        }
    }

    /// A replica's acknowledgement arrives.
    pub fn acked(&mut self, primary: usize, run: u64, replica: usize, connection: u64, offset: u64) {
        let now = self.now;
        let redis = &mut self.insts[primary].redis;
        if redis.run != run || !redis.answers(now) {
            return;
        }
        let Some(attached) = redis.replicas.get_mut(&replica).filter(|a| a.connection == connection) else { return };
        attached.acked = attached.acked.max(offset);
        attached.acked_at = now;
        redis.trim();
        let holding = |waiting: &Waiting| {
            redis.replicas.values().filter(|a| a.online && a.acked >= waiting.offset).count() >= waiting.need
        };
        let (done, rest): (Vec<Waiting>, Vec<Waiting>) = redis.waiting.iter().copied().partition(holding);
        redis.waiting = rest;
        for waiting in done {
            self.wait_acknowledged(primary, waiting.write);
        }
    }

    /// A primary pings its replicas: bytes too.
    pub fn ping(&mut self, place: usize) {
        let pause = self.rng.between(300, 1500) * MS;
        self.at(pause, Ev::Ping(place));
        let redis = &mut self.insts[place].redis;
        if redis.ready(self.now) && redis.upstream.is_none() && !redis.replicas.is_empty() {
            redis.write(0);
        }
    }
}
