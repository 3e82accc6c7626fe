//! Events, actions and commands in one line each, for the reader of a failing seed. What only repeats is left out.

use crate::redis::Command as Order;
use mainstay::cluster::{Command, GroupCommand};
use mainstay::decide::Action;
use mainstay::view::{Item, Outcome, Sight, What};

/// A place for people: `n1`, and the group's number where it is not the first.
pub fn label(place: usize) -> String {
    let host = crate::world::host_at(place) + 1;
    match crate::world::group_at(place) {
        0 => format!("n{host}"),
        group => format!("n{host}.{group}"),
    }
}

/// The group that an action is about.
pub fn group_of(action: &Action) -> Option<&mainstay::cluster::GroupName> {
    match action {
        Action::Stamp { group, .. }
        | Action::Mark { group, .. }
        | Action::Seal { group, .. }
        | Action::Fence { group, .. }
        | Action::Follow { group, .. }
        | Action::Serve { group, .. }
        | Action::Handover { group, .. }
        | Action::Tune { group, .. }
        | Action::Quarantine { group, .. }
        | Action::Kill { group }
        | Action::ScriptKill { group }
        | Action::Start { group }
        | Action::SealRemote { group, .. }
        | Action::HoldVip { group, .. }
        | Action::DropVip { group } => Some(group),
        Action::Save(_) | Action::Send { .. } | Action::Propose { .. } | Action::Exit => None,
    }
}

/// Empty: not worth a line.
pub fn event(what: &What) -> String {
    match what {
        What::Applied(state) => state.groups.values().map(group).collect(),
        What::Leadership(l) => {
            format!("leadership term {} leader {:?} leading {}", l.term, l.leader.map(|n| n.0), l.leading)
        }
        What::Saved(local) => local
            .groups
            .values()
            .map(|g| {
                let lineage = g.lineage.as_ref().map(|l| (l.run_id.0.clone(), l.epoch.0));
                let attached = g.attached.as_ref().map(|a| (a.run_id.0.clone(), a.epoch.0));
                let (guardian, member) = (g.guardian_sealed, g.member_sealed);
                format!("saved: guardian {guardian} member {member} lineage {lineage:?} attached {attached:?}")
            })
            .collect(),
        What::Marked { epoch, .. } => format!("marked {epoch}"),
        What::Instance { seen, .. } => match seen {
            Sight::Info(_) => String::new(),
            other => format!("instance {other:?}"),
        },
        What::Done { task, epoch, outcome, .. } => match outcome {
            Outcome::Done { info, clean } => {
                let (offset, up) = (info.offset, info.upstream.clone().unwrap_or_else(|| "primary".to_owned()));
                format!("{task:?} {epoch} done: {up} offset {offset} syncing {} clean {clean}", info.syncing)
            }
            other => format!("{task:?} {epoch} {other:?}"),
        },
        What::Proposed { topic, accepted } => format!("proposed {topic:?} {accepted}"),
        What::Vip { seen, .. } => format!("vip {seen:?}"),
        What::Stopping => "stopping".to_owned(),
        _ => String::new(),
    }
}

fn group(group: &mainstay::cluster::Group) -> String {
    let followers: Vec<u64> = group.followers.keys().map(|node| node.0).collect();
    let (version, epoch, primary) = (group.version, group.epoch, group.primary_node().map(|n| n.0));
    format!("applied version {version}: epoch {epoch} primary {primary:?} {:?} F {followers:?}", group.phase)
}

/// Empty: not worth a line.
pub fn action(action: &Action) -> String {
    match action {
        Action::Save(_) | Action::Stamp { .. } | Action::HoldVip { .. } | Action::Propose { .. } => String::new(),
        Action::Send { to, items } => {
            let items: Vec<String> = items.iter().filter_map(item).collect();
            if items.is_empty() { String::new() } else { format!("to {to}: {}", items.join(", ")) }
        }
        Action::Seal { epoch, .. } => format!("seal {epoch}"),
        Action::Fence { epoch, why, .. } => format!("fence {epoch} {why:?}"),
        Action::Follow { target, .. } => format!("follow {} of epoch {}", target.node, target.epoch),
        Action::Serve { epoch, min_replicas, .. } => format!("serve {epoch} with min-replicas {min_replicas}"),
        Action::Handover { epoch, to, .. } => format!("hand over {epoch} to {to}"),
        Action::Tune { min_replicas, .. } => format!("min-replicas {min_replicas}"),
        Action::Mark { epoch, .. } => format!("mark {epoch}"),
        Action::Quarantine { .. } => "save diverged data".to_owned(),
        Action::Kill { .. } => "kill".to_owned(),
        Action::ScriptKill { .. } => "script kill".to_owned(),
        Action::Start { .. } => "start the unit".to_owned(),
        Action::SealRemote { epoch, addresses, .. } => format!("seal {} remotely for {epoch}", addresses.join(", ")),
        Action::DropVip { .. } => "drop the VIP".to_owned(),
        Action::Exit => "exit".to_owned(),
    }
}

fn item(item: &Item) -> Option<String> {
    match item {
        Item::Surrender { epoch, why, .. } => Some(format!("surrender {epoch} {why:?}")),
        Item::Sealed { next, .. } => Some(format!("guardian sealed {next}")),
        Item::Report(r) => {
            let (next, run, lineage, offset) = (r.next, &r.run_id, r.lineage.map(|e| e.0), r.offset);
            Some(format!("report {next}: {run} lineage {lineage:?} offset {offset} keys {}", r.keys))
        }
        Item::Rested { version, .. } => Some(format!("rested at version {version}")),
        Item::Renew(_)
        | Item::Promise { .. }
        | Item::Poll { .. }
        | Item::Vacant { .. }
        | Item::Health(_)
        | Item::Sentinel { .. } => None,
    }
}

/// One line for a command.
pub fn command(command: &Command) -> String {
    match command {
        Command::Group { expect, change, .. } => {
            let change = match change {
                GroupCommand::Promote { successor, run_id, start, guarantee, .. } => {
                    format!("Promote {successor} {run_id} from {start} {guarantee:?}")
                }
                other => format!("{other:?}"),
            };
            format!("at epoch {} {:?}: {change}", expect.epoch, expect.phase)
        }
        Command::Introduce { node, .. } => format!("introduce {node}"),
        other => format!("{other:?}"),
    }
}

impl Order {
    /// As an operator would type it.
    pub fn text(self) -> String {
        match self {
            Order::NoOne(min) => format!("REPLICAOF NO ONE, min-replicas {min}"),
            Order::Nowhere { close: false } => "sealed".to_owned(),
            Order::Nowhere { close: true } => "sealed, its connections closed".to_owned(),
            Order::ReplicaOf(place) => format!("REPLICAOF {}", label(place)),
            Order::Pause(_) => "writes paused".to_owned(),
            Order::Unpause => "writes go on".to_owned(),
            Order::Tune(min) => format!("min-replicas {min}"),
        }
    }
}
