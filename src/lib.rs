//! mainstay keeps one Redis (or Valkey) primary standing.
//!
//! The crate's map, lowest layer first; imports point down (a test holds the code to it):
//! - layer 0: [`cluster`] (vocabulary, replicated state, `apply`)
//!
//! The core decides and does no I/O; the shells act and decide nothing. ARCHITECTURE.md tells the protocol.

pub mod agent;
pub mod cluster;
pub mod config;
pub mod ctl;
pub mod decide;
pub mod redis;
pub mod view;
pub mod vip;
pub mod wire;
