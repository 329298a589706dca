//! Symbols per second through the models, one thread: `cargo bench -p semlink-channel`.
//!
//! Frames of 64 symbols, as a semantic codec sends them, and of 65,536, where the cost of a frame no longer counts.

use divan::Bencher;
use divan::counter::ItemsCount;
use semlink_channel::{Chain, ChannelConfig, Complex32, FrameKey, SnrDb, noise};

const FRAMES: [usize; 2] = [64, 65_536];

fn main() {
    divan::main();
}

fn key(frame: u64) -> FrameKey {
    FrameKey { seed: 1, link: 0, stream: 0, frame }
}

fn symbols(count: usize) -> Vec<Complex32> {
    (0..count).map(|i| Complex32::new(if i % 2 == 0 { 1.0 } else { -1.0 }, 0.0)).collect()
}

/// Frame after frame through a chain, in place; writing the frame anew is part of the time.
fn through(bencher: Bencher<'_, '_>, count: usize, stages: &[&str]) {
    let specs: Vec<_> = stages.iter().map(|stage| stage.parse().expect("a stage")).collect();
    let chain = Chain::new(&specs).expect("a chain");
    let sent = symbols(count);
    let mut frame = sent.clone();
    let mut number = 0;
    bencher.counter(ItemsCount::new(count)).bench_local(|| {
        frame.copy_from_slice(&sent);
        number += 1;
        chain.apply(key(number), chain.snr(), &mut [], divan::black_box(&mut frame))
    });
}

#[divan::bench(args = FRAMES)]
fn noise_alone(bencher: Bencher<'_, '_>, count: usize) {
    let mut drawn = symbols(count);
    let mut number = 0;
    bencher.counter(ItemsCount::new(count)).bench_local(|| {
        number += 1;
        noise::fill(key(number), 0.1, divan::black_box(&mut drawn));
    });
}

#[divan::bench(args = FRAMES)]
fn awgn(bencher: Bencher<'_, '_>, count: usize) {
    through(bencher, count, &["awgn,snr_db=10"]);
}

/// As [`awgn`], through the configuration that training uses, with its memory used again.
#[divan::bench(args = FRAMES)]
fn awgn_configuration(bencher: Bencher<'_, '_>, count: usize) {
    let config = ChannelConfig::awgn(SnrDb::try_new(10.0).expect("10 dB"));
    let sent = symbols(count);
    let mut frame = sent.clone();
    let mut state = config.draw(key(0), count);
    let mut number = 0;
    bencher.counter(ItemsCount::new(count)).bench_local(|| {
        frame.copy_from_slice(&sent);
        number += 1;
        config.apply_into(key(number), divan::black_box(&mut frame), &mut state)
    });
}

#[divan::bench(args = FRAMES)]
fn rayleigh_blocks(bencher: Bencher<'_, '_>, count: usize) {
    through(bencher, count, &["rayleigh,coherence=16", "awgn,snr_db=10"]);
}

#[divan::bench(args = FRAMES)]
fn rayleigh_doppler(bencher: Bencher<'_, '_>, count: usize) {
    through(bencher, count, &["rayleigh,doppler=0.001", "awgn,snr_db=10"]);
}

#[divan::bench(args = FRAMES)]
fn tdl_a(bencher: Bencher<'_, '_>, count: usize) {
    through(bencher, count, &["tdl,profile=A,delay_spread_ns=100,symbol_rate_hz=1e7", "awgn,snr_db=10"]);
}

#[divan::bench(args = FRAMES)]
fn tdl_a_doppler(bencher: Bencher<'_, '_>, count: usize) {
    let tdl = "tdl,profile=A,delay_spread_ns=100,symbol_rate_hz=1e7,doppler=0.001,coherence=64";
    through(bencher, count, &[tdl, "awgn,snr_db=10"]);
}

#[divan::bench(args = FRAMES)]
fn adc(bencher: Bencher<'_, '_>, count: usize) {
    through(bencher, count, &["awgn,snr_db=10", "adc,bits=8"]);
}

/// Every kind of stage, one after the other.
#[divan::bench(args = FRAMES)]
fn whole_chain(bencher: Bencher<'_, '_>, count: usize) {
    let stages = [
        "shadowing",
        "rician,coherence=64",
        "gilbert_elliott",
        "impulsive",
        "cfo,offset=0.001",
        "phase_noise",
        "awgn,snr_db=10",
        "iq_imbalance,gain_db=0.5",
        "adc,bits=8",
    ];
    through(bencher, count, &stages);
}
