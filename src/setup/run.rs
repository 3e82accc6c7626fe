//! The command itself: plan, write or take back, and say what is left to do.

use super::{InitArgs, SetupError, plan, remove, write};
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
    for done in write(&plan, &args.root, args.force)? {
        let _ = writeln!(said, "{done}");
    }
    for (at, step) in plan.next.iter().enumerate() {
        let _ = writeln!(said, "{} {step}", if at == 0 { "next:" } else { "     " });
    }
    emit(&said).map(|_| 0)
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
