//! Runs [`semlink_fuzz::genotype`] under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| semlink_fuzz::genotype(data));
