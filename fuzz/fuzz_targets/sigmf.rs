//! Runs [`semlink_fuzz::sigmf`] under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| semlink_fuzz::sigmf(data));
