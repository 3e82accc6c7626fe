//! Fuzzes what a disk gives back: records of every kind, and data files altered where they lie.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mainstay_fuzz::bounded(mainstay_fuzz::records, data));
