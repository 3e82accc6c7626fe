//! Who may talk to this node: the members, by number, name and store, and guests who ask to become one.
//!
//! A node whose disk was emptied is a stranger, whatever its name says: counting its votes would count a memory that
//! is lost. A node that is catching up may know an old membership only: a number that was given out after what it has
//! applied belongs to a later member, perhaps the leader it catches up from; so does one that was given out, to that very
//! store, and is no member yet as far as is known here. A node that was enrolled but has no log yet knows no members; it
//! takes whoever knows the cluster's generation, which only members were told.

use crate::cluster::{Node, NodeId, State};
use crate::store::Peer;
use crate::wire::{Admission, Hello, Lane, Local, Refusal, RefusalCode, check_cluster};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type Later = dyn Fn(NodeId, &Hello) -> bool + Send + Sync;

/// The members as this node knows them.
pub(super) struct Roster {
    local: Local,
    members: Mutex<BTreeMap<NodeId, Peer>>,
    /// [`is_later`], by what is applied here of the log.
    later: Box<Later>,
    severed: AtomicBool,
}

/// Whether a number belongs to a member that this state does not show as one yet: it was given out later, or to that very
/// store by then.
pub(super) fn is_later(state: &State, id: NodeId, theirs: &Hello) -> bool {
    let to = |node: &Node| node.name == theirs.node && node.incarnation.0 == theirs.incarnation;
    id >= state.next_node || state.nodes.get(&id).is_some_and(to)
}

/// What an operator is told of a node that came back without its data.
pub(super) fn lost_its_data(name: &str) -> String {
    format!("{name} lost its data: remove it with `mainstay leave {name}` and join it anew")
}

impl Roster {
    pub(super) fn new(local: Local, later: impl Fn(NodeId, &Hello) -> bool + Send + Sync + 'static) -> Self {
        Self { local, members: Mutex::default(), later: Box::new(later), severed: AtomicBool::new(false) }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Peer>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn members(&self) -> BTreeMap<NodeId, Peer> {
        self.lock().clone()
    }

    pub(super) fn set(&self, members: BTreeMap<NodeId, Peer>) {
        *self.lock() = members;
    }

    /// Cuts this node off from all others, as a pulled plug would, or connects it again.
    pub(super) fn sever(&self, severed: bool) {
        self.severed.store(severed, Ordering::Relaxed);
    }

    pub(super) fn is_severed(&self) -> bool {
        self.severed.load(Ordering::Relaxed)
    }

    fn refuse_severed(&self) -> Result<(), Refusal> {
        if self.is_severed() { Err(Refusal::new(RefusalCode::Other, "cut off")) } else { Ok(()) }
    }

    fn judge(&self, theirs: &Hello, expected: Option<NodeId>) -> Result<(), Refusal> {
        self.refuse_severed()?;
        let ours = self.local.hello();
        if theirs.cluster == ours.cluster && theirs.node == ours.node && theirs.incarnation != ours.incarnation {
            let reason = format!("two nodes are named {}; give each its own [node] name", ours.node);
            return Err(Refusal::new(RefusalCode::Node, reason));
        }
        if theirs.lane == Lane::Guest {
            return check_cluster(&ours, theirs);
        }
        let id = theirs.node_id.map(NodeId);
        let later = id.is_some_and(|id| (self.later)(id, theirs));
        let members = self.lock();
        let namesake = members.values().find(|peer| peer.name == theirs.node);
        if theirs.cluster == ours.cluster
            && !later
            && namesake.is_some_and(|peer| peer.incarnation.0 != theirs.incarnation)
        {
            return Err(Refusal::new(RefusalCode::Incarnation, lost_its_data(&theirs.node)));
        }
        check_cluster(&ours, theirs)?;
        if ours.generation == 0 {
            return Err(Refusal::new(RefusalCode::Lane, format!("{} belongs to no cluster yet", ours.node)));
        }
        let known = id.and_then(|id| members.get(&id)).is_some_and(|peer| peer.name == theirs.node);
        if !known && !later && !members.is_empty() {
            let reason = format!(
                "{} is no member of cluster {}; if it was removed, empty its data_dir and start it with --join",
                theirs.node, ours.cluster
            );
            return Err(Refusal::new(RefusalCode::Node, reason));
        }
        if expected.is_some() && id != expected {
            let reason = format!("{} answers where another node is expected", theirs.node);
            return Err(Refusal::new(RefusalCode::Node, reason));
        }
        Ok(())
    }
}

impl Admission for Roster {
    fn admit(&self, theirs: &Hello) -> Result<(), Refusal> {
        self.judge(theirs, None)
    }
}

/// Judges who answers a dial to one node.
pub(super) struct Expecting {
    pub(super) roster: Arc<Roster>,
    pub(super) node: NodeId,
}

impl Admission for Expecting {
    fn admit(&self, theirs: &Hello) -> Result<(), Refusal> {
        self.roster.judge(theirs, Some(self.node))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Incarnation;
    use crate::wire::Keys;

    fn roster(generation: u64) -> Roster {
        let key = crate::wire::generate_key().unwrap();
        let keys: Keys = crate::wire::parse_key_file(&key).unwrap();
        // Number 8 was given to the store of n8, which is no member yet.
        let n8 =
            Node { name: "n8".to_owned(), address: String::new(), incarnation: Incarnation(88), introduced: false };
        let state = State { next_node: NodeId(10), nodes: [(NodeId(8), n8)].into(), ..State::default() };
        let later = move |id, theirs: &Hello| is_later(&state, id, theirs);
        let roster = Roster::new(Local::new(Hello::new("edge", generation, "n1", 11), keys), later);
        let peer = |n: u128| Peer { name: format!("n{n}"), address: String::new(), incarnation: Incarnation(n * 11) };
        roster.set([(NodeId(1), peer(1)), (NodeId(2), peer(2))].into());
        roster
    }

    fn hello(node: &str, id: u64, incarnation: u128, lane: Lane) -> Hello {
        Hello { node_id: Some(id), lane, ..Hello::new("edge", 5, node, incarnation) }
    }

    #[test]
    fn only_the_very_member_is_admitted() {
        let roster = roster(5);
        let code = |hello: Hello| roster.admit(&hello).err().map(|refusal| refusal.code);
        assert_eq!(code(hello("n2", 2, 22, Lane::Rpc)), None);
        assert_eq!(code(hello("n2", 2, 23, Lane::Rpc)), Some(RefusalCode::Incarnation));
        assert_eq!(code(hello("n2", 3, 22, Lane::Gossip)), Some(RefusalCode::Node));
        assert_eq!(code(hello("n9", 2, 22, Lane::Rpc)), Some(RefusalCode::Node));
        assert_eq!(code(hello("n9", 9, 99, Lane::Rpc)), Some(RefusalCode::Node), "it was removed");
        assert_eq!(code(hello("n9", 9, 99, Lane::Guest)), None);
        assert_eq!(code(hello("n1", 1, 12, Lane::Guest)), Some(RefusalCode::Node));
        let text = roster.admit(&hello("n2", 2, 23, Lane::Rpc)).unwrap_err().reason;
        assert_eq!(text, "n2 lost its data: remove it with `mainstay leave n2` and join it anew");
    }

    /// Else a node that catches up refuses the leader it catches up from, for ever: the leader joined, or joined anew
    /// with another store, after what has been applied here.
    #[test]
    fn a_number_given_out_later_is_a_later_members() {
        let roster = roster(5);
        assert_eq!(roster.admit(&hello("n9", 10, 99, Lane::Rpc)), Ok(()));
        assert_eq!(roster.admit(&hello("n2", 11, 23, Lane::Gossip)), Ok(()));
        // And between the two entries of the log that give the number and make the member.
        assert_eq!(roster.admit(&hello("n8", 8, 88, Lane::Rpc)), Ok(()));
        assert!(roster.admit(&hello("n8", 8, 89, Lane::Rpc)).is_err(), "another store");
        assert!(roster.admit(&hello("n7", 8, 88, Lane::Rpc)).is_err(), "another name");
        let wiped = Hello { generation: 0, node_id: None, ..hello("n2", 2, 23, Lane::Rpc) };
        assert!(roster.admit(&wiped).is_err());
    }

    #[test]
    fn another_cluster_or_generation_is_refused_and_a_new_node_takes_its_founder() {
        let roster = roster(5);
        let other = Hello { cluster: "core".to_owned(), ..hello("n2", 2, 22, Lane::Guest) };
        assert_eq!(roster.admit(&other).unwrap_err().code, RefusalCode::Cluster);
        let older = Hello { generation: 4, ..hello("n2", 2, 22, Lane::Rpc) };
        assert_eq!(roster.admit(&older).unwrap_err().code, RefusalCode::Generation);
        roster.set(BTreeMap::new());
        assert_eq!(roster.admit(&hello("n2", 2, 22, Lane::Rpc)), Ok(()));
        let expecting = Expecting { roster: Arc::new(roster), node: NodeId(3) };
        assert!(expecting.admit(&hello("n2", 2, 22, Lane::Rpc)).is_err());
    }
}
