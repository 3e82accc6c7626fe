//! Saves a sealed instance's data as an RDB file in `data_dir/quarantine` before it follows another primary (S11).
//!
//! Nothing is thrown away under `quarantine = true`: no older file is deleted to make room, and where there is none the
//! instance waits, detached, and says so. What is left half written by an agent that died is removed before the next
//! try; a file under its final name is complete and on disk. Writing is done on a thread of its own.

use super::clock;
use super::station::translate;
use super::tasks::{Hands, Report};
use crate::cluster::{Diverged, GroupName};
use crate::redis::{Damaged, Piece, RdbFile};
use crate::view::Outcome;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Files kept for a group on a node, at most.
pub(super) const MAX_FILES: usize = 16;
/// Room that is left on the disk for the agent's own store, bytes.
const RESERVE: u64 = 64 << 20;
/// A single answer of the instance, with one chunk of values in it.
const STEP: Duration = Duration::from_secs(20);
/// Pieces on their way to the disk: each is some megabytes, or one value.
const PIECES: usize = 2;
/// The ending of a file that is not complete.
const PART: &str = "part";

/// Why nothing was saved.
#[derive(Debug, thiserror::Error)]
enum SaveError {
    #[error("{}: {count} files are kept there already, the most for a group; move them away", .dir.display())]
    TooMany { dir: PathBuf, count: usize },
    #[error("{}: {free} bytes are free, {need} are needed to save the data; make room", .dir.display())]
    NoRoom { dir: PathBuf, free: u64, need: u64 },
    #[error("{}: {source}", .path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("the thread that writes {} ended early", .path.display())]
    Lost { path: PathBuf },
    #[error(transparent)]
    Damaged(#[from] Damaged),
}

/// Where quarantined files of this node lie.
pub(super) fn folder(data_dir: &Path) -> PathBuf {
    data_dir.join("quarantine")
}

/// Saves, or says why not.
pub(super) async fn quarantine(hands: Arc<Hands>, group: GroupName, found: Diverged) -> Report {
    match save(&hands, &group, &found).await {
        Ok(outcome) => outcome.into(),
        Err(why) => Outcome::Failed { why: format!("its data could not be saved before it follows: {why}") }.into(),
    }
}

async fn save(hands: &Hands, group: &GroupName, found: &Diverged) -> Result<Outcome, String> {
    let asked = clock::now();
    let info = hands.commander.info(clock::within(STEP)).await.map_err(|error| error.to_string())?;
    let dir = folder(&hands.data_dir);
    let path = dir.join(found.file.as_deref().unwrap_or("mainstay-quarantine.rdb"));
    // Complete already: the agent died before it could record that.
    let complete = info.run_id == found.run_id.0 && tokio::fs::try_exists(&path).await.unwrap_or(false);
    if complete {
        return Ok(Outcome::Done { info: translate(&info, asked), clean: true });
    }
    let (pieces, incoming) = mpsc::channel(PIECES);
    let (need, file) = (info.used_memory, path.clone());
    let rdb = RdbFile::new(remarks(group, found));
    let writing = tokio::task::spawn_blocking(move || write(&dir, &file, need, rdb, incoming));
    let dumped = hands.commander.dump(&found.run_id.0, STEP, &pieces).await;
    drop(pieces);
    let written = writing.await.unwrap_or_else(|_| Err(SaveError::Lost { path: path.clone() }));
    written.map_err(|error| error.to_string())?;
    let dumped = dumped.map_err(|error| error.to_string())?;
    tracing::warn!(group = %group, file = %path.display(), keys = dumped.keys, "diverged data saved");
    Ok(Outcome::Done { info: translate(&dumped.info, asked), clean: true })
}

/// What the file says of itself; servers ignore it.
fn remarks(group: &GroupName, found: &Diverged) -> Vec<(&'static str, String)> {
    let bytes = found.bytes.map_or_else(|| "unknown".to_owned(), |bytes| bytes.to_string());
    vec![
        ("mainstay-group", group.to_string()),
        ("mainstay-epoch", found.epoch.to_string()),
        ("mainstay-offset", found.offset.to_string()),
        ("mainstay-diverged-bytes", bytes),
    ]
}

/// The part of the name that all of a group's files share.
fn stem(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    name.rfind("-e").map_or(name.clone(), |end| name[..end + 2].to_owned())
}

fn write(
    dir: &Path,
    path: &Path,
    need: u64,
    rdb: RdbFile,
    mut incoming: mpsc::Receiver<Piece>,
) -> Result<(), SaveError> {
    let at = |source| SaveError::Io { path: dir.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(at)?;
    let stem = stem(path);
    let mut count = 0;
    for entry in fs::read_dir(dir).map_err(at)? {
        let entry = entry.map_err(at)?.path();
        if !entry.file_name().unwrap_or_default().to_string_lossy().starts_with(&stem) {
            continue;
        }
        if entry.extension().is_some_and(|ending| ending == PART) {
            fs::remove_file(&entry).map_err(|source| SaveError::Io { path: entry, source })?;
        } else {
            count += 1;
        }
    }
    if count >= MAX_FILES {
        return Err(SaveError::TooMany { dir: dir.to_owned(), count });
    }
    room(dir, need)?;
    let part = path.with_extension(PART);
    let result = fill(dir, &part, rdb, &mut incoming);
    match result {
        Ok(true) => {
            fs::rename(&part, path).map_err(|source| SaveError::Io { path: path.to_owned(), source })?;
            File::open(dir).and_then(|dir| dir.sync_all()).map_err(at)
        }
        // Aborted, or the instance refused: its own words say why.
        Ok(false) => fs::remove_file(&part).map_err(at),
        Err(error) => {
            let _ = fs::remove_file(&part);
            Err(error)
        }
    }
}

/// True when the file is complete and on disk.
fn fill(dir: &Path, part: &Path, mut rdb: RdbFile, incoming: &mut mpsc::Receiver<Piece>) -> Result<bool, SaveError> {
    let at = |source| SaveError::Io { path: part.to_owned(), source };
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(part).map_err(at)?;
    while let Some(piece) = incoming.blocking_recv() {
        let last = matches!(piece, Piece::End);
        let bytes = rdb.bytes(piece)?;
        room(dir, bytes.len() as u64)?;
        file.write_all(&bytes).map_err(at)?;
        if last {
            file.sync_all().map_err(at)?;
            return Ok(true);
        }
    }
    Ok(false)
}

/// The agent's store lies on the same disk and must not run out of room.
fn room(dir: &Path, need: u64) -> Result<(), SaveError> {
    let stat = nix::sys::statvfs::statvfs(dir);
    let stat = stat.map_err(|errno| SaveError::Io { path: dir.to_owned(), source: errno.into() })?;
    let free = stat.blocks_available().saturating_mul(stat.fragment_size());
    let need = need.saturating_add(RESERVE);
    if free < need { Err(SaveError::NoRoom { dir: dir.to_owned(), free, need }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(dir: &Path, name: &str, need: u64, pieces: Vec<Piece>) -> Result<(), SaveError> {
        let (sender, receiver) = mpsc::channel(16);
        for piece in pieces {
            sender.try_send(piece).expect("room");
        }
        drop(sender);
        write(&folder(dir), &folder(dir).join(name), need, RdbFile::new(Vec::new()), receiver)
    }

    fn files(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder(dir)).expect("the folder");
        let mut names: Vec<String> =
            entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn only_a_complete_file_gets_its_name() {
        let dir = tempfile::tempdir().expect("a directory");
        let name = "mainstay-quarantine-g-e2-1.rdb";
        written(dir.path(), name, 0, vec![Piece::Database(0)]).expect("aborted is no error of the disk");
        assert_eq!(files(dir.path()), [""; 0]);
        fs::write(folder(dir.path()).join("mainstay-quarantine-g-e2-0.part"), "left").expect("a file");
        fs::write(folder(dir.path()).join("mainstay-quarantine-other-e2-0.part"), "left").expect("a file");
        written(dir.path(), name, 0, vec![Piece::Database(0), Piece::End]).expect("written");
        assert_eq!(files(dir.path()), [name, "mainstay-quarantine-other-e2-0.part"]);
        assert!(fs::read(folder(dir.path()).join(name)).expect("the file").starts_with(b"REDIS0009\xff"));
    }

    #[test]
    fn without_room_nothing_is_begun_and_nothing_deleted() {
        let dir = tempfile::tempdir().expect("a directory");
        let short = written(dir.path(), "mainstay-quarantine-g-e1-1.rdb", u64::MAX / 2, vec![Piece::End]);
        assert!(matches!(short, Err(SaveError::NoRoom { .. })), "{short:?}");
        for number in 0..MAX_FILES {
            let name = format!("mainstay-quarantine-g-e1-{number}.rdb");
            written(dir.path(), &name, 0, vec![Piece::End]).expect("written");
        }
        let full = written(dir.path(), "mainstay-quarantine-g-e9-99.rdb", 0, vec![Piece::End]);
        assert!(matches!(full, Err(SaveError::TooMany { .. })), "{full:?}");
        assert_eq!(files(dir.path()).len(), MAX_FILES);
        written(dir.path(), "mainstay-quarantine-g2-e9-99.rdb", 0, vec![Piece::End]).expect("another group's");
    }
}
