//! Watching and commanding a real `redis-server` on loopback and unix sockets: what is seen of crashes, hangs,
//! loading and scripts, and that each posture command does what the protocol needs (S3, S6, S7, S9, S10).
//!
//! Every server lives in a temporary directory, dies with the test (by pid, and by PR_SET_PDEATHSIG should the
//! test itself be killed) and listens on a free loopback port and a unix socket.

#[path = "redis/server.rs"]
mod server;

#[path = "redis/detect.rs"]
mod detect;
#[path = "redis/dump.rs"]
mod dump;
#[path = "redis/fence.rs"]
mod fence;
#[path = "redis/posture.rs"]
mod posture;
