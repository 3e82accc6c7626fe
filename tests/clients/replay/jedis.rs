//! Jedis' `JedisSentinelPool`: asks each Sentinel in turn once, then a thread per Sentinel asks it again and subscribes
//! to `+switch-master`; the pool follows nothing else. A listener that lost its Sentinel comes back after five seconds.

use std::time::Duration;

use super::{Cell, Handshake, Listeners, Writer, connect, listen, primary, switched};
use crate::lab::secs;
use crate::session::{Place, Session};

const LIBRARY: &str = "jedis";
/// `subscribeRetryWaitTimeMillis`.
const REST: Duration = secs(5);

pub struct Jedis {
    primary: Cell<std::net::SocketAddr>,
    writer: Writer,
    _listeners: Listeners,
}

impl Jedis {
    /// # Errors
    /// If no Sentinel names a primary: the constructor throws.
    pub fn new(place: &Place) -> Result<Self, String> {
        let mut why = String::new();
        let mut found = None;
        for at in &place.sentinels {
            let asked = connect(*at, &Handshake::Resp2, Some(&place.password), LIBRARY)
                .and_then(|mut wire| primary(&mut wire, place.group));
            match asked {
                Ok(at) => found = found.or(Some(at)),
                Err(error) => why = error,
            }
            if found.is_some() {
                break;
            }
        }
        let current = Cell::new(found.ok_or(why)?);
        let mut listeners = Listeners::default();
        for at in place.sentinels.clone() {
            let (current, place_of) = (current.clone(), place.clone());
            listeners.add(place, REST, move |stop| {
                let mut wire = connect(at, &Handshake::Resp2, Some(&place_of.password), LIBRARY)?;
                if let Ok(primary) = primary(&mut wire, place_of.group) {
                    current.set(primary);
                }
                wire.send(&["SUBSCRIBE", "+switch-master"]).map_err(|error| error.to_string())?;
                listen(&mut wire, stop, |_, text| {
                    if let Some(Ok(primary)) = switched(text, place_of.group) {
                        current.set(primary);
                    }
                })
            });
        }
        Ok(Self { primary: current, writer: Writer::default(), _listeners: listeners })
    }
}

impl Session for Jedis {
    fn write(&mut self, key: &str, n: u64) -> Result<(), String> {
        self.writer.set(self.primary.get(), key, n)
    }

    fn role(&mut self) -> Option<Result<String, String>> {
        None
    }
}
