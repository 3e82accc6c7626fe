//! The one timing knob, `lease`, and every interval that is a fixed fraction of it.
//!
//! Holds the fractions as constants and asserts the relations that the protocol needs between them: at compile
//! time as ratios, and in [`Fractions::check`] as the rounded values that a configured lease really gives (the
//! config reader refuses a lease that breaks one). No other module may derive an interval from the lease by itself.
//! Upholds the timing side of S1 (5/6 of a lease counts), S3 (a poll answered within lease/6), S8 (the leash
//! outlives the lease) and S9 (a fence confirmed within lease/8).

use std::time::Duration;

/// The lease when the file names none.
pub const DEFAULT_LEASE: Duration = Duration::from_millis(800);
/// Shortest and longest lease accepted, in milliseconds.
pub const LEASE_RANGE_MS: std::ops::RangeInclusive<u64> = 200..=60_000;
/// Patience with a silent instance when the file names none and the lease is not longer.
pub const DEFAULT_HANG_AFTER: Duration = Duration::from_millis(5_000);
/// The longest `hang_after_ms` accepted: ten minutes.
pub const MAX_HANG_AFTER_MS: u64 = 600_000;
/// How long a cold start under `durability = "available"` waits for members that cannot be reached (S14).
pub const COLD_START_WAIT: Duration = Duration::from_secs(30);

/// A fraction of the lease: numerator and denominator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ratio(u32, u32);

impl Ratio {
    /// `self <= other`, exactly.
    const fn at_most(self, other: Ratio) -> bool {
        self.0 * other.1 <= other.0 * self.1
    }

    /// `times * self`, exactly.
    const fn times(self, times: u32) -> Ratio {
        Ratio(self.0 * times, self.1)
    }

    fn of(self, lease: Duration) -> Duration {
        lease * self.0 / self.1
    }
}

const RENEWAL: Ratio = Ratio(1, 5);
const HEARTBEAT: Ratio = Ratio(1, 8);
const ELECTION_MIN: Ratio = Ratio(1, 4);
const ELECTION_MAX: Ratio = Ratio(1, 2);
const PROMISE_COUNTS: Ratio = Ratio(5, 6);
const POLL_FRESH: Ratio = Ratio(1, 6);
const FENCE_CONFIRM: Ratio = Ratio(1, 8);
/// The VIP's `valid_lft` counts whole seconds and the kernel rounds; below two it may vanish between refreshes.
const SHORTEST_LEASH: u64 = 2;

// Four renewals fit in the time a promise counts, so three lost ones in a row are not yet a lapse.
const _: () = assert!(RENEWAL.times(4).at_most(PROMISE_COUNTS));
// A leader is missed only after two heartbeats.
const _: () = assert!(HEARTBEAT.times(2).at_most(ELECTION_MIN));
// Time-outs need a spread, or candidates collide for ever.
const _: () = assert!(ELECTION_MIN.times(2).at_most(ELECTION_MAX));
// A new leader stands before the promises to a dead primary have run out, even if the first election is split.
const _: () = assert!(ELECTION_MAX.times(2).at_most(Ratio(1, 1)));
// What lapses for the primary has not yet run out for the guardians; a fence fits in between.
const _: () = assert!(
    PROMISE_COUNTS.0 * FENCE_CONFIRM.1 + FENCE_CONFIRM.0 * PROMISE_COUNTS.1
        <= PROMISE_COUNTS.1 * FENCE_CONFIRM.1
);
// A poll's answers are used well before a promise given after it could have run out.
const _: () = assert!(POLL_FRESH.times(2).at_most(ELECTION_MAX));

/// What the operator sets about time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How long a majority's promise lets a primary serve (S1). Seeds the replicated value.
    pub lease: Duration,
    /// Patience with an instance that is alive but does not answer (S7).
    pub hang_after: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            lease: DEFAULT_LEASE,
            hang_after: DEFAULT_HANG_AFTER,
        }
    }
}

impl Timing {
    /// The intervals that follow from the lease.
    #[must_use]
    pub fn fractions(&self) -> Fractions {
        Fractions::of(self.lease)
    }
}

/// Every interval derived from the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fractions {
    /// The lease itself.
    pub lease: Duration,
    /// The primary sends a renewal this often: lease/5.
    pub renewal: Duration,
    /// The Raft leader sends a heartbeat this often: lease/8.
    pub heartbeat: Duration,
    /// The shortest Raft election time-out: lease/4.
    pub election_min: Duration,
    /// The longest Raft election time-out: lease/2.
    pub election_max: Duration,
    /// A promise counts this long from when the answered renewal was sent: 5/6 lease (S1).
    pub promise_counts: Duration,
    /// Answers to a poll sent longer ago than this are not used to propose a seal: lease/6 (S3).
    pub poll_fresh: Duration,
    /// A fence not confirmed within this time is done by force: lease/8 (S9).
    pub fence_confirm: Duration,
    /// The VIP's `valid_lft`, whole seconds: `max(2, ceil(lease) + 1)` (S8).
    pub leash: Duration,
}

impl Fractions {
    /// Derives every interval from `lease`.
    #[must_use]
    pub fn of(lease: Duration) -> Self {
        let whole = lease.as_secs() + u64::from(lease.subsec_nanos() > 0);
        Fractions {
            lease,
            renewal: RENEWAL.of(lease),
            heartbeat: HEARTBEAT.of(lease),
            election_min: ELECTION_MIN.of(lease),
            election_max: ELECTION_MAX.of(lease),
            promise_counts: PROMISE_COUNTS.of(lease),
            poll_fresh: POLL_FRESH.of(lease),
            fence_confirm: FENCE_CONFIRM.of(lease),
            leash: Duration::from_secs((whole + 1).max(SHORTEST_LEASH)),
        }
    }

    /// The leash in the kernel's unit.
    #[must_use]
    pub fn leash_secs(&self) -> u32 {
        u32::try_from(self.leash.as_secs()).unwrap_or(u32::MAX)
    }

    /// The relations the protocol needs, on the rounded values.
    ///
    /// # Errors
    /// Names the first relation that does not hold. None can fail inside [`LEASE_RANGE_MS`]; a test walks it whole.
    pub fn check(&self) -> Result<(), BrokenRelation> {
        let slack = self.lease.saturating_sub(self.promise_counts);
        let relations = [
            (
                self.heartbeat >= Duration::from_millis(20),
                BrokenRelation::HeartbeatTooFast,
            ),
            (
                self.renewal * 4 <= self.promise_counts,
                BrokenRelation::RenewalTooSlow,
            ),
            (
                self.heartbeat * 2 <= self.election_min,
                BrokenRelation::ElectionTooSoon,
            ),
            (
                self.election_min * 2 <= self.election_max,
                BrokenRelation::NoElectionSpread,
            ),
            (
                self.election_max * 2 <= self.lease,
                BrokenRelation::ElectionTooLate,
            ),
            (self.fence_confirm <= slack, BrokenRelation::FenceTooLate),
            // The kernel counts it in seconds; one of them is spare.
            (
                self.leash >= self.lease + Duration::from_secs(1),
                BrokenRelation::LeashTooShort,
            ),
        ];
        match relations.into_iter().find(|(holds, _)| !holds) {
            Some((_, broken)) => Err(broken),
            None => Ok(()),
        }
    }
}

/// A relation between intervals that a lease does not give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BrokenRelation {
    /// Heartbeats closer together than timers and fsync can hold.
    #[error("Raft heartbeats (lease/8) would be less than 20 ms apart")]
    HeartbeatTooFast,
    /// Fewer than four renewals in the time a promise counts.
    #[error("four renewals (lease/5) would not fit in 5/6 of the lease")]
    RenewalTooSlow,
    /// One late heartbeat would start an election.
    #[error("two heartbeats (lease/8) would not fit in the shortest election time-out (lease/4)")]
    ElectionTooSoon,
    /// Candidates would collide.
    #[error("election time-outs (lease/4 to lease/2) would have no spread")]
    NoElectionSpread,
    /// Promises would run out before anybody leads.
    #[error("two election time-outs (lease/2) would not fit in the lease")]
    ElectionTooLate,
    /// A guardian could seal while the primary still fences.
    #[error("a fence (lease/8) would not fit between 5/6 of the lease and its end")]
    FenceTooLate,
    /// The VIP would vanish under a live agent.
    #[error("the VIP's lifetime would be less than a second longer than the lease")]
    LeashTooShort,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lease_in_range_keeps_the_relations() {
        for ms in LEASE_RANGE_MS {
            let fractions = Fractions::of(Duration::from_millis(ms));
            assert_eq!(fractions.check(), Ok(()), "lease_ms = {ms}");
        }
    }

    #[test]
    fn a_lease_out_of_range_breaks_one() {
        assert_eq!(
            Fractions::of(Duration::from_millis(100)).check(),
            Err(BrokenRelation::HeartbeatTooFast)
        );
    }

    #[test]
    fn the_default_lease_gives_the_documented_intervals() {
        let f = Timing::default().fractions();
        assert_eq!(f.renewal, Duration::from_millis(160));
        assert_eq!(f.heartbeat, Duration::from_millis(100));
        assert_eq!(f.election_min, Duration::from_millis(200));
        assert_eq!(f.election_max, Duration::from_millis(400));
        assert_eq!(f.leash_secs(), 2);
    }

    #[test]
    fn the_leash_is_whole_seconds_above_the_lease() {
        for (ms, secs) in [(200, 2), (1_000, 2), (1_001, 3), (1_500, 3), (60_000, 61)] {
            assert_eq!(
                Fractions::of(Duration::from_millis(ms)).leash_secs(),
                secs,
                "{ms}"
            );
        }
    }
}
