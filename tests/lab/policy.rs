//! What the switch does to the frames of one directed pair of hosts: loss,
//! delay, jitter, reordering, and the seeded chance behind them.
//!
//! Pure: it takes the time and returns a verdict, and never touches a device.
//! Each pair draws from streams of its own, one for traffic and one for what
//! kernels send by themselves (ARP, neighbour discovery, multicast), and every
//! frame takes the same number of draws: so the fate of a pair's k-th packet
//! depends on the seed and the policy alone, never on other pairs or timing.

use std::time::{Duration, Instant};

/// A small deterministic generator (splitmix64); not for secrets.
#[derive(Debug, Clone)]
pub struct Prng(u64);

impl Prng {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A generator for one purpose, independent of the others of this seed.
    pub fn stream(seed: u64, purpose: u64) -> Self {
        let mut mix = Self(seed ^ purpose.wrapping_mul(0xD6E8_FEB8_6659_FD93));
        Self(mix.next_u64())
    }

    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// How one host's frames fare on their way to one other host.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy {
    /// Nothing passes; frames already under way are lost too.
    pub blocked: bool,
    /// Probability that a frame is lost.
    pub drop: f64,
    /// Every frame waits this long.
    pub delay: Duration,
    /// Plus a uniform share of this; order is kept.
    pub jitter: Duration,
    /// Probability that a frame is overtaken by those behind it…
    pub reorder: f64,
    /// …because it waits this much longer.
    pub reorder_by: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            blocked: false,
            drop: 0.0,
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            reorder: 0.0,
            reorder_by: Duration::from_millis(3),
        }
    }
}

impl Policy {
    /// A link that loses this share of its frames.
    pub fn lossy(drop: f64) -> Self {
        Self { drop, ..Self::default() }
    }

    /// A link that takes this long one way.
    pub fn slow(delay: Duration) -> Self {
        Self { delay, ..Self::default() }
    }

    pub fn with_jitter(self, jitter: Duration) -> Self {
        Self { jitter, ..self }
    }

    pub fn with_reorder(self, reorder: f64) -> Self {
        Self { reorder, ..self }
    }

    pub fn with_drop(self, drop: f64) -> Self {
        Self { drop, ..self }
    }
}

/// Which stream of chance a frame draws from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// IP from host to host.
    Traffic,
    /// Whatever else: the kernel sends it when it likes.
    Upkeep,
}

impl Kind {
    /// Of an Ethernet frame with a whole header.
    pub fn of(frame: &[u8]) -> Self {
        let icmp6 = frame.get(20) == Some(&58);
        match (frame[0] & 1, frame[12], frame[13]) {
            (0, 0x08, 0x00) => Self::Traffic,
            (0, 0x86, 0xdd) if !icmp6 => Self::Traffic,
            _ => Self::Upkeep,
        }
    }
}

/// What becomes of one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Drop,
    DeliverAt(Instant),
}

/// One directed pair: its policy, its stream of chance, and when its last
/// frame in order leaves.
#[derive(Debug)]
pub struct Pair {
    pub policy: Policy,
    /// Frames waiting inside the switch.
    pub held: usize,
    /// Frames handed over, and frames lost, since the start.
    pub passed: u64,
    pub lost: u64,
    traffic: Prng,
    upkeep: Prng,
    last_due: Option<Instant>,
}

/// Frames one directed pair may have waiting: a longer queue drops its tail,
/// as a real switch does.
pub const HELD_MAX: usize = 4096;

impl Pair {
    pub fn new(seed: u64, from: u8, to: u8) -> Self {
        let purpose = (u64::from(from) << 8 | u64::from(to)) << 1;
        Self {
            policy: Policy::default(),
            held: 0,
            passed: 0,
            lost: 0,
            traffic: Prng::stream(seed, purpose),
            upkeep: Prng::stream(seed, purpose | 1),
            last_due: None,
        }
    }

    /// Decides about the next frame of this pair, which arrived at `now`.
    pub fn judge(&mut self, kind: Kind, now: Instant) -> Verdict {
        let chance = match kind {
            Kind::Traffic => &mut self.traffic,
            Kind::Upkeep => &mut self.upkeep,
        };
        let (lose, late, jitter) = (chance.unit(), chance.unit(), chance.unit());
        let p = &self.policy;
        if p.blocked || lose < p.drop || self.held >= HELD_MAX {
            return Verdict::Drop;
        }
        let wish = now + p.delay + p.jitter.mul_f64(jitter);
        if late < p.reorder {
            // Steps out of the line: those behind it need not wait for it.
            return Verdict::DeliverAt(wish + p.reorder_by);
        }
        let due = self.last_due.map_or(wish, |last| wish.max(last));
        self.last_due = Some(due);
        Verdict::DeliverAt(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fates(seed: u64, policy: Policy) -> Vec<Option<Duration>> {
        let start = Instant::now();
        let mut pair = Pair::new(seed, 1, 2);
        pair.policy = policy;
        (0..400u64)
            .map(|k| {
                let now = start + Duration::from_millis(k);
                match pair.judge(Kind::Traffic, now) {
                    Verdict::Drop => None,
                    Verdict::DeliverAt(at) => Some(at - start),
                }
            })
            .collect()
    }

    #[test]
    fn the_seed_alone_decides() {
        let policy = Policy::lossy(0.2).with_jitter(Duration::from_millis(4)).with_reorder(0.1);
        assert_eq!(fates(7, policy), fates(7, policy));
        assert_ne!(fates(7, policy), fates(8, policy));
    }

    #[test]
    fn loss_is_about_what_was_asked() {
        let lost = fates(1, Policy::lossy(0.3)).iter().filter(|f| f.is_none()).count();
        assert!((80..160).contains(&lost), "{lost} of 400 lost at 30 %");
    }

    #[test]
    fn jitter_keeps_order_and_reorder_breaks_it() {
        let jitter = Policy::slow(Duration::from_millis(5)).with_jitter(Duration::from_millis(9));
        let order = |f: &[Option<Duration>]| f.windows(2).all(|w| w[0] <= w[1]);
        assert!(order(&fates(3, jitter)));
        assert!(!order(&fates(3, jitter.with_reorder(0.2))));
    }

    #[test]
    fn a_full_queue_drops() {
        let mut pair = Pair::new(1, 1, 2);
        pair.held = HELD_MAX;
        assert_eq!(pair.judge(Kind::Traffic, Instant::now()), Verdict::Drop);
    }
}
