//! Receiver noise.

use num_complex::Complex32;
use rand_chacha::ChaCha8Rng;

use crate::{FrameKey, Substream, fading::complex_normal};

/// Fills `noise` with the noise of one frame: n ~ CN(0, noise_var), noise_var/2 per axis, independent between symbols.
///
/// It is bit for bit what [`crate::ChannelConfig::apply`] adds under the same key; use it where h and n are needed apart, for instance
/// in a training graph. With another `noise_var` the same key gives the same noise, scaled by the deviation; a shorter frame
/// gets a prefix.
pub fn fill(key: FrameKey, noise_var: f32, noise: &mut [Complex32]) {
    let mut source = Source::new(key, noise_var);
    for n in noise {
        *n = source.draw();
    }
}

/// The noise of one frame, symbol after symbol.
pub(crate) struct Source {
    generator: ChaCha8Rng,
    axis_std: f32,
}

impl Source {
    pub(crate) fn new(key: FrameKey, noise_var: f32) -> Source {
        Source::of(key, Substream::Noise, noise_var)
    }

    pub(crate) fn of(key: FrameKey, substream: Substream, noise_var: f32) -> Source {
        Source { generator: key.generator(substream), axis_std: (0.5 * noise_var).sqrt() }
    }

    #[inline]
    pub(crate) fn draw(&mut self) -> Complex32 {
        complex_normal(&mut self.generator, self.axis_std)
    }
}
