//! The long actions of a host's shell: several steps with time between them, cut short by the next fence or seal.

use crate::events::{Ev, Input};
use crate::mutation::Mutation;
use crate::redis::{Command, place_of};
use crate::trace::label;
use crate::world::{LEASE, MS, Ns, World, group_at, host_at};
use mainstay::cluster::{Epoch, RunId, Why};
use mainstay::decide::Action;
use mainstay::view::{Moment, Outcome, Task, VipSight, What};

/// A task under way.
#[derive(Debug, Clone)]
pub struct Running {
    /// Its number; steps of others are ignored.
    pub number: u64,
    what: Work,
    task: Task,
    epoch: Epoch,
    step: u8,
    /// The command of this step was sent.
    sent: bool,
    clean: bool,
    deadline: Ns,
}

#[derive(Debug, Clone)]
enum Work {
    Seal,
    Fence(Why),
    Follow(String),
    Serve {
        run_id: RunId,
        until: Moment,
        min_replicas: u32,
    },
    Handover {
        to: String,
    },
    Tune(u32),
    /// Until then.
    Quarantine(Ns),
    Kill,
    ScriptKill,
}

const PATIENCE: Ns = 500 * MS;

impl World {
    /// Begins a task. One at a time: a seal or a fence takes the place of what runs.
    pub fn begin_task(&mut self, at: usize, action: Action) {
        let fence_limit = u64::try_from((LEASE / 8).as_nanos()).unwrap_or(0);
        let (what, task, epoch, limit) = match action {
            Action::Seal { epoch, .. } => (Work::Seal, Task::Seal, epoch, PATIENCE),
            Action::Fence { epoch, why, .. } => (Work::Fence(why), Task::Fence, epoch, fence_limit),
            Action::Follow { target, .. } => (Work::Follow(target.announce), Task::Follow, target.epoch, PATIENCE),
            Action::Serve { epoch, run_id, until, min_replicas, .. } => {
                (Work::Serve { run_id, until, min_replicas }, Task::Serve, epoch, PATIENCE)
            }
            Action::Handover { epoch, to, bound, .. } => {
                let bound = u64::try_from(bound.as_nanos()).unwrap_or(0);
                (Work::Handover { to }, Task::Handover, epoch, bound)
            }
            Action::Tune { epoch, min_replicas, .. } => (Work::Tune(min_replicas), Task::Tune, epoch, PATIENCE),
            Action::Quarantine { found, .. } => {
                let until = self.now + self.rng.between(20, 600) * MS;
                (Work::Quarantine(until), Task::Quarantine, found.epoch, 5000 * MS)
            }
            Action::Kill { .. } => (Work::Kill, Task::Kill, Epoch(0), PATIENCE),
            Action::ScriptKill { .. } => (Work::ScriptKill, Task::ScriptKill, Epoch(0), PATIENCE),
            _ => return,
        };
        self.lives += 1;
        let (number, deadline) = (self.lives, self.now + limit);
        let keep_late = self.rng.permille(500);
        if matches!(task, Task::Fence | Task::Seal) && !keep_late {
            // CLIENT KILL: what the cut-off task had sent and is not executed yet does not arrive.
            self.insts[at].redis.queue.retain(|(from, _)| *from == 0);
        }
        let host = host_at(at);
        let Some(agent) = self.hosts[host].agent.as_mut() else { return };
        let life = agent.life;
        let running = Running { number, what, task, epoch, step: 0, sent: false, clean: true, deadline };
        agent.tasks[group_at(at)] = Some(running);
        let delay = self.task_delay(host) + self.fence_mutation(at, task, epoch);
        self.at(delay, Ev::Agent { host, life, what: Input::Step(at, number) });
    }

    fn task_delay(&mut self, host: usize) -> Ns {
        let slow = if self.hosts[host].slow_redis { 60 * MS } else { 2 * MS };
        MS / 5 + self.rng.below(slow)
    }

    /// The next step of a task, unless another took its place.
    pub fn task_step(&mut self, at: usize, life: u64, number: u64) {
        let host = host_at(at);
        let Some(agent) = self.hosts[host].agent.as_mut() else { return };
        let Some(mut running) = agent.tasks[group_at(at)].clone().filter(|task| task.number == number) else { return };
        let ended = self.advance(at, &mut running);
        let Some(agent) = self.hosts[host].agent.as_mut() else { return };
        if let Some(outcome) = ended {
            agent.tasks[group_at(at)] = None;
            if running.task == Task::Fence {
                self.covered.fences += 1;
            }
            let done = What::Done { group: self.name_at(at), task: running.task, epoch: running.epoch, outcome };
            self.step(host, done);
            return;
        }
        agent.tasks[group_at(at)] = Some(running);
        let delay = self.task_delay(host);
        self.at(delay, Ev::Agent { host, life, what: Input::Step(at, number) });
    }

    fn advance(&mut self, at: usize, running: &mut Running) -> Option<Outcome> {
        let redis = &self.insts[at].redis;
        if matches!(running.what, Work::Kill) {
            let redis = &self.insts[at].redis;
            // The agent holds on to the very process it knew: another one in its place is not hit.
            let known = self.hosts[host_at(at)].agent.as_ref().and_then(|agent| {
                agent.view.seats.get(&self.name_at(at)).and_then(|seat| seat.instance.run_id().cloned())
            });
            if known.is_some_and(|known| known != redis.run_id()) {
                return Some(Outcome::Dead);
            }
            let busy = self.now < redis.loading_until || redis.syncing();
            // It was seen hanging a moment ago.
            if busy && self.now >= redis.hung_until + 150 * MS {
                self.violate("loading-is-alive", format!("{} is killed while it loads", label(at)));
            }
            self.kill_instance(at);
            return Some(Outcome::Dead);
        }
        if !redis.alive {
            return Some(self.without_instance(at, running));
        }
        if !redis.answers(self.now) || self.now < self.hosts[host_at(at)].locked_out_until {
            return self.frozen_instance(at, running);
        }
        if self.now < redis.loading_until {
            let why = "LOADING".to_owned();
            return Some(if running.task == Task::Fence {
                self.drop_vip(at);
                self.done(at, false)
            } else {
                Outcome::Failed { why }
            });
        }
        match running.what.clone() {
            Work::Seal => self.seal_step(at, running, None),
            Work::Fence(why) => self.seal_step(at, running, Some(why)),
            Work::Follow(announce) => match running.step {
                0 => {
                    self.send_command(at, running, Command::ReplicaOf(place_of(&announce).unwrap_or(at)));
                    None
                }
                _ => Some(self.done(at, true)),
            },
            Work::Serve { run_id, until, min_replicas } => self.serve_step(at, running, &run_id, until, min_replicas),
            Work::Handover { to } => self.handover_step(at, running, &to),
            Work::Tune(min_replicas) => {
                self.send_command(at, running, Command::Tune(min_replicas));
                Some(self.done(at, true))
            }
            Work::Quarantine(until) if self.now < until => None,
            // There is no room for the file.
            Work::Quarantine(_) if self.unkind.full(host_at(at)) => {
                Some(Outcome::Failed { why: "no space".to_owned() })
            }
            Work::Quarantine(_) => {
                self.covered.quarantined += 1;
                self.note_rescued(at);
                Some(self.done(at, true))
            }
            Work::Kill | Work::ScriptKill => Some(self.done(at, true)),
        }
    }

    fn send_command(&mut self, at: usize, running: &mut Running, command: Command) {
        if !running.sent {
            self.command(at, running.number, command);
        }
        running.sent = false;
        running.step += 1;
    }

    fn done(&self, at: usize, clean: bool) -> Outcome {
        let asked = self.hosts[host_at(at)].clock(self.now);
        Outcome::Done { info: self.insts[at].redis.info(asked, self.now), clean }
    }

    /// Detaches, in one transaction with the look at what was under way.
    fn seal_step(&mut self, at: usize, running: &mut Running, fence: Option<Why>) -> Option<Outcome> {
        if running.step == 0 {
            running.clean &= !self.insts[at].redis.syncing();
            let idle = self.is_stranger(at) && running.epoch == Epoch(0);
            if (self.mutation == Some(Mutation::SealsWithoutDetaching) || idle) && fence.is_none() {
                running.step = 1;
                return None;
            }
            self.send_command(at, running, Command::Nowhere { close: fence.is_some() });
            return None;
        }
        if let Some(why) = fence {
            self.end_vip(at, why);
        }
        Some(self.done(at, running.clean))
    }

    fn serve_step(
        &mut self,
        at: usize,
        running: &mut Running,
        run_id: &RunId,
        until: Moment,
        min_replicas: u32,
    ) -> Option<Outcome> {
        if running.step > 0 {
            let primary = self.insts[at].redis.upstream.is_none();
            let why = "not primary".to_owned();
            return Some(if primary { self.done(at, true) } else { Outcome::Failed { why } });
        }
        let late = self.hosts[host_at(at)].clock(self.now) >= until;
        let other = self.insts[at].redis.run_id() != *run_id;
        if late || (other && self.mutation != Some(Mutation::AnotherProcessServes)) {
            return Some(Outcome::Failed { why: "too late, or another process".to_owned() });
        }
        self.serve_mutation(at);
        self.send_command(at, running, Command::NoOne(min_replicas));
        None
    }

    /// S10: pause, drain, freeze with the replicas attached, wait for the successor.
    fn handover_step(&mut self, at: usize, running: &mut Running, to: &str) -> Option<Outcome> {
        let reached = |world: &Self| {
            if world.mutation == Some(Mutation::HandoverTooEarly) {
                return true;
            }
            let redis = &world.insts[at].redis;
            let target = place_of(to).and_then(|target| redis.replicas.get(&target));
            target.is_some_and(|target| target.online && target.acked >= redis.offset)
        };
        match running.step {
            0 => {
                self.send_command(at, running, Command::Pause(running.deadline + 200 * MS));
                None
            }
            1 if reached(self) => {
                let freeze = self.handover_mutation(at).unwrap_or(Command::Nowhere { close: false });
                self.send_command(at, running, freeze);
                None
            }
            1 if self.now >= running.deadline => {
                self.command(at, running.number, Command::Unpause);
                Some(Outcome::Failed { why: "the successor did not catch up".to_owned() })
            }
            2 if reached(self) || self.mutation == Some(Mutation::PingAfterDrain) => {
                self.note_handover(at, running.epoch, place_of(to));
                Some(self.done(at, true))
            }
            2 if self.now >= running.deadline => Some(self.done(at, true)),
            _ => None,
        }
    }

    fn without_instance(&mut self, at: usize, running: &Running) -> Outcome {
        if let Work::Fence(why) = running.what {
            self.end_vip(at, why);
            return Outcome::Dead;
        }
        Outcome::Failed { why: "the instance is gone".to_owned() }
    }

    /// It does not answer: the command waits in its socket. A fence kills what it cannot confirm (S9).
    fn frozen_instance(&mut self, at: usize, running: &mut Running) -> Option<Outcome> {
        let command = match &running.what {
            Work::Seal => Some(Command::Nowhere { close: false }),
            Work::Fence(_) => Some(Command::Nowhere { close: true }),
            Work::Follow(announce) => place_of(announce).map(Command::ReplicaOf),
            Work::Serve { min_replicas, until, .. } if self.hosts[host_at(at)].clock(self.now) < *until => {
                Some(Command::NoOne(*min_replicas))
            }
            _ => None,
        };
        if running.step == 0
            && !running.sent
            && let Some(command) = command
        {
            running.clean &= !self.insts[at].redis.syncing();
            self.command(at, running.number, command);
            running.sent = true;
        }
        if self.now < running.deadline {
            return None;
        }
        if let Work::Fence(why) = running.what {
            self.end_vip(at, why);
            self.kill_instance(at);
            return Some(Outcome::Dead);
        }
        Some(Outcome::Failed { why: "no answer".to_owned() })
    }

    /// A fence takes the VIP off, but where clients are better refused by the dead or sealed instance for a moment.
    fn end_vip(&mut self, at: usize, why: Why) {
        if !why.vip_lingers() {
            self.drop_vip(at);
        }
    }

    fn drop_vip(&mut self, at: usize) {
        self.insts[at].vip_until = 0;
        self.tell(host_at(at), MS, What::Vip { group: self.name_at(at), seen: VipSight::Removed });
    }
}
