//! What one client did, as it told it: acknowledged and failed writes with their times, and whom it read from.
//!
//! Times are nanoseconds of CLOCK_MONOTONIC, which Python and Node read as well, so that the records of processes and
//! threads compare with each other and with the moment a fault struck.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds of CLOCK_MONOTONIC.
pub fn now() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("the clock");
    now.tv_sec().cast_unsigned() * 1_000_000_000 + now.tv_nsec().cast_unsigned()
}

/// An acknowledged write.
#[derive(Debug, Clone, Copy)]
pub struct Ack {
    pub n: u64,
    pub sent: u64,
    pub done: u64,
}

#[derive(Debug, Default)]
pub struct Record {
    pub ready: bool,
    pub acks: Vec<Ack>,
    /// When, and what the library said.
    pub fails: Vec<(u64, String)>,
    /// When, and what the instance that reads go to called itself; an error's text if there was none.
    pub roles: Vec<(u64, String)>,
    /// The answer to a wrong password.
    pub verdict: Option<String>,
}

/// Shared with the thread that fills it.
#[derive(Debug, Clone, Default)]
pub struct Shared(Arc<Mutex<Record>>);

impl Shared {
    pub fn lock(&self) -> MutexGuard<'_, Record> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record {
    /// Takes a line as the drivers print them; `common.py` tells them.
    ///
    /// # Errors
    /// With the line, if it is none of them.
    pub fn take(&mut self, line: &str) -> Result<(), String> {
        let mut words = line.splitn(4, ' ');
        let mut next = || words.next().unwrap_or_default();
        let number = |word: &str| word.parse::<u64>().map_err(|_| line.to_owned());
        match next() {
            "ready" => self.ready = true,
            "ack" => self.acks.push(Ack { n: number(next())?, sent: number(next())?, done: number(next())? }),
            "fail" => {
                number(next())?;
                let at = number(next())?;
                self.fails.push((at, next().to_owned()));
            }
            "role" => {
                let rest = line["role ".len()..].to_owned();
                self.roles.push((now(), rest));
            }
            "refused" | "accepted" => self.verdict = Some(line.to_owned()),
            _ => return Err(line.to_owned()),
        }
        Ok(())
    }

    /// The longest time without an acknowledgement that had begun before `until` and ended after `from`.
    pub fn gap(&self, from: u64, until: u64) -> Duration {
        let mut longest = 0;
        let mut last = None;
        for ack in &self.acks {
            if let Some(last) = last.filter(|last| *last < until && ack.done > from) {
                longest = longest.max(ack.done - last);
            }
            last = Some(ack.done);
        }
        if let Some(last) = last.filter(|last| *last < until) {
            longest = longest.max(until - last);
        }
        Duration::from_nanos(longest)
    }

    /// The last acknowledged write.
    pub fn last(&self) -> Option<Ack> {
        self.acks.last().copied()
    }

    /// What the library said of failed writes since then, each text once, with how often.
    pub fn complaints(&self, since: u64) -> Vec<(String, usize)> {
        let mut said: Vec<(String, usize)> = Vec::new();
        for (_, why) in self.fails.iter().filter(|(at, _)| *at >= since) {
            match said.iter_mut().find(|(known, _)| known == why) {
                Some((_, count)) => *count += 1,
                None => said.push((why.clone(), 1)),
            }
        }
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(lines: &[&str]) -> Record {
        let mut record = Record::default();
        lines.iter().for_each(|line| record.take(line).expect("a line"));
        record
    }

    #[test]
    fn a_gap_lies_between_two_acknowledgements_or_is_still_open() {
        let seen =
            record(&["ready", "ack 0 5 10", "fail 1 20 ConnectionError: refused, twice", "ack 2 25 40", "ack 3 41 45"]);
        assert!(seen.ready);
        assert_eq!(seen.gap(12, 44), Duration::from_nanos(30));
        assert_eq!(seen.gap(41, 44), Duration::from_nanos(5));
        assert_eq!(seen.gap(46, 100), Duration::from_nanos(55));
        assert_eq!(seen.complaints(0), [("ConnectionError: refused, twice".to_owned(), 1)]);
        assert_eq!(seen.complaints(21), []);
    }

    #[test]
    fn roles_and_verdicts_are_kept_as_they_were_said() {
        let seen = record(&["role slave", "role none SlaveNotFoundError: ", "refused WRONGPASS invalid"]);
        let roles: Vec<&str> = seen.roles.iter().map(|(_, role)| role.as_str()).collect();
        assert_eq!(roles, ["slave", "none SlaveNotFoundError: "]);
        assert_eq!(seen.verdict.as_deref(), Some("refused WRONGPASS invalid"));
        assert_eq!(Record::default().take("Traceback"), Err("Traceback".to_owned()));
    }
}
