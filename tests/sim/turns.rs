//! Who has a turn: full resynchronisations one at a time, and flap protection.
//!
//! - `syncs-in-turn`: of the replicas that attach to a primary that holds data, and by its own word cannot continue, not more
//!   than one at a time is synchronised in full, and one that comes late to its turn.
//! - `flap-bound`: a node that failed as the primary twice in a row is not promoted again before its penance is over, while
//!   another one proves as much.

use crate::chosen::{Choice, leases};
use crate::redis::{Link, Upstream};
use crate::trace::label;
use crate::world::{World, group_at, host_at};
use mainstay::cluster::{Change, NodeId, Offset, Why};
use mainstay::view::Moment;

/// Leases, as `view/flap.rs` has them: within so many two faults are in a row at least, and so long the first penance is.
const IN_A_ROW: u64 = 10;

/// What the primary said of the turn may be a lease old.
const LATE: usize = 1;

impl World {
    /// An instance is told to follow: whether it cannot continue, by what the primary said last. Gives that one's agent.
    pub fn expects_full(&self, at: usize) -> Option<u64> {
        let (name, redis) = (self.name_at(at), &self.insts[at].redis);
        let agent = self.hosts[host_at(at)].agent.as_ref();
        let seat = agent.and_then(|agent| agent.view.seats.get(&name));
        let said = seat.and_then(|seat| seat.renewal.as_ref()).and_then(|(_, renewal)| renewal.serving.as_ref());
        let said = said?;
        let own = redis.info(Moment(0), self.now);
        let (same, before) = (own.replid == said.replid, own.replid == said.replid2);
        let full = !(same || before) || said.backlog == Offset(0) || own.offset.next() < said.backlog;
        let Some(Upstream::Host(primary)) = redis.upstream.filter(|_| full) else { return None };
        self.hosts[host_at(primary)].agent.as_ref().map(|agent| agent.life)
    }

    /// A replica begins a full resynchronisation. `told`: it was told to, and did not merely lose its connection; an agent
    /// that was started again has forgotten whose turn it was.
    pub fn check_turn(&mut self, at: usize, primary: usize, told: Option<u64>) {
        let life = self.hosts[host_at(primary)].agent.as_ref().map(|agent| agent.life);
        let first = told.is_some() && told == life;
        self.insts[at].in_turn = first;
        let same = |other: &usize| {
            let (inst, redis) = (&self.insts[*other], &self.insts[*other].redis);
            inst.in_turn && redis.upstream == Some(Upstream::Host(primary)) && matches!(redis.link, Link::Syncing(_))
        };
        let attached = self.insts[primary].redis.replicas.keys();
        let others = attached.filter(|other| **other != at && same(other)).count();
        // What is empty costs nothing, and was until lately.
        let book = &self.books[group_at(at)];
        let settled = book.began_with_data || self.now - book.promoted_at > leases(2);
        if first && settled && !self.insts[primary].redis.data.is_empty() && others > LATE {
            let text = format!("{} and {others} more are synchronised in full at a time", label(at));
            self.violate("syncs-in-turn", text);
        }
    }

    /// A promotion was committed: whether a fault ended the reign before.
    pub fn note_fault(&mut self, number: usize, change: &Change) {
        let excused = matches!(change.why, Why::FirstStart | Why::Operator | Why::Shutdown | Why::InstanceStopped);
        if let Some(node) = change.from.filter(|_| !excused) {
            let now = self.now;
            self.books[number].faults.entry(node).or_default().push(now);
        }
    }

    /// Whether the node's last two faults came in a row, as the leader saw both, and its penance lasts by every clock.
    fn does_penance(&self, number: usize, leader: usize, node: NodeId) -> bool {
        let Some([.., one, last]) = self.books[number].faults.get(&node).map(Vec::as_slice) else { return false };
        let own = &self.hosts[leader];
        let seen = own.agent.as_ref().is_some_and(|agent| agent.view.started < own.clock(*one));
        let bound = leases(IN_A_ROW) / 100 * self.pace;
        seen && last - one < bound && self.now - last < bound
    }

    /// Who failed again and again is chosen, and another one proves as much.
    pub fn flaps_again(&self, leader: usize, choice: &Choice<'_>) -> Option<(&'static str, String)> {
        let (number, successor) = (choice.number, choice.successor);
        let faults = &self.books[number].faults;
        // Forgiven sooner or later, by the leader's clock: only who never did it twice is sure to be better.
        let clean = |node: &NodeId| faults.get(node).is_none_or(|faults| faults.len() < 2);
        let other = choice.equals().find(clean).filter(|_| self.does_penance(number, leader, successor))?;
        let text = format!("{successor} failed again and again and is to be promoted, and {other} holds as much");
        Some(("flap-bound", text))
    }
}
