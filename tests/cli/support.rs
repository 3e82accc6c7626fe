//! What the command line is run against: an agent that answers as told, a real instance, a network namespace. Each
//! cleans up after itself, also when a test fails.

use mainstay::ctl::protocol::{Request, Response};
use mainstay::ctl::server::Server;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};

pub(crate) struct Out {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

pub(crate) fn mainstay() -> Command {
    Command::new(env!("CARGO_BIN_EXE_mainstay"))
}

pub(crate) fn run(command: &mut Command) -> Out {
    let out = command.stdin(Stdio::null()).output().expect("it starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is text");
    Out { code: out.status.code().unwrap_or(-1), stdout: text(out.stdout), stderr: text(out.stderr) }
}

/// The exit code, or None (and the end of the child) if it does not come in time.
pub(crate) fn wait(child: &mut Child, bound: Duration) -> Option<i32> {
    let until = Instant::now() + bound;
    while Instant::now() < until {
        if let Some(status) = child.try_wait().expect("it can be waited for") {
            return status.code();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}

/// A config of one node; `vip` are further lines of its group.
pub(crate) fn config(dir: &Path, redis: u16, vip: &str) -> PathBuf {
    let text = format!(
        "[node]\nname = \"n1\"\naddress = \"127.0.0.1:7400\"\ndata_dir = \"{dir}/data\"\n\
         [cluster]\nname = \"test\"\nkey_file = \"{dir}/key\"\nmembers = {{ n1 = \"127.0.0.1:7400\" }}\n\
         [control]\nsocket = \"{dir}/mainstay.sock\"\n\
         [[group]]\nname = \"mymaster\"\nredis = \"127.0.0.1:{redis}\"\nannounce = \"127.0.0.1:{redis}\"\n{vip}",
        dir = dir.display()
    );
    let path = dir.join("mainstay.toml");
    std::fs::write(&path, text).expect("writes");
    path
}

/// The agent's end of the socket, answering as told.
pub(crate) struct Agent {
    dir: TempDir,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Agent {
    pub(crate) fn start(answer: impl Fn(Request) -> Response + Send + 'static) -> Self {
        let dir = TempDir::new().expect("a directory");
        let socket = dir.path().join("mainstay.sock");
        let (stop, stopped) = oneshot::channel();
        let (up, ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let server = Server::bind(&socket).await.expect("the socket is free");
                let (sender, mut asked) = mpsc::channel(4);
                tokio::spawn(server.run(sender));
                up.send(()).expect("the test waits");
                let serve = async {
                    while let Some((request, reply)) = asked.recv().await {
                        let _ = reply.send(answer(request));
                    }
                };
                tokio::select! { () = serve => (), _ = stopped => () }
            });
        });
        ready.recv_timeout(Duration::from_secs(5)).expect("the socket comes up");
        Self { dir, stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("mainstay.sock")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A network namespace of its own.
pub(crate) struct Namespace {
    name: String,
}

static NAMESPACES: AtomicU32 = AtomicU32::new(0);

impl Namespace {
    /// None without the right to make one.
    pub(crate) fn new() -> Option<Self> {
        let name = format!("mscli{}x{}", std::process::id(), NAMESPACES.fetch_add(1, Ordering::Relaxed));
        let made = Command::new("ip").args(["netns", "add", &name]).stderr(Stdio::null()).status();
        made.is_ok_and(|status| status.success()).then_some(Self { name })
    }

    pub(crate) fn exec(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    pub(crate) fn ip(&self, args: &[&str]) -> String {
        let out = run(Command::new("ip").args(["-n", &self.name]).args(args));
        assert_eq!(out.code, 0, "ip {args:?}: {}", out.stderr);
        out.stdout
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}

/// A real instance on loopback.
pub(crate) struct Redis {
    child: Child,
    pub(crate) port: u16,
    space: Option<String>,
}

impl Redis {
    pub(crate) fn start(dir: &Path, space: Option<&Namespace>) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port();
        let mut command = match space {
            Some(space) => space.exec("redis-server"),
            None => Command::new("redis-server"),
        };
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"]).arg(dir);
        let child = command.stdout(Stdio::null()).spawn().expect("redis-server is installed");
        let redis = Self { child, port, space: space.map(|space| space.name.clone()) };
        let until = Instant::now() + Duration::from_secs(10);
        while !redis.cli(&["PING"]).contains("PONG") {
            assert!(Instant::now() < until, "redis-server does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        redis
    }

    pub(crate) fn cli(&self, args: &[&str]) -> String {
        let mut command = match &self.space {
            Some(space) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", space, "redis-cli"]);
                command
            }
            None => Command::new("redis-cli"),
        };
        run(command.args(["-p", &self.port.to_string()]).args(args)).stdout
    }

    /// `ip netns exec` becomes the program it starts, so the child is the instance itself.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).expect("it runs");
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
