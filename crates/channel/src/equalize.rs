//! Undoing the fading at the receiver.

use num_complex::Complex32;

use crate::{ChannelState, Error, Result, state::block_len};

/// A frame after the equaliser. `symbols[i]` estimates x_i, and `noise_var[i]` says how far to trust it.
///
/// With E|x|^2 = 1, symbol i of a block with coefficient h is
/// `x_hat = conj(h) y / (|h|^2 + N0) = a x + e`, where
///
/// * `noise_var = N0 / (|h|^2 + N0)`, in (0, 1], is the mean squared error E|x_hat - x|^2: 0 means certain, 1 means nothing received;
/// * `a = |h|^2 / (|h|^2 + N0) = 1 - noise_var` is the bias (the estimate shrinks towards 0 when it knows little), and
///   E|x_hat|^2 = a, so that a network sees bounded inputs however deep the fade.
///
/// The unbiased estimate, should it be needed, is `symbols / (1 - noise_var)` with noise variance N0/|h|^2 =
/// `noise_var / (1 - noise_var)`; it explodes for a small h, which is why it is not what is handed on.
#[derive(Debug, Clone, PartialEq)]
pub struct Equalized {
    /// MMSE estimates, one per symbol, biased as described.
    pub symbols: Vec<Complex32>,
    /// Mean squared error of each estimate, one per symbol.
    pub noise_var: Vec<f32>,
}

/// Minimum-mean-square-error equaliser with perfect channel state information, one tap per symbol.
///
/// # Errors
/// Those of [`ChannelState::validate`], and [`Error::NonFinite`] when a received symbol is not finite or too large to be equalised.
pub fn mmse(y: &[Complex32], state: &ChannelState) -> Result<Equalized> {
    let mut equalized = Equalized { symbols: y.to_vec(), noise_var: vec![0.0; y.len()] };
    mmse_in_place(&mut equalized.symbols, state, &mut equalized.noise_var)?;
    Ok(equalized)
}

/// [`mmse`] without allocation: replaces the received symbols by their estimates and fills `noise_var`, of the same length.
///
/// # Errors
/// Those of [`mmse`], and [`Error::Length`] when `noise_var` has another length than `symbols`. The contents are then unspecified.
pub fn mmse_in_place(symbols: &mut [Complex32], state: &ChannelState, noise_var: &mut [f32]) -> Result<()> {
    state.validate(symbols.len())?;
    if noise_var.len() != symbols.len() {
        return Err(Error::Length { field: "noise_var", actual: noise_var.len(), expected: symbols.len() });
    }
    let len = block_len(symbols.len(), state.coherence);
    let blocks = symbols.chunks_mut(len).zip(noise_var.chunks_mut(len)).zip(&state.h);
    for (number, ((block, errors), h)) in blocks.enumerate() {
        let total = h.norm_sqr() + state.noise_var;
        let tap = h.conj() / total;
        errors.fill(state.noise_var / total);
        for (offset, symbol) in block.iter_mut().enumerate() {
            let estimate = tap * *symbol;
            if !estimate.is_finite() {
                let (index, value) = (number * len + offset, symbol.to_string());
                return Err(Error::NonFinite { field: "received symbols", index, value });
            }
            *symbol = estimate;
        }
    }
    Ok(())
}
