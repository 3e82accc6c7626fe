//! Framing without I/O: a message becomes chunks that fit a Noise message, and chunks become a message again.
//!
//! A chunk is one flag byte (more follow, or last) and content; the content of the first begins with the frame header.
//! No total length is ever sent, so none can be believed: memory grows with bytes that have arrived and authenticated,
//! up to the lane's limit. Bytes that break the rules give a typed error and never a panic. Integrity is the AEAD's.

use bytes::{Buf, Bytes, BytesMut};

use super::{WIRE_VERSION, error::Malformed};

/// Largest message on any lane, bytes. A snapshot of the replicated state is far smaller.
pub const MAX_MESSAGE: usize = 16 * 1024 * 1024;

/// Largest Noise message we send or take. Noise allows 65,535; less keeps buffers small, since reading one reserves
/// this much per connection before it has authenticated.
pub(super) const MAX_NOISE: usize = 16 * 1024;
/// What authentication adds to each Noise message.
pub(super) const TAG: usize = 16;
/// Plaintext of a full chunk.
pub(super) const MAX_CHUNK: usize = MAX_NOISE - TAG;

const HEADER: usize = 1 + 1 + 1 + 8;
const LAST: u8 = 0;
const MORE: u8 = 1;

const _: () = assert!(MAX_NOISE <= 65_535);
const _: () = assert!(MAX_CHUNK > HEADER + 1);

/// The role of a frame in the exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Class {
    /// The dialer introduces itself.
    Hello = 1,
    /// The acceptor agrees and introduces itself.
    Welcome = 2,
    /// Either side declines.
    Refusal = 3,
    /// Wants a reply of the same id.
    Request = 4,
    /// The reply.
    Response = 5,
    /// Instead of a reply.
    Fault = 6,
    /// Wants no reply.
    OneWay = 7,
}

impl Class {
    fn from_byte(b: u8) -> Result<Self, Malformed> {
        Ok(match b {
            1 => Class::Hello,
            2 => Class::Welcome,
            3 => Class::Refusal,
            4 => Class::Request,
            5 => Class::Response,
            6 => Class::Fault,
            7 => Class::OneWay,
            other => return Err(Malformed::Class(other)),
        })
    }
}

/// One message of the layer above.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its role.
    pub class: Class,
    /// What the payload is; the meaning is the caller's.
    pub kind: u8,
    /// Ties replies to requests; 0 where there is none.
    pub id: u64,
    /// Opaque here.
    pub payload: Bytes,
}

impl Frame {
    /// A frame.
    pub fn new(class: Class, kind: u8, id: u64, payload: impl Into<Bytes>) -> Self {
        Frame {
            class,
            kind,
            id,
            payload: payload.into(),
        }
    }
}

/// Cuts one frame into chunks.
#[derive(Debug)]
pub(super) struct Chunker {
    frame: Frame,
    headed: bool,
}

impl Chunker {
    pub(super) fn new(frame: Frame) -> Self {
        Chunker {
            frame,
            headed: false,
        }
    }

    /// Puts the next chunk in `out`; true when it was the last.
    pub(super) fn next_chunk(&mut self, out: &mut Vec<u8>) -> bool {
        out.clear();
        out.push(LAST);
        if !self.headed {
            self.headed = true;
            out.extend_from_slice(&[WIRE_VERSION, self.frame.class as u8, self.frame.kind]);
            out.extend_from_slice(&self.frame.id.to_be_bytes());
        }
        let room = MAX_CHUNK - out.len();
        let take = room.min(self.frame.payload.len());
        out.extend_from_slice(&self.frame.payload[..take]);
        self.frame.payload.advance(take);
        let last = self.frame.payload.is_empty();
        if !last {
            out[0] = MORE;
        }
        last
    }
}

/// Puts chunks together again.
#[derive(Debug)]
pub(super) struct Assembler {
    begun: Option<Frame>,
    body: BytesMut,
    max: usize,
}

impl Assembler {
    pub(super) fn new(max: usize) -> Self {
        Assembler {
            begun: None,
            body: BytesMut::new(),
            max,
        }
    }

    pub(super) fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    /// A message has begun and not ended.
    #[cfg(test)]
    fn in_message(&self) -> bool {
        self.begun.is_some()
    }

    /// Takes one chunk; gives the frame it completes. After an error the stream is of no use any more.
    pub(super) fn push(&mut self, chunk: &[u8]) -> Result<Option<Frame>, Malformed> {
        let (&flag, mut content) = chunk.split_first().ok_or(Malformed::EmptyChunk)?;
        let more = match flag {
            LAST => false,
            MORE => true,
            other => return Err(Malformed::ChunkFlag(other)),
        };
        // A stream of empty "more" chunks would keep us busy for ever.
        if content.is_empty() {
            return Err(Malformed::EmptyChunk);
        }
        let mut frame = match self.begun.take() {
            Some(frame) => frame,
            None => {
                let (header, rest) = content
                    .split_at_checked(HEADER)
                    .ok_or(Malformed::ShortHeader(content.len()))?;
                content = rest;
                parse_header(header)?
            }
        };
        if self.body.len() + content.len() > self.max {
            self.body = BytesMut::new();
            return Err(Malformed::TooLarge(self.max));
        }
        self.body.extend_from_slice(content);
        if more {
            self.begun = Some(frame);
            return Ok(None);
        }
        frame.payload = std::mem::take(&mut self.body).freeze();
        Ok(Some(frame))
    }
}

fn parse_header(mut h: &[u8]) -> Result<Frame, Malformed> {
    if h.len() < HEADER {
        return Err(Malformed::ShortHeader(h.len()));
    }
    let version = h.get_u8();
    if version != WIRE_VERSION {
        return Err(Malformed::Version(version));
    }
    let class = Class::from_byte(h.get_u8())?;
    let kind = h.get_u8();
    Ok(Frame {
        class,
        kind,
        id: h.get_u64(),
        payload: Bytes::new(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chunks(frame: Frame) -> Vec<Vec<u8>> {
        let (mut chunker, mut all) = (Chunker::new(frame), Vec::new());
        loop {
            let mut out = Vec::new();
            let last = chunker.next_chunk(&mut out);
            all.push(out);
            if last {
                return all;
            }
        }
    }

    fn whole(chunks: &[Vec<u8>], max: usize) -> Result<Frame, Malformed> {
        let mut assembler = Assembler::new(max);
        let (last, first) = chunks.split_last().unwrap();
        for chunk in first {
            assert_eq!(assembler.push(chunk)?, None);
            assert!(assembler.in_message());
        }
        Ok(assembler
            .push(last)?
            .expect("the last chunk completes the frame"))
    }

    #[test]
    fn sizes_around_the_chunk_limit_survive() {
        let first = MAX_CHUNK - 1 - HEADER;
        for size in [
            0,
            1,
            first - 1,
            first,
            first + 1,
            first + MAX_CHUNK - 1,
            first + MAX_CHUNK,
            300_000,
        ] {
            let payload: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
            let frame = Frame::new(Class::Request, 9, u64::MAX, payload);
            let cut = chunks(frame.clone());
            assert!(cut.iter().all(|c| c.len() <= MAX_CHUNK));
            assert_eq!(whole(&cut, MAX_MESSAGE), Ok(frame), "{size}");
        }
    }

    #[test]
    fn a_message_may_reach_its_limit_and_not_pass_it() {
        let frame = Frame::new(Class::OneWay, 0, 0, vec![1; 50_000]);
        assert!(whole(&chunks(frame.clone()), 50_000).is_ok());
        assert_eq!(
            whole(&chunks(frame), 49_999),
            Err(Malformed::TooLarge(49_999))
        );
    }

    #[test]
    fn each_fault_has_its_name() {
        let good = chunks(Frame::new(Class::OneWay, 1, 2, "x")).remove(0);
        let broken = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut chunk = good.clone();
            change(&mut chunk);
            Assembler::new(100).push(&chunk).unwrap_err()
        };
        assert_eq!(broken(&|c| c.clear()), Malformed::EmptyChunk);
        assert_eq!(broken(&|c| c.truncate(1)), Malformed::EmptyChunk);
        assert_eq!(broken(&|c| c[0] = 2), Malformed::ChunkFlag(2));
        assert_eq!(broken(&|c| c.truncate(5)), Malformed::ShortHeader(4));
        assert_eq!(broken(&|c| c[1] = 77), Malformed::Version(77));
        assert_eq!(broken(&|c| c[2] = 0), Malformed::Class(0));
    }

    proptest! {
        #[test]
        fn any_chunks_give_a_frame_or_an_error_in_bounded_memory(
            chunks in proptest::collection::vec(
                prop_oneof![
                    proptest::collection::vec(any::<u8>(), 0..40),
                    proptest::collection::vec(any::<u8>(), 0..40).prop_map(|mut v| {
                        v.splice(0..0, [1, WIRE_VERSION, 4, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
                        v
                    }),
                ],
                0..60,
            )
        ) {
            let mut assembler = Assembler::new(256);
            for chunk in &chunks {
                match assembler.push(chunk) {
                    Ok(Some(frame)) => prop_assert!(frame.payload.len() <= 256),
                    Ok(None) => prop_assert!(assembler.in_message()),
                    Err(_) => break,
                }
                prop_assert!(assembler.body.capacity() <= 1024);
            }
        }

        #[test]
        fn any_frame_survives(class in 1u8..=7, kind: u8, id: u64, size in 0usize..70_000, seed: u8) {
            let payload: Vec<u8> = (0..size).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect();
            let frame = Frame::new(Class::from_byte(class).unwrap(), kind, id, payload);
            prop_assert_eq!(whole(&chunks(frame.clone()), 70_000), Ok(frame));
        }
    }
}
