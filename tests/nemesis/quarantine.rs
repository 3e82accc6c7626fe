//! What the agents saved of data that the group lacks (S11): taken out of their directories, as an operator would, and
//! loaded by a real Redis that is asked for what was lost.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use crate::cluster::{ASK, Cluster};
use crate::history::{History, Reign};
use crate::lab::{ms, secs};
use crate::resp::Client;

/// Where the loading instance answers, on the client's host.
const PORT: u16 = 7777;

/// Moves the files that are complete out of the agents' directories.
pub fn collect(c: &Cluster) -> io::Result<Vec<PathBuf>> {
    let shelf = c.dir.path().join("quarantine");
    std::fs::create_dir_all(&shelf)?;
    let mut found = Vec::new();
    for host in c.hosts.values() {
        let Ok(entries) = std::fs::read_dir(host.files.agent().join("quarantine")) else { continue };
        for entry in entries.flatten().map(|entry| entry.path()) {
            let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.ends_with(".rdb") {
                let kept = shelf.join(format!("n{}-{name}", host.no));
                std::fs::copy(&entry, &kept)?;
                std::fs::remove_file(&entry)?;
                found.push(kept);
            }
        }
    }
    Ok(found)
}

/// Those of the keys that the file does not hold.
pub fn missing(c: &Cluster, file: &Path, keys: &[String]) -> io::Result<Vec<String>> {
    let dir = file.parent().unwrap_or(Path::new("/"));
    let name = file.file_name().unwrap_or_default();
    let mut command = c.client.command("redis-server")?;
    command.args(["--port", &PORT.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"]);
    command.arg(dir).arg("--dbfilename").arg(name).stdin(Stdio::null()).stdout(Stdio::null());
    let mut server = command.spawn()?;
    let answer = ask(c, keys);
    let _ = server.kill();
    let _ = server.wait();
    answer
}

fn ask(c: &Cluster, keys: &[String]) -> io::Result<Vec<String>> {
    let at: SocketAddr = (Ipv4Addr::LOCALHOST, PORT).into();
    let end = Instant::now() + secs(10);
    loop {
        let client = c.client.connect(at, ASK).and_then(|stream| Client::over(stream, secs(5)));
        let loaded = client.and_then(|mut client| {
            let loading = client.info(&["persistence"])?.get("loading").cloned();
            if loading.as_deref() == Some("0") { Ok(client) } else { Err(io::ErrorKind::WouldBlock.into()) }
        });
        match loaded {
            Ok(mut client) => {
                let absent = |key: &String| -> io::Result<Option<String>> {
                    let held = client.command(&["EXISTS", key])?.text() == "1";
                    Ok((!held).then(|| key.clone()))
                };
                return keys.iter().map(absent).filter_map(Result::transpose).collect();
            }
            Err(error) if Instant::now() > end => return Err(error),
            Err(_) => std::thread::sleep(ms(20)),
        }
    }
}

/// Of the lost writes, those that an instance acknowledged which is still the same process: it came back with them, so
/// they must have been saved.
pub fn owed(c: &Cluster, history: &History, lost: &[String]) -> Vec<String> {
    let run_ids = c.data_hosts().filter_map(|host| host.info().ok()?.get("run_id").cloned());
    let alive: BTreeSet<String> = run_ids.collect();
    let lost: BTreeSet<&String> = lost.iter().collect();
    let mut by: BTreeMap<String, &Reign> = BTreeMap::new();
    for log in &history.logs {
        for write in log.writes.iter().filter(|write| write.acked()) {
            if let Some(reign) = write.reign.and_then(|at| log.reigns.get(at)) {
                by.insert(log.key(write.n), reign);
            }
        }
    }
    let same = |key: &&&String| by.get(**key).is_some_and(|reign| alive.contains(&reign.run_id));
    lost.iter().filter(same).map(|key| (*key).clone()).collect()
}
