//! Raft's timings, fixed fractions of the lease, and the openraft settings that measurements taught.

use openraft::{Config, ConfigError, SnapshotPolicy};
use std::time::Duration;

/// A snapshot follows so many entries.
const SNAPSHOT_AFTER: u64 = 500;
/// Entries kept behind a snapshot, so that a node that was away briefly needs none.
const KEPT_BEHIND_SNAPSHOT: u64 = 100;
/// Entries in one append request: its time-out is shorter than a heartbeat.
const APPEND_BATCH: u64 = 64;
/// Requests that may wait for Raft; more are made to wait before they enter.
const QUEUE: u64 = 1024;

/// Everything derived from the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Timings {
    pub(super) lease: Duration,
    pub(super) heartbeat: Duration,
    pub(super) election_min: Duration,
    pub(super) election_max: Duration,
}

impl Timings {
    /// openraft ticks five times per heartbeat, idle or not: a heartbeat as slow as the shortest election allows spares
    /// most of an agent's wake-ups.
    pub(super) fn new(lease: Duration) -> Self {
        Self { lease, heartbeat: lease * 3 / 16, election_min: lease / 4, election_max: lease / 2 }
    }

    /// openraft's settings. Pre-vote keeps a node that was cut off from disturbing the others; a restarted leader must
    /// be elected anew; a leader without a quorum stops sending for long enough that others may elect.
    pub(super) fn config(&self, cluster: &str) -> Result<Config, ConfigError> {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let (beat, lease) = (ms(self.heartbeat), ms(self.lease));
        Config {
            cluster_name: cluster.to_owned(),
            heartbeat_interval: beat,
            election_timeout_min: ms(self.election_min),
            election_timeout_max: ms(self.election_max),
            enable_pre_vote: Some(true),
            enable_leader_restore: Some(false),
            // A restarted voter stands for no election, as it answers none, until its silence is over (S2).
            enable_elect: false,
            quorum_loss_probe_interval: Some(2 * ms(self.election_max)),
            install_snapshot_timeout: (4 * lease).max(2_000),
            max_payload_entries: APPEND_BATCH,
            max_append_entries: Some(APPEND_BATCH),
            replication_lag_threshold: 2 * SNAPSHOT_AFTER,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_AFTER),
            max_in_snapshot_log_to_keep: KEPT_BEHIND_SNAPSHOT,
            purge_batch_size: KEPT_BEHIND_SNAPSHOT / 2,
            api_channel_size: Some(QUEUE),
            notification_channel_size: Some(QUEUE),
            state_machine_channel_size: Some(QUEUE),
            backoff: format!("{beat}ms {}ms ...{lease}ms", 2 * beat),
            ..Config::default()
        }
        .validate()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_allowed_lease_gives_valid_settings() {
        for ms in [200, 201, 400, 799, 800, 5_000, 60_000] {
            let timings = Timings::new(Duration::from_millis(ms));
            let config = timings.config("edge").unwrap();
            // The next heartbeat may come a tick late.
            assert!(config.election_timeout_min > config.heartbeat_interval * (64 + 13) / 64);
            assert!(config.election_timeout_max * 2 <= ms);
        }
    }
}
