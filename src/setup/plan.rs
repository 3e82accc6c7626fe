//! From what the operator wants to the files that say so, validated by the config's own reader.

use super::args::InitArgs;
use super::ask::Asker;
use super::config_text::{Answers, GroupAnswers};
use super::instance::{self, Unit};
use super::{CONFIG, GROUP, KEY, PASSWORD, SetupError};
use crate::config::{self, HostPort, RedisAddress};
use crate::wire;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// The port an agent listens on, by custom.
const AGENT_PORT: u16 = 7400;
/// And an instance.
const REDIS_PORT: u16 = 6379;
/// A key or password file is no larger.
const MAX_SECRET: u64 = 4096;

/// What is to be written.
#[derive(Debug, Clone)]
pub struct Plan {
    pub(super) files: Vec<FileToWrite>,
    /// What is left to do that needs a hand or another host.
    pub next: Vec<String>,
    /// The instance's unit.
    pub(super) unit: Option<String>,
}

/// One file.
#[derive(Debug, Clone)]
pub(super) struct FileToWrite {
    /// As on the host; absolute.
    pub(super) path: PathBuf,
    pub(super) content: Content,
    pub(super) mode: u32,
    /// The group that owns it; the user is root.
    pub(super) group: Option<String>,
}

/// What a file is to hold.
#[derive(Debug, Clone)]
pub(super) enum Content {
    /// This.
    Text(String),
    /// What it holds already: only its owner and mode are seen to.
    Kept,
}

impl Plan {
    /// All files with their contents, for `--dry-run`; secrets are left out.
    pub fn preview(&self) -> String {
        let mut out = String::new();
        for file in &self.files {
            let (path, mode) = (file.path.display(), file.mode);
            let group = file.group.as_deref().unwrap_or("root");
            out.push_str(&format!("==> {path} (mode {mode:04o}, root:{group})\n"));
            match &file.content {
                Content::Kept => out.push_str("(kept as it is)\n"),
                Content::Text(_) if file.path == Path::new(KEY) || file.path == Path::new(PASSWORD) => {
                    out.push_str("(a secret)\n");
                }
                Content::Text(text) => {
                    for line in text.lines() {
                        let secret = ["requirepass ", "masterauth "].iter().find(|word| line.starts_with(*word));
                        out.push_str(secret.map_or(line, |word| word));
                        out.push_str(if secret.is_some() { "(a secret)\n" } else { "\n" });
                    }
                }
            }
            out.push('\n');
        }
        out
    }
}

/// What these arguments, and the answers to what they leave out, come to.
///
/// # Errors
/// An answer is missing, or what they come to is no valid config.
pub fn plan(args: &InitArgs) -> Result<Plan, SetupError> {
    if args.instance_only {
        return of_the_instance(args);
    }
    let asker = Asker::new(args.yes);
    let mut files = Vec::new();
    let instance = if args.witness { None } else { Some(instance::find(&args.root, args.redis_unit.as_deref())?) };
    let secret = match &instance {
        Some(_) => password(args, asker)?,
        None => Secret::None,
    };
    let answers = answers(args, asker, instance.as_ref(), !matches!(secret, Secret::None))?;
    let text = answers.render();
    config::parse(&text, CONFIG).map_err(|faults| SetupError::Config { faults: faults.to_string() })?;
    let ours = |path: &str, content| FileToWrite {
        path: PathBuf::from(path),
        content,
        mode: 0o640,
        group: Some(GROUP.to_owned()),
    };
    files.push(ours(CONFIG, Content::Text(text)));
    let (key, new_key) = key(args)?;
    files.push(ours(KEY, key));
    let password = match &secret {
        Secret::None => None,
        Secret::InPlace(text) => {
            files.push(ours(PASSWORD, Content::Kept));
            Some(text.as_str())
        }
        Secret::New(text) | Secret::Copied(text) => {
            files.push(ours(PASSWORD, Content::Text(format!("{text}\n"))));
            Some(text.as_str())
        }
    };
    if let Some(unit) = &instance {
        files.extend(instance_files(args, unit, password));
    }
    let next = next(args, instance.as_ref(), new_key, &secret);
    Ok(Plan { files, next, unit: instance.map(|unit| unit.name) })
}

/// Its settings and its drop-in.
fn instance_files(args: &InitArgs, unit: &Unit, password: Option<&str>) -> [FileToWrite; 2] {
    let settings = Content::Text(unit.settings(&args.redis_bind, password));
    let drop_in = Content::Text(unit.drop_in());
    [
        FileToWrite { path: unit.settings.clone(), content: settings, mode: 0o640, group: Some(unit.group.clone()) },
        FileToWrite { path: unit.drop_in_path(), content: drop_in, mode: 0o644, group: None },
    ]
}

/// What a host's config, which is there, wants of its instance: after the package was removed and installed again.
fn of_the_instance(args: &InitArgs) -> Result<Plan, SetupError> {
    let path = below(&args.root, Path::new(CONFIG));
    let text = fs::read_to_string(&path).map_err(|source| SetupError::Io {
        path: path.clone(),
        what: "reading it",
        source,
    })?;
    let (config, _) =
        config::parse(&text, CONFIG).map_err(|faults| SetupError::Config { faults: faults.to_string() })?;
    let group = match config.groups.as_slice() {
        [group] => group,
        [] => return Err(SetupError::wanted(format!("{CONFIG} has no [[group]]: there is no instance here"), "")),
        _ => {
            let remedy = "write the settings and the drop-in of each instance by hand";
            return Err(SetupError::wanted(format!("{CONFIG} has several groups"), remedy));
        }
    };
    let unit = instance::find(&args.root, args.redis_unit.as_deref().or(group.unit.as_deref()))?;
    let password = group.password_file.as_ref().map(|file| one_line(&below(&args.root, file))).transpose()?;
    let files = instance_files(args, &unit, password.as_deref()).into();
    let next = next(args, Some(&unit), false, &Secret::None);
    Ok(Plan { files, next, unit: Some(unit.name) })
}

fn answers(args: &InitArgs, asker: Asker, unit: Option<&Unit>, password: bool) -> Result<Answers, SetupError> {
    let name = asker.value(args.name.clone(), "this node's name", "--name", host_name())?;
    let address = asker.value(
        args.address.clone(),
        &format!("where peers reach this agent, HOST:PORT (port {AGENT_PORT} by custom)"),
        "--address",
        None,
    )?;
    let cluster = asker.value(args.cluster.clone(), "the cluster's name", "--cluster", Some("main".to_owned()))?;
    let mut members = args.members.clone();
    let mut join = args.join.clone();
    if members.is_empty() && join.is_empty() {
        let seed = asker.optional(None::<HostPort>, "an agent of a running cluster to join, HOST:PORT")?;
        join.extend(seed);
    }
    if join.is_empty() {
        if members.is_empty() {
            members = ask_members(asker)?;
        }
        if !members.iter().any(|(member, _)| *member == name) {
            members.insert(0, (name.clone(), address.clone()));
        }
    }
    let group = match unit {
        None => None,
        Some(unit) => Some(group_answers(args, asker, unit, &address, password)?),
    };
    Ok(Answers { name, address, cluster, members, join, group, sentinel: args.sentinel, http: args.http })
}

fn ask_members(asker: Asker) -> Result<Vec<(String, HostPort)>, SetupError> {
    if !asker.somebody() {
        let remedy = "give --members n1=HOST:PORT,n2=HOST:PORT,... with all first nodes, or --join HOST:PORT";
        return Err(SetupError::wanted("not known: which nodes form the cluster", remedy));
    }
    let mut members = Vec::new();
    loop {
        let question = "another first node of the cluster, its name";
        let Some(name) = asker.optional(None::<String>, question)? else { return Ok(members) };
        let address = asker.value(None::<HostPort>, &format!("{name}'s agent, HOST:PORT"), "--members", None)?;
        members.push((name, address));
    }
}

fn group_answers(
    args: &InitArgs,
    asker: Asker,
    unit: &Unit,
    address: &HostPort,
    password: bool,
) -> Result<GroupAnswers, SetupError> {
    let name = asker.value(args.group.clone(), "the group's name", "--group", Some("mymaster".to_owned()))?;
    let redis = match &args.redis {
        Some(redis) => redis.clone(),
        None => format!("127.0.0.1:{REDIS_PORT}")
            .parse::<RedisAddress>()
            .map_err(|error| SetupError::wanted(error.to_string(), "give --redis"))?,
    };
    let port = redis.tcp().map_or(REDIS_PORT, |tcp| tcp.port);
    let announce = args.announce.clone().unwrap_or_else(|| HostPort { host: address.host.clone(), port });
    let vip = match (args.vip, args.no_vip) {
        (_, true) => None,
        (given, false) => asker.optional(given, "the floating address, ADDRESS/PREFIX")?,
    };
    if vip.is_none() && !args.no_vip && !asker.somebody() {
        let remedy = "give --vip ADDRESS/PREFIX, or --no-vip for discovery through Sentinel only";
        return Err(SetupError::wanted("not known: the floating address", remedy));
    }
    let vip = match vip {
        None => None,
        Some(vip) => {
            let usual = address.ip().and_then(interface_of);
            let question = "the interface that carries it (`ip -br link` lists them)";
            Some((vip, asker.value(args.interface.clone(), question, "--interface", usual)?))
        }
    };
    Ok(GroupAnswers {
        name,
        redis,
        announce,
        password,
        unit: unit.name.clone(),
        vip,
        priority: args.priority,
        durability: args.durability.clone(),
    })
}

fn host_name() -> Option<String> {
    let name = nix::unistd::gethostname().ok()?.into_string().ok()?;
    let short = name.split('.').next()?.to_owned();
    (!short.is_empty() && short != "localhost").then_some(short)
}

fn interface_of(ip: IpAddr) -> Option<String> {
    let mut all = nix::ifaddrs::getifaddrs().ok()?;
    let found = all.find(|entry| {
        let storage = entry.address.as_ref();
        let v4 = storage.and_then(|at| at.as_sockaddr_in()).map(|at| IpAddr::V4(at.ip()));
        let v6 = storage.and_then(|at| at.as_sockaddr_in6()).map(|at| IpAddr::V6(at.ip()));
        v4.or(v6) == Some(ip)
    })?;
    Some(found.interface_name)
}

/// The instance's password.
enum Secret {
    None,
    InPlace(String),
    Copied(String),
    New(String),
}

fn password(args: &InitArgs, asker: Asker) -> Result<Secret, SetupError> {
    if args.no_redis_password {
        return Ok(Secret::None);
    }
    if let Some(file) = &args.redis_password_file {
        return Ok(Secret::Copied(one_line(file)?));
    }
    let place = below(&args.root, Path::new(PASSWORD));
    if place.exists() && !args.new_redis_password {
        return Ok(Secret::InPlace(one_line(&place)?));
    }
    let wanted = args.new_redis_password
        || matches!(
            asker.optional(None::<String>, "`new` for a new password of the group's instances")?.as_deref(),
            Some("new" | "yes" | "y")
        );
    if wanted {
        let text = wire::generate_key().map_err(|error| SetupError::wanted(error.to_string(), ""))?;
        return Ok(Secret::New(text.replace(['+', '/', '='], "")));
    }
    if asker.somebody() {
        return Ok(Secret::None);
    }
    let remedy = "give --new-redis-password on the first host, --redis-password-file with a copy of its \
                  /etc/mainstay/redis.password on the others, or --no-redis-password for none";
    Err(SetupError::wanted("not known: the password of the group's instances", remedy))
}

/// What is in the file, which holds a secret in one line.
fn one_line(path: &Path) -> Result<String, SetupError> {
    let text = read_secret(path)?;
    let line = text.trim_end_matches(['\n', '\r']);
    if line.is_empty() || line.chars().any(char::is_control) {
        let what = format!("{}: holds no password in one line", path.display());
        return Err(SetupError::wanted(what, "a password is one line without control characters"));
    }
    Ok(line.to_owned())
}

fn read_secret(path: &Path) -> Result<String, SetupError> {
    let fault = |source| SetupError::Io { path: path.to_owned(), what: "reading it", source };
    let size = fs::metadata(path).map_err(fault)?.len();
    if size > MAX_SECRET {
        return Err(fault(io::Error::new(io::ErrorKind::InvalidData, "it is too large for what it should hold")));
    }
    fs::read_to_string(path).map_err(fault)
}

/// The cluster's key, and whether it is a new one that the other hosts need.
fn key(args: &InitArgs) -> Result<(Content, bool), SetupError> {
    let place = below(&args.root, Path::new(KEY));
    let source = args.key_file.clone().or_else(|| place.exists().then(|| place.clone()));
    match source {
        Some(path) => {
            let text = read_secret(&path)?;
            wire::parse_key_file(&text).map_err(|error| {
                SetupError::wanted(format!("{}: {error}", path.display()), "`mainstay keygen` prints a new key")
            })?;
            Ok(if args.key_file.is_some() { (Content::Text(text), false) } else { (Content::Kept, false) })
        }
        None => {
            let key = wire::generate_key().map_err(|error| SetupError::wanted(error.to_string(), ""))?;
            Ok((Content::Text(format!("{key}\n")), true))
        }
    }
}

fn next(args: &InitArgs, unit: Option<&Unit>, new_key: bool, secret: &Secret) -> Vec<String> {
    let mut next = Vec::new();
    let mut copy = Vec::new();
    if new_key {
        copy.push(KEY);
    }
    if matches!(secret, Secret::New(_)) {
        copy.push(PASSWORD);
    }
    if !copy.is_empty() {
        next.push(format!(
            "copy {} to the same place on every other host, before `mainstay init` there",
            copy.join(" and ")
        ));
    }
    if let Some(unit) = unit.filter(|unit| unit.has_access_list(&args.root)) {
        let config = unit.config.display();
        next.push(format!(
            "see the line `user default ...` of {config}: it rules over the password; remove it, unless it is meant"
        ));
    }
    next
}

/// A file's place below the root.
pub(super) fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}
