//! The format of a story: one word and what it says on each line, then the steps in words, then the outcome.
//!
//! ```text
//! title       One line.
//! shows       A sentence or some; the word is repeated on each line.
//! hosts       a b c            nodes with an instance
//! witness     w                nodes without
//! later       d                nodes with an instance that join by a step
//! group       cache on a b c   unless there is one group, `cache`, on all
//! durability  available        or quorum
//! persistence rdb              or aof, or none
//! priority    b 0              unless 100
//! quarantine  a                hosts with `quarantine = true`
//!
//! at 0.5 s  redis of a is killed
//! at 20 s   the story ends
//! ```
//!
//! It is strict: what is not understood is an error at its line, with what would be.

use super::words::{self, Step};
use crate::world::{MS, Ns};
use mainstay::cluster::Durability;
use std::collections::BTreeMap;
use std::fmt;

/// Between the input and the outcome.
pub const MARK: &str = "-- outcome --";

/// What an instance finds on its disk after its process died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persistence {
    /// Nothing.
    None,
    /// What it held when it was saved last.
    Rdb,
    /// All, but neither replication id nor offset.
    Aof,
}

/// One group: its name and the hosts of its members, by number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    pub name: String,
    pub members: Vec<usize>,
}

/// A story.
#[derive(Debug, Clone)]
pub struct Story {
    /// Of all hosts, those of the first start first.
    pub names: Vec<String>,
    /// So many are there from the start.
    pub first: usize,
    pub groups: Vec<Set>,
    pub durability: Durability,
    pub persistence: Persistence,
    pub priorities: BTreeMap<usize, u32>,
    pub quarantine: Vec<usize>,
    /// When, in nanoseconds from the settled start; what; and in whose words.
    pub steps: Vec<(Ns, Step, String)>,
    pub end: Ns,
}

/// What is wrong with a file, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub line: usize,
    pub text: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.line, self.text)
    }
}

const KEYS: &str =
    "title, shows, hosts, witness, later, group, durability, persistence, priority, quarantine, and `at N s`";

#[derive(Default)]
struct Draft {
    seen: BTreeMap<String, usize>,
    hosts: Vec<String>,
    witnesses: Vec<String>,
    later: Vec<String>,
    groups: Vec<Set>,
    quorum: bool,
    persistence: Option<Persistence>,
    priorities: BTreeMap<usize, u32>,
    quarantine: Vec<usize>,
    steps: Vec<(Ns, Step, String)>,
    end: Option<Ns>,
}

impl Story {
    /// Reads the part above the mark.
    pub fn read(text: &str) -> Result<Self, Fault> {
        let mut draft = Draft::default();
        let mut last = 0;
        for (number, line) in text.lines().enumerate() {
            if line == MARK {
                break;
            }
            last = number + 1;
            if !line.trim().is_empty() {
                draft.line(line).map_err(|text| Fault { line: last, text })?;
            }
        }
        draft.finish().map_err(|text| Fault { line: last, text })
    }
}

impl Draft {
    fn names(&self) -> Vec<String> {
        [self.hosts.as_slice(), &self.witnesses, &self.later].concat()
    }

    fn host(&self, name: &str) -> Result<usize, String> {
        let names = self.names();
        let found = names.iter().position(|known| known == name);
        found.ok_or_else(|| format!("no host is called `{name}`; there are {}", names.join(", ")))
    }

    fn line(&mut self, line: &str) -> Result<(), String> {
        let (key, rest) = line.split_once(' ').map_or((line, ""), |(key, rest)| (key, rest.trim()));
        if rest.is_empty() {
            return Err(format!("`{line}` says nothing; a line begins with {KEYS}"));
        }
        if key == "at" {
            return self.step(rest);
        }
        if !self.steps.is_empty() {
            return Err(format!("`{key}` after the first step; only steps may follow"));
        }
        let again = matches!(key, "shows" | "group" | "priority");
        let count = self.seen.entry(key.to_owned()).or_default();
        *count += 1;
        if *count > 1 && !again {
            return Err(format!("`{key}` a second time"));
        }
        let words: Vec<&str> = rest.split_whitespace().collect();
        match key {
            "title" | "shows" => Ok(()),
            "hosts" | "witness" | "later" => self.hosts(key, &words),
            "group" => self.group(&words),
            "durability" => match rest {
                "available" => Ok(()),
                "quorum" => {
                    self.quorum = true;
                    Ok(())
                }
                _ => Err(format!("`{rest}` is no durability; available or quorum is")),
            },
            "persistence" => {
                self.persistence = Some(match rest {
                    "none" => Persistence::None,
                    "rdb" => Persistence::Rdb,
                    "aof" => Persistence::Aof,
                    _ => return Err(format!("`{rest}` is no persistence; none, rdb or aof is")),
                });
                Ok(())
            }
            "priority" => {
                let [host, priority] = words[..] else { return Err("priority is a host and a number".to_owned()) };
                let priority = priority.parse().map_err(|_| format!("`{priority}` is no number"))?;
                self.priorities.insert(self.host(host)?, priority);
                Ok(())
            }
            "quarantine" => {
                self.quarantine = words.iter().map(|host| self.host(host)).collect::<Result<_, _>>()?;
                Ok(())
            }
            _ => Err(format!("`{key}` is not known; a line begins with {KEYS}")),
        }
    }

    fn hosts(&mut self, key: &str, words: &[&str]) -> Result<(), String> {
        for word in words {
            if self.names().iter().any(|known| known == word) {
                return Err(format!("`{word}` is named twice"));
            }
            if !word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()) {
                return Err(format!("`{word}` is no name: lower-case letters and digits make one"));
            }
            match key {
                "hosts" => self.hosts.push((*word).to_owned()),
                "witness" => self.witnesses.push((*word).to_owned()),
                _ => self.later.push((*word).to_owned()),
            }
        }
        if self.names().len() > crate::world::WIDTH { Err("too many hosts".to_owned()) } else { Ok(()) }
    }

    fn group(&mut self, words: &[&str]) -> Result<(), String> {
        let [name, "on", hosts @ ..] = words else { return Err("group is `NAME on HOST ...`".to_owned()) };
        let members = hosts.iter().map(|host| self.host(host)).collect::<Result<Vec<usize>, _>>()?;
        if members.is_empty() {
            return Err("group is `NAME on HOST ...`".to_owned());
        }
        self.groups.push(Set { name: (*name).to_owned(), members });
        Ok(())
    }

    fn step(&mut self, rest: &str) -> Result<(), String> {
        if self.steps.is_empty() {
            self.settle_groups()?;
        }
        if self.end.is_some() {
            return Err("a step after the end of the story".to_owned());
        }
        let (at, sentence) = words::time(rest)?;
        if self.steps.last().is_some_and(|(before, _, _)| *before > at) {
            return Err("earlier than the step before it".to_owned());
        }
        let step = words::step(sentence, |name| self.host(name), &self.groups)?;
        if step == Step::End {
            self.end = Some(at);
        }
        self.steps.push((at, step, sentence.to_owned()));
        Ok(())
    }

    /// What the lines before the first step leave open.
    fn settle_groups(&mut self) -> Result<(), String> {
        for key in ["title", "shows", "hosts"] {
            if !self.seen.contains_key(key) {
                return Err(format!("`{key}` is missing before the first step"));
            }
        }
        if self.groups.is_empty() {
            let witness = self.hosts.len()..self.hosts.len() + self.witnesses.len();
            let members = (0..self.names().len()).filter(|host| !witness.contains(host)).collect();
            self.groups.push(Set { name: "cache".to_owned(), members });
        }
        let few = self.groups.iter().find(|group| group.members.len() < 3);
        match few.filter(|_| self.quorum) {
            Some(group) => Err(format!("durability quorum takes three members or more, and {} has fewer", group.name)),
            None => Ok(()),
        }
    }

    fn finish(self) -> Result<Story, String> {
        let Some(end) = self.end else { return Err("the last step is `the story ends`".to_owned()) };
        if end > 300_000 * MS {
            return Err("a story of more than five minutes".to_owned());
        }
        Ok(Story {
            names: self.names(),
            first: self.hosts.len() + self.witnesses.len(),
            groups: self.groups,
            durability: if self.quorum { Durability::Quorum } else { Durability::Available },
            persistence: self.persistence.unwrap_or(Persistence::Rdb),
            priorities: self.priorities,
            quarantine: self.quarantine,
            steps: self.steps,
            end,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "title t\nshows s\nhosts a b c\n";

    fn fault(text: &str) -> String {
        Story::read(text).expect_err("it is wrong").to_string()
    }

    #[test]
    fn a_whole_story_is_read() {
        let text = format!(
            "{HEAD}later d\nquarantine a c\n\nat 0.5 s redis of a is killed\nat 2 s the story ends\n{MARK}\nrubbish\n"
        );
        let story = Story::read(&text).expect("it is right");
        assert_eq!((story.names.len(), story.first, story.end), (4, 3, 2000 * MS));
        assert_eq!(story.groups, [Set { name: "cache".to_owned(), members: vec![0, 1, 2, 3] }]);
        assert_eq!(story.steps[0].0, 500 * MS);
    }

    #[test]
    fn what_is_not_understood_is_an_error_at_its_line() {
        let cases = [
            ("nonsense here\n", "1: `nonsense` is not known"),
            ("title\n", "1: `title` says nothing"),
            ("title a\ntitle b\n", "2: `title` a second time"),
            ("title t\nat 1 s the story ends\n", "2: `shows` is missing"),
            ("title t\nhosts a a\n", "2: `a` is named twice"),
            ("hosts a B\n", "1: `B` is no name"),
            ("hosts a b\npriority c 0\n", "2: no host is called `c`; there are a, b"),
            ("hosts a b\npriority b x\n", "2: `x` is no number"),
            ("durability some\n", "1: `some` is no durability; available or quorum is"),
            ("persistence some\n", "1: `some` is no persistence"),
            ("hosts a b c\ngroup x a b\n", "2: group is `NAME on HOST ...`"),
            (
                "title t\nshows s\nhosts a b\ndurability quorum\nat 1 s the story ends\n",
                "5: durability quorum takes three",
            ),
        ];
        for (text, wanted) in cases {
            let found = fault(text);
            assert!(found.starts_with(wanted), "{text:?} gives: {found}");
        }
        let steps = [
            ("at 1 redis of a is killed\n", "4: a step is `at N s` and what happens"),
            ("at 1 s redis of a is kilt\n", "4: nothing is known that reads `redis of a is kilt`"),
            ("at 1 s redis of d is killed\n", "4: no host is called `d`; there are a, b, c"),
            ("at 1 s redis of a hangs for x s\n", "4: `x` is no number of seconds"),
            ("at 1 s redis of a is killed, group q\n", "4: no group is called `q`; there are cache"),
            ("at 2 s redis of a is killed\nat 1 s the story ends\n", "5: earlier than the step before it"),
            ("at 2 s the story ends\nat 3 s redis of a is killed\n", "5: a step after the end"),
            ("at 2 s redis of a is killed\ntitle t\n", "5: `title` after the first step"),
            ("at 2 s redis of a is killed\n", "4: the last step is `the story ends`"),
        ];
        for (text, wanted) in steps {
            let found = fault(&format!("{HEAD}{text}"));
            assert!(found.starts_with(wanted), "{text:?} gives: {found}");
        }
        let two = "title t\nshows s\nhosts a b\ngroup x on a\ngroup y on b\nat 1 s redis of a is killed\n";
        assert!(fault(two).starts_with("6: of which group: x, y?"), "{}", fault(two));
    }
}
