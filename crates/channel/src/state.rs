//! What the channel did to one frame, as an ideal receiver knows it.

use num_complex::Complex32;

use crate::{ChannelKind, Error, Result};

/// Channel state of one frame: y = h x + n with n ~ CN(0, noise_var).
///
/// The fields are open because a state also arrives from outside; [`ChannelState::validate`] is what makes such a one safe to use.
#[derive(Debug, Clone, PartialEq)]
pub struct ChannelState {
    /// The fading model.
    pub kind: ChannelKind,
    /// Fading coefficients, one per block; for AWGN a single 1 + 0i.
    pub h: Vec<Complex32>,
    /// Symbols per block, the last block may be shorter; 0: one block for the whole frame.
    pub coherence: usize,
    /// N0, in total per complex symbol.
    pub noise_var: f32,
}

impl ChannelState {
    /// Checks a state against the number of symbols of its frame.
    ///
    /// # Errors
    /// [`Error::Length`] unless `h` has one value per block, [`Error::NonFinite`] for a coefficient whose squared magnitude is not
    /// finite, [`Error::OutOfRange`] for a noise variance outside (0, 1e12].
    pub fn validate(&self, symbols: usize) -> Result<()> {
        let expected = blocks(symbols, self.coherence);
        if self.h.len() != expected {
            return Err(Error::Length { field: "h", actual: self.h.len(), expected });
        }
        if let Some(index) = self.h.iter().position(|h| !h.norm_sqr().is_finite()) {
            return Err(Error::NonFinite { field: "h", index, value: self.h[index].to_string() });
        }
        if !(self.noise_var > 0.0 && self.noise_var <= 1e12) {
            return Err(Error::OutOfRange {
                field: "noise_var",
                value: self.noise_var.to_string(),
                range: "in (0, 1e12]",
            });
        }
        Ok(())
    }

    /// Average SNR in dB that `noise_var` stands for: -10 log10(N0).
    pub fn snr_db(&self) -> f32 {
        -10.0 * self.noise_var.log10()
    }
}

/// Number of blocks of a frame; at least 1.
pub(crate) fn blocks(symbols: usize, coherence: usize) -> usize {
    if coherence == 0 { 1 } else { symbols.div_ceil(coherence).max(1) }
}

/// Length of a block in symbols, at least 1: what to split a frame by.
pub(crate) fn block_len(symbols: usize, coherence: usize) -> usize {
    if coherence == 0 { symbols.max(1) } else { coherence }
}
