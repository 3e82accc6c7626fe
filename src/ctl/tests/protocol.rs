//! Requests and answers survive the line; what is not understood in full is refused.

use super::fixture;
use crate::cluster::{Epoch, GroupName};
use crate::ctl::exit::{Code, Failure};
use crate::ctl::protocol::{
    Done, GroupDone, GroupHistory, MAX_RESPONSE, MembersReport, RefusalKind, Refused, Request, Response, Switched,
    to_line,
};
use proptest::prelude::*;
use std::time::Duration;

fn requests() -> impl Strategy<Value = Request> {
    let group = || proptest::option::of(".{0,20}".prop_map(GroupName));
    prop_oneof![
        Just(Request::Status {}),
        Just(Request::Members {}),
        Just(Request::FenceHere {}),
        (group(), proptest::option::of(".{0,20}")).prop_map(|(group, to)| Request::Switchover { group, to }),
        ".{0,20}".prop_map(|node| Request::Leave { node }),
        (group(), proptest::option::of(0u64..=u64::MAX / 2), ".{0,40}").prop_map(|(group, ms, reason)| {
            Request::Pause { group, length: ms.map(Duration::from_millis), reason }
        }),
        group().prop_map(|group| Request::Resume { group }),
        group().prop_map(|group| Request::History { group }),
        (group(), proptest::option::of(".{0,20}")).prop_map(|(group, unit)| Request::Release { group, unit }),
    ]
}

proptest! {
    #[test]
    fn a_request_is_one_line_and_comes_back_the_same(request in requests()) {
        let line = to_line(&request).expect("it is JSON");
        prop_assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        prop_assert_eq!(serde_json::from_slice::<Request>(&line).expect("it is read"), request);
    }

    #[test]
    fn nonsense_is_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(serde_json::from_slice::<Request>(&bytes).is_err());
        prop_assert!(serde_json::from_slice::<Response>(&bytes).is_err());
    }
}

#[test]
fn the_words_on_the_wire_stay_what_they_are() {
    let line = |request: &Request| String::from_utf8(to_line(request).expect("it is JSON")).expect("it is text");
    assert_eq!(line(&Request::Status {}), "{\"ask\":\"status\"}\n");
    let pause = Request::Pause { group: None, length: Some(Duration::from_secs(600)), reason: "why".to_owned() };
    assert_eq!(line(&pause), "{\"ask\":\"pause\",\"group\":null,\"length_ms\":600000,\"reason\":\"why\"}\n");
}

#[test]
fn a_request_with_a_key_too_many_is_not_half_obeyed() {
    let read = |text: &str| serde_json::from_str::<Request>(text);
    assert!(read(r#"{"ask":"switchover","group":null,"to":"n2"}"#).is_ok());
    assert!(read(r#"{"ask":"switchover","group":null,"to":"n2","only_if_idle":true}"#).is_err());
    assert!(read(r#"{"ask":"status","fast":true}"#).is_err());
    assert!(read(r#"{"ask":"explode"}"#).is_err());
}

#[test]
fn answers_come_back_the_same() {
    let switched = Switched {
        group: GroupName::from("g"),
        from: "n1".to_owned(),
        to: "n2".to_owned(),
        epoch: Epoch(4),
        unserved_ms: Some(84),
        note: String::new(),
    };
    let report = fixture::learner().report();
    let changes: Vec<_> = report.groups.iter().flat_map(|group| group.changes.clone()).collect();
    assert!(!changes.is_empty(), "the fixture has a history");
    let members = MembersReport { leader: None, term: 3, nodes: report.nodes.clone() };
    let groups = vec![GroupDone { group: GroupName::from("g"), text: "sealed".to_owned() }];
    let answers = [
        Response::Status(Box::new(report)),
        Response::Members(members),
        Response::History { groups: vec![GroupHistory { group: GroupName::from("g"), changes }] },
        Response::said("done"),
        Response::Done(Done::Switched(switched)),
        Response::Done(Done::Fenced { groups }),
        Response::refused(RefusalKind::NotNow, "no quorum", "wait"),
    ];
    for answer in answers {
        let line = to_line(&answer).expect("it is JSON");
        assert!(line.len() < MAX_RESPONSE);
        assert_eq!(serde_json::from_slice::<Response>(&line).expect("it is read"), answer);
    }
}

#[test]
fn refusals_have_their_exit_codes() {
    let code = |kind| Failure::from(Refused { kind, why: "w".to_owned(), remedy: "r".to_owned() }).code;
    assert_eq!(code(RefusalKind::Wrong), Code::DataErr as u8);
    assert_eq!(code(RefusalKind::NotNow), 75);
    assert_eq!(code(RefusalKind::Unfinished), 75);
    assert_eq!(code(RefusalKind::Internal), 70);
}
