//! Setting the hosts up, as README tells: `mainstay init --now` on the first, its key and password to the others, and
//! the same there.

use crate::hub::{VIP, address};
use crate::lab::secs;
use crate::trio::Trio;

/// What goes to the other hosts.
const SECRETS: [&str; 2] = ["/etc/mainstay/cluster.key", "/etc/mainstay/redis.password"];

/// A notify command that repeats what it is told, and what it may do; its output goes to the journal.
const NOTIFY: &str = "/usr/local/bin/notified";
const NOTIFIED: &str = "#!/bin/sh\ncat\ngrep ^CapEff: /proc/self/status\n";

/// Sets all machines up and starts their agents.
pub fn hosts(trio: &mut Trio) {
    let server = trio.release.server;
    for no in trio.machines.keys().copied().collect::<Vec<_>>() {
        let machine = trio.of(no);
        let first = no == 1;
        if !first {
            for secret in SECRETS {
                let text = std::fs::read_to_string(trio.of(1).path(secret)).expect("a secret of the first host's");
                machine.write(secret, &text).expect("a secret");
            }
        }
        // Data that outlives a power cut is the operator's choice.
        machine.sh(&format!("sed -i 's/^appendonly no/appendonly yes/' {}", conf(server)));
        let said = machine.sh(&format!("{}{}", init(no), if first { " --new-redis-password" } else { "" }));
        assert!(said.contains(&format!("systemctl restart {server}.service\n")), "{said}");
    }
    let password = std::fs::read_to_string(trio.of(1).path(SECRETS[1])).expect("the password");
    trio.password = Some(password.trim_end().to_owned());
}

/// A host's own `mainstay init`, with its key and password in place.
pub fn init(no: u8) -> String {
    let members: Vec<String> = (1..=3).map(|no| format!("n{no}={}:7400", address(no))).collect();
    format!(
        "mainstay init --now --yes --address {}:7400 --members {} --vip {VIP}/24 --sentinel 0.0.0.0:26379",
        address(no),
        members.join(",")
    )
}

/// Has the agents tell the notify command, one after the other.
pub fn notify(trio: &Trio) {
    for machine in trio.machines.values() {
        machine.write(NOTIFY, NOTIFIED).expect("a script");
        machine.sh(&format!(
            "chmod 0755 {NOTIFY} && printf '\\n[notify]\\ncommand = \"{NOTIFY}\"\\n' >>/etc/mainstay/mainstay.toml && systemctl restart mainstay"
        ));
        trio.wait_healthy(secs(30));
    }
}

/// The server's own config.
pub fn conf(server: &str) -> &'static str {
    match server {
        "valkey-server" => "/etc/valkey/valkey.conf",
        _ => "/etc/redis/redis.conf",
    }
}
