//! A cluster's generation: drawn when it is formed, and anew when an operator lets one node go on alone.
//!
//! The upper 16 bits count, so that of two generations of one cluster the older one is known; the lower 48 are random,
//! so that two nodes that were each told to go on alone do not take each other for the same. 0 is "none yet".

use super::state::{Group, Guardians, Phase, State, Why, majority};
use super::words::NodeId;

const NUMBER_SHIFT: u32 = 48;

/// The first generation of a cluster.
pub fn first_generation(random: u64) -> u64 {
    numbered(1, random)
}

/// The one after `generation`.
pub fn next_generation(generation: u64, random: u64) -> u64 {
    numbered(generation_number(generation).saturating_add(1), random)
}

/// Which of a cluster's generations it is, counted from 1.
pub fn generation_number(generation: u64) -> u64 {
    generation >> NUMBER_SHIFT
}

fn numbered(number: u64, random: u64) -> u64 {
    (number.min(u64::from(u16::MAX)) << NUMBER_SHIFT) | (random >> (64 - NUMBER_SHIFT)).max(1)
}

impl State {
    /// What `me` goes on with alone: the only node, guardian and member, and to be promoted wherever it has an instance.
    /// Numbers, epochs and histories go on; nothing of the others is kept, so that their names are free.
    #[must_use]
    pub fn left_to(&self, me: NodeId) -> State {
        let mut state = self.clone();
        state.nodes.retain(|node, _| *node == me);
        state.guardians = Guardians {
            now: [me].into(),
            next: None,
            version: self.guardians.version.next(),
            renewed: Default::default(),
        };
        state.groups.values_mut().for_each(|group| group.left_to(me));
        state
    }
}

impl Group {
    fn left_to(&mut self, me: NodeId) {
        self.members.retain(|node, _| *node == me);
        self.followers.clear();
        self.departed.clear();
        self.former_quorum = None;
        self.quorum = u32::try_from(majority(self.members.len())).unwrap_or(u32::MAX);
        if !matches!(self.phase, Phase::Sealing { .. }) {
            self.phase = Phase::Sealing { next: self.epoch.next(), why: Why::Operator, to: None };
        }
        self.forced = self.members.get(&me).filter(|member| member.priority > 0).map(|_| me);
        self.version = self.version.next();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_count_and_differ() {
        let first = first_generation(u64::MAX);
        let (one, other) = (next_generation(first, 1 << 60), next_generation(first, 2 << 60));
        assert_eq!((generation_number(first), generation_number(one), generation_number(other)), (1, 2, 2));
        assert_ne!(one, other, "two nodes that were each told to go on alone");
        assert_ne!(first_generation(0), 0);
        let last = (0..70_000).fold(first, |generation, _| next_generation(generation, 7));
        assert_eq!(generation_number(last), u64::from(u16::MAX), "it stays there rather than begin anew");
        assert_eq!(generation_number(0), 0);
    }
}
