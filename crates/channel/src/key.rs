//! Counter-based randomness: a frame's draws are a pure function of its key.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Names the random draws of one frame. Same key: same fading and noise; any other key: independent ones.
///
/// The generator is ChaCha8. Its 256-bit key is the concatenation `seed | link | stream | frame`, each as 8 bytes little-endian,
/// so that no two keys ever share a keystream (nothing is hashed, nothing can collide). Its 64-bit nonce is the
/// [`Substream`] and its block counter starts at 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrameKey {
    /// Chosen for the experiment.
    pub seed: u64,
    /// Which hop of a chain of emulators.
    pub link: u64,
    /// Which client.
    pub stream: u64,
    /// Which frame of that client.
    pub frame: u64,
}

/// Independent sources within one frame. Noise has one of its own, so that it is the same whatever the fading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Substream {
    /// Scattered part of the fading coefficients, in block order.
    Scatter,
    /// Receiver noise, in symbol order.
    Noise,
    /// Phase of the line of sight.
    LineOfSight,
    /// Receiver noise of the pilots.
    PilotNoise,
}

impl FrameKey {
    /// A fresh generator at the start of one of the frame's substreams.
    pub fn generator(&self, substream: Substream) -> ChaCha8Rng {
        let mut key = [0; 32];
        for (bytes, word) in key.chunks_exact_mut(8).zip([self.seed, self.link, self.stream, self.frame]) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        let mut generator = ChaCha8Rng::from_seed(key);
        generator.set_stream(match substream {
            Substream::Scatter => 0,
            Substream::Noise => 1,
            Substream::LineOfSight => 2,
            Substream::PilotNoise => 3,
        });
        generator
    }
}
