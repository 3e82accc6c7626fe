//! The documents say what the code does: the table of settings in README.md is the one the config reader refuses by,
//! its example is a config the reader takes, and every file and command the documents name is there.
//!
//! `UPDATE_README=1 cargo nextest run --test docs` rewrites the table.

#![allow(missing_docs)]

use std::path::Path;

const BEGIN: &str = "<!-- settings: written by tests/docs.rs -->\n";
const END: &str = "<!-- end of settings -->";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn the_readme_has_the_readers_own_table_of_settings() {
    let text = read("README.md");
    let (before, rest) = text.split_once(BEGIN).expect("README.md marks where the settings begin");
    let (table, after) = rest.split_once(END).expect("README.md marks where the settings end");
    let wanted = mainstay::config::reference_markdown();
    if std::env::var_os("UPDATE_README").is_some() {
        std::fs::write(root().join("README.md"), format!("{before}{BEGIN}{wanted}{END}{after}"))
            .expect("it is written");
    } else {
        assert_eq!(table, wanted, "UPDATE_README=1 cargo nextest run --test docs rewrites it");
    }
}

#[test]
fn the_message_catalog_is_the_programs_own() {
    const CATALOG: &str = "systemd/mainstay.catalog";
    let wanted = mainstay::ctl::catalog::render();
    if std::env::var_os("UPDATE_CATALOG").is_some() {
        std::fs::write(root().join(CATALOG), wanted).expect("it is written");
    } else {
        assert_eq!(read(CATALOG), wanted, "UPDATE_CATALOG=1 cargo nextest run --test docs rewrites it");
    }
}

/// Every id that the source logs by is in the catalog, and every one of the catalog is logged by.
#[test]
fn every_event_that_is_logged_is_in_the_catalog() {
    let mut source = String::new();
    let mut folders = vec![root().join("src/agent")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => folders.push(path),
                false => source.push_str(&std::fs::read_to_string(path).expect("a source file")),
            }
        }
    }
    let catalog = read("src/ctl/catalog.rs");
    let names: Vec<&str> = catalog
        .lines()
        .filter_map(|line| line.strip_prefix("pub const ")?.split_once(": &str").map(|(name, _)| name))
        .collect();
    assert_eq!(names.len(), mainstay::ctl::catalog::CATALOG.len());
    for name in names {
        assert!(source.contains(name), "{name} is never logged");
    }
    for (at, _) in source.match_indices("message_id = ") {
        let value: String = source[at + 13..].chars().take_while(|c| !matches!(c, ',' | ')')).collect();
        assert!(!value.contains('"'), "message_id = {value}: ids are named in the catalog");
    }
}

/// The first block between fences of `kind`.
fn block(text: &str, kind: &str) -> String {
    let open = format!("```{kind}\n");
    let (_, rest) = text.split_once(&open).unwrap_or_else(|| panic!("no block of {kind}"));
    rest.split_once("```").expect("the block ends").0.to_owned()
}

#[test]
fn the_readmes_example_is_a_config_that_the_reader_takes() {
    let example = block(&read("README.md"), "toml");
    let (config, warnings) = mainstay::config::parse(&example, "README.md").expect("the example is accepted");
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(config.groups.len(), 1);
}

#[test]
fn every_file_that_a_document_names_is_there() {
    let mut named = 0;
    let packaged = ["packaging/docs/clients.md", "packaging/docs/from-sentinel.md"];
    for document in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"].into_iter().chain(packaged) {
        for word in read(document).split(|letter: char| letter.is_whitespace() || "`(),:;|".contains(letter)) {
            let word = word.trim_end_matches('.');
            let below =
                ["tests/", "src/", "packaging/", ".config/", ".ci/"].iter().any(|folder| word.starts_with(folder));
            let end = Path::new(word).extension().and_then(|end| end.to_str());
            if below || (!word.contains('/') && matches!(end, Some("md" | "sh"))) {
                named += 1;
                assert!(root().join(word).exists(), "{document} names {word}, which is not there");
            }
        }
    }
    assert!(named > 8, "only {named} files are named: is this test looking at the documents?");
}

/// Each sample is a config of a node that its own list of members has, and is warned of nothing but what is not built.
#[test]
fn the_samples_are_configs_that_the_reader_takes() {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root().join("packaging/examples")).expect("the samples") {
        let path = entry.expect("a sample").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).expect("a text");
        assert!(text.starts_with("# "), "{name} says what it is for");
        let (config, warnings) = mainstay::config::parse(&text, &name).unwrap_or_else(|faults| panic!("{faults}"));
        assert!(warnings.is_empty(), "{name}: {warnings:?}");
        assert_eq!(config.groups.is_empty(), name == "witness.toml", "{name}");
        names.push(name);
    }
    names.sort();
    let all = ["ipv6", "pair", "sentinel-only", "trio", "two-groups", "witness"].map(|name| format!("{name}.toml"));
    assert_eq!(names, all);
}
