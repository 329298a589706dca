//! Runs [`semlink_fuzz::recipe`] under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| semlink_fuzz::recipe(data));
