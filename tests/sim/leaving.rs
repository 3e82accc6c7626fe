//! Directed faults of leaving F (S5).
//!
//! - Trace 19: a follower seals to leave, its agent is started again and it is let in anew; the second commit of its
//!   leaving, on its way since before, arrives only then. Whom the old word took out of F would acknowledge what nobody
//!   else has.
//! - A follower that is on its way out does not hear so, and acknowledges on: it is not sealed.
//! - One that leaves holds what the others do not have yet.

use crate::agent::{host_of, id};
use crate::attack::Attack;
use crate::events::{Cure, Ev};
use crate::world::{MS, Ns, World, place};
use mainstay::cluster::{Command, GroupCommand, NodeId};
use mainstay::view::What;

impl World {
    fn leaves(&self) -> Option<Attack> {
        let attack = self.plan.and_then(|plan| plan.attack).filter(|_| !self.healed)?;
        matches!(attack, Attack::Leave | Attack::DeafLeaver | Attack::LeaveAhead).then_some(attack)
    }

    /// A follower is asked to stop; the leader is neither it nor the primary.
    pub fn attack_leave(&mut self, attack: Attack, group: usize, primary: usize, other: usize) {
        let third = (0..self.hosts.len()).find(|host| *host != primary && *host != other);
        let (Some(third), true) = (third, self.awake(other) && self.insts[place(other, group)].member) else { return };
        if self.raft.leader != Some(third) && self.quorum_at(third, |_, _| true) {
            self.lead(third);
        }
        let mut pause = 0;
        if attack == Attack::LeaveAhead {
            let behind = place(third, group);
            self.insts[behind].redis.narrow = true;
            self.at(3_000 * MS, Ev::Cure(Cure::Narrow(behind, false)));
            pause = self.rng.between(100, 500) * MS;
        }
        tr!(self, "ATTACK {} is to leave", other + 1);
        self.tell(other, pause, What::Stopping);
    }

    /// How much longer a proposal is on its way.
    pub fn attack_proposal(&mut self, command: &Command) -> Ns {
        let left = matches!(command, Command::Group { change: GroupCommand::Left { .. }, .. });
        if left && self.leaves() == Some(Attack::Leave) { self.rng.between(900, 1600) * MS } else { 0 }
    }

    /// Before a command reaches the log.
    pub fn attack_leaving(&mut self, leader: usize, command: &Command) {
        let Command::Group { group, change, .. } = command else { return };
        let Some(attack) = self.leaves() else { return };
        match (attack, change) {
            (Attack::Leave, GroupCommand::Leaving { node, .. }) => {
                let pause = self.rng.between(150, 500) * MS;
                self.at(pause, Ev::Cure(Cure::Restart(host_of(*node))));
            }
            (Attack::DeafLeaver, GroupCommand::Leaving { node, .. }) => {
                tr!(self, "ATTACK {} does not hear that it leaves", host_of(*node) + 1);
                self.deafen(leader, host_of(*node));
                self.at(2_500 * MS, Ev::Cure(Cure::Net));
            }
            (Attack::LeaveAhead, GroupCommand::Left { .. }) => {
                let number = self.group_of(group);
                let Some(primary) = self.primary_host(number).filter(|primary| *primary != leader) else { return };
                let pause = self.rng.between(1, 50) * MS;
                self.at(pause, Ev::Cure(Cure::Crash(primary)));
            }
            (Attack::Leave | Attack::DeafLeaver, GroupCommand::Left { node, .. }) => {
                let number = self.group_of(group);
                self.strike(number, leader, *node);
            }
            _ => {}
        }
    }

    fn deafen(&mut self, leader: usize, other: usize) {
        self.net.set(leader, other, true);
        self.net.set(other, leader, true);
    }

    /// The leaver hears nothing of this commit, it alone keeps up, and the primary's host dies.
    fn strike(&mut self, group: usize, leader: usize, node: NodeId) {
        let other = host_of(node);
        let Some(primary) = self.primary_host(group).filter(|primary| *primary != leader && *primary != other) else {
            return;
        };
        tr!(self, "ATTACK {} alone keeps up, and the primary's host dies", other + 1);
        self.deafen(leader, other);
        for host in (0..self.hosts.len()).filter(|host| id(*host) != node) {
            self.insts[place(host, group)].redis.narrow = true;
            self.at(1900 * MS, Ev::Cure(Cure::Narrow(place(host, group), false)));
        }
        let pause = self.rng.between(100, 400) * MS;
        self.at(pause, Ev::Cure(Cure::Crash(primary)));
        self.at(1600 * MS, Ev::Cure(Cure::Net));
    }
}
