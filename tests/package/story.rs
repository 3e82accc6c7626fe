//! The story: a user installs the package on three hosts, sets them up, and everything happens to them that happens to
//! hosts. Each step runs under clients' load, is judged by what they were told, and prints its figures.
//!
//! In every step: never two servers at once, no write lost that `WAIT 1` confirmed, healthy again within a bound; in a
//! planned one no acknowledged write lost at all.

use std::time::{Duration, Instant};

use crate::deb::built;
use crate::history::History;
use crate::image::{BOOKWORM, Release, TRIXIE};
use crate::lab::{alone, ms, secs};
use crate::trio::Trio;

/// What a step came to.
pub struct Figure {
    pub step: &'static str,
    /// The longest time a client of the floating address waited for an acknowledgement.
    pub gap: Option<Duration>,
    pub acked: usize,
    pub lost: usize,
    pub note: String,
}

/// What a step may cost.
pub struct Price {
    /// The longest gap.
    pub gap: Duration,
    /// Whether a plainly acknowledged write may be lost, as Redis replicates asynchronously.
    pub plain_writes: bool,
    /// How often the primary may change.
    pub changes: u64,
}

impl Price {
    /// A planned change: waiting, and nothing else.
    pub const fn planned(gap: Duration, changes: u64) -> Self {
        Self { gap, plain_writes: false, changes }
    }

    /// A fault.
    pub const fn fault(gap: Duration) -> Self {
        Self { gap, plain_writes: true, changes: 1 }
    }
}

/// The cluster, and the figures so far.
pub struct Story {
    pub trio: Trio,
    pub figures: Vec<Figure>,
    only: Option<Vec<String>>,
}

impl Story {
    fn new(release: &'static Release) -> Self {
        let only = std::env::var("PACKAGE_STEPS").ok();
        let only = only.map(|words| words.split(',').map(str::to_owned).collect());
        Self { trio: Trio::new(release, &built()), figures: Vec::new(), only }
    }

    /// Whether a step is to be run.
    pub fn wanted(&self, step: &str) -> bool {
        self.only.as_ref().is_none_or(|words| words.iter().any(|word| step.contains(word.as_str())))
    }

    pub fn say(&mut self, step: &'static str, note: String) {
        self.add(Figure { step, gap: None, acked: 0, lost: 0, note });
    }

    fn add(&mut self, figure: Figure) {
        println!("{}", line(&figure));
        self.figures.push(figure);
    }

    /// A step under load: `body` does it and says what is worth saying; afterwards the cluster must be healthy. Returns
    /// how often the primary changed; 0 if the step is not wanted.
    ///
    /// # Panics
    /// When it cost more than its price.
    pub fn step(&mut self, step: &'static str, price: &Price, body: impl FnOnce(&mut Trio, u8) -> String) -> u64 {
        if !self.wanted(step) {
            return 0;
        }
        let primary = self.trio.wait_healthy(secs(30));
        let before = self.epoch(primary);
        let load = self.trio.load(&step.replace(' ', "-"));
        std::thread::sleep(ms(500));
        let begun = Instant::now();
        let note = body(&mut self.trio, primary);
        let after = self.trio.wait_healthy(secs(30));
        std::thread::sleep(ms(200));
        let history = load.stop();
        let changes = self.epoch(after) - before;
        let gap = history.by(&format!("{}-vip", step.replace(' ', "-"))).gap(begun..Instant::now());
        let lost = self.judge(step, &history, price);
        let note = format!("n{primary} -> n{after}, {changes} changes; {note}");
        self.add(Figure { step, gap: Some(gap), acked: history.acked(), lost, note });
        assert!(gap <= price.gap, "{step}: a gap of {gap:?}");
        assert!(changes <= price.changes, "{step}: {changes} changes of primary");
        changes
    }

    fn judge(&self, step: &str, history: &History, price: &Price) -> usize {
        let both = history.two_servers();
        assert!(both.is_empty(), "{step}: two served at once: {both:?}");
        assert!(history.acked() > 0, "{step}: no write at all: {:?}", history.failures());
        let (lost, promised) = self.trio.lost(history);
        assert!(promised.is_empty(), "{step}: lost although WAIT 1 confirmed: {promised:?}");
        assert!(price.plain_writes || lost.is_empty(), "{step}: lost: {lost:?}");
        lost.len()
    }

    /// The group's epoch, by a machine's agent.
    ///
    /// # Panics
    /// When it does not say.
    pub fn epoch(&self, no: u8) -> u64 {
        let status = self.trio.status(no).expect("a status");
        status["groups"][0]["epoch"].as_u64().expect("an epoch")
    }
}

fn line(figure: &Figure) -> String {
    let gap = figure.gap.map_or("-".to_owned(), |gap| format!("{} ms", gap.as_millis()));
    format!("{:<28} gap {:>7}  acked {:>6}  lost {:>3}  {}", figure.step, gap, figure.acked, figure.lost, figure.note)
}

/// Everything, on Debian 12 with Redis 7.0.
#[test]
fn debian_12_from_install_to_purge() {
    from_install_to_purge(&BOOKWORM);
}

/// And on Debian 13 with Valkey 8.1: another systemd, and the program built on an older Debian.
#[test]
fn debian_13_from_install_to_purge() {
    from_install_to_purge(&TRIXIE);
}

fn from_install_to_purge(release: &'static Release) {
    let Some(_alone) = alone() else { return };
    let mut story = Story::new(release);
    crate::arrive::hosts(&mut story);
    crate::steps::faults(&mut story);
    crate::steps::planned(&mut story);
    crate::steps::power(&mut story);
    crate::steps::surroundings(&mut story);
    crate::steps::words(&mut story);
    crate::steps::leave(&mut story);
    crate::remains::none(story);
}
