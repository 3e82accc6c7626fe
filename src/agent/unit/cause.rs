//! Why an instance died, as its unit tells it: how the process ended, and the last lines in the journal.
//!
//! Asked for a moment after the fact, when the service manager has written its own words, and never waited for. The
//! journal is read by root's helper: the agent's user needs to see nothing of the host's other services.

use super::{UnitHandle, request};
use crate::cluster::{CAUSE_LIMIT, Epoch};
use crate::view::What;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;

/// When the service manager and the journal have had their say.
const SETTLED: Duration = Duration::from_secs(1);
/// An end that was seen longer before is another one.
const SAME: Duration = Duration::from_secs(2);
/// A line of before that is not about this death.
const RECENT: Duration = Duration::from_secs(10);
/// So many lines are quoted, each so long at most.
const LINES: usize = 4;
const LINE: usize = 200;

/// Asks, a moment from now, and tells the loop.
pub(in crate::agent) fn tell_cause(unit: Arc<UnitHandle>, epoch: Epoch, events: mpsc::Sender<What>) {
    let died = Instant::now();
    tokio::spawn(async move {
        tokio::time::sleep(SETTLED).await;
        let lines = request::last_lines(&unit).await;
        let ended = unit.known().ended.clone().filter(|(at, _)| *at + SAME > died).map(|(_, words)| words);
        let Some(text) = words(&unit.name, ended.as_deref(), &lines) else { return };
        tracing::warn!(
            group = %unit.group,
            epoch = %epoch,
            message_id = crate::ctl::catalog::INSTANCE_DIED,
            "{text}"
        );
        let _ = events.send(What::Cause { group: unit.group.clone(), epoch, text }).await;
    });
}

fn words(unit: &str, ended: Option<&str>, lines: &[String]) -> Option<String> {
    let mut text = match (ended, lines.is_empty()) {
        (None, true) => return None,
        (None, false) => format!("{unit}, its last lines: "),
        (Some(ended), true) => format!("{unit} {ended}"),
        (Some(ended), false) => format!("{unit} {ended}; its last lines: "),
    };
    text.push_str(&lines.join(" | "));
    let mut end = text.len().min(CAUSE_LIMIT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    Some(text)
}

/// The last lines of the unit itself, of the service manager about it, and of the kernel where it killed a server for
/// lack of memory; oldest first, each without a line break.
pub(super) fn last_lines(unit: &str) -> systemd::Result<Vec<String>> {
    let since = SystemTime::now().checked_sub(RECENT).unwrap_or(UNIX_EPOCH);
    let mut journal = systemd::journal::OpenOptions::default().system(true).local_only(true).open()?;
    journal.match_add("_SYSTEMD_UNIT", unit)?.match_or()?.match_add("UNIT", unit)?;
    journal.seek_tail()?;
    let since = since.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(0));
    let mut lines = Vec::new();
    while lines.len() < LINES && journal.previous()? > 0 && journal.timestamp_usec()? >= since {
        let Some(field) = journal.get_data("MESSAGE")? else { continue };
        let line = String::from_utf8_lossy(field.value().unwrap_or_default()).trim().to_owned();
        if worth_it(&line) {
            lines.push(line.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LINE).collect());
        }
    }
    lines.reverse();
    Ok(lines)
}

/// What only says that the next start is under way is not about the death.
fn worth_it(line: &str) -> bool {
    let common = [
        "Scheduled restart job",
        "Sending signal",
        "Starting ",
        "Started ",
        "Stopped ",
        "oO0OoO0OoO0Oo",
        "Redis version=",
    ];
    !line.is_empty() && line.chars().any(char::is_alphabetic) && !common.iter().any(|part| line.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn told_in_one_line_of_bounded_length() {
        let line = |text: &str| text.to_owned();
        assert_eq!(words("r.service", None, &[]), None);
        let said = words("r.service", Some("killed by SIGKILL"), &[line("a"), line("b")]);
        assert_eq!(said.as_deref(), Some("r.service killed by SIGKILL; its last lines: a | b"));
        let long = words("r.service", None, &vec!["\u{e9}".repeat(400); 4]).expect("words");
        assert!(long.len() <= CAUSE_LIMIT);
    }

    #[test]
    fn the_next_start_is_no_part_of_it() {
        assert!(!worth_it("redis-server.service: Scheduled restart job, restart counter is at 1."));
        assert!(worth_it("redis-server.service: Main process exited, code=killed, status=9/KILL"));
        assert!(!worth_it("  `-._    `-._`-.__.-'_.-'    _.-' "));
    }
}
