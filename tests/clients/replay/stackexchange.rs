//! StackExchange.Redis with a `serviceName`: a connection to every Sentinel, the primary by the first that names one, its
//! role asked before it is used. It follows `+switch-master`, and a lost connection by asking again at once and then every
//! second.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{Cell, Handshake, Listeners, Writer, connect, listen, primary, replicas, role_of, switched};
use crate::lab::{ms, secs};
use crate::session::{Place, Session};
use crate::wire::{Value, Wire};

const LIBRARY: &str = "SE.Redis";
/// The timer that looks for the primary while the connection to it is lost.
const AGAIN: Duration = secs(1);

pub struct StackExchange {
    place: Place,
    primary: SocketAddr,
    told: Cell<Option<SocketAddr>>,
    /// When the timer is due; `None` while the connection stands.
    due: Option<Instant>,
    writer: Writer,
    _listeners: Listeners,
}

/// Its handshake with a Sentinel: what it needs to take the server for one.
fn open(at: SocketAddr, place: &Place) -> Result<Wire, String> {
    let mut wire = connect(at, &Handshake::Resp2, Some(&place.password), LIBRARY)?;
    let mut ask = |args: &[&str]| wire.call(args).map_err(|error| format!("{at}: {error}"));
    // Refused by a Sentinel, and taken as that; but answered.
    for name in ["timeout", "replica-read-only", "databases"] {
        match ask(&["CONFIG", "GET", name])? {
            Value::Error(_) => {}
            answer => drop(answer.fields()?),
        }
    }
    let groups = ask(&["SENTINEL", "MASTERS"])?.ok()?;
    for group in groups.items() {
        let fields = group.fields()?;
        for name in ["name", "ip", "port", "flags", "runid"] {
            fields.get(name).ok_or_else(|| format!("MASTERS lacks {name}: {fields:?}"))?;
        }
    }
    let info = ask(&["INFO", "server"])?.ok()?.text();
    let field = |name: &str| info.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'));
    if field("redis_mode") != Some("sentinel") {
        return Err(format!("INFO says redis_mode {:?}", field("redis_mode")));
    }
    let version = field("redis_version").unwrap_or_default();
    if version.split('.').filter(|part| part.parse::<u32>().is_ok()).count() < 2 {
        return Err(format!("INFO says redis_version `{version}`"));
    }
    // What it sends to see that the handshake is over.
    match ask(&["PING"])?.ok()?.text().as_str() {
        "PONG" => Ok(wire),
        other => Err(format!("PING answers `{other}`")),
    }
}

/// By any Sentinel, and itself of that opinion.
fn find(place: &Place) -> Result<SocketAddr, String> {
    let mut why = String::new();
    for at in &place.sentinels {
        match open(*at, place).and_then(|mut wire| primary(&mut wire, place.group)) {
            Ok(at) => match role_of(at)?.as_str() {
                "master" => return Ok(at),
                role => why = format!("{at} is a {role}"),
            },
            Err(error) => why = error,
        }
    }
    Err(format!("Sentinel: Failed connecting to configured primary for service: {why}"))
}

impl StackExchange {
    /// # Errors
    /// If no Sentinel leads to a primary.
    pub fn new(place: &Place) -> Result<Self, String> {
        let primary = find(place)?;
        let told = Cell::new(None);
        let mut listeners = Listeners::default();
        for at in place.sentinels.clone() {
            let (told, place_of) = (told.clone(), place.clone());
            listeners.add(place, ms(500), move |stop| {
                let mut wire = open(at, &place_of)?;
                for channel in ["+switch-master", "+sentinel"] {
                    wire.send(&["SUBSCRIBE", channel]).map_err(|error| error.to_string())?;
                }
                listen(&mut wire, stop, |channel, text| {
                    if let ("+switch-master", Some(Ok(at))) = (channel, switched(text, place_of.group)) {
                        told.set(Some(at));
                    }
                })
            });
        }
        Ok(Self { place: place.clone(), primary, told, due: None, writer: Writer::default(), _listeners: listeners })
    }

    fn follow(&mut self) {
        // A message only makes it look: it takes what a Sentinel then names.
        let told = self.told.get().is_some_and(|at| at != self.primary);
        if !told && self.due.is_none_or(|due| due > Instant::now()) {
            return;
        }
        match find(&self.place) {
            Ok(primary) => {
                self.primary = primary;
                self.told.set(None);
                self.due = None;
            }
            Err(_) => self.due = Some(Instant::now() + AGAIN),
        }
    }
}

impl Session for StackExchange {
    fn write(&mut self, key: &str, n: u64) -> Result<(), String> {
        self.follow();
        let wrote = self.writer.set(self.primary, key, n);
        match &wrote {
            Ok(()) => self.due = None,
            Err(_) => _ = self.due.get_or_insert_with(Instant::now),
        }
        wrote
    }

    fn role(&mut self) -> Option<Result<String, String>> {
        let ask = || {
            let at = self.place.sentinels.iter().find_map(|at| open(*at, &self.place).ok());
            let mut wire = at.ok_or("no sentinel")?;
            let list =
                wire.call(&["SENTINEL", "replicas", self.place.group]).map_err(|error| error.to_string())?.ok()?;
            role_of(*replicas(&list)?.first().ok_or("no replica is up")?)
        };
        Some(ask())
    }
}
