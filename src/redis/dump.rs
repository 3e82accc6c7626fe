//! Reads a sealed instance's whole data over a connection, for an RDB file (S11).
//!
//! The instance is detached and read-only, so that what is read in many steps is one state all the same; its process,
//! seal and offset are looked at before and after. It needs no right on the instance's files, and no fork. What is read
//! goes to the caller in pieces, who bounds them and makes a file of them ([`super::RdbFile`]). Never runs a command that
//! changes the instance.

use super::conn::{Answer, Conn, Named, command, text_of};
use super::error::{Error, from_server, shorten, unexpected};
use super::info::Info;
use super::posture::Commander;
use super::rdb::{Damaged, Entry, Piece};
use redis::{Cmd, Value};
use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Keys asked for in one step of the iteration, and values fetched in one, at most.
const SCAN_COUNT: &str = "512";
const VALUES: usize = 32;
/// Where the values of one step come to more bytes, the next fetches fewer.
const STEP_BYTES: usize = 4 << 20;

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dumped {
    /// What the instance said of itself at the end.
    pub info: Info,
    /// How many keys.
    pub keys: u64,
}

/// One reading under way.
struct Reading<'a> {
    conn: Conn,
    target: String,
    step: Duration,
    /// Values to fetch in the next step.
    values: usize,
    out: &'a mpsc::Sender<Piece>,
}

impl Commander {
    /// Reads everything and sends it in pieces, the last of them [`Piece::End`]. Every single answer must come within
    /// `step`.
    ///
    /// # Errors
    /// What the instance refused, or that it is not the sealed process that was meant, or changed meanwhile.
    pub async fn dump(&self, run_id: &str, step: Duration, out: &mpsc::Sender<Piece>) -> Result<Dumped, Error> {
        let conn = Conn::open(&self.endpoint, Instant::now() + step).await?;
        let mut reading = Reading { conn, target: self.target(), step, values: VALUES, out };
        let (before, databases) = self.looked(&mut reading, run_id).await?;
        reading.functions().await?;
        let mut keys = 0;
        for number in databases {
            keys += reading.database(number).await?;
        }
        let (after, _) = self.looked(&mut reading, run_id).await?;
        if after.offset != before.offset {
            return Err(self.not_confirmed("a dump of data at rest", &after));
        }
        reading.send(Piece::End).await?;
        Ok(Dumped { info: after, keys })
    }

    /// INFO, and the databases that hold keys.
    async fn looked(&self, reading: &mut Reading<'_>, run_id: &str) -> Result<(Info, Vec<u64>), Error> {
        let answers = reading.ask(&[command("INFO", &["INFO"])]).await?;
        let info = self.parse_info(answers.first())?;
        if info.run_id != run_id {
            return Err(Error::RunIdMismatch { target: self.target(), expected: shorten(run_id), found: info.run_id });
        }
        if !info.is_sealed() {
            return Err(self.not_confirmed("a dump of data at rest", &info));
        }
        let text = answers.first().and_then(|answer| answer.as_ref().ok()).and_then(text_of).unwrap_or_default();
        let number = |line: &str| line.strip_prefix("db")?.split_once(':')?.0.parse().ok();
        Ok((info, text.lines().filter_map(number).collect()))
    }
}

impl Reading<'_> {
    async fn ask(&mut self, commands: &[Named]) -> Result<Vec<Answer>, Error> {
        self.conn.batch(commands, Instant::now() + self.step).await
    }

    async fn send(&mut self, piece: Piece) -> Result<(), Error> {
        let closed = |_| Error::Closed { target: self.target.clone(), command: "(the file)" };
        self.out.send(piece).await.map_err(closed)
    }

    fn damaged(&self, name: &'static str) -> Error {
        Error::Unexpected { target: self.target.clone(), command: name, answer: Damaged.to_string() }
    }

    /// Servers before 7.0 know none.
    async fn functions(&mut self) -> Result<(), Error> {
        let answers = self.ask(&[command("FUNCTION DUMP", &["FUNCTION", "DUMP"])]).await?;
        let Some(Ok(Value::BulkString(bytes))) = answers.into_iter().next() else { return Ok(()) };
        self.send(Piece::Functions(bytes)).await
    }

    /// One database; how many keys it gave. A key that the iteration gives twice, because the server's table shrank
    /// meanwhile, would make the file unreadable.
    async fn database(&mut self, number: u64) -> Result<u64, Error> {
        let text = number.to_string();
        let selected = self.ask(&[command("SELECT", &["SELECT", &text])]).await?;
        self.refusal("SELECT", selected.first())?;
        self.send(Piece::Database(number)).await?;
        let (mut cursor, mut keys) = ("0".to_owned(), 0);
        let (hasher, mut given) = (RandomState::new(), HashSet::new());
        loop {
            let answers = self.ask(&[command("SCAN", &["SCAN", &cursor, "COUNT", SCAN_COUNT])]).await?;
            self.refusal("SCAN", answers.first())?;
            let (next, found) = answers.into_iter().next().and_then(scanned).ok_or_else(|| self.damaged("SCAN"))?;
            let mut rest = found.as_slice();
            while !rest.is_empty() {
                let (chunk, more) = rest.split_at(self.values.min(rest.len()));
                rest = more;
                if chunk.iter().any(|key| !given.insert(hasher.hash_one(key))) {
                    let answer = "a key was listed twice; it is read anew".to_owned();
                    return Err(Error::Unexpected { target: self.target.clone(), command: "SCAN", answer });
                }
                keys += self.values(chunk).await?;
            }
            if next == "0" {
                return Ok(keys);
            }
            cursor = next;
        }
    }

    async fn values(&mut self, keys: &[Vec<u8>]) -> Result<u64, Error> {
        let named = |name: &'static str, key: &Vec<u8>| {
            let mut cmd = Cmd::new();
            cmd.arg(name).arg(key.as_slice());
            Named { name, cmd }
        };
        let commands: Vec<Named> = keys.iter().flat_map(|key| [named("DUMP", key), named("PTTL", key)]).collect();
        let mut answers = self.ask(&commands).await?.into_iter();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (mut entries, mut size) = (Vec::with_capacity(keys.len()), 0);
        for key in keys {
            let (value, left) = (answers.next(), answers.next());
            self.refusal("DUMP", value.as_ref())?;
            self.refusal("PTTL", left.as_ref())?;
            let (Some(Ok(Value::BulkString(payload))), Some(Ok(Value::Int(left)))) = (value, left) else {
                // It expired meanwhile.
                continue;
            };
            let expires = u64::try_from(left).ok().map(|left| now + Duration::from_millis(left));
            size += payload.len();
            entries.push(Entry { key: key.clone(), payload, expires });
        }
        self.values = if size > STEP_BYTES { (self.values / 2).max(1) } else { (self.values * 2).min(VALUES) };
        let count = entries.len() as u64;
        self.send(Piece::Entries(entries)).await?;
        Ok(count)
    }

    fn refusal(&self, name: &'static str, answer: Option<&Answer>) -> Result<(), Error> {
        match answer {
            Some(Err(err)) if err.code() == "MASTERDOWN" => Err(Error::SettingRefused {
                target: self.target.clone(),
                setting: "replica-serve-stale-data",
                detail: "its data cannot be read while it is detached".to_owned(),
                remedy: "set replica-serve-stale-data to yes",
            }),
            Some(Err(err)) => Err(from_server(&self.target, name, err)),
            Some(Ok(_)) => Ok(()),
            None => Err(unexpected(&self.target, name, &Value::Nil)),
        }
    }
}

/// The next cursor and the keys of a SCAN answer.
fn scanned(answer: Answer) -> Option<(String, Vec<Vec<u8>>)> {
    let Ok(Value::Array(parts)) = answer else { return None };
    let [cursor, Value::Array(keys)] = parts.as_slice() else { return None };
    let key = |value: &Value| if let Value::BulkString(bytes) = value { Some(bytes.clone()) } else { None };
    Some((text_of(cursor)?.into_owned(), keys.iter().map(key).collect::<Option<_>>()?))
}
