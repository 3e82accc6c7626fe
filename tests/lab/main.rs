//! The lab: real agents, real Redis and a real floating address on hosts that
//! are network namespaces, joined by a switch that the harness itself is.
//!
//! Every test body runs inside [`lab::in_lab`]: one lab at a time, its own
//! directory, its own seed (printed; `LAB_SEED=n` replays it), everything
//! gone afterwards. A test says what it wants of [`cluster::Cluster`], breaks
//! something, and judges the [`history::History`] of what clients were told.
//!
//! Needs root, namespaces and /dev/net/tun. Where they are missing a test
//! prints why it is skipped, and fails if `CI=true`.
//!
//! `LAB_KEEP=1` keeps the directory of a test that passed.

#![allow(dead_code, unreachable_pub)]

mod alike;
#[path = "../ci/mod.rs"]
mod ci;
mod cluster;
mod cold;
mod data;
mod disk;
mod faults;
mod files;
mod floating;
mod full_disk;
mod generation;
mod groups;
mod growth;
mod handover;
mod history;
mod host;
mod lab;
mod leaving;
mod members;
mod net;
mod policy;
mod proc;
mod resp;
mod rights;
mod sentinel;
mod spared;
mod switch;
mod wall;
mod watch;
mod within;
mod writer;

mod selftest_cleanup;
mod selftest_net;
mod selftest_redis;
