//! Authenticated, encrypted connections between agents, and the framing on them.
//!
//! Holds the cluster key, the Noise handshake, the opening `Hello` exchange, framing with chunking, a redialling
//! request client, a one-way "latest wins" client, the serving side and the listener. Payloads are opaque bytes: this
//! module must never know what Raft or the protocol put into them, and never log or print key material.
//!
//! What it promises to those above: nothing a stranger sends is acted on (a replayed first message included), nothing
//! is allocated because a length was claimed, every queue and wait is bounded, and a dropped link is reported at once
//! (the survivors of a dead leader nudge a pre-vote on it). No rule rests on the wire alone: messages may be lost with
//! a connection, and S1..S3 hold whatever is lost or late.

mod client;
mod conn;
mod error;
mod frame;
mod handshake;
mod hello;
mod keys;
mod link;
mod listen;
mod outbox;
#[doc(hidden)]
pub mod probe;
mod server;
#[cfg(test)]
mod tests;

pub use client::{ClientOptions, GossipClient, GossipSent, RpcClient};
pub use conn::{Conn, ConnReceiver, ConnSender, Timing, accept, dial, resolve};
pub use error::{CallError, Fault, Malformed, WireError};
pub use frame::{Class, Frame, MAX_MESSAGE};
pub use hello::{Admission, Hello, Lane, Local, Refusal, RefusalCode, check_cluster};
pub use keys::{KeyChoice, KeyError, Keys, generate_key, parse_key_file, read_key_file};
pub use link::LinkState;
pub use listen::{ListenOptions, Listener, listen};
pub use server::{Handler, ServeOptions, serve};

/// Version of everything in this module that two agents must agree on: handshake, framing and `Hello`.
pub const WIRE_VERSION: u8 = 1;
