//! Moves an instance between postures, on a connection kept for that alone.
//!
//! Every function is idempotent, bounded by the caller's deadline and safe to cancel. What cannot be taken back
//! is a command already sent: a `REPLICAOF NO ONE` may wait in a stalled instance after its future was dropped.
//! So the connection's CLIENT ID is known before the first command goes out on it and is kept until that
//! connection is known to be dead; the next posture connection, and the fence, kill it by id first (S9). A
//! command that a fence overtakes is not sent at all.
//!
//! Never decides, never waits for a link to come up, never runs `CONFIG REWRITE`.

use super::conn::{Answer, Conn, Named, command, text_of};
use super::error::{Error, from_server, shorten, unexpected};
use super::info::{Info, ReplicaRow, Role};
use super::settings::{self, Settings, SettingsReport};
use super::watcher::Poke;
use super::{Endpoint, NOWHERE};
use redis::Value;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::MutexGuard;
use tokio::time::{Instant, timeout_at};

/// Commands one instance. Shared by reference: posture commands queue behind each other, the fence behind nothing.
pub struct Commander {
    pub(super) endpoint: Endpoint,
    settings: Settings,
    poke: Option<Poke>,
    pub(super) slot: tokio::sync::Mutex<Option<Conn>>,
    ledger: Mutex<Ledger>,
}

/// Which posture connection may still carry a command, and how many fences have begun.
#[derive(Default)]
struct Ledger {
    live: Option<i64>,
    fences: u64,
}

/// What a seal saw and what it left.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SealReport {
    /// Right before detaching: `sync_in_progress` or `loading` here mean that the data are not whole (S4).
    pub before: Info,
    /// Right after; its offset is final.
    pub after: Info,
}

/// What became of a script that blocked the instance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScriptKill {
    /// It ends now.
    Killed,
    /// None was running.
    NothingRuns,
    /// It has written and can only be ended with the process.
    Unkillable,
}

/// A posture connection in use. Dropped, it goes back to its place, unless an answer is outstanding on it: then
/// it is closed and its id stays in the ledger.
pub(super) struct Session<'a> {
    commander: &'a Commander,
    slot: MutexGuard<'a, Option<Conn>>,
    conn: Option<Conn>,
    /// How many fences had begun when this command did.
    fences: u64,
    deadline: Instant,
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take() {
            *self.slot = Some(conn);
        }
        self.commander.poke();
    }
}

impl Session<'_> {
    async fn batch(&mut self, commands: &[Named]) -> Result<Vec<Answer>, Error> {
        let name = commands.first().map_or("(nothing)", |c| c.name);
        let target = || self.commander.endpoint.target.to_string();
        if self.commander.ledger().fences != self.fences {
            return Err(Error::Fenced { target: target(), command: name });
        }
        let mut conn = self.conn.take().ok_or_else(|| Error::Closed { target: target(), command: name })?;
        let answers = conn.batch(commands, self.deadline).await?;
        self.conn = Some(conn);
        Ok(answers)
    }
}

impl Commander {
    /// A commander for the instance at `endpoint`. Connects when first used. `poke` is the watcher that is to look
    /// right after each command.
    pub fn new(endpoint: Endpoint, settings: Settings, poke: Option<Poke>) -> Self {
        Self { endpoint, settings, poke, slot: Default::default(), ledger: Default::default() }
    }

    /// INFO now, on the posture connection.
    pub async fn info(&self, deadline: Instant) -> Result<Info, Error> {
        let mut session = self.session(deadline).await?;
        let answers = session.batch(&[command("INFO", &["INFO"])]).await?;
        self.parse_info(answers.first())
    }

    /// Sets what must be set (see [`Settings`]) and reports what is left to the operator. To be called whenever
    /// the instance has (re)started; `follow` and `serve` do it themselves and fail with what is refused, `seal`
    /// and the fence set only what they need.
    pub async fn enforce_settings(&self, deadline: Instant) -> Result<SettingsReport, Error> {
        let mut session = self.session(deadline).await?;
        self.enforce(&mut session).await
    }

    async fn enforce(&self, session: &mut Session<'_>) -> Result<SettingsReport, Error> {
        let answers = session.batch(&settings::commands(&self.endpoint, &self.settings)).await?;
        settings::judge(&self.target(), &self.endpoint, &self.settings, answers)
    }

    /// Detaches an instance from every primary and makes it read-only; its PSYNC history stays (S3). The state
    /// before is read in the same breath. Works on a primary too: writes fail with READONLY at once, its replicas
    /// stay attached and idle. Refused with [`Error::Loading`] while it loads.
    pub async fn seal(&self, deadline: Instant) -> Result<SealReport, Error> {
        let mut session = self.session(deadline).await?;
        let mut commands = vec![command("INFO", &["INFO"])];
        commands.extend(seal_commands());
        commands.push(command("INFO", &["INFO"]));
        let answers = session.batch(&commands).await?;
        self.check_ok(answers.get(2), "REPLICAOF")?;
        let report = SealReport { before: self.parse_info(answers.first())?, after: self.parse_info(answers.last())? };
        if report.after.is_sealed() {
            return Ok(report);
        }
        if let Some(Err(err)) = answers.get(1) {
            return Err(settings::refused(&self.target(), "replica-read-only", "allow +config|set to this user", err));
        }
        Err(self.not_confirmed("REPLICAOF 127.0.0.1 1", &report.after))
    }

    /// Follows the primary at this address. Does nothing but enforce the settings when it does so already, since
    /// `REPLICAOF` again could cost a resync. Does not wait for the link.
    pub async fn follow(&self, host: &str, port: u16, deadline: Instant) -> Result<Info, Error> {
        let mut session = self.session(deadline).await?;
        self.enforce(&mut session).await?;
        let now = session.batch(&[command("INFO", &["INFO"])]).await?;
        let now = self.parse_info(now.first())?;
        if now.follows(host, port) {
            return Ok(now);
        }
        let port_text = port.to_string();
        let answers = session
            .batch(&[command("REPLICAOF", &["REPLICAOF", host, &port_text]), command("INFO", &["INFO"])])
            .await?;
        self.check_ok(answers.first(), "REPLICAOF")?;
        let info = self.parse_info(answers.last())?;
        if info.follows(host, port) { Ok(info) } else { Err(self.not_confirmed("REPLICAOF", &info)) }
    }

    /// Tries the link to the followed primary again now. A replica whose first try was refused, or met a primary
    /// not yet promoted, tries only once per second by itself. Does nothing while a try is under way (one that waits
    /// for the primary's child process looks like a link that is down), or when another address is followed.
    pub async fn retry_link(&self, host: &str, port: u16, deadline: Instant) -> Result<Info, Error> {
        let mut session = self.session(deadline).await?;
        let answers = session.batch(&[command("INFO", &["INFO"]), command("ROLE", &["ROLE"])]).await?;
        let now = self.parse_info(answers.first())?;
        if !now.follows(host, port) || now.loading || !self.parse_role(answers.get(1))?.idle {
            return Ok(now);
        }
        let [_, detach] = seal_commands();
        let port = port.to_string();
        let again = command("REPLICAOF", &["REPLICAOF", host, &port]);
        // Both in one write: nobody sees the moment between.
        let answers = session.batch(&[detach, again, command("INFO", &["INFO"])]).await?;
        self.check_ok(answers.get(1), "REPLICAOF")?;
        self.parse_info(answers.last())
    }

    /// Promotes the instance, if it is still the one with this run id (S6): `REPLICAOF NO ONE`, confirmed by ROLE.
    /// On a primary it changes nothing. If the future is dropped, the command may still arrive: fence before
    /// anything else is promised.
    pub async fn serve(&self, expected_run_id: &str, deadline: Instant) -> Result<Info, Error> {
        let mut session = self.session(deadline).await?;
        let now = session.batch(&[command("INFO", &["INFO"])]).await?;
        let now = self.parse_info(now.first())?;
        if now.run_id != expected_run_id {
            return Err(Error::RunIdMismatch {
                target: self.target(),
                expected: shorten(expected_run_id),
                found: now.run_id,
            });
        }
        self.enforce(&mut session).await?;
        // The same connection, hence the same process as the run id above.
        let answers = session
            .batch(&[
                command("REPLICAOF", &["REPLICAOF", "NO", "ONE"]),
                command("ROLE", &["ROLE"]),
                command("INFO", &["INFO"]),
            ])
            .await?;
        self.check_ok(answers.first(), "REPLICAOF")?;
        let role = self.parse_role(answers.get(1))?;
        let info = self.parse_info(answers.last())?;
        if role.role == Role::Primary && info.role == Role::Primary {
            Ok(info)
        } else {
            Err(self.not_confirmed("REPLICAOF NO ONE", &info))
        }
    }

    /// Holds back writes for at most `limit`; reads go on and replicas drain (S10). Needs Redis 6.2.
    pub async fn pause_writes(&self, limit: Duration, deadline: Instant) -> Result<(), Error> {
        let ms = limit.as_millis().to_string();
        self.one(command("CLIENT PAUSE", &["CLIENT", "PAUSE", &ms, "WRITE"]), deadline).await
    }

    /// Releases what was paused; on a sealed instance the held writes then fail with READONLY.
    pub async fn unpause(&self, deadline: Instant) -> Result<(), Error> {
        self.one(command("CLIENT UNPAUSE", &["CLIENT", "UNPAUSE"]), deadline).await
    }

    /// Seals a primary whose writes are paused, leaving its replicas attached so that they drain; pings stop, so
    /// `after.offset` is what the successor must reach (S10).
    pub async fn freeze(&self, deadline: Instant) -> Result<SealReport, Error> {
        self.seal(deadline).await
    }

    /// The attached replicas by this instance's word.
    pub async fn replica_rows(&self, deadline: Instant) -> Result<Vec<ReplicaRow>, Error> {
        Ok(self.info(deadline).await?.replicas)
    }

    /// Makes the instance refuse writes unless `n` replicas are online and acknowledged within `max_lag`; whole
    /// seconds, at least one (S5).
    pub async fn set_min_replicas(&self, n: u32, max_lag: Duration, deadline: Instant) -> Result<(), Error> {
        let lag = max_lag.as_secs().max(1).to_string();
        let n = n.to_string();
        let mut session = self.session(deadline).await?;
        let names = ["min-replicas-max-lag", "min-replicas-to-write"];
        let commands = [
            command("CONFIG SET", &["CONFIG", "SET", names[0], &lag]),
            command("CONFIG SET", &["CONFIG", "SET", names[1], &n]),
        ];
        let answers = session.batch(&commands).await?;
        for (name, answer) in names.into_iter().zip(&answers) {
            if let Err(err) = answer {
                return Err(settings::refused(&self.target(), name, "allow +config|set to this user", err));
            }
        }
        Ok(())
    }

    /// Ends a script or function that blocks the instance, if it has not written yet (S7). Uses a connection of
    /// its own.
    pub async fn script_kill(&self, deadline: Instant) -> Result<ScriptKill, Error> {
        let mut conn = Conn::open(&self.endpoint, deadline).await?;
        let commands = [command("SCRIPT KILL", &["SCRIPT", "KILL"]), command("FUNCTION KILL", &["FUNCTION", "KILL"])];
        let answers = conn.batch(&commands, deadline).await?;
        self.poke();
        let code = |a: &Answer| a.as_ref().err().map(|e| e.code().to_owned());
        if answers.iter().any(Result::is_ok) {
            return Ok(ScriptKill::Killed);
        }
        if answers.iter().any(|a| code(a).as_deref() == Some("UNKILLABLE")) {
            return Ok(ScriptKill::Unkillable);
        }
        match answers.into_iter().next() {
            Some(Err(err)) if err.code() == "NOTBUSY" => Ok(ScriptKill::NothingRuns),
            Some(Err(err)) => Err(from_server(&self.target(), "SCRIPT KILL", &err)),
            _ => Err(unexpected(&self.target(), "SCRIPT KILL", &Value::Nil)),
        }
    }

    async fn one(&self, named: Named, deadline: Instant) -> Result<(), Error> {
        let mut session = self.session(deadline).await?;
        let name = named.name;
        let answers = session.batch(&[named]).await?;
        self.check_ok(answers.first(), name)
    }

    /// The posture connection: the one at hand, or a new one whose id is known and whose predecessor is dead.
    async fn session(&self, deadline: Instant) -> Result<Session<'_>, Error> {
        let started = Instant::now();
        let fences = self.ledger().fences;
        let late =
            |_| Error::Timeout { target: self.target(), command: "(behind another command)", after: started.elapsed() };
        let mut slot = timeout_at(deadline, self.slot.lock()).await.map_err(late)?;
        // After a fence the connection is dead, whether or not its end has been read yet.
        let live = self.ledger().live.is_some();
        let conn = match slot.take() {
            Some(conn) if live && !conn.is_closed() => conn,
            dead => {
                if dead.is_some() {
                    // Seen closed by the instance, with nothing outstanding.
                    self.ledger().live = None;
                }
                self.connect(fences, deadline).await?
            }
        };
        Ok(Session { commander: self, slot, conn: Some(conn), fences, deadline })
    }

    async fn connect(&self, fences: u64, deadline: Instant) -> Result<Conn, Error> {
        let mut conn = Conn::open(&self.endpoint, deadline).await?;
        let before = self.ledger().live;
        let mut commands = vec![command("CLIENT ID", &["CLIENT", "ID"])];
        commands.extend(before.map(kill_by_id));
        let answers = conn.batch(&commands, deadline).await?;
        let id = match answers.first() {
            Some(Ok(Value::Int(id))) => *id,
            Some(Ok(value)) => return Err(unexpected(&self.target(), "CLIENT ID", value)),
            Some(Err(err)) => return Err(from_server(&self.target(), "CLIENT ID", err)),
            None => return Err(unexpected(&self.target(), "CLIENT ID", &Value::Nil)),
        };
        if let Some(Err(err)) = answers.get(1).filter(|a| !killed(a)) {
            return Err(from_server(&self.target(), "CLIENT KILL", err));
        }
        let mut ledger = self.ledger();
        if ledger.fences != fences {
            return Err(Error::Fenced { target: self.target(), command: "CLIENT ID" });
        }
        ledger.live = Some(id);
        Ok(conn)
    }

    /// Begins a fence: no command begun before is sent from here on. Returns the connection to kill.
    pub(super) fn begin_fence(&self) -> Option<i64> {
        let mut ledger = self.ledger();
        ledger.fences += 1;
        ledger.live
    }

    /// The connection with this id was killed.
    pub(super) fn killed_by_fence(&self, id: i64) {
        let mut ledger = self.ledger();
        if ledger.live == Some(id) {
            ledger.live = None;
        }
    }

    fn ledger(&self) -> std::sync::MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn poke(&self) {
        if let Some(poke) = &self.poke {
            poke.poll_now();
        }
    }

    pub(super) fn target(&self) -> String {
        self.endpoint.target.to_string()
    }

    pub(super) fn not_confirmed(&self, command: &'static str, info: &Info) -> Error {
        let found = format!("role {:?}, upstream {:?}, read-only {:?}", info.role, info.upstream, info.read_only);
        Error::NotConfirmed { target: self.target(), command, found }
    }

    pub(super) fn parse_info(&self, answer: Option<&Answer>) -> Result<Info, Error> {
        match answer {
            Some(Ok(value)) => {
                let text = text_of(value).ok_or_else(|| unexpected(&self.target(), "INFO", value))?;
                Info::parse(&text).map_err(|source| Error::Info { target: self.target(), source })
            }
            Some(Err(err)) => Err(from_server(&self.target(), "INFO", err)),
            None => Err(unexpected(&self.target(), "INFO", &Value::Nil)),
        }
    }

    pub(super) fn parse_role(&self, answer: Option<&Answer>) -> Result<RoleAnswer, Error> {
        match answer {
            Some(Ok(value)) => RoleAnswer::parse(value).ok_or_else(|| unexpected(&self.target(), "ROLE", value)),
            Some(Err(err)) => Err(from_server(&self.target(), "ROLE", err)),
            None => Err(unexpected(&self.target(), "ROLE", &Value::Nil)),
        }
    }

    pub(super) fn check_ok(&self, answer: Option<&Answer>, name: &'static str) -> Result<(), Error> {
        match answer {
            Some(Ok(_)) => Ok(()),
            Some(Err(err)) => Err(from_server(&self.target(), name, err)),
            None => Err(unexpected(&self.target(), name, &Value::Nil)),
        }
    }
}

/// What ROLE answers, as far as it matters here.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct RoleAnswer {
    pub(super) role: Role,
    pub(super) upstream: Option<(String, u16)>,
    /// As a replica: its last try failed, and it waits before the next one.
    pub(super) idle: bool,
}

impl RoleAnswer {
    fn parse(value: &Value) -> Option<Self> {
        let Value::Array(items) = value else {
            return None;
        };
        match &*text_of(items.first()?)? {
            "master" => Some(Self { role: Role::Primary, upstream: None, idle: false }),
            "slave" => {
                let host = text_of(items.get(1)?)?.into_owned();
                let Value::Int(port) = items.get(2)? else {
                    return None;
                };
                let idle = items.get(3).and_then(text_of).is_some_and(|state| state == "connect");
                Some(Self { role: Role::Replica, upstream: Some((host, u16::try_from(*port).ok()?)), idle })
            }
            _ => None,
        }
    }

    pub(super) fn is_detached(&self) -> bool {
        self.role == Role::Replica && self.upstream.as_ref().is_some_and(|(h, p)| (h.as_str(), *p) == NOWHERE)
    }
}

/// Read-only first: from the moment it is a replica it must refuse writes.
pub(super) fn seal_commands() -> [Named; 2] {
    let port = NOWHERE.1.to_string();
    [
        command("CONFIG SET", &["CONFIG", "SET", "replica-read-only", "yes"]),
        command("REPLICAOF", &["REPLICAOF", NOWHERE.0, &port]),
    ]
}

pub(super) fn kill_by_id(id: i64) -> Named {
    command("CLIENT KILL", &["CLIENT", "KILL", "ID", &id.to_string()])
}

/// Killed now, or no such client any more.
pub(super) fn killed(answer: &Answer) -> bool {
    match answer {
        Ok(_) => true,
        Err(err) => err.details().is_some_and(|d| d.contains("No such client")),
    }
}
