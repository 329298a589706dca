//! Fading around a line of sight.

use std::f32::consts::TAU;

use num_complex::Complex32;
use rand::Rng;

use crate::{Fading, FrameKey, RicianK, Substream, fading::complex_normal};

/// Rician block fading: h = sqrt(K/(K+1)) e^(j theta) + sqrt(1/(K+1)) CN(0, 1), so that `E|h|^2 = 1` for every K.
///
/// theta, the phase of the line of sight, is drawn once per frame, uniformly over [0, 2 pi); the scattered part is drawn
/// per block, from the same draws as [`crate::Rayleigh`] with the same key.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rician {
    /// Power of the line of sight over power of the scattered part.
    pub k_factor: RicianK,
}

impl Fading for Rician {
    fn fill(&self, key: FrameKey, h: &mut [Complex32]) {
        let k = self.k_factor.linear();
        let theta = TAU * key.generator(Substream::LineOfSight).random::<f32>();
        let line_of_sight = Complex32::from_polar((k / (k + 1.0)).sqrt(), theta);
        let axis_std = (0.5 / (k + 1.0)).sqrt();
        let mut scatter = key.generator(Substream::Scatter);
        for h in h {
            *h = line_of_sight + complex_normal(&mut scatter, axis_std);
        }
    }
}
