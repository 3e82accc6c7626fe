//! `mainstay failover --force` on the agent's side: the plan, the order, and its outcome.
//!
//! With a majority the order goes through Raft like every other, and leases and seals keep their majorities. It never
//! does more than the plan said: an agent that would now found a new generation where the plan did not say so refuses.

use super::desk::{Reply, give, open, reply_to};
use super::order::{self, Order};
use super::{Agent, entry};
use crate::cluster::{
    Command, Epoch, Group, GroupCommand, GroupName, NodeId, generation_number, majority, next_generation,
};
use crate::ctl::force::{lonely, risks};
use crate::ctl::protocol::{ForcePlan, RefusalKind, Response};
use crate::view::{Moment, View};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// An operator waits no longer than this, a little less than the socket does.
const PATIENCE: Duration = Duration::from_secs(14);

/// A forced promotion that is under way.
pub(super) struct Forced {
    group: GroupName,
    to: NodeId,
    epoch: Epoch,
    asked_at: Moment,
    reply: Reply,
}

impl Forced {
    /// Whether the operator still waits, after the outcome was given if there is one.
    pub(super) fn settle(&self, view: &View) -> bool {
        if let Some(response) = self.outcome(view) {
            give(&self.reply, response);
        }
        open(&self.reply)
    }

    fn outcome(&self, view: &View) -> Option<Response> {
        let group = view.group(&self.group)?;
        if group.epoch > self.epoch && view.served(&self.group).is_some() {
            let (now, wanted) = (group.primary_node()?, view.name_of(self.to));
            let (name, served) = (&self.group, view.name_of(now));
            if now != self.to {
                let why = format!("{served} was promoted instead of {wanted}, which did not report in time");
                return Some(Response::refused(RefusalKind::Unfinished, why, "see `mainstay status`"));
            }
            return Some(Response::said(format!("{name}: {served} serves at epoch {}, by force", group.epoch)));
        }
        (view.now.since(self.asked_at) >= PATIENCE).then(|| {
            let why = format!("{} was not promoted in time; the order stands", view.name_of(self.to));
            Response::refused(RefusalKind::Unfinished, why, "see `mainstay status` for what it waits for")
        })
    }
}

/// Whether so many nodes are connected to this one that a majority of voters could agree and a majority of guardians could
/// seal: of both sets of guardians while they change, for the old one may be lost when the voters have changed already.
pub(super) fn majority_in_reach(view: &View) -> bool {
    voters_in_reach(view) && guardians_in_reach(view)
}

fn in_reach(view: &View, id: NodeId) -> bool {
    id == view.me || view.peers.get(&id).is_some_and(|peer| peer.link)
}

fn voters_in_reach(view: &View) -> bool {
    let voters = &view.leadership.voters;
    voters.is_empty() || voters.iter().filter(|id| in_reach(view, **id)).count() >= majority(voters.len())
}

fn guardians_in_reach(view: &View) -> bool {
    let guardians = &view.state.guardians;
    guardians.now.is_empty() || guardians.majority_of(|id| in_reach(view, id))
}

impl Agent {
    pub(super) fn force_plan(&self, group: Option<GroupName>, to: &str) -> Response {
        match self.plan(group, to) {
            Ok((plan, _)) => Response::Plan(plan),
            Err(refusal) => refusal,
        }
    }

    fn plan(&self, group: Option<GroupName>, to: &str) -> Result<(ForcePlan, NodeId), Response> {
        let (name, group) = self.one_group(group)?;
        let node = self.forcible(&name, group, to)?;
        let mut warnings = risks(&self.view, &self.decision, &name, node);
        let founding = self.must_found(to, node)?;
        if founding {
            warnings.extend(self.founding_warnings());
        }
        Ok((ForcePlan { group: name, to: to.to_owned(), founding, warnings }, node))
    }

    fn forcible(&self, name: &GroupName, group: &Group, to: &str) -> Result<NodeId, Response> {
        let wrong = |why: String| Response::refused(RefusalKind::Wrong, why, "");
        let found = self.view.state.nodes.iter().find(|(_, node)| node.name == to);
        let (id, _) = found.ok_or_else(|| wrong(format!("there is no node {to}")))?;
        let member = group.members.get(id).ok_or_else(|| wrong(format!("{to} has no instance of {name}")))?;
        if member.priority == 0 {
            let why = format!("{to} has priority 0 in {name}: it is never promoted, by force neither");
            return Err(Response::refused(RefusalKind::Wrong, why, "name another node"));
        }
        Ok(*id)
    }

    /// Whether only a new generation of the cluster can do it.
    fn must_found(&self, to: &str, node: NodeId) -> Result<bool, Response> {
        let (view, not_now) =
            (&self.view, |why: String, remedy: &str| Response::refused(RefusalKind::NotNow, why, remedy));
        if majority_in_reach(view) {
            return Ok(false);
        }
        if !lonely(view, self.majority_at) {
            return Err(not_now("the majority was in reach a moment ago".to_owned(), "try again in a few seconds"));
        }
        if node != view.me {
            let why = format!("no majority is left: {to} could go on alone, and only {to} itself can begin that");
            return Err(not_now(why, &format!("run this command on {to}")));
        }
        Ok(true)
    }

    /// Begins; the outcome is given when the view shows it.
    pub(super) fn force(
        &mut self,
        group: Option<GroupName>,
        to: &str,
        founding: bool,
        answer: oneshot::Sender<Response>,
    ) {
        let (plan, node) = match self.plan(group, to) {
            Ok((plan, node)) if plan.founding == founding => (plan, node),
            Ok(_) => {
                let why = "the majority has come or gone since you were asked";
                let _ = answer.send(Response::refused(RefusalKind::NotNow, why, "run the command again"));
                return;
            }
            Err(refusal) => {
                let _ = answer.send(refusal);
                return;
            }
        };
        if plan.founding {
            self.found_generation(&plan, answer);
            return;
        }
        let Some(found) = self.view.group(&plan.group) else { return };
        let change = GroupCommand::Force { node };
        let command = Command::Group { group: plan.group.clone(), expect: found.expect(), change };
        let (reply, asked_at) = (reply_to(answer), self.view.now);
        let forced = Forced { group: plan.group, to: node, epoch: found.epoch, asked_at, reply: Arc::clone(&reply) };
        self.desk.forced.push(forced);
        let raft = self.raft.clone();
        tokio::spawn(async move {
            let refusal = match raft.propose(command).await {
                // It was ordered before: the outcome is the same.
                Ok(Ok(()) | Err(crate::cluster::Rejection::Nothing)) => return,
                Ok(Err(rejection)) => rejection.to_string(),
                Err(error) => error.to_string(),
            };
            give(&reply, Response::refused(RefusalKind::NotNow, refusal, "see `mainstay status`, then try again"));
        });
    }
}

/// Without a majority.
impl Agent {
    fn founding_warnings(&self) -> Vec<String> {
        let view = &self.view;
        let me = view.name_of(view.me);
        let (lost, what) = if voters_in_reach(view) {
            (view.state.guardians.all(), "guardians")
        } else {
            (view.leadership.voters.iter().copied().collect(), "voters")
        };
        let lost: Vec<String> = lost.into_iter().map(|id| view.name_of(id)).collect();
        let others: Vec<&str> =
            view.state.nodes.iter().filter(|(id, _)| **id != view.me).map(|(_, node)| node.name.as_str()).collect();
        let others = others.join(", ");
        let mine: Vec<String> = view.mine.iter().map(ToString::to_string).collect();
        let address = view.state.nodes.get(&view.me).map(|node| node.address.clone()).unwrap_or_default();
        vec![
            format!(
                "no majority of the {what} {} is in reach of {me}: nothing can be agreed on any more",
                lost.join(", ")
            ),
            format!("{me} founds a new generation of the cluster, alone, and is promoted in {}", mine.join(", ")),
            format!("{others}: dropped from the cluster; what they agreed on and {me} has not heard of is lost"),
            format!(
                "DANGER: {others} must not start again with their old data out of reach of {me}: a majority of them would serve beside it, and there would be TWO PRIMARIES; run `mainstay join {address}` on each before it is used again"
            ),
        ]
    }

    fn found_generation(&mut self, plan: &ForcePlan, answer: oneshot::Sender<Response>) {
        let mut random = [0; 8];
        let drawn = getrandom::fill(&mut random).map_err(|error| error.to_string());
        let generation = next_generation(self.store.identity().generation, u64::from_le_bytes(random));
        let given = drawn
            .and_then(|()| order::give(&self.dir, &Order::Found { generation }).map_err(|error| format!("{error:#}")));
        let response = match given {
            Ok(()) => {
                self.again = true;
                let number = generation_number(generation);
                Response::said(format!("{} goes on alone, as generation {number} of the cluster", plan.to))
            }
            Err(why) => Response::refused(RefusalKind::Internal, why, ""),
        };
        let _ = answer.send(response);
    }

    /// Drops this node's membership, if it is of no use any more.
    pub(super) fn rejoin(&mut self, address: &str, answer: oneshot::Sender<Response>) {
        let me = self.view.name_of(self.view.me);
        let member = majority_in_reach(&self.view) && self.ending.is_none();
        let given = if member || super::ending::serves(&self.view) {
            let why = format!("{me} is a member of a cluster that has its majority");
            Err(Response::refused(RefusalKind::NotNow, why, format!("run `mainstay leave {me}` on another node first")))
        } else {
            entry::give_join(&self.dir, &me, address)
        };
        self.again |= given.is_ok();
        let _ = answer.send(given.unwrap_or_else(|refusal| refusal));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Guardians, Local, State};
    use crate::view::Peer;
    use std::collections::{BTreeMap, BTreeSet};

    fn view(guardians: Guardians, voters: &[u64], up: &[u64]) -> View {
        let state = Arc::new(State { guardians, ..State::default() });
        let mut view = View::new(NodeId(3), Moment(1), state, Local::default(), &BTreeMap::new(), BTreeSet::new());
        view.leadership.voters = voters.iter().map(|id| NodeId(*id)).collect();
        view.peers = up.iter().map(|id| (NodeId(*id), Peer { link: true, ..Peer::default() })).collect();
        view
    }

    /// Two hosts are lost just when three guardians were to become five: the voters, changed first, could still agree, and
    /// nobody could seal any more.
    #[test]
    fn guardians_that_are_changing_can_lose_their_majority_alone() {
        let set = |ids: &[u64]| ids.iter().map(|id| NodeId(*id)).collect::<BTreeSet<_>>();
        let changing = Guardians { now: set(&[1, 2, 3]), next: Some(set(&[1, 2, 3, 4, 5])), ..Guardians::default() };
        assert!(!majority_in_reach(&view(changing.clone(), &[1, 2, 3, 4, 5], &[4, 5])));
        assert!(majority_in_reach(&view(changing, &[1, 2, 3, 4, 5], &[2, 4])));
        let changed = Guardians { now: set(&[1, 2, 3, 4, 5]), ..Guardians::default() };
        assert!(majority_in_reach(&view(changed.clone(), &[1, 2, 3, 4, 5], &[4, 5])));
        assert!(!majority_in_reach(&view(changed, &[1, 2, 3, 4, 5], &[4])));
    }
}
