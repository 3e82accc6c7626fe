//! What sentinel.conf files become, case by case, with what is said beside them; and that nothing panics.

use proptest::prelude::*;

use super::*;

const CASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/config/sentinel.txt");
const NAME: &str = "sentinel.conf";

/// What an operator sees: the config, a line of dashes, the notes; or what is wrong.
fn seen(text: &str, own: Option<&Host>) -> String {
    match import_sentinel(text, NAME, own) {
        Ok(imported) => {
            let notes: Vec<String> = imported.notes.iter().map(|note| note.shown(NAME).to_string()).collect();
            format!("{}---\n{}", imported.config, notes.join("\n"))
        }
        Err(error) => error.to_string(),
    }
}

#[test]
fn every_file_becomes_what_is_written_beside_it() {
    let bless = std::env::var_os("BLESS").is_some();
    let golden = std::fs::read_to_string(CASES).unwrap();
    let (preface, cases) = golden.split_once("\n### ").unwrap();
    let mut renewed = preface.to_owned();
    let mut count = 0;
    for case in cases.split("\n### ") {
        let (input, expected) = case.split_once("\n=>\n").unwrap();
        let (title, lines) = input.split_once('\n').unwrap_or((input, ""));
        let own = lines.lines().find_map(|line| line.strip_prefix("@ ")).map(|own| own.parse().unwrap());
        let lines: Vec<&str> = lines.lines().filter_map(|line| line.strip_prefix('|')).collect();
        let text: Vec<&str> = lines.iter().map(|line| line.strip_prefix(' ').unwrap_or(line)).collect();
        let said = seen(&text.join("\n"), own.as_ref());
        assert!(said.is_ascii(), "{title}: not ASCII\n{said}");
        assert!(!said.contains("hunter2"), "{title}: shows a secret\n{said}");
        if !bless {
            assert_eq!(said, expected.trim_end(), "{title}");
        }
        renewed.push_str(&format!("\n### {input}\n=>\n{said}\n"));
        count += 1;
    }
    assert!(count >= 30, "{count} cases read");
    if bless {
        std::fs::write(CASES, renewed).unwrap();
    }
}

#[test]
fn every_host_of_a_group_gives_its_nodes_the_same_names() {
    let hosts = ["10.0.0.9", "10.0.0.10", "10.0.0.11"];
    let members = hosts.map(|own| {
        let others: String = hosts
            .iter()
            .filter(|host| **host != own)
            .map(|host| format!("sentinel known-sentinel m {host} 26379 {:040}\n", 0))
            .collect();
        let text = format!("sentinel announce-ip {own}\nsentinel monitor m 10.0.0.9 6379 2\n{others}");
        let imported = import_sentinel(&text, NAME, None).unwrap();
        let (config, _) = super::super::parse(&imported.config, NAME).unwrap();
        assert_eq!(config.node.address.to_string(), format!("{own}:7400"));
        config.cluster.start
    });
    assert!(members.iter().all(|start| *start == members[0]), "{members:?}");
}

#[test]
fn words_are_split_as_redis_splits_them() {
    let words = |line: &str| read::split(line).unwrap();
    assert_eq!(words(r#"a "b c" 'd e' "f\"g\x41\n" ''"#), ["a", "b c", "d e", "f\"gA\n", ""]);
    assert_eq!(words(r"'it\'s' a\b"), ["it's", r"a\b"]);
    assert_eq!(words("  \t "), Vec::<String>::new());
    assert_eq!(read::split("\"open"), Err(read::Unquoted::Open));
    assert_eq!(read::split("\"open\\"), Err(read::Unquoted::Open));
    assert_eq!(read::split("\"a\"b"), Err(read::Unquoted::Glued));
}

#[test]
fn files_that_cannot_be_read_say_so_with_their_code() {
    let dir = tempfile::tempdir().unwrap();
    let missing = import_sentinel_file(&dir.path().join("none.conf"), None).unwrap_err();
    assert_eq!(missing.exit_code(), 66);
    let directory = import_sentinel_file(dir.path(), None).unwrap_err();
    assert_eq!(directory.exit_code(), 66);
    let file = dir.path().join("sentinel.conf");
    std::fs::write(&file, [b's', 0xff]).unwrap();
    assert!(import_sentinel_file(&file, None).unwrap_err().to_string().ends_with("is not UTF-8"));
    std::fs::write(&file, vec![b'#'; MAX_FILE as usize + 1]).unwrap();
    assert_eq!(import_sentinel_file(&file, None).unwrap_err().exit_code(), 65);
    std::fs::write(&file, "sentinel monitor m 10.0.0.1 6379 2\nsentinel announce-ip 10.0.0.1\n").unwrap();
    assert!(import_sentinel_file(&file, None).unwrap().config.contains("announce = \"10.0.0.1:6379\""));
}

proptest! {
    /// Whatever stands in the file: an error or a config that the reader takes, and never a panic.
    #[test]
    fn nothing_panics(lines in proptest::collection::vec(
        (prop_oneof![
            Just("sentinel monitor "), Just("sentinel auth-pass "), Just("sentinel auth-user "), Just("port "), Just("bind "),
            Just("sentinel announce-ip "), Just("sentinel known-replica "), Just("sentinel known-sentinel "), Just(""),
            Just("sentinel "), Just("sentinel down-after-milliseconds "), Just("requirepass "),
        ], proptest::collection::vec(
            prop_oneof![
                Just("m".to_owned()), Just("10.0.0.1".to_owned()), Just("10.0.0.2".to_owned()), Just("6379".to_owned()),
                Just("::1".to_owned()), Just("\"".to_owned()), Just("host.example".to_owned()), "\\PC{0,6}",
            ], 0..6)),
        0..12,
    )) {
        let text: String = lines.iter().map(|(start, words)| format!("{start}{}\n", words.join(" "))).collect();
        if let Ok(imported) = import_sentinel(&text, NAME, None) {
            prop_assert!(super::super::parse(&imported.config, NAME).is_ok());
        }
    }
}
