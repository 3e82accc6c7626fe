//! Fuzzes configuration files.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mainstay_fuzz::bounded(mainstay_fuzz::config, data));
