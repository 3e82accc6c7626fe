//! The command itself: plan, write or take back, and say what is left to do.

use super::files::OWN;
use super::plan::FileToWrite;
use super::{Done, InitArgs, Plan, SetupError, plan, remove, write};
use crate::ctl::command::emit;
use crate::ctl::exit::{Code, Failure};
use nix::time::{ClockId, clock_gettime};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// The agent's unit.
const AGENT: &str = "mainstay.service";

/// `mainstay init`.
///
/// # Errors
/// Nothing was written, or the system refused; in words, with the remedy.
pub fn run(args: &InitArgs) -> Result<u8, Failure> {
    let mut said = String::new();
    if args.remove {
        let done = remove(&args.root, args.force, args.instance_only, || reload(&args.root))?;
        if done.is_empty() {
            said.push_str("nothing to take back: no run of `mainstay init` wrote anything here\n");
        }
        for done in &done {
            // Writing to a String cannot fail.
            let _ = writeln!(said, "{done}");
        }
        if done.iter().any(|done| matches!(done, Done::Removed(_))) {
            said.push_str("Redis starts as its package has it the next time that it is started\n");
        }
        return emit(&said).map(|_| 0);
    }
    let plan = plan(args)?;
    if args.dry_run {
        return emit(&plan.preview()).map(|_| 0);
    }
    for done in write(&plan, &args.root, args.force)? {
        let _ = writeln!(said, "{done}");
    }
    let mut next = plan.next.clone();
    if !args.now && args.root == Path::new("/") {
        next.push("systemctl daemon-reload".to_owned());
        next.extend(plan.unit.iter().map(|unit| format!("systemctl restart {unit}    # from now on it starts sealed")));
        next.push(format!("systemctl enable --now {AGENT}"));
    }
    for (at, step) in next.iter().enumerate() {
        let _ = writeln!(said, "{} {step}", if at == 0 { "next:" } else { "     " });
    }
    emit(&said)?;
    if args.now {
        start(&plan)?;
    }
    Ok(0)
}

/// Has the service manager do the rest. What was started after its files were written is left alone, so that a run that
/// was cut short is made whole by another one.
fn start(plan: &Plan) -> Result<(), Failure> {
    let (own, of_the_instance): (Vec<_>, Vec<_>) = plan.files.iter().partition(|file| file.path.starts_with(OWN));
    systemctl(&["daemon-reload"])?;
    if let Some(unit) = &plan.unit {
        systemctl(&[if is_stale(unit, &of_the_instance) { "restart" } else { "start" }, unit])?;
    }
    if is_stale(AGENT, &own) {
        systemctl(&["try-restart", AGENT])?;
    }
    systemctl(&["enable", "--now", AGENT])
}

/// Whether the unit's process was started before one of its files was written, or never.
fn is_stale(unit: &str, files: &[&FileToWrite]) -> bool {
    let show = ["show", "--value", "--property=ExecMainStartTimestampMonotonic", unit];
    let said = Command::new("systemctl").args(show).output().ok();
    let started = said.and_then(|said| String::from_utf8(said.stdout).ok()?.trim().parse().ok());
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    let Some(started) = started.filter(|at| *at > 0).map(Duration::from_micros) else { return true };
    let runs = now.saturating_sub(started);
    let written = |file: &&FileToWrite| fs::metadata(&file.path).and_then(|meta| meta.modified()).ok();
    // A clock that was set back in between makes a file of the future: it counts as new.
    files.iter().filter_map(written).any(|at| at.elapsed().unwrap_or_default() < runs)
}

fn systemctl(words: &[&str]) -> Result<(), Failure> {
    let step = words.join(" ");
    emit(&format!("systemctl {step}\n"))?;
    let said = match Command::new("systemctl").args(words).status() {
        Ok(status) if status.success() => return Ok(()),
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    };
    let remedy = match words {
        [.., unit] if words.len() > 1 => {
            format!("see `systemctl status {unit}` and `journalctl -xeu {unit}`, then: systemctl {step}")
        }
        _ => format!("then: systemctl {step}"),
    };
    Err(Failure::new(Code::Unavailable, format!("systemctl {step}: {said}"), remedy))
}

/// Where a service manager runs here; it says itself what it does not like.
fn reload(root: &Path) {
    if root == Path::new("/") && Path::new("/run/systemd/system").exists() {
        let _ = Command::new("systemctl").arg("daemon-reload").status();
    }
}

impl From<SetupError> for Failure {
    fn from(error: SetupError) -> Self {
        let code = match &error {
            SetupError::Wanted { .. } => Code::Usage,
            SetupError::Config { .. } => Code::Config,
            SetupError::Edited { .. } => Code::CantCreat,
            SetupError::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => Code::NoPerm,
            SetupError::Io { .. } => Code::IoErr,
        };
        Self::new(code, &error, error.remedy())
    }
}
