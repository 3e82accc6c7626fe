//! Liveness, `settles`: after healing one primary serves with its VIP, within five leases and `hang_after`; and every member
//! follows it with lineage, as soon as it has started and was synchronised.

use crate::agent::{host_of, id};
use crate::redis::Link;
use crate::starts::Start;
use crate::trace::label;
use crate::world::{World, place};
use mainstay::cluster::{Change, Durability, GroupName, Guarantee, Why};
use mainstay::decide::{Choice, Reason, choose, decide};

impl World {
    /// Every group.
    pub fn check_settled(&self) -> Result<(), String> {
        if self.founding_on() || self.undecided() {
            return Err("an operator has not finished".to_owned());
        }
        if self.nobody_can() {
            return Ok(());
        }
        let guardians = &self.committed().guardians;
        (0..self.names.len()).try_for_each(|group| self.group_settled(group))?;
        let voters = self.raft.voters.iter().copied().map(id).collect();
        // A change ends when both majorities promise in time: not while one of them is late for good.
        let late = self.net.for_good.iter().any(|lag| *lag > 0);
        if guardians.next.is_some() && late {
            return Ok(());
        }
        if guardians.next.is_some() || guardians.now != voters || self.raft.leaving.is_some() {
            return Err(format!("the guardians have not followed the voters: {guardians:?}"));
        }
        Ok(())
    }

    /// Every group has its primary, with the VIP; some members may still synchronise.
    pub fn check_served(&self) -> Result<(), String> {
        if self.nobody_can() { Ok(()) } else { (0..self.names.len()).try_for_each(|group| self.group_served(group)) }
    }

    /// No majority without one whose answers take longer than a lease for good: nobody can serve.
    fn nobody_can(&self) -> bool {
        let able = |host: usize| self.net.for_good[host] == 0 && self.gone != Some(host);
        !self.committed().guardians.majority_of(|node| able(host_of(node)))
    }

    fn group_served(&self, number: usize) -> Result<(), String> {
        let name = &self.names[number];
        let Some(group) = self.committed().groups.get(name) else { return Err("no group".to_owned()) };
        let Some(primary) = group.primary_node().map(host_of) else {
            return Err(format!("no primary: {:?}", self.choice(name)));
        };
        if self.unnoticed(primary) {
            return Ok(());
        }
        let at = place(primary, number);
        let redis = &self.insts[at].redis;
        if redis.upstream.is_some() || !self.leased(at) {
            return Err(format!("{} does not serve: phase {:?}, {:?}", label(at), group.phase, self.choice(name)));
        }
        if group.durability == Durability::Available && !redis.accepts(self.now) {
            return Err(format!("{} refuses writes, min-replicas {}", label(at), redis.min_replicas));
        }
        if self.insts[at].vip_until <= self.now {
            return Err(format!("{} serves without its VIP", label(at)));
        }
        for host in (0..self.hosts.len()).filter(|host| *host != primary) {
            if self.insts[place(host, number)].vip_until > self.now {
                return Err(format!("n{} still has the VIP", host + 1));
            }
        }
        Ok(())
    }

    /// Its host is gone, and to the leader every answer comes later than a poll is fresh, for good.
    fn unnoticed(&self, primary: usize) -> bool {
        self.gone == Some(primary) && self.raft.leader.is_some_and(|leader| self.net.for_good[leader] > 0)
    }

    fn group_settled(&self, number: usize) -> Result<(), String> {
        self.group_served(number)?;
        let Some(group) = self.committed().groups.get(&self.names[number]) else { return Ok(()) };
        let Some(primary) = group.primary_node().map(host_of).filter(|host| !self.unnoticed(*host)) else {
            return Ok(());
        };
        let name = &self.names[number];
        // Under `quorum` one that is gone may be one too many: the last members wait for an operator.
        let few = !self.lost.is_empty() && group.durability == Durability::Quorum;
        let redis = &self.insts[place(primary, number)].redis;
        if !redis.accepts(self.now) && !few {
            return Err(format!("n{} refuses writes, min-replicas {}", primary + 1, redis.min_replicas));
        }
        for (node, _) in group.members.iter().filter(|(node, _)| **node != id(primary)) {
            let at = place(host_of(*node), number);
            if self.lost.contains(&at) {
                continue;
            }
            let Some(agent) = &self.hosts[host_of(*node)].agent else { return Err(format!("{node} has no agent")) };
            // Data from before the group was founded, of which a restart, a cold start or a force has cut the kinship: it is
            // refused and kept, and an operator decides (S13).
            let cut = |change: &Change| matches!(change.guarantee, Guarantee::ColdStart(_) | Guarantee::Forced);
            let found = self.books[number].found.start != Start::Empty;
            if agent.view.foreign_keys(name).is_some() && (found || group.history.iter().any(cut)) {
                continue;
            }
            let info = agent.view.seats.get(name).and_then(|seat| seat.instance.seen());
            let lineage = info.and_then(|info| agent.view.lineage_of(name, info));
            let link = self.insts[at].redis.link;
            if link != Link::Up || !group.followers.contains_key(node) || lineage != Some(group.epoch) {
                let decision = decide(&agent.view, &self.hosts[host_of(*node)].policy);
                let why = decision.reasons.get(name);
                // Its leaving was committed late, and cannot be completed while one of F never returns: an operator's matter.
                if few && matches!(why, Some(Reason::Leaving)) {
                    continue;
                }
                return Err(format!("{} does not follow with lineage: link {link:?}, {lineage:?}, {why:?}", label(at)));
            }
        }
        Ok(())
    }

    /// Whether promotions are paused, which ends by itself.
    pub fn paused(&self) -> bool {
        self.committed().groups.values().any(|group| group.pause.is_some())
    }

    /// Whether an agent is being stopped, which may take its time.
    pub fn stopping(&self) -> bool {
        let hosts = self.hosts.iter().filter(|host| host.joined);
        hosts.clone().any(|host| host.agent.as_ref().is_none_or(|agent| agent.view.stopping.is_some()))
    }

    /// Whom the leader would promote, or what it waits for.
    fn choice(&self, name: &GroupName) -> Option<Choice> {
        let agent = self.raft.leader.and_then(|leader| self.hosts[leader].agent.as_ref())?;
        let (group, seat) = (agent.view.group(name)?, agent.view.seats.get(name)?);
        Some(choose(&agent.view, name, group, seat))
    }

    /// The group whose leader waits for an operator, as the design allows (S13, S14, priority 0).
    pub fn needs_operator(&self) -> Option<usize> {
        (0..self.names.len()).find(|number| {
            let name = &self.names[*number];
            let (Some(group), Some(choice)) = (self.committed().groups.get(name), self.choice(name)) else {
                return false;
            };
            // One that was named and does not report is given up without anybody's help.
            let holds = |at: usize| self.insts[at].redis.alive && !self.insts[at].redis.data.is_empty();
            let alone = group.forced.is_some()
                && group.durability == Durability::Available
                && (0..self.hosts.len()).any(|host| holds(place(host, *number)));
            let gone = !self.lost.is_empty() && !alone && matches!(choice, Choice::Wait(Reason::AwaitingReports(_)));
            let proof = matches!(choice, Choice::Wait(Reason::AwaitingProof { .. }));
            // By its data the only candidate, and so late that it never gets a lease.
            let node = group.primary_node().map(host_of).unwrap_or_default();
            let never = group.history.back().map(|change| change.why);
            let never = matches!(never, Some(Why::NeverServed | Why::LeaseLapsed));
            let late = self.net.for_good[node] > 0 && never;
            // The hosts of a group that was adopted lost power before its first promotion, and with that their kinship.
            let apart = matches!(choice, Choice::Wait(Reason::TwoDataSets(_)))
                && self.books[*number].found.start != Start::TwoSets;
            // Who is gone may hold what nobody else does.
            late || gone
                || apart
                || matches!(choice, Choice::Wait(Reason::NothingProves(_) | Reason::NobodyPromotable))
                || (proof && group.durability == Durability::Quorum)
        })
    }
}
