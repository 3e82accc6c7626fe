//! A plain blocking RESP2 client, small enough to know exactly when a request
//! left and when its answer was there.
//!
//! Every wait has the bound given at the connection's start. Any error but a
//! `-ERR` reply leaves the connection unusable: drop it.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// The longest bulk string or array accepted from a server.
const LEN_MAX: i64 = 512 << 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    Simple(String),
    Error(String),
    Int(i64),
    Bulk(Vec<u8>),
    Array(Vec<Reply>),
    Nil,
}

impl Reply {
    /// Text of a simple or bulk string, or of an error.
    pub fn text(&self) -> String {
        match self {
            Self::Simple(s) | Self::Error(s) => s.clone(),
            Self::Bulk(b) => String::from_utf8_lossy(b).into_owned(),
            Self::Int(n) => n.to_string(),
            Self::Array(items) => items.iter().map(Self::text).collect::<Vec<_>>().join(" "),
            Self::Nil => String::new(),
        }
    }

    pub fn is_error(&self) -> bool {
        matches!(self, Self::Error(_))
    }

    pub fn items(&self) -> &[Self] {
        match self {
            Self::Array(items) => items,
            _ => &[],
        }
    }
}

pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    /// Connects from the calling thread's own namespace.
    pub fn connect(to: SocketAddr, connect: Duration, reply: Duration) -> io::Result<Self> {
        Self::over(TcpStream::connect_timeout(&to, connect)?, reply)
    }

    /// Takes over a connection made elsewhere.
    pub fn over(stream: TcpStream, reply: Duration) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(reply))?;
        stream.set_write_timeout(Some(reply))?;
        Ok(Self { stream: BufReader::with_capacity(64 << 10, stream) })
    }

    /// Sends bytes that [`encode`] made.
    pub fn send(&mut self, request: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(request)
    }

    pub fn command(&mut self, args: &[&str]) -> io::Result<Reply> {
        let mut request = Vec::new();
        encode(&mut request, args);
        self.send(&request)?;
        self.reply()
    }

    /// `INFO` as a map, e.g. `["replication"]`.
    pub fn info(&mut self, sections: &[&str]) -> io::Result<BTreeMap<String, String>> {
        let args: Vec<&str> = std::iter::once("INFO").chain(sections.iter().copied()).collect();
        let reply = self.command(&args)?;
        if reply.is_error() {
            return Err(io::Error::other(reply.text()));
        }
        let text = reply.text();
        let pairs = text.lines().filter_map(|line| line.split_once(':'));
        Ok(pairs.map(|(k, v)| (k.to_string(), v.to_string())).collect())
    }

    /// Reads one whole reply.
    pub fn reply(&mut self) -> io::Result<Reply> {
        self.reply_at(0)
    }

    fn reply_at(&mut self, depth: usize) -> io::Result<Reply> {
        let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_string());
        let mut line = Vec::new();
        (&mut self.stream).take(64 << 10).read_until(b'\n', &mut line)?;
        let Some(rest) = line.strip_suffix(b"\r\n") else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        let text = String::from_utf8_lossy(rest.get(1..).unwrap_or_default()).into_owned();
        let number = || text.parse::<i64>().map_err(|_| bad("no number"));
        match rest.first() {
            Some(b'+') => Ok(Reply::Simple(text)),
            Some(b'-') => Ok(Reply::Error(text)),
            Some(b':') => Ok(Reply::Int(number()?)),
            Some(b'$' | b'*') if number()? < 0 => Ok(Reply::Nil),
            Some(b'$' | b'*') if number()? > LEN_MAX || depth > 8 => Err(bad("too long or too deep")),
            Some(b'$') => {
                let mut body = vec![0; usize::try_from(number()?).unwrap_or(0) + 2];
                self.stream.read_exact(&mut body)?;
                body.truncate(body.len() - 2);
                Ok(Reply::Bulk(body))
            }
            Some(b'*') => {
                Ok(Reply::Array((0..number()?).map(|_| self.reply_at(depth + 1)).collect::<io::Result<_>>()?))
            }
            _ => Err(bad("no RESP reply")),
        }
    }
}

/// Appends one command in its wire form.
pub fn encode<A: AsRef<[u8]>>(request: &mut Vec<u8>, args: &[A]) {
    request.extend_from_slice(format!("*{}\r\n", args.len()).as_bytes());
    for arg in args {
        let arg = arg.as_ref();
        request.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        request.extend_from_slice(arg);
        request.extend_from_slice(b"\r\n");
    }
}
