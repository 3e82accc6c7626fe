//! A real server for one test.

use mainstay::redis::{Endpoint, InstanceEvent, MainPid, Timing, Watcher};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

/// Detached, and read-only whatever its file says: a replica with `replica-read-only no` would take writes (S6).
pub(crate) const BORN_SEALED: [&str; 5] = ["--replicaof", "127.0.0.1", "1", "--replica-read-only", "yes"];

pub(crate) struct Server {
    child: Option<Child>,
    pub(crate) dir: TempDir,
    pub(crate) port: u16,
    args: Vec<String>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub(crate) fn in_time(ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(ms)
}

impl Server {
    pub(crate) async fn start(args: &[&str]) -> Self {
        let mut server = Self {
            child: None,
            dir: tempfile::tempdir().unwrap(),
            port: free_port(),
            args: args.iter().map(|a| (*a).to_owned()).collect(),
        };
        server.run(&[]).await;
        server
    }

    /// Starts the process in the same directory and waits until it answers anything.
    pub(crate) async fn run(&mut self, more: &[&str]) {
        self.launch(more);
        let up = Instant::now() + Duration::from_secs(10);
        loop {
            if redis_cli_ok(&self.socket()) {
                return;
            }
            assert!(Instant::now() < up, "redis-server does not come up; is the package redis-server installed?");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) fn launch(&mut self, more: &[&str]) {
        assert!(self.child.is_none(), "already running");
        let mut command = Command::new(std::env::var("REDIS_SERVER").unwrap_or("redis-server".into()));
        command
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--unixsocket", "r.sock"])
            .args(["--save", "", "--enable-debug-command", "local", "--logfile", "redis.log", "--dir", "."])
            .args(&self.args)
            .args(more)
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // SAFETY: prctl is async-signal-safe and only marks the child.
        #[allow(unsafe_code)]
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        self.child = Some(command.spawn().expect("redis-server can be started"));
    }

    /// The server under test: `REDIS_SERVER=/path/valkey-server` runs everything against Valkey.
    pub(crate) fn name(&self) -> String {
        std::env::var("REDIS_SERVER").unwrap_or("redis-server".into())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub(crate) fn signal(&self, signal: i32) {
        #[allow(unsafe_code)]
        // SAFETY: sends a signal to our own, unreaped child.
        let rc = unsafe { libc::kill(self.pid() as i32, signal) };
        assert_eq!(rc, 0);
    }

    /// SIGKILL without reaping: the process stays a zombie, as under a slow service manager.
    pub(crate) fn kill_unreaped(&self) {
        self.signal(libc::SIGKILL);
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("r.sock")
    }

    pub(crate) fn tcp(&self) -> Endpoint {
        Endpoint::tcp("127.0.0.1", self.port)
    }

    pub(crate) fn unix(&self) -> Endpoint {
        Endpoint::unix(self.socket())
    }

    /// A plain client.
    pub(crate) async fn client(&self) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(("127.0.0.1", self.port)).unwrap();
        let config = redis::AsyncConnectionConfig::new()
            .set_response_timeout(Some(Duration::from_secs(20)))
            .set_connection_timeout(Some(Duration::from_secs(5)));
        client.get_multiplexed_async_connection_with_config(&config).await.unwrap()
    }

    /// Runs one command.
    pub(crate) async fn do_cmd(&self, words: &[&str]) -> redis::RedisResult<redis::Value> {
        let mut cmd = redis::Cmd::new();
        for word in words {
            cmd.arg(*word);
        }
        cmd.query_async(&mut self.client().await).await
    }

    pub(crate) async fn ok(&self, words: &[&str]) -> redis::Value {
        self.do_cmd(words).await.unwrap_or_else(|e| panic!("{words:?}: {e}"))
    }
}

fn redis_cli_ok(socket: &std::path::Path) -> bool {
    use std::io::{Read, Write};
    let Ok(mut s) = std::os::unix::net::UnixStream::connect(socket) else {
        return false;
    };
    s.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut buf = [0; 64];
    s.write_all(b"PING\r\n").is_ok() && s.read(&mut buf).is_ok_and(|n| n > 0)
}

/// A watcher and its events.
pub(crate) struct Seen {
    pub(crate) watcher: Watcher,
    pub(crate) events: mpsc::Receiver<InstanceEvent>,
}

pub(crate) fn fast() -> Timing {
    Timing { pace: Duration::from_millis(20), ..Timing::default() }
}

impl Seen {
    pub(crate) fn of(endpoint: Endpoint) -> Self {
        let (tx, events) = mpsc::channel(4);
        Self { watcher: Watcher::spawn(endpoint, fast(), MainPid::default(), tx), events }
    }

    pub(crate) async fn next(&mut self, what: &str, ms: u64) -> InstanceEvent {
        timeout(Duration::from_millis(ms), self.events.recv())
            .await
            .unwrap_or_else(|_| panic!("no event while waiting for {what}"))
            .expect("the watcher lives")
    }

    /// Reads events until one passes; fails with everything that was seen instead.
    pub(crate) async fn until(&mut self, what: &str, ms: u64, pass: impl Fn(&InstanceEvent) -> bool) -> InstanceEvent {
        let end = Instant::now() + Duration::from_millis(ms);
        let mut others = Vec::new();
        loop {
            match tokio::time::timeout_at(end, self.events.recv()).await {
                Ok(Some(event)) if pass(&event) => return event,
                Ok(Some(event)) => others.push(brief(&event)),
                Ok(None) => panic!("the watcher ended"),
                Err(_) => panic!("waited {ms} ms for {what}, saw {others:?}"),
            }
        }
    }

    pub(crate) async fn info(&mut self) -> mainstay::redis::Info {
        match self.until("Info", 3000, |e| matches!(e, InstanceEvent::Info { .. })).await {
            InstanceEvent::Info { info, .. } => *info,
            _ => unreachable!(),
        }
    }
}

pub(crate) fn brief(event: &InstanceEvent) -> String {
    match event {
        InstanceEvent::Info { .. } => "Info".into(),
        other => format!("{other:?}"),
    }
}
