//! Who is at each end: the `Hello` each side sends as its first encrypted frame, and the answer to it.
//!
//! The pre-shared key proves membership in the cluster, not which node it is; the hello says that, and the caller's
//! `Admission` decides. A refusal travels back with its reason so that the operator reads it on either node. This file
//! must never trust a length or text from the other side: names are bounded and free of control characters.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::sync::watch;

use crate::cluster::generation_number;

use super::{WIRE_VERSION, error::Malformed, frame::MAX_MESSAGE, keys::Keys};

/// Longest node or cluster name in a hello, bytes.
const MAX_NAME: usize = 255;
/// Longest reason in a refusal, characters; what is longer is cut.
const MAX_REASON: usize = 500;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u8)]
pub enum Lane {
    /// Requests and replies.
    Rpc,
    /// One-way messages of which the newest counts.
    Gossip,
    /// A node that is not yet a member; may only ask to join.
    Guest,
}

impl Lane {
    /// Largest message on this lane, bytes.
    pub const fn max_message(self) -> usize {
        match self {
            Lane::Rpc => MAX_MESSAGE,
            Lane::Gossip | Lane::Guest => MAX_MESSAGE / 16,
        }
    }
}

/// How a side introduces itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`WIRE_VERSION`] of the sender.
    pub wire: u8,
    /// Name of the cluster.
    pub cluster: String,
    /// Generation of the cluster: changes when it is built anew under the same name.
    pub generation: u64,
    /// Name of the node.
    pub node: String,
    /// Its id, once it has one.
    pub node_id: Option<u64>,
    /// Identity of its store: changes when its data were lost or replaced.
    pub incarnation: u128,
    /// What the dialer wants the connection for; the acceptor repeats it.
    pub lane: Lane,
}

impl Hello {
    /// A hello of this wire version, without an id and for the `Rpc` lane (a dial sets its own lane).
    pub fn new(cluster: impl Into<String>, generation: u64, node: impl Into<String>, incarnation: u128) -> Self {
        Hello {
            wire: WIRE_VERSION,
            cluster: cluster.into(),
            generation,
            node: node.into(),
            node_id: None,
            incarnation,
            lane: Lane::Rpc,
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let hello: Hello = decode(bytes)?;
        let fine = |name: &str| !name.is_empty() && name.len() <= MAX_NAME && !name.chars().any(char::is_control);
        if fine(&hello.cluster) && fine(&hello.node) { Ok(hello) } else { Err(Malformed::Hello) }
    }
}

/// What a refusal is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RefusalCode {
    /// Other wire version.
    Version,
    /// Other cluster name.
    Cluster,
    /// Other cluster generation.
    Generation,
    /// The cluster has gone on in a newer generation without this node.
    Superseded,
    /// Not a member, or not the name or id expected here.
    Node,
    /// The node's store is not the one the cluster knows.
    Incarnation,
    /// The lane is not open to this node.
    Lane,
    /// No room for another connection.
    Busy,
    /// Anything else; the reason says it.
    Other,
}

/// Why one side does not talk to the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// For programs.
    pub code: RefusalCode,
    /// Node that refuses; filled in where it is sent.
    pub from: String,
    /// For people: one line.
    pub reason: String,
}

impl Refusal {
    /// A refusal; the sender's name is added when it is sent.
    pub fn new(code: RefusalCode, reason: impl Into<String>) -> Self {
        Refusal { code, from: String::new(), reason: reason.into() }
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut refusal: Refusal = decode(bytes)?;
        // The text goes into logs and terminals: no line breaks or escape sequences from elsewhere.
        let clean = |s: &str| s.chars().filter(|c| !c.is_control()).take(MAX_REASON).collect();
        refusal.from = clean(&refusal.from);
        refusal.reason = clean(&refusal.reason);
        Ok(refusal)
    }

    pub(super) fn said_by(mut self, hello: &Hello) -> Self {
        self.from.clone_from(&hello.node);
        self.reason = self.reason.chars().take(MAX_REASON).collect();
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} refuses: {}", self.from, self.reason)
    }
}

/// Decides whether to talk to who said hello.
pub trait Admission: Send + Sync {
    /// `Err` is sent to the other side, and the connection closed.
    fn admit(&self, hello: &Hello) -> Result<(), Refusal>;
}

impl<F> Admission for F
where
    F: Fn(&Hello) -> Result<(), Refusal> + Send + Sync,
{
    fn admit(&self, hello: &Hello) -> Result<(), Refusal> {
        self(hello)
    }
}

/// The part of every admission that is the same: cluster name and, but for guests, generation.
pub fn check_cluster(ours: &Hello, theirs: &Hello) -> Result<(), Refusal> {
    if theirs.cluster != ours.cluster {
        let reason = format!("cluster name is '{}', not '{}'", ours.cluster, theirs.cluster);
        return Err(Refusal::new(RefusalCode::Cluster, reason));
    }
    if theirs.generation != ours.generation && theirs.lane != Lane::Guest {
        if let Some(refusal) = superseded(ours, theirs) {
            return Err(refusal);
        }
        let reason = format!(
            "cluster '{}' is generation {}, not {}: one of the two nodes belongs to an earlier cluster of that name",
            ours.cluster, ours.generation, theirs.generation
        );
        return Err(Refusal::new(RefusalCode::Generation, reason));
    }
    Ok(())
}

/// One of the two is of an older generation: it is told apart from a stranger, because its data are of before the
/// operator's word, and must not be served beside the newer one's.
fn superseded(ours: &Hello, theirs: &Hello) -> Option<Refusal> {
    let (own, other) = (generation_number(ours.generation), generation_number(theirs.generation));
    if own == other || own == 0 || other == 0 {
        return None;
    }
    let (newer, older) = if own > other { (ours, theirs) } else { (theirs, ours) };
    let reason = format!(
        "cluster '{}' went on in generation {} without {}, which is of generation {}: run `mainstay join HOST:PORT` on {}, with the address of {}",
        ours.cluster,
        generation_number(newer.generation),
        older.node,
        generation_number(older.generation),
        older.node,
        newer.node
    );
    let code = if own > other { RefusalCode::Superseded } else { RefusalCode::Generation };
    Some(Refusal::new(code, reason))
}

#[derive(Debug, Clone)]
struct Identity {
    hello: Hello,
    keys: Keys,
}

/// What this agent says of itself and the keys it holds; shared by all connections, replaceable while they run. A
/// change counts from the next dial or accept.
#[derive(Debug, Clone)]
pub struct Local(Arc<watch::Sender<Identity>>);

impl Local {
    /// A new identity.
    pub fn new(hello: Hello, keys: Keys) -> Self {
        Local(Arc::new(watch::Sender::new(Identity { hello, keys })))
    }

    /// The hello as of now.
    pub fn hello(&self) -> Hello {
        self.0.borrow().hello.clone()
    }

    /// The keys as of now.
    pub fn keys(&self) -> Keys {
        self.0.borrow().keys.clone()
    }

    /// Replaces the hello, say when the node got its id.
    pub fn set_hello(&self, hello: Hello) {
        self.0.send_modify(|id| id.hello = hello);
    }

    /// Replaces the keys, for rotation without a restart.
    pub fn set_keys(&self, keys: Keys) {
        self.0.send_modify(|id| id.keys = keys);
    }
}

pub(super) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, Malformed> {
    postcard::to_stdvec(value).map_err(|_| Malformed::Hello)
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Malformed> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        _ => Err(Malformed::Hello),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refusals_read_as_the_operator_expects() {
        let (ours, theirs) = (Hello::new("edge", 1, "n2", 1), Hello::new("edg", 1, "n1", 2));
        let refusal = check_cluster(&ours, &theirs).unwrap_err().said_by(&ours);
        assert_eq!(refusal.to_string(), "n2 refuses: cluster name is 'edge', not 'edg'");
        let mut old = Hello::new("edge", 7, "n1", 2);
        assert_eq!(check_cluster(&ours, &old).unwrap_err().code, RefusalCode::Generation);
        old.lane = Lane::Guest;
        assert_eq!(check_cluster(&ours, &old), Ok(()));
    }

    #[test]
    fn hostile_names_and_reasons_are_refused_or_cleaned() {
        for node in ["", "a\nb", &"x".repeat(256)] {
            let bytes = encode(&Hello::new("edge", 1, node, 1)).unwrap();
            assert_eq!(Hello::decode(&bytes), Err(Malformed::Hello));
        }
        let mut bytes = encode(&Hello::new("edge", 1, "n1", u128::MAX)).unwrap();
        assert_eq!(Hello::decode(&bytes).unwrap().incarnation, u128::MAX);
        bytes.push(0);
        assert_eq!(Hello::decode(&bytes), Err(Malformed::Hello));
        let dirty = Refusal::new(RefusalCode::Other, format!("\x1b[2Jbye\n{}", "x".repeat(9_000)));
        let clean = Refusal::decode(&encode(&dirty).unwrap()).unwrap();
        assert!(clean.reason.starts_with("[2Jbyex") && clean.reason.len() == MAX_REASON);
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_fail(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Hello::decode(&bytes);
            let _ = Refusal::decode(&bytes);
        }
    }
}
