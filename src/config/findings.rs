//! Faults and warnings in a config, and how they are shown: place, the line itself, a caret, what is allowed.
//!
//! A finding is rendered when parsing ends, so nothing keeps the file's text around. What is shown is plain
//! ASCII: control and other characters appear escaped, which also makes a pasted no-break space visible and keeps
//! escape sequences out of the terminal. It must never show a secret: values of keys that look like passwords, and
//! whatever a finding marks as secret, are replaced by `***`.

use std::fmt;
use std::ops::Range;

/// Where in the file something was written, in bytes.
pub(super) type Span = Range<usize>;

/// A value with the place it was written at.
#[derive(Debug, Clone)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) span: Span,
}

impl<T> At<T> {
    pub(super) fn new(value: T, span: Span) -> Self {
        At { value, span }
    }
}

/// What sort of fault it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// Not TOML.
    Syntax,
    /// A key or table the config does not know.
    UnknownKey,
    /// A required key or table is absent.
    MissingKey,
    /// A number where a text belongs, and the like.
    WrongType,
    /// A value that its key does not allow.
    BadValue,
    /// Two values that cannot both hold.
    Contradiction,
    /// A key that is known but must not be ignored, and is not built yet.
    Unsupported,
}

/// One fault of a config file. Displays as the rendered excerpt, without a newline at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What sort of fault.
    pub kind: FaultKind,
    /// 1-based; `None` when the fault is that something is absent from the whole file.
    pub line: Option<usize>,
    /// 1-based, in characters.
    pub column: Option<usize>,
    /// One sentence, without the excerpt.
    pub message: String,
    rendered: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rendered)
    }
}

/// Something allowed that is probably not meant. Displays like a [`Fault`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// 1-based.
    pub line: Option<usize>,
    /// One sentence, without the excerpt.
    pub message: String,
    rendered: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rendered)
    }
}

/// All faults of a config file, in the order of its lines. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults {
    path: String,
    faults: Vec<Fault>,
}

impl Faults {
    /// The faults, in the order of the file's lines.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.faults.iter()
    }

    /// For a config that lacks something no finding named.
    pub(super) fn incomplete(path: &str) -> Self {
        let source = Source { path, text: "" };
        let fault = source.fault(Finding::new(
            FaultKind::MissingKey,
            None,
            "the config is incomplete",
        ));
        Faults {
            path: path.to_owned(),
            faults: vec![fault],
        }
    }

    /// How many there are; at least one.
    #[must_use]
    pub fn count(&self) -> usize {
        self.faults.len()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.faults.iter().enumerate() {
            let gap = if i == 0 { "" } else { "\n\n" };
            write!(f, "{gap}{fault}")?;
        }
        if self.faults.len() > 1 {
            write!(f, "\n\n{}: {} errors", self.path, self.faults.len())?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// A fault or warning under construction.
#[derive(Debug)]
pub(super) struct Finding {
    kind: FaultKind,
    span: Option<Span>,
    message: String,
    see: Vec<(Span, String)>,
    notes: Vec<String>,
    secret: bool,
}

impl Finding {
    pub(super) fn new(
        kind: FaultKind,
        span: impl Into<Option<Span>>,
        message: impl Into<String>,
    ) -> Self {
        Finding {
            kind,
            span: span.into(),
            message: message.into(),
            see: Vec::new(),
            notes: Vec::new(),
            secret: false,
        }
    }

    /// Points at a second place that this one contradicts.
    pub(super) fn see(mut self, span: &Span, text: impl Into<String>) -> Self {
        self.see.push((span.clone(), text.into()));
        self
    }

    pub(super) fn allowed(mut self, text: &str) -> Self {
        self.notes.push(format!("allowed: {text}"));
        self
    }

    pub(super) fn help(mut self, text: impl fmt::Display) -> Self {
        self.notes.push(format!("help: {text}"));
        self
    }

    /// Hides the value in the excerpt.
    pub(super) fn secret(mut self) -> Self {
        self.secret = true;
        self
    }
}

/// Collects findings while a file is read.
#[derive(Debug, Default)]
pub(super) struct Findings {
    faults: Vec<Finding>,
    warnings: Vec<Finding>,
}

impl Findings {
    pub(super) fn fault(&mut self, finding: Finding) {
        self.faults.push(finding);
    }

    pub(super) fn warn(&mut self, finding: Finding) {
        self.warnings.push(finding);
    }

    /// Whether a fault already points into this part of the file.
    pub(super) fn has_fault_within(&self, span: &Span) -> bool {
        let inside = |at: &Span| at.start >= span.start && at.start < span.end.max(span.start + 1);
        self.faults
            .iter()
            .any(|fault| fault.span.as_ref().is_some_and(inside))
    }

    pub(super) fn has_faults(&self) -> bool {
        !self.faults.is_empty()
    }

    /// Renders everything against the text it was found in.
    pub(super) fn finish(mut self, path: &str, text: &str) -> (Option<Faults>, Vec<Warning>) {
        let order = |f: &Finding| f.span.as_ref().map_or(0, |s| s.start);
        self.faults.sort_by_key(order);
        self.faults
            .dedup_by(|a, b| a.span == b.span && a.message == b.message);
        self.warnings.sort_by_key(order);
        let source = Source { path, text };
        let faults: Vec<Fault> = self.faults.into_iter().map(|f| source.fault(f)).collect();
        let warnings = self
            .warnings
            .into_iter()
            .map(|f| source.warning(f))
            .collect();
        let faults = (!faults.is_empty()).then(|| Faults {
            path: path.to_owned(),
            faults,
        });
        (faults, warnings)
    }
}

/// A value as an error quotes it: one line, ASCII, of bounded length.
pub(super) fn quoted(value: &str) -> String {
    const SHOWN: usize = 80;
    let mut text: String = value
        .chars()
        .take(SHOWN)
        .flat_map(char::escape_default)
        .collect();
    // The value stands between double quotes; its own stay readable without a backslash before an apostrophe.
    text = text.replace("\\'", "'");
    let more = if value.chars().nth(SHOWN).is_some() {
        "..."
    } else {
        ""
    };
    format!("\"{text}{more}\"")
}

struct Source<'a> {
    path: &'a str,
    text: &'a str,
}

struct Place<'a> {
    line: usize,
    column: usize,
    content: &'a str,
    /// Byte offsets of the marked part inside `content`.
    marked: Range<usize>,
}

impl<'a> Source<'a> {
    fn place(&self, span: &Span) -> Place<'a> {
        let floor = |mut at: usize| {
            at = at.min(self.text.len());
            while !self.text.is_char_boundary(at) {
                at -= 1;
            }
            at
        };
        let start = floor(span.start);
        let end = floor(span.end).max(start);
        let line_start = self.text[..start].rfind('\n').map_or(0, |nl| nl + 1);
        let rest = &self.text[line_start..];
        let content = rest
            .split('\n')
            .next()
            .unwrap_or(rest)
            .trim_end_matches('\r');
        let marked_start = (start - line_start).min(content.len());
        let marked_end = (end - line_start).min(content.len()).max(marked_start);
        Place {
            line: self.text[..start].matches('\n').count() + 1,
            column: content[..marked_start].chars().count() + 1,
            content,
            marked: marked_start..marked_end,
        }
    }

    fn fault(&self, finding: Finding) -> Fault {
        let place = finding.span.as_ref().map(|span| self.place(span));
        Fault {
            kind: finding.kind,
            line: place.as_ref().map(|p| p.line),
            column: place.as_ref().map(|p| p.column),
            rendered: self.render("error", &finding, place.as_ref()),
            message: finding.message,
        }
    }

    fn warning(&self, finding: Finding) -> Warning {
        let place = finding.span.as_ref().map(|span| self.place(span));
        Warning {
            line: place.as_ref().map(|p| p.line),
            rendered: self.render("warning", &finding, place.as_ref()),
            message: finding.message,
        }
    }

    fn render(&self, severity: &str, finding: &Finding, place: Option<&Place<'_>>) -> String {
        let mut text = match place {
            Some(p) => format!(
                "{}:{}:{}: {severity}: {}",
                self.path, p.line, p.column, finding.message
            ),
            None => format!("{}: {severity}: {}", self.path, finding.message),
        };
        let mut gutter = 1;
        if let Some(place) = place {
            gutter = place.line.to_string().len();
            let (line, before, width) = excerpt(place, finding.secret);
            text.push_str(&format!("\n{:gutter$} |\n{} | {line}", "", place.line));
            text.push_str(&format!(
                "\n{:gutter$} | {:before$}{}",
                "",
                "",
                "^".repeat(width)
            ));
        }
        for (span, what) in &finding.see {
            text.push_str(&format!(
                "\n{:gutter$} = see line {}: {what}",
                "",
                self.place(span).line
            ));
        }
        for note in &finding.notes {
            text.push_str(&format!("\n{:gutter$} = {note}", ""));
        }
        text
    }
}

/// Where the secret of a line begins, if it holds one: after the `=` of a key that names a password itself.
fn secret_from(line: &str) -> Option<usize> {
    let lower = line.to_ascii_lowercase();
    let begins = |word: &str| {
        lower.match_indices(word).find_map(|(at, _)| {
            let rest = &lower[at + word.len()..];
            let key_end = rest
                .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-'))
                .unwrap_or(rest.len());
            if rest[..key_end].ends_with("file") {
                return None;
            }
            let gap = rest[key_end..].find('=').filter(|&gap| {
                rest[key_end..key_end + gap]
                    .trim_matches([' ', '\t', '"', '\''])
                    .is_empty()
            })?;
            let value = &rest[key_end + gap + 1..];
            let blanks = value.len() - value.trim_start_matches([' ', '\t']).len();
            Some(at + word.len() + key_end + gap + 1 + blanks)
        })
    };
    ["pass", "secret", "token", "auth", "cluster_key"]
        .into_iter()
        .filter_map(begins)
        .min()
}

/// The line as shown, the columns before the caret, and the caret's width.
fn excerpt(place: &Place<'_>, secret: bool) -> (String, usize, usize) {
    const LONGEST: usize = 120;
    let hidden = if secret {
        Some(place.marked.start)
    } else {
        secret_from(place.content)
    };
    let visible = hidden.map_or(place.content.len(), |at| at.min(place.content.len()));
    let show = |text: &str| -> String {
        text.chars()
            .flat_map(|c| match c {
                ' '..='~' => vec![c],
                '\t' => vec![' '],
                _ => c.escape_default().collect(),
            })
            .collect()
    };
    let before = show(&place.content[..place.marked.start.min(visible)]);
    let marked =
        show(&place.content[place.marked.start.min(visible)..place.marked.end.min(visible)]);
    let after = show(&place.content[place.marked.end.min(visible)..visible]);
    let mask = if hidden.is_some() { "***" } else { "" };
    let width = marked.len().max(1);
    // A long line is cut around the mark; all three parts are ASCII, so bytes are columns.
    let total = before.len() + marked.len() + after.len() + mask.len();
    let skip = if total > LONGEST {
        before.len().saturating_sub(LONGEST / 2)
    } else {
        0
    };
    let lead = if skip > 0 { "..." } else { "" };
    let mut line = format!("{lead}{}{marked}{after}{mask}", &before[skip..]);
    if line.len() > LONGEST {
        line.truncate(LONGEST);
        line.push_str("...");
    }
    let before = lead.len() + before.len() - skip;
    let width = width.min((line.len().max(before + 1)) - before);
    (line, before, width)
}
