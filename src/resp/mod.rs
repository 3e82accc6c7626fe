//! Frames of the Redis protocol, for the Sentinel endpoint: bytes in, bytes out.
//!
//! [`Decoder`] reads requests, as arrays of strings or as inline lines; [`Value`] is what is answered, written for RESP2
//! or RESP3. Everything that a stranger may send is bounded by [`Limits`]: number and length of arguments, and what a
//! request may hold together. Nested requests do not exist, so nothing recurses into the input.
//!
//! It must never panic on any input, allocate what a length merely claims, or read more than once over the same bytes.

mod inline;
mod request;
mod value;

pub use inline::split;
pub use request::{Decoder, Limits, Nonsense, Request};
pub use value::{Protocol, Value};

#[cfg(test)]
mod tests;
