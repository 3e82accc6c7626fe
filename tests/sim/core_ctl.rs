//! What the operator's prompt is made of, from its own sources: what a promotion by force may lose (see `core.rs`).

#[path = "../../src/ctl/force.rs"]
pub mod force;
#[allow(dead_code, reason = "status asks for the rest")]
#[path = "../../src/ctl/silence.rs"]
pub mod silence;
