//! Runs [`semlink_fuzz::frame`] under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| semlink_fuzz::frame(data));
