//! From a faultless draft to the config: defaults filled in, places dropped.
//!
//! Runs only when no fault was found, so every required value is there; should one be missing after all, the answer
//! is `None` and no config, never half a one. The defaults here are those the reference states; a test compares.

use std::time::Duration;

use super::read::{Draft, GroupDraft};
use super::timing::{DEFAULT_HANG_AFTER, DEFAULT_LEASE, Timing};
use super::{ClusterConfig, Config, GroupConfig, NodeConfig, Overrides, SentinelConfig, Start, VipConfig};

const DEFAULT_DATA_DIR: &str = "/var/lib/mainstay";
const DEFAULT_KEY_FILE: &str = "/etc/mainstay/cluster.key";
const DEFAULT_SOCKET: &str = "/run/mainstay/mainstay.sock";
const DEFAULT_PRIORITY: u16 = 100;

/// Fills in the defaults.
pub(super) fn assemble(draft: Draft, overrides: &Overrides) -> Option<Config> {
    let node = draft.node?;
    let cluster = draft.cluster?;
    let start = match (&overrides.join, cluster.members, cluster.join) {
        (Some(join), _, _) => Start::Join(vec![join.clone()]),
        (None, Some(members), _) => {
            let pairs = members.value.into_iter().map(|member| Some((member.name.value, member.address?.value)));
            Start::Members(pairs.collect::<Option<_>>()?)
        }
        (None, None, Some(join)) => Start::Join(join.value.into_iter().map(|at| at.value).collect()),
        (None, None, None) => return None,
    };
    let lease = draft.timing.lease_ms.map_or(DEFAULT_LEASE, |at| Duration::from_millis(at.value));
    let hang_after = draft.timing.hang_after_ms.map(|at| Duration::from_millis(at.value));
    let sentinel = match draft.sentinel {
        Some(sentinel) => Some(SentinelConfig {
            listen: sentinel.listen?.value,
            username: sentinel.username.map(|at| at.value),
            password_file: sentinel.password_file.map(|at| at.value),
        }),
        None => None,
    };
    let http = match draft.http {
        Some(listen) => Some(listen?.value),
        None => None,
    };
    Some(Config {
        node: NodeConfig {
            name: node.name?.value,
            address: node.address?.value,
            bind: node.bind.map(|at| at.value),
            data_dir: node.data_dir.map_or_else(|| DEFAULT_DATA_DIR.into(), |at| at.value),
        },
        cluster: ClusterConfig {
            name: cluster.name?.value,
            key_file: cluster.key_file.map_or_else(|| DEFAULT_KEY_FILE.into(), |at| at.value),
            start,
        },
        timing: Timing { lease, hang_after: hang_after.unwrap_or(DEFAULT_HANG_AFTER.max(lease)) },
        groups: draft.groups.into_iter().map(assemble_group).collect::<Option<_>>()?,
        sentinel,
        http,
        control_socket: draft.socket.map_or_else(|| DEFAULT_SOCKET.into(), |at| at.value),
        notify_command: draft.notify.map(|at| at.value),
    })
}

fn assemble_group(group: GroupDraft) -> Option<GroupConfig> {
    let vip = match (group.vip, group.interface) {
        (Some(vip), Some(interface)) => Some(VipConfig { vip: vip.value, interface: interface.value }),
        (None, None) => None,
        _ => return None,
    };
    let priority = match group.priority {
        Some(at) => u16::try_from(at.value).ok()?,
        None => DEFAULT_PRIORITY,
    };
    Some(GroupConfig {
        name: group.name?.value,
        redis: group.redis?.value,
        announce: group.announce?.value,
        username: group.username.map(|at| at.value),
        password_file: group.password_file.map(|at| at.value),
        tls: group.tls,
        unit: group.unit.map(|at| at.value),
        vip,
        priority,
        durability: group.durability.map(|at| at.value).unwrap_or_default(),
        quarantine: group.quarantine.is_some_and(|at| at.value),
    })
}
