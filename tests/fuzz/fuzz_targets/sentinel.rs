//! Fuzzes the Sentinel endpoint: what a client sends, in any pieces.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mainstay_fuzz::bounded(mainstay_fuzz::sentinel, data));
