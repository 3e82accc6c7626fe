//! The command line: arguments in, one command run, an exit code out.
//!
//! Commands that talk to the agent are in `ctl::command`; the agent itself is `agent::run`. This file only reads
//! arguments, finds config and socket, and prints failures: on stderr, with a remedy, under a code of sysexits.h.
//! `status` ends with 0, 1 or 2 instead.

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
use mainstay::agent::emergency::{self, Which};
use mainstay::agent::order::{self, Order, Stage};
use mainstay::agent::{self, Ended};
use mainstay::cluster::GroupName;
use mainstay::config::{self, Config, ConfigError, Host, HostPort, Overrides};
use mainstay::ctl::DEFAULT_SOCKET;
use mainstay::ctl::client;
use mainstay::ctl::command::{self, StatusOptions, emit};
use mainstay::ctl::events::{self, EventsOptions};
use mainstay::ctl::exit::{Code, Failure, in_words};
use mainstay::ctl::insist;
use mainstay::ctl::protocol::{GroupDone, MAX_REASON, Request, Response};
use mainstay::ctl::render;
use mainstay::ctl::server::ServerError;
use mainstay::setup;
use mainstay::store::StoreError;
use mainstay::vip::VipError;
use mainstay::wire::KeyError;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Keeps one Redis or Valkey primary standing: agreed failover with a floating IP.
#[derive(Debug, Parser)]
#[command(name = "mainstay", version, arg_required_else_help = true, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Exit codes:
  status ends with 0 (healthy), 1 (degraded) or 2 (no quorum, or no agent to ask).
  All others end with 0 or a code of sysexits.h: 64 command line, 65 no such node or group,
  66 no such file, 69 no answer, 75 not now, 77 no permission, 78 config.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent (what the systemd unit starts)
    Run {
        /// The config file
        #[arg(long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
        config: PathBuf,
        /// Ask the running cluster at this address to take this node in, if it has no state yet
        #[arg(long, value_name = "HOST:PORT")]
        join: Option<HostPort>,
    },
    /// Show every group and node as this node sees them
    Status {
        /// Only this group
        #[arg(long, value_name = "GROUP")]
        group: Option<String>,
        /// As JSON, with stable keys
        #[arg(long)]
        json: bool,
        /// Again every second, until Ctrl-C
        #[arg(long)]
        watch: bool,
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Hand the primary over to another node without losing a write; waits for the end
    Switchover {
        /// The group; needed where there is more than one
        #[arg(long, value_name = "GROUP")]
        group: Option<String>,
        /// The node to hand over to; without it the best follower is taken
        #[arg(long, value_name = "NODE")]
        to: Option<String>,
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Promote a node without proof that nothing is lost: says what may be lost, and asks
    Failover {
        /// That this is by force; a change of primary without loss is `mainstay switchover`
        #[arg(long, required = true)]
        force: bool,
        /// The node to promote
        #[arg(long, value_name = "NODE")]
        to: String,
        /// The group; needed where there is more than one
        #[arg(long, value_name = "GROUP")]
        group: Option<String>,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Stop automatic promotion for a while, in the whole cluster
    Pause {
        /// For how long, such as 10m or 2h; without it until `mainstay resume`
        #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
        length: Option<Duration>,
        /// Why, for whoever looks at `mainstay status` later
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true, value_parser = reason)]
        reason: String,
        /// Only this group
        #[arg(long, value_name = "GROUP")]
        group: Option<String>,
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Allow automatic promotion again
    Resume {
        /// Only this group
        #[arg(long, value_name = "GROUP")]
        group: Option<String>,
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Say whose data is the group's, where its members hold several; the others' is given up
    Bootstrap {
        /// The node whose data stays
        #[arg(long, value_name = "NODE")]
        primary: String,
        /// The group; needed where there is more than one
        #[arg(long, value_name = "GROUP")]
        group: Option<String>,
        /// Do not ask, at a terminal
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// List the nodes of the cluster
    Members {
        /// As JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Take a node out of the cluster for good
    Leave {
        /// The node's name
        #[arg(value_name = "NODE")]
        node: String,
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Drop this node's membership in a cluster that went on without it, and join anew
    Join {
        /// A running member
        #[arg(value_name = "HOST:PORT")]
        address: HostPort,
        /// The agent's control socket; else the one of the config
        #[arg(long, value_name = "PATH")]
        socket: Option<PathBuf>,
        /// This host's config
        #[arg(long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
        config: PathBuf,
    },
    /// Stop serving on this host now: seal its instances and drop its VIPs, agent running or not
    Fence {
        /// Only where no agent runs, and this host's lease has lapsed (for ExecStopPost)
        #[arg(long)]
        if_lapsed: bool,
        /// Only where no agent runs, and this host held a lease (for ExecStopPost)
        #[arg(long, conflicts_with = "if_lapsed")]
        if_held: bool,
        /// The agent's control socket; else the one of the config
        #[arg(long, value_name = "PATH")]
        socket: Option<PathBuf>,
        /// This host's config: what to fence
        #[arg(long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
        config: PathBuf,
    },
    /// Write config, key, Redis settings and drop-in of this host, or remove them
    Init(Box<setup::InitArgs>),
    /// Show what happened, from this host's journal or the replicated history
    Events {
        /// Only this group
        #[arg(long, value_name = "GROUP")]
        group: Option<String>,
        /// Go on with what happens from now, until Ctrl-C
        #[arg(long)]
        follow: bool,
        /// As JSON, one object a line
        #[arg(long)]
        json: bool,
        /// Also what is many and says little by itself
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Hand over what an instance serves before it is stopped (for ExecStop)
    Release {
        /// The instance's group; else every group of this host
        #[arg(long, value_name = "GROUP")]
        group: Option<String>,
        /// Or the instance's unit
        #[arg(long, value_name = "UNIT", conflicts_with = "group")]
        unit: Option<String>,
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Serve one request of the agent for a Redis unit (what mainstay-unit@.service runs, as root)
    #[command(hide = true)]
    UnitRequest {
        /// The config that names the units
        #[arg(long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
        config: PathBuf,
    },
    /// Run the notify command with one event from stdin (what mainstay-notify@.service runs)
    #[command(hide = true)]
    NotifyEvent {
        /// The config that names the command
        #[arg(long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
        config: PathBuf,
    },
    /// Print a new cluster key
    Keygen,
    /// Print a config made of a sentinel.conf, and on stderr what cannot be carried over
    ImportSentinel {
        /// The sentinel.conf of this host
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// The address at which other hosts reach this one, where the file does not tell
        #[arg(long, value_name = "IP")]
        address: Option<Host>,
    },
}

/// How to find the local agent.
#[derive(Debug, Args)]
struct SocketArgs {
    /// The agent's control socket; else the one of --config, else /run/mainstay/mainstay.sock
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// The config file that names the control socket
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl SocketArgs {
    fn path(&self) -> Result<PathBuf, Failure> {
        match (&self.socket, &self.config) {
            (Some(socket), _) => Ok(socket.clone()),
            (None, Some(config)) => Ok(config::load(config).map_err(config_failure)?.0.control_socket),
            (None, None) => Ok(PathBuf::from(DEFAULT_SOCKET)),
        }
    }
}

/// How long blocking calls may go on after the command is over.
const SHUTDOWN: Duration = Duration::from_secs(1);

fn duration(text: &str) -> Result<Duration, String> {
    config::parse_duration(text).map_err(|error| error.to_string())
}

fn reason(text: &str) -> Result<String, String> {
    if text.len() > MAX_REASON {
        return Err(format!("it has {} bytes; at most {MAX_REASON} are kept", text.len()));
    }
    Ok(text.to_owned())
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            // To stdout if asked for, to stderr if not; a closed one changes nothing.
            let _ = error.print();
            return ExitCode::from(if asked { 0 } else { Code::Usage as u8 });
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = match runtime {
        Ok(runtime) => {
            let ended = runtime.block_on(run(cli.command));
            // A blocking call that is stuck must not keep a finished command from ending.
            runtime.shutdown_timeout(SHUTDOWN);
            ended
        }
        Err(error) => Err(Failure::new(Code::Software, format!("the runtime cannot be started: {error}"), "")),
    };
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            eprintln!("mainstay: {failure}");
            ExitCode::from(failure.code)
        }
    }
}

async fn run(command: Command) -> Result<u8, Failure> {
    let group = |name: Option<String>| name.map(GroupName);
    match command {
        Command::Run { config: path, join } => run_agent(agent::Source { path, overrides: Overrides { join } }).await,
        Command::Status { group: name, json, watch, socket } => {
            command::status(&socket.path()?, &StatusOptions { group: group(name), json, watch }).await
        }
        Command::Switchover { group: name, to, socket } => {
            command::change(&socket.path()?, &Request::Switchover { group: group(name), to }).await
        }
        Command::Failover { force: _, to, group: name, yes, socket } => {
            insist::failover(&socket.path()?, group(name), to, yes).await
        }
        Command::Pause { length, reason, group: name, socket } => {
            command::change(&socket.path()?, &Request::Pause { group: group(name), length, reason }).await
        }
        Command::Resume { group: name, socket } => {
            command::change(&socket.path()?, &Request::Resume { group: group(name) }).await
        }
        Command::Bootstrap { primary, group: name, yes, socket } => {
            insist::bootstrap(&socket.path()?, group(name), primary, yes).await
        }
        Command::Members { json, socket } => command::members(&socket.path()?, json).await,
        Command::Leave { node, socket } => command::change(&socket.path()?, &Request::Leave { node }).await,
        Command::Join { address, socket, config } => join(address.to_string(), socket, &config).await,
        Command::Fence { if_lapsed, if_held, socket, config } => {
            fence(Which::asked(if_lapsed, if_held), socket, &config).await
        }
        Command::Events { group: name, follow, json, all, socket } => {
            let options = EventsOptions { group: group(name), follow, json, all };
            events::events(&socket.path()?, &options).await
        }
        Command::Release { group: name, unit, socket } => {
            command::release(&socket.path()?, &Request::Release { group: group(name), unit }).await
        }
        Command::UnitRequest { config } => {
            let (config, _) = config::load(&config).map_err(config_failure)?;
            agent::unit_request(&config).map_err(|error| Failure::new(Code::IoErr, error, ""))
        }
        Command::NotifyEvent { config } => {
            let (config, _) = config::load(&config).map_err(config_failure)?;
            agent::notify_event(&config).map_err(|error| Failure::new(Code::IoErr, error, ""))
        }
        Command::Init(args) => setup::run(&args),
        Command::Keygen => {
            let key = mainstay::wire::generate_key().map_err(|error| Failure::new(Code::Software, error, ""))?;
            emit(&format!("{key}\n")).map(|_| 0)
        }
        Command::ImportSentinel { file, address } => import_sentinel(&file, address.as_ref()),
    }
}

/// The config to stdout; what it lacks to stderr, first, so that a terminal shows the config whole.
fn import_sentinel(file: &Path, address: Option<&Host>) -> Result<u8, Failure> {
    let imported = config::import_sentinel_file(file, address);
    let imported = imported.map_err(|error| Failure {
        code: error.exit_code(),
        what: error.to_string(),
        remedy: String::new(),
    })?;
    for note in &imported.notes {
        eprintln!("{}", note.shown(&file.display().to_string()));
    }
    emit(&imported.config).map(|_| 0)
}

async fn run_agent(source: agent::Source) -> Result<u8, Failure> {
    let (config, warnings) = config::load_with(&source.path, &source.overrides).map_err(config_failure)?;
    let ran = match agent::init_logging() {
        Ok(()) => {
            agent::kept::keep(&source.path);
            agent::run(config, warnings, source).await
        }
        Err(error) => Err(error),
    };
    match ran {
        Ok(Ended::Stopped) => Ok(0),
        Ok(Ended::Again) => Err(start_again()),
        Err(error) => Err(agent_failure(&error)),
    }
}

/// The same program with the same arguments in this very process, so that whoever supervises it notices nothing.
fn start_again() -> Failure {
    let mut args = std::env::args_os();
    let mut again = std::process::Command::new("/proc/self/exe");
    if let Some(name) = args.next() {
        again.arg0(name);
    }
    let error = again.args(args).exec();
    Failure::new(Code::Software, format!("the agent cannot start again by itself: {error}"), "Start it by hand.")
}

/// Through the agent if one runs; else the order waits for its next start.
async fn join(address: String, socket: Option<PathBuf>, file: &Path) -> Result<u8, Failure> {
    let loaded = config::load(file);
    let path = match (socket, &loaded) {
        (Some(socket), _) => socket,
        (None, Ok((config, _))) => config.control_socket.clone(),
        (None, Err(_)) => PathBuf::from(DEFAULT_SOCKET),
    };
    let request = Request::Join { address: address.clone() };
    match client::ask(&path, &request).await {
        Ok(Response::Done(done)) => return emit(&render::done(&done)).map(|_| 0),
        Ok(Response::Refused(refused)) => return Err(refused.into()),
        Ok(_) => return Err(Failure::new(Code::Software, "the agent answered another question", "")),
        Err(error) if error.nobody() => {}
        Err(error) => return Err(error.into()),
    }
    let (config, _) = loaded.map_err(config_failure)?;
    let join = Order::Join { address, stage: Stage::Asked };
    order::give(&config.node.data_dir, &join).map_err(|error| Failure::new(Code::IoErr, format!("{error:#}"), ""))?;
    emit("no agent runs here; it joins anew when it is started: systemctl start mainstay\n").map(|_| 0)
}

/// Its own words; the code of the first cause that has one.
fn agent_failure(error: &anyhow::Error) -> Failure {
    let code = error.chain().find_map(code_of).unwrap_or(Code::Software);
    Failure::new(code, in_words(error.as_ref()), "")
}

fn code_of(cause: &(dyn std::error::Error + 'static)) -> Option<Code> {
    if let Some(error) = cause.downcast_ref::<ServerError>() {
        return Some(error.exit_code());
    }
    if let Some(VipError::MissingCapability { .. }) = cause.downcast_ref() {
        return Some(Code::NoPerm);
    }
    if let Some(StoreError::Busy { .. }) = cause.downcast_ref() {
        return Some(Code::TempFail);
    }
    match cause.downcast_ref::<KeyError>() {
        Some(KeyError::Read { source, .. }) => return Some(file_code(source)),
        Some(_) => return Some(Code::Config),
        None => {}
    }
    // A file or port that the agent may not use; what else the system says is no one kind of fault.
    let io = cause.downcast_ref::<std::io::Error>()?;
    (io.kind() == std::io::ErrorKind::PermissionDenied).then_some(Code::NoPerm)
}

fn file_code(error: &std::io::Error) -> Code {
    match error.kind() {
        std::io::ErrorKind::NotFound => Code::NoInput,
        std::io::ErrorKind::PermissionDenied => Code::NoPerm,
        _ => Code::IoErr,
    }
}

/// Through the agent if it does it; else, for it is the emergency brake, without it.
async fn fence(which: Which, socket: Option<PathBuf>, file: &Path) -> Result<u8, Failure> {
    let loaded = agent::kept::load(file);
    let socket = match (socket, &loaded) {
        (Some(socket), _) => socket,
        (None, Ok(config)) => config.control_socket.clone(),
        (None, Err(_)) => PathBuf::from(DEFAULT_SOCKET),
    };
    let request = if which == Which::All { Request::FenceHere {} } else { Request::Members {} };
    match client::ask(&socket, &request).await {
        Ok(_) if which != Which::All => {
            emit("left alone: an agent runs here and looks after its lease itself\n")?;
            return Ok(0);
        }
        Ok(Response::Done(done)) => return emit(&render::done(&done)).map(|_| 0),
        Ok(Response::Refused(refused)) => {
            eprintln!("mainstay: the agent did not fence: {}; going on without it", refused.why)
        }
        Ok(_) => eprintln!("mainstay: the agent did not fence; going on without it"),
        Err(error) if error.nobody() => {}
        Err(error) => eprintln!("mainstay: {error}; going on without it"),
    }
    let config = loaded.map_err(config_failure)?;
    fence_directly(&config, &socket, which).await
}

async fn fence_directly(config: &Config, socket: &Path, which: Which) -> Result<u8, Failure> {
    let fenced = emergency::fence(config, which, socket).await;
    if fenced.is_empty() {
        emit("nothing to fence: the config has no [[group]], this node is a witness\n")?;
    }
    let mut worst = 0;
    for group in fenced {
        if !group.done.is_empty() {
            emit(&render::group_lines(&[GroupDone { group: group.group.clone(), text: group.done.join("; ") }]))?;
        }
        for trouble in &group.failed {
            eprintln!("mainstay: {}: {}", group.group, trouble.text);
            let code = if trouble.permission { Code::NoPerm } else { Code::Unavailable };
            worst = worst.max(code as u8);
        }
    }
    Ok(worst)
}

/// The config's own words, which name file and line.
fn config_failure(error: ConfigError) -> Failure {
    Failure { code: error.exit_code(), what: error.to_string(), remedy: String::new() }
}

#[cfg(test)]
#[path = "../tests/manual/pages.rs"]
mod pages;
