//! Data that must not vanish in silence: an old primary that returns with writes of its own (S11).

use std::path::PathBuf;
use std::sync::Arc;

use crate::cluster::{Cluster, Options};
use crate::lab::{in_lab, ms, secs, wait_for};
use crate::proc::{Proc, Spec};
use crate::resp::Client;
use crate::switch::HostNo;

/// The quarantined files of a host.
fn quarantined(c: &Cluster, host: HostNo) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(c.host(host).files.agent().join("quarantine")) else { return Vec::new() };
    entries.flatten().map(|entry| entry.path()).collect()
}

type Loss = (String, Option<u64>, Option<String>);

/// What the changes' events say of data that came back: node, bytes, file.
fn diverged(c: &Cluster, at: HostNo) -> Result<Vec<Loss>, String> {
    let status = c.status(at)?;
    let changes = status["groups"][0]["changes"].as_array().cloned().unwrap_or_default();
    let losses = changes.iter().flat_map(|change| change["diverged"].as_array().cloned().unwrap_or_default());
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    Ok(losses
        .map(|loss| (text(&loss["node"]).unwrap_or_default(), loss["bytes"].as_u64(), text(&loss["file"])))
        .collect())
}

/// A plain server on the client's host that has loaded a file; dropping it ends it.
fn loaded(c: &Cluster, file: &PathBuf) -> (Proc, Client) {
    let dir = c.dir.path().join("loaded");
    std::fs::create_dir_all(&dir).expect("a directory");
    std::fs::copy(file, dir.join("dump.rdb")).expect("a copy");
    let args = ["--port", "6400", "--save", "", "--dir", &dir.display().to_string()].map(String::from);
    let server = Proc::start(Spec {
        name: "redis of the test".into(),
        program: "redis-server".into(),
        args: args.into(),
        env: Vec::new(),
        net: Arc::clone(&c.client),
        log: dir.join("redis.log"),
        restart: None,
        realtime: false,
        stop_post: None,
    });
    let to = ([127, 0, 0, 1], 6400).into();
    let client = wait_for("loaded file", secs(10), || {
        let mut client = Client::over(c.client.connect(to, secs(1))?, secs(2))?;
        let reply = client.command(&["PING"])?;
        if reply.is_error() { Err(std::io::Error::other(reply.text())) } else { Ok(client) }
    });
    (server.expect("a server"), client)
}

/// The isolated primary takes plain writes until its lease lapses; healed, its data is saved and it follows.
#[test]
fn diverged_writes_are_quarantined_before_the_old_primary_follows() {
    in_lab(|| {
        let c = Cluster::start(Options { quarantine: true, ..Options::new(3) });
        let old = c.wait_healthy(secs(40));
        let load = c.load();
        std::thread::sleep(ms(500));
        c.wire.isolate(old);
        let new = c.wait_new_primary(old, secs(12));
        std::thread::sleep(ms(500));
        c.wire.heal(old);
        c.wait_steady(secs(40));
        let history = load.stop();
        assert!(history.two_servers().is_empty(), "{:#?}", history.two_servers());
        let lost = c.lost(&history, new);
        let files = quarantined(&c, old);
        let told = wait_for("the event", secs(10), || match diverged(&c, new)? {
            told if told.is_empty() => Err("nothing told".to_owned()),
            told => Ok(told),
        });
        println!("FIGURE quarantine: {} plain writes lost, {told:?}", lost.len());
        assert!(!lost.is_empty(), "the isolated primary took no write: nothing was tried");
        assert_eq!(files.len(), 1, "{files:?}");
        let (node, bytes, file) = &told[0];
        assert_eq!((told.len(), node.as_str()), (1, format!("n{old}").as_str()));
        assert!(bytes.is_some_and(|bytes| bytes >= 10 * lost.len() as u64), "{bytes:?} for {} writes", lost.len());
        assert_eq!(file.as_deref(), files[0].file_name().and_then(|name| name.to_str()));
        let (_server, mut client) = loaded(&c, &files[0]);
        let missing: Vec<&String> =
            lost.iter().filter(|key| client.command(&["EXISTS", key]).expect("an answer").text() != "1").collect();
        assert!(missing.is_empty(), "{} of {} are not in the file: {missing:?}", missing.len(), lost.len());
        assert!(c.host(new).agent_log().contains("came back with up to"), "the log says it too");
    });
}

/// Zero diverged bytes: nothing is saved, nothing told, nothing lost.
#[test]
fn nothing_is_quarantined_where_nothing_diverged() {
    in_lab(|| {
        let c = Cluster::start(Options { quarantine: true, ..Options::new(3) });
        let old = c.wait_healthy(secs(40));
        let load = c.load();
        std::thread::sleep(ms(300));
        let output = c.mainstay(old, &["switchover"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let new = c.wait_new_primary(old, secs(12));
        c.wait_healthy(secs(30));
        let history = load.stop();
        assert_eq!(c.lost(&history, new), [""; 0]);
        for host in 1..=3 {
            assert!(quarantined(&c, host).is_empty());
        }
        assert_eq!(diverged(&c, new).expect("status"), []);
    });
}
