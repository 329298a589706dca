//! `cf32_le`, the form of symbols on the wire: f32 I, then f32 Q, little-endian, 8 bytes per symbol.

use num_complex::Complex32;

use crate::{Error, Result};

/// Bytes of one symbol.
pub const SYMBOL_BYTES: usize = 8;

/// Symbols as bytes.
pub fn encode(symbols: &[Complex32]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(symbols.len() * SYMBOL_BYTES);
    for symbol in symbols {
        bytes.extend_from_slice(&symbol.re.to_le_bytes());
        bytes.extend_from_slice(&symbol.im.to_le_bytes());
    }
    bytes
}

/// Bytes as symbols; no bytes are no symbols.
///
/// # Errors
/// [`Error::PartialSymbol`] unless the length is a multiple of 8, [`Error::NonFinite`] with the index of the first symbol that
/// holds a NaN or an infinity.
pub fn decode(bytes: &[u8]) -> Result<Vec<Complex32>> {
    let (pairs, rest) = bytes.as_chunks::<SYMBOL_BYTES>();
    if !rest.is_empty() {
        return Err(Error::PartialSymbol { bytes: bytes.len() });
    }
    let symbol = |(index, &[a, b, c, d, e, f, g, h]): (usize, &[u8; SYMBOL_BYTES])| {
        let symbol = Complex32::new(f32::from_le_bytes([a, b, c, d]), f32::from_le_bytes([e, f, g, h]));
        if symbol.is_finite() {
            Ok(symbol)
        } else {
            Err(Error::NonFinite { field: "iq", index, value: symbol.to_string() })
        }
    };
    pairs.iter().enumerate().map(symbol).collect()
}
