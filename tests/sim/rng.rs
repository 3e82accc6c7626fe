//! A small seeded generator (splitmix64), so that a seed replays its run on any machine and with any toolchain.
//!
//! A steady one answers every question with the middle of what it could be: a told story then depends on the seed and on
//! the order of the questions in nothing but its identifiers.

/// The stream of one run.
#[derive(Debug, Clone)]
pub struct Rng {
    state: u64,
    steady: bool,
}

impl Rng {
    /// The stream that belongs to a seed.
    pub fn new(seed: u64) -> Self {
        Self { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x6d61_696e_7374_6179, steady: false }
    }

    /// No chance at all: the middle of every range, and of every choice the first.
    pub fn steady(seed: u64) -> Self {
        Self { steady: true, ..Self::new(seed) }
    }

    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of `0..n`.
    pub fn below(&mut self, n: u64) -> u64 {
        match n {
            0 => 0,
            _ if self.steady => n / 2,
            _ => self.draw() % n,
        }
    }

    /// One of `low..high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low))
    }

    /// True in so many of a thousand cases.
    pub fn permille(&mut self, share: u64) -> bool {
        if self.steady { share > 500 } else { self.below(1000) < share }
    }

    /// An index below `n`.
    pub fn index(&mut self, n: usize) -> usize {
        if self.steady { 0 } else { usize::try_from(self.below(n as u64)).unwrap_or(0) }
    }
}
