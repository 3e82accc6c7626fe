//! What clients were told, and what follows from it.
//!
//! Times are CLOCK_MONOTONIC ([`Instant`]) of one machine, so all writers'
//! records compare. The judgements:
//!
//! - [`History::gap`]: the longest time without an acknowledgement.
//! - [`History::two_servers`]: two instances served at once (S3). A **reign** is
//!   one (run_id, master_replid): `REPLICAOF NO ONE` draws a new replid, so an
//!   instance promoted twice has two reigns, and a reign is contiguous. Every
//!   write is executed between being sent and being acknowledged; hence a write
//!   of reign X sent after the first acknowledgement of reign Y proves that X
//!   served after Y had begun. Reigns X, Y of different instances overlapped if
//!   that holds both ways:
//!   `last sent(X) > first ack(Y)` and `last sent(Y) > first ack(X)`,
//!   counting acknowledged writes only. Later legal handovers back never match:
//!   they are new reigns. Acknowledged by a replica is a violation by itself.
//!   (Redis draws one more replid when the first replica of an instance without
//!   backlog attaches: such a reign counts as two, which only weakens the check.)
//! - [`History::lost`]: acknowledged writes that an instance does not have.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::resp::{Client, Reply};

/// Keys asked for at once when looking for lost writes.
const BATCH: usize = 1000;

/// Who acknowledged: an instance in one of its reigns.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reign {
    pub run_id: String,
    /// The replid of the primary; `None` if it called itself a replica.
    pub replid: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged; with the number `WAIT` returned, if it was asked.
    Acked { replicas: Option<i64> },
    /// No connection, so nothing was sent.
    NoConnection(io::ErrorKind),
    /// Refused by the instance: certainly not written.
    Refused(String),
    /// No answer: written or not, nobody knows.
    Unknown(io::ErrorKind),
}

/// One attempt to write key `<writer>:<n>`.
#[derive(Debug, Clone)]
pub struct Write {
    pub n: u64,
    pub sent: Instant,
    /// When the outcome was known.
    pub done: Instant,
    pub outcome: Outcome,
    /// Index into the writer's reigns.
    pub reign: Option<usize>,
}

impl Write {
    pub fn acked(&self) -> bool {
        matches!(self.outcome, Outcome::Acked { .. })
    }

    /// Acknowledged by the primary and by at least so many replicas.
    pub fn acked_by(&self, replicas: i64) -> bool {
        matches!(self.outcome, Outcome::Acked { replicas: Some(n) } if n >= replicas)
    }
}

/// Everything one writer did, in order.
#[derive(Debug, Clone, Default)]
pub struct Log {
    pub writer: String,
    pub reigns: Vec<Reign>,
    pub writes: Vec<Write>,
}

impl Log {
    /// The host of the instance that its writer is beside.
    pub fn beside(&self) -> Option<u8> {
        self.writer.rsplit_once(".beside")?.1.parse().ok()
    }

    /// The index of a reign, new or known.
    pub fn reign(&mut self, reign: Reign) -> usize {
        self.reigns.iter().position(|known| *known == reign).unwrap_or_else(|| {
            self.reigns.push(reign);
            self.reigns.len() - 1
        })
    }

    pub fn key(&self, n: u64) -> String {
        format!("{}:{n}", self.writer)
    }
}

/// A reign as the acknowledgements show it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub reign: Reign,
    pub first_ack: Instant,
    pub last_sent: Instant,
    pub writes: usize,
}

/// Proof that two instances served at once, or that a replica took a write.
#[derive(Debug, Clone)]
pub struct Violation {
    pub elder: Reign,
    pub younger: Reign,
    /// How long after the younger's first acknowledgement the elder still took
    /// a write.
    pub overlap: Duration,
    /// Acknowledged writes of the elder sent after that moment.
    pub writes: Vec<String>,
}

#[derive(Debug, Clone, Default)]
pub struct History {
    pub logs: Vec<Log>,
}

impl History {
    pub fn of(logs: impl IntoIterator<Item = Log>) -> Self {
        Self { logs: logs.into_iter().collect() }
    }

    /// The part that one kind of writer wrote, e.g. `vip`.
    pub fn by(&self, writer: &str) -> Self {
        Self::of(self.logs.iter().filter(|log| log.writer.starts_with(writer)).cloned())
    }

    pub fn writes(&self) -> impl Iterator<Item = &Write> {
        self.logs.iter().flat_map(|log| &log.writes)
    }

    pub fn acked(&self) -> usize {
        self.writes().filter(|w| w.acked()).count()
    }

    /// Attempts that were not acknowledged, for whatever reason.
    pub fn failed(&self) -> usize {
        self.writes().filter(|w| !w.acked()).count()
    }

    /// The attempts that failed, by what the client saw.
    pub fn failures(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for write in self.writes().filter(|w| !w.acked()) {
            *counts.entry(format!("{:?}", write.outcome)).or_default() += 1;
        }
        counts
    }

    /// The longest time between successive acknowledgements within `window`,
    /// its two ends included.
    pub fn gap(&self, window: Range<Instant>) -> Duration {
        let mut acks: Vec<Instant> = self.writes().filter(|w| w.acked()).map(|w| w.done).collect();
        acks.retain(|at| window.contains(at));
        acks.sort();
        let ends = std::iter::once(window.start).chain(acks.iter().copied());
        let next = acks.iter().copied().chain([window.end]);
        ends.zip(next).map(|(a, b)| b.saturating_duration_since(a)).max().unwrap_or_default()
    }

    /// The first acknowledgement at or after a moment, counted from it.
    pub fn first_ack_after(&self, at: Instant) -> Option<Duration> {
        self.writes().filter(|w| w.acked() && w.sent >= at).map(|w| w.done - at).min()
    }

    /// All reigns that acknowledged anything, by their first acknowledgement.
    pub fn reigns(&self) -> Vec<Seen> {
        let mut seen: BTreeMap<&Reign, Seen> = BTreeMap::new();
        for (reign, write, _) in self.acked_with_reign() {
            let entry = seen.entry(reign).or_insert_with(|| Seen {
                reign: reign.clone(),
                first_ack: write.done,
                last_sent: write.sent,
                writes: 0,
            });
            entry.first_ack = entry.first_ack.min(write.done);
            entry.last_sent = entry.last_sent.max(write.sent);
            entry.writes += 1;
        }
        let mut seen: Vec<Seen> = seen.into_values().collect();
        seen.sort_by_key(|s| s.first_ack);
        seen
    }

    /// Every acknowledged write with who acknowledged it, where that is known.
    pub fn acked_with_reign(&self) -> impl Iterator<Item = (&Reign, &Write, &Log)> {
        self.logs.iter().flat_map(|log| {
            let acked = log.writes.iter().filter(|w| w.acked());
            acked.filter_map(move |w| Some((log.reigns.get(w.reign?)?, w, log)))
        })
    }

    /// The host of an instance, by the clients beside it.
    pub fn host_of(&self, reign: &Reign) -> Option<u8> {
        self.acked_with_reign().filter(|(known, ..)| *known == reign).find_map(|(_, _, log)| log.beside())
    }

    /// Every proof that two instances served at once; see the module's text.
    pub fn two_servers(&self) -> Vec<Violation> {
        let seen = self.reigns();
        let mut violations = Vec::new();
        for (i, elder) in seen.iter().enumerate() {
            if elder.reign.replid.is_none() {
                violations.push(self.violation(elder, elder, elder.first_ack));
            }
            for younger in &seen[i + 1..] {
                let same = elder.reign.run_id == younger.reign.run_id;
                let overlaps = elder.last_sent > younger.first_ack && younger.last_sent > elder.first_ack;
                if !same && overlaps {
                    violations.push(self.violation(elder, younger, younger.first_ack));
                }
            }
        }
        violations
    }

    fn violation(&self, elder: &Seen, younger: &Seen, since: Instant) -> Violation {
        let offending = |w: &Write| w.sent > since || elder.reign == younger.reign;
        Violation {
            elder: elder.reign.clone(),
            younger: younger.reign.clone(),
            overlap: elder.last_sent.saturating_duration_since(since),
            writes: self
                .acked_with_reign()
                .filter(|(reign, w, _)| **reign == elder.reign && offending(w))
                .map(|(_, w, log)| log.key(w.n))
                .collect(),
        }
    }

    /// Acknowledged writes that the instance behind `client` does not have.
    pub fn lost(&self, client: &mut Client) -> io::Result<Vec<String>> {
        self.lost_where(client, Write::acked)
    }

    /// Writes that `WAIT` said at least so many replicas have, and that the
    /// instance behind `client` does not.
    pub fn lost_waited(&self, client: &mut Client, replicas: i64) -> io::Result<Vec<String>> {
        self.lost_where(client, |w| w.acked_by(replicas))
    }

    fn lost_where(&self, client: &mut Client, which: impl Fn(&Write) -> bool) -> io::Result<Vec<String>> {
        let mut lost = Vec::new();
        for log in &self.logs {
            let numbers: BTreeSet<u64> = log.writes.iter().filter(|w| which(w)).map(|w| w.n).collect();
            let numbers: Vec<u64> = numbers.into_iter().collect();
            for batch in numbers.chunks(BATCH) {
                let keys: Vec<String> = batch.iter().map(|&n| log.key(n)).collect();
                let args: Vec<&str> = std::iter::once("MGET").chain(keys.iter().map(String::as_str)).collect();
                let reply = client.command(&args)?;
                if reply.items().len() != keys.len() {
                    return Err(io::Error::other(format!("MGET answered {}", reply.text())));
                }
                let found = reply.items().iter();
                let kept = |(reply, n): (&Reply, &u64)| reply.text().split(' ').next() == Some(&n.to_string());
                let missing = keys.into_iter().zip(found.zip(batch).map(kept)).filter(|(_, kept)| !kept);
                lost.extend(missing.map(|(key, _)| key));
            }
        }
        Ok(lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (instance, replid, sent ms, acked ms) of acknowledged writes.
    fn history(writes: &[(&str, &str, u64, u64)]) -> (History, Instant) {
        let start = Instant::now();
        let mut log = Log { writer: "w".into(), ..Log::default() };
        for (n, &(run_id, replid, sent, acked)) in writes.iter().enumerate() {
            let reign = log.reign(Reign { run_id: run_id.into(), replid: (!replid.is_empty()).then(|| replid.into()) });
            log.writes.push(Write {
                n: n as u64,
                sent: start + Duration::from_millis(sent),
                done: start + Duration::from_millis(acked),
                outcome: Outcome::Acked { replicas: None },
                reign: Some(reign),
            });
        }
        (History::of([log]), start)
    }

    fn violations(writes: &[(&str, &str, u64, u64)]) -> usize {
        history(writes).0.two_servers().len()
    }

    #[test]
    fn one_after_the_other_is_legal() {
        assert_eq!(violations(&[("a", "1", 0, 1), ("a", "1", 5, 6), ("b", "2", 7, 8)]), 0);
        // Sent to the old one before the new one answered, acknowledged after.
        assert_eq!(violations(&[("a", "1", 0, 1), ("a", "1", 5, 9), ("b", "2", 6, 8)]), 0);
    }

    #[test]
    fn handed_back_is_legal_as_a_new_reign() {
        let back = [("a", "1", 0, 1), ("b", "2", 5, 6), ("a", "3", 9, 10), ("b", "4", 12, 13)];
        assert_eq!(violations(&back), 0);
    }

    #[test]
    fn the_old_one_still_serving_is_found() {
        let (history, _) = history(&[("a", "1", 0, 1), ("b", "2", 5, 6), ("a", "1", 7, 8), ("b", "2", 9, 10)]);
        let found = history.two_servers();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].writes, ["w:2"]);
        assert_eq!(found[0].overlap, Duration::from_millis(1));
        assert_eq!(found[0].elder.run_id, "a");
    }

    #[test]
    fn one_late_write_of_the_old_one_suffices_and_so_does_one_of_the_new() {
        assert_eq!(violations(&[("a", "1", 0, 1), ("b", "2", 5, 6), ("a", "1", 7, 8)]), 1);
        assert_eq!(violations(&[("b", "2", 5, 6), ("a", "1", 7, 8), ("b", "2", 9, 10)]), 1);
    }

    #[test]
    fn concurrent_single_writes_prove_nothing() {
        assert_eq!(violations(&[("a", "1", 0, 9), ("b", "2", 1, 8)]), 0);
    }

    #[test]
    fn three_reigns_name_the_pair() {
        let three = [("a", "1", 0, 1), ("b", "2", 5, 6), ("c", "3", 8, 9), ("b", "2", 10, 11)];
        assert_eq!(history(&three).0.two_servers()[0].younger.run_id, "c");
        assert_eq!(violations(&three), 1);
    }

    #[test]
    fn a_replica_that_takes_a_write_is_found() {
        assert_eq!(violations(&[("a", "1", 0, 1), ("b", "", 9, 10)]), 1);
    }

    #[test]
    fn refused_and_unknown_writes_count_for_nothing() {
        let (mut history, _) = history(&[("a", "1", 0, 1), ("b", "2", 5, 6), ("a", "1", 7, 8)]);
        history.logs[0].writes[2].outcome = Outcome::Refused("READONLY".into());
        assert!(history.two_servers().is_empty());
        history.logs[0].writes[2].outcome = Outcome::Unknown(io::ErrorKind::TimedOut);
        assert!(history.two_servers().is_empty());
        assert_eq!((history.acked(), history.failed()), (2, 1));
    }

    #[test]
    fn the_gap_has_ends() {
        let (history, start) = history(&[("a", "1", 0, 10), ("a", "1", 0, 40), ("a", "1", 0, 45)]);
        let at = |n| start + Duration::from_millis(n);
        assert_eq!(history.gap(at(0)..at(50)), Duration::from_millis(30));
        assert_eq!(history.gap(at(0)..at(100)), Duration::from_millis(55));
        assert_eq!(history.gap(at(50)..at(70)), Duration::from_millis(20));
        assert_eq!(history.first_ack_after(at(0)), Some(Duration::from_millis(10)));
    }
}
