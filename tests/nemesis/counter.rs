//! A client that counts: `INCR` and `WAIT 1`, one after the other, and what its answers prove.
//!
//! The answers of one counter can only rise. An answer at or below an earlier one proves that the increments between
//! were lost; the last value above the number of attempts proves that one was done twice.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::cluster::ASK;
use crate::lab::ms;
use crate::net::HostNet;
use crate::resp::{Client, Reply, encode};

/// Time between two attempts.
const PACE: Duration = ms(4);

/// What one counter was told.
#[derive(Debug, Clone, Default)]
pub struct Counted {
    pub key: String,
    /// Values acknowledged, in order, and how many replicas had each.
    pub acked: Vec<(i64, i64)>,
    /// Attempts of which nobody knows.
    pub unknown: i64,
}

/// What is wrong with a count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Miscount {
    /// Acknowledged increments that are gone, at least.
    pub lost: i64,
    /// A value that so many replicas had was followed by one no higher.
    pub lost_waited: Vec<String>,
    /// More than was ever asked for.
    pub twice: i64,
}

impl Counted {
    /// Compared with the value that the primary has at the end.
    pub fn judge(&self, last: i64, replicas: i64) -> Miscount {
        let mut found = Miscount::default();
        let (mut highest, mut proved) = (0, 0);
        let end = std::iter::once((last + 1, 0));
        for (value, held) in self.acked.iter().copied().chain(end) {
            found.lost = found.lost.max(highest - value + 1);
            if value <= proved {
                found.lost_waited.push(format!("{}: {value} after {proved}, which replicas had", self.key));
            }
            highest = highest.max(value);
            if held >= replicas {
                proved = proved.max(value);
            }
        }
        let acked = i64::try_from(self.acked.len()).unwrap_or(i64::MAX);
        found.lost = found.lost.max(acked - last).max(0);
        found.twice = (last - acked - self.unknown).max(0);
        found
    }
}

/// A running counter; dropping it ends the thread.
pub struct Counter {
    counted: Arc<Mutex<Counted>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Counter {
    pub fn start(key: &str, net: &Arc<HostNet>, to: std::net::SocketAddr) -> Self {
        let counted = Arc::new(Mutex::new(Counted { key: key.into(), ..Counted::default() }));
        let stop = Arc::new(AtomicBool::new(false));
        let (log, asked, net, key) = (Arc::clone(&counted), Arc::clone(&stop), Arc::clone(net), key.to_owned());
        let body = move || {
            let mut client = None;
            while !asked.load(Ordering::Relaxed) {
                let start = Instant::now();
                if client.is_none() {
                    client = net.connect(to, ms(100)).and_then(|stream| Client::over(stream, ASK)).ok();
                }
                if let Some(open) = &mut client
                    && !attempt(open, &key, &log)
                {
                    client = None;
                }
                std::thread::sleep((start + PACE).saturating_duration_since(Instant::now()));
            }
        };
        let thread = std::thread::Builder::new().name("counter".into()).spawn(body).expect("a thread");
        Self { counted, stop, thread: Some(thread) }
    }

    pub fn stop(mut self) -> Counted {
        self.end();
        std::mem::take(&mut *self.counted.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        self.end();
    }
}

/// One attempt; false: the connection is of no more use.
fn attempt(client: &mut Client, key: &str, log: &Mutex<Counted>) -> bool {
    let mut request = Vec::new();
    encode(&mut request, &["INCR", key]);
    encode(&mut request, &["WAIT", "1", "100"]);
    let answer = client.send(&request).and_then(|()| client.reply());
    let waited = if answer.is_ok() { client.reply() } else { Ok(Reply::Nil) };
    let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
    match answer {
        Ok(Reply::Int(value)) => {
            let held = if let Ok(Reply::Int(held)) = waited { held } else { 0 };
            log.acked.push((value, held));
        }
        Ok(_) => {}
        Err(_) => log.unknown += 1,
    }
    answer.is_ok() && waited.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(acked: &[(i64, i64)], unknown: i64, last: i64) -> Miscount {
        Counted { key: "k".into(), acked: acked.into(), unknown }.judge(last, 1)
    }

    #[test]
    fn a_count_that_rises_is_right() {
        assert_eq!(judged(&[(1, 1), (2, 0), (4, 1)], 1, 4), Miscount::default());
    }

    #[test]
    fn lost_and_doubled_increments_are_found() {
        assert_eq!(judged(&[(1, 1), (2, 0), (3, 0), (2, 1)], 0, 2).lost, 2);
        assert!(judged(&[(1, 1), (2, 0), (2, 1)], 0, 2).lost_waited.is_empty());
        assert_eq!(judged(&[(1, 1), (2, 1), (2, 1)], 0, 2).lost_waited.len(), 1);
        assert_eq!(judged(&[(1, 1), (2, 1)], 0, 1).lost_waited.len(), 1);
        assert_eq!(judged(&[(1, 1), (2, 1)], 1, 4).twice, 1);
    }
}
