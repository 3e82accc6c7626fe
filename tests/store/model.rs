//! A seeded run of what Raft and the agent ask of the store, and a model that knows what must then be in it.
//!
//! Step `i` follows from the seed and the steps before it, so a parent that knows how many steps were acknowledged
//! knows the whole content. Each step can be done again by a process that finds it half done, as Raft would do.

use mainstay::cluster::{Command, GroupName, Incarnation, Local, LocalGroup, Node, NodeId, RunId, State};
use mainstay::store::{Entry, LogId, LogStore, Machine, Proposal, Store, Vote};
use openraft::EntryPayload;
use openraft::storage::{RaftLogReader, RaftLogStorage, RaftLogStorageExt, RaftSnapshotBuilder, RaftStateMachine};
use openraft::vote::RaftLeaderId;
use std::collections::BTreeMap;
use std::time::Duration;

/// A small generator, the same everywhere.
#[derive(Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64, step: u64) -> Self {
        let mut dice = Self(seed ^ step.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        dice.next();
        dice
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }
}

pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    let leader = openraft::impls::leader_id_std::LeaderId::<u64, NodeId>::new(term, NodeId(1));
    LogId { leader_id: leader.to_committed(), index }
}

/// The entry at `index` as the leader of `term` wrote it. Some are larger than a page.
pub(crate) fn entry(term: u64, index: u64) -> Entry {
    let command = if index % 2 == 1 {
        let long = if index.is_multiple_of(7) { 2500 + (index % 5) as usize * 900 } else { 10 };
        let record = Node {
            name: format!("n{index}"),
            address: format!("t{term}-{}", "x".repeat(long)),
            incarnation: Incarnation(u128::from(index) << 70),
            introduced: false,
        };
        Command::AddNode { node: NodeId(index), record }
    } else {
        Command::RemoveNode { node: NodeId(index.saturating_sub(21)) }
    };
    Entry { log_id: log_id(term, index), payload: EntryPayload::Normal(Proposal(command)) }
}

fn local(number: u64) -> Local {
    let group = |n: u64| {
        let record = LocalGroup { voided: Some(RunId("r".repeat(40 * (n as usize % 90)))), ..LocalGroup::default() };
        (GroupName(format!("g{n}")), record)
    };
    Local { longest_lease: Duration::from_millis(number), groups: (0..number % 6).map(group).collect() }
}

/// One thing asked of the store.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    Append {
        term: u64,
        from: u64,
        count: u64,
    },
    Truncate {
        keep: u64,
    },
    Vote {
        term: u64,
        node: u64,
    },
    Apply {
        upto: u64,
    },
    Purge {
        upto: u64,
    },
    Local {
        number: u64,
    },
    Enrol {
        generation: u64,
    },
    Install {
        last: u64,
    },
    /// Both at once, by two tasks.
    Both(Box<Step>, Box<Step>),
}

/// What must be in the store.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Model {
    /// Term by index.
    pub(crate) log: BTreeMap<u64, u64>,
    pub(crate) vote: Option<(u64, u64)>,
    pub(crate) purged: Option<(u64, u64)>,
    pub(crate) applied: Option<(u64, u64)>,
    pub(crate) state: State,
    pub(crate) local: u64,
    pub(crate) generation: u64,
}

impl Model {
    fn last(&self) -> u64 {
        self.log.keys().next_back().copied().unwrap_or(0).max(self.applied().max(self.purged.map_or(0, |(_, i)| i)))
    }

    fn applied(&self) -> u64 {
        self.applied.map_or(0, |(_, index)| index)
    }

    fn term(&self) -> u64 {
        self.vote.map_or(1, |(term, _)| term)
    }

    /// The step that comes after this content.
    pub(crate) fn step(&self, dice: &mut Dice) -> Step {
        match dice.below(16) {
            0..=4 => self.append(dice),
            5..=7 => self.apply(dice),
            8 | 9 => Step::Vote { term: self.term() + dice.below(2), node: 1 + dice.below(3) },
            10 => self.local_step(),
            11 => Step::Truncate { keep: self.applied() + dice.below(self.last() - self.applied() + 1) },
            12 => self.purge(dice),
            13 => Step::Enrol { generation: self.generation + 1 },
            14 => Step::Both(Box::new(self.append(dice)), Box::new(self.local_step())),
            _ if dice.below(4) == 0 => Step::Install { last: self.last() + dice.below(3) },
            _ => Step::Both(Box::new(self.apply(dice)), Box::new(self.local_step())),
        }
    }

    fn append(&self, dice: &mut Dice) -> Step {
        Step::Append { term: self.term(), from: self.last() + 1, count: 1 + dice.below(4) }
    }

    fn apply(&self, dice: &mut Dice) -> Step {
        Step::Apply { upto: self.applied() + dice.below(self.last() - self.applied() + 1) }
    }

    fn local_step(&self) -> Step {
        Step::Local { number: self.local + 1 }
    }

    fn purge(&self, dice: &mut Dice) -> Step {
        let from = self.purged.map_or(0, |(_, index)| index);
        Step::Purge { upto: from + dice.below(self.applied() - from + 1) }
    }

    fn term_of(&self, index: u64) -> u64 {
        let known = [self.applied, self.purged].into_iter().flatten().find(|(_, at)| *at == index);
        self.log.get(&index).copied().or(known.map(|(term, _)| term)).unwrap_or(1)
    }

    /// The content after `step`.
    pub(crate) fn after(&self, step: &Step) -> Self {
        let mut next = self.clone();
        match step {
            Step::Append { term, from, count } => next.log.extend((*from..from + count).map(|index| (index, *term))),
            Step::Truncate { keep } => drop(next.log.split_off(&(keep + 1))),
            Step::Vote { term, node } => next.vote = Some((*term, *node)),
            Step::Apply { upto } => {
                for index in self.applied() + 1..=*upto {
                    let EntryPayload::Normal(proposal) = entry(self.log[&index], index).payload else { continue };
                    // A refusal is part of the history, and changes nothing.
                    let _ = next.state.apply(&proposal.0);
                    next.applied = Some((self.log[&index], index));
                }
            }
            Step::Purge { upto } => {
                if *upto > 0 && self.purged.is_none_or(|(_, at)| at < *upto) {
                    next.purged = Some((self.term_of(*upto), *upto));
                }
                next.log = next.log.split_off(&(upto + 1));
            }
            Step::Local { number } => next.local = *number,
            Step::Enrol { generation } => next.generation = *generation,
            Step::Install { last } => {
                if *last > self.applied() {
                    next.applied = Some((self.term(), *last));
                    next.purged = next.applied;
                    next.log = next.log.split_off(&(last + 1));
                }
            }
            Step::Both(one, other) => next = self.after(one).after(other),
        }
        next
    }

    /// What may be found when `step` was asked for and not acknowledged.
    pub(crate) fn meanwhile(&self, step: &Step) -> Vec<Self> {
        match step {
            Step::Both(one, other) => vec![self.clone(), self.after(one), self.after(other), self.after(step)],
            // A snapshot is installed first; what it replaces is purged then.
            Step::Install { last } if *last > self.applied() => {
                let between = Self { applied: Some((self.term(), *last)), ..self.clone() };
                vec![self.clone(), between, self.after(step)]
            }
            step => vec![self.clone(), self.after(step)],
        }
    }

    /// What is in an open store. Entries and the local record must be whole.
    pub(crate) async fn of(store: &Store) -> Self {
        let mut log = store.log();
        let entries = log.try_get_log_entries(0..).await.unwrap();
        for found in &entries {
            assert_eq!(*found, entry(found.log_id.leader_id.term, found.log_id.index));
        }
        let applied = store.applied().borrow().clone();
        let number = u64::try_from(store.local().longest_lease.as_millis()).unwrap();
        assert_eq!(store.local(), if number == 0 { Local::default() } else { local(number) });
        let pair = |id: LogId| (id.leader_id.term, id.index);
        Self {
            log: entries.iter().map(|entry| (entry.log_id.index, entry.log_id.leader_id.term)).collect(),
            vote: log.read_vote().await.unwrap().map(|vote| (vote.leader_id.term, vote.leader_id.node_id().0)),
            purged: log.get_log_state().await.unwrap().last_purged_log_id.map(pair),
            applied: applied.last.map(pair),
            state: (*applied.state).clone(),
            local: number,
            generation: store.identity().generation,
        }
    }
}

/// The content after `count` steps of `seed`.
pub(crate) fn content(seed: u64, count: u64) -> Model {
    (0..count).fold(Model::default(), |model, number| model.after(&model.step(&mut Dice::new(seed, number))))
}

/// The process that writes.
pub(crate) struct Writer {
    pub(crate) store: Store,
    log: LogStore,
    machine: Machine,
}

impl Writer {
    pub(crate) fn new(store: Store) -> Self {
        Self { log: store.log(), machine: store.machine(), store }
    }

    /// Does one step, maybe for the second time; durable when it returns.
    pub(crate) async fn take(&mut self, model: &Model, step: &Step) {
        match step {
            Step::Append { term, from, count } => {
                let entries: Vec<Entry> = (*from..from + count).map(|index| entry(*term, index)).collect();
                self.log.blocking_append(entries).await.unwrap();
            }
            Step::Truncate { keep } => {
                let last = (*keep > 0).then(|| log_id(model.term_of(*keep), *keep));
                self.log.truncate_after(last).await.unwrap();
            }
            Step::Vote { term, node } => self.log.save_vote(&Vote::new(*term, NodeId(*node))).await.unwrap(),
            Step::Apply { upto } => self.apply(*upto).await,
            Step::Purge { upto } => {
                if *upto > 0 {
                    self.log.purge(log_id(model.term_of(*upto), *upto)).await.unwrap();
                }
            }
            Step::Local { number } => self.store.save_local(&local(*number)).await.unwrap(),
            Step::Enrol { generation } => self.store.enrol(NodeId(7), *generation).await.unwrap(),
            Step::Install { last } if *last > model.applied() => {
                let mut builder = self.machine.get_snapshot_builder().await;
                let mut snapshot = builder.build_snapshot().await.unwrap();
                snapshot.meta.last_log_id = Some(log_id(model.term(), *last));
                self.machine.install_snapshot(&snapshot.meta, snapshot.snapshot).await.unwrap();
                self.log.purge(log_id(model.term(), *last)).await.unwrap();
            }
            Step::Install { .. } => {}
            Step::Both(one, other) => {
                let Step::Local { number } = &**other else { unreachable!() };
                let (store, record) = (self.store.clone(), local(*number));
                let (_, saved) = tokio::join!(Box::pin(self.take(model, one)), store.save_local(&record));
                saved.unwrap();
            }
        }
    }

    async fn apply(&mut self, upto: u64) {
        let from = self.store.applied().borrow().index() + 1;
        let entries = self.log.try_get_log_entries(from..upto + 1).await.unwrap();
        let stream = futures_util::stream::iter(entries.into_iter().map(|entry| Ok((entry, None))).collect::<Vec<_>>());
        if from <= upto {
            self.machine.apply(stream).await.unwrap();
        }
    }

    /// Goes on from step `from`; tells each one that is done.
    pub(crate) async fn run(&mut self, seed: u64, from: u64, until: u64, tell: impl FnMut(u64)) {
        self.run_from(seed, from, until, content(seed, from), tell).await;
    }

    /// Goes on from `model`, the content after `from` steps, with step `from` perhaps half done.
    pub(crate) async fn run_from(
        &mut self,
        seed: u64,
        from: u64,
        until: u64,
        mut model: Model,
        mut tell: impl FnMut(u64),
    ) {
        for number in from..until {
            let step = model.step(&mut Dice::new(seed, number));
            self.take(&model, &step).await;
            model = model.after(&step);
            tell(number + 1);
        }
    }
}
