//! The steps of a story, in words.
//!
//! Each is one sentence of the list below, with host names, numbers and group names in their places. Where there is more
//! than one group, a sentence about one ends in `, group NAME`.

use super::parse::Set;
use crate::world::{MS, Ns};

/// One step. Hosts and groups by number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Kill { host: usize, group: usize, stays: bool },
    Start { host: usize, group: usize },
    Hang { host: usize, group: usize, length: Ns },
    Save { host: usize, group: usize },
    Lag { host: usize, group: usize, on: bool },
    AgentKilled(usize),
    AgentStarts(usize),
    AgentFreezes(usize),
    AgentThaws(usize),
    AgentStops(usize),
    PowerOff(Vec<usize>),
    PowerOn(Vec<usize>),
    Split(Vec<usize>),
    Part(usize, usize),
    OneWay(usize, usize),
    Mute(usize),
    Mend,
    Switch { to: usize, group: usize },
    Pause { group: usize, length: Option<Ns> },
    Resume { group: usize },
    Force { to: usize, group: usize },
    Priority { host: usize, group: usize, priority: u32 },
    Remove(usize),
    Join { host: usize, name: String },
    Lead(usize),
    Client { group: usize, beside: Option<usize>, wait: usize },
    ClientStops,
    End,
}

const KNOWN: &str = "
  redis of A is killed                              redis of A is killed and stays dead
  redis of A starts again                           redis of A hangs for N s
  redis of A saves its data                         redis of A lags / keeps up again
  the agent of A is killed / starts                 the agent of A freezes / thaws
  the agent of A is asked to stop                   A leads Raft
  host A loses its power / comes back               hosts A B lose their power / come back
  all hosts lose their power / come back            the network is whole again
  hosts A B are cut off from the others             host A is cut off
  A and B no longer reach each other                nothing from A comes to B
  nobody hears A                                    host A joins / joins as NAME
  an operator switches over to A                    an operator forces A
  an operator pauses / pauses for N s / resumes     an operator gives A priority N
  an operator removes A
  a client writes through the VIP [with WAIT N]     a client beside A writes through the VIP [with WAIT N]
  the client stops                                  the story ends
and `, group NAME` at the end where there are several groups";

/// `N s REST`.
pub fn time(rest: &str) -> Result<(Ns, &str), String> {
    let fault = || "a step is `at N s` and what happens".to_owned();
    let (number, rest) = rest.split_once(' ').ok_or_else(fault)?;
    let sentence = rest.trim_start().strip_prefix("s ").ok_or_else(fault)?;
    Ok((seconds(number)?, sentence.trim()))
}

fn seconds(word: &str) -> Result<Ns, String> {
    let fault = || format!("`{word}` is no number of seconds");
    let plain = |part: &str| !part.is_empty() && part.len() < 6 && part.chars().all(|c| c.is_ascii_digit());
    let (whole, part) = word.split_once('.').unwrap_or((word, "0"));
    if !plain(whole) || !plain(part) || part.len() > 3 {
        return Err(fault());
    }
    let whole: Ns = whole.parse().map_err(|_| fault())?;
    let part: Ns = format!("{part:0<3}").parse().map_err(|_| fault())?;
    Ok(whole * 1000 * MS + part * MS)
}

/// One sentence.
pub fn step(sentence: &str, host: impl Fn(&str) -> Result<usize, String>, groups: &[Set]) -> Result<Step, String> {
    let (said, named) = match sentence.split_once(", group ") {
        Some((said, name)) => (said, Some(name)),
        None => (sentence, None),
    };
    let names = || groups.iter().map(|group| group.name.as_str()).collect::<Vec<_>>().join(", ");
    let group = match named {
        Some(name) => {
            let found = groups.iter().position(|group| group.name == name);
            Some(found.ok_or_else(|| format!("no group is called `{name}`; there are {}", names()))?)
        }
        None if groups.len() == 1 => Some(0),
        None => None,
    };
    let words: Vec<&str> = said.split_whitespace().collect();
    let of = || group.ok_or_else(|| format!("of which group: {}? `, group NAME` at the end says it", names()));
    let many = |hosts: &[&str]| hosts.iter().map(|name| host(name)).collect::<Result<Vec<usize>, String>>();
    let all = || vec![usize::MAX];
    let wait = |number: &str| number.parse().map_err(|_| format!("`{number}` is no number of replicas"));
    Ok(match words.as_slice() {
        ["redis", "of", a, rest @ ..] => {
            let (at, group) = (host(a)?, of()?);
            if !groups[group].members.contains(&at) {
                return Err(format!("{a} has no instance of {}", groups[group].name));
            }
            return instance(sentence, at, group, rest);
        }
        ["the", "agent", "of", a, rest @ ..] => return agent(sentence, host(a)?, rest),
        ["an", "operator", rest @ ..] => return operator(sentence, host, of, rest),
        ["all", "hosts", "lose", "their", "power"] => Step::PowerOff(all()),
        ["all", "hosts", "come", "back"] => Step::PowerOn(all()),
        ["host", a, "loses", "its", "power"] => Step::PowerOff(vec![host(a)?]),
        ["host", a, "comes", "back"] => Step::PowerOn(vec![host(a)?]),
        ["hosts", some @ .., "lose", "their", "power"] => Step::PowerOff(many(some)?),
        ["hosts", some @ .., "come", "back"] => Step::PowerOn(many(some)?),
        ["host", a, "is", "cut", "off"] => Step::Split(vec![host(a)?]),
        ["hosts", some @ .., "are", "cut", "off", "from", "the", "others"] => Step::Split(many(some)?),
        [a, "and", b, "no", "longer", "reach", "each", "other"] => Step::Part(host(a)?, host(b)?),
        ["nothing", "from", a, "comes", "to", b] => Step::OneWay(host(a)?, host(b)?),
        ["nobody", "hears", a] => Step::Mute(host(a)?),
        ["the", "network", "is", "whole", "again"] => Step::Mend,
        ["host", a, "joins"] => Step::Join { host: host(a)?, name: (*a).to_owned() },
        ["host", a, "joins", "as", name] => Step::Join { host: host(a)?, name: (*name).to_owned() },
        [a, "leads", "Raft"] => Step::Lead(host(a)?),
        ["a", "client", "writes", "through", "the", "VIP"] => Step::Client { group: of()?, beside: None, wait: 0 },
        ["a", "client", "writes", "through", "the", "VIP", "with", "WAIT", n] => {
            Step::Client { group: of()?, beside: None, wait: wait(n)? }
        }
        ["a", "client", "beside", a, "writes", "through", "the", "VIP"] => {
            Step::Client { group: of()?, beside: Some(host(a)?), wait: 0 }
        }
        ["a", "client", "beside", a, "writes", "through", "the", "VIP", "with", "WAIT", n] => {
            Step::Client { group: of()?, beside: Some(host(a)?), wait: wait(n)? }
        }
        ["the", "client", "stops"] => Step::ClientStops,
        ["the", "story", "ends"] => Step::End,
        _ => return Err(unknown(sentence)),
    })
}

fn unknown(sentence: &str) -> String {
    format!("nothing is known that reads `{sentence}`; known is{KNOWN}")
}

fn instance(sentence: &str, host: usize, group: usize, words: &[&str]) -> Result<Step, String> {
    Ok(match words {
        ["is", "killed"] => Step::Kill { host, group, stays: false },
        ["is", "killed", "and", "stays", "dead"] => Step::Kill { host, group, stays: true },
        ["starts", "again"] => Step::Start { host, group },
        ["hangs", "for", n, "s"] => Step::Hang { host, group, length: seconds(n)? },
        ["saves", "its", "data"] => Step::Save { host, group },
        ["lags"] => Step::Lag { host, group, on: true },
        ["keeps", "up", "again"] => Step::Lag { host, group, on: false },
        _ => return Err(unknown(sentence)),
    })
}

fn agent(sentence: &str, host: usize, words: &[&str]) -> Result<Step, String> {
    Ok(match words {
        ["is", "killed"] => Step::AgentKilled(host),
        ["starts"] => Step::AgentStarts(host),
        ["freezes"] => Step::AgentFreezes(host),
        ["thaws"] => Step::AgentThaws(host),
        ["is", "asked", "to", "stop"] => Step::AgentStops(host),
        _ => return Err(unknown(sentence)),
    })
}

fn operator(
    sentence: &str,
    host: impl Fn(&str) -> Result<usize, String>,
    group: impl Fn() -> Result<usize, String>,
    words: &[&str],
) -> Result<Step, String> {
    Ok(match words {
        ["switches", "over", "to", a] => Step::Switch { to: host(a)?, group: group()? },
        ["forces", a] => Step::Force { to: host(a)?, group: group()? },
        ["pauses"] => Step::Pause { group: group()?, length: None },
        ["pauses", "for", n, "s"] => Step::Pause { group: group()?, length: Some(seconds(n)?) },
        ["resumes"] => Step::Resume { group: group()? },
        ["gives", a, "priority", n] => {
            let priority = n.parse().map_err(|_| format!("`{n}` is no number"))?;
            Step::Priority { host: host(a)?, group: group()?, priority }
        }
        ["removes", a] => Step::Remove(host(a)?),
        _ => return Err(unknown(sentence)),
    })
}
