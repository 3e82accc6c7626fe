//! An idealised Raft: one leader per term, chosen by a quorum of reachable voters; a commit needs a reachable majority;
//! every node applies with its own lag; a cut-off leader believes in itself for a while.

use crate::agent::id;
use crate::events::{Ev, Input};
use crate::mutation::Mutation;
use crate::world::{Host, MS, Ns, World, place};
use mainstay::cluster::{Command, GroupCommand, GuardianChange, Incarnation, Node, NodeId, State, majority};
use mainstay::view::{Leadership, Topic, What};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The log and who leads.
#[derive(Debug)]
pub struct Raft {
    pub term: u64,
    pub leader: Option<usize>,
    /// Hosts that the log reaches, and those of them that vote.
    pub members: BTreeSet<usize>,
    pub voters: BTreeSet<usize>,
    /// Being removed by an operator, since when.
    pub leaving: Option<(usize, Ns)>,
    /// Since when it waits for the proof that it may (S5).
    pub proof_since: Option<Ns>,
    /// Of the cluster: a node that was told to go on alone founds the next one.
    pub generation: u64,
    /// After so many entries.
    pub states: Vec<Arc<State>>,
    /// Up to which entry each agent was served.
    pub sent: Vec<usize>,
    /// What each agent was told of the leadership: term, leader, leading.
    pub told: Vec<Option<(u64, Option<usize>, bool)>>,
    /// Taken by a leader that had no majority any more.
    pub limbo: Vec<Command>,
    lost_since: Option<Ns>,
    alone_since: Vec<Option<Ns>>,
}

impl Raft {
    /// A log that has taken the first nodes in and named the guardians.
    pub fn new(n: usize, first: usize) -> Self {
        let mut state = State::default();
        for host in 0..first {
            let record = record(host, format!("n{}", host + 1));
            assert_eq!(state.apply(&Command::AddNode { node: id(host), record }), Ok(()));
        }
        let next: BTreeSet<NodeId> = (0..first).map(id).collect();
        assert_eq!(state.apply(&Command::Guardians(GuardianChange::Begin { next })), Ok(()));
        let (told, alone) = (vec![None; n], vec![None; n]);
        Self {
            term: 0,
            leader: None,
            members: (0..first).collect(),
            voters: (0..first).collect(),
            leaving: None,
            proof_since: None,
            generation: 1,
            states: vec![Arc::new(state)],
            sent: vec![0; n],
            told,
            limbo: Vec::new(),
            lost_since: None,
            alone_since: alone,
        }
    }

    /// One node's, which goes on alone with what it had applied.
    pub fn alone(n: usize, host: usize, generation: u64, term: u64, state: State) -> Self {
        let (members, voters) = (BTreeSet::from([host]), BTreeSet::from([host]));
        let states = vec![Arc::new(state)];
        Self { term: term + 1, members, voters, generation, states, ..Self::new(n, 1) }
    }
}

/// A host's record, under a name that may have been another host's.
pub fn record(host: usize, name: String) -> Node {
    let address = format!("10.0.0.{}:7400", host + 1);
    Node { name, address, incarnation: Incarnation(host as u128 + 1), introduced: false }
}

impl World {
    pub fn awake(&self, host: usize) -> bool {
        self.hosts[host].agent.is_some() && !self.hosts[host].stalled
    }

    pub fn quorum_at(&self, host: usize, may: impl Fn(&Self, usize) -> bool) -> bool {
        let voters = &self.raft.voters;
        let ours = |voter: usize| {
            self.awake(voter) && !self.unkind.full(voter) && self.hosts[voter].generation == self.raft.generation
        };
        let reached =
            voters.iter().filter(|v| ours(**v) && self.net.both(host, **v) && (**v == host || may(self, **v)));
        ours(host) && voters.contains(&host) && reached.count() >= majority(voters.len())
    }

    /// S2: a restarted voter answers no vote for the longest lease it promised.
    fn may_vote(&self, host: usize) -> bool {
        let own = &self.hosts[host];
        let clock = own.clock(self.now);
        let silent = self.mutation != Some(Mutation::VotesAtOnceRestarted);
        own.agent.as_ref().is_some_and(|agent| !silent || clock >= agent.view.silent_until())
    }

    /// Elections, and what the nodes learn of them and of the log.
    pub fn raft_tick(&mut self) {
        self.at(20 * MS, Ev::Raft);
        self.raft_round();
        self.as_elder(Self::raft_round);
    }

    fn raft_round(&mut self) {
        let sound = self.raft.leader.is_some_and(|leader| self.quorum_at(leader, |_, _| true));
        if sound {
            self.raft.lost_since = None;
            self.raft.leader.into_iter().for_each(|leader| self.commit_limbo(leader));
        } else {
            let since = *self.raft.lost_since.get_or_insert(self.now);
            let patience = if self.raft.term == 0 { 0 } else { self.rng.between(200, 500) * MS };
            if self.now.saturating_sub(since) >= patience {
                self.elect();
            }
        }
        for host in 0..self.hosts.len() {
            self.inform(host);
        }
    }

    fn elect(&mut self) {
        let fit: Vec<usize> = (0..self.hosts.len()).filter(|host| self.quorum_at(*host, Self::may_vote)).collect();
        if fit.is_empty() {
            return;
        }
        let leader = fit[self.rng.index(fit.len())];
        self.check_election(leader);
        self.lead(leader);
    }

    /// S2: no restarted voter's vote counted that may have forgotten a promise.
    fn check_election(&mut self, leader: usize) {
        let free = |world: &Self, host: usize| {
            let own = &world.hosts[host];
            let started = own.agent.as_ref().map(|agent| agent.view.started);
            started.is_some_and(|at| own.clock(world.now) >= at + own.disk.longest_lease)
        };
        if !self.quorum_at(leader, free) {
            self.violate("silent-voters", format!("n{} leads by the votes of voters that must be silent", leader + 1));
        }
    }

    /// A new term.
    pub fn lead(&mut self, leader: usize) {
        self.raft.term += 1;
        self.raft.leader = Some(leader);
        self.raft.lost_since = None;
        self.lose_limbo();
        tr!(self, "raft: {} leads term {}", leader + 1, self.raft.term);
    }

    fn inform(&mut self, host: usize) {
        let generation = self.raft.generation;
        let ours = |own: &&Host| own.generation == generation;
        let Some(agent) = Some(&self.hosts[host]).filter(ours).and_then(|own| own.agent.as_ref()) else { return };
        let life = agent.life;
        let known = self.raft.members.contains(&host);
        let reached = self.raft.leader.filter(|leader| known && self.net.both(*leader, host) && self.awake(*leader));
        let believes = matches!(self.raft.told[host], Some((_, _, true)));
        let lonely = believes && !self.quorum_at(host, |_, _| true);
        let alone = &mut self.raft.alone_since[host];
        *alone = if lonely || reached.is_none() { alone.or(Some(self.now)) } else { None };
        let long = alone.is_some_and(|since| self.now - since >= 300 * MS);
        let news = match reached {
            Some(leader) if !lonely => Some((self.raft.term, Some(leader), leader == host)),
            _ if long => Some((self.raft.term, None, false)),
            _ => None,
        };
        if let Some(news) = news.filter(|news| self.raft.told[host] != Some(*news)) {
            self.raft.told[host] = Some(news);
            let (term, leader, leading) = news;
            let voters = self.raft.voters.iter().copied().map(id).collect();
            let delay = MS + self.rng.below(20 * MS);
            let leadership = Leadership { term, leader: leader.map(id), leading, voters };
            self.tell(host, delay, What::Leadership(leadership));
        }
        let committed = self.raft.states.len() - 1;
        if reached.is_some() && self.raft.sent[host] < committed && !self.unkind.full(host) {
            self.raft.sent[host] = committed;
            let lag =
                if self.rng.permille(100) { self.rng.between(5, 300) * MS } else { MS / 5 + self.rng.below(3 * MS) };
            self.at(lag, Ev::Apply { host, life, index: committed });
        }
        for peer in 0..self.hosts.len() {
            let other = Some(&self.hosts[peer]).filter(|other| ours(other) && other.up && other.agent.is_some());
            let up = self.net.both(host, peer) && other.is_some();
            let Some(agent) = self.hosts[host].agent.as_mut() else { return };
            if peer != host && agent.link[peer] != up {
                agent.link[peer] = up;
                let delay = self.rng.below(50 * MS);
                self.tell(host, delay, What::Link { node: id(peer), up });
            }
        }
    }

    /// A proposal, sent on to the leader.
    pub fn propose(&mut self, from: usize, topic: Topic, mut command: Command) {
        let Some(agent) = &self.hosts[from].agent else { return };
        let life = agent.life;
        self.check_patience(from, &command);
        if self.propose_mutation(from, &mut command) {
            return;
        }
        self.check_proposed(from, &command);
        let way = MS / 2 + self.rng.below(5 * MS);
        let slow = if self.hosts[from].slow_disk { self.rng.below(200 * MS) } else { 0 };
        let slow = slow + self.attack_proposal(&command);
        let term = self.raft.term;
        self.at(way + slow, Ev::Commit { from, life, term, topic, command });
    }

    /// An operator's proposal.
    pub fn order(&mut self, command: &Command) -> bool {
        let Some(leader) = self.raft.leader.filter(|leader| self.quorum_at(*leader, |_, _| true)) else { return false };
        self.append(leader, command)
    }

    /// It reaches the leader.
    pub fn commit(&mut self, from: usize, life: u64, term: u64, topic: Topic, command: &Command) {
        let leader = self.raft.leader.filter(|leader| {
            self.raft.term == term && self.net.both(from, *leader) && self.quorum_at(*leader, |_, _| true)
        });
        let lost = self.rng.permille(20);
        let (accepted, delay) = match leader {
            Some(leader) => (self.append(leader, command) && !lost, MS / 5 + self.rng.below(4 * MS)),
            None => {
                self.keep_in_limbo(from, term, command);
                (false, self.rng.between(50, 500) * MS)
            }
        };
        let done = Input::What(Box::new(What::Proposed { topic, accepted }));
        self.at(delay, Ev::Agent { host: from, life, what: done });
    }

    pub fn append(&mut self, leader: usize, command: &Command) -> bool {
        self.commit_limbo(leader);
        let before = Arc::clone(&self.raft.states[self.raft.states.len() - 1]);
        let mut state = (*before).clone();
        self.attack_leaving(leader, command);
        let broken = self.expect_mutation(&before, command);
        let outcome = state.apply(broken.as_ref().unwrap_or(command));
        let outcome = self.apply_mutation(&mut state, command, outcome);
        if self.tracing {
            let text = crate::trace::command(command);
            tr!(self, "raft: {text} -> {outcome:?}");
        }
        if outcome.is_err() {
            return false;
        }
        self.check_compared(&before, command);
        if self.raft.generation < self.generation {
            self.violate("older-generation-acts", format!("generation {} agreed on a change", self.raft.generation));
        }
        let state = Arc::new(state);
        self.raft.states.push(Arc::clone(&state));
        let index = self.raft.states.len() - 1;
        for host in 0..self.hosts.len() {
            let Some(agent) = &self.hosts[host].agent else { continue };
            let life = agent.life;
            let reached = self.net.both(leader, host) && !self.unkind.full(host);
            if !reached || !self.raft.members.contains(&host) || self.raft.sent[host] + 1 != index {
                continue;
            }
            self.raft.sent[host] = index;
            let lag =
                if self.rng.permille(50) { self.rng.between(5, 400) * MS } else { MS / 5 + self.rng.below(3 * MS) };
            self.at(lag, Ev::Apply { host, life, index });
        }
        if let Command::Guardians(GuardianChange::Renewed { group, .. }) = command {
            self.attack_renewed(group);
        }
        if let Command::Group { group, change, .. } = command {
            if let (GroupCommand::Promote { successor, .. }, number) = (change, self.group_of(group)) {
                let host = crate::agent::host_of(*successor);
                self.attack_promotion(host, place(host, number));
            }
            self.check_change(self.group_of(group), &before, &state, change);
        }
        true
    }

    /// The state after the last commit.
    pub fn committed(&self) -> &State {
        &self.raft.states[self.raft.states.len() - 1]
    }
}
