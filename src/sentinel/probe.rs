//! For fuzzing: the endpoint without its sockets, one connection fed byte by byte as they come.

use super::picture::{Address, Agent, Group, Instance, Picture, Role, Stage};
use super::{Context, Effect, Herald, House, Login, News, Session};
use crate::cluster::{Epoch, NodeId};
use crate::resp::{Decoder, Protocol, Value};
use crate::view::Moment;
use bytes::BytesMut;
use std::time::Duration;

/// How often a switch is told at most.
const TOLD: usize = 8;

const NOW: Moment = Moment(100_000_000_000);

/// A group of three that is served, at `NOW`.
#[must_use]
pub fn picture() -> Picture {
    let address = |host: &str, port| Address { host: host.to_owned(), port };
    let instance = |node: u64, role| Instance {
        node: NodeId(node),
        address: address(&format!("10.0.0.{node}"), 6379),
        run_id: format!("{node:040x}"),
        priority: 100,
        offset: 1000 + node,
        role: (role, Moment(1_000_000_000)),
        heard: Some(NOW),
        follows: role == Role::Replica,
        joined: true,
        ..Instance::default()
    };
    let agent = |node: u64| Agent {
        node: NodeId(node),
        name: format!("n{node}"),
        id: format!("{node:032x}00000001"),
        address: Some(address(&format!("10.0.0.{node}"), 26379)),
        heard: Some(NOW),
        down: None,
    };
    Picture {
        at: NOW,
        lease: Duration::from_millis(800),
        epoch: Epoch(1),
        me: agent(1),
        others: vec![agent(2), agent(3)],
        quorum: 2,
        guardians: 3,
        heard: 3,
        groups: vec![Group {
            name: "mymaster".to_owned(),
            epoch: Epoch(1),
            stage: Stage::Stable,
            until: Some(NOW + Duration::from_millis(600)),
            primary: instance(1, Role::Primary),
            replicas: vec![instance(2, Role::Replica), instance(3, Role::Replica)],
            down: None,
            sealing: None,
        }],
    }
}

/// Feeds `chunks` to a connection, with a switch told after each of the first ones. All that it answered, and the most bytes that it held.
pub fn feed<'a>(chunks: impl Iterator<Item = &'a [u8]>, password: Option<&[u8]>) -> (Vec<u8>, usize) {
    let house =
        House::new(password.map(|said| Login { user: Login::usual(), password: said.to_vec() }), Moment(1), 26379, 16);
    let picture = picture();
    let context = Context { picture: &picture, house: &house, now: NOW, unix_us: 1 };
    let mut session = Session::new(1, &house);
    let (mut decoder, mut input, mut out, mut held) = (Decoder::default(), BytesMut::new(), Vec::new(), 0);
    let switch = News { channel: "+switch-master", text: "mymaster 10.0.0.1 6379 10.0.0.2 6379".to_owned() };
    for (number, chunk) in chunks.enumerate() {
        input.extend_from_slice(chunk);
        loop {
            match decoder.next(&mut input, session.limits()) {
                Ok(Some(request)) => match session.answer(&request, &context, &mut out) {
                    Effect::None => {}
                    Effect::Close => return (out, held),
                    Effect::Failover(group) => {
                        assert_eq!(group, "mymaster");
                        Value::OK.encode(Protocol::Resp2, &mut out);
                    }
                },
                Ok(None) => break,
                Err(nonsense) => {
                    Value::error(format!("ERR {nonsense}")).encode(session.protocol(), &mut out);
                    return (out, held);
                }
            }
        }
        held = held.max(input.len() + decoder.held());
        if number < TOLD {
            session.hear(&switch, &mut out);
        }
    }
    (out, held)
}

/// What is told when this picture is followed by that one.
#[must_use]
pub fn told(before: &Picture, after: &Picture, leading: bool) -> Vec<News> {
    let mut herald = Herald::default();
    let _ = herald.tell(before, leading);
    herald.tell(after, leading)
}
