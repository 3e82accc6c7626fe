//! What an instance says about itself: one INFO answer, parsed.
//!
//! The input is foreign bytes: whatever comes, the result is an [`Info`] or an [`InfoError`] that names the
//! field, never a panic. Unknown fields are ignored, so that newer servers work; a field that the protocol
//! judges by (run id, role, replid, offset) must be there. Valkey uses the same field names and adds
//! `server_name` and `valkey_version`.

use super::NOWHERE;
use std::time::Duration;

/// The longest INFO text that is looked at, in bytes; a real one is 5 to 10 KB.
const MAX_INFO: usize = 1 << 20;
/// The most replica rows that are kept.
const MAX_REPLICAS: usize = 256;

/// Why an INFO text was refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InfoError {
    /// A field the protocol depends on is absent.
    #[error("INFO lacks {0}; is this a Redis or Valkey server, and may this user run INFO?")]
    Missing(&'static str),
    /// A field holds something else than it should.
    #[error("INFO field {field} is {value:?}; is this a Redis or Valkey server?")]
    Bad {
        /// The field.
        field: &'static str,
        /// Its value, shortened.
        value: String,
    },
    /// Larger than any INFO.
    #[error("INFO answer of {0} bytes is too large")]
    TooLarge(usize),
    /// Not a text at all.
    #[error("INFO answer is not a text")]
    NotText,
}

/// The Redis role of an instance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// `role:master`
    Primary,
    /// `role:slave`
    Replica,
}

/// Which server it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flavor {
    /// Redis.
    Redis,
    /// Valkey.
    Valkey,
}

/// How far a replica is attached, by its primary's word.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReplicaState {
    /// Receives the stream.
    Online,
    /// Any state before that, in the server's words (`wait_bgsave`, `send_bulk`).
    Syncing(String),
}

/// One attached replica, by its primary's word.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplicaRow {
    /// Address: the announced one if any, else where the link comes from.
    pub ip: String,
    /// Announced or listening port.
    pub port: u16,
    /// How far it is attached.
    pub state: ReplicaState,
    /// Last acknowledged offset in bytes; replicas acknowledge once per second and when asked by WAIT.
    pub offset: u64,
    /// Age of the last acknowledgement; whole seconds. `None` before the first one.
    pub lag: Option<Duration>,
}

/// Progress of loading a data set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LoadingProgress {
    /// Bytes to load, 0 if unknown.
    pub total_bytes: u64,
    /// Bytes loaded.
    pub loaded_bytes: u64,
    /// The server's guess of the rest, whole seconds; `None` if it has none.
    pub eta: Option<Duration>,
}

/// What one INFO answer said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Info {
    /// Redis or Valkey.
    pub server: Flavor,
    /// Its version (`valkey_version` for Valkey, which also claims to be a Redis 7.2).
    pub version: String,
    /// New at every start of the process (S6).
    pub run_id: String,
    /// The process id in the server's own pid namespace.
    pub pid: u32,
    /// Time since start, whole seconds by the server's wall clock.
    pub uptime: Duration,
    /// Role now.
    pub role: Role,
    /// The history this data belongs to.
    pub replid: String,
    /// The history before, valid up to `second_offset`; all zeros if there is none.
    pub replid2: String,
    /// Bytes of the replication stream that this instance has *processed*. A replica prints two counts:
    /// `slave_repl_offset`, applied from its primary or cached when detached, and `master_repl_offset`, passed on
    /// to replicas of its own. They agree in steady state; the smaller one is taken. They differ during a full
    /// resync, when the first drops to 0 and the second still shows the old data's count, and after a start
    /// without history as a replica (1 and 0).
    pub offset: u64,
    /// `master_repl_offset` as printed.
    pub master_repl_offset: u64,
    /// `slave_repl_offset` as printed; replicas only.
    pub slave_repl_offset: Option<u64>,
    /// First offset that `replid2` does not cover; `None` when `replid2` is unused.
    pub second_offset: Option<u64>,
    /// The primary this replica was told to follow.
    pub upstream: Option<(String, u16)>,
    /// The link to `upstream` is up.
    pub link_up: bool,
    /// A full resynchronisation from `upstream` is under way: the data are neither old nor new.
    pub sync_in_progress: bool,
    /// `replica-read-only` as in force; `None` for a primary, whose INFO does not show it.
    pub read_only: Option<bool>,
    /// A data set is being loaded, the instance answers LOADING to most commands.
    pub loading: bool,
    /// A data set is being loaded beside the old one (swapdb).
    pub async_loading: bool,
    /// Progress, while `loading` or `async_loading`.
    pub loading_progress: Option<LoadingProgress>,
    /// Keys over all databases.
    pub keys: u64,
    /// Attached replicas.
    pub replicas: Vec<ReplicaRow>,
    /// The count the server itself gives (`connected_slaves`).
    pub connected_replicas: u64,
    /// AOF is on.
    pub aof_enabled: bool,
    /// Unix time of the last successful RDB save or load, seconds.
    pub rdb_last_save_time: u64,
    /// A background save runs.
    pub rdb_bgsave_in_progress: bool,
    /// Connected clients without replicas.
    pub connected_clients: u64,
    /// Clients in blocking commands.
    pub blocked_clients: u64,
    /// The server's limit of connections; 0 if not said.
    pub maxclients: u64,
    /// Memory in use, bytes.
    pub used_memory: u64,
    /// Memory limit, bytes; 0 is none.
    pub maxmemory: u64,
    /// The backlog exists.
    pub backlog_active: bool,
    /// Backlog capacity, bytes.
    pub backlog_size: u64,
    /// Oldest offset in the backlog.
    pub backlog_first_offset: u64,
    /// Bytes of history in the backlog.
    pub backlog_histlen: u64,
    /// Full resynchronisations served since start.
    pub sync_full: u64,
    /// Partial resynchronisations served since start.
    pub sync_partial_ok: u64,
    /// Cluster mode, which mainstay cannot manage.
    pub cluster_enabled: bool,
    /// The port it listens on; 0 if none.
    pub tcp_port: u16,
}

impl Info {
    /// Parses the text of an INFO answer.
    pub fn parse(text: &str) -> Result<Self, InfoError> {
        if text.len() > MAX_INFO {
            return Err(InfoError::TooLarge(text.len()));
        }
        let fields = Fields::read(text)?;
        fields.into_info()
    }

    /// Detached from every primary and read-only.
    pub fn is_sealed(&self) -> bool {
        self.is_detached() && self.read_only == Some(true)
    }

    /// Follows [`NOWHERE`].
    pub fn is_detached(&self) -> bool {
        self.role == Role::Replica && self.follows(NOWHERE.0, NOWHERE.1)
    }

    /// Was told to follow this address.
    pub fn follows(&self, host: &str, port: u16) -> bool {
        self.role == Role::Replica && self.upstream.as_ref().is_some_and(|(h, p)| h == host && *p == port)
    }
}

/// The fields by name, borrowed from the text, and the numbered rows.
struct Fields<'a> {
    by_name: std::collections::BTreeMap<&'a str, &'a str>,
    keys: u64,
    replicas: Vec<ReplicaRow>,
}

impl<'a> Fields<'a> {
    fn read(text: &'a str) -> Result<Self, InfoError> {
        let mut fields = Self { by_name: Default::default(), keys: 0, replicas: Vec::new() };
        for line in text.lines() {
            // Values may hold colons (IPv6 addresses, paths): only the first one separates.
            let Some((name, value)) = line.split_once(':') else {
                continue;
            };
            if let Some(n) = name.strip_prefix("db").filter(|n| is_number(n)) {
                fields.add_db(n, value)?;
            } else if name.strip_prefix("slave").is_some_and(is_number) {
                fields.add_replica(value)?;
            } else {
                fields.by_name.insert(name, value.trim_end());
            }
        }
        Ok(fields)
    }

    fn add_db(&mut self, _number: &str, value: &str) -> Result<(), InfoError> {
        let keys = sub_field(value, "keys").ok_or_else(|| bad("db", value))?;
        self.keys = self.keys.saturating_add(keys.parse().map_err(|_| bad("db", value))?);
        Ok(())
    }

    fn add_replica(&mut self, value: &str) -> Result<(), InfoError> {
        if self.replicas.len() >= MAX_REPLICAS {
            return Ok(());
        }
        let row = || -> Option<ReplicaRow> {
            let state = match sub_field(value, "state")? {
                "online" => ReplicaState::Online,
                other => ReplicaState::Syncing(other.chars().take(32).collect()),
            };
            Some(ReplicaRow {
                ip: sub_field(value, "ip")?.to_owned(),
                port: sub_field(value, "port")?.parse().ok()?,
                state,
                offset: sub_field(value, "offset")?.parse().ok()?,
                // -1 before the first acknowledgement.
                lag: sub_field(value, "lag")?.parse::<i64>().ok()?.try_into().ok().map(Duration::from_secs),
            })
        };
        self.replicas.push(row().ok_or_else(|| bad("slave", value))?);
        Ok(())
    }

    fn text(&self, name: &'static str) -> Result<&'a str, InfoError> {
        self.by_name.get(name).copied().ok_or(InfoError::Missing(name))
    }

    /// A number that must be there.
    fn number<T: std::str::FromStr>(&self, name: &'static str) -> Result<T, InfoError> {
        let value = self.text(name)?;
        value.parse().map_err(|_| bad(name, value))
    }

    /// A number that may be absent.
    fn number_opt<T: std::str::FromStr>(&self, name: &'static str) -> Result<Option<T>, InfoError> {
        match self.by_name.get(name) {
            None => Ok(None),
            Some(value) => value.parse().map(Some).map_err(|_| bad(name, value)),
        }
    }

    fn count(&self, name: &'static str) -> Result<u64, InfoError> {
        Ok(self.number_opt(name)?.unwrap_or(0))
    }

    fn flag(&self, name: &'static str) -> Result<bool, InfoError> {
        match self.by_name.get(name) {
            None | Some(&"0") => Ok(false),
            Some(&"1") => Ok(true),
            Some(value) => Err(bad(name, value)),
        }
    }

    /// A 40-digit hexadecimal id.
    fn id(&self, name: &'static str) -> Result<String, InfoError> {
        let value = self.text(name)?;
        if value.len() == 40 && value.bytes().all(|b| b.is_ascii_hexdigit()) {
            Ok(value.to_owned())
        } else {
            Err(bad(name, value))
        }
    }

    fn flavor(&self) -> Result<(Flavor, String), InfoError> {
        let by_name = self.by_name.get("server_name").is_some_and(|n| *n == "valkey");
        match self.by_name.get("valkey_version") {
            Some(version) => Ok((Flavor::Valkey, (*version).to_owned())),
            None => {
                let flavor = if by_name { Flavor::Valkey } else { Flavor::Redis };
                Ok((flavor, self.text("redis_version")?.to_owned()))
            }
        }
    }

    fn upstream(&self, role: Role) -> Result<Option<(String, u16)>, InfoError> {
        if role == Role::Primary {
            return Ok(None);
        }
        Ok(Some((self.text("master_host")?.to_owned(), self.number("master_port")?)))
    }

    fn loading_progress(&self, loading: bool) -> Result<Option<LoadingProgress>, InfoError> {
        if !loading {
            return Ok(None);
        }
        let eta: Option<i64> = self.number_opt("loading_eta_seconds")?;
        Ok(Some(LoadingProgress {
            total_bytes: self.count("loading_total_bytes")?,
            loaded_bytes: self.count("loading_loaded_bytes")?,
            eta: eta.and_then(|s| u64::try_from(s).ok()).map(Duration::from_secs),
        }))
    }

    fn into_info(self) -> Result<Info, InfoError> {
        let role = match self.text("role")? {
            "master" => Role::Primary,
            "slave" => Role::Replica,
            other => return Err(bad("role", other)),
        };
        let (server, version) = self.flavor()?;
        let master_repl_offset: u64 = self.number("master_repl_offset")?;
        // During a full resync a replica prints what its new link has, which starts at -1 or 0.
        let slave_repl_offset = self.number_opt::<i64>("slave_repl_offset")?.and_then(|n| u64::try_from(n).ok());
        let offset = match (role, slave_repl_offset) {
            (Role::Replica, Some(processed)) => processed.min(master_repl_offset),
            _ => master_repl_offset,
        };
        let (loading, async_loading) = (self.flag("loading")?, self.flag("async_loading")?);
        let read_only = self.by_name.get("slave_read_only").map(|_| self.flag("slave_read_only")).transpose()?;
        Ok(Info {
            server,
            version,
            run_id: self.id("run_id")?,
            pid: self.number("process_id")?,
            // Told by the wall clock: negative where that was set back since the start.
            uptime: Duration::from_secs(self.number::<i64>("uptime_in_seconds")?.try_into().unwrap_or(0)),
            role,
            replid: self.id("master_replid")?,
            replid2: self.id("master_replid2")?,
            offset,
            master_repl_offset,
            slave_repl_offset,
            second_offset: self.number::<i64>("second_repl_offset")?.try_into().ok(),
            upstream: self.upstream(role)?,
            link_up: self.by_name.get("master_link_status").is_some_and(|s| *s == "up"),
            sync_in_progress: self.flag("master_sync_in_progress")?,
            read_only,
            loading,
            async_loading,
            loading_progress: self.loading_progress(loading || async_loading)?,
            keys: self.keys,
            connected_replicas: self.count("connected_slaves")?,
            aof_enabled: self.flag("aof_enabled")?,
            rdb_last_save_time: self.count("rdb_last_save_time")?,
            rdb_bgsave_in_progress: self.flag("rdb_bgsave_in_progress")?,
            connected_clients: self.count("connected_clients")?,
            blocked_clients: self.count("blocked_clients")?,
            maxclients: self.count("maxclients")?,
            used_memory: self.count("used_memory")?,
            maxmemory: self.count("maxmemory")?,
            backlog_active: self.flag("repl_backlog_active")?,
            backlog_size: self.count("repl_backlog_size")?,
            backlog_first_offset: self.count("repl_backlog_first_byte_offset")?,
            backlog_histlen: self.count("repl_backlog_histlen")?,
            sync_full: self.count("sync_full")?,
            sync_partial_ok: self.count("sync_partial_ok")?,
            cluster_enabled: self.flag("cluster_enabled")?,
            tcp_port: self.number_opt("tcp_port")?.unwrap_or(0),
            replicas: self.replicas,
        })
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// `b` of `name=b` in `x=a,name=b,y=c`.
fn sub_field<'a>(value: &'a str, name: &str) -> Option<&'a str> {
    value.trim_end().split(',').find_map(|part| part.split_once('=').filter(|(n, _)| *n == name)).map(|(_, v)| v)
}

fn bad(field: &'static str, value: &str) -> InfoError {
    InfoError::Bad { field, value: value.chars().take(80).collect() }
}

#[cfg(test)]
mod tests;
