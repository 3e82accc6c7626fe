//! Directed fault of trace 19: a follower seals to leave, its agent is started again and it is let in anew; the second
//! commit of its leaving, on its way since before, arrives only then. Whom the old word took out of F would acknowledge
//! what nobody else has.

use crate::agent::{host_of, id};
use crate::attack::Attack;
use crate::events::{Cure, Ev};
use crate::world::{MS, Ns, World, place};
use mainstay::cluster::{Command, GroupCommand, NodeId};
use mainstay::view::What;

impl World {
    fn leaves(&self) -> bool {
        self.plan.and_then(|plan| plan.attack) == Some(Attack::Leave) && !self.healed
    }

    /// A follower is asked to stop; the leader is neither it nor the primary.
    pub fn attack_leave(&mut self, group: usize, primary: usize, other: usize) {
        let third = (0..self.hosts.len()).find(|host| *host != primary && *host != other);
        let (Some(third), true) = (third, self.awake(other) && self.insts[place(other, group)].member) else { return };
        if self.raft.leader != Some(third) && self.quorum_at(third, |_, _| true) {
            self.lead(third);
        }
        tr!(self, "ATTACK {} is to leave, and comes back", other + 1);
        self.tell(other, 0, What::Stopping);
    }

    /// How much longer a proposal is on its way.
    pub fn attack_proposal(&mut self, command: &Command) -> Ns {
        let left = matches!(command, Command::Group { change: GroupCommand::Left { .. }, .. });
        if left && self.leaves() { self.rng.between(900, 1600) * MS } else { 0 }
    }

    /// Before a command reaches the log.
    pub fn attack_leaving(&mut self, leader: usize, command: &Command) {
        let Command::Group { group, change, .. } = command else { return };
        if !self.leaves() {
            return;
        }
        match change {
            GroupCommand::Leaving { node, .. } => {
                let pause = self.rng.between(150, 500) * MS;
                self.at(pause, Ev::Cure(Cure::Restart(host_of(*node))));
            }
            GroupCommand::Left { node, .. } => {
                let number = self.group_of(group);
                self.strike(number, leader, *node);
            }
            _ => {}
        }
    }

    /// The leaver hears nothing of this commit, it alone keeps up, and the primary's host dies.
    fn strike(&mut self, group: usize, leader: usize, node: NodeId) {
        let other = host_of(node);
        let Some(primary) = self.primary_host(group).filter(|primary| *primary != leader && *primary != other) else {
            return;
        };
        tr!(self, "ATTACK {} alone keeps up, and the primary's host dies", other + 1);
        self.net.set(leader, other, true);
        self.net.set(other, leader, true);
        for host in (0..self.hosts.len()).filter(|host| id(*host) != node) {
            self.insts[place(host, group)].redis.narrow = true;
            self.at(1900 * MS, Ev::Cure(Cure::Narrow(place(host, group), false)));
        }
        let pause = self.rng.between(100, 400) * MS;
        self.at(pause, Ev::Cure(Cure::Crash(primary)));
        self.at(1600 * MS, Ev::Cure(Cure::Net));
    }
}
