//! The bounded queue between whoever sends and the one task that owns the sending half.
//!
//! `push` refuses what does not fit; `push_latest` makes room by dropping the oldest, for messages of which each
//! supersedes those before. Neither ever waits, so a stuck peer cannot hold up its sender. Both count and bytes are
//! bounded. One consumer; closing wakes it.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use super::frame::Frame;

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Frame>,
    bytes: usize,
    closed: bool,
}

impl Queue {
    fn pop(&mut self) -> Option<Frame> {
        let frame = self.frames.pop_front()?;
        self.bytes -= frame.payload.len();
        Some(frame)
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Outbox {
    queue: Mutex<Queue>,
    ready: Notify,
    max_frames: usize,
    max_bytes: usize,
}

/// No room, or closed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoRoom;

impl Outbox {
    /// One message is always taken, however large, or a queue could refuse for ever what a lane allows.
    pub(super) fn new(max_frames: usize, max_bytes: usize) -> Self {
        Outbox {
            queue: Mutex::default(),
            ready: Notify::new(),
            max_frames: max_frames.max(1),
            max_bytes,
        }
    }

    /// A panic elsewhere cannot leave the queue half-changed, so poison is no reason to stop.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn full(&self, q: &Queue, size: usize) -> bool {
        !q.frames.is_empty()
            && (q.frames.len() >= self.max_frames || q.bytes + size > self.max_bytes)
    }

    /// Queues `frame`, or refuses it.
    pub(super) fn push(&self, frame: Frame) -> Result<(), NoRoom> {
        let mut q = self.lock();
        if q.closed || self.full(&q, frame.payload.len()) {
            return Err(NoRoom);
        }
        q.bytes += frame.payload.len();
        q.frames.push_back(frame);
        drop(q);
        self.ready.notify_one();
        Ok(())
    }

    /// Queues `frame`, dropping the oldest until there is room; says how many went.
    pub(super) fn push_latest(&self, frame: Frame) -> Result<usize, NoRoom> {
        let mut q = self.lock();
        if q.closed {
            return Err(NoRoom);
        }
        let mut dropped = 0;
        while self.full(&q, frame.payload.len()) && q.pop().is_some() {
            dropped += 1;
        }
        q.bytes += frame.payload.len();
        q.frames.push_back(frame);
        drop(q);
        self.ready.notify_one();
        Ok(dropped)
    }

    /// Takes back the queued frame of this id, if it has not left.
    pub(super) fn cancel(&self, id: u64) {
        let mut q = self.lock();
        if let Some(at) = q.frames.iter().position(|f| f.id == id) {
            let gone = q.frames.remove(at).map_or(0, |f| f.payload.len());
            q.bytes -= gone;
        }
    }

    /// The next frame, or none once closed. Cancel-safe.
    pub(super) async fn next(&self) -> Option<Frame> {
        loop {
            {
                let mut q = self.lock();
                if q.closed {
                    return None;
                }
                if let Some(frame) = q.pop() {
                    return Some(frame);
                }
            }
            // A push between the look and this wait has left its permit behind.
            self.ready.notified().await;
        }
    }

    /// Ends it; what is queued is dropped.
    pub(super) fn close(&self) {
        let mut q = self.lock();
        *q = Queue {
            closed: true,
            ..Queue::default()
        };
        drop(q);
        self.ready.notify_one();
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> (usize, usize) {
        let q = self.lock();
        (q.frames.len(), q.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::frame::Class, *};

    fn frame(id: u64, size: usize) -> Frame {
        Frame::new(Class::Request, 0, id, vec![0; size])
    }

    #[tokio::test]
    async fn push_refuses_over_count_and_over_bytes() {
        let outbox = Outbox::new(2, 100);
        assert_eq!(outbox.push(frame(1, 500)), Ok(()));
        assert_eq!(outbox.push(frame(2, 0)), Err(NoRoom));
        assert_eq!(outbox.next().await.unwrap().id, 1);
        assert_eq!(outbox.push(frame(3, 1)), Ok(()));
        assert_eq!(outbox.push(frame(4, 99)), Ok(()));
        assert_eq!(outbox.push(frame(5, 0)), Err(NoRoom));
        outbox.cancel(3);
        assert_eq!(outbox.len(), (1, 99));
        assert_eq!(outbox.push(frame(6, 1)), Ok(()));
        outbox.close();
        assert_eq!(outbox.push(frame(7, 1)), Err(NoRoom));
        assert_eq!(outbox.next().await, None);
    }

    #[tokio::test]
    async fn push_latest_keeps_the_newest_in_order() {
        let outbox = Outbox::new(4, 1000);
        let dropped: usize = (0..100)
            .map(|id| outbox.push_latest(frame(id, 10)).unwrap())
            .sum();
        assert_eq!((dropped, outbox.len()), (96, (4, 40)));
        for id in 96..100 {
            assert_eq!(outbox.next().await.unwrap().id, id);
        }
        for id in 0..3 {
            outbox.push_latest(frame(id, 400)).unwrap();
        }
        assert_eq!(outbox.len(), (2, 800));
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_wait_loses_nothing() {
        let outbox = Outbox::new(4, 1000);
        let wait = std::time::Duration::from_millis(1);
        assert!(tokio::time::timeout(wait, outbox.next()).await.is_err());
        outbox.push(frame(1, 1)).unwrap();
        assert_eq!(
            tokio::time::timeout(wait, outbox.next())
                .await
                .unwrap()
                .unwrap()
                .id,
            1
        );
    }
}
