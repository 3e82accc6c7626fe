//! What all connections of the endpoint share: the password, who is connected, what was counted.

use crate::resp::Protocol;
use crate::view::Moment;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// At most so many clients are listed: `CLIENT LIST` must not become the largest thing this agent does.
const LISTED: usize = 1000;

/// Shared by all connections.
#[derive(Debug, Default)]
pub struct House {
    /// As whom clients log in, if they must.
    login: Option<Login>,
    /// When the endpoint began.
    pub(super) started: Moment,
    /// The port it listens on.
    pub(super) port: u16,
    /// How many clients may be connected.
    pub(super) most: usize,
    clients: Mutex<BTreeMap<u64, Client>>,
    /// Connections taken.
    pub(super) connections: AtomicU64,
    /// Connections turned away.
    pub(super) refused: AtomicU64,
    /// Commands answered.
    pub(super) commands: AtomicU64,
    /// Bytes of answers that nobody reads.
    unread: AtomicUsize,
}

/// Bytes that lie about unread, until it is dropped.
#[derive(Debug)]
pub(super) struct Lying<'a> {
    house: &'a House,
    bytes: usize,
}

impl Drop for Lying<'_> {
    fn drop(&mut self) {
        self.house.unread.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The one user of the endpoint.
#[derive(Debug, Clone, Default)]
pub struct Login {
    /// Its name.
    pub user: String,
    /// Its password.
    pub password: Vec<u8>,
}

impl Login {
    /// The user that logs in with a password alone.
    #[must_use]
    pub fn usual() -> String {
        "default".to_owned()
    }
}

/// What `CLIENT LIST` says of one connection.
#[derive(Debug, Clone, Default)]
pub(super) struct Client {
    pub(super) peer: String,
    pub(super) local: String,
    pub(super) name: String,
    pub(super) library: String,
    pub(super) library_version: String,
    pub(super) since: Moment,
    pub(super) last: Moment,
    pub(super) channels: usize,
    pub(super) patterns: usize,
    pub(super) command: String,
    pub(super) protocol: Protocol,
}

impl House {
    /// An endpoint on this port, for so many clients.
    #[must_use]
    pub fn new(login: Option<Login>, started: Moment, port: u16, most: usize) -> Self {
        Self { login, started, port, most, ..Self::default() }
    }

    /// Counts bytes that are not read at once; none if that were more than `most` of all connections.
    pub(super) fn lie(&self, bytes: usize, most: usize) -> Option<Lying<'_>> {
        let lying = Lying { house: self, bytes };
        (self.unread.fetch_add(bytes, Ordering::Relaxed) + bytes <= most).then_some(lying)
    }

    /// Whether a password is asked for.
    pub(super) fn guarded(&self) -> bool {
        self.login.is_some()
    }

    /// The user's name, as ACL WHOAMI tells it.
    pub(super) fn user(&self) -> &str {
        self.login.as_ref().map_or("default", |login| &login.user)
    }

    /// In a time that tells nothing of how much of the password was right.
    pub(super) fn admits(&self, user: &[u8], said: &[u8]) -> bool {
        let known = user == self.user().as_bytes();
        let Some(Login { password, .. }) = &self.login else { return known };
        let alike = password
            .iter()
            .enumerate()
            .fold(0u8, |unlike, (at, byte)| unlike | (byte ^ said.get(at).copied().unwrap_or(!byte)));
        alike == 0 && said.len() == password.len() && known
    }

    pub(super) fn enter(&self, id: u64, client: Client) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.clients().insert(id, client);
    }

    pub(super) fn leave(&self, id: u64) {
        self.clients().remove(&id);
    }

    pub(super) fn note(&self, id: u64, change: impl FnOnce(&mut Client)) {
        if let Some(client) = self.clients().get_mut(&id) {
            change(client);
        }
    }

    pub(super) fn connected(&self) -> usize {
        self.clients().len()
    }

    /// How many channels and patterns are listened to by anybody.
    pub(super) fn listened(&self) -> (usize, usize) {
        self.clients()
            .values()
            .fold((0, 0), |(channels, patterns), client| (channels + client.channels, patterns + client.patterns))
    }

    /// A line for each client, or for those with these ids.
    pub(super) fn list(&self, now: Moment, wanted: impl Fn(u64) -> bool) -> String {
        let clients = self.clients();
        let rows = clients.iter().filter(|(id, _)| wanted(**id)).take(LISTED);
        rows.map(|(id, client)| client.line(*id, now, self.user())).collect()
    }

    fn clients(&self) -> MutexGuard<'_, BTreeMap<u64, Client>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Client {
    fn line(&self, id: u64, now: Moment, user: &str) -> String {
        let flags = if self.channels + self.patterns > 0 { 'P' } else { 'N' };
        let resp = if self.protocol == Protocol::Resp3 { 3 } else { 2 };
        format!(
            "id={id} addr={} laddr={} name={} age={} idle={} flags={flags} db=0 sub={} psub={} ssub=0 multi=-1 cmd={} \
             user={user} resp={resp} lib-name={} lib-ver={}\n",
            self.peer,
            self.local,
            self.name,
            now.since(self.since).as_secs(),
            now.since(self.last).as_secs(),
            self.channels,
            self.patterns,
            self.command,
            self.library,
            self.library_version,
        )
    }
}
