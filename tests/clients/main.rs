//! Real client libraries against our agents, and against a Redis Sentinel trio beside them.
//!
//! redis-py (blocking and asyncio), kombu, ioredis, node-redis, the redis crate and `redis-cli` are the real ones; Jedis,
//! Lettuce, go-redis and StackExchange.Redis are replayed by what their sources put on the wire ([`replay`]). Hosts, wire
//! and processes are the lab's. `sh tests/clients/install.sh` installs what the libraries need; without it the tests fail
//! and say so.
//!
//! [`course`] is what each client goes through, [`migration`] takes a living Sentinel group over.

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

mod client;
mod course;
mod migration;
mod record;
mod replay;
mod sentinels;
mod session;
mod system;
mod wire;
