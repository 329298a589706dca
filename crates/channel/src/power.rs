//! The power constraint: (1/k) sum |x_i|^2 = 1 over the payload of each frame.

use num_complex::Complex32;

use crate::{Error, Result};

/// Mean power (1/k) sum |x_i|^2 of a frame, summed in f64; 0 for an empty one.
pub fn mean_power(symbols: &[Complex32]) -> f64 {
    let sum: f64 = symbols.iter().map(|x| f64::from(x.re).powi(2) + f64::from(x.im).powi(2)).sum();
    sum / symbols.len().max(1) as f64
}

/// Scales a frame to mean power 1 (to f32 rounding of each symbol) and returns the factor it was multiplied by.
///
/// # Errors
/// [`Error::NonFinite`] for the first NaN or infinity, [`Error::ZeroPower`] for an empty or an all-zero frame. The frame is unchanged
/// then.
pub fn normalize(symbols: &mut [Complex32]) -> Result<f32> {
    if let Some(index) = symbols.iter().position(|x| !x.is_finite()) {
        return Err(Error::NonFinite { field: "symbols", index, value: symbols[index].to_string() });
    }
    let power = mean_power(symbols);
    if power == 0.0 {
        return Err(Error::ZeroPower { symbols: symbols.len() });
    }
    // In f64: the factor itself may lie beyond f32 for tiny or huge symbols although the results do not.
    let scale = power.sqrt().recip();
    for x in symbols {
        *x = Complex32::new((f64::from(x.re) * scale) as f32, (f64::from(x.im) * scale) as f32);
    }
    Ok(scale as f32)
}
