//! The commands that only talk to the agent's socket: ask, print, and say how it ended.
//!
//! Each returns the exit code, or a [`Failure`] for `main` to print. Results go to stdout, everything else to stderr;
//! a reader that has seen enough (`| head`) ends a command quietly. Nothing here decides anything about the cluster.

use super::client::{self, ClientError};
use super::exit::{Code, Failure};
use super::protocol::{Done, Request, Response};
use super::render::{self, Style};
use super::report::StatusReport;
use crate::cluster::GroupName;
use std::io::{ErrorKind, IsTerminal as _, Write as _};
use std::path::Path;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

/// How often `status --watch` asks.
pub const WATCH: Duration = Duration::from_secs(1);

/// What `status` is to show.
#[derive(Debug, Clone, Default)]
pub struct StatusOptions {
    /// One group only.
    pub group: Option<GroupName>,
    /// As JSON.
    pub json: bool,
    /// Again every second.
    pub watch: bool,
}

/// `mainstay status`: 0 healthy, 1 degraded, 2 no quorum or nobody to ask.
pub async fn status(socket: &Path, options: &StatusOptions) -> Result<u8, Failure> {
    if options.watch {
        return watch(socket, options).await;
    }
    let report = fetch(socket, options).await?;
    let text = match options.json {
        true => format!("{}\n", serde_json::to_string_pretty(&report).map_err(defect)?),
        false => render::status(&report, style()),
    };
    emit(&text)?;
    Ok(report.exit_code())
}

async fn fetch(socket: &Path, options: &StatusOptions) -> Result<StatusReport, Failure> {
    // Whatever keeps the answer away, to `status` the cluster is unreachable.
    let unreachable = |mut failure: Failure| {
        failure.code = Code::NoQuorum as u8;
        failure
    };
    let answer = client::ask(socket, &Request::Status {}).await.map_err(|error| unreachable(error.into()))?;
    let report = match answer {
        Response::Status(report) => *report,
        Response::Refused(refused) => return Err(unreachable(refused.into())),
        Response::Members(_) | Response::Done(_) | Response::History { .. } | Response::Plan(_) => {
            return Err(unreachable(unexpected(socket)));
        }
    };
    let Some(group) = &options.group else { return Ok(report) };
    let known: Vec<String> = report.groups.iter().map(|found| found.name.to_string()).collect();
    report.only(group).ok_or_else(|| {
        let remedy =
            if known.is_empty() { "It knows none yet.".to_owned() } else { format!("It has {}.", known.join(", ")) };
        Failure::new(Code::DataErr, format!("the cluster has no group {group}"), remedy)
    })
}

/// Again and again until a signal ends it, through restarts of the agent.
async fn watch(socket: &Path, options: &StatusOptions) -> Result<u8, Failure> {
    let mut signals = Signals::new()?;
    let screen = (!options.json && std::io::stdout().is_terminal()).then(Screen::enter).transpose()?;
    let mut ticks = interval(WATCH);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let frame = async {
            ticks.tick().await;
            fetch(socket, options).await
        };
        let found = tokio::select! {
            found = frame => found,
            () = signals.any() => return Ok(0),
        };
        let shown = match (&screen, options.json) {
            (Some(screen), _) => screen.show(&frame_text(&found)),
            (None, true) => match &found {
                Ok(report) => emit(&format!("{}\n", serde_json::to_string(report).map_err(defect)?)),
                Err(failure) => complain(failure),
            },
            (None, false) => emit(&format!("{}\n", frame_text(&found))),
        };
        if !shown? {
            return Ok(0);
        }
    }
}

fn frame_text(found: &Result<StatusReport, Failure>) -> String {
    match found {
        Ok(report) => render::status(report, style()),
        Err(failure) => format!("{failure}\n"),
    }
}

/// To stderr, and go on; the reader of stdout sees a gap.
fn complain(failure: &Failure) -> Result<bool, Failure> {
    let _ = writeln!(std::io::stderr(), "mainstay: {failure}");
    Ok(true)
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let one = |kind| signal(kind).map_err(|error| Failure::new(Code::Software, error, ""));
        let (interrupt, terminate) = (one(SignalKind::interrupt())?, one(SignalKind::terminate())?);
        Ok(Self { interrupt, terminate, hangup: one(SignalKind::hangup())? })
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => (),
            _ = self.terminate.recv() => (),
            _ = self.hangup.recv() => (),
        }
    }
}

/// The terminal's alternate screen; left again on every way out.
struct Screen;

impl Screen {
    fn enter() -> Result<Self, Failure> {
        emit("\u{1b}[?1049h\u{1b}[?25l")?;
        Ok(Self)
    }

    /// Overwrites line by line, which does not flicker.
    fn show(&self, text: &str) -> Result<bool, Failure> {
        let lines = text.replace('\n', "\u{1b}[K\n");
        emit(&format!("\u{1b}[H{lines}\u{1b}[K\nevery second; Ctrl-C ends\u{1b}[J"))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = emit("\u{1b}[?25h\u{1b}[?1049l");
    }
}

/// `mainstay members`.
pub async fn members(socket: &Path, json: bool) -> Result<u8, Failure> {
    match client::ask(socket, &Request::Members {}).await? {
        Response::Members(report) => {
            let text = match json {
                true => format!("{}\n", serde_json::to_string_pretty(&report).map_err(defect)?),
                false => render::members(&report),
            };
            emit(&text)?;
            Ok(0)
        }
        Response::Refused(refused) => Err(refused.into()),
        Response::Status(_) | Response::Done(_) | Response::History { .. } | Response::Plan(_) => {
            Err(unexpected(socket))
        }
    }
}

/// Everything that changes something: asks, waits for the end, prints what was done.
pub async fn change(socket: &Path, request: &Request) -> Result<u8, Failure> {
    match client::ask(socket, request).await {
        Ok(Response::Done(done)) => {
            emit(&render::done(&done))?;
            // A switchover that went back to where it was is no success.
            let back = matches!(&done, Done::Switched(switched) if switched.from == switched.to);
            Ok(if back { Code::TempFail as u8 } else { 0 })
        }
        Ok(Response::Refused(refused)) => Err(refused.into()),
        Ok(Response::Status(_) | Response::Members(_) | Response::History { .. } | Response::Plan(_)) => {
            Err(unexpected(socket))
        }
        Err(error @ (ClientError::Silent { .. } | ClientError::Gone { .. })) => {
            let mut failure = Failure::from(error);
            failure.remedy = "Whether it was done is not known: see `mainstay status` before you ask again.".to_owned();
            Err(failure)
        }
        Err(error) => Err(error.into()),
    }
}

/// `mainstay release`: an instance is about to be stopped. Where no agent runs there is nobody to hand over for, and
/// stopping it must not fail for that.
pub async fn release(socket: &Path, request: &Request) -> Result<u8, Failure> {
    match change(socket, request).await {
        Err(failure) if failure.code == Code::Unavailable as u8 => {
            emit("no agent answers here: nothing is handed over\n").map(|_| 0)
        }
        other => other,
    }
}

fn unexpected(socket: &Path) -> Failure {
    let detail = "an answer to another question".to_owned();
    ClientError::Unreadable { path: socket.to_owned(), detail }.into()
}

fn defect(error: serde_json::Error) -> Failure {
    Failure::new(Code::Software, format!("the report cannot be written as JSON: {error}"), "")
}

/// Colour for people only, and only where they did not ask for none (no-color.org).
fn style() -> Style {
    let wanted = std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
    let able = std::env::var_os("TERM").is_some_and(|term| term != "dumb");
    Style { colour: wanted && able && std::io::stdout().is_terminal() }
}

/// To stdout. False once nobody reads it any more.
pub fn emit(text: &str) -> Result<bool, Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::new(Code::IoErr, format!("cannot write to stdout: {error}"), "")),
    }
}
