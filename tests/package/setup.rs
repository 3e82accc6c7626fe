//! Setting a host up by hand, as README tells.

use crate::hub::{VIP, address};
use crate::trio::Trio;

/// Writes config, key and the instance's own settings on every machine, and restarts the instances, sealed.
pub fn write(trio: &mut Trio) {
    let server = trio.release.server;
    let (binary, conf) = match server {
        "valkey-server" => ("valkey-server", "/etc/valkey/valkey.conf"),
        _ => ("redis-server", "/etc/redis/redis.conf"),
    };
    let key = trio.of(1).sh("mainstay keygen");
    let members: Vec<String> = (1..=3).map(|no| format!("n{no} = \"{}:7400\"", address(no))).collect();
    for machine in trio.machines.values() {
        let own = address(machine.no);
        let text = format!(
            "[node]\nname = \"n{}\"\naddress = \"{own}:7400\"\n\n[cluster]\nname = \"edge\"\nmembers = {{ {} }}\n\n\
             [[group]]\nname = \"mymaster\"\nredis = \"127.0.0.1:6379\"\nannounce = \"{own}:6379\"\nvip = \"{VIP}/24\"\n\
             interface = \"host0\"\nredis_unit = \"{server}.service\"\n",
            machine.no,
            members.join(", "),
        );
        machine.write("/etc/mainstay/mainstay.toml", &text).expect("a config");
        machine.write("/etc/mainstay/cluster.key", &format!("{key}\n")).expect("a key");
        let drop_in = format!(
            "[Unit]\nStartLimitIntervalSec=0\n\n[Service]\nRestartSec=200ms\nExecStart=\nExecStart=/usr/bin/{binary} {conf} \
             --supervised systemd --daemonize no --bind '*' '-::*' --protected-mode no --appendonly yes --replicaof 127.0.0.1 1\n"
        );
        machine.write(&format!("/etc/systemd/system/{server}.service.d/mainstay.conf"), &drop_in).expect("a drop-in");
        machine.sh("chgrp mainstay /etc/mainstay/cluster.key && chmod 0640 /etc/mainstay/cluster.key");
        machine.sh(&format!("systemctl daemon-reload && systemctl restart {server}"));
    }
}
