//! Clients: some write to whoever holds the VIP, some to any instance that takes it; some wait for replicas.

use crate::events::Ev;
use crate::redis::Waiting;
use crate::world::{MS, World, place};

impl World {
    /// One client's step.
    pub fn client(&mut self) {
        let pause = self.rng.between(4, 30) * MS;
        self.at(pause, Ev::Client);
        if self.told.is_some() {
            // A story has clients of its own.
            (0..self.names.len()).for_each(|group| self.check_accepting(group));
            return;
        }
        let group = self.rng.index(self.names.len());
        self.check_accepting(group);
        // What an operator tells the clients to wait for: W-1 of the members there are (S5).
        let Some(found) = self.committed().groups.get(&self.names[group]) else { return };
        let (quorum, members) = (found.quorum as usize, found.members.len());
        let by_vip = self.rng.permille(500);
        let direct = self.rng.index(members);
        let direct = found_member(self, group, direct);
        let target = if by_vip { self.vip_owner[group].map(|host| place(host, group)) } else { direct };
        let Some(at) = target.filter(|at| !by_vip || self.insts[*at].vip_until > self.now) else { return };
        let waits = self.rng.permille(500);
        let now = self.now;
        let redis = &mut self.insts[at].redis;
        if !redis.accepts(now) {
            return;
        }
        self.writes += 1;
        redis.write(self.writes);
        if !waits {
            self.covered.plain += 1;
            return;
        }
        let waiting = Waiting { write: self.writes, offset: redis.offset, need: quorum.saturating_sub(1) };
        if redis.stream.is_some() && redis.waiting.len() < 64 && waiting.need > 0 {
            redis.waiting.push(waiting);
        }
    }
}

fn found_member(world: &World, group: usize, index: usize) -> Option<usize> {
    let found = world.committed().groups.get(&world.names[group])?;
    found.members.keys().nth(index).map(|node| place(crate::agent::host_of(*node), group))
}
