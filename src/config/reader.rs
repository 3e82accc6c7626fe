//! Typed access to parsed TOML that remembers where everything stands in the file.
//!
//! A [`Table`] hands out values by key; what is missing, of the wrong type or unknown becomes a finding, and reading
//! goes on, so that one run names all faults. Knows TOML types and the reference of keys, nothing of what the
//! values mean. It must never ask for a key that the reference does not list.

use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::findings::{At, FaultKind, Finding, Findings, Span, quoted};
use super::reference::{self, Key, Presence, REFERENCE, did_you_mean, header, keys_of, tables_in};

/// One table of the file.
#[derive(Clone, Copy)]
pub(super) struct Table<'a> {
    /// Its path in the reference, such as `group.redis_tls`; `""` is the top level.
    path: &'static str,
    entries: &'a DeTable<'a>,
    /// Where its header stands; `None` for the top level.
    span: Option<&'a Span>,
}

/// A table value with the place of its header.
pub(super) struct Found<'a> {
    pub(super) entries: &'a DeTable<'a>,
    pub(super) span: Span,
}

fn type_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// Path of the file's key that holds a secret, so that what an operator pasted there by mistake is not printed.
fn names_a_secret(path: &str) -> bool {
    path.ends_with("password_file") || path == "cluster.key_file"
}

impl<'a> Table<'a> {
    pub(super) fn root(entries: &'a DeTable<'a>) -> Self {
        Table { path: "", entries, span: None }
    }

    pub(super) fn new(path: &'static str, found: &'a Found<'a>) -> Self {
        Table { path, entries: found.entries, span: Some(&found.span) }
    }

    fn label(&self, name: &str) -> String {
        format!("{} {name}", header(self.path))
    }

    fn key(&self, name: &str) -> Option<&'static Key> {
        let key = keys_of(self.path).find(|key| key.name() == name);
        debug_assert!(key.is_some(), "{}.{name} is not in the reference", self.path);
        key
    }

    /// The value of a key, wherever it stands; a missing one is a fault if the reference says so.
    fn get(&self, name: &str, out: &mut Findings) -> Option<(&'static Key, At<&'a DeValue<'a>>)> {
        let key = self.key(name)?;
        if let Some(value) = self.entries.get(name) {
            return Some((key, At::new(value.get_ref(), value.span())));
        }
        if key.presence == Presence::Required {
            let message = format!("{} has no `{name}`", header(self.path));
            out.fault(Finding::new(FaultKind::MissingKey, self.span.cloned(), message).allowed(key.allowed));
        }
        None
    }

    fn wrong_type(&self, key: &Key, value: &At<&DeValue<'_>>, out: &mut Findings) {
        let message =
            format!("{} must be {}, not {}", self.label(key.name()), key.kind.describe(), type_of(value.value));
        let finding = Finding::new(FaultKind::WrongType, value.span.clone(), message).allowed(key.allowed);
        out.fault(if names_a_secret(key.path) { finding.secret() } else { finding });
    }

    pub(super) fn string(&self, name: &str, out: &mut Findings) -> Option<At<&'a str>> {
        let (key, found) = self.get(name, out)?;
        match found.value {
            DeValue::String(text) => Some(At::new(text.as_ref(), found.span)),
            _ => {
                self.wrong_type(key, &found, out);
                None
            }
        }
    }

    /// A string, read by `parse`, whose error reads on from the quoted text.
    pub(super) fn parsed<T, E: std::fmt::Display>(
        &self,
        name: &str,
        out: &mut Findings,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<At<T>> {
        let text = self.string(name, out)?;
        match parse(text.value) {
            Ok(value) => Some(At::new(value, text.span)),
            Err(error) => {
                self.bad(name, &text, &error.to_string(), out);
                None
            }
        }
    }

    fn bad(&self, name: &str, text: &At<&str>, predicate: &str, out: &mut Findings) {
        let Some(key) = self.key(name) else { return };
        // A URL may carry a password before the @.
        if text.value.contains('@') && key.allowed.contains("PORT") {
            let message =
                format!("{} contains `@` (not shown, in case there is a password before it)", self.label(name));
            let finding = Finding::new(FaultKind::BadValue, text.span.clone(), message);
            out.fault(finding.allowed(key.allowed).secret());
            return;
        }
        let message = format!("{} {} {predicate}", self.label(name), quoted(text.value));
        out.fault(Finding::new(FaultKind::BadValue, text.span.clone(), message).allowed(key.allowed));
    }

    /// An absolute path of at most `longest` bytes.
    pub(super) fn path(&self, name: &str, longest: usize, out: &mut Findings) -> Option<At<PathBuf>> {
        let text = self.string(name, out)?;
        let key = self.key(name)?;
        // No key in base64 has a dot, so a mere relative file name can be shown.
        let pasted = key.path != "cluster.key_file" || !text.value.contains('.');
        if names_a_secret(key.path) && pasted && !Path::new(text.value).is_absolute() {
            let message =
                format!("{} is no absolute path (not shown, in case it is the secret itself)", self.label(name));
            let finding = Finding::new(FaultKind::BadValue, text.span, message).allowed(key.allowed).secret();
            out.fault(finding.help("write the secret into a file of mode 0640 and name that file here"));
            return None;
        }
        let problem = match text.value {
            "" => "is empty".to_owned(),
            path if path.contains('\0') => "contains a NUL byte".to_owned(),
            path if !Path::new(path).is_absolute() => "is no absolute path".to_owned(),
            path if path.ends_with('/') && key.path != "node.data_dir" => "names a directory, not a file".to_owned(),
            path if path.len() > longest => format!("is {} bytes long", path.len()),
            path => return Some(At::new(PathBuf::from(path), text.span)),
        };
        self.bad(name, &text, &problem, out);
        None
    }

    pub(super) fn integer(
        &self,
        name: &str,
        range: std::ops::RangeInclusive<u64>,
        out: &mut Findings,
    ) -> Option<At<u64>> {
        let (key, found) = self.get(name, out)?;
        let DeValue::Integer(number) = found.value else {
            self.wrong_type(key, &found, out);
            return None;
        };
        let value = u64::from_str_radix(number.as_str(), number.radix()).ok();
        if let Some(value) = value.filter(|value| range.contains(value)) {
            return Some(At::new(value, found.span));
        }
        let message =
            format!("{} is {}, out of range", self.label(name), quoted(&number.to_string()).trim_matches('"'));
        out.fault(Finding::new(FaultKind::BadValue, found.span, message).allowed(key.allowed));
        None
    }

    pub(super) fn boolean(&self, name: &str, out: &mut Findings) -> Option<At<bool>> {
        let (key, found) = self.get(name, out)?;
        match found.value {
            DeValue::Boolean(value) => Some(At::new(*value, found.span)),
            _ => {
                self.wrong_type(key, &found, out);
                None
            }
        }
    }

    /// An array whose items are each read by `parse`; the good ones, and where the array stands.
    pub(super) fn array<T, E: std::fmt::Display>(
        &self,
        name: &str,
        out: &mut Findings,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<At<Vec<At<T>>>> {
        let (key, found) = self.get(name, out)?;
        let DeValue::Array(items) = found.value else {
            self.wrong_type(key, &found, out);
            return None;
        };
        let mut good = Vec::new();
        for item in items.iter() {
            let DeValue::String(text) = item.get_ref() else {
                self.wrong_type(key, &At::new(item.get_ref(), item.span()), out);
                continue;
            };
            match parse(text) {
                Ok(value) => good.push(At::new(value, item.span())),
                Err(error) => self.bad(name, &At::new(text.as_ref(), item.span()), &error.to_string(), out),
            }
        }
        Some(At::new(good, found.span))
    }

    /// A table whose keys the operator chooses: names and string values, in the file's order. `None` for a value
    /// that is no string, which is then already a fault.
    #[allow(clippy::type_complexity)]
    pub(super) fn map(&self, name: &str, out: &mut Findings) -> Option<At<Vec<(At<&'a str>, Option<At<&'a str>>)>>> {
        let (key, found) = self.get(name, out)?;
        let DeValue::Table(entries) = found.value else {
            self.wrong_type(key, &found, out);
            return None;
        };
        let mut pairs: Vec<_> = Vec::new();
        for (entry, value) in entries.iter() {
            let text = match value.get_ref() {
                DeValue::String(text) => Some(At::new(text.as_ref(), value.span())),
                other => {
                    let message = format!(
                        "{}.{} must be a string, not {}",
                        self.label(name),
                        entry.get_ref().escape_default(),
                        type_of(other)
                    );
                    out.fault(Finding::new(FaultKind::WrongType, value.span(), message).allowed(key.allowed));
                    None
                }
            };
            pairs.push((At::new(entry.get_ref().as_ref(), entry.span()), text));
        }
        pairs.sort_by_key(|(entry, _)| entry.span.start);
        Some(At::new(pairs, found.span))
    }

    /// How many entries the table under a key has, faulty ones included.
    pub(super) fn count(&self, name: &str) -> usize {
        match self.entries.get(name).map(|value| value.get_ref()) {
            Some(DeValue::Table(entries)) => entries.len(),
            _ => 0,
        }
    }

    /// A table inside this one. A required one that is absent is a fault.
    pub(super) fn table(&self, name: &str, required: bool, out: &mut Findings) -> Option<Found<'a>> {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        let Some(value) = self.entries.get(name) else {
            if required {
                out.fault(missing_table(&path));
            }
            return None;
        };
        match value.get_ref() {
            DeValue::Table(entries) => Some(Found { entries, span: value.span() }),
            other => {
                let message = format!("{} must be a table, not {}", header(&path), type_of(other));
                let one = matches!(other, DeValue::Array(_));
                let finding = Finding::new(FaultKind::WrongType, value.span(), message).allowed(&keys_text(&path));
                out.fault(if one {
                    finding.help(format!("write {} once, in single brackets", header(&path)))
                } else {
                    finding
                });
                None
            }
        }
    }

    /// The tables of an array of tables; none if it is absent.
    pub(super) fn tables(&self, name: &str, out: &mut Findings) -> Vec<Found<'a>> {
        let Some(value) = self.entries.get(name) else {
            return Vec::new();
        };
        let mut found = Vec::new();
        let mut wrong = |span: Span, is: &str| {
            let message = format!("{} must be an array of tables, not {is}", header(name));
            let finding = Finding::new(FaultKind::WrongType, span, message);
            out.fault(finding.help(format!("write {} in double brackets, once for each {name}", header(name))));
        };
        match value.get_ref() {
            DeValue::Array(items) => {
                for item in items.iter() {
                    match item.get_ref() {
                        DeValue::Table(entries) => found.push(Found { entries, span: item.span() }),
                        other => wrong(item.span(), &format!("an array with {} in it", type_of(other))),
                    }
                }
            }
            other => wrong(value.span(), type_of(other)),
        }
        found
    }

    /// Names every key of this table that the reference does not know.
    pub(super) fn refuse_unknown(&self, out: &mut Findings) {
        let tables = tables_in(self.path);
        let keys: Vec<&str> = keys_of(self.path).map(Key::name).filter(|_| !self.path.is_empty()).collect();
        for (entry, value) in self.entries.iter() {
            let name: &str = entry.get_ref();
            if keys.contains(&name) || tables.contains(&name) {
                continue;
            }
            // A header [x] carries its place in the value; a key in itself.
            let is_table = matches!(value.get_ref(), DeValue::Table(_) | DeValue::Array(_)) && self.path.is_empty();
            let place = if is_table { value.span() } else { entry.span() };
            let what = match (self.path, is_table) {
                ("", true) => format!("unknown table [{}]", name.escape_default()),
                ("", false) => format!("unknown key `{}` outside of any table", name.escape_default()),
                (path, _) => format!("unknown key `{}` in {}", name.escape_default(), header(path)),
            };
            let mut finding = Finding::new(FaultKind::UnknownKey, place, what).allowed(&keys_text(self.path));
            if let Some(hint) = suggestion(self.path, name, is_table) {
                finding = finding.help(hint);
            }
            out.fault(finding);
        }
    }
}

/// A table that must be there is not.
pub(super) fn missing_table(path: &str) -> Finding {
    let mut required: Vec<_> = keys_of(path).filter(|key| key.presence == Presence::Required).map(Key::name).collect();
    if path == "cluster" {
        required.push("either members or join");
    }
    Finding::new(FaultKind::MissingKey, None, format!("the table {} is missing", header(path))).help(format!(
        "add {} with {}",
        header(path),
        required.join(", ")
    ))
}

/// What may stand in a table, for the reader of an error.
fn keys_text(path: &str) -> String {
    let mut names: Vec<String> = match path {
        "" => Vec::new(),
        path => keys_of(path).map(|key| key.name().to_owned()).collect(),
    };
    names.extend(tables_in(path).into_iter().map(|name| if path.is_empty() { header(name) } else { name.to_owned() }));
    names.join(", ")
}

/// What an unknown name was probably meant to be: a near name in its table, or a key of another table.
fn suggestion(path: &str, name: &str, is_table: bool) -> Option<String> {
    if is_table {
        return did_you_mean(name, tables_in("")).map(|near| format!("did you mean {}?", header(near)));
    }
    let elsewhere: Vec<String> =
        REFERENCE.iter().filter(|key| key.name() == name).map(|key| header(key.table())).collect();
    if !elsewhere.is_empty() {
        return Some(format!("`{name}` belongs under {}", elsewhere.join(" or ")));
    }
    if path.is_empty() {
        return did_you_mean(name, REFERENCE.iter().map(Key::name)).map(|near| {
            let tables: Vec<String> =
                REFERENCE.iter().filter(|key| key.name() == near).map(|key| header(key.table())).collect();
            format!("did you mean `{near}` under {}?", tables.join(" or "))
        });
    }
    let here = reference::keys_of(path).map(Key::name).chain(tables_in(path));
    did_you_mean(name, here).map(|near| format!("did you mean `{near}`?"))
}
