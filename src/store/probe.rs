//! Bytes as a disk may give them back, read as an opening store reads them: for `tests/fuzz` alone.
//!
//! Nothing here is part of what the agent does. Each function takes anything, must not panic, and holds what was
//! understood against its own encoding.

use super::codec;
use super::open::{AppliedRecord, KEY_APPLIED, KEY_IDENTITY, KEY_LOCAL, KEY_PURGED, KEY_VOTE, log_key};
use super::{Entry, Identity, LogId, Vote, pages};
use crate::cluster::{Local, State};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::File;

/// Kinds of record, as [`record`] counts them.
pub const KINDS: u8 = 7;

/// Reads `body` as the record of a kind, once under a checksum that fits and once as it is. Whether it was understood.
///
/// # Panics
/// What was understood does not survive its own encoding.
pub fn record(kind: u8, body: &[u8]) -> bool {
    match kind % KINDS {
        0 => one::<Identity>(KEY_IDENTITY, body),
        1 => one::<Local>(KEY_LOCAL, body),
        2 => one::<Vote>(KEY_VOTE, body),
        3 => one::<LogId>(KEY_PURGED, body),
        4 => one::<AppliedRecord>(KEY_APPLIED, body),
        5 => one::<Entry>(&log_key(7), body),
        _ => one::<State>(b"snapshot", body),
    }
}

fn one<T: Serialize + DeserializeOwned>(key: &[u8], body: &[u8]) -> bool {
    // As it is: the checksum stands before everything.
    let _ = codec::open::<T>(key, body);
    let Ok(value) = codec::open::<T>(key, &codec::under_checksum(key, body)) else { return false };
    let once = codec::seal(key, &value).ok();
    let again = once.as_ref().and_then(|bytes| codec::open::<T>(key, bytes).ok());
    let twice = again.and_then(|value| codec::seal(key, &value).ok());
    assert!(once.is_some() && once == twice, "a record changes when it is written again");
    true
}

/// The body of a record that [`record`] understands.
pub fn body(value: &impl Serialize) -> Vec<u8> {
    postcard::to_stdvec(value).unwrap_or_default()
}

/// Whether the page check lets a data file through.
pub fn pages_are_whole(file: &File) -> bool {
    match pages::check(file) {
        Ok(()) => true,
        Err(pages::PageFault::Io(_)) => false,
        Err(pages::PageFault::Damage(what)) => {
            assert!(!what.is_empty());
            false
        }
    }
}
