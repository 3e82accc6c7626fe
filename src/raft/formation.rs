//! How a node becomes a member: the cluster's first start, joining, and coming back.
//!
//! At first start the member lowest by name asks all others, and only when every listed one has answered as new, with
//! the same list, gives each its number and the cluster's generation, and then begins. A member that was given its
//! number waits for Raft's log to reach it. Nothing of this is done twice: a store that Raft wrote to just starts.

use super::message::{FormRequest, IdentifyReply, IdentifyRequest, JoinReply, JoinRequest, Knows, kind};
use super::{Formation, Founding, Inner, Metrics, RaftError, message, roster};
use crate::cluster::NodeId;
use crate::store::Peer;
use crate::wire::{CallError, ClientOptions, Lane, LinkState, RpcClient};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// Between two rounds of asking.
const PAUSE: Duration = Duration::from_millis(100);
/// For one answer of a stranger.
const ANSWER: Duration = Duration::from_secs(1);
/// For an answer to a request to join, which may remove a former node of that name first.
const JOIN_ANSWER: Duration = Duration::from_secs(20);
/// After a refusal, before asking again.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);

pub(super) async fn run(inner: Arc<Inner>) {
    if let Err(error) = become_member(&inner).await {
        tracing::error!(%error, "this node cannot take part");
        inner.formation.send_replace(Formation::Failed { why: error.to_string() });
    }
}

async fn become_member(inner: &Arc<Inner>) -> Result<(), RaftError> {
    let id = inner.id();
    if let Some(id) = id {
        inner.start_raft(id).await?;
        if !inner.store.is_pristine() {
            inner.formation.send_replace(Formation::Member { id });
            return Ok(());
        }
    }
    match inner.founding.clone() {
        Founding::Members(members) => found(inner, members.into_iter().collect()).await?,
        Founding::Join(addresses) => join(inner, addresses).await?,
    }
    // A store of its own number is what both ended with.
    if let Some(id) = inner.id() {
        inner.formation.send_replace(Formation::Member { id });
    }
    Ok(())
}

fn waiting(inner: &Inner, missing: Vec<String>, why: impl Into<String>) {
    let now = Formation::Waiting { missing, why: why.into() };
    tell(inner, now);
}

fn tell(inner: &Inner, now: Formation) {
    inner.formation.send_if_modified(|last| {
        let changed = *last != now;
        if changed {
            tracing::info!(formation = ?now, "becoming a member");
            *last = now;
        }
        changed
    });
}

fn has_members(metrics: &Metrics) -> bool {
    metrics.membership_config.membership().voter_ids().next().is_some()
}

/// Raft's log has reached this node.
fn arrived(inner: &Inner) -> bool {
    inner.metrics().is_some_and(|metrics| has_members(&metrics))
}

async fn enrol(inner: &Arc<Inner>, id: NodeId, generation: u64) -> Result<(), RaftError> {
    // In a task of its own: a caller that is dropped must not leave disk and memory apart.
    let own = inner.clone();
    let done = tokio::spawn(async move {
        own.store.enrol(id, generation).await?;
        let mut hello = own.local.hello();
        hello.node_id = Some(id.0);
        hello.generation = generation;
        own.local.set_hello(hello);
        own.enrolled.notify_one();
        Ok(())
    });
    done.await.unwrap_or_else(|lost| Err(RaftError::Stopped(lost.to_string())))
}

/// Dials strangers for as long as it is kept.
fn guest(inner: &Inner, address: &str) -> RpcClient {
    let options = ClientOptions {
        backoff_max: Duration::from_millis(250),
        ..ClientOptions::new(super::wire_timing(inner.timings.lease))
    };
    RpcClient::spawn(address, Lane::Guest, inner.local.clone(), inner.roster.clone(), options)
}

async fn ask<Q: Serialize, A: DeserializeOwned>(
    client: &RpcClient,
    kind: u8,
    body: &Q,
    bound: Duration,
) -> Result<A, String> {
    let body = message::encode(body).ok_or("a request does not encode")?;
    match client.call(kind, body, bound).await {
        Ok(answer) => message::decode(&answer).ok_or_else(|| "it answers in another format".to_owned()),
        // The link's own words are the better ones.
        Err(CallError::Down { reason }) => Err(reason.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// Answers who this node is.
pub(super) fn identify(inner: &Inner, request: &IdentifyRequest) -> IdentifyReply {
    let members = inner.roster.members();
    // One that has voted in a first start and does not have the log yet cannot say who is a stranger.
    let formed = !members.is_empty() && (!inner.store.is_pristine() || arrived(inner));
    let knows = match members.values().find(|peer| peer.name == request.name) {
        Some(peer) if peer.incarnation == request.incarnation => Knows::You,
        Some(_) => Knows::YourName,
        None => Knows::Nothing,
    };
    IdentifyReply {
        name: inner.name.clone(),
        incarnation: inner.store.identity().incarnation,
        formed,
        knows,
        members: listed(inner),
    }
}

fn listed(inner: &Inner) -> Vec<(String, String)> {
    match &inner.founding {
        Founding::Members(members) => members.clone().into_iter().collect(),
        Founding::Join(_) => Vec::new(),
    }
}

/// Takes the number the founder gives, if this node is as new as the founder thinks.
pub(super) async fn form(inner: &Arc<Inner>, request: FormRequest) -> bool {
    let identity = inner.store.identity();
    let new = inner.store.is_pristine() && !arrived(inner);
    let same =
        request.incarnation == identity.incarnation && request.members == listed(inner) && request.generation != 0;
    let number = identity.node_id.is_none_or(|id| id == request.node_id);
    if !(new && same && number) || enrol(inner, request.node_id, request.generation).await.is_err() {
        return false;
    }
    // The founder asks for votes as soon as all have answered.
    inner.start_raft(request.node_id).await.is_ok()
}

/// Tells when every member turns this node away: it was removed, or is not the node it says it is.
pub(super) async fn watch_standing(inner: Arc<Inner>) {
    let (mut refusal, mut up) = (inner.peers.refusal(), inner.peers.up());
    let mut superseded = inner.peers.superseded();
    loop {
        if let Some(why) = superseded.borrow_and_update().clone() {
            // Whoever is connected may be of the older generation as well: together they must not begin to serve.
            tell(&inner, Formation::Superseded { why });
            return;
        }
        let said = refusal.borrow_and_update().clone();
        let connected = up.borrow_and_update().values().any(|up| *up);
        let standing = inner.formation.borrow().clone();
        match (said, standing) {
            // A single voter needs nobody: newcomers that do not know the cluster yet turn it away for a moment.
            (Some(why), Formation::Member { id }) if !connected && others_vote(&inner, id) => {
                tell(&inner, Formation::Refused { why });
            }
            (None, Formation::Refused { .. }) if connected => {
                if let Some(id) = inner.id().filter(|_| arrived(&inner)) {
                    tell(&inner, Formation::Member { id });
                }
            }
            _ => {}
        }
        tokio::select! {
            changed = refusal.changed() => if changed.is_err() { return },
            changed = superseded.changed() => if changed.is_err() { return },
            changed = up.changed() => if changed.is_err() { return },
        }
    }
}

/// Whether the membership in force has another voter than this node.
fn others_vote(inner: &Arc<Inner>, me: NodeId) -> bool {
    let applied = inner.store.applied();
    let membership = applied.borrow().membership.clone();
    membership.membership().voter_ids().any(|id| id != me)
}

struct Listed {
    id: NodeId,
    name: String,
    address: String,
    client: Option<RpcClient>,
}

/// The cluster's first start.
async fn found(inner: &Arc<Inner>, members: Vec<(String, String)>) -> Result<(), RaftError> {
    let Some(rank) = members.iter().position(|(name, _)| *name == inner.name) else {
        let why = format!("[cluster] members does not list {}; add it, or use join", inner.name);
        tell(inner, Formation::Refused { why });
        return std::future::pending().await;
    };
    // An even number of voters survives no more than one less does: the last is taken in as a learner.
    let voters = if members.len() % 2 == 1 { members.len() } else { members.len() - 1 };
    let others: Vec<Listed> = members
        .iter()
        .zip(1..)
        .filter(|((name, _), _)| *name != inner.name)
        .map(|((name, address), id)| Listed {
            id: NodeId(id),
            name: name.clone(),
            address: address.clone(),
            client: Some(guest(inner, address)),
        })
        .collect();
    loop {
        if let Some(id) = inner.id() {
            inner.start_raft(id).await?;
        }
        if arrived(inner) {
            return Ok(());
        }
        let answers = poll(inner, &others).await;
        let formed: Vec<_> =
            answers.iter().filter_map(|(_, answer)| answer.as_ref().ok()).filter(|answer| answer.formed).collect();
        if rank >= voters && !formed.is_empty() {
            return join(inner, others.iter().map(|other| other.address.clone()).collect()).await;
        }
        match verdict(inner, &answers, &members) {
            Verdict::Wait(missing, why) => waiting(inner, missing, why),
            Verdict::Refuse(why) => tell(inner, Formation::Refused { why }),
            Verdict::Begin if rank == 0 => begin(inner, &others, voters, &answers, &members).await?,
            Verdict::Begin => waiting(inner, Vec::new(), format!("{} forms the cluster", members[0].0)),
        }
        // The founder's word, or time.
        let _ = timeout(PAUSE, inner.enrolled.notified()).await;
    }
}

type Answers<'a> = Vec<(&'a Listed, Result<IdentifyReply, String>)>;

async fn poll<'a>(inner: &Inner, others: &'a [Listed]) -> Answers<'a> {
    let request = IdentifyRequest { name: inner.name.clone(), incarnation: inner.store.identity().incarnation };
    let asked = others.iter().map(|other| {
        let request = request.clone();
        async move {
            let answer = match &other.client {
                Some(client) => ask(client, kind::IDENTIFY, &request, ANSWER).await,
                None => Err("not asked".to_owned()),
            };
            (other, answer)
        }
    });
    futures_util::future::join_all(asked).await
}

enum Verdict {
    Begin,
    Wait(Vec<String>, String),
    Refuse(String),
}

fn verdict(inner: &Inner, answers: &Answers<'_>, members: &[(String, String)]) -> Verdict {
    let heard = || answers.iter().filter_map(|(other, answer)| answer.as_ref().ok().map(|answer| (*other, answer)));
    for (other, answer) in heard() {
        if answer.name != other.name {
            let why = format!("{} is {} and not {}; correct [cluster] members", other.address, answer.name, other.name);
            return Verdict::Refuse(why);
        }
        if answer.formed && answer.knows == Knows::YourName {
            return Verdict::Refuse(roster::lost_its_data(&inner.name));
        }
        if answer.formed && answer.knows == Knows::Nothing {
            let why = format!(
                "this cluster exists already, {} is in it; use join = [\"{}\"] instead of members",
                other.name, other.address
            );
            return Verdict::Refuse(why);
        }
        if !answer.formed && answer.members != members {
            let why = format!(
                "the file of {} lists other members; make [cluster] members the same on every node",
                other.name
            );
            return Verdict::Refuse(why);
        }
    }
    let missing: Vec<_> =
        answers.iter().filter(|(_, answer)| answer.is_err()).map(|(other, _)| other.name.clone()).collect();
    let reasons: Vec<_> = answers
        .iter()
        .filter_map(|(other, answer)| Some(format!("{}: {}", other.name, answer.as_ref().err()?)))
        .collect();
    if !missing.is_empty() {
        return Verdict::Wait(missing, format!("first start needs every listed member; {}", reasons.join("; ")));
    }
    if heard().any(|(_, answer)| answer.formed) {
        return Verdict::Wait(Vec::new(), "the cluster has formed; waiting for its leader".to_owned());
    }
    Verdict::Begin
}

/// All have answered as new: number them, then begin.
async fn begin(
    inner: &Arc<Inner>,
    others: &[Listed],
    voters: usize,
    answers: &Answers<'_>,
    members: &[(String, String)],
) -> Result<(), RaftError> {
    let generation = match inner.store.identity().generation {
        0 => random_generation()?,
        drawn => drawn,
    };
    let incarnation = |name: &str| {
        answers.iter().find_map(|(other, answer)| (other.name == name).then_some(answer.as_ref().ok()?.incarnation))
    };
    let mut all = BTreeMap::new();
    let own = Peer {
        name: inner.name.clone(),
        address: inner.address.clone(),
        incarnation: inner.store.identity().incarnation,
    };
    all.insert(NodeId(1), own);
    for other in others.iter().filter(|other| other.id.0 <= voters as u64) {
        let (Some(client), Some(incarnation)) = (&other.client, incarnation(&other.name)) else { return Ok(()) };
        let request = FormRequest { generation, node_id: other.id, incarnation, members: members.to_vec() };
        match ask(client, kind::FORM, &request, ANSWER).await {
            Ok(true) => {}
            Ok(false) => {
                waiting(inner, vec![other.name.clone()], "it did not take its number");
                return Ok(());
            }
            Err(why) => {
                waiting(inner, vec![other.name.clone()], why);
                return Ok(());
            }
        }
        all.insert(other.id, Peer { name: other.name.clone(), address: other.address.clone(), incarnation });
    }
    enrol(inner, NodeId(1), generation).await?;
    inner.roster.set(all.clone());
    let raft = inner.start_raft(NodeId(1)).await?;
    match raft.initialize(all).await {
        Ok(()) => Ok(()),
        Err(openraft::errors::RaftError::Fatal(fatal)) => Err(RaftError::Stopped(fatal.to_string())),
        // It has been begun already: what was wanted.
        Err(openraft::errors::RaftError::APIError(_)) => Ok(()),
    }
}

fn random_generation() -> Result<u64, RaftError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| RaftError::Stopped(format!("no random number: {error}")))?;
    Ok(crate::cluster::first_generation(u64::from_le_bytes(bytes)))
}

/// Asks running members to take this node in, and waits for the log to reach it.
async fn join(inner: &Arc<Inner>, addresses: Vec<String>) -> Result<(), RaftError> {
    let mut turn = 0;
    let mut first: Option<String> = None;
    loop {
        if arrived(inner) {
            return Ok(());
        }
        let address = first.take().or_else(|| addresses.get(turn % addresses.len().max(1)).cloned());
        let Some(address) = address else {
            tell(inner, Formation::Refused { why: "nobody to ask; give --join or [cluster] members".to_owned() });
            return std::future::pending().await;
        };
        turn += 1;
        match ask_to_join(inner, &address).await {
            Ok(JoinReply::Joined { node_id, generation, members }) => {
                enrol(inner, node_id, generation).await?;
                inner.roster.set(members.into_iter().collect());
                inner.start_raft(node_id).await?;
                waiting(inner, Vec::new(), "taken in; waiting for the leader");
                let end = Instant::now() + 4 * inner.timings.lease.max(ANSWER);
                while !arrived(inner) && Instant::now() < end {
                    sleep(PAUSE / 4).await;
                }
            }
            Ok(JoinReply::GoTo { address }) => first = Some(address),
            Ok(JoinReply::Later { why }) => {
                waiting(inner, Vec::new(), why);
                sleep(PAUSE).await;
            }
            Ok(JoinReply::Refused { why }) => {
                tell(inner, Formation::Refused { why });
                sleep(REFUSED_PAUSE).await;
            }
            Err(why) => {
                waiting(inner, vec![address], why);
                sleep(PAUSE).await;
            }
        }
    }
}

async fn ask_to_join(inner: &Inner, address: &str) -> Result<JoinReply, String> {
    let client = guest(inner, address);
    let mut link = client.link();
    let up = timeout(ANSWER, link.wait_for(LinkState::is_up)).await;
    if !matches!(up, Ok(Ok(_))) {
        drop(up);
        return Err(match &*link.borrow() {
            LinkState::Down { reason } => reason.to_string(),
            LinkState::Up { .. } => "the connection did not last".to_owned(),
        });
    }
    drop(up);
    let request = JoinRequest {
        name: inner.name.clone(),
        address: inner.address.clone(),
        incarnation: inner.store.identity().incarnation,
    };
    ask(&client, kind::JOIN, &request, JOIN_ANSWER).await
}
