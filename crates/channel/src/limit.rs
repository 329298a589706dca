//! What physics allows: how often one of M messages can be told apart over a channel.
//!
//! A transmitter that knew the class would send one of M simplex waveforms, the set of equal-energy signals that are as far apart as
//! M signals can be. Over k uses with Es = 1 they have energy k; M simplex waveforms perform as M orthogonal ones with energy
//! k M/(M-1). A coherent receiver that knows the fading gain g = sum over blocks of (block length / k) |h_b|^2 is right with probability
//!
//! `P(g) = integral of phi(z - d) Phi(z)^(M-1) dz`, `d^2 = 2 g (k / N0) M/(M-1)`,
//!
//! with phi and Phi the standard normal density and distribution (Proakis and Salehi, *Digital Communications*, chapter 4), and
//! `P = E[P(g)]` over the fading. Each block is taken to carry its share of the energy of every waveform. For k < (M-1)/2 a simplex does
//! not fit into k complex dimensions, and P stays an upper bound that no code attains.
//!
//! Deterministic quadrature, absolute error below 1e-4; no sampling.

use std::f64::consts::{FRAC_1_SQRT_2, TAU};

use crate::{ChannelConfig, ChannelKind, ChannelUses, Error, Result};

/// Points of each quadrature over the fading gain.
const GAIN_POINTS: usize = 400;

/// One point of a quadrature over a random gain.
struct Node {
    gain: f64,
    weight: f64,
}

/// Accuracy that no codec can exceed when its classifier, without a channel, has accuracy `clean_accuracy` over `classes` classes:
/// A P + (1 - A)(1 - P)/(M - 1), with P from [`detection`].
///
/// # Errors
/// [`Error::OutOfRange`] for `clean_accuracy` outside [0, 1] or `classes` outside [2, 10000].
pub fn accuracy(clean_accuracy: f64, classes: usize, channel: &ChannelConfig, uses: ChannelUses) -> Result<f64> {
    if !(0.0..=1.0).contains(&clean_accuracy) {
        let value = clean_accuracy.to_string();
        return Err(Error::OutOfRange { field: "clean_accuracy", value, range: "in [0, 1]" });
    }
    let p = detection(classes, channel, uses)?;
    Ok(clean_accuracy * p + (1.0 - clean_accuracy) * (1.0 - p) / (classes - 1) as f64)
}

/// P(correct) of `classes` equiprobable simplex waveforms over `uses` complex uses of `channel`, detected coherently with perfect
/// channel state information.
///
/// # Errors
/// [`Error::OutOfRange`] for `classes` outside [2, 10000].
pub fn detection(classes: usize, channel: &ChannelConfig, uses: ChannelUses) -> Result<f64> {
    if !(2..=10_000).contains(&classes) {
        let value = classes.to_string();
        return Err(Error::OutOfRange { field: "classes", value, range: "in [2, 10000]" });
    }
    let m = classes as f64;
    let snr = 10f64.powf(f64::from(channel.snr.db()) / 10.0);
    // d^2 at gain 1
    let separation = 2.0 * uses.get() as f64 * snr * m / (m - 1.0);
    let correct = |gain: f64| simplex(classes, (gain * separation).sqrt());

    let k_factor = match channel.kind {
        ChannelKind::Awgn => return Ok(correct(1.0)),
        ChannelKind::Rayleigh => 0.0,
        ChannelKind::Rician => f64::from(channel.k_factor.linear()),
    };
    let coherence = if channel.coherence == 0 { uses.get() } else { channel.coherence.min(uses.get()) };
    let (blocks, rest) = (uses.get() / coherence, uses.get() % coherence);
    let full = gain_nodes(k_factor, blocks);
    if rest == 0 {
        return Ok(full.iter().map(|node| node.weight * correct(node.gain)).sum());
    }
    // A last block that is shorter: two independent gains, weighed by their shares of the frame.
    let share = rest as f64 / uses.get() as f64;
    let last = gain_nodes(k_factor, 1);
    let table = Table::new(correct, &full, &last);
    let given = |a: &Node| -> f64 {
        let total = |b: &Node| (1.0 - share) * a.gain + share * b.gain;
        last.iter().map(|b| b.weight * table.at(total(b))).sum()
    };
    Ok(full.iter().map(|a| a.weight * given(a)).sum())
}

/// P(correct) of M orthogonal signals, `d` = sqrt(2 E / N0). The trapezoidal rule converges faster than any power of its step on a
/// smooth integrand that has died off at both ends; 0.05 standard deviations is far beyond what 1e-4 needs.
fn simplex(classes: usize, d: f64) -> f64 {
    const STEP: f64 = 0.05;
    if d > 30.0 {
        return 1.0;
    }
    let others = (classes - 1) as f64;
    let term = |i: i32| {
        let u = f64::from(i) * STEP;
        // ln Phi(z) by way of the upper tail, which keeps its precision where Phi is close to 1
        let ln_phi = (-0.5 * libm::erfc((d + u) * FRAC_1_SQRT_2)).ln_1p();
        (-0.5 * u * u + others * ln_phi).exp()
    };
    (-180..=180).map(term).sum::<f64>() * STEP / TAU.sqrt()
}

/// Quadrature over g = (1/B) sum of |h_b|^2 over B independent Rician blocks with power ratio K (0: Rayleigh), E[g] = 1.
///
/// With y = B (K+1) g and c = B K, 2y is noncentral chi-squared with 2B degrees of freedom and noncentrality 2c; the density of ln g is
/// proportional to y^B e^(-y) sum over n of (c y)^n / (n! (B+n-1)!). Points are even in ln g: P(g) and the density are both smooth there,
/// and a deep fade is resolved at any SNR.
fn gain_nodes(k_factor: f64, blocks: usize) -> Vec<Node> {
    let b = blocks as f64;
    let std = ((1.0 + 2.0 * k_factor) / b).sqrt() / (1.0 + k_factor);
    if std < 0.03 {
        // Skewness is of the order of `std`, so the normal law is good to about std^4 < 1e-6 here.
        let node = |i: i32| {
            let z = 0.1 * f64::from(i);
            Node { gain: 1.0 + std * z, weight: (-0.5 * z * z).exp() }
        };
        return weigh((-60..=60).map(node).collect());
    }
    let (low, high) = if std < 0.08 {
        ((1.0 - 12.0 * std).ln(), (1.0 + 14.0 * std).ln())
    } else {
        // P(g < e^-18) < 2e-8 in the worst case, Rayleigh with one block.
        (-18.0, (1.0 + 40.0 * std).ln())
    };
    let step = (high - low) / (GAIN_POINTS - 1) as f64;
    let mut nodes: Vec<Node> = (0..GAIN_POINTS)
        .map(|i| {
            let gain = (low + i as f64 * step).exp();
            let y = b * (1.0 + k_factor) * gain;
            Node { gain, weight: b * y.ln() - y + ln_series(b * k_factor * y, b) }
        })
        .collect();
    let peak = nodes.iter().map(|node| node.weight).fold(f64::MIN, f64::max);
    for node in &mut nodes {
        node.weight = (node.weight - peak).exp();
    }
    weigh(nodes)
}

/// ln of the sum over n of x^n (B-1)! / (n! (B+n-1)!), summed outwards from its largest term.
fn ln_series(x: f64, b: f64) -> f64 {
    if x == 0.0 {
        return 0.0;
    }
    // Terms grow while n (B+n-1) < x.
    let turn = 0.5 * ((b * b + 4.0 * x).sqrt() - b);
    let terms = (turn + 12.0 * turn.sqrt() + 40.0) as usize;
    let ln_x = x.ln();
    let (mut ln_term, mut peak, mut sum) = (0f64, 0f64, 1f64);
    for n in 0..terms {
        let n = n as f64;
        ln_term += ln_x - ((n + 1.0) * (b + n)).ln();
        if ln_term > peak {
            sum = sum * (peak - ln_term).exp() + 1.0;
            peak = ln_term;
        } else {
            sum += (ln_term - peak).exp();
        }
    }
    peak + sum.ln()
}

/// Scales weights to a sum of 1.
fn weigh(mut nodes: Vec<Node>) -> Vec<Node> {
    let sum: f64 = nodes.iter().map(|node| node.weight).sum();
    for node in &mut nodes {
        node.weight /= sum;
    }
    nodes
}

/// P(g) tabulated over ln g, linear in between: a double integral asks for it 160,000 times.
struct Table {
    low: f64,
    values: Vec<f64>,
}

impl Table {
    const STEP: f64 = 0.01;

    /// Covers every convex combination of a gain from `a` and one from `b`.
    fn new(function: impl Fn(f64) -> f64, a: &[Node], b: &[Node]) -> Table {
        let gains = || a.iter().chain(b).map(|node| node.gain);
        let low = gains().fold(f64::MAX, f64::min).ln();
        let high = gains().fold(f64::MIN, f64::max).ln();
        let points = ((high - low) / Self::STEP).ceil() as usize + 2;
        let values = (0..points).map(|i| function((low + i as f64 * Self::STEP).exp())).collect();
        Table { low, values }
    }

    fn at(&self, gain: f64) -> f64 {
        let position = ((gain.ln() - self.low) / Self::STEP).max(0.0);
        let index = (position as usize).min(self.values.len() - 2);
        let fraction = position - index as f64;
        self.values[index] * (1.0 - fraction) + self.values[index + 1] * fraction
    }
}
