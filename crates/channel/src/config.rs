//! A channel's settings, and their application to frames.

use num_complex::Complex32;
use serde::{Deserialize, Serialize};

use crate::fading::multiply;
use crate::gaussian::{Gaussian, Powers};
use crate::{ChannelKind, ChannelState, FrameKey, RicianK, SnrDb, Substream};

/// One channel, fully described. As text (TOML, JSON ...): `kind`, `snr_db`, `k_factor_db` (default 6) and `coherence` (default 0).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelConfig {
    /// The fading model.
    pub kind: ChannelKind,
    /// Average SNR Es/N0.
    #[serde(rename = "snr_db")]
    pub snr: SnrDb,
    /// Rician factor; read only for [`ChannelKind::Rician`].
    #[serde(rename = "k_factor_db", default)]
    pub k_factor: RicianK,
    /// Symbols per fading block, 0: the whole frame; not read for [`ChannelKind::Awgn`].
    #[serde(default)]
    pub coherence: usize,
}

/// What [`ChannelConfig::apply`] did to a frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// Fading and noise level of the frame.
    pub state: ChannelState,
    /// Power of h x over power of the noise drawn, of this frame alone, in dB; -inf for a frame of zeros, NaN for an empty one.
    pub snr_db_realised: f32,
}

impl ChannelConfig {
    /// Noise alone.
    pub fn awgn(snr: SnrDb) -> ChannelConfig {
        ChannelConfig { kind: ChannelKind::Awgn, snr, k_factor: RicianK::default(), coherence: 0 }
    }

    /// Rayleigh fading, one coefficient per frame.
    pub fn rayleigh(snr: SnrDb) -> ChannelConfig {
        ChannelConfig { kind: ChannelKind::Rayleigh, ..ChannelConfig::awgn(snr) }
    }

    /// Rician fading, one coefficient per frame.
    pub fn rician(snr: SnrDb, k_factor: RicianK) -> ChannelConfig {
        ChannelConfig { kind: ChannelKind::Rician, k_factor, ..ChannelConfig::awgn(snr) }
    }

    /// Draws the fading of a frame of `symbols` symbols.
    pub fn draw(&self, key: FrameKey, symbols: usize) -> ChannelState {
        let mut state = self.empty_state();
        self.draw_into(key, symbols, &mut state);
        state
    }

    /// [`ChannelConfig::draw`] into a state whose memory is used again.
    pub fn draw_into(&self, key: FrameKey, symbols: usize, state: &mut ChannelState) {
        state.kind = self.kind;
        state.noise_var = self.snr.noise_var();
        match self.fading() {
            Some(fading) => {
                state.coherence = self.coherence;
                fading.draw(&key.draws(0), symbols, &mut state.h);
            }
            None => {
                state.coherence = 0;
                state.h.clear();
                state.h.push(Complex32::ONE);
            }
        }
    }

    /// Sends one frame through the channel in place: y_i = h_b(i) x_i + n_i, a complex product, b(i) the block of symbol i.
    ///
    /// The symbols should have mean power 1 ([`crate::power::normalize`]); noise is drawn for Es = 1 and is not scaled to the power sent.
    /// [`crate::Chain`] has more channels, and for this one gives the same bits.
    pub fn apply(&self, key: FrameKey, symbols: &mut [Complex32]) -> Applied {
        let mut state = self.empty_state();
        let snr_db_realised = self.apply_into(key, symbols, &mut state);
        Applied { state, snr_db_realised }
    }

    /// [`ChannelConfig::apply`] with a state whose memory is used again; returns the realised SNR in dB.
    pub fn apply_into(&self, key: FrameKey, symbols: &mut [Complex32], state: &mut ChannelState) -> f32 {
        self.draw_into(key, symbols.len(), state);
        if self.kind != ChannelKind::Awgn {
            multiply(symbols, &state.h, state.coherence);
        }
        let mut noise = Gaussian::new(key.generator(Substream::Noise), state.noise_var);
        let Powers { signal, noise } = noise.add(symbols);
        (10.0 * (signal / noise).log10()) as f32
    }

    fn empty_state(&self) -> ChannelState {
        ChannelState { kind: self.kind, h: Vec::new(), coherence: 0, noise_var: self.snr.noise_var() }
    }
}
