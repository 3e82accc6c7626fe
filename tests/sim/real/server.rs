//! One real `redis-server` on a loopback address of its own, and just enough of its protocol to ask it things.
//!
//! It dies with the test: killed when dropped, and by the kernel (`setpriv --pdeathsig`) should the test itself die.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long any answer may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    Text(String),
    Error(String),
    Number(i64),
    List(Vec<Reply>),
}

/// A connection.
#[derive(Debug)]
pub struct Client(BufReader<TcpStream>);

impl Client {
    pub fn connect(to: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Bounds the wait for an answer.
    pub fn patience(&self, time: Duration) -> io::Result<()> {
        self.0.get_ref().set_read_timeout(Some(time))
    }

    /// All commands in one write.
    pub fn send(&mut self, commands: &[Vec<&str>]) -> io::Result<()> {
        let mut bytes = Vec::new();
        for command in commands {
            bytes.extend(format!("*{}\r\n", command.len()).bytes());
            for word in command {
                bytes.extend(format!("${}\r\n{word}\r\n", word.len()).bytes());
            }
        }
        self.0.get_mut().write_all(&bytes)
    }

    pub fn read(&mut self) -> io::Result<Reply> {
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let bad = || io::Error::new(ErrorKind::InvalidData, line.clone());
        let rest = line.get(1..).unwrap_or_default().trim_end();
        let number = || rest.parse::<i64>().map_err(|_| bad());
        match line.as_bytes().first() {
            Some(b'+') => Ok(Reply::Text(rest.to_owned())),
            Some(b'-') => Ok(Reply::Error(rest.to_owned())),
            Some(b':') => Ok(Reply::Number(number()?)),
            Some(b'$') => {
                let Ok(length) = usize::try_from(number()?) else { return Ok(Reply::Text(String::new())) };
                let mut bytes = vec![0; length + 2];
                self.0.read_exact(&mut bytes)?;
                bytes.truncate(length);
                Ok(Reply::Text(String::from_utf8_lossy(&bytes).into_owned()))
            }
            Some(b'*') => {
                let length = usize::try_from(number()?).unwrap_or(0);
                (0..length).map(|_| self.read()).collect::<io::Result<_>>().map(Reply::List)
            }
            _ => Err(bad()),
        }
    }

    pub fn call(&mut self, commands: &[Vec<&str>]) -> io::Result<Vec<Reply>> {
        self.send(commands)?;
        commands.iter().map(|_| self.read()).collect()
    }
}

/// A process, its directory and its address.
#[derive(Debug)]
pub struct Server {
    child: Option<Child>,
    pub stopped: bool,
    dir: PathBuf,
    pub address: SocketAddr,
    appendonly: bool,
    client: Option<Client>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Server {
    /// Started for the first time, sealed.
    pub fn start(ip: Ipv4Addr, number: u16, appendonly: bool) -> io::Result<Self> {
        let dir = std::env::temp_dir().join(format!("mainstay-real-{}-{ip}-{number}", std::process::id()));
        let address = (ip, 6379 + number).into();
        let mut server = Self { child: None, stopped: false, dir, address, appendonly, client: None };
        server.wipe()?;
        server.launch(&[])?;
        Ok(server)
    }

    /// Takes everything from its disk.
    pub fn wipe(&self) -> io::Result<()> {
        let _ = std::fs::remove_dir_all(&self.dir);
        std::fs::create_dir_all(&self.dir)
    }

    /// Starts the process, sealed by its command line (S6), and waits until it answers anything.
    pub fn launch(&mut self, more: &[&str]) -> io::Result<()> {
        let (ip, port) = (self.address.ip().to_string(), self.address.port().to_string());
        let log = std::fs::File::options().create(true).append(true).open(self.dir.join("out"))?;
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "redis-server", "--bind", &ip, "--port", &port, "--dir", "."])
            .args(["--replicaof", "127.0.0.1", "1", "--save", "", "--rdbcompression", "no"])
            .args(["--appendonly", if self.appendonly { "yes" } else { "no" }])
            .args(["--repl-diskless-sync-delay", "0", "--repl-diskless-load", "disabled"])
            .args(["--repl-backlog-size", "49152", "--repl-ping-replica-period", "36000", "--repl-timeout", "72000"])
            .args(["--min-replicas-max-lag", "1", "--shutdown-timeout", "0"])
            .args(["--loading-process-events-interval-bytes", "1024"])
            .args(more)
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        self.child = Some(command.spawn()?);
        let up = Instant::now() + PATIENCE;
        while self.call(&[vec!["PING"]]).is_err() {
            if Instant::now() > up {
                return Err(io::Error::other(format!("redis-server does not come up:\n{}", self.log(20))));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    pub fn runs(&self) -> bool {
        self.child.is_some()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.client = None;
        self.stopped = false;
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// `SHUTDOWN SAVE`, to its end.
    pub fn shut_down(&mut self) -> io::Result<()> {
        let mut client = Client::connect(self.address)?;
        client.send(&[vec!["SHUTDOWN", "SAVE"]])?;
        let end = Instant::now() + PATIENCE;
        while let Some(child) = &mut self.child {
            if child.try_wait()?.is_some() {
                break;
            }
            if Instant::now() > end {
                return Err(io::Error::other("SHUTDOWN does not end"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.kill();
        Ok(())
    }

    /// SIGSTOP, SIGCONT.
    pub fn signal(&mut self, name: &str) -> io::Result<()> {
        let Some(child) = &self.child else { return Err(io::Error::other("no process")) };
        let done = Command::new("kill").args([name, &child.id().to_string()]).status()?;
        self.stopped = name == "-STOP";
        if done.success() { Ok(()) } else { Err(io::Error::other(format!("kill {name}: {done}"))) }
    }

    /// Commands on the connection that is kept, which a fence may have closed.
    pub fn call(&mut self, commands: &[Vec<&str>]) -> io::Result<Vec<Reply>> {
        if let Some(mut client) = self.client.take() {
            let closed = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
            match client.call(commands) {
                Err(error) if closed.contains(&error.kind()) => {}
                other => {
                    self.client = other.is_ok().then_some(client);
                    return other;
                }
            }
        }
        let mut client = Client::connect(self.address)?;
        let replies = client.call(commands)?;
        self.client = Some(client);
        Ok(replies)
    }

    /// One command that must be answered.
    pub fn ask(&mut self, command: &[&str]) -> io::Result<Reply> {
        let mut replies = self.call(&[command.to_vec()])?;
        replies.pop().ok_or_else(|| ErrorKind::UnexpectedEof.into())
    }

    /// INFO's fields.
    pub fn info(&mut self) -> io::Result<BTreeMap<String, String>> {
        let Reply::Text(text) = self.ask(&["INFO"])? else { return Err(io::Error::other("INFO is refused")) };
        Ok(text.lines().filter_map(|line| line.split_once(':')).map(|(a, b)| (a.to_owned(), b.to_owned())).collect())
    }

    /// The end of its log.
    pub fn log(&self, lines: usize) -> String {
        let text = std::fs::read_to_string(self.dir.join("out")).unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}
