//! Fading without a line of sight.

use std::f32::consts::FRAC_1_SQRT_2;

use num_complex::Complex32;

use crate::{Fading, FrameKey, Substream, fading::complex_normal};

/// Rayleigh block fading: h ~ CN(0, 1), independent between blocks. |h| has the Rayleigh distribution with
/// `E|h|^2 = 1`, |h|^2 the exponential one with mean 1.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rayleigh;

impl Fading for Rayleigh {
    fn fill(&self, key: FrameKey, h: &mut [Complex32]) {
        let mut scatter = key.generator(Substream::Scatter);
        for h in h {
            *h = complex_normal(&mut scatter, FRAC_1_SQRT_2);
        }
    }
}
