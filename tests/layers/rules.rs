//! The table of layers, and what it forbids: an import that points up or sideways, anything of the outside world in
//! the core, and files and functions that have grown too long to read.
//!
//! Test code is held to the table of imports and to the sizes, but may measure time and use unordered maps.

use crate::lex::{Token, tokens};
use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

/// Module, layer, and what of its own layer or, for layer 2 and 3, of lower ones it may import. `None` is everything
/// below it.
pub(crate) const TABLE: &[(&str, u8, Option<&[&str]>)] = &[
    ("cluster", 0, Some(&[])),
    ("resp", 0, Some(&[])),
    ("view", 1, Some(&["cluster"])),
    ("decide", 1, Some(&["cluster", "view"])),
    ("config", 2, Some(&["cluster", "decide"])),
    ("store", 2, Some(&["cluster"])),
    ("raft", 2, Some(&["cluster", "store", "wire"])),
    ("wire", 2, Some(&["cluster"])),
    ("redis", 2, Some(&["cluster", "view"])),
    ("vip", 2, Some(&["view"])),
    ("sentinel", 3, Some(&["cluster", "view", "resp"])),
    ("http", 3, Some(&["cluster", "view"])),
    ("ctl", 3, Some(&["cluster", "view", "decide"])),
    ("setup", 3, Some(&["config", "wire", "ctl"])),
    ("agent", 4, None),
    ("main", 5, None),
    ("lib", 5, None),
];

/// Layers 0 and 1 know no async, clock, randomness, logging, environment, or unordered map.
const OUTSIDE: &[&str] = &[
    "async",
    "await",
    "tokio",
    "futures_util",
    "Instant",
    "SystemTime",
    "UNIX_EPOCH",
    "HashMap",
    "HashSet",
    "RandomState",
    "rand",
    "getrandom",
    "env",
    "println",
    "eprintln",
    "print",
    "eprint",
    "dbg",
    "tracing",
    "log",
    "fs",
    "net",
    "process",
    "thread",
];
/// Words of [`OUTSIDE`] that are also good names: forbidden only behind `std::` or `core::`, or as a macro.
const ONLY_STD: &[&str] = &["env", "fs", "net", "process", "thread", "log"];

/// The longest file, and the longest function, in lines.
pub(crate) const FILE_LINES: usize = 500;
pub(crate) const FUNCTION_LINES: usize = 70;

/// One breach of the rules.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    Unlisted(String),
    Import { from: String, to: String },
    Outside { module: String, word: String },
    LongFile { lines: usize },
    LongFunction { name: String, lines: usize },
}

/// A fault and where it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Found {
    pub(crate) file: PathBuf,
    pub(crate) line: usize,
    pub(crate) fault: Fault,
}

impl fmt::Display for Found {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}: ", self.file.display(), self.line)?;
        match &self.fault {
            Fault::Unlisted(module) => write!(out, "module `{module}` is not in the table of layers"),
            Fault::Import { from, to } => write!(out, "`{from}` imports `{to}`, which the table of layers forbids"),
            Fault::Outside { module, word } => write!(out, "`{word}` in `{module}`: the core knows nothing of it"),
            Fault::LongFile { lines } => write!(out, "{lines} lines; {FILE_LINES} are the most"),
            Fault::LongFunction { name, lines } => {
                write!(out, "function `{name}` has {lines} lines; {FUNCTION_LINES} are the most")
            }
        }
    }
}

/// Every fault below `src`, and how many files were read.
pub(crate) fn check(src: &Path) -> (Vec<Found>, usize) {
    let mut files = Vec::new();
    list(src, &mut files);
    files.sort();
    let mut found = Vec::new();
    for file in &files {
        let source = std::fs::read_to_string(file).expect("a source file can be read");
        let relative = file.strip_prefix(src).expect("it is below src");
        check_file(relative, &source, &mut found);
    }
    found.sort();
    (found, files.len())
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("the folder can be read") {
        let path = entry.expect("its entry can be read").path();
        if path.is_dir() {
            // A crate of its own is a dependency like any other.
            if !path.join("Cargo.toml").exists() {
                list(&path, files);
            }
        } else if path.extension().is_some_and(|end| end == "rs") {
            files.push(path);
        }
    }
}

fn check_file(file: &Path, source: &str, found: &mut Vec<Found>) {
    let mut add = |line, fault| found.push(Found { file: file.to_path_buf(), line, fault });
    let module = module_path(file);
    let top = module.first().cloned().unwrap_or_else(|| stem(file));
    let Some(&(_, layer, _)) = TABLE.iter().find(|(name, ..)| *name == top) else {
        add(1, Fault::Unlisted(top));
        return;
    };
    let lines = source.lines().count();
    if lines > FILE_LINES {
        add(FILE_LINES + 1, Fault::LongFile { lines });
    }
    let tokens = tokens(source);
    for (line, name, lines) in long_functions(&tokens) {
        add(line, Fault::LongFunction { name, lines });
    }
    let uses = Walk::new(&tokens, module).run();
    for (line, to) in uses.modules {
        if to != top && !allowed(&top, layer, &to) {
            add(line, Fault::Import { from: top.clone(), to });
        }
    }
    let is_test_file = file.components().any(|part| part.as_os_str() == "tests.rs" || part.as_os_str() == "tests");
    if layer <= 1 && !is_test_file {
        for (line, word) in uses.outside {
            add(line, Fault::Outside { module: top.clone(), word });
        }
    }
}

fn allowed(from: &str, layer: u8, to: &str) -> bool {
    let Some(&(_, below, _)) = TABLE.iter().find(|(name, ..)| *name == to) else { return true };
    match TABLE.iter().find(|(name, ..)| *name == from) {
        Some((_, _, Some(listed))) => listed.contains(&to),
        _ => below < layer,
    }
}

/// `view/seat.rs` is `[view, seat]`; `lib.rs` and `main.rs` are the crate itself.
fn module_path(file: &Path) -> Vec<String> {
    let mut parts: Vec<String> =
        file.with_extension("").components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
    if parts.last().is_some_and(|last| last == "mod") {
        parts.pop();
    }
    if parts == ["lib"] || parts == ["main"] {
        parts.clear();
    }
    parts
}

fn stem(file: &Path) -> String {
    file.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// What a file mentions: modules of the crate's root, and words of the outside world in its code that is no test.
struct Uses {
    modules: BTreeSet<(usize, String)>,
    outside: BTreeSet<(usize, String)>,
}

/// Walks a file's tokens, knowing in which module it stands.
struct Walk<'a> {
    tokens: &'a [Token],
    module: Vec<String>,
    /// Inline modules: the depth of braces outside each, and whether it is a test.
    inline: Vec<(usize, bool)>,
    depth: usize,
    uses: Uses,
}

impl<'a> Walk<'a> {
    fn new(tokens: &'a [Token], module: Vec<String>) -> Self {
        let uses = Uses { modules: BTreeSet::new(), outside: BTreeSet::new() };
        Self { tokens, module, inline: Vec::new(), depth: 0, uses }
    }

    fn text(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |token| &token.text)
    }

    fn run(mut self) -> Uses {
        let mut at = 0;
        while at < self.tokens.len() {
            match self.text(at) {
                "{" => self.depth += 1,
                "}" => self.close(),
                "mod" if self.text(at + 2) == "{" => {
                    let test = self.is_test_item(at);
                    self.inline.push((self.depth, test));
                    self.module.push(self.text(at + 1).to_string());
                    at += 1;
                }
                // Within `$crate` and `pub(super)` no path follows.
                "crate" | "super" | "self" | "mainstay" if self.text(at + 1) == "::" && !self.continues(at) => {
                    at = self.path(at);
                    continue;
                }
                _ => self.outside(at),
            }
            at += 1;
        }
        self.uses
    }

    fn close(&mut self) {
        self.depth = self.depth.saturating_sub(1);
        if self.inline.last().is_some_and(|(depth, _)| *depth == self.depth) {
            self.inline.pop();
            self.module.pop();
        }
    }

    /// Whether the item at `at` stands behind `#[cfg(test)]`, other attributes or `pub` between.
    fn is_test_item(&self, at: usize) -> bool {
        let before: Vec<&str> = (at.saturating_sub(24)..at).map(|at| self.text(at)).collect();
        let item = before.iter().rposition(|text| matches!(*text, ";" | "{" | "}")).map_or(0, |end| end + 1);
        before[item..].windows(3).any(|three| three == ["cfg", "(", "test"])
    }

    fn continues(&self, at: usize) -> bool {
        at > 0 && self.text(at - 1) == "::"
    }

    /// A path from `crate`, `self` or `super`: notes the root module it reaches, and returns the place behind it.
    fn path(&mut self, mut at: usize) -> usize {
        let mut base = match self.text(at) {
            "crate" | "mainstay" => Vec::new(),
            "super" => self.module[..self.module.len().saturating_sub(1)].to_vec(),
            _ => self.module.clone(),
        };
        at += 2;
        while self.text(at) == "super" && self.text(at + 1) == "::" {
            base.pop();
            at += 2;
        }
        self.tree(at, &base)
    }

    /// One branch of a use tree: `a::b`, `*`, or `{a, b::c}`.
    fn tree(&mut self, mut at: usize, base: &[String]) -> usize {
        if self.text(at) == "{" {
            at += 1;
            while at < self.tokens.len() && self.text(at) != "}" {
                at = if self.text(at) == "," { at + 1 } else { self.tree(at, base) };
            }
            return at + 1;
        }
        let line = self.tokens.get(at).map_or(0, |token| token.line);
        if let Some(root) = base.first() {
            self.uses.modules.insert((line, root.clone()));
        } else if !self.text(at).is_empty() {
            self.uses.modules.insert((line, self.text(at).to_string()));
        }
        let mut below = base.to_vec();
        below.push(self.text(at).to_string());
        self.outside(at);
        if self.text(at + 1) == "::" {
            return self.tree(at + 2, &below);
        }
        at += 1;
        if self.text(at) == "as" { at + 2 } else { at }
    }

    fn outside(&mut self, at: usize) {
        let word = self.text(at);
        if !OUTSIDE.contains(&word) || self.inline.iter().any(|(_, test)| *test) {
            return;
        }
        let in_std =
            self.continues(at) && matches!(self.text(at.saturating_sub(2)), "std" | "core") || self.in_std_group(at);
        if ONLY_STD.contains(&word) && !in_std && self.text(at + 1) != "!" {
            return;
        }
        let found = (self.tokens[at].line, word.to_string());
        self.uses.outside.insert(found);
    }

    /// Whether `at` begins a branch of `std::{…}`.
    fn in_std_group(&self, at: usize) -> bool {
        if !matches!(self.text(at.wrapping_sub(1)), "{" | ",") {
            return false;
        }
        let mut open = at;
        let mut depth = 0usize;
        while open > 0 {
            open -= 1;
            match self.text(open) {
                ";" => return false,
                "}" => depth += 1,
                "{" if depth == 0 => break,
                "{" => depth -= 1,
                _ => {}
            }
        }
        open >= 2 && self.text(open - 1) == "::" && matches!(self.text(open - 2), "std" | "core")
    }
}

/// Functions longer than [`FUNCTION_LINES`]: line, name, length from `fn` to the closing brace.
fn long_functions(tokens: &[Token]) -> Vec<(usize, String, usize)> {
    let mut long = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        if token.text != "fn" {
            continue;
        }
        let Some(name) = tokens.get(at + 1).filter(|name| name.text != "(") else { continue };
        if let Some(end) = body_end(&tokens[at..]) {
            let lines = end + 1 - token.line;
            if lines > FUNCTION_LINES {
                long.push((token.line, name.text.clone(), lines));
            }
        }
    }
    long
}

/// The line of the brace that closes the first body behind `fn`; None for a declaration without one.
fn body_end(tokens: &[Token]) -> Option<usize> {
    let (mut braces, mut others) = (0usize, 0isize);
    for token in tokens {
        match token.text.as_str() {
            "(" | "[" => others += 1,
            ")" | "]" => others -= 1,
            ";" if braces == 0 && others == 0 => return None,
            "{" => braces += 1,
            "}" => {
                braces -= 1;
                if braces == 0 {
                    return Some(token.line);
                }
            }
            _ => {}
        }
    }
    None
}
