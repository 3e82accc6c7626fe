//! Reports as text for a terminal, meant for an operator at night.
//!
//! Group line first (who is primary, epoch, VIP and holder), under it what is out of the ordinary (paused, waiting),
//! then the instances, then the nodes, and last, next to the prompt, the verdict with what to look at. Plain text
//! that greps well: no frames, and colour only where [`Style`] asks for it, laid over finished text.
//!
//! It must never judge: health, reasons and problems come with the report. Text that came over the network or from
//! an operator is stripped of control characters, so that nothing can draw on another operator's terminal.

use super::protocol::{Done, GroupDone, MembersReport, Switched};
use super::report::{ChangeStatus, GroupStatus, Health, InstanceStatus, NodeStatus, PostureWord, Role, StatusReport};
use super::silence::words;
use comfy_table::{CellAlignment, Table, presets::NOTHING};
use std::fmt::Display;
use std::time::Duration;

/// How to set text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Style {
    /// Whether to paint the lines that matter most.
    pub colour: bool,
}

/// What paints a group's line red.
const ALARMS: [&str; 3] = [": NO PRIMARY", " DOES NOT SERVE", " NOWHERE"];

/// The whole report.
pub fn status(report: &StatusReport, style: Style) -> String {
    let mut out = String::new();
    for group in &report.groups {
        out.push_str(&group_text(report, group));
        out.push('\n');
    }
    let leader = report.leader.as_deref().unwrap_or("none");
    let lease = words(Duration::from_millis(report.lease_ms));
    out.push_str(&format!(
        "NODES as {} sees them: leader {leader}, term {}, lease {lease}\n",
        report.node, report.term
    ));
    out.push_str(&node_table(&report.nodes));
    out.push('\n');
    for warning in &report.warnings {
        out.push_str(&item("warning: ", warning));
    }
    out.push_str(&verdict(report));
    paint(&clean(&out), style)
}

/// The nodes alone.
pub fn members(report: &MembersReport) -> String {
    let leader = report.leader.as_deref().unwrap_or("none known");
    clean(&format!("{}leader {leader}, term {}\n", node_table(&report.nodes), report.term))
}

/// What was done.
pub fn done(done: &Done) -> String {
    match done {
        Done::Said { text } => clean(&format!("{}\n", text.trim_end())),
        Done::Switched(switched) => clean(&switched_text(switched)),
        Done::Fenced { groups } => group_lines(groups),
    }
}

/// One line for each group.
pub fn group_lines(groups: &[GroupDone]) -> String {
    let lines: Vec<String> = groups.iter().map(|done| format!("{}: {}\n", done.group, one_line(&done.text))).collect();
    clean(&lines.concat())
}

fn switched_text(switched: &Switched) -> String {
    let Switched { group, from, to, epoch, .. } = switched;
    let felt = match switched.unserved_ms {
        Some(ms) => format!("clients were unserved for at most {ms} ms"),
        None => "how long clients were unserved could not be measured".to_owned(),
    };
    let what = match from == to {
        true => format!("{group}: not handed over, {to} serves again at epoch {epoch}; {felt}\n"),
        false => format!("{group}: {from} -> {to} at epoch {epoch}; {felt}\n"),
    };
    if switched.note.is_empty() { what } else { format!("{what}{}", item("", &switched.note)) }
}

fn group_text(report: &StatusReport, group: &GroupStatus) -> String {
    let serves = |node: &String| {
        group.instances.iter().any(|found| found.node == *node && found.posture == PostureWord::Serving)
    };
    let primary = match (&group.primary, &group.last_primary) {
        (Some(primary), _) if serves(primary) => format!("primary {primary}"),
        (Some(primary), _) => format!("primary {primary} DOES NOT SERVE"),
        (None, Some(last)) => format!("NO PRIMARY (was {last})"),
        (None, None) => "NO PRIMARY yet".to_owned(),
    };
    let vip = match (&group.vip, &group.vip_holder) {
        (Some(vip), Some(holder)) => format!(", VIP {vip} on {holder}"),
        (Some(vip), None) => format!(", VIP {vip} NOWHERE"),
        (None, Some(holder)) => format!(", VIP on {holder}"),
        (None, None) => String::new(),
    };
    let mut out = format!("GROUP {}: {primary}, epoch {}{vip}\n", group.name, group.epoch);
    if let Some(pause) = &group.pause {
        let left = match (pause.left_ms, pause.length_ms) {
            (Some(left), _) => format!("for {} more", words(Duration::from_millis(left))),
            (None, Some(length)) => format!("for {}", words(Duration::from_millis(length))),
            (None, None) => "until `mainstay resume`".to_owned(),
        };
        let reason = if pause.reason.is_empty() { "no reason given" } else { &pause.reason };
        out.push_str(&item("PAUSED ", &format!("{left}: {reason}")));
    }
    if let Some(waits) = &group.waits {
        let text = waits.strip_prefix("waiting ").unwrap_or(waits);
        out.push_str(&item(if text == waits { "WAITS: " } else { "WAITS " }, text));
    }
    out.push_str(&instance_table(&group.instances));
    for note in &group.notes {
        out.push_str(&item("note: ", note));
    }
    if let Some(change) = group.changes.first() {
        out.push_str(&item("last change ", &change_text(report, change)));
    }
    out
}

fn change_text(report: &StatusReport, change: &ChangeStatus) -> String {
    let age = match report.now_unix_ms.checked_sub(change.at_unix_ms) {
        Some(age) if report.now_unix_ms > 0 => format!("{} ago", words(Duration::from_millis(age))),
        _ => "just now".to_owned(),
    };
    let from = change.from.as_deref().unwrap_or("nobody");
    let lost: String = change.diverged.iter().map(|lost| format!("; {}", lost.text)).collect();
    let cause = change.cause.as_ref().map(|cause| format!(" ({cause})")).unwrap_or_default();
    let (to, epoch, why, guarantee) = (&change.to, change.epoch, &change.why, &change.guarantee);
    format!("{age}: {from} -> {to} at epoch {epoch}, {why}{cause}; {guarantee}{lost}")
}

fn verdict(report: &StatusReport) -> String {
    let mut out = match report.health {
        Health::Healthy => "HEALTHY\n",
        Health::Degraded => "DEGRADED\n",
        Health::NoQuorum => "NO QUORUM\n",
    }
    .to_owned();
    for problem in &report.problems {
        out.push_str(&item("", problem));
    }
    for group in &report.groups {
        let head = format!("{}: ", group.name);
        for problem in &group.problems {
            out.push_str(&item(&head, problem));
        }
        if group.paused {
            out.push_str(&item(&head, "automatic promotion is paused"));
        }
    }
    out
}

fn instance_table(instances: &[InstanceStatus]) -> String {
    let header = ["NODE", "POSTURE", "OFFSET", "LAG", "LINEAGE", "PRIORITY", "REASON"];
    let rows = instances.iter().map(|found| {
        [
            found.node.clone(),
            found.posture.as_str().to_owned(),
            or_dash(found.offset),
            or_dash(found.lag_bytes),
            or_dash(found.lineage),
            or_dash(found.priority),
            one_line(&found.reason),
        ]
    });
    table(header, rows, 2..6)
}

fn node_table(nodes: &[NodeStatus]) -> String {
    let header = ["NODE", "ADDRESS", "ROLE", "REACHABLE", "REASON"];
    let rows = nodes.iter().map(|node| {
        let role = match node.role {
            Role::Voter => "voter",
            Role::Learner => "learner",
        };
        let reachable = if node.reachable { "yes" } else { "NO" };
        [node.name.clone(), node.address.clone(), role.to_owned(), reachable.to_owned(), one_line(&node.reason)]
    });
    table(header, rows, 0..0)
}

fn table<const N: usize>(
    header: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
    numbers: std::ops::Range<usize>,
) -> String {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(header).add_rows(rows);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((2, 0));
        if numbers.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!("{}\n", table.trim_fmt())
}

fn or_dash<T: Display>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn item(head: &str, text: &str) -> String {
    format!("  {head}{}\n", one_line(text))
}

fn one_line(text: &str) -> String {
    text.split(['\n', '\r']).map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ")
}

/// Escape sequences in a reason must not reach the terminal.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

fn paint(text: &str, style: Style) -> String {
    if !style.colour {
        return text.to_owned();
    }
    let painted = text.lines().map(|line| {
        let code = match line {
            "HEALTHY" => "1;32",
            "DEGRADED" => "1;33",
            "NO QUORUM" => "1;31",
            _ if line.starts_with("GROUP ") && ALARMS.iter().any(|alarm| line.contains(alarm)) => "1;31",
            _ if line.starts_with("GROUP ") => "1",
            _ if line.starts_with("  PAUSED ") || line.starts_with("  WAITS") => "33",
            _ => return format!("{line}\n"),
        };
        format!("\u{1b}[{code}m{line}\u{1b}[0m\n")
    });
    painted.collect()
}
