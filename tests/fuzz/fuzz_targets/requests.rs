//! Fuzzes lines on the control socket.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mainstay_fuzz::bounded(mainstay_fuzz::requests, data));
