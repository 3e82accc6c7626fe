//! A log-bucketed histogram of a few kilobytes: what openraft needs of the crate of this name, and no more.
//!
//! The published crate builds lookup tables of 26 MB at first use, four times the memory of a whole agent. This one
//! computes the bucket of a value from its leading bits, so it needs no table. Every octave has four buckets: a
//! percentile is at most a quarter of its value off, and exact below eight.
//!
//! It holds [`Histogram`], [`PercentileStats`] and [`AsciiChart`] under the names openraft uses. It must never allocate
//! beyond the fixed buckets when recording, and never panic or wrap: counts saturate.

use std::fmt;
use std::marker::PhantomData;

/// Bits of a value behind its leading one that choose the bucket within an octave.
const PRECISION: u32 = 2;
/// Buckets per octave.
const PER_OCTAVE: usize = 1 << PRECISION;
/// Below this every value has its own bucket.
const EXACT: u64 = 2 * PER_OCTAVE as u64;
/// Covers all of `u64`: the exact ones, and four for each octave from 8 to 2^64.
const BUCKETS: usize = EXACT as usize + (64 - EXACT.trailing_zeros() as usize) * PER_OCTAVE;

/// The bucket of a value.
fn bucket_of(value: u64) -> usize {
    if value < EXACT {
        return value as usize;
    }
    let octave = 63 - value.leading_zeros();
    let within = (value >> (octave - PRECISION)) as usize & (PER_OCTAVE - 1);
    EXACT as usize + (octave - EXACT.trailing_zeros()) as usize * PER_OCTAVE + within
}

/// The smallest and largest value of a bucket.
fn bounds_of(bucket: usize) -> (u64, u64) {
    if bucket < EXACT as usize {
        return (bucket as u64, bucket as u64);
    }
    let above = bucket - EXACT as usize;
    let octave = EXACT.trailing_zeros() + (above / PER_OCTAVE) as u32;
    let width = 1_u64 << (octave - PRECISION);
    let low = (1_u64 << octave) + (above % PER_OCTAVE) as u64 * width;
    (low, low + (width - 1))
}

/// Counts of values in buckets whose width grows with the value.
///
/// `T` is a label that the published crate attaches to windows of time; no value of it is kept here.
pub struct Histogram<T = ()> {
    counts: Box<[u64; BUCKETS]>,
    total: u64,
    label: PhantomData<fn() -> T>,
}

impl<T> Histogram<T> {
    /// An empty histogram.
    #[must_use]
    pub fn new() -> Self {
        Self { counts: Box::new([0; BUCKETS]), total: 0, label: PhantomData }
    }

    /// Counts one value.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts a value `count` times.
    pub fn record_n(&mut self, value: u64, count: u64) {
        let slot = &mut self.counts[bucket_of(value)];
        *slot = slot.saturating_add(count);
        self.total = self.total.saturating_add(count);
    }

    /// How many values were counted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The value below or at which the share `p` (0.0 to 1.0) of all values lies, to the precision of its bucket; 0
    /// if nothing was counted.
    #[must_use]
    pub fn percentile(&self, p: f64) -> u64 {
        if self.total == 0 {
            return 0;
        }
        let wanted = ((self.total as f64 * p.clamp(0.0, 1.0)).ceil() as u64).max(1);
        let mut seen = 0_u64;
        let found = self.counts.iter().position(|count| {
            seen = seen.saturating_add(*count);
            seen >= wanted
        });
        let (low, high) = bounds_of(found.unwrap_or(BUCKETS - 1));
        low + (high - low) / 2
    }

    /// The percentiles that reports show.
    #[must_use]
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.total,
            p0_1: self.percentile(0.001),
            p1: self.percentile(0.01),
            p5: self.percentile(0.05),
            p10: self.percentile(0.1),
            p50: self.percentile(0.5),
            p90: self.percentile(0.9),
            p99: self.percentile(0.99),
            p99_9: self.percentile(0.999),
        }
    }

    fn filled(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.counts.iter().copied().enumerate().filter(|(_, count)| *count > 0)
    }
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Clone for Histogram<T> {
    fn clone(&self) -> Self {
        Self { counts: self.counts.clone(), total: self.total, label: PhantomData }
    }
}

impl<T> PartialEq for Histogram<T> {
    fn eq(&self, other: &Self) -> bool {
        self.counts == other.counts
    }
}

impl<T> Eq for Histogram<T> {}

impl<T> fmt::Debug for Histogram<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.filled().map(|(bucket, count)| (bounds_of(bucket), count))).finish()
    }
}

/// Percentiles of a histogram, in the unit of its values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PercentileStats {
    /// How many values were counted.
    pub samples: u64,
    /// One value in a thousand is at or below this.
    pub p0_1: u64,
    /// 1 %.
    pub p1: u64,
    /// 5 %.
    pub p5: u64,
    /// 10 %.
    pub p10: u64,
    /// The median.
    pub p50: u64,
    /// 90 %.
    pub p90: u64,
    /// 99 %.
    pub p99: u64,
    /// 99.9 %.
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { samples, p0_1, p1, p5, p10, p50, p90, p99, p99_9 } = self;
        write!(
            f,
            "{samples} samples, 0.1%: {p0_1}, 1%: {p1}, 5%: {p5}, 10%: {p10}, 50%: {p50}, 90%: {p90}, 99%: {p99}, \
             99.9%: {p99_9}"
        )
    }
}

/// Histograms as bars of text.
#[derive(Debug, Clone)]
pub struct AsciiChart<T = ()> {
    series: Vec<(String, Histogram<T>)>,
}

/// Longest bar, characters.
const BAR: u64 = 40;

impl<T> AsciiChart<T> {
    /// A chart without series.
    #[must_use]
    pub fn new() -> Self {
        Self { series: Vec::new() }
    }

    /// Adds a named series.
    #[must_use]
    pub fn add(mut self, name: &str, histogram: Histogram<T>) -> Self {
        self.series.push((name.to_owned(), histogram));
        self
    }

    /// The chart with ranges, bars and counts.
    #[must_use]
    pub fn detailed(&self) -> impl fmt::Display + '_ {
        Detailed(&self.series)
    }
}

impl<T> Default for AsciiChart<T> {
    fn default() -> Self {
        Self::new()
    }
}

struct Detailed<'a, T>(&'a [(String, Histogram<T>)]);

impl<T> fmt::Display for Detailed<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, histogram) in self.0 {
            writeln!(f, "{name}: {}", histogram.percentile_stats())?;
            let most = histogram.filled().map(|(_, count)| count).max().unwrap_or(1);
            for (bucket, count) in histogram.filled() {
                let (low, high) = bounds_of(bucket);
                let length = (u128::from(count) * u128::from(BAR)).div_ceil(u128::from(most)) as usize;
                writeln!(f, "[{low}, {high}] {} {count}", "#".repeat(length))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_cover_every_value_once_and_in_order() {
        let mut next = 0_u64;
        for bucket in 0..BUCKETS {
            let (low, high) = bounds_of(bucket);
            assert_eq!(low, next, "bucket {bucket} begins where the one before ends");
            assert_eq!((bucket_of(low), bucket_of(high)), (bucket, bucket));
            next = high.wrapping_add(1);
        }
        assert_eq!(next, 0, "the last bucket ends at the largest u64");
    }

    #[test]
    fn percentiles_are_within_a_quarter() {
        let mut histogram = Histogram::<()>::new();
        for value in 1..=10_000 {
            histogram.record(value);
        }
        assert_eq!(histogram.total(), 10_000);
        for (p, exact) in [(0.001, 10.0), (0.01, 100.0), (0.5, 5_000.0), (0.9, 9_000.0), (0.999, 9_990.0)] {
            let got = histogram.percentile(p) as f64;
            assert!((got - exact).abs() <= exact / 4.0, "{p}: {got} is not near {exact}");
        }
    }

    #[test]
    fn small_values_are_exact_and_an_empty_one_is_zero() {
        let mut histogram = Histogram::<()>::new();
        assert_eq!(histogram.percentile_stats(), PercentileStats::default());
        histogram.record_n(1, 98);
        histogram.record_n(7, 2);
        let stats = histogram.percentile_stats();
        assert_eq!((stats.samples, stats.p50, stats.p99), (100, 1, 7));
    }

    #[test]
    fn counts_saturate() {
        let mut histogram = Histogram::<()>::new();
        histogram.record_n(u64::MAX, u64::MAX);
        histogram.record_n(u64::MAX, 1);
        histogram.record(0);
        assert_eq!(histogram.total(), u64::MAX);
        assert!(histogram.percentile(1.0) > u64::MAX / 8 * 7);
        assert_eq!(histogram.percentile(0.0), 0);
    }

    #[test]
    fn a_clone_is_equal_until_it_counts() {
        let mut histogram = Histogram::<()>::new();
        histogram.record(5);
        let mut other = histogram.clone();
        assert_eq!(histogram, other);
        other.record(6);
        assert_ne!(histogram, other);
        let chart = AsciiChart::new().add("stage", other).detailed().to_string();
        assert!(chart.contains("stage: 2 samples") && chart.contains("[5, 5] ###"), "{chart}");
    }

    #[test]
    fn it_stays_small() {
        assert!(std::mem::size_of::<[u64; BUCKETS]>() < 4096);
    }
}
