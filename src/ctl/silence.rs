//! For how long a node has not been heard, and lengths of time as people say them.
//!
//! Pure. Status and the prompt of a promotion by force say of a silent node only that it is silent, so both ask here.

use crate::cluster::NodeId;
use crate::view::{Moment, View};
use std::time::Duration;

/// A node silent for this many leases is shown as down.
pub const SILENT_LEASES: u32 = 2;

/// None if the node was heard within two leases; else for how long it was not, in words.
pub(super) fn silence(view: &View, node: NodeId) -> Option<String> {
    let limit = if view.lease().is_zero() { Duration::from_secs(2) } else { view.lease() * SILENT_LEASES };
    silent_beyond(view, node, limit)
}

/// The same where a shorter silence is worth a word: everybody speaks several times in each lease.
pub(super) fn silent_beyond(view: &View, node: NodeId, limit: Duration) -> Option<String> {
    if node == view.me {
        return None;
    }
    let heard: Option<Moment> = view.peers.get(&node).and_then(|peer| peer.heard);
    match heard.map(|heard| view.now.since(heard)) {
        Some(length) if length <= limit => None,
        Some(length) => Some(format!("not heard for {}", words(length))),
        None => Some(format!("not heard since this agent started {} ago", words(view.now.since(view.started)))),
    }
}

/// A length of time as people say it: `340 ms`, `3.2 s`, `75 s`, `4 min`, `5 h`, `3 d`.
pub(super) fn words(length: Duration) -> String {
    let seconds = length.as_secs();
    match seconds {
        0 => format!("{} ms", length.as_millis()),
        1..60 => format!("{}.{} s", seconds, length.subsec_millis() / 100),
        60..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}
