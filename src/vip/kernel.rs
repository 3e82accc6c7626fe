//! The thread that talks to the kernel about the VIP, and the order in which it does.
//!
//! Netlink requests can wait for the kernel's network lock as long as another process keeps it, so they run here and
//! never on the runtime. Callers wait a bounded time. A request whose caller has given up is not begun; only a drop
//! always runs. Jobs run in the order asked, so that a `hold` which the lock delayed can never undo a later drop; a
//! drop that came meanwhile is noticed even when its own job found the queue full (S9).
//! `held` is written on this thread alone but for the drop's early "no longer", so that "removed by somebody else" is
//! judged against what this thread last did.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;
use tokio::sync::{mpsc, oneshot};

use super::{
    address::{self, Entry, Link},
    error::VipError,
    netlink::Channel,
};

/// Jobs that may wait. The owner asks one thing at a time; the watcher and the announcer add two.
const QUEUE: usize = 16;

type Job = Box<dyn FnOnce(&mut Worker) + Send>;

/// What the owner and the thread both see.
#[derive(Default)]
struct Shared {
    /// The VIP stands because we put it there.
    held: AtomicBool,
    /// How many drops were asked for so far.
    drops: AtomicU64,
}

/// The owner's end; clones share the thread, which ends with the last of them.
#[derive(Clone)]
pub(super) struct Kernel {
    jobs: mpsc::Sender<Job>,
    shared: Arc<Shared>,
    /// How long a caller waits. A request takes some tens of microseconds when nobody keeps the network lock.
    patience: Duration,
}

struct Worker {
    address: IpAddr,
    interface: String,
    shared: Arc<Shared>,
    drops_done: u64,
    channel: Option<Channel>,
}

impl Kernel {
    /// Starts the thread in the caller's network namespace.
    pub(super) fn start(address: IpAddr, interface: &str, patience: Duration) -> Result<Kernel, VipError> {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared::default());
        let worker = Worker {
            address,
            interface: interface.to_owned(),
            shared: Arc::clone(&shared),
            drops_done: 0,
            channel: None,
        };
        thread::Builder::new()
            .name("vip".into())
            .stack_size(256 * 1024)
            .spawn(move || worker.run(queue))
            .map_err(|source| VipError::Io { what: "starting the VIP's kernel thread", source })?;
        Ok(Kernel { jobs, shared, patience })
    }

    /// Whether the VIP stands here by our doing, as far as is known.
    pub(super) fn held(&self) -> bool {
        self.shared.held.load(Ordering::SeqCst)
    }

    pub(super) async fn check_right(&self) -> Result<(), VipError> {
        self.ask("checking the right to change addresses", |worker| {
            let address = worker.address;
            worker.with_channel(|channel| address::check_right(channel, address))
        })
        .await
    }

    /// Puts the VIP there for `seconds`; true when it was not there before. Its place in the order is that of this call,
    /// not of the first poll: a drop called in between wins.
    pub(super) fn hold(&self, seconds: u32) -> impl Future<Output = Result<bool, VipError>> + Send + use<> {
        let drops = self.shared.drops.load(Ordering::SeqCst);
        let kernel = self.clone();
        async move { kernel.ask("holding the VIP", move |worker| worker.hold(seconds, drops)).await }
    }

    /// Removes the VIP wherever it is on this host. Asked for by the call itself, whatever becomes of the future.
    pub(super) fn drop_address(&self) -> impl Future<Output = Result<usize, VipError>> + Send + use<> {
        self.shared.drops.fetch_add(1, Ordering::SeqCst);
        self.shared.held.store(false, Ordering::SeqCst);
        let (reply, answer) = oneshot::channel();
        let submitted = self.submit(Box::new(move |worker| {
            let _ = reply.send(worker.clear());
        }));
        let kernel = self.clone();
        async move {
            submitted?;
            kernel.wait("removing the VIP", answer).await
        }
    }

    pub(super) async fn link(&self) -> Result<Option<Link>, VipError> {
        self.ask("looking up the interface", Worker::link).await
    }

    /// The interface and every entry that carries the VIP.
    pub(super) async fn look(&self) -> Result<(Option<Link>, Vec<Entry>), VipError> {
        self.ask("looking for the VIP", Worker::look).await
    }

    /// True, once, when the VIP that we held is no longer on its interface.
    pub(super) async fn lost(&self) -> Result<bool, VipError> {
        self.ask("looking for the VIP", |worker| {
            let (link, entries) = worker.look()?;
            let stands = link.is_some_and(|link| entries.iter().any(|entry| entry.index == link.index));
            Ok(!stands && worker.shared.held.swap(false, Ordering::SeqCst))
        })
        .await
    }

    pub(super) async fn own_macs(&self) -> Result<Vec<[u8; 6]>, VipError> {
        self.ask("listing the interfaces", |worker| worker.with_channel(address::own_macs)).await
    }

    /// The same thread, for callers that wait so long.
    pub(super) fn with_patience(self, patience: Duration) -> Kernel {
        Kernel { patience, ..self }
    }

    async fn ask<T: Send + 'static>(
        &self,
        what: &'static str,
        job: impl FnOnce(&mut Worker) -> Result<T, VipError> + Send + 'static,
    ) -> Result<T, VipError> {
        let (reply, answer) = oneshot::channel();
        self.submit(Box::new(move |worker| {
            if !reply.is_closed() {
                let _ = reply.send(job(worker));
            }
        }))?;
        self.wait(what, answer).await
    }

    async fn wait<T>(&self, what: &'static str, answer: oneshot::Receiver<Result<T, VipError>>) -> Result<T, VipError> {
        match tokio::time::timeout(self.patience, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(VipError::Closed),
            Err(_) => Err(VipError::TimedOut { what, after: self.patience }),
        }
    }

    fn submit(&self, job: Job) -> Result<(), VipError> {
        self.jobs.try_send(job).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => VipError::Busy,
            mpsc::error::TrySendError::Closed(_) => VipError::Closed,
        })
    }
}

impl Worker {
    fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        while let Some(job) = queue.blocking_recv() {
            job(&mut self);
            self.catch_up();
        }
    }

    /// Carries out a drop whose job did not find room in the queue.
    fn catch_up(&mut self) {
        if self.drops_done != self.shared.drops.load(Ordering::SeqCst)
            && let Err(fault) = self.clear()
        {
            tracing::warn!(address = %self.address, error = %fault, "the VIP could not be removed; its lifetime will");
        }
    }

    fn hold(&mut self, seconds: u32, drops: u64) -> Result<bool, VipError> {
        if self.shared.drops.load(Ordering::SeqCst) != drops {
            return Err(VipError::Superseded);
        }
        let Some(link) = self.link()? else {
            return Err(VipError::NoInterface { name: self.interface.clone() });
        };
        let address = self.address;
        let newly_added = match self.with_channel(|channel| address::put(channel, address, &link, seconds)) {
            // This refusal is the kernel's word for "IPv6 is disabled", which nobody would guess from it.
            Err(VipError::Kernel { errno: Errno::EACCES, .. }) if address.is_ipv6() => {
                return Err(VipError::Ipv6Disabled { name: self.interface.clone() });
            }
            put => put?,
        };
        self.shared.held.store(true, Ordering::SeqCst);
        if self.shared.drops.load(Ordering::SeqCst) != drops {
            self.clear()?;
            return Err(VipError::Superseded);
        }
        Ok(newly_added)
    }

    fn clear(&mut self) -> Result<usize, VipError> {
        let asked = self.shared.drops.load(Ordering::SeqCst);
        self.shared.held.store(false, Ordering::SeqCst);
        // Without knowing the interface the table itself still tells where the VIP is.
        let link = self.link().unwrap_or_default();
        let address = self.address;
        let removed = self.with_channel(|channel| address::clear(channel, address, link.as_ref()))?;
        self.drops_done = asked;
        Ok(removed)
    }

    fn link(&mut self) -> Result<Option<Link>, VipError> {
        let name = self.interface.clone();
        self.with_channel(|channel| address::link(channel, &name))
    }

    fn look(&mut self) -> Result<(Option<Link>, Vec<Entry>), VipError> {
        let link = self.link()?;
        let address = self.address;
        let entries = self.with_channel(|channel| address::entries(channel, address))?;
        Ok((link, entries))
    }

    /// Opens the socket on first use and again after a failure of the socket itself.
    fn with_channel<T>(&mut self, job: impl FnOnce(&mut Channel) -> Result<T, VipError>) -> Result<T, VipError> {
        let channel = match &mut self.channel {
            Some(channel) => channel,
            closed => closed.insert(Channel::open(NETLINK_ROUTE)?),
        };
        let result = job(channel);
        if matches!(result, Err(VipError::Io { .. } | VipError::TimedOut { .. } | VipError::Malformed { .. })) {
            self.channel = None;
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(50);

    /// A documentation address on an interface that does not exist: nothing on the host can be touched.
    fn kernel(patience: Duration) -> Kernel {
        Kernel::start("192.0.2.7".parse().unwrap(), "no-such-link0", patience).unwrap()
    }

    /// Keeps the thread busy, as a held network lock would, until the sender is dropped.
    fn block(kernel: &Kernel) -> std::sync::mpsc::Sender<()> {
        let (gate, opened) = std::sync::mpsc::channel();
        let (begun, busy) = std::sync::mpsc::channel();
        let job = move |_: &mut Worker| {
            let _ = begun.send(());
            let _ = opened.recv();
        };
        kernel.submit(Box::new(job)).unwrap();
        // Taken from the queue: what is put there now stays there.
        busy.recv_timeout(Duration::from_secs(10)).unwrap();
        gate
    }

    async fn drops_done(kernel: &Kernel) -> u64 {
        for _ in 0..100 {
            if let Ok(done) = kernel.ask("counting", |worker| Ok(worker.drops_done)).await {
                return done;
            }
            tokio::time::sleep(PATIENCE).await;
        }
        panic!("the thread does not come back");
    }

    #[tokio::test]
    async fn nobody_waits_longer_than_the_bound() {
        let kernel = kernel(PATIENCE);
        let _gate = block(&kernel);
        let both = async { tokio::join!(kernel.hold(1), kernel.drop_address()) };
        let (held, dropped) = tokio::time::timeout(PATIENCE * 40, both).await.unwrap();
        assert!(matches!(held, Err(VipError::TimedOut { .. })));
        assert!(matches!(dropped, Err(VipError::TimedOut { .. })));
    }

    #[tokio::test]
    async fn calls_count_in_their_order_not_in_that_of_polls() {
        let kernel = kernel(PATIENCE * 100);
        let held = kernel.hold(1);
        let dropped = kernel.drop_address();
        dropped.await.unwrap();
        assert!(matches!(held.await, Err(VipError::Superseded)));
        drop(kernel.drop_address());
        assert_eq!(drops_done(&kernel).await, 2, "asked for without a poll");
    }

    #[tokio::test]
    async fn a_drop_ends_announcing_even_while_the_thread_is_stuck() {
        let kernel = kernel(PATIENCE);
        kernel.shared.held.store(true, Ordering::SeqCst);
        let _gate = block(&kernel);
        assert!(kernel.drop_address().await.is_err());
        assert!(!kernel.held());
    }

    #[tokio::test]
    async fn what_nobody_waits_for_is_not_begun_but_a_drop_is() {
        let kernel = kernel(PATIENCE);
        let gate = block(&kernel);
        let begun = Arc::new(AtomicBool::new(false));
        let mark = Arc::clone(&begun);
        let late = kernel.ask("marking", move |_| {
            mark.store(true, Ordering::SeqCst);
            Ok(())
        });
        let (late, dropped) = tokio::join!(late, kernel.drop_address());
        assert!(late.is_err() && dropped.is_err());
        drop(gate);
        assert_eq!(drops_done(&kernel).await, 1);
        assert!(!begun.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn a_drop_that_finds_the_queue_full_is_carried_out() {
        let kernel = kernel(PATIENCE);
        let gate = block(&kernel);
        while kernel.submit(Box::new(|_| {})).is_ok() {}
        assert!(matches!(kernel.drop_address().await, Err(VipError::Busy)));
        drop(gate);
        assert_eq!(drops_done(&kernel).await, 1);
    }

    #[tokio::test]
    async fn a_hold_from_before_a_drop_is_refused() {
        let kernel = kernel(PATIENCE * 100);
        let gate = block(&kernel);
        let release = async move { drop(gate) };
        let (held, _, ()) = tokio::join!(kernel.hold(1), kernel.drop_address(), release);
        assert!(matches!(held, Err(VipError::Superseded)));
        let later = kernel.hold(1).await;
        assert!(matches!(later, Err(VipError::NoInterface { .. })), "a later one is not");
    }
}
