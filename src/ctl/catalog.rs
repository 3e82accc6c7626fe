//! Every event an operator may meet in the journal: its MESSAGE_ID, what it means, and what to do.
//!
//! The agent logs by these ids, `mainstay events` finds them by these, and `systemd/mainstay.catalog`, which `journalctl
//! -x` shows, is written from here (a test compares it). An id, once given, never means anything else.

use std::fmt::Write as _;

/// One kind of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// One word, for scripts.
    pub kind: &'static str,
    /// Its MESSAGE_ID.
    pub id: &'static str,
    /// A headline. `@FIELD@` stands for a field of the journal's entry.
    pub subject: &'static str,
    /// What happened.
    pub meaning: &'static str,
    /// What to do.
    pub remedy: &'static str,
    /// Whether the command of `[notify]` is run with it.
    pub notify: bool,
}

/// Group a group has a new primary.
pub const CHANGE_OF_PRIMARY: &str = "6f6ab0ce4a9c4f0c8d9a1d4d6c6f0e11";
/// Group a group has no primary.
pub const GROUP_SEALED: &str = "0f0e3a4f5b1f4d6a9a8f6c6b5f7d2c12";
/// An instance of a group came back with data that the group lacks.
pub const DATA_DIVERGED: &str = "a3d1f0c6f2b94d0f8b1f3d1c5f6e7b21";
/// The instance of a group on this host died.
pub const INSTANCE_DIED: &str = "d13c513a42f84da197b1165f0971b7c4";
/// The unit of an instance of a group failed.
pub const UNIT_FAILED: &str = "2abc561925ab489b967e4d928a831817";
/// The unit of an instance cannot be watched.
pub const UNIT_UNKNOWN: &str = "f15ce760f3e442f29cbb7daa64c184fa";
/// This host stops serving a group.
pub const FENCING: &str = "2966493dcbc14f01962794bfeca9bad1";
/// The part of this host in a group changed.
pub const POSTURE: &str = "29ec148cead54263a4d6d23508bd9d96";
/// The instance of a group cannot be watched.
pub const INSTANCE_UNUSABLE: &str = "fe72c33b959545feaa734d03343a2c9f";
/// The instance of a group holds data that is not the group's.
pub const FOREIGN_DATA: &str = "b79db4df269441f7ad791a3ca63cf5f9";
/// a group waits.
pub const WAITING: &str = "0dfafe39072744da9921bf95cc9ff851";
/// The VIP of a group is on this host.
pub const VIP_HERE: &str = "e14c1d7e84484709af4d6ee6dda4dd1e";
/// Something is wrong with the VIP of a group.
pub const VIP_TROUBLE: &str = "ad989a70f9fc4f72a562d07cbc2c8e3e";
/// Another agent leads.
pub const LEADER: &str = "b25a55f4796c40e98630de19bf77d38d";
/// The replication backlog of a group is short.
pub const BACKLOG_SHORT: &str = "c92830e179c949c188050a4e86ad9101";
/// The agent started.
pub const AGENT_STARTED: &str = "627e79c72b424dd8b2e2e271c93de18f";
/// The agent was asked to stop.
pub const AGENT_STOPPING: &str = "27a0018ae97344d0937e67494087c813";
/// The cluster goes on without this node.
pub const SET_ASIDE: &str = "233911c082f5435d98b49734b70da03b";
/// The disk under the agent's state does not do its part.
pub const DISK_TROUBLE: &str = "487406843c514cd4b4479493a06bcdfe";
/// A command to the instance of a group failed.
pub const TASK_FAILED: &str = "1b5d04ff86dd4a43a25dc254fc639b8b";
/// The config may not mean what it says.
pub const CONFIG_WARNING: &str = "4436a18fac3945f482a22af7b42f9784";
/// The config was read again.
pub const CONFIG_RELOADED: &str = "adaab2c3504c4658834fbb23dcf91c31";
/// The config could not be read again.
pub const CONFIG_REFUSED: &str = "153ac15193394ef38b14ea2b7cbdd8d7";
/// The notify command did not take an event.
pub const NOTIFY_FAILED: &str = "d6dbc7a1abb44fcdad482bdf064c8d98";
/// Lines of the agent's log were lost.
pub const LOG_LOST: &str = "4bf74313d28441698a6bf001b37301c6";

/// Something did not work as it should.
pub const TROUBLE: &str = "5b0f2c6d7e1a4c39a4d8f27b90c1e653";

/// All of them.
pub const CATALOG: &[Entry] = &[
    Entry {
        kind: "change-of-primary",
        id: CHANGE_OF_PRIMARY,
        subject: "Group @MAINSTAY_GROUP@ has a new primary",
        meaning: "The agents agreed on the primary of a new epoch. The sentence says who it is, who it was before, and which guarantee held for acknowledged writes.",
        remedy: "Where it says that writes may be lost, look for the data of the old primary once it is back: an event names it. To move the primary back: mainstay switchover --to NODE",
        notify: true,
    },
    Entry {
        kind: "group-sealed",
        id: GROUP_SEALED,
        subject: "Group @MAINSTAY_GROUP@ has no primary",
        meaning: "The primary's place is vacant, for the reason that the sentence gives. Every instance is detached and says what it holds; then the one with the most complete data is promoted. That takes well under a second.",
        remedy: "None, if a new primary follows. If none does: mainstay status says what is waited for.",
        notify: true,
    },
    Entry {
        kind: "data-diverged",
        id: DATA_DIVERGED,
        subject: "An instance of @MAINSTAY_GROUP@ came back with data that the group lacks",
        meaning: "An old primary had taken writes that its successor never got. They are thrown away when it follows again; with quarantine = true they are saved before.",
        remedy: "If a file is named, it is an RDB: load it into an instance of its own and fetch what is missed. To save such data from now on: quarantine = true in [[group]].",
        notify: true,
    },
    Entry {
        kind: "instance-died",
        id: INSTANCE_DIED,
        subject: "The instance of @MAINSTAY_GROUP@ on this host died",
        meaning: "Its unit tells how its process ended, and its last lines. The same words are in the history, beside the change of primary that followed.",
        remedy: "oom-kill: give the host or the unit more memory, or the instance a smaller maxmemory. A crash: report it with the whole log, journalctl -u UNIT",
        notify: true,
    },
    Entry {
        kind: "unit-failed",
        id: UNIT_FAILED,
        subject: "The unit of an instance of @MAINSTAY_GROUP@ failed",
        meaning: "The service manager has given the unit up. The agent starts it again, after one second, and ever later while it goes on failing.",
        remedy: "journalctl -u UNIT says why. mainstay init writes a drop-in under which the service manager itself never gives up.",
        notify: true,
    },
    Entry {
        kind: "unit-unknown",
        id: UNIT_UNKNOWN,
        subject: "The unit of an instance cannot be watched",
        meaning: "The agent does without: it sees by itself whether the instance lives, but cannot tell a stop on purpose from a crash, and starts nothing.",
        remedy: "Check redis_unit in the config; install dbus if the system bus is missing.",
        notify: true,
    },
    Entry {
        kind: "fencing",
        id: FENCING,
        subject: "This host stops serving @MAINSTAY_GROUP@",
        meaning: "The agent seals its instance, closes the clients' connections and drops the VIP, for the reason that the sentence gives.",
        remedy: "A lost lease: this host and a majority of the others did not reach each other; look at the network, and at the load of this host.",
        notify: true,
    },
    Entry {
        kind: "posture",
        id: POSTURE,
        subject: "The part of this host in @MAINSTAY_GROUP@ changed",
        meaning: "What this host does in the group, in a sentence.",
        remedy: "None.",
        notify: false,
    },
    Entry {
        kind: "instance-unusable",
        id: INSTANCE_UNUSABLE,
        subject: "The instance of @MAINSTAY_GROUP@ cannot be watched",
        meaning: "It answers, but does not let the agent do its work: a wrong password, a missing right, a renamed command, no connection left. The sentence says which.",
        remedy: "Correct it on the instance or in the config; systemctl reload mainstay reads a new password.",
        notify: true,
    },
    Entry {
        kind: "foreign-data",
        id: FOREIGN_DATA,
        subject: "The instance of @MAINSTAY_GROUP@ holds data that is not the group's",
        meaning: "It was never part of the group and its data is no kin of the primary's. It stays detached: nothing is thrown away without a person's word.",
        remedy: "If the data may go: mainstay bootstrap --primary and the primary's name.",
        notify: true,
    },
    Entry {
        kind: "waiting",
        id: WAITING,
        subject: "@MAINSTAY_GROUP@ waits",
        meaning: "The leader would act, and waits for what the sentence says.",
        remedy: "Bring back what is named, or follow the sentence's own advice.",
        notify: false,
    },
    Entry {
        kind: "vip-here",
        id: VIP_HERE,
        subject: "The VIP of @MAINSTAY_GROUP@ is on this host",
        meaning: "The address was put on and announced.",
        remedy: "None.",
        notify: false,
    },
    Entry {
        kind: "vip-trouble",
        id: VIP_TROUBLE,
        subject: "Something is wrong with the VIP of @MAINSTAY_GROUP@",
        meaning: "This host serves the group, but the address could not be put on or taken off, or another host answers for it. The sentence says which.",
        remedy: "Is the interface there? Does the agent have CAP_NET_ADMIN and CAP_NET_RAW? If another host answers for the address, take it off there: ip neigh tells which one.",
        notify: true,
    },
    Entry {
        kind: "leader",
        id: LEADER,
        subject: "Another agent leads",
        meaning: "Raft elected a leader. It coordinates changes of primary; it need not be a primary's host.",
        remedy: "None, unless it happens again and again: then look at the network between the hosts and at their load.",
        notify: false,
    },
    Entry {
        kind: "backlog-short",
        id: BACKLOG_SHORT,
        subject: "The replication backlog of @MAINSTAY_GROUP@ is short",
        meaning: "At the present rate of writes, a replica that restarts would have to fetch all data anew.",
        remedy: "Raise repl-backlog-size to what the sentence says, on every instance.",
        notify: false,
    },
    Entry {
        kind: "agent-started",
        id: AGENT_STARTED,
        subject: "The agent started",
        meaning: "The sentence says whether the host was booted since it ran last, or only the agent was started again.",
        remedy: "None.",
        notify: false,
    },
    Entry {
        kind: "agent-stopping",
        id: AGENT_STOPPING,
        subject: "The agent was asked to stop",
        meaning: "It hands over what it serves, leaves the followers, and ends within eight seconds.",
        remedy: "None.",
        notify: false,
    },
    Entry {
        kind: "set-aside",
        id: SET_ASIDE,
        subject: "The cluster goes on without this node",
        meaning: "A newer generation of the cluster was founded, or the members turn this node away. It keeps its instances sealed.",
        remedy: "mainstay join HOST:PORT, with a running member's address, takes it in anew.",
        notify: true,
    },
    Entry {
        kind: "disk-trouble",
        id: DISK_TROUBLE,
        subject: "The disk under the agent's state does not do its part",
        meaning: "It is full or nearly so, or does not answer. What is served goes on; nothing new can be promised until it is well.",
        remedy: "Free space below data_dir, or look for the disk's faults in the kernel's log.",
        notify: true,
    },
    Entry {
        kind: "task-failed",
        id: TASK_FAILED,
        subject: "A command to the instance of @MAINSTAY_GROUP@ failed",
        meaning: "The agent tries again, ever later.",
        remedy: "None, if it does not repeat. Else the sentence says what to correct.",
        notify: false,
    },
    Entry {
        kind: "config-warning",
        id: CONFIG_WARNING,
        subject: "The config may not mean what it says",
        meaning: "It is used as it is; the sentence says what looks wrong, and where.",
        remedy: "Correct the line, then systemctl reload mainstay.",
        notify: false,
    },
    Entry {
        kind: "config-reloaded",
        id: CONFIG_RELOADED,
        subject: "The config was read again",
        meaning: "The sentence says what changed, and what waits for the next start of the agent.",
        remedy: "For what waits: systemctl restart mainstay. Within the lease clients feel nothing of it.",
        notify: false,
    },
    Entry {
        kind: "config-refused",
        id: CONFIG_REFUSED,
        subject: "The config could not be read again",
        meaning: "Something in it is wrong, and nothing was changed: the agent goes on with what it read before.",
        remedy: "Correct the line that is named, then systemctl reload mainstay.",
        notify: false,
    },
    Entry {
        kind: "notify-failed",
        id: NOTIFY_FAILED,
        subject: "The notify command did not take an event",
        meaning: "It could not be started, took too long, or more events came than it could take. The event itself is in the journal.",
        remedy: "journalctl -u 'mainstay-notify@*' shows what the command said.",
        notify: false,
    },
    Entry {
        kind: "log-lost",
        id: LOG_LOST,
        subject: "Lines of the agent's log were lost",
        meaning: "The journal did not take them in time, and the agent waits for nobody.",
        remedy: "Look at the journal's disk, and at systemd-journald.",
        notify: false,
    },
    Entry {
        kind: "trouble",
        id: TROUBLE,
        subject: "Something did not work as it should",
        meaning: "The sentence says what. The agent goes on, and tries again where that may help.",
        remedy: "None, if it does not repeat. Else the sentence names what to look at.",
        notify: false,
    },
];

/// The entry with this MESSAGE_ID.
pub fn entry(id: &str) -> Option<&'static Entry> {
    CATALOG.iter().find(|entry| entry.id == id)
}

/// The longest line of the catalog's texts.
const WIDTH: usize = 78;

/// The catalog as systemd reads it.
pub fn render() -> String {
    let mut out =
        String::from("# What mainstay logs, and what to do about it. Written from the program's own table.\n");
    for entry in CATALOG {
        // Writing to a String cannot fail.
        let _ = write!(
            out,
            "\n-- {}\nSubject: {}\nDefined-By: mainstay\nDocumentation: man:mainstay(1)\n\n@MESSAGE@\n\n",
            entry.id, entry.subject
        );
        wrap(&mut out, entry.meaning);
        out.push('\n');
        wrap(&mut out, &format!("What to do: {}", entry.remedy));
    }
    out
}

fn wrap(out: &mut String, text: &str) {
    let mut line = 0;
    for word in text.split(' ') {
        if line > 0 && line + 1 + word.len() > WIDTH {
            out.push('\n');
            line = 0;
        }
        if line > 0 {
            out.push(' ');
            line += 1;
        }
        out.push_str(word);
        line += word.len();
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn ids_and_kinds_are_each_their_own() {
        let ids: BTreeSet<&str> = CATALOG.iter().map(|entry| entry.id).collect();
        let kinds: BTreeSet<&str> = CATALOG.iter().map(|entry| entry.kind).collect();
        assert_eq!((ids.len(), kinds.len()), (CATALOG.len(), CATALOG.len()));
        assert!(ids.iter().all(|id| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())));
        assert!(CATALOG.iter().all(|entry| entry.meaning.ends_with('.') && !entry.remedy.is_empty()));
    }
}
