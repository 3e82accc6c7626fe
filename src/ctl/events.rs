//! `mainstay events`: what happened, from this host's journal, or from the replicated history where there is none.
//!
//! The journal has everything that this host's agent said, across boots; the history has the last changes of primary of
//! every group, as all nodes agree on them. Reading blocks: this runs in the command's own process, never in the agent.

use super::catalog::{self, CATALOG, Entry};
use super::client;
use super::command::emit;
use super::exit::{Code, Failure};
use super::protocol::{GroupHistory, Request, Response};
use super::report::ChangeStatus;
use crate::cluster::GroupName;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use systemd::journal::{Journal, OpenOptions};

/// How often the history is asked for anew.
const FOLLOW: Duration = Duration::from_secs(1);
/// As whom the packaged agent runs.
const USER: &str = "mainstay";
/// And in which unit, also where that runs as somebody else.
const UNIT: &str = "mainstay.service";
/// Kinds that are many and say little by themselves.
const SMALL: [&str; 3] = [catalog::POSTURE, catalog::WAITING, catalog::TASK_FAILED];

/// What is to be shown.
#[derive(Debug, Clone, Default)]
pub struct EventsOptions {
    /// One group only.
    pub group: Option<GroupName>,
    /// Go on with what happens from now.
    pub follow: bool,
    /// As JSON, one object a line.
    pub json: bool,
    /// Also what is many and says little.
    pub all: bool,
}

/// One event, as `--json` prints it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
struct Shown {
    /// UTC.
    at: String,
    at_unix_ms: u64,
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<u64>,
    text: String,
    /// For a change of primary: since the group was sealed.
    #[serde(skip_serializing_if = "Option::is_none")]
    sealed_ms: Option<u64>,
    /// The boot of this host in which it was said.
    #[serde(skip_serializing_if = "Option::is_none")]
    boot: Option<String>,
}

/// `mainstay events`.
///
/// # Errors
/// There is neither a journal to read nor an agent to ask.
pub async fn events(socket: &Path, options: &EventsOptions) -> Result<u8, Failure> {
    let mut printer = Printer { options: options.clone(), boot: None, sealed: BTreeMap::new() };
    let journal = match open(options) {
        Ok(journal) => read(journal, &mut printer),
        Err(error) => Err(error),
    };
    let why = match journal {
        Ok(true) => return Ok(0),
        Ok(false) => "the journal holds no event of mainstay that this user may read".to_owned(),
        Err(error) => format!("the journal cannot be read ({error})"),
    };
    eprintln!("mainstay: {why}; from the replicated history:");
    from_history(socket, &mut printer).await
}

fn open(options: &EventsOptions) -> systemd::Result<Journal> {
    let mut journal = OpenOptions::default().system(true).local_only(true).open()?;
    for entry in CATALOG.iter().filter(|entry| options.all || !SMALL.contains(&entry.id)) {
        journal.match_add("MESSAGE_ID", entry.id)?;
    }
    if let Some(group) = &options.group {
        journal.match_and()?.match_add("MAINSTAY_GROUP", group.0.as_str())?;
    }
    journal.seek_head()?;
    Ok(journal)
}

/// False if there was nothing.
fn read(mut journal: Journal, printer: &mut Printer) -> systemd::Result<bool> {
    let (mut found, users) = (false, users());
    loop {
        while journal.next()? > 0 {
            let Some(shown) = shown(&mut journal, &users)? else { continue };
            found = true;
            if !printer.print(shown) {
                return Ok(true);
            }
        }
        if !printer.options.follow || !found {
            return Ok(found);
        }
        journal.wait(None)?;
    }
}

/// Whose entries are believed: the agent's user's, root's, and one's own. Anybody may write any MESSAGE_ID.
fn users() -> Vec<u32> {
    let agent = nix::unistd::User::from_name(USER).ok().flatten().map(|user| user.uid.as_raw());
    agent.into_iter().chain([0, nix::unistd::geteuid().as_raw()]).collect()
}

fn shown(journal: &mut Journal, users: &[u32]) -> systemd::Result<Option<Shown>> {
    let mut field = |name: &str| -> systemd::Result<Option<String>> {
        let data = journal.get_data(name)?;
        Ok(data.and_then(|data| data.value().map(|value| String::from_utf8_lossy(value).into_owned())))
    };
    // Both are written by journald itself; a unit of the system's is root's to name.
    let user = field("_UID")?.and_then(|user| user.parse().ok());
    let ours = field("_SYSTEMD_UNIT")?.is_some_and(|unit| unit == UNIT);
    if !ours && !user.is_some_and(|user| users.contains(&user)) {
        return Ok(None);
    }
    let id = field("MESSAGE_ID")?.unwrap_or_default();
    let (text, group, epoch, boot) =
        (field("MESSAGE")?, field("MAINSTAY_GROUP")?, field("MAINSTAY_EPOCH")?, field("_BOOT_ID")?);
    let Some(Entry { kind, .. }) = catalog::entry(&id) else { return Ok(None) };
    let at_unix_ms = journal.timestamp_usec()? / 1000;
    Ok(Some(Shown {
        at: utc(at_unix_ms),
        at_unix_ms,
        event: kind,
        group,
        epoch: epoch.and_then(|epoch| epoch.parse().ok()),
        text: text.unwrap_or_default(),
        sealed_ms: None,
        boot,
    }))
}

/// Again and again, if it is to be followed: an agent that is restarted has the same history.
async fn from_history(socket: &Path, printer: &mut Printer) -> Result<u8, Failure> {
    let mut told: BTreeMap<GroupName, u64> = BTreeMap::new();
    let mut asked = false;
    loop {
        let request = Request::History { group: printer.options.group.clone() };
        match client::ask(socket, &request).await {
            Ok(Response::History { groups }) => {
                for shown in new_changes(groups, &mut told) {
                    if !printer.print(shown) {
                        return Ok(0);
                    }
                }
                asked = true;
            }
            Ok(Response::Refused(refused)) if !asked => return Err(refused.into()),
            Ok(_) if !asked => return Err(Failure::new(Code::Software, "the agent answered another question", "")),
            Err(error) if !asked => return Err(error.into()),
            _ => {}
        }
        if !printer.options.follow {
            return Ok(0);
        }
        tokio::time::sleep(FOLLOW).await;
    }
}

fn new_changes(groups: Vec<GroupHistory>, told: &mut BTreeMap<GroupName, u64>) -> Vec<Shown> {
    let mut all = Vec::new();
    for GroupHistory { group, changes } in groups {
        let last = told.entry(group.clone()).or_default();
        for change in changes.into_iter().filter(|change| change.epoch.0 > *last) {
            all.push(of_change(&group, &change));
        }
        *last = all
            .iter()
            .filter(|shown| shown.group.as_ref() == Some(&group.0))
            .fold(*last, |last, shown| last.max(shown.epoch.unwrap_or_default()));
    }
    all.sort_by_key(|shown| shown.at_unix_ms);
    all
}

fn of_change(group: &GroupName, change: &ChangeStatus) -> Shown {
    let from = change.from.as_deref().unwrap_or("nobody");
    let mut text = format!("primary is {}, before it {from}: {}; {}", change.to, change.why, change.guarantee);
    let more = change.cause.iter().cloned().chain(change.diverged.iter().map(|lost| lost.text.clone()));
    for more in more {
        text.push_str("; ");
        text.push_str(&more);
    }
    Shown {
        at: utc(change.at_unix_ms),
        at_unix_ms: change.at_unix_ms,
        event: catalog::entry(catalog::CHANGE_OF_PRIMARY).map_or("", |entry| entry.kind),
        group: Some(group.0.clone()),
        epoch: Some(change.epoch.0),
        text,
        ..Shown::default()
    }
}

/// Prints, and remembers what the next line is told apart by.
struct Printer {
    options: EventsOptions,
    boot: Option<String>,
    sealed: BTreeMap<(String, u64), u64>,
}

impl Printer {
    /// False once nobody reads any more.
    fn print(&mut self, mut shown: Shown) -> bool {
        let key = shown.group.clone().zip(shown.epoch);
        let is = |id| catalog::entry(id).is_some_and(|entry| entry.kind == shown.event);
        if let Some(key) = key {
            if is(catalog::GROUP_SEALED) {
                self.sealed.insert(key, shown.at_unix_ms);
            } else if is(catalog::CHANGE_OF_PRIMARY) {
                let sealed = self.sealed.remove(&key);
                shown.sealed_ms = sealed.and_then(|at| shown.at_unix_ms.checked_sub(at));
            }
        }
        let text = if self.options.json { json(&shown) } else { self.line(&shown) };
        emit(&text).unwrap_or(false)
    }

    fn line(&mut self, shown: &Shown) -> String {
        let mut out = String::new();
        if shown.boot.is_some() && self.boot != shown.boot {
            if self.boot.is_some() {
                out.push_str("-- this host was booted --\n");
            }
            self.boot.clone_from(&shown.boot);
        }
        out.push_str(&format!("{} {:<18} {}", shown.at, shown.event, plain(&shown.text)));
        if let Some(ms) = shown.sealed_ms {
            out.push_str(&format!(" ({ms} ms after the seal)"));
        }
        out.push('\n');
        out
    }
}

/// What another host or an instance said draws nothing on this terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn json(shown: &Shown) -> String {
    // Strings and numbers: it cannot fail.
    serde_json::to_string(shown).map_or_else(|_| String::new(), |text| format!("{text}\n"))
}

/// Milliseconds since 1970 as a date and a time of day.
fn utc(unix_ms: u64) -> String {
    let (seconds, ms) = (unix_ms / 1000, unix_ms % 1000);
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// The date of a day since 1970, in the calendar of which 400 years have 146,097 days. Years begin in March here, so that
/// the odd day comes last.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Epoch;

    #[test]
    fn times_are_told_in_utc() {
        assert_eq!(utc(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(utc(951_827_696_789), "2000-02-29T12:34:56.789Z");
        assert_eq!(utc(4_107_542_399_999), "2100-02-28T23:59:59.999Z");
        assert_eq!(utc(4_107_542_400_000), "2100-03-01T00:00:00.000Z");
    }

    fn shown(id: &str, at_unix_ms: u64, epoch: u64, boot: &str) -> Shown {
        Shown {
            at: utc(at_unix_ms),
            at_unix_ms,
            event: catalog::entry(id).expect("an event").kind,
            group: Some("g".to_owned()),
            epoch: Some(epoch),
            text: "said".to_owned(),
            boot: Some(boot.to_owned()),
            ..Shown::default()
        }
    }

    #[test]
    fn a_boot_between_two_events_is_told() {
        let mut printer = Printer { options: EventsOptions::default(), boot: None, sealed: BTreeMap::new() };
        assert!(!printer.line(&shown(catalog::LEADER, 0, 1, "a")).contains("booted"));
        assert!(!printer.line(&shown(catalog::LEADER, 0, 1, "a")).contains("booted"));
        assert!(printer.line(&shown(catalog::LEADER, 0, 1, "b")).starts_with("-- this host was booted --\n"));
    }

    #[test]
    fn a_change_is_told_once() {
        let change = |epoch| ChangeStatus {
            epoch: Epoch(epoch),
            from: Some("n1".to_owned()),
            to: "n2".to_owned(),
            why: "why".to_owned(),
            guarantee: "kept".to_owned(),
            at_unix_ms: epoch * 1000,
            diverged: Vec::new(),
            cause: Some("killed by SIGKILL".to_owned()),
        };
        let history = |to| vec![GroupHistory { group: GroupName::from("g"), changes: (1..=to).map(change).collect() }];
        let mut told = BTreeMap::new();
        assert_eq!(new_changes(history(2), &mut told).len(), 2);
        let next = new_changes(history(3), &mut told);
        assert_eq!(next.len(), 1);
        assert_eq!(next[0].text, "primary is n2, before it n1: why; kept; killed by SIGKILL");
        assert!(new_changes(history(3), &mut told).is_empty());
    }
}
