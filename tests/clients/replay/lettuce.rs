//! Lettuce with a Sentinel address, in both its ways.
//!
//! [`Plain`] is `RedisClient.connect`: each time it has to connect it asks a Sentinel for the primary. [`Lettuce`] is
//! `MasterReplica`: it reads MASTER and SLAVES of one Sentinel, subscribes to `*` at all of them, and reads the topology
//! again five seconds after the first event that concerns it. Until then it goes on trying the nodes that it knows.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{Cell, Handshake, Listeners, Writer, address, connect, listen, primary, replicas, role_of};
use crate::lab::{ms, secs};
use crate::session::{Place, Session};

const LIBRARY: &str = "Lettuce";
/// The time that its `TimedSemaphore` lets pass.
const LATER: Duration = secs(5);

pub struct Lettuce {
    place: Place,
    primary: SocketAddr,
    replicas: Vec<SocketAddr>,
    /// When the topology is due to be read again.
    due: Cell<Option<Instant>>,
    writer: Writer,
    _listeners: Listeners,
}

/// Whether an event concerns the topology of a group.
fn concerns(channel: &str, text: &str, group: &str) -> bool {
    match channel {
        "+elected-leader" | "+reset-master" => text.starts_with(&format!("master {group} ")),
        "+slave" | "+sdown" | "-sdown" | "fix-slave-config" | "+convert-to-slave" | "+role-change" => {
            text.contains(&format!("@ {group} "))
        }
        "+switch-master" => text.starts_with(&format!("{group} ")),
        _ => channel == "failover-end" || channel == "failover-end-for-timeout",
    }
}

/// The primary, and the replicas that are up, by the first Sentinel that answers.
fn topology(place: &Place) -> Result<(SocketAddr, Vec<SocketAddr>), String> {
    let mut why = String::new();
    for at in &place.sentinels {
        let asked = connect(*at, &Handshake::Resp3, Some(&place.password), LIBRARY).and_then(|mut wire| {
            let mut ask =
                |what: &str| wire.call(&["SENTINEL", what, place.group]).map_err(|error| error.to_string())?.ok();
            let primary = ask("MASTER")?.fields()?;
            let field = |name: &str| primary.get(name).cloned().ok_or_else(|| format!("MASTER lacks {name}"));
            Ok((address(&field("ip")?, &field("port")?)?, replicas(&ask("SLAVES")?)?))
        });
        match asked {
            Ok(found) => return Ok(found),
            Err(error) => why = error,
        }
    }
    Err(format!("Cannot connect Redis Sentinel: {why}"))
}

impl Lettuce {
    /// # Errors
    /// If no Sentinel tells the topology.
    pub fn new(place: &Place) -> Result<Self, String> {
        let (primary, up) = topology(place)?;
        let due = Cell::new(None);
        let mut listeners = Listeners::default();
        for at in place.sentinels.clone() {
            let (due, group, password): (Cell<Option<Instant>>, _, _) =
                (due.clone(), place.group, place.password.clone());
            listeners.add(place, ms(200), move |stop| {
                let mut wire = connect(at, &Handshake::Resp3, Some(&password), LIBRARY)?;
                wire.send(&["PSUBSCRIBE", "*"]).map_err(|error| error.to_string())?;
                listen(&mut wire, stop, |channel, text| {
                    if concerns(channel, text, group) && due.get().is_none() {
                        due.set(Some(Instant::now() + LATER));
                    }
                })
            });
        }
        Ok(Self { place: place.clone(), primary, replicas: up, due, writer: Writer::default(), _listeners: listeners })
    }

    fn refresh(&mut self) {
        if self.due.get().is_none_or(|due| due > Instant::now()) {
            return;
        }
        self.due.set(None);
        if let Ok((primary, up)) = topology(&self.place) {
            (self.primary, self.replicas) = (primary, up);
        }
    }
}

impl Session for Lettuce {
    fn write(&mut self, key: &str, n: u64) -> Result<(), String> {
        self.refresh();
        self.writer.set(self.primary, key, n)
    }

    fn role(&mut self) -> Option<Result<String, String>> {
        Some(self.replicas.first().ok_or_else(|| "no replica".to_owned()).and_then(|at| role_of(*at)))
    }
}

/// A connection whose address is looked up whenever it is made.
pub struct Plain {
    place: Place,
    primary: Option<SocketAddr>,
    writer: Writer,
}

impl Plain {
    pub fn new(place: &Place) -> Self {
        Self { place: place.clone(), primary: None, writer: Writer::default() }
    }

    fn find(&self) -> Result<SocketAddr, String> {
        let mut why = String::new();
        for at in &self.place.sentinels {
            let asked = connect(*at, &Handshake::Resp3, Some(&self.place.password), LIBRARY)
                .and_then(|mut wire| primary(&mut wire, self.place.group));
            match asked {
                Ok(at) => return Ok(at),
                Err(error) => why = error,
            }
        }
        Err(format!("Cannot connect to a Redis Sentinel: {why}"))
    }
}

impl Session for Plain {
    fn write(&mut self, key: &str, n: u64) -> Result<(), String> {
        if !self.writer.is_open() {
            self.primary = Some(self.find()?);
        }
        self.writer.set(self.primary.ok_or("no primary")?, key, n)
    }

    fn role(&mut self) -> Option<Result<String, String>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_told_apart_as_the_library_does() {
        let slave = "slave 10.0.0.1:6379 10.0.0.1 6379 @ mymaster 10.0.0.2 6379";
        assert!(concerns("+slave", slave, "mymaster"));
        assert!(!concerns("+slave", slave, "other"));
        assert!(concerns("+switch-master", "mymaster 10.0.0.1 6379 10.0.0.2 6379", "mymaster"));
        assert!(concerns("+elected-leader", "master mymaster 10.0.0.1 6379", "mymaster"));
        assert!(!concerns("+odown", "master mymaster 10.0.0.1 6379", "mymaster"));
    }
}
