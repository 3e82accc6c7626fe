//! Bytes as a peer or a stranger may send them, read as the connections read them: for `tests/fuzz` alone.
//!
//! Nothing here is part of what the agent does. Each function takes anything, must not panic, and holds what was
//! understood against its own encoding.

use super::frame::{Assembler, Chunker, Class, Frame};
use super::hello::{Hello, Local, Refusal, encode};
use super::{Keys, handshake, parse_key_file};
use std::time::Duration;

/// What a stranger's first bytes lead to, with a real handshake at this end: always an error, since it has no key.
pub async fn stranger(bytes: &[u8]) -> String {
    let Ok(keys) = keys() else { return String::from("no keys") };
    let local = Local::new(Hello::new("edge", 1, "n1", 1), keys);
    let admit = |_: &Hello| Ok(());
    let stall = Duration::from_secs(1);
    match handshake::respond((bytes, tokio::io::sink()), &local, "a stranger", &admit, stall).await {
        Ok(_) => unreachable!("a stranger was let in"),
        Err(error) => error.to_string(),
    }
}

fn keys() -> Result<Keys, super::KeyError> {
    use base64::Engine as _;
    parse_key_file(&base64::engine::general_purpose::STANDARD.encode([7_u8; 32]))
}

/// Decrypted chunks of one connection, put together up to the first fault; at most `max` bytes each.
pub fn frames<'a>(chunks: impl Iterator<Item = &'a [u8]>, max: usize) -> Vec<Frame> {
    let mut assembler = Assembler::new(max);
    let mut frames = Vec::new();
    for chunk in chunks {
        match assembler.push(chunk) {
            Ok(frame) => frames.extend(frame),
            Err(error) => {
                let _ = error.to_string();
                break;
            }
        }
    }
    frames
}

/// The chunks that a frame is sent in.
pub fn chunks(frame: Frame) -> Vec<Vec<u8>> {
    let mut chunker = Chunker::new(frame);
    let mut chunks = Vec::new();
    loop {
        let mut chunk = Vec::new();
        let last = chunker.next_chunk(&mut chunk);
        chunks.push(chunk);
        if last {
            return chunks;
        }
    }
}

/// Reads a frame's payload as the opening exchange would, if it is part of that.
///
/// # Panics
/// What was understood does not survive its own encoding.
pub fn opening(frame: &Frame) {
    match frame.class {
        Class::Hello | Class::Welcome => {
            if let Ok(hello) = Hello::decode(&frame.payload) {
                let again = encode(&hello).and_then(|bytes| Hello::decode(&bytes));
                assert_eq!(again.as_ref(), Ok(&hello));
            }
        }
        Class::Refusal => {
            if let Ok(refusal) = Refusal::decode(&frame.payload) {
                assert!(!refusal.to_string().chars().any(char::is_control), "a peer writes to the terminal");
                let again = encode(&refusal).and_then(|bytes| Refusal::decode(&bytes));
                assert_eq!(again.as_ref(), Ok(&refusal));
            }
        }
        _ => {}
    }
}

/// A hello as it travels.
pub fn hello() -> Vec<u8> {
    encode(&Hello::new("edge", 3, "n2", 9)).unwrap_or_default()
}

/// A refusal as it travels.
pub fn refusal() -> Vec<u8> {
    encode(&Refusal::new(super::RefusalCode::Node, "not a member")).unwrap_or_default()
}
