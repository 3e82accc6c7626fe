//! What passes between instances: attaching (partial or full), streaming, acknowledging, and clients that wait.

use crate::redis::{Attached, Link, Upstream, Waiting};
use crate::world::{Ev, MS, World};

impl World {
    /// One round of one instance: as a replica it attaches or takes what is new, as a primary it drops dead
    /// connections and finds out who waits no longer.
    pub fn pump(&mut self, host: usize) {
        let pause = self.rng.between(3, 18) * MS;
        self.at(pause, Ev::Pump(host));
        if !self.hosts[host].redis.answers(self.now) {
            return;
        }
        self.drop_dead(host);
        if let Some(Upstream::Host(primary)) = self.hosts[host].redis.upstream
            && primary != host
            && primary < self.hosts.len()
        {
            self.pump_replica(host, primary);
        }
    }

    fn drop_dead(&mut self, host: usize) {
        let dead: Vec<usize> = self.hosts[host]
            .redis
            .replicas
            .iter()
            .filter(|(replica, attached)| {
                let other = &self.hosts[**replica];
                let linked = other.redis.alive
                    && other.redis.upstream == Some(Upstream::Host(host))
                    && other.redis.connection == attached.connection
                    && other.redis.link != Link::Down;
                !linked && other.up && self.net.both(host, **replica)
            })
            .map(|(replica, _)| *replica)
            .collect();
        for replica in dead {
            self.hosts[host].redis.replicas.remove(&replica);
        }
    }

    fn pump_replica(&mut self, host: usize, primary: usize) {
        let now = self.now;
        let reach = self.net.both(host, primary) && self.hosts[primary].redis.answers(now);
        let (link, connection) = (self.hosts[host].redis.link, self.hosts[host].redis.connection);
        let known = self.hosts[primary].redis.replicas.get(&host).is_some_and(|a| a.connection == connection);
        match link {
            Link::Down if reach && self.hosts[host].redis.ready(now) => self.attach(host, primary),
            Link::Down => {}
            Link::Syncing(_) if !self.net.both(host, primary) || !self.hosts[primary].redis.alive || !known => {
                // Cut midway: with a diskless load the old data is gone already, and INFO shows the old offset.
                tr!(self, "redis {}: full resynchronisation cut midway", host + 1);
                if self.diskless {
                    self.hosts[host].redis.empty();
                    self.hosts[host].redis.stream = None;
                }
                self.hosts[host].redis.link = Link::Down;
            }
            Link::Syncing(until) if now >= until && reach => self.finish_sync(host, primary),
            Link::Syncing(_) => {}
            Link::Up if !known && (reach || !self.hosts[primary].redis.alive) => {
                self.hosts[host].redis.link = Link::Down;
            }
            Link::Up if reach && known => self.stream(host, primary),
            Link::Up => {}
        }
    }

    fn attach(&mut self, host: usize, primary: usize) {
        let now = self.now;
        let upstream = &self.hosts[primary].redis;
        if !upstream.ready(now) || (upstream.upstream.is_some() && upstream.link != Link::Up) {
            return;
        }
        if self.hosts[primary].redis.stream.is_none() {
            // The first replica of an instance without a backlog: a new replication id, and no second one.
            let fresh = self.rng.draw();
            let upstream = &mut self.hosts[primary].redis;
            (upstream.replid, upstream.replid2, upstream.second_offset) = (fresh, 0, 0);
            upstream.stream_base = upstream.offset;
            upstream.stream = Some(Vec::new());
            upstream.marks.clear();
        }
        self.connections += 1;
        let connection = self.connections;
        let (replid, offset) = (self.hosts[host].redis.replid, self.hosts[host].redis.offset);
        let partial = self.hosts[host].redis.resumable && self.hosts[primary].redis.continues(replid, offset);
        let attached = Attached { connection, online: partial, acked: if partial { offset } else { 0 }, acked_at: now };
        self.hosts[primary].redis.replicas.insert(host, attached);
        self.hosts[host].redis.connection = connection;
        if partial {
            let fresh = self.hosts[primary].redis.replid;
            let own = &mut self.hosts[host].redis;
            if own.replid != fresh {
                (own.replid2, own.second_offset, own.replid) = (own.replid, own.offset, fresh);
                own.replicas.clear();
            }
            if own.stream.is_none() {
                own.stream_base = own.offset;
                own.stream = Some(Vec::new());
            }
            own.link = Link::Up;
            tr!(self, "redis {}: +CONTINUE from {} at offset {offset}", host + 1, primary + 1);
        } else {
            let until = now + self.rng.between(1, 600) * MS;
            self.hosts[host].redis.link = Link::Syncing(until);
            self.hosts[host].redis.resumable = false;
            self.hosts[host].redis.replicas.clear();
            if self.diskless {
                self.hosts[host].redis.empty();
                self.hosts[host].redis.stream = None;
            }
            self.covered.full_syncs += 1;
            tr!(self, "redis {}: full resynchronisation from {}", host + 1, primary + 1);
        }
    }

    fn finish_sync(&mut self, host: usize, primary: usize) {
        let from = self.hosts[primary].redis.clone();
        let own = &mut self.hosts[host].redis;
        (own.data, own.marks) = (from.data, Vec::new());
        (own.replid, own.replid2, own.second_offset, own.offset) = (from.replid, 0, 0, from.offset);
        own.stream_base = from.offset;
        own.stream = Some(Vec::new());
        own.link = Link::Up;
        own.resumable = true;
        let (connection, offset) = (own.connection, own.offset);
        tr!(self, "redis {}: full resynchronisation done at offset {offset}", host + 1);
        if let Some(attached) = self.hosts[primary].redis.replicas.get_mut(&host) {
            attached.online = true;
            attached.acked_at = self.now;
        }
        self.acknowledge(host, primary, connection, offset);
    }

    fn stream(&mut self, host: usize, primary: usize) {
        let from = &self.hosts[primary].redis;
        let (Some(stream), offset) = (&from.stream, self.hosts[host].redis.offset) else { return };
        let fresh: Vec<u64> =
            stream.get(usize::try_from(offset - from.stream_base).unwrap_or(usize::MAX)..).unwrap_or_default().to_vec();
        let own = &mut self.hosts[host].redis;
        for id in fresh {
            own.write(id);
        }
        let (connection, offset) = (own.connection, own.offset);
        self.acknowledge(host, primary, connection, offset);
    }

    fn acknowledge(&mut self, host: usize, primary: usize, connection: u64, offset: u64) {
        if self.net.open(host, primary) {
            let delay = MS / 10 + self.rng.below(self.net.jitter);
            let run = self.hosts[primary].redis.run;
            self.at(delay, Ev::Acked { primary, run, replica: host, connection, offset });
        }
    }

    /// A replica's acknowledgement arrives.
    pub fn acked(&mut self, primary: usize, run: u64, replica: usize, connection: u64, offset: u64) {
        let now = self.now;
        let redis = &mut self.hosts[primary].redis;
        if redis.run != run || !redis.answers(now) {
            return;
        }
        let Some(attached) = redis.replicas.get_mut(&replica).filter(|a| a.connection == connection) else { return };
        attached.acked = attached.acked.max(offset);
        attached.acked_at = now;
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
    pub fn ping(&mut self, host: usize) {
        let pause = self.rng.between(300, 1500) * MS;
        self.at(pause, Ev::Ping(host));
        let redis = &mut self.hosts[host].redis;
        if redis.ready(self.now) && redis.upstream.is_none() && !redis.replicas.is_empty() {
            redis.write(0);
        }
    }
}
