//! Frames against what was meant, and against the redis crate's parser.

use super::*;
use ::redis::{Value as Theirs, parse_redis_value};
use bytes::BytesMut;
use proptest::prelude::*;

const LIMITS: Limits = Limits { arguments: 8, argument: 64, total: 256 };

/// As clients write it.
fn multibulk(words: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// All requests of a stream that arrives in pieces of these lengths, in turn.
fn decoded(bytes: &[u8], pieces: &[usize]) -> Result<Vec<Request>, Nonsense> {
    let (mut decoder, mut input, mut requests) = (Decoder::default(), BytesMut::new(), Vec::new());
    let (mut rest, mut pieces) = (bytes, pieces.iter().cycle());
    while !rest.is_empty() {
        let length = pieces.next().map_or(rest.len(), |length| (*length).clamp(1, rest.len()));
        input.extend_from_slice(&rest[..length]);
        rest = &rest[length..];
        while let Some(request) = decoder.next(&mut input, &LIMITS)? {
            requests.push(request);
        }
        assert!(input.len() <= LIMITS.total.max(LIMITS.argument) + 64, "it holds {}", input.len());
    }
    Ok(requests)
}

fn one(bytes: &[u8]) -> Result<Vec<Request>, Nonsense> {
    decoded(bytes, &[])
}

fn words(words: &[&str]) -> Request {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}

#[test]
fn lines_are_requests_too() {
    let cases: [(&[u8], &[&str]); 8] = [
        (b"PING\r\n", &["PING"]),
        (b"PING\n", &["PING"]),
        (b"  SENTINEL  masters \r\n", &["SENTINEL", "masters"]),
        (b"echo \"a b\" 'c d'\r\n", &["echo", "a b", "c d"]),
        (b"echo \"\\x41\\n\\\"\\q\"\r\n", &["echo", "A\n\"q"]),
        (b"echo 'it\\'s \\n'\r\n", &["echo", "it's \\n"]),
        (b"echo a\"b\"\r\n", &["echo", "ab"]),
        (b"echo \"\"\r\n", &["echo", ""]),
    ];
    for (line, meant) in cases {
        assert_eq!(one(line), Ok(vec![words(meant)]), "{}", String::from_utf8_lossy(line));
    }
    for wrong in [&b"echo \"a\r\n"[..], b"echo 'a\r\n", b"echo \"a\"b\r\n"] {
        assert_eq!(one(wrong), Err(Nonsense::Quotes), "{}", String::from_utf8_lossy(wrong));
    }
}

#[test]
fn nothing_is_asked_by_nothing() {
    for bytes in [&b"\r\n\r\n"[..], b"*0\r\n", b"*-1\r\n", b"   \n", b"*1\r\n$4\r\nPIN"] {
        assert_eq!(one(bytes), Ok(Vec::new()), "{}", String::from_utf8_lossy(bytes));
    }
    assert_eq!(one(b"\r\n*0\r\n*1\r\n$4\r\nPING\r\n"), Ok(vec![words(&["PING"])]));
}

#[test]
fn what_exceeds_the_limits_is_refused_as_redis_does() {
    let long = vec![b'a'; LIMITS.total + 1];
    let many: Vec<Vec<u8>> = (0..5).map(|_| vec![b'a'; 60]).collect();
    let cases: [(&[u8], Nonsense); 12] = [
        (b"*9\r\n", Nonsense::Count),
        (b"*a\r\n", Nonsense::Count),
        (b"*99999999999999999999\r\n", Nonsense::Count),
        (b"*1\r\n$65\r\n", Nonsense::Length),
        (b"*1\r\n$-1\r\n", Nonsense::Length),
        (b"*1\r\n$+3\r\n", Nonsense::Length),
        (b"*1\r\nPING\r\n", Nonsense::NoLength(b'P')),
        (b"*1\r\n*1\r\n$4\r\nPING\r\n", Nonsense::NoLength(b'*')),
        (b"*111111111111111111111111111111111111", Nonsense::LongNumber),
        (&long, Nonsense::LongLine),
        (b"a b c d e f g h i\r\n", Nonsense::Count),
        (&multibulk(&many), Nonsense::Large),
    ];
    for (bytes, fault) in cases {
        assert_eq!(one(bytes), Err(fault.clone()), "{}", String::from_utf8_lossy(bytes));
        assert!(fault.to_string().starts_with("Protocol error: "));
    }
}

/// What a client may send at most: the limits are reached, and not exceeded, by what Redis' own clients send.
#[test]
fn the_limits_themselves_are_allowed() {
    let widest: Vec<Vec<u8>> = (0..4).map(|_| vec![b'a'; 64]).collect();
    assert_eq!(one(&multibulk(&widest)), Ok(vec![widest]));
    let most: Vec<Vec<u8>> = (0..8).map(|_| b"a".to_vec()).collect();
    assert_eq!(one(&multibulk(&most)), Ok(vec![most]));
}

/// As the redis crate reads it back.
fn theirs(value: &Value, protocol: Protocol) -> Theirs {
    let third = protocol == Protocol::Resp3;
    let all = |values: &[Value]| values.iter().map(|value| theirs(value, protocol)).collect();
    match value {
        Value::Status(text) if text == "OK" => Theirs::Okay,
        Value::Status(text) => Theirs::SimpleString(text.to_string()),
        Value::Error(_) => unreachable!("compared by its text"),
        Value::Int(number) => Theirs::Int(*number),
        Value::Text(text) => Theirs::BulkString(text.as_bytes().to_vec()),
        Value::Bytes(bytes) => Theirs::BulkString(bytes.clone()),
        Value::Verbatim(text) if third => {
            Theirs::VerbatimString { format: ::redis::VerbatimFormat::Text, text: text.clone() }
        }
        Value::Verbatim(text) => Theirs::BulkString(text.as_bytes().to_vec()),
        Value::Null | Value::NullArray => Theirs::Nil,
        Value::Array(values) => Theirs::Array(all(values)),
        Value::Push(values) if third => {
            assert_eq!(values.first(), Some(&Value::text("message")), "a push begins with its kind");
            Theirs::Push { kind: ::redis::PushKind::Message, data: all(&values[1..]) }
        }
        Value::Push(values) => Theirs::Array(all(values)),
        Value::Map(pairs) if third => {
            Theirs::Map(pairs.iter().map(|(key, value)| (theirs(key, protocol), theirs(value, protocol))).collect())
        }
        Value::Map(pairs) => Theirs::Array(
            pairs.iter().flat_map(|(key, value)| [theirs(key, protocol), theirs(value, protocol)]).collect(),
        ),
    }
}

fn value() -> impl Strategy<Value = Value> {
    let text = "[a-z0-9 +:-]{0,20}";
    let leaf = prop_oneof![
        text.prop_map(|text| Value::Status(text.into())),
        any::<i64>().prop_map(Value::Int),
        "\\PC{0,20}".prop_map(Value::text),
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(Value::Bytes),
        "\\PC{0,20}".prop_map(Value::Verbatim),
        Just(Value::Null),
        Just(Value::NullArray),
    ];
    leaf.prop_recursive(3, 24, 5, |inner| {
        let several = proptest::collection::vec(inner.clone(), 0..5);
        let pairs = proptest::collection::vec((inner.clone(), inner), 0..4);
        prop_oneof![several.prop_map(Value::Array), pairs.prop_map(Value::Map)]
    })
}

fn encoded(value: &Value, protocol: Protocol) -> Vec<u8> {
    let mut bytes = Vec::new();
    value.encode(protocol, &mut bytes);
    bytes
}

proptest! {
    #[test]
    fn what_is_written_is_what_the_redis_crate_reads(value in value()) {
        for protocol in [Protocol::Resp2, Protocol::Resp3] {
            let bytes = encoded(&value, protocol);
            prop_assert_eq!(parse_redis_value(&bytes).expect("it is a value"), theirs(&value, protocol));
            let push = Value::Push(vec![Value::text("message"), value.clone()]);
            let read = parse_redis_value(&encoded(&push, protocol)).expect("it is a value");
            prop_assert_eq!(read, theirs(&push, protocol));
        }
    }

    /// Whatever a client sent is quoted in an error, it stays one line.
    #[test]
    fn an_error_is_one_line(text in "(\\PC|\r|\n){0,40}") {
        let bytes = encoded(&Value::error(format!("ERR {text}")), Protocol::Resp2);
        prop_assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count(), 1);
        prop_assert!(bytes.starts_with(b"-ERR ") && bytes.ends_with(b"\r\n"));
    }

    #[test]
    fn requests_are_read_in_any_pieces(
        requests in proptest::collection::vec(
            proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..30), 1..8), 0..6),
        pieces in proptest::collection::vec(1usize..70, 1..20),
    ) {
        let bytes: Vec<u8> = requests.iter().flat_map(|request| multibulk(request)).collect();
        prop_assert_eq!(decoded(&bytes, &pieces), Ok(requests));
    }

    /// What the redis crate takes for an array of strings, within the limits, is the same request here.
    #[test]
    fn arrays_of_strings_are_read_as_the_redis_crate_reads_them(
        words in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..12), 1..6),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
    ) {
        let mut bytes = multibulk(&words);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let Ok(Theirs::Array(items)) = parse_redis_value(&bytes) else { return Ok(()) };
        let strings: Option<Request> = items
            .into_iter()
            .map(|item| if let Theirs::BulkString(bytes) = item { Some(bytes) } else { None })
            .collect();
        if let Some(strings) = strings.filter(|strings| !strings.is_empty() && bytes.starts_with(b"*")) {
            let ours = one(&bytes);
            prop_assert_eq!(ours.as_ref().map(|requests| requests.first()), Ok(Some(&strings)));
        }
    }

    #[test]
    fn any_bytes_are_requests_or_nonsense(
        bytes in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b'*'), Just(b'$'), Just(b'\r'), Just(b'\n'), b'0'..=b'9'], 0..400),
        pieces in proptest::collection::vec(1usize..40, 1..5),
    ) {
        if let Ok(requests) = decoded(&bytes, &pieces) {
            for request in requests {
                prop_assert!(!request.is_empty() && request.len() <= LIMITS.arguments);
                prop_assert!(request.iter().map(Vec::len).sum::<usize>() <= LIMITS.total);
            }
        }
    }

    /// Any word can be written in quotes.
    #[test]
    fn quoted_words_come_back(words in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 0..5)) {
        let quoted: Vec<String> = words
            .iter()
            .map(|word| format!("\"{}\"", word.iter().map(|byte| format!("\\x{byte:02x}")).collect::<String>()))
            .collect();
        prop_assert_eq!(split(quoted.join(" ").as_bytes()), Some(words));
    }
}
