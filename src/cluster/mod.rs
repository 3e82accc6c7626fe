//! The vocabulary and the replicated state: what the agents agree on through Raft.
//!
//! Holds the newtypes every other module speaks in, the [`State`] that the Raft log builds, the [`Command`]s that
//! change it and the deterministic [`State::apply`], and the durable local record ([`Local`]) that a node keeps of its
//! own seals and of the lineage of its instance's data.
//!
//! It must never look at a clock, a socket, the environment or a random number, and never iterate an unordered map:
//! every node that applies the same log holds the same state, byte for byte.
//!
//! Upholds S3 and S4 (epochs only grow, `Promote` only out of a seal), S5 (the followers set grows and shrinks by commit
//! only, and what R counts), S12 (guardians change jointly).

mod apply;
mod command;
mod generation;
mod local;
mod state;
mod words;

pub use apply::Rejection;
pub use command::{Command, Expect, GroupCommand, GroupIntro, GuardianChange, PhaseKind};
pub use generation::{first_generation, generation_number, next_generation};
pub use local::{Attached, Diverged, Lineage, Local, LocalGroup};
pub use state::{
    CAUSE_LIMIT, Change, Departed, Durability, Follower, FormerQuorum, Ground, Group, Guarantee, Guardians,
    HISTORY_LIMIT, Incumbent, Lost, Member, Node, Pause, Phase, START_LIMIT, Start, State, Why, majority,
};
pub use words::{Epoch, GroupName, Incarnation, NodeId, Offset, Replid, RunId, Version};

#[cfg(test)]
mod tests;
