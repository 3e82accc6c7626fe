//! Where the floating address was, and when: a thread that looks at every
//! host's addresses all the time, from inside the hosts' namespaces.
//!
//! It sees what the kernels say, whatever agents claim; a moment shorter than
//! [`EVERY`] may escape it, so it can prove a fault but no absence below that.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::lab::ms;
use crate::net::{HostNet, local_addresses};
use crate::switch::HostNo;

/// Time between two looks.
pub const EVERY: Duration = ms(2);

/// From this moment on, these hosts had the address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    pub since: Instant,
    pub holders: Vec<HostNo>,
}

/// A running watch; dropping it ends the thread.
pub struct Watch {
    seen: Arc<Mutex<Vec<Holding>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub fn start(hosts: Vec<Arc<HostNet>>, address: IpAddr) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (log, asked) = (Arc::clone(&seen), Arc::clone(&stop));
        let look = move || {
            while !asked.load(Ordering::Relaxed) {
                let since = Instant::now();
                let holders = hosts.iter().filter(|host| holds(host, address));
                let holders: Vec<HostNo> = holders.map(|host| host.no).collect();
                let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                if log.last().is_none_or(|last: &Holding| last.holders != holders) {
                    log.push(Holding { since, holders });
                }
                drop(log);
                std::thread::sleep(EVERY);
            }
        };
        let thread = std::thread::Builder::new().name("watch".into()).spawn(look);
        Self { seen, stop, thread: Some(thread.expect("a thread")) }
    }

    /// Ends the watch: every change, in order.
    pub fn stop(mut self) -> Vec<Holding> {
        self.end();
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.end();
    }
}

fn holds(host: &HostNet, address: IpAddr) -> bool {
    // A host that is off, or goes off just now, holds nothing.
    let entered = host.netns().and_then(|ns| ns.enter());
    entered.is_ok() && local_addresses().is_ok_and(|all| all.contains(&address))
}

/// The stretches in which more than one host had the address.
pub fn doubled(seen: &[Holding]) -> Vec<(Vec<HostNo>, Duration)> {
    let stretches = seen.windows(2).filter(|pair| pair[0].holders.len() > 1);
    let ended = stretches.map(|pair| (pair[0].holders.clone(), pair[1].since - pair[0].since));
    let open = seen.last().filter(|last| last.holders.len() > 1);
    ended.chain(open.map(|last| (last.holders.clone(), last.since.elapsed()))).collect()
}
