//! When the newest write of an instance's data went to its disk: a cold start's last evidence (S14).
//!
//! The instance says where its files are; their times are read from the file system, if this agent's user may. Nothing
//! is opened or changed.

use super::conn::{Answer, Conn, command, text_of};
use super::error::Error;
use super::info::Info;
use super::posture::Commander;
use redis::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// Files of one append-only directory that are looked at, at most.
const MAX_FILES: usize = 1024;

/// Where an instance keeps its data.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DataFiles {
    dir: PathBuf,
    rdb: String,
    append_only: bool,
    append_dir: Option<String>,
    append_file: String,
}

impl Commander {
    /// Where the instance keeps its data, by its own word.
    ///
    /// # Errors
    /// What it refused.
    pub async fn data_files(&self, deadline: Instant) -> Result<DataFiles, Error> {
        let names = ["dir", "dbfilename", "appendonly", "appenddirname", "appendfilename"];
        let commands = names.map(|name| command("CONFIG GET", &["CONFIG", "GET", name]));
        // A connection of its own: no posture command waits for this.
        let answers = Conn::open(&self.endpoint, deadline).await?.batch(&commands, deadline).await?;
        let text = |at: usize| answers.get(at).and_then(setting);
        Ok(DataFiles {
            dir: text(0).unwrap_or_default().into(),
            rdb: text(1).unwrap_or_default(),
            append_only: text(2).is_some_and(|on| on == "yes"),
            append_dir: text(3),
            append_file: text(4).unwrap_or_default(),
        })
    }
}

/// The value of a `CONFIG GET name` answer.
fn setting(answer: &Answer) -> Option<String> {
    let value = match answer.as_ref().ok()? {
        Value::Map(pairs) => &pairs.first()?.1,
        Value::Array(items) => items.get(1)?,
        _ => return None,
    };
    Some(text_of(value)?.into_owned())
}

impl DataFiles {
    /// When the data was last written to, milliseconds since 1970. None where there is none, it cannot be seen, or it was
    /// changed since the instance (`info`) started: then loading it did that. Blocks on the file system.
    pub fn newest_unix_ms(&self, info: &Info) -> Option<u64> {
        let time = |path: &Path| std::fs::metadata(path).ok()?.modified().ok();
        let newest = match (self.append_only, &self.append_dir) {
            (false, _) => time(&self.dir.join(&self.rdb))?,
            (true, Some(dir)) => {
                let entries = std::fs::read_dir(self.dir.join(dir)).ok()?;
                entries.flatten().take(MAX_FILES).filter_map(|entry| time(&entry.path())).max()?
            }
            (true, None) => time(&self.dir.join(&self.append_file))?,
        };
        // The uptime is in whole seconds.
        let started = SystemTime::now().checked_sub(info.uptime + Duration::from_secs(1))?;
        let ms = newest.duration_since(UNIX_EPOCH).ok()?.as_millis();
        (newest < started).then(|| u64::try_from(ms).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_file_tells_unless_loading_changed_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |path: &Path, age: u64| {
            let file = std::fs::File::create(path).expect("a file");
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).expect("a time");
        };
        let files = DataFiles { dir: dir.path().into(), rdb: "dump.rdb".into(), ..DataFiles::default() };
        let text = include_str!("info/golden/redis-7.0-replica.txt");
        let info = |secs| Info { uptime: Duration::from_secs(secs), ..Info::parse(text).expect("an INFO") };
        assert_eq!(files.newest_unix_ms(&info(1)), None, "no file");
        at(&dir.path().join("dump.rdb"), 600);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let age = |ms: Option<u64>| ms.map(|ms| now.saturating_sub(ms / 1000));
        assert!(age(files.newest_unix_ms(&info(1))).is_some_and(|age| (599..=602).contains(&age)));
        assert_eq!(files.newest_unix_ms(&info(700)), None, "changed since it started");
        let append = DataFiles { append_only: true, append_dir: Some("aof".into()), ..files };
        std::fs::create_dir(dir.path().join("aof")).expect("a directory");
        at(&dir.path().join("aof/base"), 500);
        at(&dir.path().join("aof/incr"), 300);
        assert!(age(append.newest_unix_ms(&info(1))).is_some_and(|age| (299..=302).contains(&age)));
    }
}
