//! What peers send: a stranger's handshake, chunks and frames, requests between members, and what agents tell each
//! other, folded into a view.

use bytes::Bytes;
use mainstay::cluster::{
    Command, Durability, GroupCommand, GroupIntro, GroupName, Guarantee, GuardianChange, Incarnation, Local, Node,
    NodeId, Offset, RunId, State, Why,
};
use mainstay::decide::{GroupPolicy, Policy, step};
use mainstay::view::{Event, Item, Leadership, Moment, View, What};
use mainstay::wire::{Class, Frame, probe};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

/// The largest message the assembler is given, bytes: small, so that inputs reach it.
const MAX: usize = 2048;

/// The first byte says which way the rest came in.
///
/// # Panics
/// See the crate.
pub fn frames(data: &[u8]) {
    let Some((way, rest)) = data.split_first() else { return };
    match way % 4 {
        0 => stranger(rest),
        1 => chunks(rest),
        2 => {
            if let Some((kind, body)) = rest.split_first() {
                let kinds = mainstay::raft::probe::KINDS;
                mainstay::raft::probe::understood(kinds[usize::from(*kind) % kinds.len()], body);
            }
        }
        _ => gossip(rest),
    }
}

fn stranger(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let said = runtime.expect("a runtime").block_on(probe::stranger(bytes));
    assert!(!said.is_empty());
}

/// Chunks, each with its length in two bytes before it.
fn chunks(mut rest: &[u8]) {
    let mut chunks = Vec::new();
    while let Some((length, after)) = rest.split_at_checked(2) {
        let length = usize::from(u16::from_be_bytes([length[0], length[1]])).min(after.len());
        chunks.push(&after[..length]);
        rest = &after[length..];
    }
    let frames = probe::frames(chunks.into_iter(), MAX);
    for frame in frames {
        assert!(frame.payload.len() <= MAX);
        probe::opening(&frame);
        let sent = probe::chunks(frame.clone());
        let again = probe::frames(sent.iter().map(Vec::as_slice), MAX);
        assert_eq!(again, [frame]);
    }
}

const GROUP: &str = "g";

fn apply(state: &mut State, change: GroupCommand) {
    let expect = state.groups[&GROUP.into()].expect();
    state.apply(&Command::Group { group: GROUP.into(), expect, change }).expect("it fits");
}

/// Three nodes, node 1 primary, the others following; then sealed anew.
static STATES: LazyLock<[Arc<State>; 2]> = LazyLock::new(|| {
    let mut state = State::default();
    for id in 1..=3 {
        let (name, address) = (format!("n{id}"), format!("10.0.0.{id}:7400"));
        let record =
            Node { name, address: address.clone(), incarnation: Incarnation(u128::from(id)), introduced: false };
        state.apply(&Command::AddNode { node: NodeId(id), record }).expect("it fits");
        let intro = GroupIntro {
            group: GROUP.into(),
            announce: format!("10.0.0.{id}:6379"),
            priority: 100,
            durability: Durability::Available,
        };
        let lease = Duration::from_millis(800);
        let introduction = Command::Introduce { node: NodeId(id), address, lease, groups: vec![intro] };
        state.apply(&introduction).expect("it fits");
    }
    let next = (1..=3).map(NodeId).collect();
    state.apply(&Command::Guardians(GuardianChange::Begin { next })).expect("it fits");
    let run_id = |id: u64| RunId(format!("run{id}"));
    let (guarantee, start) = (Guarantee::Fresh, Offset(100));
    let (successor, run_id_1, data) = (NodeId(1), run_id(1), None);
    let promotion = GroupCommand::Promote { successor, run_id: run_id_1, start, data, guarantee, at_unix_ms: 0 };
    apply(&mut state, promotion);
    for id in 2..=3 {
        apply(&mut state, GroupCommand::Follow { node: NodeId(id), run_id: run_id(id) });
    }
    let mut sealed = state.clone();
    apply(&mut sealed, GroupCommand::Seal { why: Why::PrimarySilent });
    [Arc::new(state), Arc::new(sealed)]
});

/// Items of another agent, told to a leader, a primary and a follower in turn.
fn gossip(bytes: &[u8]) {
    let Ok(items) = postcard::from_bytes::<Vec<Item>>(bytes) else { return };
    let again = postcard::to_stdvec(&items).expect("items can be written");
    assert_eq!(postcard::from_bytes::<Vec<Item>>(&again).as_ref(), Ok(&items));
    for (me, from) in [(1, 2), (2, 1), (3, 9)] {
        let group = GroupName::from(GROUP);
        let own = GroupPolicy { announce: format!("10.0.0.{me}:6379"), priority: 100, ..GroupPolicy::default() };
        let policy = Policy {
            address: format!("10.0.0.{me}:7400"),
            lease: Duration::from_millis(800),
            hang_after: Duration::from_secs(5),
            groups: [(group.clone(), own)].into(),
        };
        let state = STATES[0].clone();
        let mut view =
            View::new(NodeId(me), Moment(1_000_000_000), state, Local::default(), &[].into(), [group].into());
        let leading = Leadership { term: 1, leader: Some(NodeId(me)), leading: true, voters: [NodeId(me)].into() };
        let heard = || What::Heard { from: NodeId(from), items: items.clone() };
        let events = [What::Leadership(leading), heard(), What::Applied(STATES[1].clone()), heard()];
        for (at, what) in (2_000_000_000..).step_by(500_000_000).zip(events) {
            step(&mut view, &policy, Event { at: Moment(at), what });
        }
    }
}

/// Inputs that are understood, to begin with.
pub fn seeds() -> Vec<Vec<u8>> {
    let chunked = |frame: Frame| {
        let mut bytes = vec![1];
        for chunk in probe::chunks(frame) {
            bytes.extend_from_slice(&u16::try_from(chunk.len()).unwrap_or(u16::MAX).to_be_bytes());
            bytes.extend_from_slice(&chunk);
        }
        bytes
    };
    let mut seeds = vec![
        chunked(Frame::new(Class::Hello, 0, 0, probe::hello())),
        chunked(Frame::new(Class::Welcome, 0, 0, probe::hello())),
        chunked(Frame::new(Class::Refusal, 0, 0, probe::refusal())),
        chunked(Frame::new(Class::Request, 3, 17, Bytes::from_static(b"some request"))),
        [&[0, 0, 53][..], b"MSTY", &[1], &[9; 48]].concat(),
        [&[0, 0, 53][..], b"MSTY", &[2], &[9; 48]].concat(),
    ];
    let items = [
        Item::Poll { id: 7 },
        Item::Vacant { id: 7, groups: vec![(GROUP.into(), mainstay::cluster::Epoch(1))] },
        Item::Surrender { group: GROUP.into(), epoch: mainstay::cluster::Epoch(1), why: Why::Operator },
        Item::Promise { group: GROUP.into(), epoch: mainstay::cluster::Epoch(1), sent_at: Moment(1) },
        Item::Sealed { group: GROUP.into(), next: mainstay::cluster::Epoch(2) },
    ];
    let told = |items: &[Item]| [vec![3], postcard::to_stdvec(items).unwrap_or_default()].concat();
    seeds.extend(items.iter().map(|item| told(std::slice::from_ref(item))));
    seeds.push(told(&items));
    let proposal = postcard::to_stdvec(&Command::RemoveNode { node: NodeId(3) }).unwrap_or_default();
    seeds.push([vec![2, 5], proposal].concat());
    seeds.push([vec![2, 7], postcard::to_stdvec(&("n3", 77_u128)).unwrap_or_default()].concat());
    seeds
}
