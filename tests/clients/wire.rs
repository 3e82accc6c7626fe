//! RESP2 and RESP3 as the replayed libraries speak them, one blocking connection each.
//!
//! Every wait has the bound given at the connection's start. After any error but a `-ERR` reply the connection is
//! unusable: drop it.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::resp::encode;

/// The longest string or collection taken from a server.
const LEN_MAX: usize = 64 << 20;
/// The deepest nesting.
const DEPTH_MAX: usize = 8;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A simple string, a number, a boolean, a double: their text.
    Text(String),
    Bulk(String),
    Int(i64),
    Error(String),
    Array(Vec<Value>),
    Map(Vec<(Value, Value)>),
    Push(Vec<Value>),
    Nil,
}

impl Value {
    pub fn text(&self) -> String {
        match self {
            Value::Text(text) | Value::Bulk(text) | Value::Error(text) => text.clone(),
            Value::Int(number) => number.to_string(),
            _ => String::new(),
        }
    }

    pub fn items(&self) -> &[Value] {
        match self {
            Value::Array(items) | Value::Push(items) => items,
            _ => &[],
        }
    }

    /// Names and values, from a map or a flat list of pairs.
    ///
    /// # Errors
    /// If it is neither.
    pub fn fields(&self) -> Result<BTreeMap<String, String>, String> {
        match self {
            Value::Map(pairs) => Ok(pairs.iter().map(|(name, value)| (name.text(), value.text())).collect()),
            Value::Array(items) if items.len().is_multiple_of(2) => {
                Ok(items.chunks(2).map(|pair| (pair[0].text(), pair[1].text())).collect())
            }
            other => Err(format!("neither a map nor pairs: {other:?}")),
        }
    }

    /// The answer, unless it is a refusal.
    ///
    /// # Errors
    /// With the refusal's text.
    pub fn ok(self) -> Result<Value, String> {
        match self {
            Value::Error(text) => Err(text),
            value => Ok(value),
        }
    }
}

pub struct Wire {
    stream: BufReader<TcpStream>,
    bound: Duration,
}

impl Wire {
    /// Connects from the calling thread's own namespace.
    pub fn connect(to: SocketAddr, bound: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&to, bound)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(bound))?;
        stream.set_write_timeout(Some(bound))?;
        Ok(Self { stream: BufReader::new(stream), bound })
    }

    pub fn send(&mut self, args: &[&str]) -> io::Result<()> {
        let mut request = Vec::new();
        encode(&mut request, args);
        self.stream.get_mut().write_all(&request)
    }

    /// Sends a command and reads its answer; what is pushed meanwhile is dropped.
    pub fn call(&mut self, args: &[&str]) -> io::Result<Value> {
        self.send(args)?;
        self.answer()
    }

    /// The next answer that is not pushed.
    pub fn answer(&mut self) -> io::Result<Value> {
        loop {
            match self.read(0)? {
                Value::Push(_) => {}
                value => return Ok(value),
            }
        }
    }

    /// The next thing that comes, or nothing within `bound`.
    pub fn next(&mut self, bound: Duration) -> io::Result<Option<Value>> {
        if self.stream.buffer().is_empty() {
            self.stream.get_ref().set_read_timeout(Some(bound))?;
            let waited = self.stream.fill_buf().map(<[u8]>::len);
            self.stream.get_ref().set_read_timeout(Some(self.bound))?;
            match waited {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => return Ok(None),
                waited => waited?,
            };
        }
        self.read(0).map(Some)
    }

    fn read(&mut self, depth: usize) -> io::Result<Value> {
        let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let mut line = Vec::new();
        (&mut self.stream).take(64 << 10).read_until(b'\n', &mut line)?;
        let Some(text) = line.strip_suffix(b"\r\n") else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        let kind = *text.first().ok_or_else(|| bad("an empty line"))?;
        let text = String::from_utf8_lossy(&text[1..]).into_owned();
        let length = || match text.parse::<i64>() {
            Ok(-1) => Ok(None),
            Ok(length) if length >= 0 && length as usize <= LEN_MAX => Ok(Some(length as usize)),
            _ => Err(bad("a bad length")),
        };
        if depth > DEPTH_MAX {
            return Err(bad("nested too deep"));
        }
        match kind {
            b'+' | b',' | b'#' | b'(' => Ok(Value::Text(text)),
            b'-' => Ok(Value::Error(text)),
            b':' => text.parse().map(Value::Int).map_err(|_| bad("no number")),
            b'_' => Ok(Value::Nil),
            b'$' | b'=' => {
                let Some(length) = length()? else { return Ok(Value::Nil) };
                let mut body = vec![0; length + 2];
                self.stream.read_exact(&mut body)?;
                body.truncate(length);
                let body = String::from_utf8_lossy(&body).into_owned();
                Ok(Value::Bulk(if kind == b'=' { body.chars().skip(4).collect() } else { body }))
            }
            b'*' | b'~' | b'>' => {
                let Some(length) = length()? else { return Ok(Value::Nil) };
                let items = (0..length).map(|_| self.read(depth + 1)).collect::<io::Result<_>>()?;
                Ok(if kind == b'>' { Value::Push(items) } else { Value::Array(items) })
            }
            b'%' => {
                let Some(length) = length()? else { return Ok(Value::Nil) };
                let pair = |_| Ok((self.read(depth + 1)?, self.read(depth + 1)?));
                Ok(Value::Map((0..length).map(pair).collect::<io::Result<_>>()?))
            }
            _ => Err(bad("no RESP")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn served(bytes: &'static [u8]) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let at = listener.local_addr().expect("an address");
        let serve = std::thread::spawn(move || listener.accept().expect("a client").0.write_all(bytes));
        let wire = Wire::connect(at, Duration::from_secs(2)).expect("a connection");
        serve.join().expect("the thread").expect("it is sent");
        wire
    }

    #[test]
    fn both_protocols_are_read() {
        let mut wire =
            served(b"*2\r\n$4\r\nname\r\n$1\r\na\r\n%1\r\n+port\r\n:6379\r\n>2\r\n+message\r\n_\r\n#t\r\n$-1\r\n");
        let name = wire.answer().expect("an array").fields().expect("pairs");
        assert_eq!(name["name"], "a");
        assert_eq!(wire.answer().expect("a map").fields().expect("a map")["port"], "6379");
        assert_eq!(wire.answer().expect("what follows the push"), Value::Text("t".into()));
        assert_eq!(wire.next(Duration::from_secs(1)).expect("an answer"), Some(Value::Nil));
    }

    #[test]
    fn nonsense_is_an_error_and_an_end_is_one_too() {
        assert!(served(b"*99999999999\r\n").answer().is_err());
        assert!(served(b"?\r\n").answer().is_err());
        assert!(served(b"$3\r\nab").answer().is_err());
        assert!(served(b"").next(Duration::from_secs(1)).is_err());
    }
}
