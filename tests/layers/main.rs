//! Holds the code to the shape that ARCHITECTURE.md draws: imports point down, siblings import each other only where
//! the table says so, the core knows nothing of the outside world, and no file or function outgrows its reader.
//!
//! The checker itself is tried on a tree made up here, in which every rule is broken once.

#![allow(missing_docs, unreachable_pub)]

mod lex;
mod rules;

use rules::{FILE_LINES, FUNCTION_LINES, Fault, TABLE, check};
use std::collections::BTreeMap;
use std::path::Path;

fn src() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))
}

#[test]
fn the_code_keeps_to_the_layers() {
    let (found, files) = check(src());
    assert!(files > 30, "only {files} files were read: is this the source?");
    let list: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert!(list.is_empty(), "{} faults:\nsrc/{}", list.len(), list.join("\nsrc/"));
}

#[test]
fn the_table_says_of_every_layer_only_what_lies_below_or_beside_it() {
    let layers: BTreeMap<&str, u8> = TABLE.iter().map(|(name, layer, _)| (*name, *layer)).collect();
    for (name, layer, listed) in TABLE {
        for other in listed.unwrap_or_default() {
            assert!(layers[other] <= *layer, "{name} may import {other}, which lies above it");
            assert_ne!(name, other);
        }
    }
}

#[test]
fn the_architecture_shows_the_same_table() {
    let text = include_str!("../../ARCHITECTURE.md");
    for (name, layer, listed) in TABLE {
        let (Some(listed), false) = (listed, matches!(*name, "main" | "lib")) else { continue };
        let imports = if listed.is_empty() { "nothing".to_string() } else { listed.join(", ") };
        let row = text.lines().find(|line| line.starts_with(&format!("| {layer} | `{name}`")));
        let row = row.unwrap_or_else(|| panic!("ARCHITECTURE.md has no row for layer {layer}, `{name}`"));
        assert!(row.ends_with(&format!("| {imports} |")), "ARCHITECTURE.md on `{name}`: {row}\nthe table: {imports}");
    }
}

/// What counts as CI, and so what may be skipped, is one rule for all tests.
#[test]
fn no_test_has_a_rule_of_its_own_for_ci() {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("tests"), src().to_owned()];
    let (asks, mut own, mut read) = (concat!("\"C", "I\""), Vec::new(), 0);
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).expect("a folder").flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                read += 1;
                let text = std::fs::read_to_string(&path).expect("a source file");
                own.extend(text.contains(asks).then(|| path.display().to_string()));
            }
        }
    }
    assert!(read > 200, "only {read} files were read: are these the sources?");
    assert_eq!(own.len(), 1, "only tests/ci asks for the variable: {own:?}");
    assert!(own[0].ends_with("tests/ci/mod.rs"), "{own:?}");
}

/// Writes `files` below a new folder and returns what the checker says of them.
fn faults(files: &[(&str, &str)]) -> Vec<(String, usize, Fault)> {
    let folder = tempfile::tempdir().expect("a folder can be made");
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("it has a folder")).expect("a folder can be made");
        std::fs::write(path, text).expect("a file can be written");
    }
    let (found, read) = check(folder.path());
    assert_eq!(read, files.len());
    found.into_iter().map(|found| (found.file.display().to_string(), found.line, found.fault)).collect()
}

fn import(from: &str, to: &str) -> Fault {
    Fault::Import { from: from.into(), to: to.into() }
}

#[test]
fn an_import_that_points_up_or_sideways_is_found() {
    let found = faults(&[
        ("cluster/mod.rs", "mod state;\nuse crate::view::View;\n"),
        ("view.rs", "use crate::{cluster::{Epoch, NodeId}, decide};\n"),
        ("redis/posture.rs", "fn seal() {\n    super::super::vip::drop();\n    super::info::read();\n}\n"),
        (
            "http.rs",
            "use crate::cluster::State;\n\n#[cfg(test)]\nmod tests {\n    use super::super::agent::Agent;\n}\n",
        ),
        ("agent/mod.rs", "use crate::{config::Config, ctl, store::Store};\nuse mainstay::cluster;\n"),
        ("main.rs", "use mainstay::agent;\n"),
    ]);
    assert_eq!(
        found,
        [
            ("cluster/mod.rs".into(), 2, import("cluster", "view")),
            ("http.rs".into(), 5, import("http", "agent")),
            ("redis/posture.rs".into(), 2, import("redis", "vip")),
            ("view.rs".into(), 1, import("view", "decide")),
        ]
    );
}

#[test]
fn words_in_comments_and_strings_and_names_of_its_own_are_no_imports() {
    let found = faults(&[
        (
            "cluster.rs",
            "//! See [`crate::agent`].\n/* crate::agent /* nested */ tokio */\nconst A: &str = \"crate::agent\";\n\
             const B: &str = r#\"tokio \" HashMap\"#;\nconst C: char = '\"';\npub(super) fn f<'a>(x: &'a str) -> &'a str { x }\n\
             macro_rules! m { () => { $crate::cluster::A }; }\n",
        ),
        ("vip.rs", "mod parts { pub(super) fn agent() {} pub(super) mod view {} }\nuse self::parts::agent;\n"),
        ("wire/log.rs", "use super::super::wire::frame;\nfn f(process: u8) { let net = process; g(net) }\n"),
    ]);
    assert_eq!(found, []);
}

#[test]
fn the_outside_world_in_the_core_is_found() {
    let outside = |module: &str, word: &str| Fault::Outside { module: module.into(), word: word.into() };
    let found = faults(&[
        ("cluster.rs", "use std::collections::{BTreeMap, HashMap};\nuse std::time::Instant;\n"),
        (
            "decide/mod.rs",
            "async fn f() {}\nfn g() {\n    println!();\n    let e = std::env::var(\"X\");\n    tracing::info!(\"\");\n}\n\
             #[cfg(test)]\nmod tests {\n    use std::collections::HashSet;\n}\n",
        ),
        ("view/fold.rs", "use std::{env, fs::File};\nfn log(process: u8) { rand::random() }\n"),
        ("view/tests.rs", "use std::time::Instant;\n"),
        ("wire.rs", "use std::time::Instant;\n"),
    ]);
    assert_eq!(
        found,
        [
            ("cluster.rs".into(), 1, outside("cluster", "HashMap")),
            ("cluster.rs".into(), 2, outside("cluster", "Instant")),
            ("decide/mod.rs".into(), 1, outside("decide", "async")),
            ("decide/mod.rs".into(), 3, outside("decide", "println")),
            ("decide/mod.rs".into(), 4, outside("decide", "env")),
            ("decide/mod.rs".into(), 5, outside("decide", "tracing")),
            ("view/fold.rs".into(), 1, outside("view", "env")),
            ("view/fold.rs".into(), 1, outside("view", "fs")),
            ("view/fold.rs".into(), 2, outside("view", "rand")),
        ]
    );
}

#[test]
fn what_is_too_long_or_unknown_is_found() {
    let function = |lines: usize| format!("fn f() -> [u8; 2] {{\n{}}}\n", "    g();\n".repeat(lines - 2));
    let filler = |lines: usize| "// a line\n".repeat(lines);
    let found = faults(&[
        ("ctl/brief.rs", &function(FUNCTION_LINES)),
        ("ctl/long.rs", &format!("trait T {{ fn a(&self); }}\n{}", function(FUNCTION_LINES + 1))),
        ("raft/brief.rs", &filler(FILE_LINES)),
        ("raft/long.rs", &filler(FILE_LINES + 1)),
        ("stray.rs", ""),
    ]);
    assert_eq!(
        found,
        [
            ("ctl/long.rs".into(), 2, Fault::LongFunction { name: "f".into(), lines: FUNCTION_LINES + 1 }),
            ("raft/long.rs".into(), FILE_LINES + 1, Fault::LongFile { lines: FILE_LINES + 1 }),
            ("stray.rs".into(), 1, Fault::Unlisted("stray".into())),
        ]
    );
}
