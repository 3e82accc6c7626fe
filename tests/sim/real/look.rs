//! What an instance looks like from outside, the same for the model and the real one, and how the two are compared.
//!
//! The model counts one for every write and ping. A real offset is in bytes: every write of a sequence is a command of
//! [`WRITE`] bytes, [`SELECT`] goes before the first that an instance passes on, and `WAIT` sends its replicas
//! [`GETACK`], which the model counts as a ping; Redis's own pings are turned off. So the bytes name the count exactly.

use crate::redis::{Refusal, Upstream};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Bytes of one write in the stream: `SET`, a key of eight letters, a value of [`VALUE`].
pub const WRITE: u64 = 2048;
/// See [`WRITE`].
pub const VALUE: usize = 2012;
/// Bytes of `SELECT 0`.
const SELECT: u64 = 23;
/// Bytes of `REPLCONF GETACK *`.
const GETACK: u64 = 37;

/// Writes and GETACKs in so many bytes of the stream. The two sizes have no common factor: the rest is unambiguous
/// below 37 SELECTs.
pub fn units(bytes: u64) -> Result<u64, String> {
    let rest = bytes % WRITE;
    let count =
        |selects: u64| rest.checked_sub(selects * SELECT).filter(|rest| rest % GETACK == 0).map(|rest| rest / GETACK);
    let getacks = (0..GETACK).find_map(count);
    getacks.map(|getacks| bytes / WRITE + getacks).ok_or_else(|| format!("{bytes} bytes"))
}

/// What a command came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Done.
    Done,
    /// Refused, or not answered.
    Refused(Refusal),
    /// `WAIT 1`: whether a replica has it.
    Waited(bool),
    /// What the model has no word for.
    Other(String),
}

/// One instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// No process.
    Gone,
    /// Stopped.
    Silent,
    /// Loading its data.
    Loading,
    /// It answers.
    Up(Box<State>),
}

/// One instance that answers. Replication ids are text here and compared by kinship.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// None: a primary.
    pub upstream: Option<Upstream>,
    pub link_up: bool,
    pub id: String,
    /// The second id and the offset up to which it holds.
    pub second: Option<(String, Offset)>,
    pub offset: Offset,
    pub backlog: bool,
    /// Replicas online.
    pub attached: Vec<usize>,
    /// Synchronisations served, full and partial.
    pub served: (u64, u64),
    /// The writes it holds, in order.
    pub data: Vec<u64>,
}

/// In the model's units; the bytes where they cannot be told.
pub type Offset = Result<u64, String>;

/// Names for replication ids in the order of their first sight: equal names on both sides are equal kinship.
#[derive(Debug, Clone, Default)]
pub struct Kin(BTreeMap<String, usize>);

impl Kin {
    /// The same looks, with every id by its name.
    pub fn named(&mut self, looks: &[Look]) -> Vec<Look> {
        let mut looks = looks.to_vec();
        for look in &mut looks {
            if let Look::Up(state) = look {
                state.id = self.name(&state.id);
                if let Some((id, _)) = &mut state.second {
                    *id = self.name(id);
                }
            }
        }
        looks
    }

    fn name(&mut self, id: &str) -> String {
        let next = self.0.len();
        format!("id{}", self.0.entry(id.to_owned()).or_insert(next))
    }
}

/// The two side by side, for people.
pub fn table(model: &[Look], real: &[Look]) -> String {
    let mut text = String::new();
    for (at, (model, real)) in model.iter().zip(real).enumerate() {
        let differs = if model == real { ' ' } else { '!' };
        let _ = write!(text, "{differs} r{at} model: {}\n{differs}    real:  {}\n", line(model), line(real));
    }
    text
}

fn line(look: &Look) -> String {
    let Look::Up(state) = look else { return format!("{look:?}") };
    let offset = |offset: &Offset| offset.as_ref().map_or_else(Clone::clone, u64::to_string);
    let role = match state.upstream {
        None => "primary".to_owned(),
        Some(Upstream::Nowhere) => "sealed".to_owned(),
        Some(Upstream::Host(to)) => format!("of r{to}, {}", if state.link_up { "up" } else { "down" }),
    };
    let second = state.second.as_ref().map(|(id, end)| format!(" and {id} to {}", offset(end))).unwrap_or_default();
    let (full, partial) = state.served;
    let data = match (state.data.first(), state.data.last()) {
        (Some(first), Some(last)) => format!("{} writes {first}..{last}", state.data.len()),
        _ => "empty".to_owned(),
    };
    format!(
        "{role}; {}{second} at {}; backlog {}; attached {:?}; served {full} full, {partial} partial; {data}",
        state.id,
        offset(&state.offset),
        state.backlog,
        state.attached
    )
}
