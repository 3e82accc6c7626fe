//! From a sentinel.conf to a config of mainstay: what it says of this host, its group, its clients and the other hosts.
//!
//! [`import_sentinel`] writes what the file proves and nothing it would have to guess; whatever cannot be carried over
//! is a [`Note`] with its line, the reason and the remedy. The same group gives the same node names on every host,
//! since they follow from the hosts' addresses. What is printed is always a config that [`super::parse`] takes. It must
//! never print a password: the config names files, and a note says which line belongs into which.

mod read;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::path::Path;

use super::address::Host;
use super::timing::{DEFAULT_LEASE, MAX_HANG_AFTER_MS};
use super::{Faults, MAX_FILE};
use read::{Monitored, Source};

/// Where agents listen for each other.
const PEER_PORT: u16 = 7400;
/// Where Sentinel listens when its file names no port.
const SENTINEL_PORT: u16 = 26379;
/// What Sentinel waits when its file does not say, in milliseconds.
const SENTINEL_DOWN_AFTER: u64 = 30_000;

/// Something the config printed does not say, although the sentinel.conf does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// 1-based; none where it follows from the file as a whole.
    pub line: Option<usize>,
    /// What, and why not.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

/// What is wrong with the file itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// 1-based; none where it follows from the file as a whole.
    pub line: Option<usize>,
    /// What.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

/// A config, and what it lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// TOML that the config reader takes.
    pub config: String,
    /// In the order of lines, those of the whole file last.
    pub notes: Vec<Note>,
}

/// Why there is no config. `Display` names the lines; `path` is only shown.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// It is not there, or not readable.
    #[error("{path}: cannot be read: {source}")]
    Unreadable {
        /// As given.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Far beyond any sentinel.conf.
    #[error("{0}: is larger than 256 KiB; this is no sentinel.conf")]
    TooLarge(String),
    /// Bytes that are no text.
    #[error("{0}: is not UTF-8")]
    NotUtf8(String),
    /// It was read, and is wrong.
    #[error("{}", shown(.path, .problems))]
    Wrong {
        /// As given.
        path: String,
        /// All that is wrong.
        problems: Vec<Problem>,
    },
    /// A value that Sentinel takes and the config reader does not.
    #[error("{path}: the config made of it is not valid; correct what it names there:\n{faults}")]
    Invalid {
        /// As given.
        path: String,
        /// The reader's own words, about the config.
        faults: Faults,
    },
}

impl ImportError {
    /// The sysexits code: EX_NOINPUT (66), EX_NOPERM (77), else EX_DATAERR (65).
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            ImportError::Unreadable { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => 77,
            ImportError::Unreadable { .. } => 66,
            _ => 65,
        }
    }
}

fn shown(path: &str, problems: &[Problem]) -> String {
    let one = |problem: &Problem| {
        let place = place(path, problem.line);
        format!("{place}: error: {}\n  = help: {}", problem.what, problem.remedy)
    };
    problems.iter().map(one).collect::<Vec<_>>().join("\n\n")
}

fn place(path: &str, line: Option<usize>) -> String {
    line.map_or_else(|| path.to_owned(), |line| format!("{path}:{line}"))
}

impl Note {
    /// As the command line shows it.
    #[must_use]
    pub fn shown<'a>(&'a self, path: &'a str) -> impl fmt::Display + 'a {
        format!("{}: {}\n  = help: {}", place(path, self.line), self.what, self.remedy)
    }
}

/// Reads the file and makes a config of it; `own` is this host's address, where the file does not tell.
///
/// # Errors
/// If the file cannot be read, anything in it is wrong, or which host it belongs to cannot be told.
pub fn import_sentinel_file(path: &Path, own: Option<&Host>) -> Result<Imported, ImportError> {
    use std::io::Read as _;
    let shown = path.display().to_string();
    let unreadable = |source| ImportError::Unreadable { path: shown.clone(), source };
    // A FIFO without a writer would block for ever in open, so look first.
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        let source = std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a regular file");
        return Err(unreadable(source));
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(ImportError::TooLarge(shown));
    }
    let text = String::from_utf8(bytes).map_err(|_| ImportError::NotUtf8(shown.clone()))?;
    import_sentinel(&text, &shown, own)
}

/// Makes a config of the text of a sentinel.conf; `path` is only shown.
///
/// # Errors
/// As [`import_sentinel_file`].
pub fn import_sentinel(text: &str, path: &str, own: Option<&Host>) -> Result<Imported, ImportError> {
    let mut source = read::read(text);
    let wrong = |problems| ImportError::Wrong { path: path.to_owned(), problems };
    if source.groups.is_empty() && source.faults.is_empty() {
        source.faults.push(Problem {
            line: None,
            what: "no `sentinel monitor` in it".to_owned(),
            remedy: "give the file that Sentinel runs with, such as /etc/redis/sentinel.conf".to_owned(),
        });
    }
    if !source.faults.is_empty() {
        return Err(wrong(source.faults));
    }
    let place = Place::find(&mut source, own).map_err(|problem| wrong(vec![problem]))?;
    let config = write(&mut source, &place).map_err(|problem| wrong(vec![problem]))?;
    if let Err(faults) = super::parse(&config, "the config") {
        return Err(ImportError::Invalid { path: path.to_owned(), faults });
    }
    source.notes.sort_by_key(|note| note.line.unwrap_or(usize::MAX));
    Ok(Imported { config, notes: source.notes })
}

/// This host, and all hosts.
struct Place {
    own: Host,
    /// In the order of their addresses, so that each host's file gives them the same names.
    hosts: Vec<Host>,
}

/// As the file writes a host.
fn host(text: &str) -> Option<Host> {
    text.parse().ok()
}

impl Place {
    fn find(source: &mut Source, own: Option<&Host>) -> Result<Self, Problem> {
        let bad = |line: Option<usize>, what: String, remedy: &str| Problem { line, what, remedy: remedy.to_owned() };
        let named = |line: usize, text: &str| {
            let no_host = || format!("`{}` is no address and no host name", text.escape_default());
            host(text).ok_or_else(|| bad(Some(line), no_host(), "write an IP address or a host name"))
        };
        let (mut instances, mut sentinels, mut here) = (BTreeSet::new(), BTreeSet::new(), false);
        for group in &source.groups {
            for (text, _) in std::iter::once(&group.primary).chain(&group.replicas) {
                let host = named(group.line, text)?;
                here |= host.is_loopback();
                if !host.is_loopback() {
                    instances.insert(host);
                }
            }
            for text in &group.sentinels {
                sentinels.insert(named(group.line, text)?);
            }
        }
        let own = match (own, &source.announce_ip) {
            (Some(own), _) => own.clone(),
            (None, Some((line, ip))) => named(*line, ip)?,
            (None, None) => guess(source, &instances, &sentinels, here).ok_or_else(|| {
                let what = "which of its hosts this file belongs to cannot be told from it".to_owned();
                bad(None, what, "say it: --address IP, the address at which the other hosts reach this one")
            })?,
        };
        sentinels.remove(&own);
        if let Some(other) = sentinels.iter().find(|other| other.is_loopback()) {
            let what = format!("another Sentinel is on this host, at {other}");
            return Err(bad(
                None,
                what,
                "mainstay runs one agent on a host; `sh run-node.sh` shows three on one machine",
            ));
        }
        for host in instances.iter().filter(|host| **host != own && !sentinels.contains(*host)) {
            let what = format!("{host} has an instance and no Sentinel");
            source.note(None, what, "an agent runs beside every instance: install one there as well");
        }
        let hosts = instances.into_iter().chain(sentinels).chain([own.clone()]);
        let hosts: Vec<Host> = hosts.collect::<BTreeSet<_>>().into_iter().collect();
        let remedy = match hosts.len() {
            1 | 2 => "add others to [cluster] members, if only a witness: with fewer than three nodes no host may fail",
            n if n % 2 == 0 => "one of them votes only when another is gone; an odd number uses all: add a witness",
            _ => "",
        };
        if !remedy.is_empty() {
            source.note(None, format!("the file knows of {} host(s)", hosts.len()), remedy);
        }
        Ok(Self { own, hosts })
    }

    fn name(&self, of: &Host) -> String {
        format!("n{}", self.hosts.iter().position(|host| host == of).map_or(1, |at| at + 1))
    }
}

/// This host's address, if only one can be meant.
fn guess(source: &Source, instances: &BTreeSet<Host>, sentinels: &BTreeSet<Host>, here: bool) -> Option<Host> {
    let usable = |host: &Host| !host.is_loopback() && host.ip().is_none_or(|ip| !ip.is_unspecified());
    let bound = source.bind.iter().flat_map(|(_, words)| words).filter_map(|word| host(word.trim_start_matches('-')));
    let bound: Vec<Host> = bound.filter(usable).collect();
    if let [only] = bound.as_slice() {
        return Some(only.clone());
    }
    // Every other host with an instance has a Sentinel that this one knows: the one without is this.
    let mut left = instances.difference(sentinels);
    match (left.next(), left.next(), sentinels.is_empty() || here) {
        (Some(only), None, false) => Some(only.clone()),
        _ => None,
    }
}

fn write(source: &mut Source, place: &Place) -> Result<String, Problem> {
    let mut out = String::from(
        "# Made of a sentinel.conf by `mainstay import-sentinel`: read it, and what was said beside it.\n",
    );
    let hosts: Vec<String> =
        place.hosts.iter().map(|host| format!("{} = \"{host}:{PEER_PORT}\"", place.name(host))).collect();
    let _ = write!(
        out,
        "[node]\nname = \"{}\"\naddress = \"{}:{PEER_PORT}\"\n\n[cluster]\nname = \"{}\"\nmembers = {{ {} }}\n",
        place.name(&place.own),
        place.own,
        source.groups.first().map_or("", |group| &group.name),
        hosts.join(", "),
    );
    let hang_after = hang_after(source);
    if let Some(ms) = hang_after {
        let _ = write!(out, "\n[timing]\nhang_after_ms = {ms}\n");
    }
    for group in source.groups.clone() {
        quorum(source, &group, place.hosts.len());
        match instance(&group, place)? {
            Some(port) => write_group(&mut out, source, &group, port, place),
            None => source.note(
                Some(group.line),
                format!("no instance of {} is known on {}: the config has no such group", group.name, place.own),
                "right for a witness; else give this host's address: --address IP",
            ),
        }
    }
    write_endpoint(&mut out, source, place);
    if out.contains("[[group]]") {
        source.note(
            None,
            "how an instance is reached from its own host is taken to be 127.0.0.1",
            "where Redis does not listen there, write its address as redis in [[group]]",
        );
    }
    source.note(
        None,
        "priorities stand in each redis.conf (replica-priority)",
        "set priority in [[group]] where it is not 100: in mainstay the higher one is preferred; 0 is never promoted",
    );
    Ok(out)
}

/// What Sentinel waits for a silent instance is what an agent waits for one that is alive and silent.
fn hang_after(source: &mut Source) -> Option<u64> {
    let said: Vec<(usize, u64)> = source.groups.iter().filter_map(|group| group.down_after).collect();
    let (line, longest) = said.iter().copied().max_by_key(|(_, ms)| *ms)?;
    let ms = longest.clamp(DEFAULT_LEASE.as_millis() as u64, MAX_HANG_AFTER_MS);
    let mut what = format!("down-after-milliseconds {longest} becomes hang_after_ms = {ms}");
    if said.iter().any(|(_, other)| *other != longest) || said.len() < source.groups.len() {
        let _ = write!(what, ", for all groups (Sentinel's own default is {SENTINEL_DOWN_AFTER})");
    }
    let remedy = "it is the patience with an instance that is alive and silent; a dead process or host is noticed \
                  within [timing] lease_ms = 800, whatever stands here";
    source.note(Some(line), what, remedy);
    Some(ms)
}

fn quorum(source: &mut Source, group: &Monitored, hosts: usize) {
    let majority = hosts / 2 + 1;
    if group.quorum != majority && hosts > 1 {
        source.note(
            Some(group.line),
            format!(
                "the quorum {} of {}: mainstay always decides by a majority, {majority} of {hosts}",
                group.quorum, group.name
            ),
            "nothing to do",
        );
    }
}

/// The port of the group's instance on this host, if it has one.
fn instance(group: &Monitored, place: &Place) -> Result<Option<u16>, Problem> {
    let here = |(text, port): &(String, u16)| {
        let host = host(text)?;
        (host == place.own || host.is_loopback()).then_some(*port)
    };
    let ports: BTreeSet<u16> = std::iter::once(&group.primary).chain(&group.replicas).filter_map(here).collect();
    match ports.iter().copied().collect::<Vec<_>>().as_slice() {
        [] => Ok(None),
        [port] => Ok(Some(*port)),
        several => Err(Problem {
            line: Some(group.line),
            what: format!("{} has several instances on this host, at ports {several:?}", group.name),
            remedy: "mainstay keeps one instance of a group on a host: remove the others from the group first"
                .to_owned(),
        }),
    }
}

fn write_group(out: &mut String, source: &mut Source, group: &Monitored, port: u16, place: &Place) {
    let name = &group.name;
    let _ = write!(
        out,
        "\n[[group]]\nname = \"{name}\"\nredis = \"127.0.0.1:{port}\"\nannounce = \"{}:{port}\"\n# redis_unit = \"redis-server.service\"\n\
         # vip = \"ADDRESS/PREFIX\"\n# interface = \"eth0\"\n",
        place.own
    );
    let password = format!("/etc/mainstay/{name}.password");
    match (&group.user, group.password) {
        (Some((line, _)), None) => source.note(
            Some(*line),
            format!("auth-user of {name} has no auth-pass beside it"),
            "where the user has a password, add redis_username and redis_password_file",
        ),
        (user, Some(line)) => {
            if let Some((_, user)) = user {
                let _ = writeln!(out, "redis_username = {}", quoted(user));
            }
            let _ = writeln!(out, "redis_password_file = \"{password}\"");
            source.note(
                Some(line),
                format!("the password of {name} is not printed"),
                format!("write it into {password}, mode 0640 and group mainstay"),
            );
        }
        (None, None) => {}
    }
}

/// A TOML string.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn write_endpoint(out: &mut String, source: &mut Source, place: &Place) {
    let port = match source.port {
        Some((line, 0)) => {
            source.note(
                Some(line),
                "port 0: Sentinel listened for TLS alone",
                format!("clients find the endpoint at port {SENTINEL_PORT}, in clear"),
            );
            SENTINEL_PORT
        }
        Some((_, port)) => port,
        None => SENTINEL_PORT,
    };
    let wildcard = if place.own.ip().is_some_and(|ip| ip.is_ipv6()) { "[::]" } else { "0.0.0.0" };
    let mut listen = wildcard.to_owned();
    if let Some((line, words)) = source.bind.clone() {
        let bound: Vec<Host> = words.iter().filter_map(|word| host(word.trim_start_matches('-'))).collect();
        match bound.as_slice() {
            [only] if only.ip().is_some() => listen = only.to_string(),
            several if several.contains(&place.own) && place.own.ip().is_some() => {
                listen = place.own.to_string();
                source.note(
                    Some(line),
                    format!("`bind` with several addresses: the endpoint listens at {}", place.own),
                    format!("one address, or {wildcard} for all: [sentinel] listen"),
                );
            }
            several if !several.is_empty() && several.iter().all(Host::is_loopback) => {
                "127.0.0.1".clone_into(&mut listen)
            }
            _ => {}
        }
    }
    let _ = write!(out, "\n[sentinel]\nlisten = \"{listen}:{port}\"\n");
    if let Some(line) = source.password {
        let file = "/etc/mainstay/sentinel.password";
        let _ = writeln!(out, "password_file = \"{file}\"");
        source.note(
            Some(line),
            "the password that Sentinel's clients give is not printed",
            format!("write it into {file}, mode 0640 and group mainstay"),
        );
    }
    if let Some((line, other)) = source.announce_port.filter(|(_, other)| *other != port) {
        source.note(
            Some(line),
            format!("announce-port {other}: the endpoint names the port at which it listens"),
            "let it listen at the port by which clients come, where nothing maps one to the other",
        );
    }
}
