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

    /// No channel at all: h = 1, no noise.
    pub(crate) fn identity() -> ChannelState {
        ChannelState { kind: ChannelKind::Awgn, h: vec![Complex32::ONE], coherence: 0, noise_var: 0.0 }
    }

    /// State of this channel and another after it, for a frame of `symbols`: y = h2 (h1 x + n1) + n2, so h = h2 h1 and N0 = |h2|^2 N1 + N2.
    ///
    /// A state has one N0: where h2 changes within the frame, |h2|^2 is the mean over its blocks. Both must be valid for the frame.
    #[must_use]
    pub fn then(&self, second: ChannelState, symbols: usize) -> ChannelState {
        let noise_var = second.gain() * self.noise_var + second.noise_var;
        let kind = if second.kind == ChannelKind::Awgn { self.kind } else { second.kind };
        if self.h[..] == [Complex32::ONE] {
            return ChannelState { kind, noise_var, ..second };
        }
        // With 0 for the whole frame, as in `coherence`, the greatest common divisor is the length that divides both.
        let coherence = gcd(self.coherence, second.coherence);
        let starts = (0..symbols.max(1)).step_by(block_len(symbols, coherence));
        let h = starts.map(|symbol| second.coefficient(symbol) * self.coefficient(symbol)).collect();
        ChannelState { kind, h, coherence, noise_var }
    }

    /// Mean power of what arrives for Es = 1.
    pub(crate) fn power(&self) -> f32 {
        self.gain() + self.noise_var
    }

    /// Mean of |h|^2 over the blocks.
    fn gain(&self) -> f32 {
        self.h.iter().map(|h| h.norm_sqr()).sum::<f32>() / self.h.len().max(1) as f32
    }

    /// Fading of one symbol; 0 for one beyond the frame.
    pub fn coefficient(&self, symbol: usize) -> Complex32 {
        let block = symbol.checked_div(self.coherence).unwrap_or(0);
        self.h.get(block).copied().unwrap_or_default()
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

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}
