//! What must hold of every change that is committed.
//!
//! - `wait-kept`: a `Kept` promotion holds every write that `WAIT W-1` acknowledged (S5).
//! - `compare-and-set`, `promote-after-seals`, `seal-needs-vacancy`, `a-lease-to-start`, `report-true`: S3.
//! - `never-priority-zero`, `successor-in-f`, `quorum-needs-proof`: S4, S5. `paused-means-paused`.
//! - `switchover-keeps`, `switchover-goes-through`: S10. `quorum-leaves-by-proof`: S5. Of cold starts: `cold.rs`.

use crate::agent::{host_of, id};
use crate::trace::label;
use crate::world::{LEASE, MS, Ns, World, group_at, host_at, place};
use mainstay::cluster::{
    Command, Durability, Epoch, Group, GroupCommand, GroupName, Guarantee, NodeId, RunId, State, Version, Why,
};
use mainstay::view::{Moment, Report};
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

/// What the invariants remember.
#[derive(Debug)]
pub struct Book {
    pub acknowledged: Vec<u64>,
    pub promoted: BTreeSet<(usize, RunId)>,
    pub guarantee: Guarantee,
    pub epochs: Vec<Epoch>,
    pub seals: Vec<Epoch>,
    pub together_since: Option<Ns>,
    /// Given up, by host.
    pub surrendered: Vec<Epoch>,
    /// When each guardian's last promise ends at the earliest, and when it last held none.
    pub promised_until: Vec<Ns>,
    pub vacant_at: Vec<Ns>,
    /// When the last `Seal` and the last `Promote` were committed.
    pub sealed_at: Ns,
    pub promoted_at: Ns,
    /// Whether the successor held data then.
    pub began_with_data: bool,
    /// When automatic promotion was paused, and for how long.
    pub paused: Option<(Ns, Ns)>,
    /// A handover that was completed: epoch, old and new place, what the old one held.
    pub handover: Option<(Epoch, usize, usize, Vec<u64>)>,
    /// For mutations: reports heard first, promises made longer.
    pub reports: BTreeMap<(usize, NodeId), Report>,
    pub stretched: BTreeMap<(usize, NodeId), Moment>,
    pub vacancies: BTreeMap<usize, BTreeMap<(GroupName, Epoch), BTreeSet<NodeId>>>,
    /// What came back with data that the group lacks (S11).
    pub losses: crate::loss::Losses,
    /// Acknowledged within the last half of a lease: not known to everybody yet.
    pub lately: VecDeque<(Ns, u64)>,
    /// What an operator forces.
    pub order: Option<crate::force::Order>,
    /// What was there at the first start.
    pub found: crate::starts::Found,
    /// Which primaries the last remote seal did not reach.
    pub unreached: BTreeSet<usize>,
    /// When each node's reign was ended by a fault.
    pub faults: BTreeMap<NodeId, Vec<Ns>>,
    /// Followers seen online at the primary of an epoch: since which admission, and when that was first seen.
    pub online: BTreeMap<(Epoch, NodeId), (Version, u64, Ns)>,
}

impl Book {
    /// Empty.
    pub fn new(n: usize) -> Self {
        Self {
            acknowledged: Vec::new(),
            promoted: BTreeSet::new(),
            guarantee: Guarantee::Fresh,
            epochs: vec![Epoch(0); n],
            seals: vec![Epoch(0); n],
            together_since: None,
            surrendered: vec![Epoch(0); n],
            promised_until: vec![0; n],
            vacant_at: vec![0; n],
            sealed_at: 0,
            promoted_at: 0,
            began_with_data: false,
            paused: None,
            handover: None,
            reports: BTreeMap::new(),
            stretched: BTreeMap::new(),
            vacancies: BTreeMap::new(),
            losses: crate::loss::Losses::default(),
            lately: VecDeque::new(),
            order: None,
            found: crate::starts::Found::default(),
            unreached: BTreeSet::new(),
            faults: BTreeMap::new(),
            online: BTreeMap::new(),
        }
    }
}

impl World {
    /// `compare-and-set`: nothing is carried out but on the state it was decided on.
    pub fn check_compared(&mut self, before: &State, command: &Command) {
        let Command::Group { group, expect, .. } = command else { return };
        if before.groups.get(group).is_some_and(|found| found.expect() != *expect) {
            self.violate("compare-and-set", format!("carried out late: {}", crate::trace::command(command)));
        }
    }

    /// A command of the group was committed.
    pub fn check_change(&mut self, number: usize, before: &State, after: &State, change: &GroupCommand) {
        let name = &self.names[number];
        let (Some(old), Some(new)) = (before.groups.get(name), after.groups.get(name)) else { return };
        match change {
            GroupCommand::Seal { why } => self.check_seal_change(number, *why),
            GroupCommand::Pause(pause) => {
                let length = pause.length.map_or(Ns::MAX / 2, |length| u64::try_from(length.as_nanos()).unwrap_or(0));
                self.books[number].paused = Some((self.now, length));
            }
            GroupCommand::Resume => self.books[number].paused = None,
            GroupCommand::Drop { node, .. } => self.check_dropped(old, *node),
            _ => {}
        }
        let GroupCommand::Promote { successor, run_id, start, guarantee, .. } = change else { return };
        if new.epoch <= old.epoch {
            self.violate("epoch-monotonic", format!("promotion from epoch {} to {}", old.epoch, new.epoch));
        }
        let why = new.history.back().map(|change| change.why);
        if let Some(change) = new.history.back() {
            self.note_fault(number, change);
        }
        self.cover(old.primary_node(), *successor, why, *guarantee);
        self.check_chosen(number, before, old, new, *successor);
        self.check_forced(number, old, *successor, *guarantee);
        self.check_adopted(number, old, *successor, *guarantee);
        let at = place(host_of(*successor), number);
        if *guarantee == Guarantee::Forced || self.insts[at].redis.run_id() != *run_id {
            // An operator's word goes before a handover; and another process than was promoted serves nothing.
            self.books[number].handover = None;
        }
        self.check_switched(number, old.epoch, at);
        let redis = &self.insts[at].redis;
        let sealed = redis.alive && redis.run_id() == *run_id;
        if sealed && redis.offset != start.0 {
            let text = format!("{} is at {} and was promoted at {start}", label(at), redis.offset);
            self.violate("report-true", text);
        }
        if self.insts[at].redis.run_id() == *run_id {
            self.check_cold(number, old, new.epoch, *successor, *guarantee);
        }
        let book = &mut self.books[number];
        book.began_with_data = !self.insts[at].redis.data.is_empty();
        book.promoted.insert((at, run_id.clone()));
        book.guarantee = *guarantee;
        let redis = &self.insts[at].redis;
        if redis.run_id() != *run_id {
            return;
        }
        let data: HashSet<u64> = redis.data.iter().copied().collect();
        let lost: Vec<u64> = book.acknowledged.iter().copied().filter(|write| !data.contains(write)).collect();
        book.acknowledged.retain(|write| data.contains(write));
        if *guarantee == Guarantee::Kept && !lost.is_empty() {
            let text = format!(
                "{} promoted for epoch {} lacks {} writes acknowledged by WAIT, the first is {}",
                label(at),
                new.epoch,
                lost.len(),
                lost[0]
            );
            self.violate("wait-kept", text);
        }
    }

    /// S5, `quorum-leaves-by-proof`: under `quorum` a follower leaves without the two commits by an operator's word only.
    fn check_dropped(&mut self, old: &Group, node: NodeId) {
        let removed =
            self.raft.leaving.is_some_and(|(leaving, _)| id(leaving) == node) || !self.hosts[host_of(node)].joined;
        if old.durability == Durability::Quorum && !removed {
            self.violate("quorum-leaves-by-proof", format!("node {node} left F without proof"));
        }
    }

    /// S3: a seal that nobody asked for needs a majority that holds no promise, and gives a successor a lease's time.
    fn check_seal_change(&mut self, number: usize, why: Why) {
        let now = self.now;
        self.books[number].sealed_at = now;
        // One that was asked for of an earlier leader comes when it comes; guardians hold it back all the same.
        if why != Why::PrimarySilent || self.unkind.late {
            return;
        }
        let lease = u64::try_from(LEASE.as_nanos()).unwrap_or(0);
        let since = now - self.books[number].promoted_at;
        if since < lease * self.pace / 100 {
            let text = format!("sealed for silence {} ms after the promotion", since / MS);
            self.violate("a-lease-to-start", text);
        }
        let book = &self.books[number];
        let vacant = |node: NodeId| {
            let host = host_of(node);
            book.promised_until[host] <= now || now - book.vacant_at[host] < lease / 6 + 250 * MS
        };
        if !self.committed().guardians.majority_of(vacant) {
            self.violate("seal-needs-vacancy", "a majority of guardians held promises all the time".to_owned());
        }
    }

    /// After a round of a guardian: what it has promised, by true time.
    pub fn note_vacancy(&mut self, host: usize) {
        let Some(agent) = &self.hosts[host].agent else { return };
        for (number, name) in self.names.iter().enumerate() {
            let Some(seat) = agent.view.seats.get(name) else { continue };
            let Some(promise) = seat.promise else { continue };
            if !seat.promise_live(agent.view.now) {
                // It ran out, or was surrendered.
                let known = &mut self.books[number].promised_until[host];
                *known = self.now.min(*known);
                continue;
            }
            let left = u64::try_from(promise.until.since(agent.view.now).as_nanos()).unwrap_or(0) * self.pace / 100;
            let book = &mut self.books[number];
            let until = self.now + left;
            if left > 0 && until > book.promised_until[host] {
                if book.promised_until[host] < self.now {
                    book.vacant_at[host] = self.now;
                }
                book.promised_until[host] = until;
            }
        }
    }

    /// S3, S4, S5, S14 and the pause: what no promotion may be.
    fn check_chosen(&mut self, number: usize, before: &State, old: &Group, new: &Group, successor: NodeId) {
        let name = &self.names[number];
        let Some(change) = new.history.back() else { return };
        let (host, guarantee) = (host_of(successor), change.guarantee);
        let barred = old.members.get(&successor).is_none_or(|member| member.priority == 0);
        let never = barred || self.hosts[host].policy.groups.get(name).is_none_or(|group| group.priority == 0);
        let planned = change.why.planned();
        // A change of guardians may begin between the leader's count and this commit: until the primary has said that it
        // renews under both, every lease is the old majority's.
        let both = before.guardians.renewed.contains(name);
        let counted = if both { before.guardians.clone() } else { before.guardians.before_change() };
        let sealed = counted.majority_of(|node| self.sealed_on_disk(node, number) >= new.epoch);
        let book = &mut self.books[number];
        let paused = book.paused;
        book.promoted_at = self.now;
        if never {
            self.violate("never-priority-zero", format!("node {successor} of priority 0 was promoted"));
        }
        if !sealed {
            self.violate("promote-after-seals", format!("epoch {} began without a majority of seals", new.epoch));
        }
        if guarantee == Guarantee::Forced {
            return;
        }
        let lasts = |since: Ns, length: Ns| self.now - since < length / 100 * self.pace;
        if paused.is_some_and(|(since, length)| lasts(since, length)) && !planned {
            self.violate("paused-means-paused", format!("node {successor} was promoted in a pause"));
        }
        let cold = matches!(guarantee, Guarantee::ColdStart(_));
        if old.epoch > Epoch(0) && !old.is_candidate(successor) && !cold {
            self.violate("successor-in-f", format!("node {successor} was promoted from outside the followers set"));
        }
        if guarantee == Guarantee::BestReached && old.durability == Durability::Quorum {
            self.violate("quorum-needs-proof", format!("node {successor} was promoted without the proof"));
        }
        if cold {
            self.check_cold_chosen(number, old, new, successor);
        }
    }

    /// S10: a handover was completed; the successor holds all that the old primary held.
    pub fn note_handover(&mut self, at: usize, epoch: Epoch, to: Option<usize>) {
        let data = self.insts[at].redis.data.clone();
        self.covered.handovers += 1;
        self.books[group_at(at)].handover = to.map(|to| (epoch, at, to, data));
    }

    /// S10: it loses nothing, and it leads to whom it was meant for, if that one is still well.
    fn check_switched(&mut self, number: usize, epoch: Epoch, at: usize) {
        let Some((_, from, to, data)) = self.books[number].handover.take().filter(|known| known.0 == epoch) else {
            return;
        };
        // One that served again has taken its handover back: `check_promotion`.
        let more = self.insts[from].redis.data.len().saturating_sub(data.len());
        if more > 0 {
            self.violate("switchover-keeps", format!("{} took {more} writes after it was frozen", label(from)));
        }
        let held: HashSet<u64> = self.insts[at].redis.data.iter().copied().collect();
        let lost = data.iter().filter(|write| !held.contains(write)).count();
        // What the leader knew of the successor.
        let leader = self.raft.leader.and_then(|leader| self.hosts[leader].agent.as_ref());
        let seat = leader.and_then(|agent| agent.view.seats.get(&self.names[number]));
        let node = crate::agent::id(host_at(to));
        let own =
            leader.filter(|agent| agent.view.me == node).and(seat).and_then(|seat| seat.membership.report.as_ref());
        let report = own.or_else(|| seat.and_then(|seat| seat.reports.get(&node)));
        let reported = report
            .is_some_and(|report| report.next == epoch.next() && report.lineage == Some(epoch) && !report.stopping);
        // The change waits for it so long, and no longer; an earlier leader may have known less.
        let lease = u64::try_from(LEASE.as_nanos()).unwrap_or(0);
        if !reported || self.unkind.late || self.now - self.books[number].sealed_at > lease * self.pace / 100 {
            return;
        }
        let less = report.map(|report| report.offset.0 < self.insts[at].redis.offset);
        if lost > 0 {
            self.violate("switchover-keeps", format!("{} took over without {lost} writes", label(at)));
        }
        let target: HashSet<u64> = self.insts[to].redis.data.iter().copied().collect();
        if at != to && (at == from || less == Some(false)) && data.iter().all(|write| target.contains(write)) {
            self.violate("switchover-goes-through", format!("{} had all, and {} serves", label(to), label(at)));
        }
    }

    fn cover(&mut self, from: Option<NodeId>, to: NodeId, why: Option<Why>, guarantee: Guarantee) {
        let planned = why.is_some_and(Why::planned);
        match from {
            Some(from) if from != to && planned => self.covered.switchovers += 1,
            Some(from) if from != to => self.covered.failovers += 1,
            _ => {}
        }
        match guarantee {
            Guarantee::Kept => self.covered.kept += 1,
            Guarantee::BestReached => self.covered.best_reached += 1,
            Guarantee::ColdStart(_) => self.covered.cold += 1,
            Guarantee::Forced => self.covered.forced += 1,
            Guarantee::Fresh => {}
        }
    }
}
