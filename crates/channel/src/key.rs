//! Counter-based randomness: a frame's draws are a pure function of its key.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Names the random draws of one frame. Same key: same fading and noise; any other key: independent ones.
///
/// The generator is ChaCha8. Its 256-bit key is the concatenation `seed | link | stream | frame`, each as 8 bytes little-endian,
/// so that no two keys ever share a keystream (nothing is hashed, nothing can collide). Its 64-bit nonce is the
/// [`Substream`], with the number of the stage among those of its model in a chain in the upper half, and its block counter starts at 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrameKey {
    /// Chosen for the experiment.
    pub seed: u64,
    /// Which link of an emulator, or which hop of a chain of emulators.
    pub link: u64,
    /// Which client.
    pub stream: u64,
    /// Which frame of that client.
    pub frame: u64,
}

/// Independent sources within one frame. Noise has one of its own, so that it is the same whatever the fading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Substream {
    /// Scattered part of the fading coefficients, in block order.
    Scatter = 0,
    /// Receiver noise, in symbol order.
    Noise = 1,
    /// Phase of the line of sight.
    LineOfSight = 2,
    /// Receiver noise of the pilots.
    PilotNoise = 3,
    /// Paths of a fading process with Doppler.
    Paths = 4,
    /// Increments of the phase noise, from the first payload symbol on.
    PhaseNoise = 5,
    /// Increments of the phase noise of the pilots, backwards from the first payload symbol.
    PilotPhaseNoise = 6,
    /// When there are impulses.
    Impulses = 7,
    /// When there are some within the pilots.
    PilotImpulses = 8,
    /// Shadowing.
    Shadowing = 9,
    /// States and erasures of a bursty channel.
    Erasures = 10,
    /// Those of the pilots, backwards from the first payload symbol.
    PilotErasures = 11,
    /// Loss, delay and order of whole frames.
    Transport = 12,
    /// Steps of an SNR that walks at random.
    Walk = 13,
    /// The impulses themselves.
    ImpulseValues = 14,
    /// Those within the pilots.
    PilotImpulseValues = 15,
}

/// The draws of one stage of a chain, for one frame.
#[derive(Debug, Clone, Copy)]
pub struct Draws {
    key: FrameKey,
    instance: u32,
}

impl FrameKey {
    /// A fresh generator at the start of one of the frame's substreams.
    pub fn generator(&self, substream: Substream) -> ChaCha8Rng {
        self.draws(0).generator(substream)
    }

    /// The draws of stage `instance`, counted from 0 among those of its model.
    pub fn draws(&self, instance: u32) -> Draws {
        Draws { key: *self, instance }
    }
}

impl Draws {
    /// The frame's key.
    pub fn key(&self) -> FrameKey {
        self.key
    }

    /// A fresh generator at the start of one of the stage's substreams.
    pub fn generator(&self, substream: Substream) -> ChaCha8Rng {
        let FrameKey { seed, link, stream, frame } = self.key;
        let mut key = [0; 32];
        for (bytes, word) in key.chunks_exact_mut(8).zip([seed, link, stream, frame]) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        let mut generator = ChaCha8Rng::from_seed(key);
        generator.set_stream(u64::from(self.instance) << 32 | u64::from(substream as u32));
        generator
    }

    /// The draws that `frames` consecutive frames of the stream share; 0: those that all of them share.
    #[must_use]
    pub fn shared_by(&self, frames: u64) -> Draws {
        // A frame of its own has its number as it is: 1 changes nothing.
        Draws { key: FrameKey { frame: self.key.frame.checked_div(frames).unwrap_or(0), ..self.key }, ..*self }
    }
}
