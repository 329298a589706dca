//! What several test files need: sending frames through chains, and the laws that samples are held against.

// Every test file compiles this module for itself, and none needs all of it.
#![allow(dead_code)]

use std::f64::consts::{FRAC_1_SQRT_2, PI, TAU};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use semlink_channel::{Chain, Complex32, FrameKey, Passed, StageSpec, noise};

/// Tolerances of moments, in standard errors: a right implementation with another seed fails about once in a million tests.
pub(crate) const SIGMAS: f64 = 5.0;

/// Kolmogorov's statistic exceeds this with probability 2 exp(-2 x^2) = 1e-6.
pub(crate) const KS_MILLIONTH: f64 = 2.694;

/// ... and this with probability 1 %.
pub(crate) const KS_HUNDREDTH: f64 = 1.6276;

/// Normal deviate that is exceeded on either side with probability 1 %.
pub(crate) const Z_HUNDREDTH: f64 = 2.5758;

/// Stages as on a command line.
pub(crate) fn chain(stages: &[&str]) -> Chain {
    let specs: Vec<StageSpec> = stages.iter().map(|text| text.parse().unwrap()).collect();
    Chain::new(&specs).unwrap()
}

/// One frame without pilots.
pub(crate) fn send(chain: &Chain, key: FrameKey, symbols: &mut [Complex32]) -> Passed {
    chain.apply(key, chain.snr(), &mut [], symbols)
}

/// A frame as it arrives at the last stage, which must be `awgn`: its noise is known from the key, and taken off again.
pub(crate) fn send_noiseless(chain: &Chain, key: FrameKey, symbols: &mut [Complex32]) -> Passed {
    let passed = send(chain, key, symbols);
    let mut drawn = vec![Complex32::ZERO; symbols.len()];
    noise::fill(key, chain.snr().noise_var(), &mut drawn);
    symbols.iter_mut().zip(&drawn).for_each(|(y, n)| *y -= n);
    passed
}

/// Random QPSK symbols of power 1, always the same.
pub(crate) fn qpsk(count: usize) -> Vec<Complex32> {
    random_qpsk(0, count)
}

/// Random QPSK symbols of power 1.
pub(crate) fn random_qpsk(seed: u64, count: usize) -> Vec<Complex32> {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    let mut sign = || if generator.random() { FRAC_1_SQRT_2 as f32 } else { -FRAC_1_SQRT_2 as f32 };
    (0..count).map(|_| Complex32::new(sign(), sign())).collect()
}

pub(crate) fn decibel(power: f64) -> f64 {
    10.0 * power.log10()
}

pub(crate) fn linear(db: f64) -> f64 {
    10f64.powf(db / 10.0)
}

pub(crate) fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = values.len() as f64;
    values.sum::<f64>() / n
}

/// Mean, and its standard error as the samples themselves tell it.
pub(crate) fn mean_and_error(values: &[f64]) -> (f64, f64) {
    let m = mean(values.iter().copied());
    let variance = mean(values.iter().map(|x| (x - m) * (x - m)));
    (m, (variance / values.len() as f64).sqrt())
}

/// Asserts that the mean of independent samples lies within [`SIGMAS`] standard errors of what it should be.
#[track_caller]
pub(crate) fn assert_mean(what: &str, values: &[f64], expected: f64) {
    let (found, error) = mean_and_error(values);
    println!("{what}: {found:.6}, expected {expected:.6}, {:+.2} standard errors", (found - expected) / error);
    assert!(
        (found - expected).abs() < SIGMAS * error,
        "{what}: {found}, expected {expected} within {SIGMAS} x {error}"
    );
}

/// Largest distance between the samples' distribution and `cdf`, times sqrt(n).
pub(crate) fn kolmogorov_smirnov(samples: &[f64], cdf: impl Fn(f64) -> f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let n = sorted.len() as f64;
    let distance = |(i, x): (usize, &f64)| {
        let p = cdf(*x);
        (p - i as f64 / n).max((i + 1) as f64 / n - p)
    };
    sorted.iter().enumerate().map(distance).fold(0.0, f64::max) * n.sqrt()
}

/// Probability that Kolmogorov's statistic of a large sample exceeds x.
pub(crate) fn kolmogorov_tail(x: f64) -> f64 {
    if x < 0.3 {
        return 1.0;
    }
    let term = |j: i32| (if j % 2 == 1 { 2.0 } else { -2.0 }) * (-2.0 * f64::from(j * j) * x * x).exp();
    (1..100).map(term).sum::<f64>().clamp(0.0, 1.0)
}

pub(crate) fn normal_cdf(x: f64) -> f64 {
    0.5 * libm::erfc(-x * FRAC_1_SQRT_2)
}

/// Probability that a normal deviate is farther from 0 than z.
pub(crate) fn two_sided(z: f64) -> f64 {
    libm::erfc(z.abs() * FRAC_1_SQRT_2)
}

/// Probability that a chi-squared variable of an even number of degrees of freedom exceeds x: a sum of Poisson's.
pub(crate) fn chi_squared_tail(x: f64, degrees: usize) -> f64 {
    assert!(degrees.is_multiple_of(2));
    let mut term = (-0.5 * x).exp();
    let mut sum = term;
    for i in 1..degrees / 2 {
        term *= 0.5 * x / i as f64;
        sum += term;
    }
    sum
}

/// x for which a decreasing function has this value, between 0 and `most`.
pub(crate) fn solve(value: f64, most: f64, decreasing: impl Fn(f64) -> f64) -> f64 {
    let (mut low, mut high) = (0.0, most);
    for _ in 0..80 {
        let middle = 0.5 * (low + high);
        if decreasing(middle) > value { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

/// Distribution function of a Rice variable with unit mean power, tabulated: the density
/// 2 (K+1) r exp(-K - (K+1) r^2) I0(2 r sqrt(K (K+1))), with I0(x) e^-x the mean of exp(x (cos t - 1)) over a circle, summed by
/// the midpoint rule. K = 0 is Rayleigh, and the table agrees with its closed form.
pub(crate) fn rice_cdf(k: f64) -> impl Fn(f64) -> f64 {
    const STEP: f64 = 1e-3;
    let density = move |r: f64| {
        let x = 2.0 * r * (k * (k + 1.0)).sqrt();
        let i0_scaled =
            (0..400).map(|i| (x * (((i as f64 + 0.5) * TAU / 400.0).cos() - 1.0)).exp()).sum::<f64>() / 400.0;
        let exponent = x - k - (k + 1.0) * r * r;
        2.0 * (k + 1.0) * r * exponent.exp() * i0_scaled
    };
    let mut table = vec![0.0];
    for i in 0..6_000 {
        table.push(table[i] + STEP * density((i as f64 + 0.5) * STEP));
    }
    assert!((table[6_000] - 1.0).abs() < 1e-6, "the density integrates to {}", table[6_000]);
    move |r| {
        let position = r / STEP;
        let index = (position as usize).min(5_999);
        table[index] + (table[index + 1] - table[index]) * (position - index as f64).min(1.0)
    }
}

/// sin(pi x) / (pi x).
pub(crate) fn sinc(x: f64) -> f64 {
    if x == 0.0 { 1.0 } else { (PI * x).sin() / (PI * x) }
}
