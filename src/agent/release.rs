//! The word that an instance is about to be stopped: it hands over what it serves, leaves the followers, and whoever stops
//! it hears when stopping it costs no write.
//!
//! The core does the work ([`View::leaving_since`]); here is only who asked, and what is answered. Whoever asks waits in
//! the unit's `ExecStop`, so there is an answer within [`PATIENCE`] whatever happens.

use super::Agent;
use super::desk::{Reply, give, open, reply_to};
use crate::cluster::{Durability, GroupName, Phase};
use crate::ctl::protocol::{RefusalKind, Response};
use crate::decide::{self, STOP_LEAVE};
use crate::view::{Condition, Moment, Posture, View, What};
use std::time::Duration;
use tokio::sync::oneshot;

/// A little less than the socket waits.
const PATIENCE: Duration = Duration::from_secs(8);

/// One who waits.
pub(super) struct Release {
    groups: Vec<GroupName>,
    asked_at: Moment,
    reply: Reply,
}

impl Release {
    /// Whether it still waits.
    pub(super) fn settle(&self, view: &View) -> bool {
        let ended: Vec<(&GroupName, Option<String>)> =
            self.groups.iter().map(|name| (name, released(view, name))).collect();
        let said = |(name, text): &(&GroupName, Option<String>)| Some(format!("{name}: {}", text.as_ref()?));
        if ended.iter().all(|(_, text)| text.is_some()) {
            let lines: Vec<String> = ended.iter().filter_map(said).collect();
            give(&self.reply, Response::said(lines.join("\n")));
        } else if view.now.since(self.asked_at) >= PATIENCE {
            let why = "it was not handed over in time";
            let remedy = "see `mainstay status`; stopping it now is a failover like any other";
            give(&self.reply, Response::refused(RefusalKind::Unfinished, why, remedy));
        }
        open(&self.reply)
    }
}

/// How a group's instance here stands to being stopped; None while something still waits for it.
fn released(view: &View, name: &GroupName) -> Option<String> {
    let said = |text: &str| Some(text.to_owned());
    let Some((group, seat)) = view.group(name).zip(view.seats.get(name)) else {
        return said("the group is not known to the cluster yet");
    };
    if matches!(seat.instance.condition, Condition::Gone | Condition::Unknown | Condition::Unusable { .. }) {
        return said("its instance is down");
    }
    if group.primary_node() == Some(view.me) {
        let stable = matches!(group.phase, Phase::Stable);
        let serving = seat.instance.posture == Posture::Serving(group.epoch);
        return match (stable, serving) {
            (true, true) if seat.membership.handover_failed.is_some() => {
                said("not handed over: no replica caught up; another is promoted once it is stopped")
            }
            (true, true) if decide::handover_target(view, name).is_none() => {
                said("not handed over: no replica is in sync that could take over")
            }
            (true, false) if !view.lease_live(name) => said("it does not serve"),
            _ => None,
        };
    }
    let left = match group.followers.get(&view.me) {
        None => true,
        // It vanishes, and counts on.
        Some(_) => {
            let since = view.leaving_since(name).map_or(Duration::ZERO, |since| view.now.since(since));
            group.durability == Durability::Quorum && since >= STOP_LEAVE
        }
    };
    let served = view.served(name).is_some();
    (left && served && seat.instance.posture == Posture::Sealed).then(|| "another instance serves".to_owned())
}

impl Agent {
    /// Tells the core, and answers when it is done.
    pub(super) fn release(&mut self, group: Option<GroupName>, unit: Option<&str>, answer: oneshot::Sender<Response>) {
        let meant = |name: &&GroupName| match (&group, unit) {
            (Some(group), _) => group == *name,
            (None, Some(unit)) => self.units.get(*name).is_some_and(|known| known.name == unit),
            (None, None) => true,
        };
        let groups: Vec<GroupName> = self.view.mine.iter().filter(meant).cloned().collect();
        if groups.is_empty() {
            let _ = answer.send(Response::said("no group of this host has such an instance: nothing to hand over"));
            return;
        }
        self.at_once.extend(groups.iter().cloned().map(|group| What::Releasing { group }));
        self.desk.releases.push(Release { groups, asked_at: self.view.now, reply: reply_to(answer) });
    }
}
