//! The Sentinel endpoint as the loop has it: where clients reach it, and the failovers that they ask for.
//!
//! A failover asked for by a client is an operator's switchover, decided and proposed like one.

use super::Agent;
use crate::cluster::Phase;
use crate::config::Config;
use crate::ctl::protocol::Response;
use crate::sentinel::{Endpoint, Failover, Login, Options};
use crate::view::View;
use anyhow::Context as _;
use tokio::sync::mpsc;

/// Failovers that clients ask for and the loop has not taken up.
const ASKED: usize = 16;
/// No password is longer, bytes.
const LONGEST_PASSWORD: usize = 1024;

/// The endpoint, if the file wants one, and what its clients ask for.
pub(super) struct Clients {
    endpoint: Option<Endpoint>,
    pub(super) asked: mpsc::Receiver<Failover>,
    /// Held so that `asked` goes on waiting where there is no endpoint.
    _asks: mpsc::Sender<Failover>,
}

/// Opens it.
pub(super) fn open(config: &Config) -> anyhow::Result<Clients> {
    let (asks, asked) = mpsc::channel(ASKED);
    let endpoint = match &config.sentinel {
        None => None,
        Some(sentinel) => {
            let password = sentinel.password_file.as_deref().map(password).transpose()?;
            let login = password
                .map(|password| Login { user: sentinel.username.clone().unwrap_or_else(Login::usual), password });
            let options = Options { listen: sentinel.listen, login, cluster: config.cluster.name.clone() };
            Some(Endpoint::open(options, asks.clone()).context("[sentinel]: its thread cannot be started")?)
        }
    };
    Ok(Clients { endpoint, asked, _asks: asks })
}

fn password(path: &std::path::Path) -> anyhow::Result<Vec<u8>> {
    let text = std::fs::read(path).with_context(|| format!("[sentinel] password_file {}", path.display()))?;
    let text = text.trim_ascii_end();
    if text.is_empty() || text.len() > LONGEST_PASSWORD {
        anyhow::bail!(
            "[sentinel] password_file {} has {} bytes: put the password in it, on one line of up to {LONGEST_PASSWORD}",
            path.display(),
            text.len()
        );
    }
    Ok(text.to_vec())
}

/// Where clients reach it: the address it listens on, or, where that is any, the host's own: the one its instance
/// announces, or a witness's address.
pub(super) fn address(config: &Config) -> Option<String> {
    let listen = config.sentinel.as_ref()?.listen;
    if !listen.ip().is_unspecified() {
        return Some(listen.to_string());
    }
    let mut own = config.groups.first().map_or(&config.node.address, |group| &group.announce).clone();
    own.port = listen.port();
    Some(own.to_string())
}

impl Clients {
    /// After every round.
    pub(super) fn look(&mut self, view: &View) {
        if let Some(endpoint) = &mut self.endpoint {
            endpoint.look(view);
        }
    }
}

impl Agent {
    /// Proposes what a client asked for; it is told as soon as that is committed, as by a Sentinel.
    pub(super) fn failover(&self, asked: Failover) {
        let Failover { group, answer } = asked;
        let refuse = |answer: tokio::sync::oneshot::Sender<_>, why: &str| {
            // The client has gone away: nothing is lost.
            let _ = answer.send(Err(why.to_owned()));
        };
        if self.view.group(&group).is_some_and(|found| !matches!(found.phase, Phase::Stable)) {
            return refuse(answer, "INPROG Failover already in progress");
        }
        let heard = self.view.served(&group).is_some();
        let (command, name) = match self.prepare_switch(Some(group), None) {
            Ok((name, _, _, command)) => (command, name),
            Err(Response::Refused(refused)) if heard => {
                return refuse(answer, &format!("NOGOODSLAVE No suitable replica to promote: {}", refused.why));
            }
            Err(Response::Refused(refused)) => return refuse(answer, &format!("ERR {}", refused.why)),
            Err(_) => return refuse(answer, "ERR it cannot be begun now; see `mainstay status`"),
        };
        tracing::info!(group = %name, "a Sentinel client asks for a failover: switching over");
        let raft = self.raft.clone();
        tokio::spawn(async move {
            let outcome = match raft.propose(command).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(rejection)) => Err(format!("ERR {rejection}")),
                Err(error) => Err(format!("ERR {error}")),
            };
            let _ = answer.send(outcome);
        });
    }
}
