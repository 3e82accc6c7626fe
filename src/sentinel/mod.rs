//! The Sentinel-compatible endpoint: clients ask any agent where the primary is, and hear of every change.
//!
//! The agent's loop hands its view to [`Endpoint::look`], which makes a [`Picture`] of it and the [`News`] between two
//! pictures. Connections live on a thread of their own and answer from the last picture alone, so that no client, however
//! many or greedy, takes time from the loop that holds the lease. Everything is bounded: connections, what one of them may
//! send, listen to and leave unread.
//!
//! Upholds S9: an address is given out, and `+switch-master` said, only while the instance it names may be said to serve
//! ([`crate::view::View::holder`]); never the VIP, and never what was true a moment ago. It decides nothing; the one thing
//! that a client can make happen, a failover, is handed to the loop as an operator's switchover.

mod commands;
mod converse;
mod endpoint;
mod fields;
mod glob;
mod groups;
mod herald;
mod house;
mod info;
mod picture;
pub mod probe;
mod reporter;
mod session;

pub use endpoint::{Endpoint, Failover, MAX_CLIENTS, Options};
pub use glob::fits;
pub use herald::{Herald, News};
pub use house::{House, Login};
pub use picture::{Address, Agent, Group, Instance, Picture, Role, Stage};
pub use reporter::Reporter;
pub use session::{Context, Effect, HELLO, Session};

#[cfg(test)]
mod tests;
