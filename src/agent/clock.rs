//! The one clock safety hangs on: CLOCK_BOOTTIME, which goes on in suspend (S1).

use crate::view::Moment;
use nix::time::{ClockId, clock_gettime};
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// Now, by CLOCK_BOOTTIME.
pub(crate) fn now() -> Moment {
    // The call cannot fail on Linux for this clock; zero would be "just booted", under which no lease is live.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Moment(0), |time| {
        let secs = u64::try_from(time.tv_sec()).unwrap_or(0);
        Moment(secs.saturating_mul(1_000_000_000) + u64::try_from(time.tv_nsec()).unwrap_or(0))
    })
}

/// The wall clock, milliseconds since 1970. For people only.
pub(crate) fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0))
}

/// The runtime's instant for a moment to come.
pub(crate) fn instant(at: Moment) -> Instant {
    Instant::now() + at.since(now())
}

/// This boot's id: a stamp from another boot says nothing about this one.
///
/// # Errors
/// `/proc/sys/kernel/random/boot_id` cannot be read. Without it no stamp can be believed, and none may be written.
pub(crate) fn boot_id() -> io::Result<String> {
    systemd::id128::Id128::from_boot().map(|id| id.to_string()).map_err(io::Error::other)
}

/// So long from now, in the runtime's time.
pub(crate) fn within(length: Duration) -> Instant {
    Instant::now() + length
}
