//! What must hold after a round, whatever struck: the sentences that operators rely on.
//!
//! - Two never served at once, no replica took a write (S3), but for the bound that S8 names.
//! - Nobody acknowledged a write that no change of the round had made primary, nor one that was sent to a host when it had
//!   been cut off from all others for longer than the lease (S1), but for S8's bound.
//! - What `WAIT` said that W members had is there: always under `quorum`, under `available` if every change after it
//!   says so; after a single fault they must say so.
//! - Without a change of primary nothing at all is lost, nor by a switchover.
//! - What an old primary brings back of lost writes is in a file that was saved, and was told of: where nothing is said
//!   to have come back, nothing of it was lost (S11).
//! - A counter never counts twice, and what replicas had of it is not counted again.
//! - Faults that are none of the primary's (a hanging disk, a clock) change no primary.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::counter::{Counted, Miscount};
use crate::events::Change;
use crate::hands::Cut;
use crate::history::{History, Violation, Write};
use crate::plan::Kind;
use crate::switch::HostNo;

/// The VIP's lifetime and `min-replicas-max-lag`, rounded up by Redis and the kernel.
const OWN_SIDE: Duration = Duration::from_millis(3500);

/// What a busy machine may add to the lease.
const NOISE: Duration = Duration::from_millis(500);

/// Everything about one round.
pub struct Round<'a> {
    pub durability: &'a str,
    /// What struck, and whose host.
    pub struck: &'a [(Kind, HostNo)],
    /// It was to be a single fault.
    pub single: bool,
    /// Who was primary when it began.
    pub first: HostNo,
    /// Epochs that began.
    pub changes: &'a [(u64, Change)],
    pub history: &'a History,
    /// Acknowledged writes that the primary does not have now.
    pub lost: &'a [String],
    /// Those of them that `WAIT` vouched for.
    pub lost_waited: &'a [String],
    /// Those of `lost` that came back with an old primary, and that nobody saved.
    pub unsaved: &'a [String],
    /// Writes that an instance acknowledged which was primary in no moment of the round.
    pub unleased: &'a [String],
    /// Hosts that were cut off for a while, and the lease.
    pub cuts: &'a [Cut],
    pub lease: Duration,
    /// How many of `lost` came back, and whether anything was said to.
    pub returned: (usize, bool),
    pub counted: &'a Counted,
    pub miscount: &'a Miscount,
}

impl Round<'_> {
    /// S8's bound: an agent that is frozen, or dead and not started again, while its host or instance cannot be reached in
    /// time may let clients beside it write for some seconds; no `WAIT` was answered to them.
    fn on_its_own_side(&self, two: &Violation) -> bool {
        let elder = self.history.host_of(&two.elder);
        let frozen = elder.is_some_and(|elder| self.is_mindless(elder)) && self.struck.len() > 1;
        let waited = self
            .history
            .logs
            .iter()
            .flat_map(|log| log.writes.iter().filter(|write| write.acked_by(1)).map(|write| log.key(write.n)));
        let waited: BTreeSet<String> = waited.collect();
        frozen && two.overlap < OWN_SIDE && two.writes.iter().all(|key| !waited.contains(key))
    }

    fn is_mindless(&self, no: HostNo) -> bool {
        let kinds = [Kind::FreezeAgent, Kind::KillAgent, Kind::LoseStore];
        self.struck.iter().any(|(kind, host)| kinds.contains(kind) && *host == no)
    }

    /// Writes that a host acknowledged which had been cut off for longer than any lease that it could have.
    fn without_a_lease(&self) -> Vec<String> {
        let late = |cut: &Cut| {
            let bound = if self.is_mindless(cut.host) { self.lease + OWN_SIDE } else { self.lease + NOISE };
            let (from, until, host) = (cut.from + bound, cut.until, cut.host);
            let logs = self.history.logs.iter().filter(move |log| log.beside() == Some(host));
            logs.flat_map(move |log| {
                let late = move |write: &&Write| write.acked() && write.sent > from && write.done < until;
                log.writes.iter().filter(late).map(|write| log.key(write.n))
            })
        };
        self.cuts.iter().flat_map(late).collect()
    }

    /// Whether every change that could take an acknowledged write from its host says that it took none: all of them, or all
    /// since the host's first promotion of the round. Who was primary before it wrote before every change.
    fn promised(&self, key: &str) -> bool {
        let Some(unkept) = self.changes.iter().rposition(|(_, change)| !change.kept()) else { return true };
        let written = self.history.acked_with_reign().find(|(_, write, log)| log.key(write.n) == key);
        let host = written.and_then(|(reign, ..)| self.history.host_of(reign)).filter(|host| *host != self.first);
        let is_host = |change: &Change| host.is_some_and(|host| change.to() == format!("n{host}"));
        self.changes.iter().position(|(_, change)| is_host(change)).is_some_and(|promoted| promoted >= unkept)
    }

    /// All that does not hold.
    pub fn faults(&self) -> Vec<String> {
        let two = self.history.two_servers();
        let mut wrong: Vec<String> = two
            .iter()
            .filter(|two| !self.on_its_own_side(two))
            .map(|two| format!("two served at once: {two:?}"))
            .collect();
        if self.miscount.twice > 0 {
            wrong.push(format!("{} increments were done twice", self.miscount.twice));
        }
        wrong.extend(self.unsaved.iter().map(|key| format!("lost, though it came back, and not saved: {key}")));
        wrong
            .extend(self.unleased.iter().map(|key| format!("acknowledged by an instance that nobody promoted: {key}")));
        wrong.extend(self.without_a_lease().iter().map(|key| format!("acknowledged without a lease: {key}")));
        if let (lost @ 1.., false) = self.returned {
            wrong.push(format!("{lost} lost writes came back, and nobody told of it"));
        }
        let quorum = self.durability == "quorum";
        let waited = self.lost_waited.iter().filter(|key| quorum || self.promised(key));
        let all_kept = self.changes.iter().all(|(_, change)| change.kept());
        let counted = self.miscount.lost_waited.iter().filter(|_| quorum || all_kept);
        wrong.extend(waited.chain(counted).map(|key| format!("lost although replicas had it: {key}")));
        if self.changes.is_empty() || (self.single && self.struck.iter().all(|(kind, _)| kind.loses_nothing())) {
            wrong.extend(self.lost.iter().map(|key| format!("lost without a cause: {key}")));
            if self.miscount.lost > 0 {
                wrong.push(format!("{} increments lost without a cause", self.miscount.lost));
            }
        }
        if self.single {
            let unkept = self.changes.iter().filter(|(_, change)| !change.kept());
            wrong.extend(unkept.map(|(epoch, change)| format!("one fault, but epoch {epoch}: {}", change.words)));
            if self.struck.iter().all(|(kind, _)| kind.is_harmless()) {
                let changes = self.changes.iter();
                wrong.extend(changes.map(|(epoch, change)| format!("no cause for epoch {epoch}: {}", change.words)));
            }
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Log, Outcome, Reign};
    use std::time::Instant;

    #[derive(Default)]
    struct Seen {
        history: History,
        counted: Counted,
        miscount: Miscount,
    }

    impl Seen {
        /// A round without anything wrong in it.
        fn round(&self) -> Round<'_> {
            Round {
                durability: "available",
                struck: &[],
                single: false,
                first: 1,
                changes: &[],
                history: &self.history,
                lost: &[],
                lost_waited: &[],
                unsaved: &[],
                unleased: &[],
                cuts: &[],
                lease: Duration::from_millis(800),
                returned: (0, false),
                counted: &self.counted,
                miscount: &self.miscount,
            }
        }
    }

    fn wrong(durability: &str, kind: Kind, single: bool, words: &[&str], lost: usize, waited: usize) -> usize {
        let changes: Vec<(u64, Change)> =
            words.iter().map(|words| (2, Change { words: (*words).to_owned() })).collect();
        let keys = |n: usize| vec!["key".to_owned(); n];
        let (lost, lost_waited, struck, seen) = (keys(lost), keys(waited), [(kind, 1)], Seen::default());
        let round = Round {
            durability,
            struck: &struck,
            single,
            changes: &changes,
            lost: &lost,
            lost_waited: &lost_waited,
            ..seen.round()
        };
        round.faults().len()
    }

    const KEPT: &str = "primary is n2, before it n1; every write that a write quorum held is kept";
    const BEST: &str = "primary is n2, before it n1; the best data that could be reached was taken";

    #[test]
    fn each_sentence_is_held_to() {
        assert_eq!(wrong("available", Kind::KillRedis, true, &[KEPT], 5, 0), 0);
        assert_eq!(wrong("available", Kind::KillRedis, true, &[KEPT], 1, 1), 1);
        assert_eq!(wrong("available", Kind::KillRedis, true, &[BEST], 0, 0), 1);
        assert_eq!(wrong("available", Kind::KillRedis, false, &[KEPT, BEST], 1, 1), 0);
        assert_eq!(wrong("quorum", Kind::KillRedis, false, &[KEPT, BEST], 1, 1), 1);
        assert_eq!(wrong("available", Kind::DiskHang, true, &[KEPT], 0, 0), 1);
        assert_eq!(wrong("available", Kind::Switchover, true, &[KEPT], 1, 0), 1);
        assert_eq!(wrong("available", Kind::Isolate, false, &[], 1, 0), 1);
    }

    /// Node 2 was promoted without the guarantee and node 3 after it with it: what node 2 acknowledged must be there.
    #[test]
    fn a_change_excuses_what_was_written_before_it_only() {
        let reign = |no: u8| Reign { run_id: format!("run{no}"), replid: Some(format!("id{no}")) };
        let now = Instant::now();
        let write = |n, replicas| {
            let outcome = Outcome::Acked { replicas };
            vec![Write { n, sent: now, done: now, outcome, reign: Some(0) }]
        };
        let log = |writer: String, no, writes| Log { writer, reigns: vec![reign(no)], writes };
        let of =
            |no: u8| [log(format!("r0.beside{no}"), no, write(0, None)), log(format!("w{no}"), no, write(7, Some(1)))];
        let seen = Seen { history: History::of([1, 2].into_iter().flat_map(of)), ..Seen::default() };
        let words = [BEST.to_owned(), KEPT.replace("n2", "n3")];
        let changes: Vec<(u64, Change)> = (2..).zip(words.map(|words| Change { words })).collect();
        for (host, times) in [(1, 0), (2, 1)] {
            let log = seen.history.logs.iter().find(|log| log.writer == format!("w{host}")).expect("a log");
            let lost_waited = [log.key(7)];
            let round = Round { changes: &changes, lost_waited: &lost_waited, ..seen.round() };
            assert_eq!(round.faults().len(), times, "written by n{host}: {:?}", round.faults());
        }
    }

    #[test]
    fn what_comes_back_is_told() {
        let (seen, changes) = (Seen::default(), [(2, Change { words: KEPT.to_owned() })]);
        let mut round = Round { changes: &changes, returned: (3, true), ..seen.round() };
        assert_eq!(round.faults(), Vec::<String>::new());
        round.returned = (3, false);
        assert_eq!(round.faults().len(), 1);
        let keys = ["key".to_owned()];
        (round.returned, round.unleased) = ((0, false), &keys);
        assert_eq!(round.faults().len(), 1);
        round.unleased = &[];
        assert!(round.faults().is_empty());
    }

    /// Cut off for five seconds, and a write was sent in the third.
    #[test]
    fn a_lease_ends_for_who_is_cut_off() {
        let (from, second) = (Instant::now(), Duration::from_secs(1));
        let sent = from + 2 * second;
        let write = Write { n: 0, sent, done: sent, outcome: Outcome::Acked { replicas: None }, reign: None };
        let log = Log { writer: "r0.beside1".to_owned(), reigns: Vec::new(), writes: vec![write] };
        let seen = Seen { history: History::of([log]), ..Seen::default() };
        for (host, lasts, kind, times) in
            [(1, 5, Kind::Isolate, 1), (1, 5, Kind::FreezeAgent, 0), (2, 5, Kind::Isolate, 0), (1, 1, Kind::Isolate, 0)]
        {
            let (cuts, struck) = ([Cut { host, from, until: from + lasts * second }], [(kind, 1)]);
            let round = Round { struck: &struck, cuts: &cuts, ..seen.round() };
            assert_eq!(round.faults().len(), times, "{kind:?} of n{host}: {:?}", round.faults());
        }
    }
}
