//! The one rule for what counts as CI: the variable `CI` is `true`, as `.ci/run` sets it.
//!
//! There no test is skipped: what a machine cannot do fails, with the reason.

#![allow(dead_code, unreachable_pub, reason = "each test target uses its part of it")]

/// Whether this is CI.
pub fn is_ci() -> bool {
    std::env::var("CI").is_ok_and(|ci| ci == "true")
}

/// Skips what this machine cannot do.
///
/// # Panics
/// In CI, with the reason.
pub fn skip(reason: &str) {
    assert!(!is_ci(), "CI=true, and this machine cannot do it: {reason}");
    println!("skipped: {reason}");
}
