//! What the Raft shell tells, on its way into the loop's queue: messages, links, applied states, leadership.

use super::Agent;
use crate::raft::Inbox;
use crate::view::{Item, What};

impl Agent {
    /// Lets the Raft shell's news flow into the loop's queue.
    pub(super) fn listen(&self, inbox: Inbox) {
        let Inbox { mut gossip, mut links } = inbox;
        let queue = self.queue.clone();
        tokio::spawn(async move {
            while let Some(message) = gossip.recv().await {
                match postcard::from_bytes::<Vec<Item>>(&message.body) {
                    Ok(items) => {
                        if queue.send(What::Heard { from: message.from, items }).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => tracing::warn!(from = %message.from, error = %error, "a message could not be read"),
                }
            }
        });
        let queue = self.queue.clone();
        tokio::spawn(async move {
            while let Some(link) = links.recv().await {
                if queue.send(What::Link { node: link.node, up: link.up }).await.is_err() {
                    return;
                }
            }
        });
        let (queue, mut applied) = (self.queue.clone(), self.store.applied());
        tokio::spawn(async move {
            loop {
                let state = applied.borrow_and_update().state.clone();
                if queue.send(What::Applied(state)).await.is_err() || applied.changed().await.is_err() {
                    return;
                }
            }
        });
        let (queue, mut leadership) = (self.queue.clone(), self.raft.leadership());
        tokio::spawn(async move {
            let mut told = None;
            loop {
                let now = leadership.borrow_and_update().clone();
                let known = crate::view::Leadership {
                    term: now.term,
                    leader: now.leader,
                    leading: now.leading,
                    voters: now.voters,
                };
                if told.as_ref() != Some(&known) {
                    told = Some(known.clone());
                    if queue.send(What::Leadership(known)).await.is_err() {
                        return;
                    }
                }
                if leadership.changed().await.is_err() {
                    return;
                }
            }
        });
    }
}
