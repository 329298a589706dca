//! The channel against closed forms: moments, distributions, error rates. Seeds are fixed; tolerances are five standard errors of the
//! sample, so that a right implementation with another seed would fail about once in a million runs.

use std::f64::consts::{FRAC_1_SQRT_2, TAU};

use semlink_channel::{
    ChannelConfig, ChannelKind, ChannelState, Complex32, FrameKey, RicianK, SnrDb, equalize, noise, power,
};

mod support;

use support::{KS_MILLIONTH, SIGMAS, kolmogorov_smirnov, mean, normal_cdf, rice_cdf};

fn key(frame: u64) -> FrameKey {
    FrameKey { seed: 11, link: 1, stream: 5, frame }
}

fn snr(db: f32) -> SnrDb {
    SnrDb::try_new(db).unwrap()
}

fn k_factor(db: f32) -> RicianK {
    RicianK::try_new_db(db).unwrap()
}

fn linear(db: f32) -> f64 {
    support::linear(f64::from(db))
}

/// BPSK on the real axis, deterministic and balanced.
fn bpsk(symbols: usize) -> Vec<Complex32> {
    (0..symbols).map(|i| Complex32::new(if i % 2 == 0 { 1.0 } else { -1.0 }, 0.0)).collect()
}

/// Independent fading coefficients, one per symbol, of one long frame.
fn coefficients(kind: ChannelKind, k: RicianK, n: usize) -> Vec<Complex32> {
    let config = ChannelConfig { kind, coherence: 1, ..ChannelConfig::rician(snr(10.0), k) };
    config.draw(key(0), n).h
}

#[test]
fn noise_is_circular_gaussian_with_n0_in_total() {
    const N: usize = 200_000;
    for db in [-10.0, 0.0, 13.0] {
        let n0 = linear(-db);
        let mut samples = vec![Complex32::ZERO; N];
        noise::fill(key(0), snr(db).noise_var(), &mut samples);
        let re: Vec<f64> = samples.iter().map(|n| f64::from(n.re)).collect();
        let im: Vec<f64> = samples.iter().map(|n| f64::from(n.im)).collect();
        // Mean of N draws of variance N0/2; a variance's own standard error is variance sqrt(2 / N).
        let (axis, root_n) = (n0 / 2.0, (N as f64).sqrt());
        for axis_samples in [&re, &im] {
            assert!(mean(axis_samples.iter().copied()).abs() < SIGMAS * axis.sqrt() / root_n);
            let variance = mean(axis_samples.iter().map(|x| x * x));
            assert!((variance / axis - 1.0).abs() < SIGMAS * 2f64.sqrt() / root_n, "{variance}, expected {axis}");
            assert!(kolmogorov_smirnov(axis_samples, |x| normal_cdf(x / axis.sqrt())) < KS_MILLIONTH);
        }
        let covariance = mean(re.iter().zip(&im).map(|(a, b)| a * b));
        assert!(covariance.abs() < SIGMAS * axis / root_n);
        let successive = mean(re.windows(2).map(|pair| pair[0] * pair[1]));
        assert!(successive.abs() < SIGMAS * axis / root_n);
    }
}

#[test]
fn realised_snr_is_the_requested_one() {
    const SYMBOLS: usize = 100_000;
    for db in [-60.0, -10.0, 0.0, 20.0, 100.0] {
        let mut symbols = bpsk(SYMBOLS);
        let applied = ChannelConfig::awgn(snr(db)).apply(key(1), &mut symbols);
        // |n|^2 is exponential: relative standard error 1/sqrt(N), 4.34 dB per unit.
        let tolerance = SIGMAS * 4.343 / (SYMBOLS as f64).sqrt();
        assert!((f64::from(applied.snr_db_realised) - f64::from(db)).abs() < tolerance, "{applied:?}, {db} dB");
        assert!((applied.state.snr_db() - db).abs() < 1e-4);
    }
    for config in [ChannelConfig::rayleigh(snr(6.0)), ChannelConfig::rician(snr(6.0), k_factor(3.0))] {
        const FRAMES: u64 = 20_000;
        let mut powers = (0.0, 0.0);
        for frame in 0..FRAMES {
            let mut symbols = bpsk(4);
            let state = config.apply(key(frame), &mut symbols).state;
            let mut drawn = [Complex32::ZERO; 4];
            noise::fill(key(frame), state.noise_var, &mut drawn);
            powers.0 += f64::from(state.h[0].norm_sqr());
            powers.1 += power::mean_power(&drawn);
        }
        // Rayleigh is the wider of the two: |h|^2 has deviation 1. The noise adds a quarter of that variance.
        let measured = 10.0 * (powers.0 / powers.1).log10();
        assert!((measured - 6.0).abs() < SIGMAS * 4.343 * (1.25 / FRAMES as f64).sqrt(), "{measured} dB");
    }
}

#[test]
fn realised_snr_is_that_of_the_frame_itself() {
    let config = ChannelConfig { coherence: 3, ..ChannelConfig::rayleigh(snr(2.0)) };
    let sent = bpsk(16);
    let mut received = sent.clone();
    let applied = config.apply(key(9), &mut received);
    let h = |i: usize| applied.state.h[i / 3];
    let signal: Vec<Complex32> = sent.iter().enumerate().map(|(i, x)| h(i) * x).collect();
    let noise: Vec<Complex32> = received.iter().zip(&signal).map(|(y, s)| y - s).collect();
    let expected = 10.0 * (power::mean_power(&signal) / power::mean_power(&noise)).log10();
    assert!((f64::from(applied.snr_db_realised) - expected).abs() < 1e-3);
}

#[test]
fn rayleigh_amplitude_and_phase() {
    const N: usize = 100_000;
    let h = coefficients(ChannelKind::Rayleigh, k_factor(0.0), N);
    // |h|^2 is exponential with mean 1 and deviation 1
    let power = mean(h.iter().map(|h| f64::from(h.norm_sqr())));
    assert!((power - 1.0).abs() < SIGMAS / (N as f64).sqrt(), "{power}");
    let amplitude: Vec<f64> = h.iter().map(|h| f64::from(h.norm())).collect();
    assert!(kolmogorov_smirnov(&amplitude, |r| 1.0 - (-r * r).exp()) < KS_MILLIONTH);
    let phase: Vec<f64> = h.iter().map(|h| f64::from(h.arg())).collect();
    assert!(kolmogorov_smirnov(&phase, |t| t / TAU + 0.5) < KS_MILLIONTH);
}

#[test]
fn rician_amplitude_at_several_k() {
    const N: usize = 50_000;
    for db in [-40.0, -10.0, 0.0, 3.0, 10.0, 20.0] {
        let k = linear(db);
        let h = coefficients(ChannelKind::Rician, k_factor(db), N);
        let power = mean(h.iter().map(|h| f64::from(h.norm_sqr())));
        // Var |h|^2 = (1 + 2K) / (1 + K)^2
        let deviation = (1.0 + 2.0 * k).sqrt() / (1.0 + k);
        assert!((power - 1.0).abs() < SIGMAS * deviation / (N as f64).sqrt(), "K {db} dB: {power}");
        let amplitude: Vec<f64> = h.iter().map(|h| f64::from(h.norm())).collect();
        let statistic = kolmogorov_smirnov(&amplitude, rice_cdf(k));
        assert!(statistic < KS_MILLIONTH, "K {db} dB: {statistic}");
    }
    let nearly_fixed = coefficients(ChannelKind::Rician, RicianK::MAX, 1_000);
    assert!(nearly_fixed.iter().all(|h| (h.norm() - 1.0).abs() < 0.01));
}

/// One line of sight per frame, its phase uniform from frame to frame; scatter around it has power 1/(K+1).
#[test]
fn rician_line_of_sight_has_one_uniform_phase_per_frame() {
    let config = ChannelConfig { coherence: 1, ..ChannelConfig::rician(snr(0.0), k_factor(30.0)) };
    let phases: Vec<f64> = (0..5_000)
        .map(|frame| {
            let h = config.draw(key(frame), 8).h;
            let line_of_sight = h.iter().sum::<Complex32>() / 8.0;
            assert!(h.iter().all(|h| (h - line_of_sight).norm() < 0.2), "scatter of deviation 0.03: {h:?}");
            f64::from(line_of_sight.arg())
        })
        .collect();
    assert!(kolmogorov_smirnov(&phases, |t| t / TAU + 0.5) < KS_MILLIONTH);
}

/// Without noise to speak of, y/x shows the coefficient of each symbol: constant within a block, independent between blocks.
#[test]
fn fading_is_constant_within_a_block_and_independent_between() {
    let config = ChannelConfig { coherence: 16, ..ChannelConfig::rayleigh(SnrDb::MAX) };
    let sent = bpsk(1_000);
    let mut products = Complex32::ZERO;
    const FRAMES: u64 = 200;
    for frame in 0..FRAMES {
        let mut received = sent.clone();
        let state = config.apply(key(frame), &mut received).state;
        assert_eq!((state.h.len(), state.coherence), (63, 16), "62 whole blocks and one of 8");
        for (i, (y, x)) in received.iter().zip(&sent).enumerate() {
            assert!((y / x - state.h[i / 16]).norm() < 1e-3);
        }
        products += state.h.windows(2).map(|pair| pair[0] * pair[1].conj()).sum::<Complex32>();
    }
    // 62 products of modulus deviation 1 per frame
    let n = 62.0 * FRAMES as f64;
    assert!(f64::from(products.norm()) / n < SIGMAS / n.sqrt());

    let whole = ChannelConfig { coherence: 0, ..config }.draw(key(0), 1_000);
    assert_eq!(whole.h.len(), 1);
    let across_frames = mean(
        (0..10_000u64)
            .map(|frame| {
                let h = |frame| ChannelConfig::rayleigh(snr(0.0)).draw(key(frame), 64).h[0];
                f64::from((h(frame) * h(frame + 1).conj()).re)
            })
            .collect::<Vec<_>>()
            .into_iter(),
    );
    assert!(across_frames.abs() < SIGMAS * FRAC_1_SQRT_2 / 100.0);
}

/// Bit errors of BPSK: Q(sqrt(2 Es/N0)) over AWGN, (1 - sqrt(s / (1 + s))) / 2 over Rayleigh. A slip of 3 dB would miss by many times the
/// tolerance.
#[test]
fn bpsk_has_its_closed_form_error_rates() {
    const SYMBOLS: usize = 200_000;
    for (config, db) in [
        (ChannelConfig::awgn(snr(4.0)), 4.0),
        (ChannelConfig::awgn(snr(-5.0)), -5.0),
        (ChannelConfig { coherence: 1, ..ChannelConfig::rayleigh(snr(4.0)) }, 4.0),
    ] {
        let s = linear(db);
        let expected = match config.kind {
            ChannelKind::Awgn => normal_cdf(-(2.0 * s).sqrt()),
            _ => 0.5 * (1.0 - (s / (1.0 + s)).sqrt()),
        };
        let sent = bpsk(SYMBOLS);
        let mut received = sent.clone();
        let state = config.apply(key(3), &mut received).state;
        let estimates = equalize::mmse(&received, &state).unwrap().symbols;
        let errors = estimates.iter().zip(&sent).filter(|(estimate, x)| estimate.re * x.re < 0.0).count();
        let rate = errors as f64 / SYMBOLS as f64;
        let tolerance = SIGMAS * (expected * (1.0 - expected) / SYMBOLS as f64).sqrt();
        assert!((rate - expected).abs() < tolerance, "{config:?}: {rate}, expected {expected}");
    }
}

/// For one fixed h: mean squared error N0 / (|h|^2 + N0), bias 1 - noise_var, power |h|^2 / (|h|^2 + N0).
#[test]
fn mmse_has_its_closed_form_error_and_bias() {
    const N: usize = 100_000;
    for (h, db) in [
        (Complex32::new(0.6, -0.8), 0.0),
        (Complex32::new(-0.05, 0.1), 3.0),
        (Complex32::new(1.5, 0.5), 12.0),
        (Complex32::new(0.0, 0.0), 5.0),
    ] {
        let noise_var = snr(db).noise_var();
        let state = ChannelState { kind: ChannelKind::Rayleigh, h: vec![h], coherence: 0, noise_var };
        let sent = bpsk(N);
        let mut received = vec![Complex32::ZERO; N];
        noise::fill(key(4), noise_var, &mut received);
        for (y, x) in received.iter_mut().zip(&sent) {
            *y += h * x;
        }
        let equalized = equalize::mmse(&received, &state).unwrap();
        let gain = f64::from(h.norm_sqr());
        let n0 = f64::from(noise_var);
        let expected = n0 / (gain + n0);
        assert!(equalized.noise_var.iter().all(|v| (f64::from(*v) - expected).abs() < 1e-6));
        let error = mean(equalized.symbols.iter().zip(&sent).map(|(e, x)| f64::from((e - x).norm_sqr())));
        // The error's noise part has a deviation below its mean square, its bias part is fixed.
        assert!((error - expected).abs() < SIGMAS * 3.0 * expected / (N as f64).sqrt(), "{error}, expected {expected}");
        let bias = mean(equalized.symbols.iter().zip(&sent).map(|(e, x)| f64::from((e * x).re)));
        assert!((bias - (1.0 - expected)).abs() < SIGMAS / (N as f64).sqrt(), "{bias}");
    }
}

#[test]
fn mmse_gives_the_worked_example() {
    // h = 2i, N0 = 1: tap = -2i / 5; y = 1 + 3i -> (6 - 2i) / 5
    let state = ChannelState {
        kind: ChannelKind::Rician,
        h: vec![Complex32::new(0.0, 2.0), Complex32::new(1.0, 0.0)],
        coherence: 2,
        noise_var: 1.0,
    };
    let y = [Complex32::new(1.0, 3.0), Complex32::ZERO, Complex32::new(4.0, -2.0)];
    let equalized = equalize::mmse(&y, &state).unwrap();
    assert_eq!(equalized.symbols, [Complex32::new(1.2, -0.4), Complex32::ZERO, Complex32::new(2.0, -1.0)]);
    assert_eq!(equalized.noise_var, [0.2, 0.2, 0.5]);
}
