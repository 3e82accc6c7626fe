//! The network between the hosts: one-way cuts, loss, delay and reordering. Agents and instances use the same links.

use crate::rng::Rng;
use crate::world::{MS, Ns, WIDTH};

/// Links between `n` hosts. Where it is asked, a place stands for its host.
#[derive(Debug)]
pub struct Net {
    n: usize,
    cut: Vec<bool>,
    /// Of a thousand messages, so many are lost.
    pub loss: u64,
    /// Added to a message's way, at most.
    pub jitter: Ns,
    /// Added to the way of whatever comes to a host.
    pub lag: Vec<Ns>,
    /// What of that no mending takes away.
    pub for_good: Vec<Ns>,
}

impl Net {
    /// A sound network.
    pub fn new(n: usize) -> Self {
        Self { n, cut: vec![false; n * n], loss: 0, jitter: MS, lag: vec![0; n], for_good: vec![0; n] }
    }

    /// Whether anything sent from `a` comes to `b`.
    pub fn open(&self, a: usize, b: usize) -> bool {
        let (a, b) = (a % WIDTH, b % WIDTH);
        a == b || !self.cut[a * self.n + b]
    }

    /// Whether a connection between them works.
    pub fn both(&self, a: usize, b: usize) -> bool {
        self.open(a, b) && self.open(b, a)
    }

    /// Cuts or mends one direction.
    pub fn set(&mut self, a: usize, b: usize, cut: bool) {
        self.cut[a * self.n + b] = cut;
    }

    /// Cuts every way, in and out, between the hosts of `side` and the others.
    pub fn split(&mut self, side: &[usize]) {
        for a in 0..self.n {
            for b in 0..self.n {
                if side.contains(&a) != side.contains(&b) {
                    self.set(a, b, true);
                }
            }
        }
    }

    /// Nothing from `host` comes to anybody.
    pub fn mute(&mut self, host: usize) {
        for other in (0..self.n).filter(|other| *other != host) {
            self.set(host, other, true);
        }
    }

    /// As new.
    pub fn heal(&mut self) {
        self.cut.fill(false);
        self.loss = 0;
        self.jitter = MS;
        self.lag.clone_from(&self.for_good);
    }

    /// How long a message takes now, or that it is lost.
    pub fn delay(&self, rng: &mut Rng, a: usize, b: usize) -> Option<Ns> {
        let lost = !self.open(a, b) || rng.permille(self.loss);
        let way = MS / 5 + rng.below(self.jitter) + self.lag[b];
        (!lost).then_some(way)
    }
}
