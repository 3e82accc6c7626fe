//! A sentinel.conf as Redis and Valkey write and read it: lines of words, quoted as their config files quote.
//!
//! Reads what a config of mainstay can be made of into a [`Source`]; every other setting becomes a note with its line,
//! its reason and what to do instead. A value that Sentinel itself would refuse is a fault. Passwords are noticed and
//! never kept: nothing that is printed later can hold one.

use super::{Note, Problem};

/// One line's words, unquoted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) no: usize,
    pub(super) words: Vec<String>,
}

/// One `sentinel monitor` and what else is said of it.
#[derive(Debug, Default, Clone)]
pub(super) struct Monitored {
    pub(super) line: usize,
    pub(super) name: String,
    pub(super) primary: (String, u16),
    pub(super) quorum: usize,
    /// The line of its password.
    pub(super) password: Option<usize>,
    pub(super) user: Option<(usize, String)>,
    pub(super) down_after: Option<(usize, u64)>,
    pub(super) replicas: Vec<(String, u16)>,
    pub(super) sentinels: Vec<String>,
}

/// All that is carried over.
#[derive(Debug, Default)]
pub(super) struct Source {
    pub(super) groups: Vec<Monitored>,
    pub(super) port: Option<(usize, u16)>,
    pub(super) bind: Option<(usize, Vec<String>)>,
    pub(super) announce_ip: Option<(usize, String)>,
    pub(super) announce_port: Option<(usize, u16)>,
    /// The line of the password that the Sentinel's own clients give.
    pub(super) password: Option<usize>,
    pub(super) notes: Vec<Note>,
    pub(super) faults: Vec<Problem>,
}

/// Why a line has no words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unquoted {
    /// No closing quote.
    Open,
    /// Something other than a blank behind the closing quote.
    Glued,
}

/// Splits a line as Redis does: blanks separate, `"…"` knows escapes, `'…'` knows only `\'`.
pub(super) fn split(line: &str) -> Result<Vec<String>, Unquoted> {
    let mut words = Vec::new();
    let mut rest = line.chars().peekable();
    loop {
        while rest.next_if(|c| c.is_ascii_whitespace()).is_some() {}
        let Some(first) = rest.peek().copied() else { return Ok(words) };
        let mut word = Vec::new();
        let mut quote = None;
        if first == '"' || first == '\'' {
            quote = rest.next();
        }
        loop {
            match (quote, rest.next()) {
                (Some(_), None) => return Err(Unquoted::Open),
                (None, None) => break,
                (Some(open), Some(c)) if c == open => match rest.peek() {
                    Some(next) if !next.is_ascii_whitespace() => return Err(Unquoted::Glued),
                    _ => break,
                },
                (Some('"'), Some('\\')) => escape(&mut rest, &mut word)?,
                (Some(_), Some('\\')) if rest.peek() == Some(&'\'') => word.extend(rest.next().map(|c| c as u8)),
                (None, Some(c)) if c.is_ascii_whitespace() => break,
                // In the middle of a word a quote opens as well.
                (None, Some(c @ ('"' | '\''))) => quote = Some(c),
                (_, Some(c)) => word.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        words.push(String::from_utf8_lossy(&word).into_owned());
    }
}

fn escape(rest: &mut std::iter::Peekable<std::str::Chars<'_>>, word: &mut Vec<u8>) -> Result<(), Unquoted> {
    let c = rest.next().ok_or(Unquoted::Open)?;
    let digits: String = rest.clone().take(2).collect();
    match c {
        'x' if digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit()) => {
            word.push(u8::from_str_radix(&digits, 16).unwrap_or_default());
            rest.nth(1);
        }
        'n' => word.push(b'\n'),
        'r' => word.push(b'\r'),
        't' => word.push(b'\t'),
        'b' => word.push(8),
        'a' => word.push(7),
        other => word.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
    }
    Ok(())
}

/// Reads the whole text.
pub(super) fn read(text: &str) -> Source {
    let mut source = Source::default();
    let mut state = None;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (at, raw) in text.lines().enumerate() {
        let no = at + 1;
        let raw = raw.trim();
        if raw.is_empty() || raw.starts_with('#') {
            continue;
        }
        let words = match split(raw) {
            Ok(words) => words,
            Err(why) => {
                let (what, remedy) = match why {
                    Unquoted::Open => ("a quote is not closed on its line", "close it, or escape it as \\\""),
                    Unquoted::Glued => ("text follows a closing quote directly", "put a blank behind the quote"),
                };
                source.fault(no, what, remedy);
                continue;
            }
        };
        let line = Line { no, words };
        if is_state(&line) {
            state.get_or_insert(no);
        }
        source.take(&line);
    }
    if let Some(no) = state {
        source.note(
            Some(no),
            "myid, epochs and runids are Sentinel's own state",
            "agents keep theirs in data_dir; remove nothing, write nothing",
        );
    }
    source
}

/// What Sentinel itself appends and nobody sets.
fn is_state(line: &Line) -> bool {
    let option = line.words.get(1).map(|word| word.to_ascii_lowercase());
    let names = ["myid", "current-epoch", "config-epoch", "leader-epoch"];
    line.words[0].eq_ignore_ascii_case("sentinel") && option.is_some_and(|word| names.contains(&word.as_str()))
}

impl Source {
    pub(super) fn note(&mut self, line: Option<usize>, what: impl Into<String>, remedy: impl Into<String>) {
        self.notes.push(Note { line, what: what.into(), remedy: remedy.into() });
    }

    pub(super) fn fault(&mut self, line: usize, what: impl Into<String>, remedy: impl Into<String>) {
        self.faults.push(Problem { line: Some(line), what: what.into(), remedy: remedy.into() });
    }

    fn take(&mut self, line: &Line) {
        let name = line.words[0].to_ascii_lowercase();
        if name == "sentinel" {
            self.take_sentinel(line);
            return;
        }
        let value = line.words.get(1).cloned().unwrap_or_default();
        match name.as_str() {
            "port" => self.port = self.number(line, 1, 0..=65535).map(|port| (line.no, port as u16)),
            "bind" => self.bind = Some((line.no, line.words[1..].to_vec())),
            "requirepass" if value.is_empty() => {}
            "requirepass" => self.password = Some(line.no),
            // As Sentinel itself writes down the default user.
            "user"
                if value == "default"
                    && (self.password.is_some() || line.words.iter().any(|word| word == "nopass")) => {}
            "user" | "aclfile" => self.note(
                Some(line.no),
                format!("`{name}`: the ACL users of Sentinel's own clients"),
                "the endpoint knows one user: name it in [sentinel] username, with its password in the file of password_file",
            ),
            "include" => self.note(
                Some(line.no),
                format!("`include {value}`: other files are not read"),
                "put its lines here and run the command again",
            ),
            "unixsocket" | "unixsocketperm" => self.note(
                Some(line.no),
                format!("`{name}`: the endpoint listens on TCP only"),
                "let local clients use [sentinel] listen",
            ),
            "tls-port" | "tls-replication" => self.note(
                Some(line.no),
                format!("`{name}`: neither the endpoint nor the agent's own connection to Redis speaks TLS"),
                "agents among themselves are encrypted always; let clients come in clear, or through a tunnel",
            ),
            // What TLS would have used goes with it; what concerns the process belongs to its unit.
            _ if name.starts_with("tls-") => {}
            "daemonize"
            | "pidfile"
            | "logfile"
            | "loglevel"
            | "dir"
            | "supervised"
            | "syslog-enabled"
            | "syslog-ident"
            | "syslog-facility"
            | "proc-title-template"
            | "set-proc-title"
            | "always-show-logo"
            | "latency-tracking-info-percentiles"
            | "protected-mode"
            | "locale-collate"
            | "acllog-max-len" => {}
            "maxclients" | "timeout" | "tcp-keepalive" | "tcp-backlog" => {
                self.note(Some(line.no), format!("`{name}`: the endpoint has its own bounds"), "nothing to do")
            }
            _ => self.note(
                Some(line.no),
                format!("`{name}` is no setting of Sentinel that mainstay knows"),
                "look whether you still need what it did",
            ),
        }
    }

    fn take_sentinel(&mut self, line: &Line) {
        let Some(option) = line.words.get(1).map(|word| word.to_ascii_lowercase()) else {
            self.fault(line.no, "`sentinel` alone says nothing", "remove the line");
            return;
        };
        match option.as_str() {
            "monitor" => self.monitor(line),
            "announce-ip" => {
                if let Some(ip) = self.words(line, 3).filter(|words| !words[2].is_empty()) {
                    self.announce_ip = Some((line.no, ip[2].clone()));
                }
            }
            "announce-port" => {
                let port = self.number(line, 2, 0..=65535).filter(|port| *port != 0);
                self.announce_port = port.map(|port| (line.no, port as u16));
            }
            "resolve-hostnames" | "announce-hostnames" => self.hostnames(line, &option),
            "sentinel-user" | "sentinel-pass" => self.note(
                Some(line.no),
                format!("`{option}`: how Sentinels log in to each other"),
                "agents prove themselves by the cluster's key (`mainstay keygen`)",
            ),
            "deny-scripts-reconfig" => {}
            "myid" | "current-epoch" => {}
            _ => self.of_group(line, &option),
        }
    }

    fn hostnames(&mut self, line: &Line, option: &str) {
        if line.words.get(2).is_some_and(|word| word.eq_ignore_ascii_case("yes")) {
            let remedy = match option {
                "resolve-hostnames" => "host names are taken as they are written; a literal address needs no resolver",
                _ => "write the name as `announce` in [[group]]: clients get what stands there",
            };
            self.note(Some(line.no), format!("`{option} yes` is no setting here"), remedy);
        }
    }

    fn monitor(&mut self, line: &Line) {
        let Some(words) = self.words(line, 6) else { return };
        let (name, host) = (words[2].clone(), words[3].clone());
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > 63 || !name.chars().all(good) || !name.starts_with(char::is_alphanumeric) {
            self.fault(
                line.no,
                format!("mainstay cannot have a group named `{}`", name.escape_default()),
                "1 to 63 letters, digits, `-`, `_` or `.`, a letter or digit first: rename it here, and in the clients",
            );
            return;
        }
        if self.groups.iter().any(|group| group.name == name) {
            self.fault(line.no, format!("`{name}` is monitored twice"), "remove one of the two lines");
            return;
        }
        let port = self.number(line, 4, 1..=65535);
        let quorum = self.number(line, 5, 1..=1_000_000);
        let (Some(port), Some(quorum)) = (port, quorum) else { return };
        self.groups.push(Monitored {
            line: line.no,
            name,
            primary: (host, port as u16),
            quorum: quorum as usize,
            ..Monitored::default()
        });
    }

    /// The options whose second word is a group.
    fn of_group(&mut self, line: &Line, option: &str) {
        let known = [
            "auth-pass",
            "auth-user",
            "down-after-milliseconds",
            "parallel-syncs",
            "failover-timeout",
            "notification-script",
            "client-reconfig-script",
            "rename-command",
            "master-reboot-down-after-period",
            "primary-reboot-down-after-period",
            "config-epoch",
            "leader-epoch",
            "known-slave",
            "known-replica",
            "known-sentinel",
        ];
        if !known.contains(&option) {
            self.note(
                Some(line.no),
                format!("`sentinel {}` is no setting that mainstay knows", option.escape_default()),
                "look whether you still need what it did",
            );
            return;
        }
        let least = if matches!(option, "known-slave" | "known-replica" | "known-sentinel") { 5 } else { 4 };
        let Some(words) = self.words(line, least) else { return };
        let Some(at) = self.groups.iter().position(|group| group.name == words[2]) else {
            // Words in the wrong order may show a password where the name belongs.
            let name =
                if option == "auth-pass" { "a group".to_owned() } else { format!("`{}`", words[2].escape_default()) };
            self.fault(
                line.no,
                format!("`{option}` names {name} which no line before it monitors"),
                "put `sentinel monitor` before it, or correct the name",
            );
            return;
        };
        match option {
            "auth-pass" => self.groups[at].password = Some(line.no),
            "auth-user" => self.groups[at].user = Some((line.no, words[3].clone())),
            "down-after-milliseconds" => {
                let value = self.number(line, 3, 1..=i64::MAX as u64);
                self.groups[at].down_after = value.map(|value| (line.no, value));
            }
            "known-slave" | "known-replica" | "known-sentinel" => self.known(line, option, at),
            _ => self.not_carried(line, option),
        }
    }

    fn known(&mut self, line: &Line, option: &str, at: usize) {
        let Some(port) = self.number(line, 4, 1..=65535) else { return };
        let host = line.words[3].clone();
        if option == "known-sentinel" {
            self.groups[at].sentinels.push(host);
        } else {
            self.groups[at].replicas.push((host, port as u16));
        }
    }

    fn not_carried(&mut self, line: &Line, option: &str) {
        let (why, remedy) = match option {
            "parallel-syncs" => ("one replica at a time resynchronises in full, always", "nothing to do"),
            "failover-timeout" => ("a failover has no time-out: its steps follow from the lease", "nothing to do"),
            "notification-script" => (
                "mainstay's events come as JSON on the standard input, not as two arguments",
                "adapt the script and name it in [notify] command",
            ),
            "client-reconfig-script" => (
                "clients are led by the VIP, or ask the endpoint",
                "set vip and interface in [[group]] in place of the script; else [notify] command tells of each change",
            ),
            "rename-command" => (
                "the agent needs CONFIG, REPLICAOF, CLIENT, SCRIPT, INFO and ROLE under their own names",
                "take rename-command out of redis.conf and bound users by ACL; give the agent's user these commands",
            ),
            "master-reboot-down-after-period" | "primary-reboot-down-after-period" => (
                "an instance that comes back always starts sealed, however fast it was",
                "start Redis with --replicaof 127.0.0.1 1 --replica-read-only yes",
            ),
            _ => return,
        };
        let words = if option.ends_with("-script") { 4 } else { line.words.len().min(4) };
        let said = line.words[1..words].join(" ");
        self.note(Some(line.no), format!("`{}`: {why}", said.escape_default()), remedy);
    }

    /// The words, if there are at least so many; else a fault.
    fn words<'a>(&mut self, line: &'a Line, least: usize) -> Option<&'a [String]> {
        if line.words.len() >= least {
            return Some(&line.words);
        }
        let said: Vec<&str> = line.words.iter().take(2).map(String::as_str).collect();
        let form = match said.get(1).copied().unwrap_or_default().to_ascii_lowercase().as_str() {
            "monitor" => "sentinel monitor NAME ADDRESS PORT QUORUM".to_owned(),
            "" => format!("{} VALUE", said[0]),
            option if option.starts_with("known-") => format!("sentinel {option} NAME ADDRESS PORT"),
            option if option.starts_with("announce-") => format!("sentinel {option} VALUE"),
            option => format!("sentinel {option} NAME VALUE"),
        };
        let what = format!("`{}` lacks a word", said.join(" ").escape_default());
        self.fault(line.no, what, format!("it is `{form}`"));
        None
    }

    fn number(&mut self, line: &Line, at: usize, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let Some(word) = line.words.get(at) else {
            self.words(line, at + 1);
            return None;
        };
        let value = word.parse().ok().filter(|value| range.contains(value));
        if value.is_none() {
            let before = line.words[..at].iter().take(2).map(String::as_str).collect::<Vec<_>>().join(" ");
            let what = format!("`{}` has `{}`", before.escape_default(), word.escape_default());
            self.fault(line.no, what, format!("a number from {} to {} belongs there", range.start(), range.end()));
        }
        value
    }
}
