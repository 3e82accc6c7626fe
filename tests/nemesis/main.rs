//! The nemesis: random faults in random overlap on real agents, real Redis and a real floating address, while clients
//! write; afterwards every acknowledged write is accounted for.
//!
//! A run is a row of rounds: start from health, strike, heal, be healthy again within a bound, account. A round's
//! faults follow from the seed and the round's number alone, every other round has a single one. What is demanded is
//! in [`judge`]; what can strike is in [`plan`]. The hosts, the wire and the clients are the lab's.
//!
//! `NEMESIS_SECONDS=n` says how long (180 in CI, 40 elsewhere, shared by the tests); `LAB_SEED=n` replays the faults of
//! a seed, `NEMESIS_ROUND=k` only the k-th round of it, again and again; for hours use
//! `cargo test --test nemesis <name> -- --nocapture`, which has no time limit. `CALM_SECONDS=n` is for [`calm`].

#![allow(dead_code, unreachable_pub)]

#[path = "../ci/mod.rs"]
mod ci;
#[path = "../lab/cluster.rs"]
mod cluster;
#[path = "../lab/disk.rs"]
mod disk;
#[path = "../lab/files.rs"]
mod files;
#[path = "../lab/history.rs"]
mod history;
#[path = "../lab/host.rs"]
mod host;
#[path = "../lab/lab.rs"]
mod lab;
#[path = "../lab/net.rs"]
mod net;
#[path = "../lab/policy.rs"]
mod policy;
#[path = "../lab/proc.rs"]
mod proc;
#[path = "../lab/resp.rs"]
mod resp;
#[path = "../lab/switch.rs"]
mod switch;
#[path = "../lab/wall.rs"]
mod wall;
#[path = "../lab/watch.rs"]
mod watch;
#[path = "../lab/within.rs"]
mod within;
#[path = "../lab/writer.rs"]
mod writer;

mod calm;
mod counter;
mod events;
mod hands;
mod judge;
mod plan;
mod quarantine;
mod run;
mod timeline;
