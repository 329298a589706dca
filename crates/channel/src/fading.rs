//! What a fading model is.

use num_complex::Complex32;
use rand::Rng;
use rand_distr::StandardNormal;

use crate::FrameKey;

/// A fading model: draws the coefficients of one frame, one per block, with `E|h|^2 = 1`.
pub trait Fading {
    /// Fills `h`, one coefficient for each block in order, from the frame's own generators. The first coefficients
    /// must not depend on how many follow.
    fn fill(&self, key: FrameKey, h: &mut [Complex32]);
}

/// One draw from CN(0, variance): `variance` in total, half of it on each axis. `axis_std` is sqrt(variance / 2).
#[inline]
pub(crate) fn complex_normal(generator: &mut impl Rng, axis_std: f32) -> Complex32 {
    let re: f32 = generator.sample(StandardNormal);
    let im: f32 = generator.sample(StandardNormal);
    Complex32::new(axis_std * re, axis_std * im)
}
