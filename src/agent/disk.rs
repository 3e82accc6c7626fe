//! Says what is wrong with the disk under the store, before and while it matters: little room, none, or no answer.
//!
//! It looks and tells, nothing else: service hangs on leases, and a lease needs no disk. The look itself may block as
//! long as the disk does, so it is made aside and never twice at a time.

use crate::ctl::catalog::DISK_TROUBLE;
use crate::store::{Store, free_space};
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// Between two looks at the store; the free space is asked for on every fifth.
const PACE: Duration = Duration::from_secs(1);
const FREE_EVERY: u32 = 5;
/// Less room than this is worth a word.
const LITTLE: u64 = 16 << 20;
/// A disk that has not answered for so long is worth a word.
const SLOW: Duration = Duration::from_secs(2);

/// What there is to say, for `status`; None while all is well. Ends with the runtime.
pub(super) fn watch(dir: PathBuf, store: Store) -> watch::Receiver<Option<String>> {
    let (tell, told) = watch::channel(None);
    tokio::spawn(async move {
        let mut free = None;
        let mut asked: Option<tokio::task::JoinHandle<std::io::Result<u64>>> = None;
        let mut turn = 0;
        let begun = Instant::now();
        while !tell.is_closed() {
            if asked.is_none() && turn % FREE_EVERY == 0 {
                let dir = dir.clone();
                asked = Some(tokio::task::spawn_blocking(move || free_space(&dir)));
            }
            if let Some(look) = asked.take_if(|look| look.is_finished()) {
                free = look.await.ok().and_then(Result::ok);
            }
            let said = words(&dir, &store, free);
            tell.send_if_modified(|before| {
                let changed = before.is_some() != said.is_some();
                match &said {
                    Some(said) if changed => tracing::warn!(message_id = DISK_TROUBLE, "{said}"),
                    None if changed => tracing::info!(after = ?begun.elapsed(), "the disk is well again"),
                    _ => {}
                }
                *before = said;
                changed
            });
            turn += 1;
            sleep(PACE).await;
        }
    });
    told
}

fn words(dir: &std::path::Path, store: &Store, free: Option<u64>) -> Option<String> {
    let dir = dir.display();
    match store.stalled() {
        Some(stall) if stall.why.is_some() => {
            let why = stall.why.unwrap_or_default();
            return Some(format!("the disk is full: {why}; nothing is recorded until then, what is served goes on"));
        }
        Some(stall) if stall.length >= SLOW => {
            let seconds = stall.length.as_secs();
            let remedy = "look for faults of the disk in the kernel's log";
            return Some(format!("the disk of {dir} has not answered for {seconds} s; {remedy}"));
        }
        _ => {}
    }
    free.filter(|free| *free < LITTLE)
        .map(|free| format!("only {} KiB are free on the disk of {dir}; free space there", free >> 10))
}
