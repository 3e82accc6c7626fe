//! The command itself: plan, write or take back, and say what is left to do.

use super::{Done, InitArgs, Plan, SetupError, plan, remove, write};
use crate::ctl::command::emit;
use crate::ctl::exit::{Code, Failure};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

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
        if done.iter().any(|done| matches!(done, super::Done::Removed(_))) {
            said.push_str("Redis starts as its package has it the next time that it is started\n");
        }
        return emit(&said).map(|_| 0);
    }
    let plan = plan(args)?;
    if args.dry_run {
        return emit(&plan.preview()).map(|_| 0);
    }
    let done = write(&plan, &args.root, args.force)?;
    for done in &done {
        let _ = writeln!(said, "{done}");
    }
    let mut next = plan.next.clone();
    if !args.now {
        next.extend(plan.systemctl.iter().map(|(step, why)| match *why {
            "" => format!("systemctl {step}"),
            why => format!("systemctl {step}    # {why}"),
        }));
    }
    for (at, step) in next.iter().enumerate() {
        let _ = writeln!(said, "{} {step}", if at == 0 { "next:" } else { "     " });
    }
    emit(&said)?;
    if args.now {
        start(&plan, done.iter().any(Done::is_change))?;
    }
    Ok(0)
}

/// Has the service manager do the rest: what runs already and whose files are as they were is left alone.
fn start(plan: &Plan, changed: bool) -> Result<(), Failure> {
    let mut steps: Vec<&str> = plan.systemctl.iter().map(|(step, _)| step.as_str()).collect();
    if changed {
        // An agent that runs already has read another config.
        steps.insert(steps.len() - 1, "try-restart mainstay");
    } else {
        steps.drain(..steps.len() - 1);
    }
    for step in steps {
        emit(&format!("systemctl {step}\n"))?;
        let done = Command::new("systemctl").args(step.split_whitespace()).status();
        let said = match done {
            Ok(status) if status.success() => continue,
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        let unit = step.split_whitespace().last().unwrap_or_default();
        let remedy = format!("see `systemctl status {unit}` and `journalctl -xeu {unit}`, then: systemctl {step}");
        return Err(Failure::new(Code::Unavailable, format!("systemctl {step}: {said}"), remedy));
    }
    Ok(())
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
