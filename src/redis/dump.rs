//! Reads a sealed instance's whole data over a connection and puts it together as an RDB file (S11).
//!
//! The instance is detached and read-only, so that what is read in many steps is one state all the same; its process,
//! seal and offset are looked at before and after. It needs no right on the instance's files, and no fork. It writes
//! no file itself: pieces go to the caller, who bounds them. Never runs a command that changes the instance.

use super::conn::{Answer, Conn, Named, command, text_of};
use super::error::{Error, from_server, shorten, unexpected};
use super::info::Info;
use super::posture::Commander;
use super::rdb::{self, Writer};
use redis::{Cmd, Value};
use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Keys asked for in one step of the iteration, and values fetched in one.
const SCAN_COUNT: &str = "512";
const VALUES: usize = 32;
/// A piece handed to the caller is about this large.
const PIECE: usize = 1 << 20;

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
    writer: Writer,
    remarks: &'a [(&'a str, String)],
    begun: bool,
    out: &'a mpsc::Sender<Vec<u8>>,
}

impl Commander {
    /// Reads everything and sends it as pieces of an RDB file. Every single answer must come within `step`.
    ///
    /// # Errors
    /// What the instance refused, or that it is not the sealed process that was meant, or changed meanwhile.
    pub async fn dump(
        &self,
        run_id: &str,
        remarks: &[(&str, String)],
        step: Duration,
        out: &mpsc::Sender<Vec<u8>>,
    ) -> Result<Dumped, Error> {
        let conn = Conn::open(&self.endpoint, Instant::now() + step).await?;
        let writer = Writer::default();
        let mut reading = Reading { conn, target: self.target(), step, writer, remarks, begun: false, out };
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
        reading.begin(rdb::OLD_VERSION);
        let last = reading.writer.end();
        reading.send(last).await?;
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

    fn begin(&mut self, version: u16) {
        if !std::mem::replace(&mut self.begun, true) {
            self.writer.begin(version, self.remarks);
        }
    }

    async fn send(&mut self, piece: Vec<u8>) -> Result<(), Error> {
        let closed = |_| Error::Closed { target: self.target.clone(), command: "(the file)" };
        self.out.send(piece).await.map_err(closed)
    }

    fn damaged(&self, name: &'static str) -> Error {
        Error::Unexpected { target: self.target.clone(), command: name, answer: rdb::Damaged.to_string() }
    }

    /// Servers before 7.0 know none.
    async fn functions(&mut self) -> Result<(), Error> {
        let answers = self.ask(&[command("FUNCTION DUMP", &["FUNCTION", "DUMP"])]).await?;
        let Some(Ok(Value::BulkString(bytes))) = answers.into_iter().next() else { return Ok(()) };
        let (body, version) = rdb::payload(&bytes).map_err(|_| self.damaged("FUNCTION DUMP"))?;
        self.begin(version);
        self.writer.functions(body);
        Ok(())
    }

    /// One database; how many keys it gave. A key that the iteration gives twice, because the server's table shrank
    /// meanwhile, would make the file unreadable.
    async fn database(&mut self, number: u64) -> Result<u64, Error> {
        let text = number.to_string();
        let selected = self.ask(&[command("SELECT", &["SELECT", &text])]).await?;
        self.refusal("SELECT", selected.first())?;
        let (mut cursor, mut selected, mut keys) = ("0".to_owned(), false, 0);
        let (hasher, mut given) = (RandomState::new(), HashSet::new());
        loop {
            let answers = self.ask(&[command("SCAN", &["SCAN", &cursor, "COUNT", SCAN_COUNT])]).await?;
            self.refusal("SCAN", answers.first())?;
            let (next, found) = answers.into_iter().next().and_then(scanned).ok_or_else(|| self.damaged("SCAN"))?;
            for chunk in found.chunks(VALUES) {
                if chunk.iter().any(|key| !given.insert(hasher.hash_one(key))) {
                    let answer = "a key was listed twice; it is read anew".to_owned();
                    return Err(Error::Unexpected { target: self.target.clone(), command: "SCAN", answer });
                }
                keys += self.values(chunk, (!selected).then_some(number)).await?;
                selected = true;
            }
            if next == "0" {
                return Ok(keys);
            }
            cursor = next;
        }
    }

    async fn values(&mut self, keys: &[Vec<u8>], select: Option<u64>) -> Result<u64, Error> {
        let named = |name: &'static str, key: &Vec<u8>| {
            let mut cmd = Cmd::new();
            cmd.arg(name).arg(key.as_slice());
            Named { name, cmd }
        };
        let commands: Vec<Named> = keys.iter().flat_map(|key| [named("DUMP", key), named("PTTL", key)]).collect();
        let answers = self.ask(&commands).await?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (mut select, mut count) = (select, 0);
        for (key, pair) in keys.iter().zip(answers.chunks(2)) {
            self.refusal("DUMP", pair.first())?;
            self.refusal("PTTL", pair.get(1))?;
            let (Some(Ok(Value::BulkString(bytes))), Some(Ok(Value::Int(left)))) = (pair.first(), pair.get(1)) else {
                // It expired meanwhile.
                continue;
            };
            let (body, version) = rdb::payload(bytes).map_err(|_| self.damaged("DUMP"))?;
            self.begin(version);
            if let Some(number) = select.take() {
                self.writer.database(number);
            }
            let expires = u64::try_from(*left).ok().map(|left| now + Duration::from_millis(left));
            self.writer.key(key, body, expires).map_err(|_| self.damaged("DUMP"))?;
            count += 1;
            if self.writer.waiting() >= PIECE {
                let piece = self.writer.take();
                self.send(piece).await?;
            }
        }
        // The next keys would go without their database.
        if let Some(number) = select {
            self.begin(rdb::OLD_VERSION);
            self.writer.database(number);
        }
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
