//! The kernel's rule for an address with a lifetime (S8), as far as a VIP needs it. Held to real kernels in
//! `tests/vip/model.rs`, which includes this file.
//!
//! Left out on purpose: that somebody else takes the VIP off or puts a copy of it elsewhere; the shell's own tests do
//! both.

/// The kernel removes an address up to a fiftieth of a second before its time, since it takes together what is due.
const EARLY: u64 = 20_000_000;
/// It looks again a second after its last look at the earliest, and another address's refresh is such a look.
const LATE: u64 = 1_000_000_000;

/// When the kernel removes an address whose lifetime nobody prolongs; in nanoseconds of any one clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// It stands until here.
    pub earliest: u64,
    /// It is gone from here on.
    pub latest: u64,
}

/// Its lifetime is set to `valid`, of whole seconds, at `now`: whatever it was before.
pub fn window(now: u64, valid: u64) -> Window {
    Window { earliest: (now + valid).saturating_sub(EARLY), latest: now + valid + LATE }
}

/// A moment within it.
pub fn moment(window: Window, draw: u64) -> u64 {
    window.earliest + draw % (window.latest - window.earliest)
}
