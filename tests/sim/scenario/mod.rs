//! Golden scenarios: stories of `scenarios/*.txt`, told to the real core in the simulated world without any chance.
//!
//! The part of a file above `-- outcome --` is the input, in words; the part below is what the core makes of it, byte for
//! byte. Every invariant is checked while a story runs. `MAINSTAY_SIM_BLESS=1` writes the outcomes anew, to be read before
//! they are committed; `MAINSTAY_SIM_SCENARIO=name` runs one and prints the trace of its core.

mod client;
mod finish;
mod parse;
mod play;
mod tale;
mod words;

use crate::runs::batch;
use parse::{MARK, Story};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

const COMMAND: &str = "cargo nextest run --manifest-path tests/sim/Cargo.toml --target-dir target/simulator scenario";

fn folder() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let own = root.join("scenarios");
    if own.is_dir() { own } else { root.join("tests/sim/scenarios") }
}

fn files() -> Vec<PathBuf> {
    let only = std::env::var("MAINSTAY_SIM_SCENARIO").ok();
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder())
        .expect("the folder of scenarios can be read")
        .map(|entry| entry.expect("its entries can be read").path())
        .filter(|path| only.as_ref().is_none_or(|only| path.file_stem().is_some_and(|stem| stem == only.as_str())))
        .collect();
    files.sort();
    files
}

/// Tells one story again; what differs, or why it cannot be told.
fn retell(path: &Path, bless: bool) -> Result<(), String> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let text = std::fs::read_to_string(path).map_err(|error| format!("{name}: {error}"))?;
    let story = Story::read(&text).map_err(|fault| format!("scenarios/{name}:{fault}"))?;
    let outcome = play::play(&story).map_err(|why| format!("scenarios/{name}: {why}"))?;
    let (input, golden) = text.split_once(&format!("{MARK}\n")).unwrap_or((&text, ""));
    if golden == outcome {
        return Ok(());
    }
    if bless {
        let whole = format!("{}\n\n{MARK}\n{outcome}", input.trim_end());
        println!("{name}: written anew");
        return std::fs::write(path, whole).map_err(|error| format!("{name}: {error}"));
    }
    let stem = name.trim_end_matches(".txt");
    let lines = diff(golden, &outcome);
    Err(format!(
        "scenarios/{name}: the outcome is another one ('-' in the file, '+' now)\n{lines}\nif it is better: MAINSTAY_SIM_BLESS=1 MAINSTAY_SIM_SCENARIO={stem} {COMMAND}"
    ))
}

#[test]
fn scenarios_turn_out_as_written() {
    let bless = std::env::var_os("MAINSTAY_SIM_BLESS").is_some();
    assert!(!bless || !crate::ci::is_ci(), "outcomes are written anew by people, not under CI");
    let files = files();
    assert!(files.len() >= 20 || std::env::var_os("MAINSTAY_SIM_SCENARIO").is_some(), "only {} scenarios", files.len());
    let faults: Mutex<Vec<String>> = Mutex::new(Vec::new());
    batch(
        |index| index < files.len() as u64,
        |index| {
            let path = &files[usize::try_from(index).unwrap_or(0)];
            if let Err(fault) = retell(path, bless) {
                faults.lock().unwrap_or_else(PoisonError::into_inner).push(fault);
            }
            None
        },
    );
    let faults = faults.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert!(faults.is_empty(), "\n{}", faults.join("\n\n"));
    println!("{} scenarios turned out as written", files.len());
}

/// The lines that differ, each with a few around it.
fn diff(old: &str, new: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    // Longest common rest, by position.
    let mut common = vec![vec![0usize; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            let both = common[i + 1][j + 1] + 1;
            common[i][j] = if old[i] == new[j] { both } else { common[i + 1][j].max(common[i][j + 1]) };
        }
    }
    let mut marked: Vec<(char, &str)> = Vec::new();
    let (mut i, mut j) = (0, 0);
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            marked.push((' ', old[i]));
            (i, j) = (i + 1, j + 1);
        } else if j >= new.len() || (i < old.len() && common[i + 1][j] >= common[i][j + 1]) {
            marked.push(('-', old[i]));
            i += 1;
        } else {
            marked.push(('+', new[j]));
            j += 1;
        }
    }
    let near =
        |at: usize| marked[at.saturating_sub(2)..(at + 3).min(marked.len())].iter().any(|(mark, _)| *mark != ' ');
    let mut out = String::new();
    for (at, (mark, line)) in marked.iter().enumerate().filter(|(at, _)| near(*at)) {
        if at > 0 && !near(at - 1) {
            out.push_str("  ...\n");
        }
        let _ = writeln!(out, "{mark} {line}");
    }
    out
}

#[test]
fn a_difference_is_shown_by_its_lines() {
    let old = "a\nb\nc\nd\ne\nf\n";
    assert_eq!(diff(old, old), "");
    assert_eq!(diff(old, "a\nb\nc\nd\nE\nf\n"), "  ...\n  c\n  d\n- e\n+ E\n  f\n");
    assert_eq!(diff("", "a\n"), "+ a\n");
}
