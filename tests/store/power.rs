//! Power loss at any write: every state of the files that a crash may leave is rebuilt and opened with the real store.
//!
//! A preloaded journal (`journal.c`) records what the writing process asks of the file system. A crash keeps what was
//! synchronised; of what was not, each sector of 512 bytes may be lost or kept by itself, and of several versions of a
//! sector any may be the one that reached the disk. The write under way is one of these.

use super::model::{Dice, Model, Writer};
use super::{fast_dir, start, told, told_dir};
use mainstay::store::Store;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

const SEED: &str = "MAINSTAY_TEST_SEED";
const FROM: &str = "MAINSTAY_TEST_FROM";
const JOURNAL: &str = "MAINSTAY_TEST_JOURNAL";
/// Steps of each of two processes, one after the other.
const STEPS: u64 = 70;
const SECTOR: usize = 512;
const PAGE: usize = 4096;

#[tokio::test]
#[ignore = "the writer whose journal `power_loss_at_any_write_loses_nothing_acknowledged` replays"]
async fn writer() {
    let (seed, from) = (told(SEED).unwrap(), told(FROM).unwrap());
    let mut journal = fs::File::options().append(true).open(std::env::var_os(JOURNAL).unwrap()).unwrap();
    let store = Store::open(&told_dir(), "edge", "n1").unwrap();
    let incarnation = store.identity().incarnation.0;
    let mut tell = move |done: u64| {
        let mut record = vec![b'A'];
        record.extend_from_slice(&done.to_ne_bytes());
        record.extend_from_slice(&incarnation.to_ne_bytes());
        journal.write_all(&record).unwrap();
    };
    tell(from);
    let mut writer = Writer::new(store);
    writer.run(seed, from, from + STEPS, tell).await;
    writer.store.close().await;
}

/// One record of the journal.
enum Asked {
    Write { at: usize, bytes: Vec<u8>, synchronous: bool },
    Returned,
    Synchronised,
    Named,
    NameSynchronised,
    Length(usize),
    Acknowledged { steps: u64, incarnation: u128 },
}

fn read_journal(bytes: &[u8]) -> Vec<Asked> {
    let mut records = Vec::new();
    let mut rest = bytes;
    while let Some((letter, after)) = rest.split_first() {
        let number = |n: usize| u64::from_ne_bytes(after[8 * n..8 * n + 8].try_into().unwrap());
        rest = &after[24..];
        records.push(match letter {
            b'W' => {
                let (bytes, after) = rest.split_at(number(1) as usize);
                rest = after;
                Asked::Write { at: number(0) as usize, bytes: bytes.to_vec(), synchronous: number(2) == 1 }
            }
            b'E' => Asked::Returned,
            b'S' => Asked::Synchronised,
            b'R' => Asked::Named,
            b'D' => Asked::NameSynchronised,
            b'T' => Asked::Length(number(0) as usize),
            b'A' => Asked::Acknowledged {
                steps: number(0),
                incarnation: u128::from_ne_bytes(after[8..24].try_into().unwrap()),
            },
            other => panic!("record {other}"),
        });
    }
    records
}

/// What a crash may leave of a sector: the last version that is surely on disk, and those after it.
type Versions = Vec<[u8; SECTOR]>;

/// The files, with everything that a crash may undo.
#[derive(Default)]
struct Disk {
    sectors: Vec<Versions>,
    /// Length that is surely on disk, and length seen by the process.
    length: (usize, usize),
    /// Sectors of a synchronous write that has not returned.
    returning: Option<std::ops::Range<usize>>,
    /// The identity file: surely there, maybe.
    named: (bool, bool),
    acknowledged: Option<(u64, u128)>,
}

/// How much of what is not sure a crash leaves.
#[derive(Debug, Clone, Copy)]
enum Loss {
    All,
    Nothing,
    Sectors,
    Pages,
    AllButOne,
    One,
}

const LOSSES: [Loss; 6] = [Loss::All, Loss::Nothing, Loss::Sectors, Loss::Pages, Loss::AllButOne, Loss::One];

impl Disk {
    fn note(&mut self, asked: &Asked) {
        match asked {
            Asked::Write { at, bytes, synchronous } => {
                let end = at + bytes.len();
                let touched = at / SECTOR..end.div_ceil(SECTOR);
                self.sectors.resize_with(self.sectors.len().max(touched.end), || vec![[0; SECTOR]]);
                for sector in touched.clone() {
                    let mut version = *self.sectors[sector].last().unwrap();
                    let begin = sector * SECTOR;
                    let (from, to) = ((*at).max(begin), end.min(begin + SECTOR));
                    version[from - begin..to - begin].copy_from_slice(&bytes[from - at..to - at]);
                    self.sectors[sector].push(version);
                }
                self.length.1 = self.length.1.max(end);
                self.returning = synchronous.then_some(touched);
            }
            Asked::Returned => {
                for sector in self.returning.take().into_iter().flatten() {
                    self.settle(sector);
                }
            }
            Asked::Synchronised => {
                (0..self.sectors.len()).for_each(|sector| self.settle(sector));
                self.length.0 = self.length.1;
            }
            Asked::Length(length) => self.length.1 = *length,
            Asked::Named => self.named.1 = true,
            Asked::NameSynchronised => self.named.0 = self.named.1,
            Asked::Acknowledged { steps, incarnation } => self.acknowledged = Some((*steps, *incarnation)),
        }
    }

    fn settle(&mut self, sector: usize) {
        let versions = &mut self.sectors[sector];
        versions.drain(..versions.len() - 1);
    }

    /// The data file as a crash may leave it now.
    fn crash(&self, loss: Loss, dice: &mut Dice) -> Vec<u8> {
        let unsure: Vec<usize> = (0..self.sectors.len()).filter(|n| self.sectors[*n].len() > 1).collect();
        let chosen = unsure.get(dice.below(unsure.len() as u64) as usize).copied();
        let salt = dice.next();
        let mut length = self.length.0;
        let mut image = vec![0; self.length.1.max(self.length.0)];
        for (number, versions) in self.sectors.iter().enumerate() {
            let newest = versions.len() - 1;
            let mut own = Dice::new(salt, (number * SECTOR / PAGE) as u64);
            let kept = match loss {
                Loss::All => 0,
                Loss::Nothing => newest,
                Loss::Sectors => dice.below(versions.len() as u64) as usize,
                Loss::Pages => own.below(versions.len() as u64) as usize,
                Loss::AllButOne if chosen == Some(number) => newest,
                Loss::AllButOne => 0,
                Loss::One if chosen == Some(number) => 0,
                Loss::One => newest,
            };
            let begin = number * SECTOR;
            let end = (begin + SECTOR).min(image.len());
            if begin >= end {
                continue;
            }
            image[begin..end].copy_from_slice(&versions[kept][..end - begin]);
            if kept > 0 {
                length = length.max(end);
            }
        }
        // The length is data of its own: it may be on disk though nothing beyond the old one is.
        if dice.below(2) == 0 {
            length = length.max(self.length.1);
        }
        image.truncate(length);
        image
    }
}

/// Has two writers, one after the other, write a store; gives the journal and the identity file.
fn journal(seed: u64) -> (Vec<Asked>, Vec<u8>) {
    let work = tempfile::tempdir().unwrap();
    let library = work.path().join("journal.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/store/journal.c");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).arg("-ldl");
    assert!(compiler.status().unwrap().success());
    let (dir, log) = (work.path().join("store"), work.path().join("journal"));
    fs::create_dir(&dir).unwrap();
    fs::write(&log, []).unwrap();
    for from in [0, STEPS] {
        let preload = library.to_str().unwrap().to_owned();
        let variables = [
            (SEED, seed.to_string()),
            (FROM, from.to_string()),
            (JOURNAL, log.to_str().unwrap().to_owned()),
            ("LD_PRELOAD", preload),
        ];
        let output = start("power::writer", &dir, &[], &variables).wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    (read_journal(&fs::read(&log).unwrap()), fs::read(dir.join("identity")).unwrap())
}

/// Puts one state of the files in place, opens it, and says what was found; None if it was refused.
struct Trial<'a> {
    dir: &'a Path,
    seed: u64,
    identity: &'a [u8],
}

impl Trial<'_> {
    async fn open(&self, image: &[u8], named: bool) -> Result<Store, String> {
        for entry in fs::read_dir(self.dir).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        if !image.is_empty() {
            fs::write(self.dir.join("data.mdb"), image).unwrap();
        }
        if named {
            fs::write(self.dir.join("identity"), self.identity).unwrap();
        }
        Store::open(self.dir, "edge", "n1").map_err(|error| error.to_string())
    }

    /// Goes on from a state that was found, and finds it again: what is free must really be free.
    async fn go_on(&self, store: Store, steps: u64, before: &Model) {
        let mut writer = Writer::new(store);
        writer.run_from(self.seed, steps, steps + 4, before.clone(), |_| {}).await;
        writer.store.close().await;
        let store = Store::open(self.dir, "edge", "n1").unwrap();
        let mut expected = before.clone();
        for number in steps..steps + 4 {
            expected = expected.after(&expected.step(&mut Dice::new(self.seed, number)));
        }
        assert_eq!(Model::of(&store).await, expected);
        store.close().await;
    }
}

/// What happened to the states tried.
#[derive(Debug, Default)]
struct Tally {
    whole: u64,
    fresh: u64,
    refused: u64,
    went_on: u64,
}

#[tokio::test]
async fn power_loss_at_any_write_loses_nothing_acknowledged() {
    let seed = told(SEED).unwrap_or_else(|| u64::from(std::process::id()));
    let wanted = told("MAINSTAY_TEST_POWER_LOSSES").unwrap_or(3000);
    let (records, identity) = journal(seed);
    let dir = fast_dir();
    let trial = Trial { dir: dir.path(), seed, identity: &identity };
    let each = wanted.div_ceil(records.len() as u64);
    let (mut disk, mut before, mut steps, mut tally) = (Disk::default(), Model::default(), 0, Tally::default());
    let mut dice = Dice::new(seed, u64::MAX);
    for (number, record) in records.iter().enumerate() {
        disk.note(record);
        let acknowledged = disk.acknowledged.map_or(0, |(steps, _)| steps);
        for done in steps..acknowledged {
            before = before.after(&before.step(&mut Dice::new(seed, done)));
        }
        steps = acknowledged;
        for _ in 0..each {
            let loss = LOSSES[dice.below(LOSSES.len() as u64) as usize];
            let image = disk.crash(loss, &mut dice);
            let named = disk.named.0 || (disk.named.1 && dice.below(2) == 0);
            let place = format!("seed {seed}, record {number}, {loss:?}, {steps} steps");
            match (trial.open(&image, named).await, disk.acknowledged) {
                (Ok(store), Some((_, incarnation))) => {
                    assert_eq!(store.identity().incarnation.0, incarnation, "{place}: another store");
                    let (found, step) = (Model::of(&store).await, before.step(&mut Dice::new(seed, steps)));
                    let fits = before.meanwhile(&step).contains(&found);
                    assert!(fits, "{place}, then {step:?}:\n{before:#?}\n{found:#?}");
                    tally.whole += 1;
                    if tally.whole % 16 == 0 {
                        trial.go_on(store, steps, &before).await;
                        tally.went_on += 1;
                    } else {
                        store.close().await;
                    }
                }
                (Ok(store), None) => {
                    assert_eq!(Model::of(&store).await, Model::default(), "{place}");
                    tally.fresh += 1;
                    store.close().await;
                }
                // Nothing was acknowledged yet: an error with its remedy is enough.
                (Err(error), None) => {
                    assert!(error.contains(dir.path().to_str().unwrap()) && error.contains(';'), "{place}: {error}");
                    tally.refused += 1;
                }
                (Err(error), Some(_)) => panic!("{place}: {error}"),
            }
        }
    }
    println!("seed {seed}: {} writes and syncs, states: {tally:?}", records.len());
    assert!(tally.whole > wanted / 2 && tally.went_on > 10, "{tally:?}");
}
