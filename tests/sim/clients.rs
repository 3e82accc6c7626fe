//! Clients: some write to whoever holds the VIP, some to any instance that takes it; some wait for replicas.

use crate::redis::Waiting;
use crate::world::{Ev, MS, World};
use mainstay::cluster::majority;

impl World {
    /// One client's step.
    pub fn client(&mut self) {
        let pause = self.rng.between(4, 30) * MS;
        self.at(pause, Ev::Client);
        self.check_accepting();
        let members = self.hosts.iter().filter(|host| host.member).count();
        let by_vip = self.rng.permille(500);
        let direct = self.rng.index(members);
        let target =
            if by_vip { self.vip_owner.filter(|host| self.hosts[*host].vip_until > self.now) } else { Some(direct) };
        let Some(host) = target else { return };
        let waits = self.rng.permille(500);
        let now = self.now;
        let redis = &mut self.hosts[host].redis;
        if !redis.accepts(now) {
            return;
        }
        self.writes += 1;
        redis.write(self.writes);
        if !waits {
            self.covered.plain += 1;
            return;
        }
        let waiting = Waiting { write: self.writes, offset: redis.offset, need: majority(members) - 1 };
        if redis.stream.is_some() && redis.waiting.len() < 64 {
            redis.waiting.push(waiting);
        }
    }
}
