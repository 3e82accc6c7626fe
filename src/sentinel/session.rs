//! One connection's state: who the client is, what it speaks, what it listens to. Requests in, answers out.
//!
//! Does no I/O and reads no clock. Whatever a client sends it answers at once, from the picture it is handed; the one thing
//! that takes time, a failover that was asked for, is left to the caller as an [`Effect`].

use super::glob;
use super::herald::News;
use super::house::House;
use super::picture::Picture;
use super::{commands, groups};
use crate::resp::{Limits, Protocol, Request, Value};
use crate::view::Moment;
use std::collections::BTreeSet;

/// The channel on which Sentinels introduce themselves. No pattern but one that begins like it matches it here, since at
/// a Sentinel it carries nothing either.
pub const HELLO: &str = "__sentinel__:hello";

/// Channels and patterns that one connection listens to: each may have a message of its own of everything published.
const LISTENS: usize = 64;
/// And their bytes together.
const LISTENS_BYTES: usize = 8 * 1024;

/// What a request may be once the client is known.
const KNOWN: Limits = Limits { arguments: 256, argument: 8 * 1024, total: 16 * 1024 };
/// And before.
const STRANGER: Limits = Limits { arguments: 10, argument: 1024, total: 4 * 1024 };

/// What an answer is made of besides the request.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// What is known of the groups.
    pub picture: &'a Picture,
    /// What all connections share.
    pub house: &'a House,
    /// Now, by this host's CLOCK_BOOTTIME.
    pub now: Moment,
    /// The wall clock in microseconds since 1970, for people only.
    pub unix_us: u64,
}

/// What is to be done besides sending the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// Close the connection after the answer.
    Close,
    /// A lossless change of this group's primary; the answer is its outcome.
    Failover(String),
}

/// One connection.
#[derive(Debug, Clone)]
pub struct Session {
    pub(super) id: u64,
    pub(super) protocol: Protocol,
    pub(super) known: bool,
    pub(super) name: String,
    channels: BTreeSet<Vec<u8>>,
    patterns: BTreeSet<Vec<u8>>,
}

impl Session {
    /// A client that has just connected.
    #[must_use]
    pub fn new(id: u64, house: &House) -> Self {
        Self {
            id,
            protocol: Protocol::default(),
            known: !house.guarded(),
            name: String::new(),
            channels: BTreeSet::new(),
            patterns: BTreeSet::new(),
        }
    }

    /// What its next request may be.
    #[must_use]
    pub fn limits(&self) -> &'static Limits {
        if self.known { &KNOWN } else { &STRANGER }
    }

    /// The protocol it speaks.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Whether it has given the password, or need not.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.known
    }

    /// Whether it listens to anything.
    #[must_use]
    pub fn listens(&self) -> bool {
        !self.channels.is_empty() || !self.patterns.is_empty()
    }

    /// Answers one request. `out` gets the answer's bytes.
    pub fn answer(&mut self, request: &Request, context: &Context<'_>, out: &mut Vec<u8>) -> Effect {
        context.house.commands.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (value, effect) = match self.admitted(request, context) {
            Ok(command) => {
                let label = commands::label(command, request);
                context.house.note(self.id, |client| {
                    client.last = context.now;
                    client.command = label;
                });
                match command.name {
                    "subscribe" => (self.subscribe(&request[1..], false, out), Effect::None),
                    "psubscribe" => (self.subscribe(&request[1..], true, out), Effect::None),
                    "unsubscribe" => (self.unsubscribe(&request[1..], false, out), Effect::None),
                    "punsubscribe" => (self.unsubscribe(&request[1..], true, out), Effect::None),
                    "sentinel" => groups::sentinel(request, context),
                    _ => commands::answer(self, command, request, context),
                }
            }
            Err(refusal) => (Some(refusal), Effect::None),
        };
        if let Some(value) = value {
            value.encode(self.protocol, out);
        }
        let (channels, patterns, protocol) = (self.channels.len(), self.patterns.len(), self.protocol);
        context.house.note(self.id, |client| {
            (client.channels, client.patterns, client.protocol) = (channels, patterns, protocol);
        });
        effect
    }

    /// The command, if this client may use it now and so.
    fn admitted(&self, request: &Request, context: &Context<'_>) -> Result<&'static commands::Command, Value> {
        let command = commands::find(request)?;
        if !self.known && context.house.guarded() && !command.open {
            return Err(Value::error("NOAUTH Authentication required."));
        }
        if self.listens() && self.protocol == Protocol::Resp2 && !command.listening {
            let name = commands::label(command, request);
            return Err(Value::error(format!(
                "ERR Can't execute '{name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in \
                 this context"
            )));
        }
        Ok(command)
    }

    /// Everything as at the beginning (RESET).
    pub(super) fn reset(&mut self, house: &House) {
        *self = Self::new(self.id, house);
    }

    /// PING of one that listens in RESP2, where only messages are expected.
    pub(super) fn pong(&self, said: Option<&Vec<u8>>) -> Value {
        if self.listens() && self.protocol == Protocol::Resp2 {
            return Value::Array(vec![Value::text("pong"), Value::Bytes(said.cloned().unwrap_or_default())]);
        }
        said.map_or(Value::Status("PONG".into()), |said| Value::Bytes(said.clone()))
    }

    fn subscribe(&mut self, names: &[Vec<u8>], patterns: bool, out: &mut Vec<u8>) -> Option<Value> {
        let word = if patterns { "psubscribe" } else { "subscribe" };
        for name in names {
            let held: usize = self.channels.iter().chain(&self.patterns).map(Vec::len).sum();
            let full = self.channels.len() + self.patterns.len() >= LISTENS || held + name.len() > LISTENS_BYTES;
            let set = if patterns { &mut self.patterns } else { &mut self.channels };
            if full && !set.contains(name) {
                return Some(Value::error(format!(
                    "ERR more than {LISTENS} channels and patterns, or {LISTENS_BYTES} bytes of them"
                )));
            }
            set.insert(name.clone());
            self.confirm(word, Value::Bytes(name.clone()), out);
        }
        None
    }

    fn unsubscribe(&mut self, names: &[Vec<u8>], patterns: bool, out: &mut Vec<u8>) -> Option<Value> {
        let word = if patterns { "punsubscribe" } else { "unsubscribe" };
        let set = if patterns { &mut self.patterns } else { &mut self.channels };
        let left: Vec<Vec<u8>> = if names.is_empty() { set.iter().cloned().collect() } else { names.to_vec() };
        if left.is_empty() {
            self.confirm(word, Value::Null, out);
        }
        for name in left {
            let set = if patterns { &mut self.patterns } else { &mut self.channels };
            set.remove(&name);
            self.confirm(word, Value::Bytes(name), out);
        }
        None
    }

    fn confirm(&self, word: &'static str, name: Value, out: &mut Vec<u8>) {
        let count = i64::try_from(self.channels.len() + self.patterns.len()).unwrap_or(i64::MAX);
        Value::Push(vec![Value::text(word), name, Value::Int(count)]).encode(self.protocol, out);
    }

    /// Appends a published message once for each way in which it is listened to.
    pub fn hear(&self, news: &News, out: &mut Vec<u8>) {
        let channel = news.channel.as_bytes();
        if self.channels.contains(channel) {
            let message = vec![Value::text("message"), Value::text(news.channel), Value::text(news.text.clone())];
            Value::Push(message).encode(self.protocol, out);
        }
        for pattern in &self.patterns {
            let meant = news.channel != HELLO || pattern.starts_with(b"__");
            if meant && glob::fits(pattern, channel) {
                let pattern = Value::Bytes(pattern.clone());
                let message =
                    vec![Value::text("pmessage"), pattern, Value::text(news.channel), Value::text(news.text.clone())];
                Value::Push(message).encode(self.protocol, out);
            }
        }
    }
}
