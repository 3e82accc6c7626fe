//! Logging that never blocks the agent: events go through a bounded queue to a thread that writes them to journald when
//! run under systemd, to stderr else. What does not fit is counted and said later.

use crate::ctl::catalog;
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use tokio::sync::mpsc::Sender;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry};

/// Events waiting for a slow journal.
const QUEUE: usize = 1024;
/// The environment variable that holds the filter, as tracing's directives.
const FILTER: &str = "MAINSTAY_LOG";

/// One event on its way to the writer.
struct Record {
    level: Level,
    message: String,
    fields: BTreeMap<&'static str, String>,
}

/// An event that the notify command is run with.
#[derive(Debug, Clone)]
pub(super) struct Told {
    pub(super) kind: &'static str,
    pub(super) group: Option<String>,
    pub(super) epoch: Option<String>,
    pub(super) text: String,
}

/// Who gets them, beside the journal.
static TAP: OnceLock<Sender<Told>> = OnceLock::new();
/// Those that did not fit.
static UNTOLD: AtomicU64 = AtomicU64::new(0);

/// From now on events go there too. The first one stays.
pub(super) fn tap(sender: Sender<Told>) {
    let _ = TAP.set(sender);
}

/// How many events did not fit since this was asked last.
pub(super) fn untold() -> u64 {
    UNTOLD.swap(0, Ordering::Relaxed)
}

fn tell(record: &Record) {
    let Some(tap) = TAP.get() else { return };
    let id = record.fields.get("message_id");
    let Some(entry) = id.and_then(|id| catalog::entry(id)).filter(|entry| entry.notify) else { return };
    let (group, epoch) = (record.fields.get("group").cloned(), record.fields.get("epoch").cloned());
    let told = Told { kind: entry.kind, group, epoch, text: record.message.clone() };
    if tap.try_send(told).is_err() {
        UNTOLD.fetch_add(1, Ordering::Relaxed);
    }
}

/// Starts logging for this process.
///
/// # Errors
/// The writer's thread could not be started, or logging runs already.
pub fn init() -> anyhow::Result<()> {
    let (sender, receiver) = sync_channel(QUEUE);
    let lost = Arc::new(AtomicU64::new(0));
    let relay = Relay { sender, lost: Arc::clone(&lost) };
    std::thread::Builder::new().name("log".to_owned()).spawn(move || write_all(&receiver, &lost))?;
    tracing_subscriber::registry().with(relay.with_filter(filter())).try_init()?;
    Ok(())
}

/// What is logged: by the environment, or what an operator wants to read. openraft tells every vote, and a shutdown as an
/// error; what matters of it the agent says itself.
fn filter() -> Targets {
    let usual = || {
        let quiet = ["openraft", "snow", crate::DETAIL].map(|target| (target, LevelFilter::OFF));
        Targets::new().with_default(LevelFilter::INFO).with_targets(quiet)
    };
    match std::env::var(FILTER) {
        Ok(text) => text.parse().unwrap_or_else(|error| {
            eprintln!(
                "mainstay: {FILTER}={text:?} is no filter, such as mainstay=info: {error}; the usual one is used"
            );
            usual()
        }),
        Err(_) => usual(),
    }
}

/// Puts events into the queue.
struct Relay {
    sender: SyncSender<Record>,
    lost: Arc<AtomicU64>,
}

impl<S: Subscriber> Layer<S> for Relay {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut record = Record { level: *event.metadata().level(), message: String::new(), fields: BTreeMap::new() };
        event.record(&mut record);
        tell(&record);
        if let Err(TrySendError::Full(_)) = self.sender.try_send(record) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Visit for Record {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            // Writing to a String cannot fail.
            let _ = write!(self.message, "{value:?}");
        } else {
            self.fields.insert(field.name(), format!("{value:?}"));
        }
    }
}

fn write_all(receiver: &Receiver<Record>, lost: &AtomicU64) {
    let journal = connected_to_journal().then(journald).and_then(Result::ok);
    let write = || {
        while let Ok(record) = receiver.recv() {
            emit(record);
            let missed = lost.swap(0, Ordering::Relaxed);
            if missed > 0 {
                let id = catalog::LOG_LOST;
                tracing::warn!(message_id = id, "{missed} log events were lost: the journal was too slow");
            }
        }
    };
    match journal {
        Some(layer) => tracing::subscriber::with_default(Registry::default().with(layer.with_filter(own())), write),
        None => {
            let ansi = std::io::stderr().is_terminal();
            // The sentence says it all: the fields beside it are the journal's.
            let sentence = tracing_subscriber::fmt::format::debug_fn(|out, field, value| match field.name() {
                "message" => write!(out, "{value:?}"),
                _ => Ok(()),
            });
            let text = tracing_subscriber::fmt::layer()
                .with_writer(std::io::stderr)
                .with_ansi(ansi)
                .with_target(false)
                .fmt_fields(sentence);
            tracing::subscriber::with_default(Registry::default().with(text.with_filter(own())), write);
        }
    }
}

/// What the writer's thread itself says. Without this filter its subscriber would count as interested in everything, and
/// each of openraft's many disabled events would be asked about at run time.
fn own() -> Targets {
    Targets::new().with_target(module_path!(), LevelFilter::TRACE)
}

/// Whether stderr is the stream that systemd connected to the journal: the variable alone may be inherited by a process
/// whose stderr goes elsewhere (systemd.exec(5)).
fn connected_to_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let stderr = nix::sys::stat::fstat(std::io::stderr());
    stderr.is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

fn journald() -> std::io::Result<tracing_journald::Layer> {
    let priorities = PriorityMappings {
        error: Priority::Error,
        warn: Priority::Warning,
        info: Priority::Informational,
        debug: Priority::Debug,
        trace: Priority::Debug,
    };
    Ok(tracing_journald::layer()?.with_field_prefix(None).with_priority_mappings(priorities))
}

/// Says it again on the writer's thread. Fields an operator searches the journal by keep their names; the rest becomes
/// part of the sentence.
fn emit(mut record: Record) {
    let mut take = |name: &str| record.fields.remove(name);
    let (group, epoch, message_id) = (take("group"), take("epoch"), take("message_id"));
    let mut text = record.message;
    for (name, value) in [("group", &group), ("epoch", &epoch)] {
        if let Some(value) = value {
            let _ = write!(text, " {name}={value}");
        }
    }
    for (name, value) in &record.fields {
        let _ = write!(text, " {name}={value}");
    }
    // What has no id of its own is found by one all the same, if an operator should see it.
    let trouble = (record.level <= Level::WARN).then_some(catalog::TROUBLE);
    let (group, epoch, message_id) = (group.as_deref(), epoch.as_deref(), message_id.as_deref().or(trouble));
    macro_rules! say {
        ($level:ident) => {
            tracing::$level!(mainstay_group = group, mainstay_epoch = epoch, message_id = message_id, "{text}")
        };
    }
    match record.level {
        Level::ERROR => say!(error),
        Level::WARN => say!(warn),
        Level::INFO => say!(info),
        Level::DEBUG => say!(debug),
        Level::TRACE => say!(trace),
    }
}
