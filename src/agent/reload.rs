//! The config read again while the agent runs (SIGHUP, `systemctl reload`).
//!
//! What can change under a running agent is changed; what cannot is named, and waits for its next start. A file that
//! is wrong in any place changes nothing. Files are read aside: the loop waits for no disk.

use super::station::credentials;
use super::{Agent, Source};
use crate::cluster::{Command, GroupCommand, GroupName};
use crate::config::{self, Config, GroupConfig};
use crate::ctl::catalog;
use crate::redis::Credentials;
use std::collections::{BTreeMap, BTreeSet};
use tokio::sync::mpsc;

/// What was read, or why nothing was, in words.
pub(super) type Read = Result<Box<Fresh>, String>;

/// A config with the secrets it names.
pub(super) struct Fresh {
    config: Config,
    warnings: Vec<String>,
    credentials: BTreeMap<String, Credentials>,
}

/// Reads aside, and hands over what came of it.
pub(super) fn read(source: Source, done: mpsc::Sender<Read>) {
    tokio::task::spawn_blocking(move || {
        // The loop has ended: nobody needs it.
        let _ = done.blocking_send(fresh(&source));
    });
}

fn fresh(source: &Source) -> Read {
    let (config, warnings) = config::load_with(&source.path, &source.overrides).map_err(|error| error.to_string())?;
    let mut found = BTreeMap::new();
    for group in &config.groups {
        found.insert(group.name.clone(), credentials(group).map_err(|error| format!("{error:#}"))?);
    }
    let warnings = warnings.iter().map(ToString::to_string).collect();
    super::kept::keep(&source.path);
    Ok(Box::new(Fresh { config, warnings, credentials: found }))
}

impl Agent {
    /// Begins to read the config again.
    pub(super) fn begin_reload(&mut self, done: &mpsc::Sender<Read>) {
        self.notifier.reloading();
        read(self.source.clone(), done.clone());
    }

    /// Takes over what can be taken over.
    pub(super) fn reload(&mut self, read: Read) {
        match read {
            Err(why) => {
                tracing::error!(message_id = catalog::CONFIG_REFUSED, "the config was not read again: {why}");
            }
            Ok(fresh) => self.take_over(*fresh),
        }
        self.notifier.ready();
    }

    fn take_over(&mut self, fresh: Fresh) {
        for warning in &fresh.warnings {
            tracing::warn!(message_id = catalog::CONFIG_WARNING, "{warning}");
        }
        let mut changed = Vec::new();
        let mut note = |what: String| changed.push(what);
        let next = fresh.config;
        if next.timing.hang_after != self.config.timing.hang_after {
            note("timing.hang_after_ms".to_owned());
            self.config.timing.hang_after = next.timing.hang_after;
            self.policy.hang_after = next.timing.hang_after;
        }
        if next.notify_command != self.config.notify_command {
            note("notify.command".to_owned());
            self.config.notify_command.clone_from(&next.notify_command);
            self.hooks.set(next.notify_command.clone());
        }
        for group in &next.groups {
            let what = self.take_over_group(group, fresh.credentials.get(&group.name));
            changed.extend(what.into_iter().map(|what| format!("{what} of group {}", group.name)));
        }
        let waits = differences(&self.config, &next);
        self.host.warnings = fresh.warnings;
        let mut said = match changed.is_empty() {
            true => "the config was read again: nothing of it could change while the agent runs".to_owned(),
            false => format!("the config was read again; changed: {}", changed.join(", ")),
        };
        if waits.is_empty() {
            if changed.is_empty() {
                "the config was read again: nothing has changed".clone_into(&mut said);
            }
            tracing::info!(message_id = catalog::CONFIG_RELOADED, "{said}");
            return;
        }
        let waits = waits.join(", ");
        tracing::warn!(
            message_id = catalog::CONFIG_RELOADED,
            "{said}; waits for the agent's next start (systemctl restart mainstay): {waits}"
        );
        self.host
            .warnings
            .push(format!("the config has changed since the agent started: {waits} wait for its next start"));
    }

    /// What changed of a group that runs here.
    fn take_over_group(&mut self, group: &GroupConfig, credentials: Option<&Credentials>) -> Vec<&'static str> {
        let name = GroupName(group.name.clone());
        let mut changed = Vec::new();
        let Some(known) = self.config.groups.iter_mut().find(|known| known.name == group.name) else { return changed };
        if known.quarantine != group.quarantine {
            changed.push("quarantine");
            known.quarantine = group.quarantine;
            match group.quarantine {
                true => self.view.quarantine.insert(name.clone()),
                false => self.view.quarantine.remove(&name),
            };
        }
        if (&known.username, &known.password_file) != (&group.username, &group.password_file) {
            known.username.clone_from(&group.username);
            known.password_file.clone_from(&group.password_file);
        }
        if let Some((station, credentials)) = self.stations.get(&name).zip(credentials)
            && station.log_in_with(credentials)
        {
            changed.push("the login");
        }
        if known.priority != group.priority {
            changed.push("priority");
            known.priority = group.priority;
            self.propose_priority(&name, u32::from(group.priority));
        }
        changed
    }

    /// Replicated, like every other word of the group's.
    fn propose_priority(&mut self, name: &GroupName, priority: u32) {
        if let Some(policy) = self.policy.groups.get_mut(name) {
            policy.priority = priority;
        }
        let Some(group) = self.view.group(name) else { return };
        let change = GroupCommand::SetPriority { node: self.view.me, priority };
        let command = Command::Group { group: name.clone(), expect: group.expect(), change };
        let (raft, name) = (self.raft.clone(), name.clone());
        tokio::spawn(async move {
            let refusal = match raft.propose(command).await {
                Ok(Ok(()) | Err(crate::cluster::Rejection::Nothing)) => return,
                Ok(Err(rejection)) => rejection.to_string(),
                Err(error) => error.to_string(),
            };
            tracing::warn!(
                group = %name,
                message_id = catalog::CONFIG_REFUSED,
                "the new priority was not agreed on: {refusal}; systemctl reload mainstay tries again"
            );
        });
    }
}

/// What of the file only the next start takes over.
fn differences(now: &Config, next: &Config) -> Vec<String> {
    let mut waits = Vec::new();
    let mut differ = |differs: bool, what: String| {
        if differs {
            waits.push(what);
        }
    };
    differ(now.node.name != next.node.name, "node.name".to_owned());
    differ(now.node.address != next.node.address, "node.address".to_owned());
    differ(now.node.bind != next.node.bind, "node.bind".to_owned());
    differ(now.node.data_dir != next.node.data_dir, "node.data_dir".to_owned());
    differ(now.cluster.name != next.cluster.name, "cluster.name".to_owned());
    differ(now.cluster.key_file != next.cluster.key_file, "cluster.key_file".to_owned());
    differ(now.timing.lease != next.timing.lease, "timing.lease_ms (the replicated one rules)".to_owned());
    differ(now.sentinel != next.sentinel, "[sentinel]".to_owned());
    differ(now.http != next.http, "[http]".to_owned());
    differ(now.control_socket != next.control_socket, "control.socket".to_owned());
    let names: BTreeSet<&str> = now.groups.iter().chain(&next.groups).map(|group| group.name.as_str()).collect();
    for name in names {
        let of = |config: &Config| config.groups.iter().find(|group| group.name == name).cloned();
        match (of(now), of(next)) {
            (Some(now), Some(next)) => {
                let mut differ = |differs: bool, what: &str| differ(differs, format!("{what} of group {name}"));
                differ(now.redis != next.redis, "redis");
                differ(now.announce != next.announce, "announce");
                differ(now.tls != next.tls, "redis_tls");
                differ(now.unit != next.unit, "redis_unit");
                differ(now.vip != next.vip, "vip and interface");
                differ(now.durability != next.durability, "durability (the replicated one rules)");
            }
            _ => differ(true, format!("group {name}")),
        }
    }
    waits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(more: &str) -> Config {
        let text = format!(
            "[node]\nname = \"n1\"\naddress = \"10.0.0.1:7400\"\n[cluster]\nname = \"c\"\n\
             members = {{ n1 = \"10.0.0.1:7400\" }}\n{more}"
        );
        config::parse(&text, "test").expect("a config").0
    }

    const GROUP: &str = "[[group]]\nname = \"g\"\nredis = \"127.0.0.1:6379\"\nannounce = \"10.0.0.1:6379\"\n";

    #[test]
    fn what_cannot_change_is_named() {
        let now = config(GROUP);
        assert!(differences(&now, &now).is_empty());
        let bound = config(GROUP).node.bind;
        assert_eq!(bound, None);
        let next = config(&format!(
            "[http]\nlisten = \"127.0.0.1:7480\"\n[timing]\nlease_ms = 900\n{GROUP}vip = \"10.0.0.100/24\"\ninterface = \"eth0\"\n"
        ));
        assert_eq!(
            differences(&now, &next),
            ["timing.lease_ms (the replicated one rules)", "[http]", "vip and interface of group g"]
        );
        assert_eq!(differences(&now, &config("")), ["group g"]);
    }

    #[test]
    fn what_can_change_is_no_difference() {
        let next = config(&format!(
            "[timing]\nhang_after_ms = 9000\n[notify]\ncommand = \"/bin/true\"\n{GROUP}quarantine = true\npriority = 7\n"
        ));
        assert!(differences(&config(GROUP), &next).is_empty());
    }
}
