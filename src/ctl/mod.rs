//! The operator's side of the agent: the control socket and what the command line prints.
//!
//! [`protocol`] says what may be asked and answered; [`status`] turns a view into the [`report`] that `status --json`
//! prints; [`server`] is the agent's end of the socket, [`client`] the command line's; [`render`] sets reports for
//! a terminal, and [`command`] runs the commands that only talk to the socket.
//!
//! It must never change anything by itself: a request is handed to the agent's loop, which answers. What an operator
//! reads comes from the same reasons the decisions carry, so that status and log never tell different tales. Every
//! connection, line and wait is bounded: a stuck client costs the agent nothing, a stuck agent costs the operator seconds.

pub mod catalog;
pub mod client;
pub mod command;
pub mod events;
pub mod exit;
pub mod force;
pub mod insist;
pub mod protocol;
pub mod render;
pub mod report;
pub mod server;
pub mod silence;
pub mod status;

/// Where the control socket is when neither `--socket` nor a config says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/mainstay/mainstay.sock";

#[cfg(test)]
mod tests;
