//! The listening socket: a bounded number of connections and handshakes, and no work for strangers.
//!
//! Each address (an IPv6 /64 counts as one) has a small budget of failed handshakes that refills with time. Where it
//! is spent, or too many handshakes are under way, a connection is closed without being read. A connection is only
//! counted against the limit once it is admitted, so strangers cannot use up the places of peers.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::{AbortHandle, JoinSet},
};

use super::{
    conn::{Conn, Timing, accept, resolve},
    error::WireError,
    handshake::NO_ROOM_FRAME,
    hello::{Admission, Hello, Local, Refusal, RefusalCode},
};

/// Bounds of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenOptions {
    /// Of each connection.
    pub timing: Timing,
    /// Admitted connections at once.
    pub max_connections: usize,
    /// Handshakes under way at once.
    pub max_handshakes: usize,
}

impl ListenOptions {
    /// The usual bounds: 64 connections, 32 handshakes.
    pub fn new(timing: Timing) -> Self {
        ListenOptions {
            timing,
            max_connections: 64,
            max_handshakes: 32,
        }
    }
}

/// Of those handshakes, as many from one address.
const MAX_FROM_ONE: usize = 16;
/// Failures an address may have in a row, and per second from then on. Nodes that share an address (one machine, or
/// behind one) and redial once a second with a wrong key must not lock the others out.
const FAILURES: f64 = 40.0;
const FAILURES_PER_S: f64 = 20.0;
/// Addresses remembered.
const MAX_ADDRESSES: usize = 1024;
/// The kernel is out of descriptors or memory: look again after this.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A running listener; dropping it closes the socket. Connections it has handed over live on.
#[derive(Debug)]
pub struct Listener {
    addr: SocketAddr,
    task: AbortHandle,
}

impl Listener {
    /// Where it listens; tells the port where 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Listens on `bind` (`HOST:PORT`). `on_conn` gets each admitted connection and each failed handshake; it must not
/// block, and spawns what serves the connection. What it logs of failures it should bound itself.
pub async fn listen<F>(
    bind: &str,
    local: Local,
    admission: Arc<dyn Admission>,
    options: ListenOptions,
    on_conn: F,
) -> Result<Listener, WireError>
where
    F: Fn(SocketAddr, Result<Conn, WireError>) + Send + Sync + 'static,
{
    let at = resolve(bind, options.timing.handshake).await?;
    let failed = |source| WireError::Bind {
        addr: bind.into(),
        source,
    };
    let socket = TcpListener::bind(at.as_slice()).await.map_err(failed)?;
    let addr = socket.local_addr().map_err(failed)?;
    let door = Door {
        local,
        admission,
        options,
        places: Arc::new(Semaphore::new(options.max_connections)),
        gate: Mutex::new(Gate::default()),
        on_conn,
    };
    let task = tokio::spawn(Arc::new(door).run(socket)).abort_handle();
    Ok(Listener { addr, task })
}

struct Door<F> {
    local: Local,
    admission: Arc<dyn Admission>,
    options: ListenOptions,
    places: Arc<Semaphore>,
    gate: Mutex<Gate>,
    on_conn: F,
}

impl<F> Door<F>
where
    F: Fn(SocketAddr, Result<Conn, WireError>) + Send + Sync + 'static,
{
    async fn run(self: Arc<Self>, socket: TcpListener) {
        let mut under_way = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                Some(_) = under_way.join_next(), if !under_way.is_empty() => continue,
                accepted = socket.accept() => accepted,
            };
            let Ok((stream, from)) = accepted else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let room = under_way.len() < self.options.max_handshakes;
            if !room || !self.with_gate(|gate| gate.enter(from.ip(), Instant::now())) {
                // If the fresh socket does not take three bytes at once, the close alone must do.
                let _ = stream.try_write(&NO_ROOM_FRAME);
                continue;
            }
            under_way.spawn(self.clone().handshake(stream, from));
        }
    }

    fn with_gate<T>(&self, f: impl FnOnce(&mut Gate) -> T) -> T {
        f(&mut self.gate.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn handshake(self: Arc<Self>, stream: TcpStream, from: SocketAddr) {
        let turnstile = Turnstile {
            admission: &*self.admission,
            places: &self.places,
            taken: Mutex::new(None),
        };
        let mut result = accept(stream, &self.local, &turnstile, self.options.timing).await;
        let taken = turnstile
            .taken
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        self.with_gate(|gate| gate.leave(from.ip(), result.is_ok(), Instant::now()));
        if let (Ok(conn), Some(permit)) = (&mut result, taken) {
            conn.hold(permit);
        }
        (self.on_conn)(from, result);
    }
}

/// The caller's admission, then a place for the connection.
struct Turnstile<'a> {
    admission: &'a dyn Admission,
    places: &'a Arc<Semaphore>,
    taken: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Admission for Turnstile<'_> {
    fn admit(&self, hello: &Hello) -> Result<(), Refusal> {
        self.admission.admit(hello)?;
        let permit = self.places.clone().try_acquire_owned().map_err(|_| {
            Refusal::new(
                RefusalCode::Busy,
                "as many connections as allowed are open; it takes more once some close",
            )
        })?;
        *self.taken.lock().unwrap_or_else(PoisonError::into_inner) = Some(permit);
        Ok(())
    }
}

#[derive(Debug)]
struct Visitor {
    /// Failures it may still have.
    credit: f64,
    seen: Instant,
    inside: usize,
}

impl Visitor {
    fn credit_at(&self, now: Instant) -> f64 {
        let gained = now.saturating_duration_since(self.seen).as_secs_f64() * FAILURES_PER_S;
        (self.credit + gained).min(FAILURES)
    }
}

/// Who may try a handshake.
#[derive(Debug, Default)]
struct Gate {
    visitors: HashMap<IpAddr, Visitor>,
}

impl Gate {
    /// Takes a place for a handshake from `ip`, if it may have one.
    fn enter(&mut self, ip: IpAddr, now: Instant) -> bool {
        let ip = subject(ip);
        if self.visitors.len() >= MAX_ADDRESSES
            && !self.visitors.contains_key(&ip)
            && !self.forget(now)
        {
            return false;
        }
        let visitor = self.visitors.entry(ip).or_insert(Visitor {
            credit: FAILURES,
            seen: now,
            inside: 0,
        });
        visitor.credit = visitor.credit_at(now);
        visitor.seen = now;
        let may = visitor.inside < MAX_FROM_ONE && visitor.credit >= 1.0;
        if may {
            visitor.inside += 1;
        }
        may
    }

    /// A handshake ended.
    fn leave(&mut self, ip: IpAddr, well: bool, now: Instant) {
        let ip = subject(ip);
        if let Some(visitor) = self.visitors.get_mut(&ip) {
            visitor.inside = visitor.inside.saturating_sub(1);
            if !well {
                visitor.credit = (visitor.credit_at(now) - 1.0).max(0.0);
                visitor.seen = now;
            } else if visitor.inside == 0 {
                self.visitors.remove(&ip);
            }
        }
    }

    /// Makes room for a new address: those with nothing against them go, else the one with least.
    fn forget(&mut self, now: Instant) -> bool {
        self.visitors
            .retain(|_, v| v.inside > 0 || v.credit_at(now) < FAILURES);
        if self.visitors.len() < MAX_ADDRESSES {
            return true;
        }
        let idle = self.visitors.iter().filter(|(_, v)| v.inside == 0);
        let best = idle
            .max_by(|a, b| a.1.credit_at(now).total_cmp(&b.1.credit_at(now)))
            .map(|(ip, _)| *ip);
        best.is_some_and(|ip| self.visitors.remove(&ip).is_some())
    }
}

/// A host commands a whole IPv6 /64, so that is what failures are counted against.
fn subject(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(n: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(0x0a00_0000 + n).into()
    }

    #[test]
    fn failures_use_up_the_credit_of_their_address_alone() {
        let (mut gate, now) = (Gate::default(), Instant::now());
        let mut tries = 0;
        while gate.enter(ip(1), now) {
            gate.leave(ip(1), false, now);
            tries += 1;
            assert!(tries <= 100);
        }
        assert_eq!(tries, FAILURES as usize);
        assert!(gate.enter(ip(2), now));
        let later = now + Duration::from_millis(60);
        assert!(gate.enter(ip(1), later));
        gate.leave(ip(1), false, later);
        assert!(!gate.enter(ip(1), later));
    }

    #[test]
    fn a_success_clears_the_address() {
        let (mut gate, now) = (Gate::default(), Instant::now());
        for _ in 0..500 {
            assert!(gate.enter(ip(1), now));
            gate.leave(ip(1), false, now);
            assert!(gate.enter(ip(1), now));
            gate.leave(ip(1), true, now);
        }
        assert!(gate.visitors.is_empty());
    }

    #[test]
    fn one_address_cannot_hold_all_handshakes_nor_fill_the_memory() {
        let (mut gate, now) = (Gate::default(), Instant::now());
        let got = (0..100).filter(|_| gate.enter(ip(1), now)).count();
        assert_eq!(got, MAX_FROM_ONE);
        for n in 2..10_000 {
            assert!(gate.enter(ip(n), now), "{n}");
            gate.leave(ip(n), false, now);
            assert!(gate.visitors.len() <= MAX_ADDRESSES);
        }
        assert_eq!(gate.visitors[&ip(1)].inside, MAX_FROM_ONE);
    }

    #[test]
    fn a_v6_prefix_counts_as_one() {
        let (a, b): (IpAddr, IpAddr) = (
            "2001:db8::1".parse().unwrap(),
            "2001:db8::ffff:1".parse().unwrap(),
        );
        assert_eq!(subject(a), subject(b));
        assert_ne!(subject(a), subject("2001:db8:0:1::1".parse().unwrap()));
        assert_eq!(subject("::ffff:10.0.0.1".parse().unwrap()), ip(1));
    }
}
