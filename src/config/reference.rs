//! The list of every key the config knows: its type, its default, what it may hold and what it is for.
//!
//! One list serves the reader (a key that is not here is unknown), the suggestions in its errors, and the table in
//! the documentation. It must never describe a key that the reader does not read: a test gives every key a value
//! of the wrong type and expects the reader to notice.

use std::fmt::Write as _;

/// The TOML type of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A quoted text.
    String,
    /// A whole number.
    Integer,
    /// `true` or `false`.
    Boolean,
    /// A list of quoted texts.
    Strings,
    /// A table whose keys the operator chooses, such as `members`.
    Map,
}

impl Kind {
    /// With its article, as errors and the documentation name it.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Kind::String => "a string",
            Kind::Integer => "an integer",
            Kind::Boolean => "a boolean",
            Kind::Strings => "an array of strings",
            Kind::Map => "a table",
        }
    }
}

/// What holds when a key is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It must be given wherever its table is.
    Required,
    /// It may be absent; the doc says what that means.
    Optional,
    /// This value, written as TOML.
    Default(&'static str),
}

/// One key of the config.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Table and name, such as `group.announce`.
    pub path: &'static str,
    /// Its TOML type.
    pub kind: Kind,
    /// What holds without it.
    pub presence: Presence,
    /// What it may hold, with an example.
    pub allowed: &'static str,
    /// What it is for.
    pub doc: &'static str,
}

impl Key {
    /// The table, such as `group` or `group.redis_tls`.
    #[must_use]
    pub fn table(&self) -> &'static str {
        self.path.rsplit_once('.').map_or("", |(table, _)| table)
    }

    /// The name inside its table.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.path.rsplit_once('.').map_or(self.path, |(_, name)| name)
    }
}

const fn key(path: &'static str, kind: Kind, presence: Presence, allowed: &'static str, doc: &'static str) -> Key {
    Key { path, kind, presence, allowed, doc }
}

const NAME: &str = "1 to 63 letters, digits, `-`, `_` or `.`, a letter or digit first";
const ABSOLUTE: &str = "an absolute path";

use Kind::{Boolean, Integer, Map, String as Text, Strings};
use Presence::{Default, Optional, Required};

/// Every key, in the order of the documentation.
pub const REFERENCE: &[Key] = &[
    key("node.name", Text, Required, NAME, "The name of this node, unique in the cluster."),
    key(
        "node.address",
        Text,
        Required,
        "HOST:PORT, such as \"10.0.0.1:7400\" or \"[2001:db8::1]:7400\"",
        "Where peers reach this agent; also what it binds, unless `bind` is given.",
    ),
    key(
        "node.bind",
        Text,
        Optional,
        "IP:PORT, such as \"0.0.0.0:7400\" or \"[::]:7400\"",
        "What the agent binds for its peers. Without it: `address`.",
    ),
    key(
        "node.data_dir",
        Text,
        Default("\"/var/lib/mainstay\""),
        ABSOLUTE,
        "Where the agent keeps its replicated and its own state. Must survive a reboot.",
    ),
    key("cluster.name", Text, Required, NAME, "The name of the cluster; agents of another cluster are refused."),
    key(
        "cluster.key_file",
        Text,
        Default("\"/etc/mainstay/cluster.key\""),
        ABSOLUTE,
        "The cluster's key: 32 random bytes in base64, mode 0600 or 0640. A second line is the key being retired.",
    ),
    key(
        "cluster.members",
        Map,
        Optional,
        "node names with HOST:PORT, such as { n1 = \"10.0.0.1:7400\", n2 = \"10.0.0.2:7400\" }",
        "All first nodes of a new cluster, this one included. Read at the very first start only. Either this or `join`.",
    ),
    key(
        "cluster.join",
        Strings,
        Optional,
        "HOST:PORT of running agents, such as [\"10.0.0.1:7400\"]",
        "Instead of `members`: ask a running cluster to take this node in.",
    ),
    key(
        "timing.lease_ms",
        Integer,
        Default("800"),
        "200 to 60000 (milliseconds)",
        "How long a majority's promise lets a primary serve; all other intervals are fractions of it. Seeds the replicated value.",
    ),
    key(
        "timing.hang_after_ms",
        Integer,
        Default("5000"),
        "the lease to 600000 (milliseconds)",
        "Patience with an instance that is alive but does not answer. Without it: 5000, or the lease if that is longer.",
    ),
    key("group.name", Text, Required, NAME, "What Sentinel clients ask for."),
    key(
        "group.redis",
        Text,
        Required,
        "HOST:PORT or unix:PATH, such as \"127.0.0.1:6379\" or \"unix:/run/redis/redis-server.sock\"",
        "How the agent reaches the instance on its own host.",
    ),
    key(
        "group.announce",
        Text,
        Required,
        "HOST:PORT, such as \"10.0.0.1:6379\"; never the VIP",
        "Where the other instances and Sentinel clients reach this instance.",
    ),
    key(
        "group.redis_username",
        Text,
        Optional,
        "an ACL user name without blanks",
        "The ACL user of the agent. Without it: the default user.",
    ),
    key(
        "group.redis_password_file",
        Text,
        Optional,
        ABSOLUTE,
        "The file that holds the password, the same on all hosts of the group.",
    ),
    key("group.redis_tls.ca", Text, Required, ABSOLUTE, "The authority that signed the instances' certificates (PEM)."),
    key("group.redis_tls.cert", Text, Optional, ABSOLUTE, "The agent's own certificate (PEM); with `key`."),
    key("group.redis_tls.key", Text, Optional, ABSOLUTE, "The key of `cert` (PEM)."),
    key(
        "group.redis_unit",
        Text,
        Optional,
        "a unit name, such as \"redis-server.service\"",
        "The systemd unit to watch, start and kill. Without it killing needs root or the same user, and a hang may be found half a minute later.",
    ),
    key(
        "group.vip",
        Text,
        Optional,
        "ADDRESS/PREFIX, such as \"10.0.0.100/24\" or \"2001:db8::100/64\"",
        "The floating address, with the prefix length of its subnet. Without it: discovery through Sentinel only.",
    ),
    key(
        "group.interface",
        Text,
        Optional,
        "a network interface of up to 15 bytes, such as \"eth0\"",
        "The interface that carries the VIP; goes with `vip`.",
    ),
    key(
        "group.priority",
        Integer,
        Default("100"),
        "0 to 1000",
        "Higher is preferred among equals; 0 is never promoted.",
    ),
    key(
        "group.durability",
        Text,
        Default("\"available\""),
        "\"available\" or \"quorum\" (three or more members)",
        "`quorum`: promotion waits for the proof that no acknowledged `WAIT` is lost. `available`: it waits up to one lease.",
    ),
    key(
        "group.quarantine",
        Boolean,
        Default("false"),
        "true or false",
        "Save diverged data as RDB before resynchronising.",
    ),
    key(
        "sentinel.listen",
        Text,
        Required,
        "IP:PORT, such as \"0.0.0.0:26379\"",
        "Where Sentinel clients connect. Without the table: no Sentinel endpoint.",
    ),
    key(
        "sentinel.username",
        Text,
        Optional,
        "an ACL user name without blanks",
        "The user that Sentinel clients log in as. Without it: the default user.",
    ),
    key(
        "sentinel.password_file",
        Text,
        Optional,
        ABSOLUTE,
        "The file that holds the password Sentinel clients must give.",
    ),
    key(
        "http.listen",
        Text,
        Required,
        "IP:PORT, such as \"127.0.0.1:7480\"",
        "Where metrics, health and the status page are served. Without the table: none.",
    ),
    key(
        "control.socket",
        Text,
        Default("\"/run/mainstay/mainstay.sock\""),
        "an absolute path of up to 107 bytes",
        "The operator's socket. The lease's mirror lies beside it.",
    ),
    key(
        "notify.command",
        Text,
        Optional,
        "an absolute path, without arguments",
        "Run with one event as JSON on stdin, bounded in time and number.",
    ),
];

/// The keys of one table.
pub(super) fn keys_of(table: &str) -> impl Iterator<Item = &'static Key> {
    REFERENCE.iter().filter(move |key| key.table() == table)
}

/// The names directly inside `table` that are tables themselves; the top level is `""`.
pub(super) fn tables_in(table: &str) -> Vec<&'static str> {
    let mut names: Vec<&'static str> = Vec::new();
    for key in REFERENCE {
        let inner = match table {
            "" => Some(key.table()),
            _ => key.table().strip_prefix(table).and_then(|rest| rest.strip_prefix('.')),
        };
        let name = inner.and_then(|inner| inner.split('.').next());
        if let Some(name) = name.filter(|name| !names.contains(name)) {
            names.push(name);
        }
    }
    names
}

/// A table as it is written in the file: `[node]`, `[[group]]`, `redis_tls`.
pub(super) fn header(table: &str) -> String {
    match table {
        "group" => "[[group]]".to_owned(),
        _ => format!("[{table}]"),
    }
}

/// The documentation's table of keys, as Markdown that ends in a newline.
#[must_use]
pub fn reference_markdown() -> String {
    let mut text = String::from("| key | type | default | allowed | meaning |\n|---|---|---|---|---|\n");
    for key in REFERENCE {
        let table = header(key.table());
        let default = match key.presence {
            Presence::Required => "required".to_owned(),
            Presence::Optional => "none".to_owned(),
            Presence::Default(value) => format!("`{value}`"),
        };
        let kind = key.kind.describe().trim_start_matches("an ").trim_start_matches("a ");
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| `{table} {}` | {kind} | {default} | {} | {} |", key.name(), key.allowed, key.doc);
    }
    text
}

/// How many single edits (insert, delete, replace, swap of neighbours) lead from `a` to `b`.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

/// The candidate that `written` was probably meant to be.
pub(super) fn did_you_mean<'a>(written: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Longer texts are no typing mistakes, and the comparison is quadratic.
    if written.len() > 64 {
        return None;
    }
    let written = written.to_lowercase().replace('-', "_");
    let score = |candidate: &str| {
        let typed = distance(&written, candidate);
        if typed <= (candidate.len() / 3).clamp(1, 3) {
            return Some(typed);
        }
        let (short, long) =
            if written.len() < candidate.len() { (written.as_str(), candidate) } else { (candidate, written.as_str()) };
        (short.len() >= 3 && (long.starts_with(short) || long.ends_with(short)))
            .then_some(10 + long.len() - short.len())
    };
    candidates
        .into_iter()
        .filter_map(|candidate| score(candidate).map(|s| (s, candidate)))
        .min_by_key(|(s, _)| *s)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggestions_catch_typing_and_forgotten_suffixes() {
        let timing = || keys_of("timing").map(Key::name);
        assert_eq!(did_you_mean("lease", timing()), Some("lease_ms"));
        assert_eq!(did_you_mean("laese_ms", timing()), Some("lease_ms"));
        assert_eq!(did_you_mean("hang-after-ms", timing()), Some("hang_after_ms"));
        assert_eq!(did_you_mean("colour", timing()), None);
        assert_eq!(did_you_mean("", timing()), None);
        assert_eq!(did_you_mean("groups", tables_in("")), Some("group"));
    }

    #[test]
    fn tables_are_derived_from_the_keys() {
        assert_eq!(tables_in(""), ["node", "cluster", "timing", "group", "sentinel", "http", "control", "notify"]);
        assert_eq!(tables_in("group"), ["redis_tls"]);
        assert!(tables_in("node").is_empty());
    }

    #[test]
    fn the_markdown_has_one_row_per_key() {
        let text = reference_markdown();
        assert_eq!(text.lines().count(), REFERENCE.len() + 2);
        for line in text.lines() {
            assert_eq!(line.matches('|').count(), 6, "{line}");
        }
    }
}
