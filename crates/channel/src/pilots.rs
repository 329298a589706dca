//! Pilots: known symbols from which a receiver estimates the fading and the noise of a frame.
//!
//! p pilots of unit power precede the payload and meet the same h, which must be constant over the frame (`coherence` 0); their noise is
//! their own. With received pilots y_i = h s_i + n_i the least-squares estimate is
//! `h_ls = (1/p) sum conj(s_i) y_i`, with error variance N0/p; for the prior h ~ CN(0, 1) the estimate of least mean squared error is
//! `p / (p + N0) h_ls`, with error variance N0 / (p + N0) (Kay, *Estimation Theory*, chapters 4 and 12).
//!
//! N0 has two sources: what the pilots leave, `sum |y_i - h_ls s_i|^2 / (p - 1)`, with variance N0^2 / (p - 1), good at high SNR, and what
//! the payload's power exceeds that of h by, as a payload has mean power exactly 1: good at low SNR, where k noisy symbols say more than p. Both are
//! weighed by their inverse variances.

use std::f32::consts::PI;
use std::fmt;
use std::str::FromStr;

use num_complex::Complex32;
use serde::{Deserialize, Serialize};

use crate::gaussian::Gaussian;
use crate::{ChannelKind, ChannelState, Error, FrameKey, Result, Substream};

/// Fewest pilots of a frame: one alone cannot tell its noise from fading.
pub const MIN: usize = 2;
/// Most pilots of a frame.
pub const MAX: usize = 1024;

/// How h is estimated; as text `ls` or `mmse`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Estimator {
    /// Least squares: assumes nothing of h.
    Ls,
    /// Minimum mean squared error for E|h|^2 = 1.
    #[default]
    Mmse,
}

/// What a receiver makes of the pilots of one frame: y = (h + e) x + n.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Estimate of the fading coefficient, constant over the frame.
    pub h: Complex32,
    /// Variance of its error, E|e|^2.
    pub error_var: f32,
    /// Estimate of N0, in total per complex symbol.
    pub noise_var: f32,
}

impl Estimate {
    /// Average SNR in dB that the noise stands for: -10 log10(N0).
    pub fn snr_db(&self) -> f32 {
        -10.0 * self.noise_var.log10()
    }

    /// The channel as an equaliser should see it: for a symbol of unit power, the error of the estimate is noise of variance `error_var`.
    pub fn state(&self) -> ChannelState {
        ChannelState {
            kind: ChannelKind::Awgn,
            h: vec![self.h],
            coherence: 0,
            noise_var: self.noise_var + self.error_var,
        }
    }
}

/// The `count` pilots that both ends know, |s_i| = 1: a Zadoff-Chu sequence of root 1.
pub fn sequence(count: usize) -> Vec<Complex32> {
    let odd = count % 2;
    // n (n + odd) taken modulo 2 p first: a large phase would lose its digits.
    let phase = |n: usize| -PI * ((n * (n + odd)) % (2 * count)) as f32 / count as f32;
    (0..count).map(|n| Complex32::from_polar(1.0, phase(n))).collect()
}

/// Sends pilots through the channel of their frame in place: y_i = h s_i + n_i, h the first coefficient of `state`, noise from the key's
/// substream for pilots.
pub fn apply(key: FrameKey, state: &ChannelState, pilots: &mut [Complex32]) {
    let h = state.h.first().copied().unwrap_or(Complex32::ONE);
    for pilot in pilots.iter_mut() {
        *pilot *= h;
    }
    Gaussian::new(key.generator(Substream::PilotNoise), state.noise_var).add(pilots);
}

/// Estimates the channel of a frame from its received pilots, those of [`sequence`], and its received payload.
///
/// # Errors
/// [`Error::OutOfRange`] unless there are [`MIN`] to [`MAX`] pilots and a payload, [`Error::NonFinite`] for a symbol that is not finite.
pub fn estimate(pilots: &[Complex32], payload: &[Complex32], estimator: Estimator) -> Result<Estimate> {
    let p = pilots.len();
    if !(MIN..=MAX).contains(&p) {
        return Err(Error::OutOfRange { field: "pilots", value: p.to_string(), range: "in [2, 1024]" });
    }
    if payload.is_empty() {
        return Err(Error::OutOfRange { field: "symbols", value: "0".into(), range: "at least 1" });
    }
    for (field, symbols) in [("pilots", pilots), ("symbols", payload)] {
        if let Some(index) = symbols.iter().position(|y| !y.norm_sqr().is_finite()) {
            return Err(Error::NonFinite { field, index, value: symbols[index].to_string() });
        }
    }
    let sent = sequence(p);
    let count = p as f32;
    let h = sent.iter().zip(pilots).map(|(s, y)| s.conj() * y).sum::<Complex32>() / count;
    let noise_var = noise_power(h, &sent, pilots, payload).clamp(1e-9, 1e12);
    Ok(match estimator {
        Estimator::Ls => Estimate { h, error_var: noise_var / count, noise_var },
        Estimator::Mmse => {
            Estimate { h: h * (count / (count + noise_var)), error_var: noise_var / (count + noise_var), noise_var }
        }
    })
}

/// Both estimates of N0, each weighed by the inverse of its variance.
fn noise_power(h: Complex32, sent: &[Complex32], pilots: &[Complex32], payload: &[Complex32]) -> f32 {
    let (p, k) = (pilots.len() as f64, payload.len() as f64);
    let power = payload.iter().map(|y| f64::from(y.norm_sqr())).sum::<f64>() / k;
    let gain = f64::from(h.norm_sqr());
    let left = sent.iter().zip(pilots).map(|(s, y)| f64::from((y - h * s).norm_sqr())).sum::<f64>() / (p - 1.0);
    // E|h_ls|^2 = |h|^2 + N0/p
    let share = 1.0 - 1.0 / p;
    let excess = ((power - gain) / share).max(0.0);
    // The variances need N0 themselves. Begun with degrees of freedom as weights: a small `left` of few pilots would else count for certain.
    let mut noise_var = (left * (p - 1.0) + excess * k) / (p - 1.0 + k);
    for _ in 0..4 {
        let fading = (gain - noise_var / p).max(0.0);
        let square = noise_var * noise_var;
        let of_left = square / (p - 1.0);
        let cross = 2.0 * fading * noise_var;
        let of_excess = ((cross + square) / k + cross / p + square / (p * p)) / (share * share);
        noise_var = (left * of_excess + excess * of_left) / (of_left + of_excess).max(f64::MIN_POSITIVE);
    }
    noise_var as f32
}

impl fmt::Display for Estimator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Estimator::Ls => "ls",
            Estimator::Mmse => "mmse",
        })
    }
}

impl FromStr for Estimator {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Estimator, String> {
        match text {
            "ls" => Ok(Estimator::Ls),
            "mmse" => Ok(Estimator::Mmse),
            _ => Err(format!("estimator is {text:?}, must be ls or mmse")),
        }
    }
}
