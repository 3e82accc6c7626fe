//! The package, as a user meets it: built as a .deb, installed by apt into containers that boot a real systemd, three of
//! them one cluster on one bridge, and a client on that bridge that remembers every acknowledged write.
//!
//! - [`deb`] builds the package and a newer one, [`image`] a Debian by mmdebstrap; both are kept in `target/package` and
//!   made anew only when what they are made of has changed.
//! - [`machine`] is one container, [`hub`] the bridge and the client's place on it, [`trio`] three machines as a cluster.
//! - [`story`] is told step by step, each with its figures; [`papers`] looks at the package without installing it.
//!
//! Needs root and what `tests/run.sh` installs. Where that is missing a test prints why it is skipped, and fails if
//! `CI=true`. `PACKAGE_KEEP=1` keeps the machines' disks, and `PACKAGE_STEPS=word,word` runs only some steps.

#![allow(dead_code, unreachable_pub)]

#[path = "../ci/mod.rs"]
mod ci;
#[path = "../lab/history.rs"]
mod history;
#[path = "../lab/resp.rs"]
mod resp;
#[path = "../lab/within.rs"]
mod within;
#[path = "../lab/writer.rs"]
mod writer;

mod arrive;
mod deb;
mod hub;
mod image;
mod lab;
mod machine;
mod net;
mod papers;
mod remains;
mod setup;
mod steps;
mod story;
mod trio;
