//! The endpoint beside real Sentinels that monitor the same instances: what it answers, field by field.
//!
//! Names and order of fields, flags and errors must be the same. A value that differs must be one of those listed here with
//! the reason, so that a new difference fails and an old one is on record.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::path::PathBuf;

use crate::cluster::{ASK, Cluster, Options};
use crate::lab::{in_lab, ms, secs, wait_for};
use crate::net::address;
use crate::proc::{Proc, Spec};
use crate::resp::{Client, Reply};
use crate::sentinel::{PORT, agent};
use crate::switch::HostNo;

/// What a replica's loss is told by. `master-link-status` is not among them: a Sentinel goes on telling what the replica
/// said last, "ok", of one that is gone; here it is "err".
const FAILED: [&str; 6] = ["name", "ip", "port", "flags", "role-reported", "slave-priority"];

const REAL: u16 = 26380;
const NAME: &str = "mymaster";

/// Fields whose values cannot be the same, and why.
const DIFFERENT: [(&str, &str); 14] = [
    ("last-ok-ping-reply", "since when the instance's agent was heard, not since a ping of one's own"),
    ("last-ping-reply", "since when the instance's agent was heard, not since a ping of one's own"),
    ("last-ping-sent", "nobody is pinged; a Sentinel's ping may be under way"),
    ("link-pending-commands", "there is no link with commands; a Sentinel may just wait for an answer"),
    ("link-refcount", "a Sentinel's own count of its links"),
    ("info-refresh", "five times in a lease, not every ten seconds"),
    ("role-reported-time", "since when this agent knows the role"),
    ("down-after-milliseconds", "the lease"),
    ("failover-timeout", "how long a switchover is waited for"),
    ("config-epoch", "the group's epoch; a Sentinel that never failed over has 0"),
    ("slave-repl-offset", "a later one: the agents speak more often"),
    ("last-hello-message", "since when the agent was heard"),
    ("name", "of a Sentinel: its id"),
    ("runid", "of a Sentinel: its id"),
];

fn start_real(c: &Cluster, no: HostNo, primary: HostNo) -> Proc {
    let host = c.host(no);
    let dir = host.files.root.join("sentinel");
    std::fs::create_dir_all(&dir).expect("a directory");
    let conf = dir.join("sentinel.conf");
    // Patient: it only watches.
    let text = format!(
        "port {REAL}\nbind 0.0.0.0\nprotected-mode no\ndir {}\nsentinel monitor {NAME} {} 6379 2\n\
         sentinel down-after-milliseconds {NAME} 60000\n",
        dir.display(),
        address(primary)
    );
    std::fs::write(&conf, text).expect("a file");
    let spec = Spec {
        name: format!("sentinel n{no}"),
        program: PathBuf::from("redis-server"),
        args: vec![conf.display().to_string(), "--sentinel".to_owned()],
        env: Vec::new(),
        net: std::sync::Arc::clone(&host.net),
        log: dir.join("log"),
        restart: None,
        realtime: false,
        stop_post: None,
    };
    Proc::start(spec).expect("a Sentinel")
}

fn real(c: &Cluster, no: HostNo) -> io::Result<Client> {
    Client::over(c.client.connect((address(no), REAL).into(), ms(200))?, ASK)
}

/// Names and values of one row, in order.
fn fields(row: &Reply) -> Vec<(String, String)> {
    row.items().chunks(2).map(|pair| (pair[0].text(), pair.get(1).map(Reply::text).unwrap_or_default())).collect()
}

fn rows(client: &mut Client, what: &str) -> Vec<Vec<(String, String)>> {
    let reply = client.command(&["SENTINEL", what, NAME]).expect("an answer");
    assert!(!reply.is_error(), "{what}: {}", reply.text());
    let mut rows: Vec<_> = match reply.items().first() {
        Some(Reply::Array(_)) => reply.items().iter().map(fields).collect(),
        _ => vec![fields(&reply)],
    };
    rows.sort_by_key(|row| row.iter().find(|(name, _)| name == "ip").cloned());
    rows
}

/// Which fields were equal in every row, and which ones were not.
#[derive(Default)]
struct Verdict {
    equal: BTreeMap<String, Vec<String>>,
    different: BTreeMap<String, Vec<String>>,
}

impl Verdict {
    fn rows(&mut self, what: &str, ours: &[Vec<(String, String)>], theirs: &[Vec<(String, String)>]) {
        assert_eq!(ours.len(), theirs.len(), "{what}: {ours:#?} {theirs:#?}");
        for (ours, theirs) in ours.iter().zip(theirs) {
            let names = |row: &[(String, String)]| row.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
            assert_eq!(names(ours), names(theirs), "{what}: the fields and their order");
            for ((name, mine), (_, real)) in ours.iter().zip(theirs) {
                let own_port = what == "SENTINELS" && name == "port";
                if mine == real {
                    self.equal.entry(name.clone()).or_default().push(what.to_owned());
                    continue;
                }
                let listed = DIFFERENT.iter().any(|(known, _)| known == name);
                let own = !matches!(name.as_str(), "name" | "runid") || what == "SENTINELS";
                assert!(own_port || (listed && own), "{what}: {name} is {mine:?}, a Sentinel says {real:?}");
                self.different.entry(name.clone()).or_default().push(what.to_owned());
            }
        }
    }
}

/// What is to be answered by the very same bytes.
const SAME: [&[&str]; 24] = [
    &["PING"],
    &["PING", "x"],
    &["ROLE"],
    &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME],
    &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "unknown"],
    &["SENTINEL", "MASTER", "unknown"],
    &["SENTINEL", "REPLICAS", "unknown"],
    &["SENTINEL", "SENTINELS", "unknown"],
    &["SENTINEL", "CKQUORUM", "unknown"],
    &["SENTINEL", "CKQUORUM", NAME],
    &["SENTINEL", "FAILOVER", "unknown"],
    &["SENTINEL", "PENDING-SCRIPTS"],
    &["SENTINEL", "RESET", "unknown"],
    &["SENTINEL", "MASTER"],
    &["SENTINEL", "nonsense"],
    &["SENTINEL", "IS-MASTER-DOWN-BY-ADDR", "10.77.0.9", "6379", "0", "*"],
    &["SENTINEL", "MONITOR", NAME, "10.77.0.1", "6379", "2"],
    &["GET", "key"],
    &["CONFIG", "GET", "timeout"],
    &["SUBSCRIBE"],
    &["CLIENT", "SETNAME", "a b"],
    &["CLIENT", "GETNAME"],
    &["AUTH", "secret"],
    &["HELLO", "4"],
];

fn same(ours: &mut Client, theirs: &mut Client) -> usize {
    let mut unlike = Vec::new();
    for words in SAME {
        let (mine, real) = (ours.command(words).expect("an answer"), theirs.command(words).expect("an answer"));
        if mine != real {
            unlike.push(format!("{words:?}: {mine:?}, a Sentinel says {real:?}"));
        }
    }
    assert!(unlike.is_empty(), "{unlike:#?}");
    SAME.len()
}

/// Listening and stopping, message by message.
fn same_listening(ours: &mut Client, theirs: &mut Client) {
    for (words, replies) in [
        (&["SUBSCRIBE", "+switch-master", "+sdown"][..], 2),
        (&["PSUBSCRIBE", "[+-]odown"], 1),
        (&["PING"], 1),
        (&["SENTINEL", "MASTERS"], 1),
        (&["UNSUBSCRIBE"], 2),
        (&["PUNSUBSCRIBE"], 1),
        (&["PUNSUBSCRIBE"], 1),
        (&["PING"], 1),
    ] {
        let read = |client: &mut Client| {
            let mut all = vec![client.command(words).expect("an answer")];
            all.extend((1..replies).map(|_| client.reply().expect("an answer")));
            // In the order of a hash table there.
            all.sort_by_key(|reply| reply.items().get(1).map(Reply::text));
            all
        };
        let counts = |replies: Vec<Reply>| -> Vec<Vec<String>> {
            let words = |reply: &Reply| match reply.items() {
                [] => vec![reply.text()],
                items if words.first().is_some_and(|word| word.contains("UNSUB")) => {
                    items[..2].iter().map(Reply::text).collect()
                }
                items => items.iter().map(Reply::text).collect(),
            };
            replies.iter().map(words).collect()
        };
        assert_eq!(counts(read(ours)), counts(read(theirs)), "{words:?}");
    }
}

/// What RESP3 is made of: the kind of every value, and how many are in it, without the values.
fn skeleton(c: &Cluster, no: HostNo, port: u16, requests: &str) -> Vec<String> {
    let mut stream = c.client.connect((address(no), port).into(), ms(500)).expect("a connection");
    stream.set_read_timeout(Some(ms(500))).expect("it can");
    stream.write_all(requests.as_bytes()).expect("sent");
    let mut text = Vec::new();
    // A Sentinel of this version does not know QUIT: what is answered has come by now.
    let _ = stream.read_to_end(&mut text);
    let (text, mut kinds) = (String::from_utf8_lossy(&text).into_owned(), Vec::new());
    let mut lines = text.split("\r\n");
    while let Some(line) = lines.next() {
        match line.as_bytes().first() {
            Some(b'$' | b'=') => {
                lines.next();
                kinds.push(line[..1].to_owned());
            }
            Some(b'*' | b'%' | b'>' | b'~' | b'_' | b'#') => kinds.push(line.to_owned()),
            Some(_) => kinds.push(line[..1].to_owned()),
            None => {}
        }
    }
    kinds
}

/// The same shapes in RESP3.
fn same_shapes(c: &Cluster, no: HostNo) {
    let requests = format!(
        "SENTINEL MASTER {NAME}\r\nSENTINEL MASTERS\r\nSENTINEL REPLICAS {NAME}\r\nSENTINEL SENTINELS {NAME}\r\n\
         SENTINEL GET-MASTER-ADDR-BY-NAME unknown\r\nSENTINEL CKQUORUM {NAME}\r\nROLE\r\nINFO sentinel\r\n\
         SUBSCRIBE a b\r\nPING\r\nUNSUBSCRIBE a b\r\nSENTINEL PENDING-SCRIPTS\r\nCLIENT GETNAME\r\nCLIENT LIST\r\n\
         CLIENT ID\r\n"
    );
    // What HELLO itself says are a version and an id.
    let three = format!("HELLO 3\r\n{requests}");
    let (ours, theirs) = (skeleton(c, no, PORT, &three), skeleton(c, no, REAL, &three));
    assert_eq!(ours, theirs, "RESP3");
    assert!(ours.len() > 100, "{ours:?}");
    println!("EQUAL RESP3: {} values of the same kind and size", ours.len());
}

/// A replica that is gone, as both tell of it.
fn same_of_the_lost(c: &Cluster, no: HostNo, ours: &mut Client, theirs: &mut Client) {
    for real_no in 1..=3 {
        let mut sentinel = real(c, real_no).expect("a Sentinel");
        let said = sentinel.command(&["SENTINEL", "SET", NAME, "down-after-milliseconds", "1000"]).expect("an answer");
        assert_eq!(said.text(), "OK");
    }
    let lost = c.data_hosts().map(|host| host.no).find(|other| *other != no).expect("a replica");
    c.host(lost).redis().hold();
    let down = |client: &mut Client| {
        let all = rows(client, "REPLICAS");
        let flags =
            |row: &Vec<(String, String)>| row.iter().any(|(name, value)| name == "flags" && value.contains("s_down"));
        all.iter().find(|row| flags(row)).cloned().ok_or(all)
    };
    let mine = wait_for("lost replica at the agent", secs(10), || down(ours));
    let real = wait_for("lost replica at the Sentinel", secs(10), || {
        // Its own link is given up a moment after it counts as down.
        down(theirs).and_then(|row| {
            if row.iter().any(|(_, value)| value.contains("disconnected")) { Ok(row) } else { Err(vec![row]) }
        })
    });
    let names = |row: &[(String, String)]| row.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&mine), names(&real), "of a lost replica: the fields and their order");
    for ((name, mine), (_, real)) in mine.iter().zip(&real).filter(|((name, _), _)| FAILED.contains(&name.as_str())) {
        assert_eq!(mine, real, "of a lost replica: {name}");
    }
    let quorum = [&["SENTINEL", "CKQUORUM", NAME][..], &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME]];
    for words in quorum {
        assert_eq!(ours.command(words).expect("an answer"), theirs.command(words).expect("an answer"), "{words:?}");
    }
    println!("EQUAL of a lost replica: {} fields by name, the values of {FAILED:?}", mine.len());
}

#[test]
fn the_endpoint_answers_as_a_real_sentinel_beside_it() {
    in_lab(|| {
        let c = Cluster::start(Options::new(3));
        let primary = c.wait_healthy(secs(40));
        let sentinels: Vec<Proc> = (1..=3).map(|no| start_real(&c, no, primary)).collect();
        let no = primary;
        wait_for("real Sentinels that know each other", secs(25), || {
            let mut client = real(&c, no).map_err(|e| e.to_string())?;
            let master = &rows(&mut client, "MASTER")[0];
            let field = |name: &str| master.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
            let all = (field("num-slaves"), field("num-other-sentinels"));
            let replicas = rows(&mut client, "REPLICAS");
            let sentinels = rows(&mut client, "SENTINELS");
            let has = |row: &[(String, String)], name: &str, meant: &str| row.contains(&(name.into(), meant.into()));
            let ok = replicas.iter().all(|row| has(row, "master-link-status", "ok"))
                && sentinels.iter().all(|row| has(row, "flags", "sentinel"));
            if all == (Some("2".into()), Some("2".into())) && ok {
                Ok(())
            } else {
                Err(format!("{all:?} {replicas:?} {sentinels:?}"))
            }
        });
        let (mut ours, mut theirs) = (agent(&c.client, no).expect("an agent"), real(&c, no).expect("a Sentinel"));
        let mut verdict = Verdict::default();
        for what in ["MASTER", "REPLICAS", "SENTINELS"] {
            let (mine, real) = (rows(&mut ours, what), rows(&mut theirs, what));
            verdict.rows(what, &mine, &real);
        }
        let answers = same(&mut ours, &mut theirs);
        same_listening(&mut ours, &mut theirs);
        same_shapes(&c, no);
        let info = |client: &mut Client| client.info(&["sentinel"]).expect("INFO");
        let (mine, real) = (info(&mut ours), info(&mut theirs));
        assert_eq!(mine, real, "INFO sentinel");
        let myid = |client: &mut Client| client.command(&["SENTINEL", "MYID"]).expect("an answer").text().len();
        assert_eq!((myid(&mut ours), myid(&mut theirs)), (40, 40));
        println!("EQUAL {answers} answers byte for byte, INFO sentinel, all names and their order, and the values of:");
        for (name, what) in &verdict.equal {
            let always = if verdict.different.contains_key(name) { " (not always)" } else { "" };
            println!("EQUAL {name}{always}: {} rows of {}", what.len(), what.last().map_or("", String::as_str));
        }
        for (name, what) in &verdict.different {
            let reason = DIFFERENT.iter().find(|(known, _)| known == name).map_or("its own port", |(_, why)| *why);
            println!("DIFFERENT {name}: {} rows, such as of {}; {reason}", what.len(), what[0]);
        }
        same_of_the_lost(&c, no, &mut ours, &mut theirs);
        assert!(sentinels.iter().all(Proc::is_running));
        assert_eq!(c.status(no).expect("status")["groups"][0]["primary"], format!("n{primary}"));
        assert_ne!(PORT, REAL);
    });
}
