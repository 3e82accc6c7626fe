//! What an operator sees, held against files that a person has read. `BLESS=1` writes them anew.

use super::fixture::{self, Fixture};
use crate::cluster::{Epoch, GroupName};
use crate::ctl::protocol::{Done, GroupDone, MembersReport, Switched};
use crate::ctl::render::{self, Style};
use std::path::Path;

fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ctl/tests/golden").join(format!("{name}.txt"));
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, text).expect("the golden file can be written");
    }
    let wanted = std::fs::read_to_string(&path).expect("the golden file is there; BLESS=1 writes it");
    assert!(wanted == text, "{name} differs from {}:\n{text}", path.display());
}

fn shown(name: &str, fixture: &Fixture) {
    golden(name, &render::status(&fixture.report(), Style::default()));
}

#[test]
fn healthy_trio() {
    shown("healthy", &fixture::trio());
}

#[test]
fn no_primary() {
    shown("no_primary", &fixture::no_primary());
}

#[test]
fn learner() {
    shown("learner", &fixture::learner());
}

#[test]
fn witness() {
    shown("witness", &fixture::witness());
}

#[test]
fn paused() {
    shown("paused", &fixture::paused());
}

#[test]
fn node_down() {
    shown("node_down", &fixture::node_down());
}

#[test]
fn no_quorum() {
    let mut fixture = fixture::trio();
    fixture.view.leadership.leading = false;
    fixture.raft.leader = None;
    fixture.silent(2, std::time::Duration::from_secs(75));
    fixture.silent(3, std::time::Duration::from_secs(75));
    shown("no_quorum", &fixture);
}

#[test]
fn members() {
    let report = fixture::learner().report();
    let members = MembersReport { leader: report.leader, term: report.term, nodes: report.nodes };
    golden("members", &render::members(&members));
}

#[test]
fn outcomes_say_what_clients_felt() {
    let mut switched = Switched {
        group: GroupName::from("mymaster"),
        from: "n1".to_owned(),
        to: "n2".to_owned(),
        epoch: Epoch(4),
        unserved_ms: Some(84),
        note: String::new(),
    };
    let said = |switched: &Switched| render::done(&Done::Switched(switched.clone()));
    assert_eq!(said(&switched), "mymaster: n1 -> n2 at epoch 4; clients were unserved for at most 84 ms\n");
    switched.unserved_ms = None;
    assert!(said(&switched).contains("could not be measured"));
    switched.to = "n1".to_owned();
    switched.note = "n2 did not reach the frozen offset in time".to_owned();
    let back = said(&switched);
    assert!(back.starts_with("mymaster: not handed over, n1 serves again at epoch 4"), "{back}");
    assert!(back.ends_with("\n  n2 did not reach the frozen offset in time\n"), "{back}");
}

#[test]
fn nothing_that_was_typed_or_received_draws_on_the_terminal() {
    let mut fixture = fixture::paused();
    fixture.group(|group| {
        let pause = group.pause.as_mut().expect("the fixture is paused");
        pause.reason = "oops \u{1b}[2J\nGROUP forged: primary n9".to_owned();
    });
    fixture.health(2, |health| health.reason = "a\r\nb\u{7}".to_owned());
    let text = render::status(&fixture.report(), Style::default());
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
    assert!(!text.contains("\nGROUP forged"), "{text}");
    assert!(text.contains("a; b"), "{text}");
    let done = [GroupDone { group: GroupName::from("g"), text: "one\ntwo".to_owned() }];
    assert_eq!(render::group_lines(&done), "g: one; two\n");
}

#[test]
fn colour_is_laid_over_the_same_text() {
    let report = fixture::no_primary().report();
    let (plain, painted) = (render::status(&report, Style::default()), render::status(&report, Style { colour: true }));
    assert!(painted.contains("\u{1b}[1;31mGROUP mymaster: NO PRIMARY"), "{painted:?}");
    let mut bare = painted;
    for code in ["1;31", "1;33", "1;32", "33", "1", "0"] {
        bare = bare.replace(&format!("\u{1b}[{code}m"), "");
    }
    assert_eq!(bare, plain);
}
