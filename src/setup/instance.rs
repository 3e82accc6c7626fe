//! The instance's unit: which one is installed, how it starts, and the drop-in that has it start sealed.
//!
//! The drop-in repeats the unit's own command and adds to it, so that whatever `CONFIG REWRITE` or an upgrade of the
//! package puts into the instance's config is overruled by the command line (S6). The settings lie in a file of their
//! own that the command line includes: the package's config stays as it is.

use super::SetupError;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The units that Debian ships.
const UNITS: [&str; 2] = ["redis-server.service", "valkey-server.service"];
/// Where unit files lie, the ones that rule first.
const UNIT_DIRS: [&str; 4] =
    ["etc/systemd/system", "run/systemd/system", "usr/lib/systemd/system", "lib/systemd/system"];
/// No unit file is larger.
const MAX_UNIT: u64 = 64 * 1024;
/// The drop-in's name: of all a unit's drop-ins the last by name has the last word.
const DROP_IN: &str = "zz-mainstay.conf";

/// For a unit that would wait for the instance's own word. Any other starts at once, and one that forks must go on forking.
const STARTED: &str = "# Started once it runs, however long it loads: neither is it killed for that, nor is the agent kept \
                       waiting.\nType=exec\nNotifyAccess=main\n";

/// What is known of the instance's unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unit {
    /// Its name.
    pub(super) name: String,
    /// Its command.
    pub(super) exec: String,
    /// It counts as started only once it says so, which is when it has loaded.
    pub(super) notifies: bool,
    /// The group that may read the instance's settings.
    pub(super) group: String,
    /// Its settings, as mainstay wants them; absolute.
    pub(super) settings: PathBuf,
    /// Its own config; absolute.
    pub(super) config: PathBuf,
}

/// The unit by name, or the one that is installed.
pub(super) fn find(root: &Path, wanted: Option<&str>) -> Result<Unit, SetupError> {
    let remedy = "install redis-server or valkey-server, or name the unit with --redis-unit; --witness for none";
    let names: Vec<&str> = match wanted {
        Some(name) => vec![name],
        None => UNITS.into_iter().filter(|name| unit_file(root, name).is_some()).collect(),
    };
    let name = match names.as_slice() {
        [name] => *name,
        [] => return Err(SetupError::wanted("no unit of Redis or Valkey is installed on this host", remedy)),
        several => {
            let what = format!("{} are installed on this host", several.join(" and "));
            return Err(SetupError::wanted(what, "name the one to use with --redis-unit"));
        }
    };
    let path = unit_file(root, name)
        .ok_or_else(|| SetupError::wanted(format!("there is no unit file of {name} on this host"), remedy))?;
    let mut text = unit_text(&path)?;
    for path in drop_ins(root, name)? {
        let more = unit_text(&path)?;
        if path.file_name().is_some_and(|name| name > DROP_IN) && more.lines().any(is_command) {
            let what = format!("{} is read after {DROP_IN} and would overrule its ExecStart=", path.display());
            return Err(SetupError::wanted(what, "give it a name that sorts before"));
        }
        text.push('\n');
        text.push_str(&more);
    }
    understand(name, &text).ok_or_else(|| {
        let what = format!("{}: its ExecStart= names no server with a config file", path.display());
        SetupError::wanted(what, "start it as ExecStart=SERVER CONFIG ..., or use another unit")
    })
}

fn is_command(line: &str) -> bool {
    line.trim().strip_prefix("ExecStart").is_some_and(|rest| rest.trim_start().starts_with('='))
}

/// A unit file or drop-in; nothing of one that is too large to be one.
fn unit_text(path: &Path) -> Result<String, SetupError> {
    let size = fs::metadata(path).map(|meta| meta.len());
    let text = size.and_then(|size| if size > MAX_UNIT { Ok(String::new()) } else { fs::read_to_string(path) });
    text.map_err(|source| SetupError::Io { path: path.to_owned(), what: "reading the unit", source })
}

/// What others add to the unit, in the order in which it counts; ours is not among them.
fn drop_ins(root: &Path, name: &str) -> Result<Vec<PathBuf>, SetupError> {
    let mut found: BTreeMap<OsString, PathBuf> = BTreeMap::new();
    for dir in UNIT_DIRS.iter().map(|dir| root.join(dir).join(format!("{name}.d"))) {
        let fault = |source| SetupError::Io { path: dir.clone(), what: "looking for drop-ins", source };
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(fault(error)),
        };
        for entry in entries {
            let path = entry.map_err(fault)?.path();
            let Some(name) = path.file_name().filter(|_| path.extension().is_some_and(|end| end == "conf")) else {
                continue;
            };
            // The same name in an earlier directory stands for all.
            if name != DROP_IN && path.is_file() {
                found.entry(name.to_owned()).or_insert(path);
            }
        }
    }
    Ok(found.into_values().collect())
}

fn unit_file(root: &Path, name: &str) -> Option<PathBuf> {
    UNIT_DIRS.iter().map(|dir| root.join(dir).join(name)).find(|path| path.is_file())
}

fn understand(name: &str, text: &str) -> Option<Unit> {
    let value = |key: &str| {
        let lines = text.lines().filter_map(|line| line.trim().strip_prefix(key)?.trim_start().strip_prefix('='));
        lines.map(str::trim).rfind(|value| !value.is_empty())
    };
    let exec = value("ExecStart")?;
    if exec.ends_with('\\') {
        return None;
    }
    let config = exec.split_whitespace().skip(1).find(|word| word.starts_with('/') && word.ends_with(".conf"))?;
    let settings = Path::new(config).parent()?.join("mainstay.conf");
    let notifies = value("Type").is_some_and(|kind| kind.starts_with("notify"));
    let user = value("Group").or(value("User")).unwrap_or("root");
    let config = PathBuf::from(config);
    Some(Unit { name: name.to_owned(), exec: exec.to_owned(), notifies, group: user.to_owned(), settings, config })
}

impl Unit {
    /// Whether the instance's own config has an access list for the default user, as `CONFIG REWRITE` leaves one: read
    /// after everything else, it rules over any password.
    pub(super) fn has_access_list(&self, root: &Path) -> bool {
        let text = fs::read_to_string(super::plan::below(root, &self.config)).unwrap_or_default();
        text.lines().any(|line| line.trim_start().starts_with("user default "))
    }

    /// Where the drop-in lies.
    pub(super) fn drop_in_path(&self) -> PathBuf {
        Path::new("/etc/systemd/system").join(format!("{}.d", self.name)).join(DROP_IN)
    }

    /// The drop-in.
    pub(super) fn drop_in(&self) -> String {
        let (name, exec, settings) = (&self.name, &self.exec, self.settings.display());
        let kind = if self.notifies { STARTED } else { "" };
        format!(
            "# Written by `mainstay init`; `mainstay init --remove` takes it back.\n\
             \n\
             [Unit]\n\
             # However often it crashes, it is wanted back; meanwhile another instance is the primary.\n\
             StartLimitIntervalSec=0\n\
             # Started before the agent and stopped after it: when the host goes down, the agent hands over first.\n\
             Before=mainstay.service\n\
             \n\
             [Service]\n\
             {kind}# A replica of nowhere, whatever the config says: read-only and detached until the agents have agreed on a\n\
             # primary. An instance that crashed and comes back empty can wipe nobody.\n\
             ExecStart=\n\
             ExecStart={exec} --include {settings} --replicaof 127.0.0.1 1 --replica-read-only yes\n\
             # A primary hands over before it stops, within ten seconds; without an agent this does nothing.\n\
             ExecStop=\n\
             ExecStop=-+/usr/bin/mainstay release --unit {name}\n\
             Restart=always\n\
             RestartSec=250ms\n"
        )
    }

    /// The settings.
    pub(super) fn settings(&self, bind: &str, password: Option<&str>) -> String {
        let access = match password {
            Some(password) => {
                let quoted = quoted(password);
                format!("requirepass {quoted}\nmasterauth {quoted}\n")
            }
            None => "# No password: whoever reaches it may do everything.\nprotected-mode no\n".to_owned(),
        };
        format!(
            "# Written by `mainstay init`; `mainstay init --remove` takes it back.\n\
             # Read after the instance's own config, and rules over it.\n\
             \n\
             # Its host's addresses, and the VIP when it comes.\n\
             bind {bind}\n\
             {access}\n\
             # To the journal: a failover's reason quotes the last lines.\n\
             logfile \"\"\n\
             \n\
             # Until the agent runs: a sealed instance takes no write, keeps what it holds, and loads a full\n\
             # resynchronisation from disk, so that one that is cut short does not pass for data.\n\
             replica-read-only yes\n\
             replica-ignore-maxmemory yes\n\
             repl-diskless-load disabled\n\
             repl-diskless-sync-delay 0\n\
             repl-backlog-ttl 0\n\
             min-replicas-max-lag 1\n"
        )
    }
}

/// As the instance's config reads it.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIAN: &str = "[Unit]\nDescription=Advanced key-value store\n\n[Service]\nType=notify\n\
        ExecStart=/usr/bin/redis-server /etc/redis/redis.conf --supervised systemd --daemonize no\n\
        User=redis\nGroup=redis\nRestart=always\n";

    #[test]
    fn the_units_own_command_is_kept_and_overruled() {
        let unit = understand("redis-server.service", DEBIAN).expect("understood");
        assert_eq!(unit.settings, Path::new("/etc/redis/mainstay.conf"));
        assert_eq!(unit.group, "redis");
        let text = unit.drop_in();
        let exec = "ExecStart=\nExecStart=/usr/bin/redis-server /etc/redis/redis.conf --supervised systemd --daemonize no \
                    --include /etc/redis/mainstay.conf --replicaof 127.0.0.1 1 --replica-read-only yes\n";
        assert!(text.contains(exec), "{text}");
        assert!(text.contains("Type=exec\nNotifyAccess=main\n"), "{text}");
        let forks = understand("redis.service", &DEBIAN.replace("Type=notify", "Type=forking")).expect("understood");
        assert!(!forks.drop_in().contains("Type="), "{}", forks.drop_in());
        assert!(text.contains("ExecStop=\nExecStop=-+/usr/bin/mainstay release --unit redis-server.service\n"));
    }

    #[test]
    fn a_command_without_a_config_is_not_guessed_at() {
        assert_eq!(understand("x.service", "[Service]\nExecStart=/usr/bin/redis-server --port 6379\n"), None);
        assert_eq!(understand("x.service", "[Service]\nUser=redis\n"), None);
        assert_eq!(
            understand("x.service", "[Service]\nExecStart=/usr/bin/redis-server /etc/r.conf \\\n --port 1\n"),
            None
        );
    }

    #[test]
    fn a_password_survives_the_configs_own_quotes() {
        let unit = understand("redis-server.service", DEBIAN).expect("understood");
        let text = unit.settings("* -::*", Some("a\"b\\c"));
        assert!(text.contains("requirepass \"a\\\"b\\\\c\"\nmasterauth \"a\\\"b\\\\c\"\n"), "{text}");
        assert!(unit.settings("* -::*", None).contains("protected-mode no"));
    }
}
