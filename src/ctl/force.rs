//! What a promotion by force may lose, in sentences, before it is asked for.
//!
//! Pure: told from what this node knows. It says which members' word is missing and how far the named node is known to
//! be behind; where it does not know, it says that. It must never sound surer than it is: what a silent member holds
//! nobody can tell.

use crate::cluster::{Epoch, Group, GroupName, NodeId, Offset, Phase};
use crate::decide;
use crate::decide::Decision;
use crate::view::{Moment, Report, Seat, View};
use std::time::Duration;

/// A silence as long as this is worth a word, or half a lease if that is longer.
const SILENT: Duration = Duration::from_millis(400);

/// What is known of one member's data.
#[derive(Debug, Clone, Default)]
struct Known {
    lineage: Option<Epoch>,
    offset: Option<Offset>,
    /// What it said last as primary of this epoch, maybe before its instance was another.
    served: Option<(Epoch, Offset)>,
    /// For how long it has not been heard, in words.
    silent: Option<String>,
    keys: Option<u64>,
    /// It is the primary or in F: what it acknowledged counted.
    counted: bool,
    voided: bool,
}

/// The sentences; none if nothing is known to be at risk.
pub fn risks(view: &View, decision: &Decision, name: &GroupName, to: NodeId) -> Vec<String> {
    let (Some(group), Some(seat)) = (view.group(name), view.seats.get(name)) else { return Vec::new() };
    let mut said = Vec::new();
    let serves = group.primary_node().filter(|_| view.serving_heard(seat, group));
    if let Some(primary) = serves.filter(|_| matches!(group.phase, Phase::Stable)) {
        said.push(format!(
            "{} serves as primary and is fenced; `mainstay switchover --to {}` would lose nothing",
            view.name_of(primary),
            view.name_of(to)
        ));
    }
    let target = known(view, decision, name, group, seat, to);
    said.extend(of_target(&view.name_of(to), &target, group.epoch));
    for node in group.members.keys().filter(|node| **node != to) {
        let other = known(view, decision, name, group, seat, *node);
        said.extend(against(view, *node, &view.name_of(to), &target, &other));
    }
    said
}

fn of_target(name: &str, target: &Known, epoch: Epoch) -> Vec<String> {
    let mut said = Vec::new();
    if let Some(silent) = &target.silent {
        said.push(format!("{name} itself is {silent}: it cannot be promoted before it answers"));
    }
    if target.keys == Some(0) {
        said.push(format!("{name} is EMPTY: all data of the group is lost unless another member is promoted"));
    }
    if target.voided {
        said.push(format!("a full resynchronisation of {name} was cut off: what it holds may be half of anything"));
    }
    if let Some(own) = target.lineage.filter(|own| *own < epoch) {
        said.push(format!(
            "the data of {name} is of epoch {own}, and the group came to epoch {epoch}: what was written since may be lost"
        ));
    }
    if target.lineage.is_none() {
        said.push(format!("nothing proves which epoch the data of {name} belongs to: it may be old"));
    }
    said
}

/// What `node` may hold that the target lacks.
fn against(view: &View, node: NodeId, to: &str, target: &Known, other: &Known) -> Option<String> {
    let name = view.name_of(node);
    let missing = match &other.silent {
        Some(silent) => Some(format!("{name} is {silent}: writes that only it holds are lost")),
        None if other.offset.is_none() => {
            Some(format!("{name} tells nothing of its data: writes that only it holds are lost"))
        }
        None => None,
    };
    let behind = behind(&name, to, target, other).or_else(|| {
        let (epoch, offset) = other.served?;
        let served = Known { lineage: Some(epoch), offset: Some(offset), ..other.clone() };
        behind(&name, to, target, &served)
    });
    let emptied = (other.counted && other.keys == Some(0) && other.lineage.is_none() && target.keys != Some(0))
        .then(|| format!("{name} came back empty: what it acknowledged and {to} does not hold is lost"));
    let behind = behind.or(emptied);
    let said: Vec<String> = missing.into_iter().chain(behind).collect();
    (!said.is_empty()).then(|| said.join("; "))
}

/// What the target is known to lack, or not known to have, of another member's data.
fn behind(name: &str, to: &str, target: &Known, other: &Known) -> Option<String> {
    Some(match (target.lineage, other.lineage, target.offset, other.offset) {
        (Some(own), Some(theirs), ..) if theirs > own => {
            let epochs = theirs.0 - own.0;
            format!(
                "the data of {to} is {epochs} epoch{} older than that of {name}",
                if epochs == 1 { "" } else { "s" }
            )
        }
        (own, theirs, Some(offset), Some(further)) if further > offset && (own == theirs || own.is_none()) => {
            format!("{to} lacks up to {} bytes that {name} held when last heard", further.0 - offset.0)
        }
        (Some(_), None, ..) if other.silent.is_none() && other.offset.is_some() && other.keys != Some(0) => {
            format!("nothing proves which epoch the data of {name} belongs to: it may hold what {to} lacks")
        }
        _ => return None,
    })
}

fn known(view: &View, decision: &Decision, name: &GroupName, group: &Group, seat: &Seat, node: NodeId) -> Known {
    let own = (node == view.me).then(|| decide::health(view, decision, name)).flatten();
    let health = own.as_ref().or_else(|| seat.health.get(&node));
    let report = report(view, group, seat, node);
    let renewal =
        seat.renewal.as_ref().filter(|(_, renewal)| group.primary_node() == Some(node) && renewal.epoch == group.epoch);
    let served = renewal.and_then(|(_, renewal)| Some((renewal.epoch, renewal.serving.as_ref()?.offset)));
    let info = seat.instance.seen().filter(|_| node == view.me);
    // An instance that was restarted since it served has said so in its report: what it served is no part of that.
    let said = report.map(|report| (report.lineage, Some(report.offset)));
    let said = said.or(health.map(|health| (health.lineage, health.offset)));
    let (lineage, offset) = said.unwrap_or_else(|| served.unzip());
    Known {
        lineage,
        offset,
        served,
        // Who fell silent a moment ago may be dead, and what it said before that is old.
        silent: super::silence::silent_beyond(view, node, (view.lease() / 2).max(SILENT)),
        keys: report.map(|report| report.keys).or(info.map(|info| info.keys)),
        counted: group.primary_node() == Some(node) || group.followers.contains_key(&node),
        voided: report.is_some_and(|report| report.voided),
    }
}

fn report<'a>(view: &'a View, group: &Group, seat: &'a Seat, node: NodeId) -> Option<&'a Report> {
    let Phase::Sealing { next, .. } = group.phase else { return None };
    let own = seat.membership.report.as_ref().filter(|_| node == view.me);
    own.or_else(|| seat.reports.get(&node)).filter(|report| report.next == next)
}

/// How long a majority must have been out of reach before a new generation may be founded: an election takes less.
pub const LONELY_LEASES: u32 = 4;

/// Whether a majority has been out of reach for long enough, `since` when it was last seen.
pub fn lonely(view: &View, since: Moment) -> bool {
    view.now.since(since) >= (view.lease() * LONELY_LEASES).max(Duration::from_secs(3))
}
