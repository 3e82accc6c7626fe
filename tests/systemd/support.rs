//! What both tests of systemd's side need: processes that end with their test, a free port, a configuration of one node.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

pub const BOUND: Duration = Duration::from_secs(20);

/// A process that does not outlive its test.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs with nothing to read and nobody to read from it.
pub fn start(command: &mut Command) -> Running {
    spawn(command.stdin(Stdio::null()).stdout(Stdio::null()))
}

#[allow(unsafe_code)]
pub fn spawn(command: &mut Command) -> Running {
    // SAFETY: prctl with PR_SET_PDEATHSIG is async-signal-safe and touches nothing but this process.
    unsafe {
        command.pre_exec(|| {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            Ok(())
        });
    }
    Running(command.spawn().expect("the program starts"))
}

/// A Redis that is born sealed, in `dir`, on that port of loopback.
pub fn start_redis(dir: &Path, port: u16) -> Running {
    let port = port.to_string();
    let args = ["--port", &port, "--bind", "127.0.0.1", "--replicaof", "127.0.0.1 1", "--save", ""];
    start(Command::new("redis-server").current_dir(dir).args(args))
}

/// The agent of the config in `dir`, to be started.
pub fn run_command(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mainstay"));
    command.args(["run", "--config"]).arg(dir.join("mainstay.toml"));
    command
}

/// What a process that was asked to stop ends with.
pub fn ended(running: &mut Running) -> ExitStatus {
    let begun = Instant::now();
    loop {
        if let Some(status) = running.0.try_wait().expect("its state") {
            return status;
        }
        assert!(begun.elapsed() < BOUND, "it does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").port()
}

pub fn write_config(dir: &Path, agent: u16, redis: u16) {
    let key = dir.join("key");
    let output = Command::new(env!("CARGO_BIN_EXE_mainstay")).arg("keygen").output().expect("keygen");
    std::fs::write(&key, output.stdout).expect("key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("mode");
    let here = dir.display();
    let text = format!(
        "[node]\nname = \"n1\"\naddress = \"127.0.0.1:{agent}\"\ndata_dir = \"{here}/data\"\n\
         [cluster]\nname = \"t\"\nkey_file = \"{here}/key\"\nmembers = {{ n1 = \"127.0.0.1:{agent}\" }}\n\
         [[group]]\nname = \"g\"\nredis = \"127.0.0.1:{redis}\"\nannounce = \"127.0.0.1:{redis}\"\n\
         [control]\nsocket = \"{here}/m.sock\"\n"
    );
    std::fs::write(dir.join("mainstay.toml"), text).expect("config");
}
