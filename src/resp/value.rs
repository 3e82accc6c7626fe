//! Answers: one value, written as RESP2 or RESP3 has it.

use std::borrow::Cow;

/// The protocol's version on one connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Protocol {
    /// What a connection begins with.
    #[default]
    Resp2,
    /// After `HELLO 3`.
    Resp3,
}

/// What is answered. RESP2 has no maps, pushes and texts of a kind: there they are arrays and strings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A status, such as `OK`: without line ends.
    Status(Cow<'static, str>),
    /// An error, its code first.
    Error(Cow<'static, str>),
    /// A number.
    Int(i64),
    /// A string.
    Text(Cow<'static, str>),
    /// A string that need not be text.
    Bytes(Vec<u8>),
    /// A long text for people, such as INFO.
    Verbatim(String),
    /// No string.
    Null,
    /// No array.
    NullArray,
    /// Several.
    Array(Vec<Value>),
    /// Pairs.
    Map(Vec<(Value, Value)>),
    /// Sent without having been asked for.
    Push(Vec<Value>),
}

impl Value {
    /// `OK`.
    pub const OK: Value = Value::Status(Cow::Borrowed("OK"));

    /// A string.
    pub fn text(text: impl Into<Cow<'static, str>>) -> Self {
        Self::Text(text.into())
    }

    /// An error; line ends in it become blanks, since what a client sent may be quoted in it.
    pub fn error(text: impl Into<Cow<'static, str>>) -> Self {
        Self::Error(text.into())
    }

    /// Pairs of strings.
    pub fn fields(fields: Vec<(&'static str, String)>) -> Self {
        Self::Map(fields.into_iter().map(|(name, value)| (Self::text(name), Self::text(value))).collect())
    }

    /// Appends it to `out`.
    pub fn encode(&self, protocol: Protocol, out: &mut Vec<u8>) {
        let third = protocol == Protocol::Resp3;
        match self {
            Self::Status(text) => one_line(b'+', text, out),
            Self::Error(text) => one_line(b'-', text, out),
            Self::Int(number) => head(b':', *number, out),
            Self::Text(text) => string(b'$', text.as_bytes(), out),
            Self::Bytes(bytes) => string(b'$', bytes, out),
            Self::Verbatim(text) if third => string(b'=', format!("txt:{text}").as_bytes(), out),
            Self::Verbatim(text) => string(b'$', text.as_bytes(), out),
            Self::Null | Self::NullArray if third => out.extend_from_slice(b"_\r\n"),
            Self::Null => out.extend_from_slice(b"$-1\r\n"),
            Self::NullArray => out.extend_from_slice(b"*-1\r\n"),
            Self::Array(values) => several(b'*', values, protocol, out),
            Self::Push(values) => several(if third { b'>' } else { b'*' }, values, protocol, out),
            Self::Map(pairs) => {
                let length = if third { pairs.len() } else { pairs.len() * 2 };
                head(if third { b'%' } else { b'*' }, as_number(length), out);
                for (key, value) in pairs {
                    key.encode(protocol, out);
                    value.encode(protocol, out);
                }
            }
        }
    }
}

fn as_number(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

fn head(kind: u8, number: i64, out: &mut Vec<u8>) {
    out.push(kind);
    out.extend_from_slice(number.to_string().as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn one_line(kind: u8, text: &str, out: &mut Vec<u8>) {
    out.push(kind);
    out.extend(text.bytes().map(|byte| if byte == b'\r' || byte == b'\n' { b' ' } else { byte }));
    out.extend_from_slice(b"\r\n");
}

fn string(kind: u8, bytes: &[u8], out: &mut Vec<u8>) {
    head(kind, as_number(bytes.len()), out);
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

fn several(kind: u8, values: &[Value], protocol: Protocol, out: &mut Vec<u8>) {
    head(kind, as_number(values.len()), out);
    for value in values {
        value.encode(protocol, out);
    }
}
