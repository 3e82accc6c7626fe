//! Rules broken on purpose in the simulated shells, each to be caught by a named invariant.

/// One broken rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    /// S1: the lease counts from when the promise came, not from when the renewal was sent.
    LeaseFromReply,
    /// S2: the surrender is said before its mark is on disk.
    MarkAfterSurrender,
    /// S2: seals and reports are said before they are on disk.
    SaidBeforeSaved,
    /// S2: a restarted guardian does not keep silent for the longest lease it promised.
    ForgetsSilence,
    /// S3: a member reports without having detached its instance.
    SealsWithoutDetaching,
    /// S5: an instance follows before F has grown.
    FollowsWithoutCommit,
    /// S4: an instance that was just let in claims lineage at once.
    LineageAtOnce,
    /// S2: a guardian seals while its promise is live.
    SealsEarly,
}

impl Mutation {
    /// Those that the batch proves to be caught, each with an invariant that may catch it.
    pub const LIST: [(Mutation, &'static [&'static str]); 8] = [
        (Mutation::LeaseFromReply, &["two-servers"]),
        (Mutation::MarkAfterSurrender, &["surrender-marked"]),
        (Mutation::SaidBeforeSaved, &["seal-durable", "promise-durable"]),
        (Mutation::ForgetsSilence, &["two-servers", "promise-after-seal"]),
        (Mutation::SealsWithoutDetaching, &["wait-kept"]),
        (Mutation::FollowsWithoutCommit, &["wait-kept"]),
        (Mutation::LineageAtOnce, &["wait-kept"]),
        (Mutation::SealsEarly, &["two-servers"]),
    ];
}

use crate::agent::id;
use crate::redis::{Command, Upstream};
use crate::world::World;
use mainstay::cluster::{Lineage, Phase};
use mainstay::view::{Item, Posture, What};

impl World {
    /// The mutations of what a peer said.
    pub fn heard_mutation(&mut self, host: usize, what: &mut What) {
        let What::Heard { items, .. } = what else { return };
        let now = self.hosts[host].clock(self.now);
        for item in items.iter_mut().filter(|_| self.mutation == Some(Mutation::LeaseFromReply)) {
            if let Item::Promise { sent_at, .. } = item {
                *sent_at = now;
            }
        }
    }

    /// The mutations that act by themselves, before a tick.
    pub fn tick_mutation(&mut self, host: usize) {
        match self.mutation {
            Some(Mutation::SealsEarly) => {
                let name = self.group.clone();
                let Some(agent) = self.hosts[host].agent.as_mut() else { return };
                let sealing = agent.view.group(&name).is_some_and(|group| matches!(group.phase, Phase::Sealing { .. }));
                if let Some(seat) = agent.view.seats.get_mut(&name).filter(|_| sealing) {
                    seat.promise = None;
                }
            }
            Some(Mutation::LineageAtOnce) => self.claim_lineage(host),
            Some(Mutation::FollowsWithoutCommit) => self.follow_uncommitted(host),
            _ => {}
        }
    }

    fn claim_lineage(&mut self, host: usize) {
        let name = self.group.clone();
        let Some(agent) = self.hosts[host].agent.as_mut() else { return };
        let Some(group) = agent.view.group(&name).cloned() else { return };
        let Some(seat) = agent.view.seats.get(&name) else { return };
        let run_id = seat.instance.run_id().cloned();
        if let (Posture::Following(epoch), Some(run_id)) = (seat.instance.posture, run_id)
            && group.followers.contains_key(&id(host))
            && let Some(local) = agent.view.local.groups.get_mut(&name)
            && local.lineage.is_none()
        {
            local.lineage = Some(Lineage { run_id, epoch });
        }
    }

    /// The last member follows without ever asking to be let in.
    fn follow_uncommitted(&mut self, host: usize) {
        let name = self.group.clone();
        let Some(agent) = self.hosts[host].agent.as_ref().filter(|_| self.is_stranger(host)) else { return };
        let Some(group) = agent.view.group(&name) else { return };
        let stable = matches!(group.phase, Phase::Stable) && !group.followers.contains_key(&id(host));
        let Some(primary) = group.primary_node().filter(|node| *node != id(host) && stable) else { return };
        let primary = crate::agent::host_of(primary);
        if self.hosts[host].redis.upstream == Some(Upstream::Nowhere) {
            self.command(host, 0, Command::ReplicaOf(primary));
        }
    }

    /// The member that the mutation is about.
    pub fn is_stranger(&self, host: usize) -> bool {
        let last = self.hosts.iter().rposition(|host| host.member);
        self.mutation == Some(Mutation::FollowsWithoutCommit) && last == Some(host)
    }
}
