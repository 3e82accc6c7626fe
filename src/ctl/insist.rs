//! `mainstay failover --force` and `mainstay bootstrap`: say what may be lost, ask, and only then have it done.
//!
//! A forced failover never asks where nobody can answer: without a terminal on stdin, and without `--yes`, it refuses. What
//! the operator agreed to is what is asked for: an agent that would now do something else refuses. A bootstrap names the
//! data that stays, which is decision enough for a script; at a terminal it asks.

use super::client;
use super::command::{change, emit};
use super::exit::{Code, Failure};
use super::protocol::{ForcePlan, Request, Response};
use super::report::{PostureWord, StatusReport};
use crate::cluster::GroupName;
use std::io::{BufRead as _, IsTerminal as _};
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long the new generation's first primary is waited for: the agent's restart, its silence (S2), its lease.
const SERVED: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(200);

/// Asks the agent on `socket`, then the operator.
///
/// # Errors
/// The agent's refusal, or nobody agreed.
pub async fn failover(socket: &Path, group: Option<GroupName>, to: String, yes: bool) -> Result<u8, Failure> {
    let asked = Request::ForcePlan { group: group.clone(), to: to.clone() };
    let plan = match client::ask(socket, &asked).await? {
        Response::Plan(plan) => plan,
        Response::Refused(refused) => return Err(refused.into()),
        _ => return Err(Failure::new(Code::Software, "the agent answered another question", "")),
    };
    emit(&text(&plan))?;
    if !yes && !agreed(&plan)? {
        return Err(Failure::new(Code::TempFail, "nothing was done", ""));
    }
    let request = Request::Force { group, to, founding: plan.founding };
    let code = change(socket, &request).await?;
    if plan.founding { founded(socket, &plan).await } else { Ok(code) }
}

/// The plan for people.
pub fn text(plan: &ForcePlan) -> String {
    let clean = |text: &str| text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect::<String>();
    let mut out = match plan.founding {
        true => format!("{}: there is no majority; {} would go on alone, as a new cluster\n", plan.group, plan.to),
        false => {
            format!("{}: {} would be promoted by force, without proof that nothing is lost\n", plan.group, plan.to)
        }
    };
    if plan.warnings.is_empty() {
        out.push_str("  nothing is known to be at risk\n");
    }
    for warning in &plan.warnings {
        out.push_str(&format!("  {}\n", clean(warning)));
    }
    out
}

/// Asks the operator, where there is one, then the agent on `socket`.
///
/// # Errors
/// The agent's refusal, or the operator does not want it.
pub async fn bootstrap(socket: &Path, group: Option<GroupName>, primary: String, yes: bool) -> Result<u8, Failure> {
    if !yes && std::io::stdin().is_terminal() {
        let report = match client::ask(socket, &Request::Status {}).await? {
            Response::Status(report) => report,
            _ => return Err(Failure::new(Code::Software, "the agent answered another question", "")),
        };
        emit(&given_up(&report, group.as_ref(), &primary))?;
        if !said_yes(&format!("Go on with the data of {primary}?"))? {
            return Err(Failure::new(Code::TempFail, "nothing was done", ""));
        }
    }
    change(socket, &Request::Bootstrap { group, primary }).await
}

/// Whose data is given up by it.
pub(super) fn given_up(report: &StatusReport, group: Option<&GroupName>, primary: &str) -> String {
    let mut out = String::new();
    for found in report.groups.iter().filter(|found| group.is_none_or(|group| found.name == *group)) {
        let others: Vec<&str> =
            found.instances.iter().map(|found| found.node.as_str()).filter(|node| *node != primary).collect();
        out.push_str(&format!(
            "{}: {primary}'s data becomes the group's; what {} hold that it lacks is given up, and saved first only where \
             `quarantine` is on\n",
            found.name,
            others.join(", ")
        ));
    }
    out
}

fn agreed(plan: &ForcePlan) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        let why = "there is nobody to ask: stdin is no terminal";
        return Err(Failure::new(Code::Usage, why, "If this is what you want, say so with --yes."));
    }
    said_yes(&format!("Promote {}?", plan.to))
}

fn said_yes(question: &str) -> Result<bool, Failure> {
    emit(&format!("{question} Type yes to go on: "))?;
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    read.map_err(|error| Failure::new(Code::IoErr, error, ""))?;
    Ok(answer.trim() == "yes")
}

/// The agent restarts itself; its first primary is worth waiting for.
async fn founded(socket: &Path, plan: &ForcePlan) -> Result<u8, Failure> {
    let end = Instant::now() + SERVED;
    while Instant::now() < end {
        sleep(PAUSE).await;
        if let Ok(Response::Status(report)) = client::ask(socket, &Request::Status {}).await
            && let Some(epoch) = served(&report, plan)
        {
            return emit(&format!("{}: {} serves at epoch {epoch}\n", plan.group, plan.to)).map(|_| 0);
        }
    }
    let remedy = "See `mainstay status` and `journalctl -u mainstay -e`.";
    Err(Failure::new(Code::TempFail, format!("{} does not serve after {} s", plan.to, SERVED.as_secs()), remedy))
}

fn served(report: &StatusReport, plan: &ForcePlan) -> Option<crate::cluster::Epoch> {
    let group = report.groups.iter().find(|group| group.name == plan.group)?;
    let serves =
        |node: &str| group.instances.iter().any(|found| found.node == node && found.posture == PostureWord::Serving);
    (group.primary.as_deref() == Some(&plan.to) && serves(&plan.to)).then_some(group.epoch)
}
