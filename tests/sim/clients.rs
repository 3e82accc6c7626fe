//! Clients: some write to whoever holds the VIP, some to any instance that takes it; some wait for replicas.

use crate::agent::host_of;
use crate::events::Ev;
use crate::redis::Waiting;
use crate::trace::label;
use crate::world::{MS, Ns, World, group_at, host_at, place};
use mainstay::cluster::{Durability, NodeId, Phase, Version};

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
        for number in 0..self.alone.len() {
            let taken = (0..self.hosts.len()).any(|host| self.insts[place(host, number)].redis.accepts(self.now));
            self.note_gap(number, taken);
        }
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
        self.check_alone(at);
        let redis = &mut self.insts[at].redis;
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

/// What an agent may take to set `min-replicas-to-write` once a follower has come online.
const TUNED: Ns = 1_200 * MS;

impl World {
    /// S5, `min-replicas-held`: a write was taken without a follower in step. Not while one that came online in this epoch is in
    /// F: the commit that takes it out comes first. Under `quorum` not without W-1 of them.
    fn check_alone(&mut self, at: usize) {
        let group = group_at(at);
        let Some(found) = self.committed().groups.get(&self.names[group]).cloned() else { return };
        let redis = &self.insts[at].redis;
        let current = found
            .primary
            .as_ref()
            .is_some_and(|primary| place(host_of(primary.node), group) == at && primary.run_id == redis.run_id());
        if !current {
            return;
        }
        let (alone, now) = (redis.min_replicas == 0, self.now);
        let host = &self.hosts[host_at(at)];
        let Some(agent) = host.agent.as_ref() else { return };
        let (Some(seat), Some(known)) =
            (agent.view.seats.get(&self.names[group]), agent.view.group(&self.names[group]))
        else {
            return;
        };
        // One command at a time: after a switchover that failed, or a hang, the setting is the next. While it hands over
        // none but the handover's is given.
        let recent = agent.view.now.since(seat.instance.task_ended) < std::time::Duration::from_millis(100);
        let busy = seat.instance.task.is_some() || recent || matches!(known.phase, Phase::Switching { .. });
        let hung = now.saturating_sub(self.insts[at].redis.hung_until) <= TUNED;
        let slow = host.slow_redis || self.excused(at) || busy || hung;
        if found.durability == Durability::Quorum {
            let (least, now) = (known.quorum.saturating_sub(1), agent.view.now);
            let told = now.since(seat.applied_at) > std::time::Duration::from_nanos(TUNED);
            if told && !slow && redis.min_replicas < least {
                let text = format!("{} takes writes with {} replicas, W-1 is {least}", label(at), redis.min_replicas);
                self.violate("min-replicas-held", text);
            }
            return;
        }
        // Whom it has not been told of, being cut off or its disk full, it cannot count; nor whom only an agent before it saw.
        let known: Vec<(NodeId, Version)> = known.followers.iter().map(|(node, f)| (*node, f.since)).collect();
        let life = agent.life;
        for (node, follower) in &found.followers {
            let row = self.insts[at].redis.replicas.get(&place(host_of(*node), group));
            let told = known.contains(&(*node, follower.since));
            let online = told && row.is_some_and(|row| row.online && now.saturating_sub(row.acked_at) <= 1000 * MS);
            let seen = self.books[group].online.get(&(found.epoch, *node));
            let seen = seen.filter(|(since, by, _)| (*since, *by) == (follower.since, life));
            let length = seen.map(|(_, _, first)| now - first);
            if online && seen.is_none() {
                self.books[group].online.insert((found.epoch, *node), (follower.since, life, now));
            }
            if alone && !slow && length.is_some_and(|length| length > TUNED) {
                let text = format!("{} takes writes alone, and node {node} is in F and was online", label(at));
                self.violate("min-replicas-held", text);
            }
        }
    }
}
