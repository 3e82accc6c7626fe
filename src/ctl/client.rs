//! The command line's end of the control socket: one request, one answer, bounded in size and time.
//!
//! Every error says what is the matter with the agent (not there, not allowed, silent, broken off) and what to look
//! at. It never retries: a request that changes something might be done twice.

use super::exit::{Code, Failure};
use super::protocol::{CLIENT_GRACE, MAX_RESPONSE, Request, Response, to_line};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// How long the agent may take to accept a connection.
pub const CONNECT: Duration = Duration::from_secs(2);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no agent answers on {}: is mainstay running? `systemctl status mainstay` tells", .path.display())]
    NoAgent {
        /// The socket.
        path: PathBuf,
    },
    /// The user may not use the socket.
    #[error("{}: you may not use this control socket; run as root, or as a member of its group (`ls -l` on it tells which)", .path.display())]
    Forbidden {
        /// The socket.
        path: PathBuf,
    },
    /// It is there and says nothing.
    #[error("the agent on {} gave no answer within {} s: it is stopped or stuck; `journalctl -u mainstay -e` tells more", .path.display(), .after.as_secs())]
    Silent {
        /// The socket.
        path: PathBuf,
        /// How long was waited.
        after: Duration,
    },
    /// It ended the connection first.
    #[error("the agent on {} went away before it answered; `systemctl status mainstay` tells more", .path.display())]
    Gone {
        /// The socket.
        path: PathBuf,
    },
    /// The answer is none.
    #[error("the agent on {} answered what this mainstay {} cannot read ({detail}): is it of another version? `systemctl restart mainstay` after an upgrade", .path.display(), env!("CARGO_PKG_VERSION"))]
    Unreadable {
        /// The socket.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// The system's word.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
}

impl ClientError {
    /// Whether nothing at all listens there, so that nobody but the caller can act.
    pub fn nobody(&self) -> bool {
        matches!(self, Self::NoAgent { .. })
    }

    fn code(&self) -> Code {
        match self {
            Self::NoAgent { .. } | Self::Silent { .. } | Self::Gone { .. } => Code::Unavailable,
            Self::Forbidden { .. } => Code::NoPerm,
            Self::Unreadable { .. } => Code::Software,
            Self::Io { .. } => Code::IoErr,
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Failure::new(error.code(), &error, "")
    }
}

/// Asks the agent on `path` and returns its answer, a refusal included.
pub async fn ask(path: &Path, request: &Request) -> Result<Response, ClientError> {
    let at = || path.to_owned();
    let stream = match timeout(CONNECT, UnixStream::connect(path)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(source)) => return Err(connecting(path, source)),
        Err(_) => return Err(ClientError::Silent { path: at(), after: CONNECT }),
    };
    let patience = request.patience() + CLIENT_GRACE;
    let line = match timeout(patience, exchange(stream, request)).await {
        Ok(Ok(line)) => line,
        Ok(Err(source)) => return Err(talking(path, source)),
        Err(_) => return Err(ClientError::Silent { path: at(), after: patience }),
    };
    if line.is_empty() {
        return Err(ClientError::Gone { path: at() });
    }
    if !line.ends_with(b"\n") {
        let detail = format!("a line broken off after {} bytes", line.len());
        return Err(ClientError::Unreadable { path: at(), detail });
    }
    serde_json::from_slice(&line).map_err(|error| ClientError::Unreadable { path: at(), detail: error.to_string() })
}

async fn exchange(stream: UnixStream, request: &Request) -> std::io::Result<Vec<u8>> {
    let (read, mut write) = stream.into_split();
    let question = to_line(request)?;
    // An agent without a free place answers at once and closes: its words matter more than the failed write.
    let written = write.write_all(&question).await;
    let mut line = Vec::new();
    let mut bounded = BufReader::new(read).take(MAX_RESPONSE as u64);
    match bounded.read_until(b'\n', &mut line).await {
        Ok(0) => written.map(|()| line),
        Ok(_) => Ok(line),
        // Closed with our question unread.
        Err(_) if line.ends_with(b"\n") => Ok(line),
        Err(error) => Err(error),
    }
}

fn connecting(path: &Path, source: std::io::Error) -> ClientError {
    let path = path.to_owned();
    match source.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::NotADirectory => ClientError::NoAgent { path },
        ErrorKind::PermissionDenied => ClientError::Forbidden { path },
        // The backlog is full: it is there and accepts nobody.
        ErrorKind::WouldBlock => ClientError::Silent { path, after: Duration::ZERO },
        _ => ClientError::Io { path, source },
    }
}

fn talking(path: &Path, source: std::io::Error) -> ClientError {
    let path = path.to_owned();
    match source.kind() {
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => ClientError::Gone { path },
        _ => ClientError::Io { path, source },
    }
}
