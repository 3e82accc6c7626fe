//! The Redis part of the fence: stop serving now, and prove it (S9).
//!
//! On a connection of its own, in one write: kill the connection that carries posture commands, read-only,
//! replica of nowhere, unpause, ROLE. Once that is confirmed, close client and replica connections, so that
//! clients get a reset while the VIP is still up, and look once more. It waits for no other command and never signals a process: on
//! any error the caller drops the VIP, destroys the sockets and kills.

use super::conn::{Answer, Conn, Named, command};
use super::error::{Error, from_server};
use super::info::{Info, Role};
use super::posture::{Commander, kill_by_id, killed, seal_commands};
use redis::Value;
use std::time::Duration;
use tokio::sync::MutexGuard;
use tokio::time::Instant;

/// How long a fence may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FenceBudgets {
    /// From the start until the seal is confirmed; lease/8.
    pub confirm: Duration,
    /// Then for closing connections.
    pub close: Duration,
}

/// How it ended well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FenceOutcome {
    /// Sealed, confirmed by ROLE.
    Sealed,
    /// It loads, and is a replica: it serves nothing and comes out of loading as a replica, but could not be
    /// detached yet.
    LoadingReplica,
    /// Nothing is there: nothing serves.
    Gone,
}

/// What a fence did.
#[derive(Debug)]
pub struct FenceReport {
    /// How it ended.
    pub outcome: FenceOutcome,
    /// State right after sealing, if INFO was readable.
    pub after: Option<Info>,
    /// Client connections closed (ordinary and pub/sub).
    pub clients_closed: u64,
    /// Replica connections closed.
    pub replicas_closed: u64,
    /// Why not all connections could be closed: destroy their sockets.
    pub close_error: Option<Error>,
    /// Until the seal was confirmed.
    pub confirmed_after: Duration,
    /// Altogether.
    pub took: Duration,
}

impl Commander {
    /// Fences the instance. `Err` means not confirmed: take the VIP away, destroy the sockets, SIGKILL. Whatever
    /// posture command was begun before is either killed with its connection or fails with [`Error::Fenced`].
    /// If the future is dropped, or time runs out on a stalled instance, the seal may still take effect later:
    /// that is the safe side. `CLIENT PAUSE … ALL` (never used here) holds back the fence's own commands too.
    pub async fn fence(&self, budgets: FenceBudgets) -> Result<FenceReport, Error> {
        let started = Instant::now();
        let deadline = started + budgets.confirm;
        let posture = self.begin_fence();
        let result = match self.confirm(posture, deadline).await {
            // It died or closed everything in this moment: a second look tells which.
            Err(Error::Closed { .. }) => self.confirm(posture, deadline).await,
            other => other,
        };
        let mut report = match result {
            Err(Error::Gone { .. }) => {
                return Ok(FenceReport::of(FenceOutcome::Gone, None, started));
            }
            Err(err) => return Err(err),
            Ok((mut link, outcome, after)) => {
                let mut report = FenceReport::of(outcome, after, started);
                let deadline = Instant::now() + budgets.close;
                report.close_error = match self.close_all(&mut link, deadline, &mut report).await {
                    Err(err @ Error::NotConfirmed { .. }) => return Err(err),
                    other => other.err(),
                };
                report
            }
        };
        report.took = started.elapsed();
        self.poke();
        Ok(report)
    }

    async fn confirm(
        &self,
        posture: Option<i64>,
        deadline: Instant,
    ) -> Result<(Link<'_>, FenceOutcome, Option<Info>), Error> {
        let mut link = self.link(deadline).await?;
        // An idle posture connection in use as the link has nothing outstanding and must not kill itself.
        let victim = posture.filter(|_| link.slot.is_none());
        let mut commands: Vec<Named> = victim.map(kill_by_id).into_iter().collect();
        let first = commands.len();
        commands.extend(seal_commands());
        commands.push(command("CLIENT UNPAUSE", &["CLIENT", "UNPAUSE"]));
        commands.push(command("ROLE", &["ROLE"]));
        commands.push(command("INFO", &["INFO"]));
        let answers = link.batch(&commands, deadline).await?;
        if let (Some(id), Some(answer)) = (victim, answers.first()) {
            match answer {
                Err(err) if !killed(answer) => {
                    return Err(from_server(&self.target(), "CLIENT KILL", err));
                }
                _ => self.killed_by_fence(id),
            }
        }
        let (read_only, replicaof) = (answers.get(first), answers.get(first + 1));
        let role = self.parse_role(answers.get(first + 3))?;
        let after = self.parse_info(answers.get(first + 4)).ok();
        match self.check_ok(replicaof, "REPLICAOF") {
            Err(Error::Loading { .. }) if role.role == Role::Replica => {
                return Ok((link, FenceOutcome::LoadingReplica, after));
            }
            other => other?,
        }
        let writable = after.as_ref().is_none_or(|info| info.read_only != Some(true));
        if !role.is_detached() {
            let found = format!("{role:?}");
            return Err(Error::NotConfirmed { target: self.target(), command: "REPLICAOF 127.0.0.1 1", found });
        }
        if writable {
            self.check_ok(read_only, "CONFIG SET replica-read-only")?;
        }
        Ok((link, FenceOutcome::Sealed, after))
    }

    /// A fresh connection; when the instance has none left (it says so, or just closes), or takes the login no more or
    /// not yet, the posture connection, if nothing is outstanding on it.
    async fn link(&self, deadline: Instant) -> Result<Link<'_>, Error> {
        match Conn::open(&self.endpoint, deadline).await {
            Ok(conn) => Ok(Link { conn: Some(conn), slot: None }),
            Err(full @ (Error::Full { .. } | Error::Closed { .. } | Error::Auth { .. })) => {
                let Ok(mut slot) = self.slot.try_lock() else {
                    return Err(full);
                };
                let Some(conn) = slot.take().filter(|c| !c.is_closed()) else {
                    return Err(full);
                };
                Ok(Link { conn: Some(conn), slot: Some(slot) })
            }
            Err(err) => Err(err),
        }
    }

    async fn close_all(&self, link: &mut Link<'_>, deadline: Instant, report: &mut FenceReport) -> Result<(), Error> {
        let kill = |kind| command("CLIENT KILL", &["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"]);
        let mut commands = vec![kill("normal"), kill("pubsub"), kill("replica")];
        // Only now is every connection dead that may carry a promotion this process knows nothing of (an agent
        // that was killed). Nothing happens when it is sealed still.
        commands.extend(seal_commands());
        commands.push(command("ROLE", &["ROLE"]));
        let answers = link.batch(&commands, deadline).await?;
        let role = self.parse_role(answers.last())?;
        if role.role == Role::Primary {
            let found = format!("{role:?}");
            return Err(Error::NotConfirmed { target: self.target(), command: "REPLICAOF 127.0.0.1 1", found });
        }
        let mut counts = [0; 3];
        for (count, answer) in counts.iter_mut().zip(answers) {
            match answer {
                Ok(Value::Int(n)) => *count = u64::try_from(n).unwrap_or(0),
                Ok(value) => return Err(super::error::unexpected(&self.target(), "CLIENT KILL", &value)),
                Err(err) => return Err(from_server(&self.target(), "CLIENT KILL", &err)),
            }
        }
        report.clients_closed = counts[0] + counts[1];
        report.replicas_closed = counts[2];
        Ok(())
    }
}

impl FenceReport {
    fn of(outcome: FenceOutcome, after: Option<Info>, started: Instant) -> Self {
        let took = started.elapsed();
        Self { outcome, after, clients_closed: 0, replicas_closed: 0, close_error: None, confirmed_after: took, took }
    }
}

/// The connection a fence works on.
struct Link<'a> {
    conn: Option<Conn>,
    /// Set when it is the posture connection, which then goes back to its place.
    slot: Option<MutexGuard<'a, Option<Conn>>>,
}

impl Link<'_> {
    async fn batch(&mut self, commands: &[Named], deadline: Instant) -> Result<Vec<Answer>, Error> {
        let name = commands.first().map_or("(nothing)", |c| c.name);
        let mut conn = self.conn.take().ok_or_else(|| Error::Closed { target: String::new(), command: name })?;
        let answers = conn.batch(commands, deadline).await?;
        self.conn = Some(conn);
        Ok(answers)
    }
}

impl Drop for Link<'_> {
    fn drop(&mut self) {
        if let (Some(conn), Some(slot)) = (self.conn.take(), self.slot.as_mut()) {
            **slot = Some(conn);
        }
    }
}
