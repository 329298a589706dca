//! Runs [`semlink_fuzz::image`] under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(
    // libFuzzer's hook ends the process at once. Here a decoder's panic is to be contained; one that is not ends it when it gets here.
    init: std::panic::set_hook(Box::new(|panic| eprintln!("{panic}"))),
    |data: &[u8]| semlink_fuzz::image(data)
);
