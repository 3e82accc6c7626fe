//! Keeps the agent's memory from being paged out: a host that is short of it must not lose its lease for that.
//!
//! Pages are locked as they are touched, not all at once: the store's map is large and mostly empty. Only where the limit
//! is infinite, as the unit sets it: under a smaller one, later allocations would fail.

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use std::io;

/// Locks what is used now and later, if that is allowed.
pub(super) fn lock() {
    let free = getrlimit(Resource::RLIMIT_MEMLOCK).is_ok_and(|(soft, _)| soft == RLIM_INFINITY);
    if !free {
        tracing::info!(target: crate::DETAIL, "memory is not locked: the limit (LimitMEMLOCK=) is not infinite");
        return;
    }
    if let Err(error) = lock_on_fault() {
        tracing::warn!(error = %error, "memory could not be locked");
    }
}

#[allow(unsafe_code)]
fn lock_on_fault() -> io::Result<()> {
    // SAFETY: mlockall takes flags alone, and changes where pages live but nothing that the program can observe of them.
    let locked = unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) };
    if locked == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
