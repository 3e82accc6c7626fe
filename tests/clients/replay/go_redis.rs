//! go-redis' `FailoverClient`: all Sentinels are asked at once and the first answer counts; the one that gave it is
//! kept, asked for the others and subscribed to. Each new connection of the pool asks it again.

use std::net::SocketAddr;
use std::sync::mpsc;

use super::{Cell, Handshake, Listeners, Writer, address, connect, listen, primary, replicas, role_of, switched};
use crate::lab::ms;
use crate::session::{PATIENCE, Place, Session};
use crate::wire::Wire;

const LIBRARY: &str = "go-redis";

pub struct GoRedis {
    place: Place,
    sentinels: Vec<SocketAddr>,
    /// The Sentinel in use.
    kept: Option<Wire>,
    listeners: Listeners,
    /// What a message said last.
    told: Cell<Option<SocketAddr>>,
    primary: Option<SocketAddr>,
    writer: Writer,
}

impl GoRedis {
    pub fn new(place: &Place) -> Self {
        Self {
            place: place.clone(),
            sentinels: place.sentinels.clone(),
            kept: None,
            listeners: Listeners::default(),
            told: Cell::new(None),
            primary: None,
            writer: Writer::default(),
        }
    }

    fn dial(&self, at: SocketAddr) -> Result<Wire, String> {
        connect(at, &Handshake::Resp3, Some(&self.place.password), LIBRARY)
    }

    /// # Errors
    /// If no Sentinel names a primary.
    pub fn find(&mut self) -> Result<SocketAddr, String> {
        if let Some(wire) = &mut self.kept {
            match primary(wire, self.place.group) {
                Ok(at) => return Ok(at),
                Err(_) => {
                    self.kept = None;
                    self.listeners = Listeners::default();
                }
            }
        }
        let (send, first) = mpsc::channel();
        for at in self.sentinels.clone() {
            let (send, ns, place) = (send.clone(), self.place.netns(), self.place.clone());
            std::thread::spawn(move || {
                let asked = ns.enter().map_err(|error| error.to_string()).and_then(|()| {
                    let mut wire = connect(at, &Handshake::Resp3, Some(&place.password), LIBRARY)?;
                    primary(&mut wire, place.group).map(|primary| (at, wire, primary))
                });
                let _ = send.send(asked);
            });
        }
        drop(send);
        let mut why = "no Sentinel".to_owned();
        while let Ok(asked) = first.recv_timeout(4 * PATIENCE) {
            match asked {
                Ok((at, wire, primary)) => {
                    self.keep(at, wire)?;
                    return Ok(primary);
                }
                Err(error) => why = error,
            }
        }
        Err(format!("all sentinels specified in configuration are unreachable: {why}"))
    }

    /// `RandomReplicaAddr`, by the Sentinel in use.
    fn replica(&mut self) -> Result<SocketAddr, String> {
        let mut own = match &self.kept {
            Some(_) => None,
            None => Some(self.dial(*self.sentinels.first().ok_or("no sentinel")?)?),
        };
        let wire = own.as_mut().or(self.kept.as_mut()).ok_or("no sentinel")?;
        let list = wire.call(&["SENTINEL", "replicas", self.place.group]).map_err(|error| error.to_string())?.ok()?;
        replicas(&list)?.first().copied().ok_or_else(|| "no replica is up".to_owned())
    }

    fn keep(&mut self, at: SocketAddr, mut wire: Wire) -> Result<(), String> {
        let list = wire.call(&["SENTINEL", "sentinels", self.place.group]).map_err(|error| error.to_string())?.ok()?;
        for other in list.items() {
            let fields = other.fields()?;
            if let (Some(ip), Some(port)) = (fields.get("ip"), fields.get("port")) {
                let found = address(ip, port)?;
                if !self.sentinels.contains(&found) {
                    self.sentinels.push(found);
                }
            }
        }
        self.kept = Some(wire);
        let (told, group, password) = (self.told.clone(), self.place.group, self.place.password.clone());
        self.listeners.add(&self.place, ms(100), move |stop| {
            let mut wire = connect(at, &Handshake::Resp3, Some(&password), LIBRARY)?;
            wire.send(&["SUBSCRIBE", "+switch-master", "+replica-reconf-done"]).map_err(|error| error.to_string())?;
            listen(&mut wire, stop, |channel, text| {
                if let ("+switch-master", Some(Ok(at))) = (channel, switched(text, group)) {
                    told.set(Some(at));
                }
            })
        });
        Ok(())
    }
}

impl Session for GoRedis {
    fn write(&mut self, key: &str, n: u64) -> Result<(), String> {
        // The pool drops connections to anybody but the one that a message named.
        if let Some(told) = self.told.get().filter(|told| Some(*told) != self.primary) {
            self.told.set(None);
            self.primary = Some(told);
            self.writer.close();
        }
        if !self.writer.is_open() {
            self.primary = Some(self.find()?);
        }
        let to = self.primary.ok_or("no primary")?;
        self.writer.set(to, key, n)
    }

    fn role(&mut self) -> Option<Result<String, String>> {
        Some(self.replica().and_then(role_of))
    }
}
