//! The config as `mainstay init` writes it: what was given, and nothing that is a default.

use crate::config::{HostPort, RedisAddress, Vip};
use std::fmt::Write as _;
use std::net::SocketAddr;

/// What goes into the config.
#[derive(Debug, Clone)]
pub(super) struct Answers {
    pub(super) name: String,
    pub(super) address: HostPort,
    pub(super) cluster: String,
    pub(super) members: Vec<(String, HostPort)>,
    pub(super) join: Vec<HostPort>,
    pub(super) group: Option<GroupAnswers>,
    pub(super) sentinel: Option<SocketAddr>,
    pub(super) http: Option<SocketAddr>,
}

/// The group's part.
#[derive(Debug, Clone)]
pub(super) struct GroupAnswers {
    pub(super) name: String,
    pub(super) redis: RedisAddress,
    pub(super) announce: HostPort,
    pub(super) password: bool,
    pub(super) unit: String,
    pub(super) vip: Option<(Vip, String)>,
    pub(super) priority: Option<u16>,
    pub(super) durability: Option<String>,
}

fn text(value: &str) -> String {
    toml::Value::String(value.to_owned()).to_string()
}

impl Answers {
    /// The file.
    pub(super) fn render(&self) -> String {
        let mut out = String::from("# Written by `mainstay init`. All settings: mainstay.toml(5)\n\n[node]\n");
        // Writing to a String cannot fail.
        let _ = writeln!(out, "name = {}\naddress = {}", text(&self.name), text(&self.address.to_string()));
        let _ = writeln!(out, "\n[cluster]\nname = {}", text(&self.cluster));
        if self.join.is_empty() {
            let all: Vec<String> = self
                .members
                .iter()
                .map(|(name, address)| format!("{} = {}", text(name), text(&address.to_string())))
                .collect();
            let _ = writeln!(out, "members = {{ {} }}", all.join(", "));
        } else {
            let all: Vec<String> = self.join.iter().map(|address| text(&address.to_string())).collect();
            let _ = writeln!(out, "join = [{}]", all.join(", "));
        }
        if let Some(group) = &self.group {
            group.render(&mut out);
        }
        for (table, listen) in [("sentinel", self.sentinel), ("http", self.http)] {
            if let Some(listen) = listen {
                let _ = writeln!(out, "\n[{table}]\nlisten = {}", text(&listen.to_string()));
            }
        }
        out
    }
}

impl GroupAnswers {
    fn render(&self, out: &mut String) {
        let _ = writeln!(
            out,
            "\n[[group]]\nname = {}\nredis = {}\nannounce = {}\nredis_unit = {}",
            text(&self.name),
            text(&self.redis.to_string()),
            text(&self.announce.to_string()),
            text(&self.unit)
        );
        if self.password {
            let _ = writeln!(out, "redis_password_file = {}", text(super::PASSWORD));
        }
        if let Some((vip, interface)) = &self.vip {
            let vip = format!("{}/{}", vip.address, vip.prefix_len);
            let _ = writeln!(out, "vip = {}\ninterface = {}", text(&vip), text(interface));
        }
        if let Some(priority) = self.priority {
            let _ = writeln!(out, "priority = {priority}");
        }
        if let Some(durability) = &self.durability {
            let _ = writeln!(out, "durability = {}", text(durability));
        }
    }
}
