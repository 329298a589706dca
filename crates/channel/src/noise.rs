//! Receiver noise.

use num_complex::Complex32;

use crate::{FrameKey, Substream, gaussian::Gaussian};

/// Fills `noise` with the noise of one frame: n ~ CN(0, noise_var), noise_var/2 per axis, independent between symbols.
///
/// It is bit for bit what [`crate::ChannelConfig::apply`] adds under the same key; use it where h and n are needed apart, for instance
/// in a training graph. With another `noise_var` the same key gives the same noise, scaled by the deviation; a shorter frame
/// gets a prefix.
pub fn fill(key: FrameKey, noise_var: f32, noise: &mut [Complex32]) {
    Gaussian::new(key.generator(Substream::Noise), noise_var).fill(noise);
}
