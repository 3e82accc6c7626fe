//! What the service manager says of an instance's unit, and the word that its process is about to be stopped.
//!
//! Nothing that is safe or unsafe hangs on it: an instance is up or gone by its own signs. It tells a stop on purpose
//! from a crash, says when a failed unit may be started again, and lets an instance hand over before its process ends.

use super::View;
use super::moment::Moment;
use crate::cluster::{Epoch, GroupCommand, GroupName, RunId};
use std::time::Duration;

/// How long an instance whose stop was announced counts as leaving, if it just goes on.
const RELEASE_LIMIT: Duration = Duration::from_secs(60);
/// A failed unit is started again after this, twice as long after each further failure …
const FIRST_START: Duration = Duration::from_secs(1);
/// … but no later than after this; a unit that ran for as long starts anew.
const LAST_START: Duration = Duration::from_secs(60);

/// What the service manager says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnitSight {
    /// It runs.
    Running,
    /// It is being started, or waits for its next start.
    Starting,
    /// It is being stopped on purpose.
    Stopping,
    /// It was stopped on purpose.
    Stopped,
    /// It failed, and nobody starts it again.
    Failed,
}

impl UnitSight {
    /// On purpose: never fought.
    pub fn meant(self) -> bool {
        matches!(self, Self::Stopping | Self::Stopped)
    }
}

/// What is known of an instance's unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unit {
    /// What was said last; None without a unit, or while nothing is known.
    pub seen: Option<UnitSight>,
    /// Since when it runs.
    pub running_at: Option<Moment>,
    /// Failures in a row.
    pub failures: u32,
    /// When it may be started.
    pub start_at: Moment,
    /// The process that is about to be stopped, and since when that is known.
    pub releasing: Option<(RunId, Moment)>,
    /// How the reign of an epoch ended, by the unit or the host: for the change's event.
    pub cause: Option<(Epoch, String)>,
}

impl Unit {
    fn see(&mut self, now: Moment, seen: UnitSight) {
        let before = self.seen.replace(seen);
        match seen {
            UnitSight::Running => {
                self.running_at.get_or_insert(now);
            }
            UnitSight::Failed if before != Some(UnitSight::Failed) => {
                if self.running_at.is_some_and(|at| now.since(at) >= LAST_START) {
                    self.failures = 0;
                }
                let wait = FIRST_START * (1 << self.failures.min(6));
                self.start_at = now + wait.min(LAST_START);
                self.failures = self.failures.saturating_add(1);
                self.running_at = None;
            }
            _ => {}
        }
    }

    /// A start that did not come about.
    pub(super) fn note_start_failed(&mut self, now: Moment) {
        let wait = FIRST_START * (1 << self.failures.min(6));
        self.start_at = now + wait.min(LAST_START);
        self.failures = self.failures.saturating_add(1);
    }
}

impl View {
    pub(super) fn fold_unit(&mut self, name: &GroupName, seen: UnitSight) {
        let now = self.now;
        if let Some(seat) = self.seats.get_mut(name) {
            seat.instance.unit.see(now, seen);
        }
    }

    /// The instance's process is about to be stopped: it hands over, leaves the followers, and is left alone.
    pub(super) fn fold_releasing(&mut self, name: &GroupName) {
        let now = self.now;
        let Some(seat) = self.seats.get_mut(name) else { return };
        let Some(run_id) = seat.instance.run_id().cloned() else { return };
        if seat.instance.unit.releasing.as_ref().is_none_or(|(known, _)| *known != run_id) {
            seat.instance.unit.releasing = Some((run_id, now));
        }
        self.urgent = true;
    }

    /// What a report says of its instance's way out holds no longer than that takes: whoever is stopped by hand and goes on
    /// after all can be chosen again.
    pub(super) fn settle_stopping(&mut self, name: &GroupName) {
        let stopping = self.leaving_since(name).is_some();
        let report = self.seats.get_mut(name).and_then(|seat| seat.membership.report.as_mut());
        if let Some(report) = report.filter(|report| report.stopping != stopping) {
            report.stopping = stopping;
            self.urgent = true;
        }
    }

    pub(super) fn fold_cause(&mut self, name: &GroupName, epoch: Epoch, text: String) {
        if let Some(seat) = self.seats.get_mut(name) {
            seat.instance.unit.cause = Some((epoch, text));
        }
    }

    /// Since when this host's instance of the group is on its way out: its agent is being stopped, or its own process.
    pub fn leaving_since(&self, name: &GroupName) -> Option<Moment> {
        self.stopping.or_else(|| self.releasing_since(name))
    }

    /// Since when the instance's own process is about to be stopped.
    pub fn releasing_since(&self, name: &GroupName) -> Option<Moment> {
        let instance = &self.seats.get(name)?.instance;
        let (run_id, at) = instance.unit.releasing.as_ref()?;
        let same = instance.run_id().is_none_or(|known| known == run_id);
        (same && self.now.since(*at) < RELEASE_LIMIT).then_some(*at)
    }

    /// How this node's last reign ended, where the change's event lacks it yet.
    pub fn untold_cause(&self, name: &GroupName) -> Option<GroupCommand> {
        let (epoch, cause) = self.seats.get(name)?.instance.unit.cause.as_ref()?;
        let ended = self.group(name)?.history.iter().find(|change| change.epoch == epoch.next())?;
        let untold = ended.from == Some(self.me) && ended.cause.is_none();
        untold.then(|| GroupCommand::Explained { node: self.me, epoch: ended.epoch, cause: cause.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_unit_that_fails_again_and_again_is_started_ever_later() {
        let mut unit = Unit::default();
        let mut now = Moment(0);
        let mut waits = Vec::new();
        for _ in 0..9 {
            unit.see(now, UnitSight::Failed);
            unit.see(now, UnitSight::Failed);
            waits.push(unit.start_at.since(now).as_secs());
            now = unit.start_at;
            unit.see(now, UnitSight::Starting);
            unit.see(now, UnitSight::Running);
            now = now + SECOND;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        now = now + LAST_START;
        unit.see(now, UnitSight::Failed);
        assert_eq!(unit.start_at.since(now), SECOND, "it ran for a while");
    }
}
