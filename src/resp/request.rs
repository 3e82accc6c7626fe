//! Requests: an array of strings, or one line. Read as they arrive; every byte is looked at once.

use super::inline;
use bytes::{Buf as _, BytesMut};
use std::mem;

/// One request: the command and its arguments, at least the command.
pub type Request = Vec<Vec<u8>>;

/// What one request may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Arguments, the command among them.
    pub arguments: usize,
    /// Bytes of one argument.
    pub argument: usize,
    /// Bytes of all arguments together, and of an inline line.
    pub total: usize,
}

/// Why a connection cannot go on: what follows cannot be told apart any more. The texts are Redis' own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Nonsense {
    /// More arguments than allowed, or no number.
    #[error("Protocol error: invalid multibulk length")]
    Count,
    /// An argument longer than allowed, or no number.
    #[error("Protocol error: invalid bulk length")]
    Length,
    /// An argument does not begin with its length.
    #[error("Protocol error: expected '$', got '{}'", (*.0 as char).escape_default())]
    NoLength(u8),
    /// A number without an end.
    #[error("Protocol error: too big mbulk count string")]
    LongNumber,
    /// A line without an end.
    #[error("Protocol error: too big inline request")]
    LongLine,
    /// An inline line whose quotes do not match.
    #[error("Protocol error: unbalanced quotes in request")]
    Quotes,
    /// The arguments together are longer than allowed.
    #[error("Protocol error: too big request")]
    Large,
}

/// A number with its type byte and line end is no longer than this.
const NUMBER: usize = 32;

/// Reads requests from what has arrived so far.
#[derive(Debug, Default)]
pub struct Decoder {
    /// Of an array: how many arguments are still to come.
    missing: usize,
    /// The next argument's length, once it is known.
    length: Option<usize>,
    arguments: Request,
    total: usize,
    /// How much of the input is known to hold no line end.
    searched: usize,
}

impl Decoder {
    /// The next request, taken out of `input`; None until more has arrived. After an error the connection is of no use.
    ///
    /// # Errors
    /// What arrived is no request, or exceeds the limits.
    pub fn next(&mut self, input: &mut BytesMut, limits: &Limits) -> Result<Option<Request>, Nonsense> {
        loop {
            if self.missing > 0 {
                if !self.argument(input, limits)? {
                    return Ok(None);
                }
                if self.missing == 0 {
                    self.total = 0;
                    return Ok(Some(mem::take(&mut self.arguments)));
                }
                continue;
            }
            match input.first() {
                None => return Ok(None),
                Some(b'*') => {
                    let Some(count) = self.number(input)? else { return Ok(None) };
                    let count = count.filter(|count| *count <= limits.arguments as i64).ok_or(Nonsense::Count)?;
                    self.missing = usize::try_from(count).unwrap_or(0);
                }
                Some(_) => {
                    let Some(line) = self.line(input, limits.total, Nonsense::LongLine)? else { return Ok(None) };
                    let words = inline::split(&line).ok_or(Nonsense::Quotes)?;
                    if words.len() > limits.arguments {
                        return Err(Nonsense::Count);
                    }
                    if !words.is_empty() {
                        return Ok(Some(words));
                    }
                }
            }
        }
    }

    /// Whether a request has begun and is not complete.
    #[must_use]
    pub fn is_amid(&self, input: &BytesMut) -> bool {
        self.missing > 0 || !input.is_empty()
    }

    /// Bytes held of the request that is not complete yet.
    #[must_use]
    pub fn held(&self) -> usize {
        self.total
    }

    /// Takes one argument, if it is there.
    fn argument(&mut self, input: &mut BytesMut, limits: &Limits) -> Result<bool, Nonsense> {
        let length = match self.length {
            Some(length) => length,
            None => {
                match input.first() {
                    None => return Ok(false),
                    Some(b'$') => {}
                    Some(other) => return Err(Nonsense::NoLength(*other)),
                }
                let Some(length) = self.number(input)? else { return Ok(false) };
                let length = length.and_then(|length| usize::try_from(length).ok()).ok_or(Nonsense::Length)?;
                if length > limits.argument {
                    return Err(Nonsense::Length);
                }
                self.total += length;
                if self.total > limits.total {
                    return Err(Nonsense::Large);
                }
                self.length = Some(length);
                length
            }
        };
        // The two bytes after it are the line end, whatever they are: Redis does not look at them either.
        if input.len() < length + 2 {
            return Ok(false);
        }
        self.arguments.push(input[..length].to_vec());
        input.advance(length + 2);
        self.length = None;
        self.missing -= 1;
        Ok(true)
    }

    /// A type byte, a number and a line end. The inner None is something else than a number.
    fn number(&mut self, input: &mut BytesMut) -> Result<Option<Option<i64>>, Nonsense> {
        let Some(line) = self.line(input, NUMBER, Nonsense::LongNumber)? else { return Ok(None) };
        let digits = line.get(1..).unwrap_or_default();
        let text = std::str::from_utf8(digits).ok().filter(|text| !text.starts_with('+'));
        Ok(Some(text.and_then(|text| text.parse().ok())))
    }

    /// A line without its end.
    fn line(&mut self, input: &mut BytesMut, most: usize, long: Nonsense) -> Result<Option<Vec<u8>>, Nonsense> {
        let from = self.searched.min(input.len());
        let Some(found) = input[from..].iter().position(|byte| *byte == b'\n') else {
            self.searched = input.len();
            return if input.len() > most { Err(long) } else { Ok(None) };
        };
        self.searched = 0;
        let end = from + found;
        if end > most {
            return Err(long);
        }
        let mut line = input.split_to(end + 1).to_vec();
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Ok(Some(line))
    }
}
