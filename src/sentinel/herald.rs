//! What is published: the difference between two pictures, in Sentinel's own words.
//!
//! `+switch-master` is said only once the new primary serves: its lease holds and its ROLE is confirmed (S9). What leads up
//! to it (`+try-failover` to `+failover-end`) is said by the agent that leads, as the Sentinel does that was elected;
//! the others say whose word they took. One switch is told once, also where the pictures skipped steps.

use super::picture::{Address, Agent, Group, Instance, Picture, Role, Stage};
use crate::cluster::{Epoch, NodeId};
use crate::view::Moment;
use std::collections::BTreeMap;
use std::time::Duration;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// The channel: the event's name.
    pub channel: &'static str,
    /// What is said.
    pub text: String,
}

/// A group that stays sealed for so many leases has nobody to promote, for now.
const NOBODY_LEASES: u32 = 10;

/// Remembers what was said.
#[derive(Debug, Clone, Default)]
pub struct Herald {
    groups: BTreeMap<String, Told>,
    begun: bool,
}

/// What was said of one group.
#[derive(Debug, Clone, Default)]
struct Told {
    primary: Address,
    node: NodeId,
    run_id: String,
    served: Epoch,
    epoch: Epoch,
    sdown: bool,
    odown: bool,
    failing: bool,
    selected: bool,
    nobody: bool,
    replicas: BTreeMap<NodeId, Replica>,
    agents: BTreeMap<NodeId, bool>,
}

#[derive(Debug, Clone, Default)]
struct Replica {
    run_id: String,
    role: Role,
    down: bool,
    served_once: bool,
    attached: bool,
    in_step: bool,
}

/// What is told of one group from one picture.
struct Teller<'a> {
    group: &'a Group,
    picture: &'a Picture,
    leading: bool,
    /// The address that was told last: the group's primary to those who listen.
    primary: Address,
    news: Vec<News>,
}

impl Herald {
    /// What is new in this picture. Of the first one everything is known.
    pub fn tell(&mut self, picture: &Picture, leading: bool) -> Vec<News> {
        let mut news = Vec::new();
        let first = !std::mem::replace(&mut self.begun, true);
        self.groups.retain(|name, told| {
            let stays = picture.groups.iter().any(|group| group.name == *name);
            if !stays {
                news.push(News { channel: "-monitor", text: master(name, &told.primary) });
            }
            stays
        });
        for group in &picture.groups {
            let known = self.groups.contains_key(&group.name);
            let told = self.groups.entry(group.name.clone()).or_default();
            let mut teller = Teller { group, picture, leading, primary: told.primary.clone(), news: Vec::new() };
            if !known {
                teller.primary = group.primary.address.clone();
                told.begin(group);
                teller.master("+monitor", &format!(" quorum {}", picture.quorum));
            }
            told.tell(&mut teller);
            if !first {
                news.append(&mut teller.news);
            }
        }
        news
    }
}

impl Told {
    fn begin(&mut self, group: &Group) {
        self.primary = group.primary.address.clone();
        self.node = group.primary.node;
        self.run_id = group.primary.run_id.clone();
        self.epoch = group.epoch;
        self.served = group.epoch;
    }

    fn tell(&mut self, teller: &mut Teller<'_>) {
        let (group, now) = (teller.group, teller.picture.at);
        let served = group.served(now);
        if group.epoch > self.epoch {
            self.promoted(teller);
        }
        if served {
            self.served(teller);
        } else {
            self.unserved(teller);
        }
        self.replicas(teller);
        self.agents(teller);
    }

    /// A change has begun, or nobody serves for another reason.
    fn unserved(&mut self, teller: &mut Teller<'_>) {
        let (group, now, lease) = (teller.group, teller.picture.at, teller.picture.lease);
        let lasts = group.down.is_some_and(|since| now.since(since) >= lease);
        let sealing = matches!(group.stage, Stage::Sealing { planned: false });
        if !self.sdown && (lasts || sealing) {
            self.sdown = true;
            teller.master("+sdown", "");
        }
        if !self.odown && sealing {
            self.odown = true;
            let quorum = teller.picture.quorum;
            teller.master("+odown", &format!(" #quorum {quorum}/{quorum}"));
        }
        self.begins(teller);
        let long = lease.max(Duration::from_millis(1)) * NOBODY_LEASES;
        if self.failing && !self.nobody && group.sealing.is_some_and(|since| now.since(since) >= long) {
            self.nobody = true;
            teller.lead("-failover-abort-no-good-slave");
        }
    }

    /// The group has left its stable phase.
    fn begins(&mut self, teller: &mut Teller<'_>) {
        let group = teller.group;
        if group.stage != Stage::Stable && !self.failing {
            self.failing = true;
            self.nobody = false;
            self.selected = false;
            if teller.leading {
                teller.say("+new-epoch", group.epoch.next().to_string());
            }
            teller.lead("+try-failover");
            if teller.leading {
                teller.say("+vote-for-leader", format!("{} {}", teller.picture.me.id, group.epoch.next()));
            }
            teller.lead("+elected-leader");
            teller.lead("+failover-state-select-slave");
        }
        if let Stage::Switching(to) = group.stage
            && !self.selected
            && let Some(target) = group.replicas.iter().find(|found| found.node == to)
        {
            self.selected = true;
            teller.lead_slave("+selected-slave", target);
        }
    }

    /// Another epoch's promotion was committed; nobody has to serve it yet.
    fn promoted(&mut self, teller: &mut Teller<'_>) {
        let group = teller.group;
        self.begins(teller);
        self.epoch = group.epoch;
        if !teller.leading {
            teller.say("+new-epoch", group.epoch.to_string());
        }
        if group.primary.address != self.primary {
            if !self.selected {
                teller.lead_slave("+selected-slave", &group.primary);
            }
            teller.lead_slave("+failover-state-send-slaveof-noone", &group.primary);
            teller.lead_slave("+failover-state-wait-promotion", &group.primary);
        }
        self.failing = true;
    }

    fn served(&mut self, teller: &mut Teller<'_>) {
        let group = teller.group;
        if matches!(group.stage, Stage::Switching(_)) {
            self.begins(teller);
            return;
        }
        let moved = group.primary.address != self.primary;
        if moved {
            self.switched(teller);
        } else {
            if self.failing {
                teller.lead("-failover-abort-slave-timeout");
            }
            if !self.run_id.is_empty() && self.run_id != group.primary.run_id {
                teller.master("+reboot", "");
            }
            if std::mem::take(&mut self.odown) {
                teller.master("-odown", "");
            }
            if std::mem::take(&mut self.sdown) {
                teller.master("-sdown", "");
            }
        }
        self.failing = false;
        self.served = group.epoch;
        self.node = group.primary.node;
        self.run_id = group.primary.run_id.clone();
    }

    fn switched(&mut self, teller: &mut Teller<'_>) {
        let group = teller.group;
        teller.lead_slave("+promoted-slave", &group.primary);
        teller.lead("+failover-state-reconf-slaves");
        teller.lead("+failover-end");
        let holder = teller.picture.others.iter().find(|agent| agent.node == group.primary.node);
        if let Some((agent, address)) = holder.and_then(|agent| Some((agent, agent.address.clone()?)))
            && !teller.leading
        {
            let text = teller.sentinel(agent, &address);
            teller.say("+config-update-from", text);
        }
        let (old, new) = (self.primary.clone(), group.primary.address.clone());
        let text = format!("{} {} {} {} {}", group.name, old.host, old.port, new.host, new.port);
        teller.say("+switch-master", text);
        teller.primary = new.clone();
        let served_once: Vec<NodeId> =
            self.replicas.iter().filter(|(_, known)| known.served_once).map(|(node, _)| *node).collect();
        let before = self.node;
        self.replicas.clear();
        for found in &group.replicas {
            teller.slave("+slave", found);
            let known = Replica {
                run_id: found.run_id.clone(),
                role: found.role.0,
                served_once: found.node == before || served_once.contains(&found.node),
                ..Replica::default()
            };
            self.replicas.insert(found.node, known);
        }
        self.primary = new;
        self.sdown = false;
        self.odown = false;
    }

    fn replicas(&mut self, teller: &mut Teller<'_>) {
        let (now, lease) = (teller.picture.at, teller.picture.lease);
        let group = teller.group;
        // Until the switch is told the successor is one of the replicas, and the old primary is none.
        let successor = (group.primary.address != self.primary).then_some(&group.primary);
        let listed = group.replicas.iter().chain(successor).filter(|found| found.address != self.primary);
        for found in listed {
            let known = self.replicas.entry(found.node).or_insert_with(|| {
                teller.slave("+slave", found);
                Replica { run_id: found.run_id.clone(), role: found.role.0, ..Replica::default() }
            });
            let successor = found.node == group.primary.node;
            known.tell(found, teller, found.unfit(now, lease) && !successor);
        }
        self.replicas
            .retain(|node, _| group.replicas.iter().any(|found| found.node == *node) || group.primary.node == *node);
    }

    fn agents(&mut self, teller: &mut Teller<'_>) {
        for agent in &teller.picture.others {
            let Some(address) = &agent.address else { continue };
            let text = teller.sentinel(agent, address);
            let down = match self.agents.get(&agent.node) {
                Some(down) => *down,
                None => {
                    teller.say("+sentinel", text.clone());
                    false
                }
            };
            if down != agent.down.is_some() {
                teller.say(if down { "-sdown" } else { "+sdown" }, text);
            }
            self.agents.insert(agent.node, agent.down.is_some());
        }
        self.agents.retain(|node, _| teller.picture.others.iter().any(|agent| agent.node == *node));
    }
}

impl Replica {
    fn tell(&mut self, found: &Instance, teller: &mut Teller<'_>, down: bool) {
        if !self.run_id.is_empty() && self.run_id != found.run_id {
            teller.slave("+reboot", found);
        }
        self.run_id = found.run_id.clone();
        let role = found.role.0;
        if role != self.role && role != Role::Unknown {
            if self.role != Role::Unknown {
                let (channel, word) = match role {
                    Role::Primary => ("-role-change", "master"),
                    _ => ("+role-change", "slave"),
                };
                let text = format!("{} new reported role is {word}", teller.replica(found));
                teller.say(channel, text);
            }
            self.role = role;
        }
        if found.follows && self.served_once {
            self.served_once = false;
            teller.slave("+convert-to-slave", found);
        }
        if found.follows && !self.attached && teller.leading {
            teller.slave("+slave-reconf-inprog", found);
        }
        self.attached = found.follows;
        let in_step = found.follows && found.apart.is_none() && found.down.is_none();
        if in_step && !self.in_step && teller.leading {
            teller.slave("+slave-reconf-done", found);
        }
        self.in_step = in_step;
        if down != self.down {
            self.down = down;
            teller.slave(if down { "+sdown" } else { "-sdown" }, found);
        }
    }
}

impl Teller<'_> {
    fn say(&mut self, channel: &'static str, text: String) {
        self.news.push(News { channel, text });
    }

    fn master(&mut self, channel: &'static str, more: &str) {
        let text = format!("{}{more}", master(&self.group.name, &self.primary));
        self.say(channel, text);
    }

    fn slave(&mut self, channel: &'static str, found: &Instance) {
        let text = self.replica(found);
        self.say(channel, text);
    }

    /// Said by the agent that leads alone.
    fn lead(&mut self, channel: &'static str) {
        if self.leading {
            self.master(channel, "");
        }
    }

    fn lead_slave(&mut self, channel: &'static str, found: &Instance) {
        if self.leading {
            self.slave(channel, found);
        }
    }

    fn replica(&self, found: &Instance) -> String {
        let Address { host, port } = &found.address;
        format!("slave {} {host} {port}{}", found.label(), self.of_master())
    }

    fn sentinel(&self, agent: &Agent, address: &Address) -> String {
        format!("sentinel {} {} {}{}", agent.id, address.host, address.port, self.of_master())
    }

    fn of_master(&self) -> String {
        format!(" @ {} {} {}", self.group.name, self.primary.host, self.primary.port)
    }
}

fn master(name: &str, address: &Address) -> String {
    format!("master {name} {} {}", address.host, address.port)
}

/// What Sentinels tell each other through the instances, here for those who listen to this agent. Of a group that nobody
/// serves nothing is said.
#[must_use]
pub(super) fn hello(picture: &Picture, now: Moment) -> Vec<String> {
    let Some(address) = &picture.me.address else { return Vec::new() };
    let served = picture.groups.iter().filter(|group| group.served(now));
    let line = |group: &Group| {
        let Address { host, port } = &group.primary.address;
        let own = format!("{},{},{},{}", address.host, address.port, picture.me.id, picture.epoch);
        format!("{own},{},{host},{port},{}", group.name, group.epoch)
    };
    served.map(line).collect()
}
