//! Who listens where: no two parts of this host may claim the same address and port.
//!
//! Compares the agent's own listeners with each other and with the instances it watches. A wildcard claims every
//! address of its family, `[::]` those of both. Names are not resolved, so a clash hidden behind one is found when
//! the agent binds.

use std::net::{IpAddr, SocketAddr};

use super::findings::{FaultKind, Finding, Findings, Span};
use super::read::Draft;

struct Claim<'a> {
    what: String,
    at: SocketAddr,
    span: &'a Span,
    /// Bound by the agent itself, not by an instance.
    own: bool,
    /// The listener of an instance, which no agent may move.
    watched: bool,
}

/// Names every clash once.
pub(super) fn check(draft: &Draft, out: &mut Findings) {
    let claims = claims(draft);
    let mut blamed: Vec<&Span> = Vec::new();
    for (i, later) in claims.iter().enumerate() {
        for first in &claims[..i] {
            // Two instances at one address are named by the groups' own check.
            if !(first.own || later.own) || !overlap(first.at, later.at) {
                continue;
            }
            // An instance was there before its agent: the agent's listener has to give way.
            let (culprit, other) = if later.watched {
                (first, later)
            } else {
                (later, first)
            };
            if blamed.contains(&culprit.span) || blamed.contains(&other.span) {
                continue;
            }
            blamed.push(culprit.span);
            let message = format!(
                "{} and {} both claim port {}",
                culprit.what,
                other.what,
                culprit.at.port()
            );
            let finding = Finding::new(FaultKind::Contradiction, culprit.span.clone(), message);
            let finding = finding.see(other.span, format!("{} {}", other.what, other.at));
            out.fault(finding.help("give each its own port"));
        }
    }
}

fn claims(draft: &Draft) -> Vec<Claim<'_>> {
    let mut claims = Vec::new();
    let mut claim = |what: String, at: Option<SocketAddr>, span, own, watched| {
        if let Some(at) = at {
            claims.push(Claim {
                what,
                at,
                span,
                own,
                watched,
            });
        }
    };
    let node = draft.node.as_ref();
    match node.map(|node| (&node.bind, &node.address)) {
        Some((Some(bind), _)) => claim(
            "[node] bind".to_owned(),
            Some(bind.value),
            &bind.span,
            true,
            false,
        ),
        Some((None, Some(address))) => claim(
            "[node] address".to_owned(),
            address.value.socket_addr(),
            &address.span,
            true,
            false,
        ),
        _ => {}
    }
    if let Some(listen) = draft
        .sentinel
        .as_ref()
        .and_then(|sentinel| sentinel.listen.as_ref())
    {
        claim(
            "[sentinel] listen".to_owned(),
            Some(listen.value),
            &listen.span,
            true,
            false,
        );
    }
    if let Some(Some(listen)) = &draft.http {
        claim(
            "[http] listen".to_owned(),
            Some(listen.value),
            &listen.span,
            true,
            false,
        );
    }
    for group in &draft.groups {
        let name = group.name.as_ref().map_or("[[group]]".to_owned(), |name| {
            format!("group \"{}\"", name.value)
        });
        if let Some(redis) = &group.redis {
            let at = redis.value.tcp().and_then(|address| address.socket_addr());
            claim(format!("{name} redis"), at, &redis.span, false, true);
        }
        // Behind a port mapping the announced address may be another host's, so only this node's own counts.
        let own_host = node
            .and_then(|node| node.address.as_ref())
            .and_then(|address| address.value.ip());
        if let Some(announce) = group
            .announce
            .as_ref()
            .filter(|at| at.value.ip().is_some() && at.value.ip() == own_host)
        {
            claim(
                format!("{name} announce"),
                announce.value.socket_addr(),
                &announce.span,
                false,
                false,
            );
        }
    }
    claims
}

fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let covers = |wide: IpAddr, narrow: IpAddr| match wide {
        IpAddr::V6(ip) => ip.is_unspecified(),
        IpAddr::V4(ip) => ip.is_unspecified() && narrow.is_ipv4(),
    };
    a.port() == b.port() && (a.ip() == b.ip() || covers(a.ip(), b.ip()) || covers(b.ip(), a.ip()))
}
