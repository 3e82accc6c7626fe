//! Just enough of Rust's syntax to follow paths: identifiers and punctuation with their lines; comments, strings and
//! characters are gone. It must never take a word in a comment or a string for code.

/// One token of source, and the line it stands on (from 1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) line: usize,
}

/// The source's identifiers, `::`, `->` and single punctuation characters, in order.
pub(crate) fn tokens(source: &str) -> Vec<Token> {
    let mut scan = Scan { rest: source, line: 1 };
    let mut found = Vec::new();
    while let Some(first) = scan.rest.chars().next() {
        let line = scan.line;
        if let Some(length) = skipped(scan.rest) {
            scan.step(length);
        } else if first == '_' || first.is_alphanumeric() {
            let length = word(scan.rest);
            found.push(Token { text: scan.rest[..length].trim_start_matches("r#").to_string(), line });
            scan.step(length);
        } else {
            let length = if scan.rest.starts_with("::") || scan.rest.starts_with("->") { 2 } else { first.len_utf8() };
            found.push(Token { text: scan.rest[..length].to_string(), line });
            scan.step(length);
        }
    }
    found
}

struct Scan<'a> {
    rest: &'a str,
    line: usize,
}

impl Scan<'_> {
    fn step(&mut self, length: usize) {
        self.line += self.rest[..length].matches('\n').count();
        self.rest = &self.rest[length..];
    }
}

/// The length of the white space, comment, string or character that `rest` begins with.
fn skipped(rest: &str) -> Option<usize> {
    let bytes = rest.as_bytes();
    if bytes[0].is_ascii_whitespace() {
        return Some(1);
    }
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(block_comment(rest));
    }
    if let Some(length) = raw_string(rest) {
        return Some(length);
    }
    let prefix = usize::from(rest.starts_with("b\"") || rest.starts_with("c\"") || rest.starts_with("b'"));
    match bytes[prefix] {
        b'"' => Some(prefix + quoted(&rest[prefix..], '"')),
        b'\'' => character(&rest[prefix..]).map(|length| prefix + length),
        _ => None,
    }
}

/// Block comments nest.
fn block_comment(rest: &str) -> usize {
    let mut depth = 0usize;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// `r"…"`, `r#"…"#`, and the same of bytes and C strings; not `r#name`.
fn raw_string(rest: &str) -> Option<usize> {
    let start = ["r", "br", "cr"].iter().find(|start| rest.starts_with(**start))?.len();
    let hashes = rest[start..].bytes().take_while(|byte| *byte == b'#').count();
    let open = start + hashes;
    if rest.as_bytes().get(open) != Some(&b'"') {
        return None;
    }
    let close = format!("\"{}", "#".repeat(hashes));
    let end = rest[open + 1..].find(&close).map_or(rest.len(), |found| open + 1 + found + close.len());
    Some(end)
}

fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, letter) in rest.char_indices().skip(1) {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if letter == quote => return at + letter.len_utf8(),
            _ => {}
        }
    }
    rest.len()
}

/// A character literal; None for a lifetime.
fn character(rest: &str) -> Option<usize> {
    let mut letters = rest.char_indices().skip(1);
    let (_, first) = letters.next()?;
    if first == '\\' {
        return Some(quoted(rest, '\''));
    }
    match letters.next() {
        Some((at, '\'')) => Some(at + 1),
        _ => None,
    }
}

fn word(rest: &str) -> usize {
    let start = if rest.starts_with("r#") { 2 } else { 0 };
    rest[start..].find(|letter: char| letter != '_' && !letter.is_alphanumeric()).map_or(rest.len(), |end| start + end)
}
