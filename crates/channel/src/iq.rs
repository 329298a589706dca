//! `cf32_le`, the form of symbols on the wire: f32 I, then f32 Q, little-endian, 8 bytes per symbol.

use num_complex::Complex32;

use crate::{Error, Result};

/// Bytes of one symbol.
pub const SYMBOL_BYTES: usize = 8;

/// Symbols as bytes, without a copy where the machine is little-endian.
#[derive(Debug, Clone, PartialEq)]
pub struct Encoded(Vec<Complex32>);

impl From<Vec<Complex32>> for Encoded {
    fn from(mut symbols: Vec<Complex32>) -> Encoded {
        turn_around(&mut symbols);
        Encoded(symbols)
    }
}

impl AsRef<[u8]> for Encoded {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

/// Symbols as bytes.
pub fn encode(symbols: &[Complex32]) -> Vec<u8> {
    let mut symbols = symbols.to_vec();
    turn_around(&mut symbols);
    bytemuck::cast_slice(&symbols).to_vec()
}

/// Bytes as symbols; no bytes are no symbols.
///
/// # Errors
/// [`Error::PartialSymbol`] unless the length is a multiple of 8, [`Error::NonFinite`] with the index of the first symbol that
/// holds a NaN or an infinity.
pub fn decode(bytes: &[u8]) -> Result<Vec<Complex32>> {
    if !bytes.len().is_multiple_of(SYMBOL_BYTES) {
        return Err(Error::PartialSymbol { bytes: bytes.len() });
    }
    let mut symbols = vec![Complex32::ZERO; bytes.len() / SYMBOL_BYTES];
    bytemuck::cast_slice_mut(&mut symbols).copy_from_slice(bytes);
    turn_around(&mut symbols);
    if all_finite(&symbols) {
        return Ok(symbols);
    }
    let index = symbols.iter().position(|symbol| !symbol.is_finite()).unwrap_or_default();
    Err(Error::NonFinite { field: "iq", index, value: symbols[index].to_string() })
}

/// Whether no symbol holds a NaN or an infinity. Without an early end, so that the compiler finds vectors.
pub fn all_finite(symbols: &[Complex32]) -> bool {
    const EXPONENT: u32 = 0x7f80_0000;
    let words: &[u32] = bytemuck::cast_slice(symbols);
    !words.iter().fold(false, |found, word| found | (word & EXPONENT == EXPONENT))
}

/// From the machine's byte order to little-endian, or back; nothing on most machines.
fn turn_around(symbols: &mut [Complex32]) {
    if cfg!(target_endian = "big") {
        bytemuck::cast_slice_mut::<_, u32>(symbols).iter_mut().for_each(|word| *word = word.swap_bytes());
    }
}
