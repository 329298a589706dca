//! No fading: `h = 1`.

use num_complex::Complex32;

use crate::{Fading, FrameKey};

/// The additive white Gaussian noise channel: y = x + n, h = 1 in every block.
#[derive(Debug, Clone, Copy, Default)]
pub struct Awgn;

impl Fading for Awgn {
    fn fill(&self, _key: FrameKey, h: &mut [Complex32]) {
        h.fill(Complex32::new(1.0, 0.0));
    }
}
