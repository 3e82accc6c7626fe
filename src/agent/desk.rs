//! Answers the operator: status at once, changes when they are over or their time is up.
//!
//! It proposes what was asked for, and watches the view for the outcome; it never acts on an instance by itself.

use super::Agent;
use crate::cluster::{Command, Epoch, Group, GroupCommand, GroupName, NodeId, Pause, Phase, Why};
use crate::ctl::protocol::{Done, GroupDone, MembersReport, RefusalKind, Request, Response, Switched};
use crate::ctl::report::StatusReport;
use crate::ctl::status::{HostFacts, RaftFacts, history, status};
use crate::decide::Decision;
use crate::raft::Control;
use crate::view::{Moment, View, What};
use crate::wire::Fault;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// An operator waits no longer than this for a change, a little less than the socket does.
const PATIENCE: Duration = Duration::from_secs(14);
/// And for a fence.
const FENCE_PATIENCE: Duration = Duration::from_millis(1500);

/// What became of a fenced group.
const SERVES_NOTHING: &str = "this host is not its primary and has no VIP of it: there was nothing to fence";
const FENCED: &str = "nothing of it is served here; the best candidate is promoted, maybe this one: `mainstay pause` first prevents that";

/// Answers that wait for an outcome.
#[derive(Default)]
pub(super) struct Desk {
    switches: Vec<Switch>,
    fences: Vec<Fence>,
    pub(super) forced: Vec<super::force::Forced>,
    pub(super) releases: Vec<super::release::Release>,
}

pub(super) type Reply = Arc<Mutex<Option<oneshot::Sender<Response>>>>;

struct Switch {
    group: GroupName,
    from: NodeId,
    epoch: Epoch,
    asked_at: Moment,
    begun: bool,
    reply: Reply,
}

struct Fence {
    asked_at: Moment,
    reply: Reply,
}

pub(super) fn reply_to(answer: oneshot::Sender<Response>) -> Reply {
    Arc::new(Mutex::new(Some(answer)))
}

pub(super) fn give(reply: &Reply, response: Response) {
    let taken = reply.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(answer) = taken {
        // The operator has gone away: nothing is lost.
        let _ = answer.send(response);
    }
}

pub(super) fn open(reply: &Reply) -> bool {
    reply.lock().unwrap_or_else(PoisonError::into_inner).is_some()
}

/// What a node that is in no cluster yet answers.
pub(super) fn before_membership(node: &str, request: &Request, waiting: &str) -> Response {
    match request {
        Request::Status {} => {
            let facts = RaftFacts { waiting: Some(waiting.to_owned()), ..RaftFacts::default() };
            let now = super::clock::now();
            let view =
                View::new(NodeId(0), now, Arc::default(), Default::default(), &BTreeMap::new(), Default::default());
            let mut report = status(&view, &Decision::default(), &facts, &HostFacts::default());
            node.clone_into(&mut report.node);
            report.now_unix_ms = super::clock::unix_ms();
            Response::Status(Box::new(report))
        }
        Request::Release { .. } => Response::said(format!("{node} is in no cluster yet: nothing to hand over")),
        _ => Response::refused(RefusalKind::NotNow, format!("{node} is in no cluster yet: {waiting}"), ""),
    }
}

/// Requests of peers' agents: none are understood, since every change goes through Raft.
pub(super) fn no_control() -> Arc<dyn Control> {
    struct Nothing;
    impl Control for Nothing {
        fn answer(&self, _: NodeId, _: Bytes) -> BoxFuture<'static, Result<Bytes, Fault>> {
            Box::pin(async { Err(Fault::UnknownKind) })
        }
    }
    Arc::new(Nothing)
}

impl Desk {
    /// Gives the answers whose outcome the view shows.
    pub(super) fn settle(&mut self, view: &View) {
        self.switches.retain_mut(|switch| {
            if let Some(response) = switch.outcome(view) {
                give(&switch.reply, response);
            }
            open(&switch.reply)
        });
        self.forced.retain(|forced| forced.settle(view));
        self.releases.retain(|release| release.settle(view));
        self.fences.retain(|fence| {
            let done: Vec<GroupDone> = view.mine.iter().filter_map(|name| fenced(view, name)).collect();
            let late = view.now.since(fence.asked_at) >= FENCE_PATIENCE;
            if done.len() == view.mine.len() {
                give(&fence.reply, Response::Done(Done::Fenced { groups: done }));
            } else if late {
                let why = "the fence was not confirmed in time";
                let remedy = "see `mainstay status`; stop the instance by hand if it still serves";
                give(&fence.reply, Response::refused(RefusalKind::Unfinished, why, remedy));
            }
            open(&fence.reply)
        });
    }
}

fn fenced(view: &View, name: &GroupName) -> Option<GroupDone> {
    let seat = view.seats.get(name)?;
    let group = view.group(name)?;
    let mine = group.primary_node() == Some(view.me);
    let over = if mine { seat.lease.marked >= group.epoch } else { !seat.vip.held };
    let text = if mine { FENCED } else { SERVES_NOTHING };
    over.then(|| GroupDone { group: name.clone(), text: text.to_owned() })
}

impl Switch {
    fn outcome(&mut self, view: &View) -> Option<Response> {
        let group = view.group(&self.group)?;
        self.begun |= !matches!(group.phase, Phase::Stable);
        if group.epoch > self.epoch && view.served(&self.group).is_some() {
            let to = group.primary_node()?;
            let seat = view.seats.get(&self.group)?;
            let unserved = view.now.since(seat.switching_at);
            let note =
                if to == self.from { "the target did not come in time; the old primary serves again" } else { "" };
            return Some(Response::Done(Done::Switched(Switched {
                group: self.group.clone(),
                from: view.name_of(self.from),
                to: view.name_of(to),
                epoch: group.epoch,
                unserved_ms: u64::try_from(unserved.as_millis()).ok(),
                note: note.to_owned(),
            })));
        }
        if self.begun && group.epoch == self.epoch && matches!(group.phase, Phase::Stable) {
            let why = "the primary called the switchover off before it stopped serving: the target did not catch up";
            return Some(Response::refused(RefusalKind::NotNow, why, "try again when its lag is small"));
        }
        (view.now.since(self.asked_at) >= PATIENCE).then(|| {
            Response::refused(RefusalKind::Unfinished, "the switchover did not end in time", "see `mainstay status`")
        })
    }
}

impl Agent {
    /// Answers, or begins what answers later; an event for the loop, if that is what was asked for.
    pub(super) fn answer(&mut self, request: Request, answer: oneshot::Sender<Response>) -> Option<What> {
        match request {
            Request::Status {} => {
                let _ = answer.send(Response::Status(Box::new(self.report())));
            }
            Request::Members {} => {
                let report = self.report();
                let members = MembersReport { leader: report.leader, term: report.term, nodes: report.nodes };
                let _ = answer.send(Response::Members(members));
            }
            Request::History { group } => {
                let groups = history(&self.view, group.as_ref());
                let _ = answer.send(Response::History { groups });
            }
            Request::Release { group, unit } => self.release(group, unit.as_deref(), answer),
            Request::Switchover { group, to } => self.switchover(group, to, answer),
            Request::ForcePlan { group, to } => {
                let _ = answer.send(self.force_plan(group, &to));
            }
            Request::Force { group, to, founding } => self.force(group, &to, founding, answer),
            Request::Join { address } => self.rejoin(&address, answer),
            Request::Bootstrap { group, primary } => self.bootstrap(group, &primary, answer),
            Request::FenceHere {} => {
                let asked_at = self.view.now;
                self.desk.fences.push(Fence { asked_at, reply: reply_to(answer) });
                self.at_once.extend(self.view.mine.iter().cloned().map(|group| What::FenceOrdered { group }));
            }
            Request::Leave { node } => {
                let raft = self.raft.clone();
                tokio::spawn(async move {
                    let response = match raft.leave(&node).await {
                        Ok(()) => Response::said(format!("{node} has left the cluster")),
                        Err(error) => Response::refused(RefusalKind::NotNow, error.to_string(), ""),
                    };
                    let _ = answer.send(response);
                });
            }
            Request::Pause { group, length, reason } => {
                let pause = GroupCommand::Pause(Pause { length, reason });
                self.for_groups(group, &pause, "automatic promotion is paused", answer);
            }
            Request::Resume { group } => {
                self.for_groups(group, &GroupCommand::Resume, "automatic promotion is on again", answer);
            }
        }
        None
    }

    fn report(&self) -> StatusReport {
        let leadership = self.raft.leadership().borrow().clone();
        let reasons = leadership.learners.iter().filter_map(|id| Some((*id, self.raft.why_learner(*id)?)));
        let facts = RaftFacts {
            term: leadership.term,
            leader: leadership.leader,
            learner_reasons: reasons.collect(),
            voters: leadership.voters,
            learners: leadership.learners,
            addresses: BTreeMap::new(),
            reachable: self.raft.links(),
            waiting: None,
        };
        let mut host = self.host.clone();
        host.warnings.extend(self.disk.borrow().clone());
        status(&self.view, &self.decision, &facts, &host)
    }

    pub(super) fn one_group(&self, group: Option<GroupName>) -> Result<(GroupName, &Group), Response> {
        let groups = &self.view.state.groups;
        let wrong = |why: String| Response::refused(RefusalKind::Wrong, why, "");
        match group {
            Some(name) => match groups.get(&name) {
                Some(found) => Ok((name, found)),
                None => Err(wrong(format!("there is no group {name}"))),
            },
            None => match groups.iter().next() {
                Some((name, found)) if groups.len() == 1 => Ok((name.clone(), found)),
                Some(_) => Err(wrong("there is more than one group: name one with --group".to_owned())),
                None => Err(wrong("there is no group".to_owned())),
            },
        }
    }

    fn switchover(&mut self, group: Option<GroupName>, to: Option<String>, answer: oneshot::Sender<Response>) {
        let prepared = self.prepare_switch(group, to);
        let (name, from, epoch, command) = match prepared {
            Ok(prepared) => prepared,
            Err(refusal) => {
                let _ = answer.send(refusal);
                return;
            }
        };
        let reply = reply_to(answer);
        let asked_at = self.view.now;
        self.desk.switches.push(Switch { group: name, from, epoch, asked_at, begun: false, reply: Arc::clone(&reply) });
        let raft = self.raft.clone();
        tokio::spawn(async move {
            let refusal = match raft.propose(command).await {
                Ok(Ok(())) => return,
                Ok(Err(rejection)) => rejection.to_string(),
                Err(error) => error.to_string(),
            };
            give(&reply, Response::refused(RefusalKind::NotNow, refusal, "see `mainstay status`"));
        });
    }

    pub(super) fn prepare_switch(
        &self,
        group: Option<GroupName>,
        to: Option<String>,
    ) -> Result<(GroupName, NodeId, Epoch, Command), Response> {
        let (name, group) = self.one_group(group)?;
        let not_now = |why: String| Response::refused(RefusalKind::NotNow, why, "see `mainstay status`");
        let from = group.primary_node().ok_or_else(|| not_now(format!("{name} has no primary")))?;
        if !matches!(group.phase, Phase::Stable) {
            return Err(not_now(format!("{name} is between two primaries")));
        }
        let (_, serving) =
            self.view.served(&name).ok_or_else(|| not_now(format!("the primary of {name} is not heard")))?;
        let fit = |node: &NodeId| {
            group.followers.get(node).is_some_and(|follower| follower.leaving.is_none())
                && group.members.get(node).is_some_and(|member| member.priority > 0)
                && serving.followers.get(node).is_some_and(|(online, _)| *online)
        };
        let target = match to {
            Some(wanted) => self.named_target(&name, group, from, &wanted)?,
            None => {
                let rank = |node: &NodeId| {
                    let priority = group.members.get(node).map(|member| member.priority);
                    let offset = serving.followers.get(node).map(|(_, offset)| *offset);
                    (priority, offset, std::cmp::Reverse(*node))
                };
                let best = group.followers.keys().filter(|node| fit(node)).max_by_key(|node| rank(node));
                *best.ok_or_else(|| {
                    not_now(format!("no replica of {name} is in sync with {}", self.view.name_of(from)))
                })?
            }
        };
        if !fit(&target) {
            let why =
                format!("{} is not an attached replica of {name} that may be promoted", self.view.name_of(target));
            return Err(not_now(why));
        }
        let change = GroupCommand::Switch { to: target, why: Why::Operator };
        let command = Command::Group { group: name.clone(), expect: group.expect(), change };
        Ok((name, from, group.epoch, command))
    }

    /// S13. Without its data at hand this node cannot tell what is given up: the group's status does.
    fn bootstrap(&self, group: Option<GroupName>, primary: &str, answer: oneshot::Sender<Response>) {
        let prepared = self.one_group(group).and_then(|(name, group)| {
            let wrong = |why: String| Response::refused(RefusalKind::Wrong, why, "");
            let nodes = &self.view.state.nodes;
            let found = nodes.iter().find(|(_, node)| node.name == primary);
            let (id, _) = found.ok_or_else(|| wrong(format!("there is no node {primary}")))?;
            if !group.members.contains_key(id) {
                return Err(wrong(format!("{primary} has no instance of {name}")));
            }
            if group.epoch > Epoch(0) && group.primary_node() != Some(*id) {
                let why = format!("{name} has a primary already, and {primary} is not it");
                let remedy = "name the primary to give up what else holds data; `mainstay switchover --to` changes it";
                return Err(Response::refused(RefusalKind::Wrong, why, remedy));
            }
            let change = GroupCommand::Bootstrap { node: *id };
            Ok((name.clone(), Command::Group { group: name, expect: group.expect(), change }))
        });
        let (name, command) = match prepared {
            Ok(prepared) => prepared,
            Err(refusal) => {
                let _ = answer.send(refusal);
                return;
            }
        };
        let (raft, said) =
            (self.raft.clone(), format!("{primary}'s data is the data of {name}; what others hold is given up"));
        tokio::spawn(async move {
            let response = match raft.propose(command).await {
                Ok(Ok(()) | Err(crate::cluster::Rejection::Nothing)) => Response::said(said),
                Ok(Err(rejection)) => Response::refused(RefusalKind::NotNow, rejection.to_string(), "try again"),
                Err(error) => Response::refused(RefusalKind::NotNow, error.to_string(), "try again"),
            };
            let _ = answer.send(response);
        });
    }

    fn named_target(&self, name: &GroupName, group: &Group, from: NodeId, to: &str) -> Result<NodeId, Response> {
        let wrong = |why: String| Response::refused(RefusalKind::Wrong, why, "");
        let nodes = &self.view.state.nodes;
        let (id, _) =
            nodes.iter().find(|(_, node)| node.name == to).ok_or_else(|| wrong(format!("there is no node {to}")))?;
        if *id == from {
            return Err(wrong(format!("{to} is the primary of {name} already")));
        }
        if !group.members.contains_key(id) {
            return Err(wrong(format!("{to} has no instance of {name}")));
        }
        Ok(*id)
    }

    fn for_groups(
        &self,
        group: Option<GroupName>,
        change: &GroupCommand,
        said: &'static str,
        answer: oneshot::Sender<Response>,
    ) {
        let all = self.view.state.groups.iter();
        let chosen: Vec<Command> = all
            .filter(|(name, _)| group.as_ref().is_none_or(|wanted| wanted == *name))
            .map(|(name, found)| Command::Group { group: name.clone(), expect: found.expect(), change: change.clone() })
            .collect();
        if chosen.is_empty() {
            let _ = answer.send(Response::refused(RefusalKind::Wrong, "there is no such group", ""));
            return;
        }
        let raft = self.raft.clone();
        tokio::spawn(async move {
            for command in chosen {
                let refusal = match raft.propose(command).await {
                    Ok(Ok(()) | Err(crate::cluster::Rejection::Nothing)) => continue,
                    Ok(Err(rejection)) => rejection.to_string(),
                    Err(error) => error.to_string(),
                };
                let _ = answer.send(Response::refused(RefusalKind::NotNow, refusal, "try again"));
                return;
            }
            let _ = answer.send(Response::said(said));
        });
    }
}

/// What `status` tells of this host alone.
pub(super) fn host_facts(config: &crate::config::Config, warnings: Vec<String>) -> HostFacts {
    let vip = |group: &crate::config::GroupConfig| {
        let wanted = group.vip.as_ref()?;
        Some((GroupName(group.name.clone()), format!("{}/{}", wanted.vip.address, wanted.vip.prefix_len)))
    };
    HostFacts { vips: config.groups.iter().filter_map(vip).collect(), warnings }
}
