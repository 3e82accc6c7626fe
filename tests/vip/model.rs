//! The simulator's rule for the VIP's lifetime held to the kernel: random sequences of holding with a lifetime, prolonging
//! with a longer or a shorter one, dropping, removal by somebody else, and nothing at all (a frozen agent), through the
//! real shell in a namespace of its own. Looked at all the time: the VIP must stand where the model says that it does, and
//! be gone where the model says that it is; the shell must tell of every loss that it did not cause, and of no other.
//!
//! Several VIPs with lives of their own stand on one host, since the kernel looks after all addresses together.
//! `MAINSTAY_SIM_REAL=n` runs n sequences, `MAINSTAY_SIM_REAL_FROM=x` begins at seed x.

use super::{Host, Net, SOON, V4, V6, hosts, ip, lone, open};
use leash::{Window, window};
use mainstay::vip::{Vip, VipEvent};
use rng::Rng;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::Receiver;
use tokio::time::{sleep, timeout};

#[path = "../sim/leash.rs"]
#[allow(dead_code, unreachable_pub, reason = "a moment within the window is for the simulation")]
mod leash;
#[path = "../sim/rng.rs"]
#[allow(dead_code, unreachable_pub, reason = "a part of the generator is for the simulation")]
mod rng;

/// Sequences of the test command, each with this many steps.
const SEQUENCES: u64 = 24;
const STEPS: usize = 9;
/// How late the kernel's worker may run on a loaded machine: the model is judged no finer.
const WORKER: Duration = Duration::from_millis(150);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(15);

/// What is done to one VIP.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// In milliseconds; the shell rounds up to seconds.
    Hold(u64),
    /// So many refreshes as an agent makes them.
    Agent(u64),
    Drop,
    /// `ip addr del`
    Stolen,
    /// The agent is frozen.
    Nothing(u64),
}

fn any(rng: &mut Rng) -> Step {
    match rng.below(12) {
        0..=3 => Step::Hold(rng.between(1, 3200)),
        4..=5 => Step::Agent(rng.between(3, 12)),
        6 => Step::Drop,
        7 => Step::Stolen,
        _ => Step::Nothing(rng.between(50, 3500)),
    }
}

/// One VIP of one host, as the model has it and as it is.
struct Both {
    vip: Vip,
    events: Receiver<VipEvent>,
    net: Net,
    begun: Instant,
    /// The model: earliest by the moment before the call, latest by the moment after it.
    stands: Option<Window>,
    present: bool,
    /// Removals that the shell must tell of.
    losses: usize,
    /// By how much the kernel removed it later than its time (or earlier).
    late: Vec<i64>,
    /// The lifetime's end in force.
    end: u64,
    told: usize,
    /// Losses that it may have missed.
    unseen: usize,
    story: Vec<String>,
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Both {
    fn now(&self) -> u64 {
        nanos(self.begun.elapsed())
    }

    async fn hold(&mut self, lifetime: Duration) {
        let whole = nanos(Duration::from_secs(lifetime.as_millis().div_ceil(1000).max(1).try_into().unwrap_or(1)));
        let before = self.now();
        let outcome = self.vip.hold(lifetime).await.unwrap();
        let after = self.now();
        if outcome.newly_added && self.present {
            // It went between the last look and this, and may have been back before the shell looked.
            self.gone(after, "before it was put back");
            self.unseen += 1;
        }
        self.present = true;
        self.end = before + whole;
        let earliest = window(before, whole).earliest;
        self.stands = Some(Window { earliest, latest: window(after, whole).latest });
    }

    /// It is not there, and was at the look before.
    fn gone(&mut self, at: u64, when: &str) {
        let story = self.story.join("\n");
        let Some(stands) = self.stands.take() else { panic!("it was there and should not: {story}") };
        assert!(
            at >= stands.earliest,
            "gone {:?} too early {when}:\n{story}",
            Duration::from_nanos(stands.earliest - at)
        );
        self.late.push(at as i64 - self.end as i64);
        self.losses += 1;
        self.present = false;
    }

    async fn look(&mut self) {
        let before = self.now();
        let there = self.vip.present().await.unwrap().is_some();
        let after = self.now();
        let story = || self.story.join("\n");
        match (there, self.stands) {
            (true, Some(stands)) => {
                let longest = stands.latest + nanos(WORKER);
                assert!(
                    before <= longest,
                    "still there {:?} after the model's last moment:\n{}",
                    Duration::from_nanos(before - longest),
                    story()
                );
            }
            (true, None) => panic!("there, though nobody holds it:\n{}", story()),
            (false, Some(_)) if self.present => {
                self.gone(after, "when looked at");
                self.hear().await;
            }
            (false, _) => {}
        }
        while let Ok(event) = self.events.try_recv() {
            assert_eq!(event, VipEvent::Removed, "{}", self.story.join("\n"));
            self.told += 1;
        }
    }

    /// The shell tells of a loss.
    async fn hear(&mut self) {
        let event = timeout(SOON, self.events.recv()).await;
        assert_eq!(event, Ok(Some(VipEvent::Removed)), "a loss is not told:\n{}", self.story.join("\n"));
        self.told += 1;
    }

    async fn watch(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.look().await;
            sleep(LOOK).await;
        }
    }

    async fn step(&mut self, step: Step) {
        self.story.push(format!("{:>6} ms {step:?}, there: {}", self.now() / 1_000_000, self.present));
        match step {
            Step::Hold(ms) => self.hold(Duration::from_millis(ms)).await,
            Step::Agent(turns) => {
                for _ in 0..turns {
                    self.hold(Duration::from_secs(2)).await;
                    self.watch(Duration::from_millis(150)).await;
                }
            }
            Step::Drop => {
                self.look().await;
                self.vip.drop_address().await.unwrap();
                // What the kernel did between the look and the drop cannot be told from the drop.
                (self.stands, self.present) = (None, false);
            }
            Step::Stolen => {
                self.look().await;
                if !self.present {
                    return;
                }
                let (net, vip) = (self.net, self.vip.spec().address);
                let left = self.stands.map_or(0, |stands| stands.earliest.saturating_sub(self.now()));
                // Not while the kernel may do the same.
                if left < nanos(SOON) / 8 {
                    return;
                }
                ip(&format!("{} addr del {vip}/{} dev e0", net.option, net.full));
                (self.stands, self.present) = (None, false);
                self.losses += 1;
                self.hear().await;
            }
            Step::Nothing(ms) => self.watch(Duration::from_millis(ms)).await,
        }
        self.look().await;
    }
}

/// One VIP's sequence.
async fn sequence(net: Net, address: String, seed: u64) -> (Vec<i64>, usize) {
    let spec = mainstay::vip::VipSpec { address: address.parse().unwrap(), ..net.spec("e0") };
    let (vip, events) = open(spec).await.unwrap();
    let mut both = Both {
        vip,
        events,
        net,
        begun: Instant::now(),
        stands: None,
        present: false,
        losses: 0,
        late: Vec::new(),
        end: 0,
        told: 0,
        unseen: 0,
        story: vec![format!("seed {seed}, {address}; replay: MAINSTAY_SIM_REAL=1 MAINSTAY_SIM_REAL_FROM={seed}")],
    };
    let mut rng = Rng::new(seed ^ 0x71b);
    for _ in 0..STEPS {
        let step = any(&mut rng);
        both.step(step).await;
    }
    both.story.push("the end: nobody minds it".to_owned());
    while both.present {
        both.watch(LOOK * 2).await;
    }
    both.watch(SOON / 4).await;
    assert!(
        (both.losses - both.unseen..=both.losses).contains(&both.told),
        "told of losses, and losses:\n{}",
        both.story.join("\n")
    );
    (both.late, both.losses)
}

/// Two VIPs on one host, with sequences of their own.
fn pair(host: &Host, net: Net, seed: u64) -> (Vec<i64>, usize) {
    host.run_async(move || async move {
        lone("e0");
        net.give_own(0, "e0");
        let second = net.vip.strip_suffix('0').map(|most| format!("{most}1")).unwrap();
        let first = sequence(net, net.vip.to_owned(), 2 * seed);
        let (one, other) = tokio::join!(first, sequence(net, second, 2 * seed + 1));
        ([one.0, other.0].concat(), one.1 + other.1)
    })
}

#[test]
fn the_kernel_is_as_the_model_has_it() {
    let setting = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let (from, count) =
        (setting("MAINSTAY_SIM_REAL_FROM").unwrap_or(0), setting("MAINSTAY_SIM_REAL").unwrap_or(SEQUENCES));
    let pairs: Vec<u64> = (from / 2..(from + count).div_ceil(2)).collect();
    let mut all = Vec::new();
    let mut losses = 0;
    for batch in pairs.chunks(12) {
        let made: Option<Vec<(Host, u64)>> =
            batch.iter().map(|seed| Some((hosts::<1>()?.into_iter().next()?, *seed))).collect();
        let Some(made) = made else { return };
        let results = std::thread::scope(|scope| {
            let threads: Vec<_> = made
                .iter()
                .map(|(host, seed)| scope.spawn(|| pair(host, if seed.is_multiple_of(2) { V4 } else { V6 }, *seed)))
                .collect();
            threads.into_iter().map(|thread| thread.join()).collect::<Vec<_>>()
        });
        for result in results {
            let (late, lost) = result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            all.extend(late);
            losses += lost;
        }
    }
    all.sort_unstable();
    let ms = |late: Option<&i64>| late.map_or(0, |late| late / 1_000_000);
    println!(
        "{} sequences, {losses} losses; {} lifetimes ran out, {} to {} ms after their time, half of them after {} ms",
        pairs.len() * 2,
        all.len(),
        ms(all.first()),
        ms(all.last()),
        ms(all.get(all.len() / 2))
    );
    assert!(all.len() >= pairs.len(), "hardly any lifetime ran out");
}
