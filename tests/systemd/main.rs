//! The agent under systemd: what it tells the service manager, and what it writes to the journal.

#![allow(unreachable_pub)]

#[path = "../ci/mod.rs"]
mod ci;
mod journal;
mod lapsed;
mod notify;
mod reload;
mod support;
mod unread;
