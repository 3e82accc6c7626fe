//! The agent's end of the control socket.
//!
//! [`Server::bind`] takes the socket, [`Server::run`] hands each request to the agent's loop and writes the answer
//! back. One request per line; a connection may ask several times. Everything is bounded: connections, length of a
//! line, time to send one, time to answer, time to read the answer. What the loop does not answer in time is answered
//! here in its place, so that an operator always hears something.
//!
//! A socket file is removed only by the holder of the lock beside it and only if nobody answers on it: a second agent
//! gets an error, never the first one's socket. The socket is open to owner and group (0660) and was never open wider.

use super::protocol::{MAX_REQUEST, RefusalKind, Request, Response, to_line};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::{Mode, fchmod};
use std::fs::{File, OpenOptions, Permissions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

/// Connections served at a time; a further one is told so and closed.
pub const MAX_CONNECTIONS: usize = 16;
/// How long a connection may be silent, and how long one line may take to arrive.
pub const IDLE: Duration = Duration::from_secs(10);
/// How long an answer may take to be read by the other side.
pub const WRITE: Duration = Duration::from_secs(5);
/// Who may use the socket: owner and group.
pub const MODE: u32 = 0o660;

const PROBE: Duration = Duration::from_millis(500);
const BACKLOG: i32 = 64;
/// After a failed accept (no file descriptors left) the listener pauses that long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A request and where its answer goes.
pub type Asked = (Request, oneshot::Sender<Response>);

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Another agent has it.
    #[error("{}: another agent{} runs with this control socket; stop it, or give this one its own [control] socket", .path.display(), pid_words(.pid))]
    Taken {
        /// The socket.
        path: PathBuf,
        /// The other agent's process, if it wrote it down.
        pid: Option<u32>,
    },
    /// Something that is no socket lies there.
    #[error("{}: is no socket and is not removed; move it away, or name another [control] socket", .path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The directory is not there.
    #[error("{}: its directory does not exist; create it (RuntimeDirectory=mainstay does), or name another [control] socket", .path.display())]
    NoDirectory {
        /// The socket.
        path: PathBuf,
    },
    /// The system refused.
    #[error("{}: {what}: {source}", .path.display())]
    Io {
        /// The socket or its lock.
        path: PathBuf,
        /// What was being done.
        what: &'static str,
        /// The system's words.
        source: std::io::Error,
    },
}

impl ServerError {
    /// The sysexits code: EX_NOPERM where the system says so, EX_TEMPFAIL where another agent is there, else
    /// EX_CANTCREAT.
    pub fn exit_code(&self) -> super::exit::Code {
        use super::exit::Code;
        match self {
            Self::Taken { .. } => Code::TempFail,
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => Code::NoPerm,
            Self::NotASocket { .. } | Self::NoDirectory { .. } | Self::Io { .. } => Code::CantCreat,
        }
    }
}

fn pid_words(pid: &Option<u32>) -> String {
    pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}

/// The socket, bound and listening. Dropped, it removes its own file.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    inode: (u64, u64),
    listener: UnixListener,
    _lock: Flock<File>,
}

impl Drop for Server {
    fn drop(&mut self) {
        // Only what is still this server's own: somebody may have moved another socket there.
        if std::fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Server {
    /// Takes the socket at `path`: a stale file is removed, a live agent's is not.
    pub async fn bind(path: &Path) -> Result<Self, ServerError> {
        let fault = |what| move |source: std::io::Error| ServerError::Io { path: path.to_owned(), what, source };
        if path.parent().is_some_and(|dir| !dir.as_os_str().is_empty() && !dir.exists()) {
            return Err(ServerError::NoDirectory { path: path.to_owned() });
        }
        let lock = lock(path)?;
        remove_stale(path).await?;
        let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)
            .map_err(fault("creating the control socket"))?;
        // The file is created with this mode less the umask, and then opened to the group: never wider than meant.
        fchmod(&socket, Mode::from_bits_truncate(MODE))
            .map_err(|e| fault("protecting the control socket")(e.into()))?;
        let address = socket2::SockAddr::unix(path).map_err(fault("the path is too long for a socket"))?;
        socket.bind(&address).map_err(fault("binding the control socket"))?;
        std::fs::set_permissions(path, Permissions::from_mode(MODE))
            .map_err(fault("opening the socket to the group"))?;
        let made = std::fs::symlink_metadata(path).map_err(fault("looking at the control socket"))?;
        socket.listen(BACKLOG).map_err(fault("listening on the control socket"))?;
        socket.set_nonblocking(true).map_err(fault("listening on the control socket"))?;
        let listener =
            UnixListener::from_std(std::os::unix::net::UnixListener::from(std::os::fd::OwnedFd::from(socket)))
                .map_err(fault("listening on the control socket"))?;
        Ok(Self { path: path.to_owned(), inode: (made.dev(), made.ino()), listener, _lock: lock })
    }

    /// Serves until the loop's end of `handler` is gone.
    pub async fn run(self, handler: mpsc::Sender<Asked>) {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = handler.closed() => return,
            };
            let Ok((stream, _)) = accepted else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            match Arc::clone(&slots).try_acquire_owned() {
                Ok(slot) => {
                    let handler = handler.clone();
                    tokio::spawn(async move {
                        converse(stream, &handler).await;
                        drop(slot);
                    });
                }
                Err(_) => turn_away(&stream),
            }
        }
    }
}

/// Binds and serves; returns when the loop's end of `handler` is gone.
pub async fn serve(path: &Path, handler: mpsc::Sender<Asked>) -> Result<(), ServerError> {
    Server::bind(path).await?.run(handler).await;
    Ok(())
}

/// Without waiting: the one who is turned away must not hold anything up.
fn turn_away(stream: &UnixStream) {
    let why = format!("the agent serves {MAX_CONNECTIONS} operators at a time, and all places are taken");
    let refusal = Response::refused(RefusalKind::NotNow, why, "Close other `mainstay status --watch`, or try again.");
    if let Ok(line) = to_line(&refusal) {
        let _ = stream.try_write(&line);
    }
}

/// The lock lies beside the socket and dies with the process: whoever holds it may judge the socket file.
fn lock(socket: &Path) -> Result<Flock<File>, ServerError> {
    let mut name = socket.as_os_str().to_owned();
    name.push(".lock");
    let path = PathBuf::from(name);
    let fault = |what, source| ServerError::Io { path: path.clone(), what, source };
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o640).open(&path);
    let file = open.map_err(|source| fault("creating the lock of the control socket", source))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut held) => {
            let noted =
                held.set_len(0).and_then(|()| held.rewind()).and_then(|()| write!(*held, "{}", std::process::id()));
            noted.map_err(|source| fault("writing the lock of the control socket", source))?;
            Ok(held)
        }
        Err((mut file, Errno::EWOULDBLOCK)) => {
            let mut text = String::new();
            let _ = (&mut file).take(16).read_to_string(&mut text);
            Err(ServerError::Taken { path: socket.to_owned(), pid: text.trim().parse().ok() })
        }
        Err((_, errno)) => Err(fault("locking the control socket", errno.into())),
    }
}

async fn remove_stale(path: &Path) -> Result<(), ServerError> {
    match std::fs::symlink_metadata(path) {
        Err(_) => return Ok(()),
        Ok(found) if !found.file_type().is_socket() => return Err(ServerError::NotASocket { path: path.to_owned() }),
        Ok(_) => {}
    }
    // Only a refusal proves that nobody listens; a full backlog or silence means that somebody does.
    match timeout(PROBE, UnixStream::connect(path)).await {
        Ok(Err(refused)) if refused.kind() == std::io::ErrorKind::ConnectionRefused => {}
        Ok(Err(gone)) if gone.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        _ => return Err(ServerError::Taken { path: path.to_owned(), pid: None }),
    }
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(ServerError::Io { path: path.to_owned(), what: "removing the stale control socket", source })
        }
        _ => Ok(()),
    }
}

async fn converse(stream: UnixStream, handler: &mpsc::Sender<Asked>) {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read);
    loop {
        let (answer, last) = match next_line(&mut lines).await {
            Line::Ended => return,
            Line::Bad(refusal) => (refusal, true),
            Line::Text(line) => match serde_json::from_slice::<Request>(&line) {
                Ok(request) => (ask(request, handler).await, false),
                Err(error) => (unknown(&error), false),
            },
        };
        if !reply(&mut write, &answer).await || last {
            return;
        }
    }
}

enum Line {
    Text(Vec<u8>),
    Ended,
    Bad(Response),
}

async fn next_line(lines: &mut BufReader<OwnedReadHalf>) -> Line {
    let mut line = Vec::new();
    let mut bounded = lines.take(MAX_REQUEST as u64);
    match timeout(IDLE, bounded.read_until(b'\n', &mut line)).await {
        Ok(Ok(_)) if line.ends_with(b"\n") => Line::Text(line),
        Ok(Ok(MAX_REQUEST)) => Line::Bad(Response::refused(
            RefusalKind::Wrong,
            format!("a request of more than {MAX_REQUEST} bytes is not read"),
            "Send one request as one line of JSON.",
        )),
        _ => Line::Ended,
    }
}

fn unknown(error: &serde_json::Error) -> Response {
    let why = format!("this agent, version {}, does not know this request: {error}", env!("CARGO_PKG_VERSION"));
    let remedy = "If mainstay was upgraded, restart the agent: systemctl restart mainstay.";
    Response::refused(RefusalKind::Wrong, why, remedy)
}

async fn ask(request: Request, handler: &mpsc::Sender<Asked>) -> Response {
    let patience = request.patience();
    let changes = request.changes();
    let (sender, receiver) = oneshot::channel();
    match handler.try_send((request, sender)) {
        Ok(()) => {}
        Err(mpsc::error::TrySendError::Full(_)) => {
            let why = "the agent has more requests than it can take";
            return Response::refused(RefusalKind::NotNow, why, "Try again in a second.");
        }
        Err(mpsc::error::TrySendError::Closed(_)) => return going_down(),
    }
    match timeout(patience, receiver).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => going_down(),
        Err(_) if changes => Response::refused(
            RefusalKind::Unfinished,
            format!("it was begun and is not over after {} s", patience.as_secs()),
            "See what became of it with `mainstay status`; nothing needs to be undone.",
        ),
        Err(_) => Response::refused(
            RefusalKind::NotNow,
            format!("the agent did not get to it within {} s", patience.as_secs()),
            "See its log: journalctl -u mainstay -e.",
        ),
    }
}

fn going_down() -> Response {
    Response::refused(
        RefusalKind::NotNow,
        "the agent is going down",
        "Ask again once it runs: systemctl status mainstay.",
    )
}

async fn reply(write: &mut OwnedWriteHalf, answer: &Response) -> bool {
    let Ok(line) = to_line(answer) else { return false };
    matches!(timeout(WRITE, write.write_all(&line)).await, Ok(Ok(())))
}
