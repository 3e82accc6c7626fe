//! One connection's answers.

use super::probe::{feed, picture};
use crate::resp::{Protocol, Request};
use crate::sentinel::{Context, Effect, House, Login, Picture, Session, Stage};
use crate::view::Moment;
use std::time::Duration;

/// What is answered to these lines, as text.
fn said(lines: &str, password: Option<&str>) -> String {
    let (out, _) = feed(std::iter::once(lines.as_bytes()), password.map(str::as_bytes));
    String::from_utf8(out).expect("text")
}

fn request(line: &str) -> Request {
    line.split(' ').map(|word| word.as_bytes().to_vec()).collect()
}

/// What this picture makes of a request, some time after it was made.
fn of(picture: &Picture, later: Duration, line: &str) -> (String, Effect) {
    let house = House::new(None, Moment(1), 26379, 16);
    let context = Context { picture, house: &house, now: picture.at + later, unix_us: 1 };
    let mut out = Vec::new();
    let effect = Session::new(1, &house).answer(&request(line), &context, &mut out);
    (String::from_utf8(out).expect("text"), effect)
}

const NOW: Duration = Duration::ZERO;

#[test]
fn the_user_may_have_a_name() {
    let login = Login { user: "app".into(), password: b"secret".to_vec() };
    let house = House::new(Some(login), Moment(1), 26379, 16);
    let picture = picture();
    let mut session = Session::new(1, &house);
    let mut said = |line: &str| {
        let context = Context { picture: &picture, house: &house, now: picture.at, unix_us: 1 };
        let mut out = Vec::new();
        session.answer(&request(line), &context, &mut out);
        String::from_utf8(out).expect("text")
    };
    for attempt in ["AUTH secret", "AUTH default secret", "AUTH app wrong", "HELLO 3 AUTH default secret"] {
        assert!(said(attempt).starts_with("-WRONGPASS"), "{attempt}");
        assert!(said("PING").starts_with("-NOAUTH"));
    }
    assert_eq!(said("AUTH app secret"), "+OK\r\n");
    assert_eq!(said("ACL WHOAMI"), "$3\r\napp\r\n");
    assert_eq!(said("ACL USERS"), "*1\r\n$3\r\napp\r\n");
}

#[test]
fn the_address_is_the_lease_holders() {
    let picture = picture();
    for name in ["get-master-addr-by-name", "GET-PRIMARY-ADDR-BY-NAME"] {
        let (answer, _) = of(&picture, NOW, &format!("SENTINEL {name} mymaster"));
        assert_eq!(answer, "*2\r\n$8\r\n10.0.0.1\r\n$4\r\n6379\r\n");
    }
    let (answer, _) = of(&picture, NOW, "SENTINEL get-master-addr-by-name other");
    assert_eq!(answer, "*-1\r\n");
}

/// The picture says until when it is good: a stalled loop, or a lapsed lease, gives no stale address out.
#[test]
fn an_old_picture_gives_no_address_out() {
    let mut picture = picture();
    let ask = "SENTINEL get-master-addr-by-name mymaster";
    assert_ne!(of(&picture, Duration::from_millis(599), ask).0, "*-1\r\n");
    assert_eq!(of(&picture, Duration::from_millis(600), ask).0, "*-1\r\n");
    let (answer, _) = of(&picture, Duration::from_millis(600), "SENTINEL MASTER mymaster");
    assert!(answer.contains("\r\ns_down,master\r\n"), "{answer}");
    picture.groups[0].until = None;
    picture.groups[0].stage = Stage::Sealing { planned: false };
    assert_eq!(of(&picture, NOW, ask).0, "*-1\r\n");
    let (answer, _) = of(&picture, NOW, "SENTINEL MASTERS");
    assert!(answer.contains("\r\ns_down,o_down,master,failover_in_progress\r\n"), "{answer}");
    let (answer, _) = of(&picture, NOW, "INFO sentinel");
    assert!(answer.contains("status=odown,address=10.0.0.1:6379,slaves=2,sentinels=3\r\n"), "{answer}");
    let (answer, _) = of(&picture, NOW, "SENTINEL IS-MASTER-DOWN-BY-ADDR 10.0.0.1 6379 1 *");
    assert_eq!(answer, "*3\r\n:1\r\n$1\r\n*\r\n:0\r\n");
}

#[test]
fn the_password_comes_first() {
    let refused = "-NOAUTH Authentication required.\r\n";
    let wrong = "-WRONGPASS invalid username-password pair or user is disabled.\r\n";
    assert_eq!(said("SENTINEL MASTERS\r\n", Some("secret")), refused);
    assert_eq!(said("PING\r\n", Some("secret")), refused);
    assert_eq!(said("SUBSCRIBE +switch-master\r\n", Some("secret")), refused);
    for attempt in ["AUTH secre", "AUTH secrett", "AUTH \"\"", "AUTH other secret", "HELLO 3 AUTH default wrong"] {
        assert_eq!(said(&format!("{attempt}\r\n"), Some("secret")), wrong, "{attempt}");
    }
    assert!(said("HELLO 3\r\n", Some("secret")).starts_with("-NOAUTH HELLO must be called"));
    assert_eq!(said("AUTH secret\r\nPING\r\n", Some("secret")), "+OK\r\n+PONG\r\n");
    assert_eq!(said("AUTH default secret\r\nRESET\r\nPING\r\n", Some("secret")), format!("+OK\r\n+RESET\r\n{refused}"));
    assert!(said("HELLO 3 AUTH default secret SETNAME me\r\n", Some("secret")).starts_with("%6\r\n"));
    assert!(said("AUTH secret\r\n", None).starts_with("-ERR AUTH <password> called without any password"));
}

/// A stranger may not send as much as a known client.
#[test]
fn strangers_send_little() {
    let long = format!("*1\r\n$4000\r\n{}\r\n", "a".repeat(4000));
    assert_eq!(said(&long, Some("secret")), "-ERR Protocol error: invalid bulk length\r\n");
    assert!(said(&long, None).starts_with("-ERR unknown command 'aaaa"));
}

#[test]
fn listening_is_confirmed_and_told_in_both_protocols() {
    // The switch is told by the harness after the requests.
    let second = said("SUBSCRIBE +switch-master\r\nPING\r\nSENTINEL MASTERS\r\n", None);
    let refused = "-ERR Can't execute 'sentinel|masters': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed \
                   in this context\r\n";
    let confirmed = "*3\r\n$9\r\nsubscribe\r\n$14\r\n+switch-master\r\n:1\r\n*2\r\n$4\r\npong\r\n$0\r\n\r\n";
    let text = "mymaster 10.0.0.1 6379 10.0.0.2 6379";
    let told = format!("*3\r\n$7\r\nmessage\r\n$14\r\n+switch-master\r\n${}\r\n{text}\r\n", text.len());
    assert_eq!(second, format!("{confirmed}{refused}{told}"));
    let third = said("HELLO 3\r\nPSUBSCRIBE *\r\nPING\r\n", None);
    let told = format!(">4\r\n$8\r\npmessage\r\n$1\r\n*\r\n$14\r\n+switch-master\r\n${}\r\n{text}\r\n", text.len());
    assert!(third.ends_with(&format!(">3\r\n$10\r\npsubscribe\r\n$1\r\n*\r\n:1\r\n+PONG\r\n{told}")), "{third}");
    let none = said("SUBSCRIBE a b\r\nUNSUBSCRIBE\r\nPUNSUBSCRIBE\r\nPING\r\n", None);
    assert!(none.ends_with("*3\r\n$12\r\npunsubscribe\r\n$-1\r\n:0\r\n+PONG\r\n"), "{none}");
}

#[test]
fn what_is_listened_to_is_bounded() {
    let many: Vec<String> = (0..100).map(|number| format!("SUBSCRIBE {number:0>200}\r\n")).collect();
    let answer = said(&many.concat(), None);
    assert!(answer.contains("-ERR more than 64 channels and patterns, or 8192 bytes of them"), "{answer}");
    assert_eq!(answer.matches("subscribe\r\n").count(), 40);
    let many: Vec<String> = (0..100).map(|number| format!("PSUBSCRIBE {number}\r\n")).collect();
    assert_eq!(said(&many.concat(), None).matches("psubscribe\r\n").count(), 64);
}

/// A failover is left to the loop; everything else of the configuration is refused with mainstay's own way.
#[test]
fn what_changes_the_configuration_is_refused_by_name() {
    let picture = picture();
    assert_eq!(
        of(&picture, NOW, "SENTINEL FAILOVER mymaster"),
        (String::new(), Effect::Failover("mymaster".to_owned()))
    );
    let unknown = "-ERR No such master with that name\r\n";
    assert_eq!(of(&picture, NOW, "SENTINEL FAILOVER other").0, unknown);
    let cases = [
        ("SENTINEL MONITOR new 10.0.0.9 6379 2", "[[group]]"),
        ("SENTINEL MONITOR mymaster 10.0.0.9 6379 2", "Duplicate master name"),
        ("SENTINEL REMOVE mymaster", "mainstay leave"),
        ("SENTINEL SET mymaster quorum 1", "mainstay join"),
        ("SENTINEL SET mymaster down-after-milliseconds 1", "lease_ms"),
        ("SENTINEL CONFIG SET announce-ip 1.2.3.4", "[sentinel]"),
        ("SHUTDOWN", "systemctl stop mainstay"),
        ("CONFIG GET timeout", "unknown command 'CONFIG', with args beginning with: 'GET' 'timeout' "),
        ("SENTINEL nonsense", "unknown subcommand 'nonsense'. Try SENTINEL HELP."),
        ("SENTINEL MASTER", "wrong number of arguments for 'sentinel|master' command"),
        ("SENTINEL REPLICAS other", "No such master"),
    ];
    for (line, word) in cases {
        let (answer, effect) = of(&picture, NOW, line);
        assert!(answer.starts_with("-ERR ") && answer.contains(word), "{line}: {answer}");
        assert_eq!(effect, Effect::None);
    }
    for (line, meant) in [
        ("SENTINEL RESET my*", ":1\r\n"),
        ("SENTINEL RESET other", ":0\r\n"),
        ("SENTINEL FLUSHCONFIG", "+OK\r\n"),
        ("SENTINEL PENDING-SCRIPTS", "*0\r\n"),
        ("PUBLISH __sentinel__:hello x", ":1\r\n"),
        ("SENTINEL MYID", "$40\r\n0000000000000000000000000000000100000001\r\n"),
        ("SENTINEL CKQUORUM mymaster", "+OK 3 usable Sentinels. Quorum and failover authorization can be reached\r\n"),
    ] {
        assert_eq!(of(&picture, NOW, line).0, meant, "{line}");
    }
}

/// Every command of the table answers something, in both protocols, with any number of arguments.
#[test]
fn everything_is_answered_with_one_value() {
    let picture = picture();
    let house = House::new(None, Moment(1), 26379, 16);
    let context = Context { picture: &picture, house: &house, now: picture.at, unix_us: 1 };
    let commands =
        ["ACL", "CLIENT", "COMMAND", "HELLO", "INFO", "PING", "PUBLISH", "ROLE", "SENTINEL", "SHUTDOWN", "x"];
    let words = ["", "mymaster", "3", "LIST", "GET", "HELP", "INFO-CACHE", "REPLICAS", "CONFIG", "DOCS", "*"];
    for command in commands {
        for first in words {
            for second in words {
                let line = format!("{command} {first} {second}").trim_end().to_owned();
                let mut session = Session::new(1, &house);
                let mut out = Vec::new();
                if session.answer(&request(&line), &context, &mut out) == Effect::None {
                    let read = ::redis::parse_redis_value(&out);
                    let one = read.is_ok() || out.starts_with(b"-");
                    assert!(one, "{line}: {}", String::from_utf8_lossy(&out));
                }
            }
        }
    }
    assert_eq!(Session::new(1, &house).protocol(), Protocol::Resp2);
}
