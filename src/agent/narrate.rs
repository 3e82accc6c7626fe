//! Tells what changed: a line per change of reason, of primary, of leader, and the one line for `systemctl status`.

use crate::cluster::{Epoch, Group, GroupName, Lost, NodeId, Phase, Version};
use crate::ctl::catalog::{self, CHANGE_OF_PRIMARY, DATA_DIVERGED, GROUP_SEALED};
use crate::decide::{Decision, Reason, backlog_text, change_text, vacant_text};
use crate::view::{Posture, View, loss_text};
use std::collections::BTreeMap;

/// Remembers what was said last.
#[derive(Default)]
pub(super) struct Narrator {
    reasons: BTreeMap<GroupName, Reason>,
    waits: BTreeMap<GroupName, Reason>,
    epochs: BTreeMap<GroupName, Epoch>,
    sealing: BTreeMap<GroupName, Epoch>,
    vips: BTreeMap<GroupName, String>,
    notes: BTreeMap<GroupName, bool>,
    losses: BTreeMap<(GroupName, Epoch, NodeId), Lost>,
    versions: BTreeMap<GroupName, Version>,
    leader: Option<(u64, Option<NodeId>)>,
    glance: Vec<(Epoch, bool, bool, bool)>,
}

impl Narrator {
    /// True if the status line may have changed.
    pub(super) fn tell(&mut self, view: &View, decision: &Decision) -> bool {
        let mut changed = false;
        for (group, reason) in &decision.reasons {
            if self.reasons.get(group) != Some(reason) {
                match reason {
                    Reason::Fencing(_) => {
                        tracing::warn!(group = %group, message_id = catalog::FENCING, "{reason}");
                    }
                    Reason::ForeignData { .. } => {
                        tracing::error!(group = %group, message_id = catalog::FOREIGN_DATA, "{reason}");
                    }
                    Reason::InstanceUnusable(_) => {
                        tracing::error!(group = %group, message_id = catalog::INSTANCE_UNUSABLE, "{reason}");
                    }
                    _ => tracing::info!(group = %group, message_id = catalog::POSTURE, "{reason}"),
                }
                self.reasons.insert(group.clone(), reason.clone());
                changed = true;
            }
        }
        for (group, reason) in &decision.waits {
            if self.waits.get(group) != Some(reason) {
                tracing::info!(group = %group, message_id = catalog::WAITING, "{reason}");
            }
        }
        if self.waits != decision.waits {
            self.waits.clone_from(&decision.waits);
        }
        self.tell_changes(view);
        self.tell_vips(view);
        let leader = (view.leadership.term, view.leadership.leader);
        if self.leader != Some(leader) {
            if let Some(id) = view.leadership.leader {
                let (term, leader) = (view.leadership.term, view.name_of(id));
                tracing::info!(message_id = catalog::LEADER, "Raft leader of term {term} is {leader}");
            }
            self.leader = Some(leader);
            changed = true;
        }
        changed | self.look(view)
    }

    /// Whether a group of this host looks different: its epoch, whether it is served, whether the VIP is here.
    fn look(&mut self, view: &View) -> bool {
        let mine = view.seats.iter().filter(|(name, _)| view.mine.contains(name));
        let glance: Vec<_> = mine
            .map(|(name, seat)| {
                let epoch = view.group(name).map_or(Epoch(0), |group| group.epoch);
                let serves = matches!(seat.instance.posture, Posture::Serving(_)) && view.lease_live(name);
                (epoch, serves, seat.vip.held, seat.vip.wrong(view.now).is_some())
            })
            .collect();
        let changed = glance != self.glance;
        self.glance = glance;
        changed
    }

    /// What is wrong with the VIP of a group that this host serves.
    fn tell_vips(&mut self, view: &View) {
        for (name, seat) in view.seats.iter().filter(|(name, _)| view.lease_live(name)) {
            self.tell_backlog(view, name);
            let trouble = seat.vip.wrong(view.now).unwrap_or_default();
            if self.vips.get(name) != Some(&trouble) {
                if !trouble.is_empty() {
                    tracing::error!(group = %name, message_id = catalog::VIP_TROUBLE, "VIP: {trouble}");
                }
                self.vips.insert(name.clone(), trouble);
            }
        }
    }

    /// Said when it begins, and when it is over.
    fn tell_backlog(&mut self, view: &View, name: &GroupName) {
        let short = view.short_backlog(name);
        if self.notes.get(name).copied().unwrap_or_default() == short.is_some() {
            return;
        }
        self.notes.insert(name.clone(), short.is_some());
        match short {
            Some((size, need)) => {
                tracing::warn!(group = %name, message_id = catalog::BACKLOG_SHORT, "{}", backlog_text(size, need));
            }
            None => tracing::info!(group = %name, "the backlog is long enough again"),
        }
    }

    fn tell_changes(&mut self, view: &View) {
        for (name, group) in &view.state.groups {
            if let Phase::Sealing { next, why, .. } = group.phase
                && self.sealing.insert(name.clone(), next) != Some(next)
            {
                tracing::warn!(group = %name, epoch = %next, message_id = GROUP_SEALED, "{}", vacant_text(why));
            }
            self.tell_losses(view, name, group);
            if group.epoch == Epoch(0) || self.epochs.get(name) == Some(&group.epoch) {
                continue;
            }
            self.epochs.insert(name.clone(), group.epoch);
            if let Some(change) = group.history.back() {
                let (from, to) = (change.from.map(|from| view.name_of(from)), view.name_of(change.to));
                let text = change_text(from.as_deref(), &to, change.guarantee);
                tracing::info!(group = %name, epoch = %group.epoch, message_id = CHANGE_OF_PRIMARY, "{text}");
            }
        }
    }

    /// S11: who came back with data that an epoch lacks.
    fn tell_losses(&mut self, view: &View, name: &GroupName, group: &Group) {
        let seen = self.versions.get(name);
        if seen == Some(&group.version) {
            return;
        }
        let first = seen.is_none();
        self.versions.insert(name.clone(), group.version);
        for change in &group.history {
            for (node, lost) in &change.diverged {
                let told = self.losses.insert((name.clone(), change.epoch, *node), lost.clone());
                if !first && told.as_ref() != Some(lost) {
                    let text = loss_text(&view.name_of(*node), lost);
                    tracing::warn!(group = %name, epoch = %change.epoch, message_id = DATA_DIVERGED, "{text}");
                }
            }
        }
        let oldest = group.history.front().map_or(Epoch(0), |change| change.epoch);
        self.losses.retain(|(known, epoch, _), _| known != name || *epoch >= oldest);
    }

    /// Role, epoch, group, VIP: for `systemctl status`.
    pub(super) fn status_line(&self, view: &View) -> String {
        let mut parts = Vec::new();
        for (name, seat) in view.seats.iter().filter(|(name, _)| view.mine.contains(name)) {
            let epoch = view.group(name).map_or(Epoch(0), |group| group.epoch);
            let role = match seat.instance.posture {
                Posture::Serving(_) if view.lease_live(name) => "primary".to_owned(),
                _ => self.reasons.get(name).map_or_else(|| "starting".to_owned(), ToString::to_string),
            };
            let vip = match (seat.vip.held, seat.vip.wrong(view.now)) {
                (true, None) => ", VIP held".to_owned(),
                (false, None) => String::new(),
                (held, Some(wrong)) => format!(", VIP {}: {wrong}", if held { "held" } else { "missing" }),
            };
            parts.push(format!("{name}: {role} (epoch {epoch}{vip})"));
        }
        if parts.is_empty() {
            parts.push("witness".to_owned());
        }
        let leader = match view.leadership.leader {
            Some(leader) => format!("leader {}", view.name_of(leader)),
            None => "no leader".to_owned(),
        };
        format!("{}; {leader}", parts.join("; "))
    }
}
