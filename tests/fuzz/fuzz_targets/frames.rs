//! Fuzzes peer frames: a stranger's first bytes, chunks, and what members ask of each other.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mainstay_fuzz::bounded(mainstay_fuzz::frames, data));
