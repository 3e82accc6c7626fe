//! Every input that fuzzing was given or has found, tried again: it must still hold. See `tests/fuzz/src/lib.rs`.
//!
//! `UPDATE_CORPUS=1 cargo nextest run --test corpus` writes the inputs that fuzzing begins with.

#![allow(missing_docs)]

#[path = "fuzz/src/lib.rs"]
#[allow(unreachable_pub)]
mod fuzz;

use std::fs;
use std::path::{Path, PathBuf};

type Property = fn(&[u8]);

const TARGETS: [(&str, Property); 5] = [
    ("frames", fuzz::frames),
    ("records", fuzz::records),
    ("requests", fuzz::requests),
    ("config", fuzz::config),
    ("sentinel", fuzz::sentinel),
];

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target)
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let text = |lines: &[&str]| lines.iter().map(|line| line.as_bytes().to_vec()).collect();
    let file = |name: &str| fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).expect("it is read");
    match target {
        "frames" => fuzz::frame_seeds(),
        "records" => fuzz::record_seeds(),
        "sentinel" => fuzz::sentinel_seeds(),
        "requests" => text(&[
            "{\"ask\":\"status\"}\n",
            "{\"ask\":\"members\"}\n",
            "{\"ask\":\"switchover\",\"group\":\"g\",\"to\":\"n2\"}\n",
            "{\"ask\":\"fence_here\"}\n{\"ask\":\"leave\",\"node\":\"n3\"}\n",
            "{\"ask\":\"pause\",\"group\":null,\"length_ms\":60000,\"reason\":\"new disks\"}\n",
            "{\"ask\":\"resume\",\"group\":\"g\"}\n",
            "{\"answer\":\"done\",\"done\":\"said\",\"text\":\"n3 has left the cluster\"}\n",
        ]),
        _ => {
            let readme = String::from_utf8(file("README.md")).expect("text");
            let example = readme.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a block");
            vec![file("tests/config/base.toml"), example.as_bytes().to_vec()]
        }
    }
}

#[test]
fn every_file_of_the_corpus_holds() {
    for (target, property) in TARGETS {
        let folder = corpus(target);
        if std::env::var_os("UPDATE_CORPUS").is_some() {
            fs::create_dir_all(&folder).expect("the folder is made");
            for (number, seed) in seeds(target).into_iter().enumerate() {
                fs::write(folder.join(format!("seed-{number:02}")), seed).expect("it is written");
            }
        }
        let mut tried = 0;
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.expect("it is listed").path();
            // A panic does not say which input it was.
            println!("{}", path.display());
            fuzz::bounded(property, &fs::read(&path).expect("it is read"));
            tried += 1;
        }
        assert!(tried >= seeds(target).len(), "{target}: only {tried} inputs");
    }
}
