//! mainstay keeps one Redis (or Valkey) primary standing.
//!
//! The crate's map, lowest layer first; imports point down (a test holds the code to it):
//! - layer 0: [`cluster`] (vocabulary, replicated state, `apply`), [`resp`] (frames of the Redis protocol)
//! - layer 1: [`view`] (what this node knows), [`decide`] (what to do)
//! - layer 2: [`config`] (the file), [`store`] (Raft's log and the node's own record), [`raft`] (the agents' agreement),
//!   [`redis`] (watch and command the instance), [`vip`] (the floating address), [`wire`] (authenticated, encrypted peer
//!   connections)
//! - layer 3: [`ctl`] (the operator's socket, status), [`sentinel`] (clients ask where the primary is), [`setup`]
//!   (`mainstay init`)
//! - layer 4: [`agent`] (the loop)
//!
//! The core decides and does no I/O; the shells act and decide nothing. ARCHITECTURE.md tells the protocol.

pub mod agent;
pub mod cluster;
pub mod config;
pub mod ctl;
pub mod decide;
pub mod raft;
pub mod redis;
pub mod resp;
pub mod sentinel;
pub mod setup;
pub mod store;
pub mod view;
pub mod vip;
pub mod wire;

/// The target of what only somebody who looks for a fault wants to read: `MAINSTAY_LOG=mainstay=info` logs it. Debug
/// events proper are left out of a release, for those of the Raft library are a thirtieth of the program.
pub(crate) const DETAIL: &str = "mainstay::detail";
