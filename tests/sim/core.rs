//! The core alone, from its own sources, as a small crate under the real one's name: the simulator needs nothing else,
//! and so it is built optimised within seconds. See `Cargo.toml` beside this file.

#[path = "../../src/cluster/mod.rs"]
pub mod cluster;
#[path = "core_ctl.rs"]
pub mod ctl;
#[path = "../../src/decide/mod.rs"]
pub mod decide;
#[path = "../../src/view/mod.rs"]
pub mod view;
