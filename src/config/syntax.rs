//! Syntax errors of the TOML parser, in words for the mistakes that operators make rather than for the grammar.
//!
//! A file with a syntax error is judged no further: what the parser recovered may be another file than was meant.
//! Knows texts and messages only, no keys of the config but for examples.

use super::findings::{FaultKind, Finding, Findings};

/// More than these are not even looked at.
const MAX_SYNTAX_ERRORS: usize = 200;
/// More syntax errors than these are echoes of the first ones.
const MAX_SYNTAX_FAULTS: usize = 5;

/// Adds the syntax errors to the findings.
pub(super) fn check(text: &str, errors: &[toml::de::Error], out: &mut Findings) {
    let line_of = |at: usize| text.as_bytes()[..at.min(text.len())].iter().filter(|b| **b == b'\n').count();
    let mut spans: Vec<_> =
        errors.iter().take(MAX_SYNTAX_ERRORS).map(|error| (error.span().unwrap_or(0..0), error.message())).collect();
    spans.sort_by_key(|(span, _)| span.start);
    // On one line, later errors are echoes of the first.
    spans.dedup_by_key(|(span, _)| line_of(span.start));
    for (span, message) in spans.into_iter().take(MAX_SYNTAX_FAULTS) {
        out.fault(syntax_fault(text, span, message));
    }
}

/// One syntax error, in words for the mistakes that operators make rather than for the grammar.
fn syntax_fault(text: &str, span: std::ops::Range<usize>, message: &str) -> Finding {
    let fault = |says: &str| Finding::new(FaultKind::Syntax, span.clone(), says);
    let at = text.get(span.start..).unwrap_or_default();
    let line = text.get(..span.start).unwrap_or_default().rsplit('\n').next().unwrap_or_default();
    if message == "duplicate key" {
        let key = text.get(span.clone()).unwrap_or_default().trim();
        let finding = fault(&format!("`{}` is given twice", key.escape_default()));
        return match key {
            "group" => finding.help("several groups are written as several [[group]] tables"),
            _ => finding.help("keep one of them"),
        };
    }
    if let Some(c) = at.chars().next().filter(|c| !c.is_ascii()) {
        return fault(&format!("the character {} stands outside of quotes", c.escape_default()))
            .help("pasted text often carries such blanks and quotes; type them anew");
    }
    let value = line.rsplit_once('=').map(|(_, before)| before.trim_start());
    let opens_text = |v: &str| v.starts_with(['"', '\'', '[', '{']);
    let word = at.split(['\n', '#', ',']).next().unwrap_or_default();
    let texty = |c: char| c.is_ascii_alphabetic() || matches!(c, ':' | '/' | '.');
    if value.is_some_and(|before| !opens_text(before)) && !opens_text(at) && word.contains(texty) {
        return fault("a text value must stand in double quotes").help("as in name = \"n1\"");
    }
    if value == Some("") && at.trim_start_matches([' ', '\t', '\r']).starts_with(['\n', '#']) {
        return fault("the key has no value").help("give one, or remove the line for the default");
    }
    if matches!(message, "invalid basic string, expected `\"`" | "invalid literal string, expected `'`") {
        return fault("the text has no closing quote on its line");
    }
    if value.is_none() && at.starts_with(':') {
        return fault("a key and its value are joined by `=`").help("as in lease_ms = 800");
    }
    fault(message)
}
