//! Elementary functions that the compiler can vectorise, accurate to a few units in the last place of f32.

// The coefficients are those of the published approximations, more digits than f32 holds.
#![allow(clippy::excessive_precision)]

/// e^x; 0 below -87.3, clamped above 88.3 (never infinite). Range reduction by ln 2 in two parts and a polynomial of degree 6
/// (the classic Cephes scheme); relative error below 2e-7.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let clamped = x.clamp(-87.3, 88.3);
    // Rounds to the nearest integer n: next to 1.5 x 2^23 an f32 has no bits for a fraction, and its lowest bits are n.
    const ROUND: f32 = 12_582_912.0;
    let rounded = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = clamped - n * 0.693_359_375 + n * 2.121_944_4e-4;
    let mut p = 1.987_569_15e-4;
    p = p * r + 1.398_199_95e-3;
    p = p * r + 8.333_451_9e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_55e-1;
    p = p * r + 5.000_000_1e-1;
    let mantissa = p * r * r + r + 1.0;
    // 2^n, by putting n into the exponent; n is within -126..=127.
    let scale = f32::from_bits((rounded.to_bits() << 23).wrapping_add(127 << 23));
    let y = mantissa * scale;
    if x < -87.3 { 0.0 } else { y }
}

/// The error function by formula 7.1.26 of Abramowitz and Stegun; absolute error below 5e-7 in f32.
#[inline(always)]
pub(crate) fn erf(x: f32) -> f32 {
    let a = x.abs();
    let t = 1.0 / (1.0 + 0.327_591_1 * a);
    let mut p = 1.061_405_429;
    p = p * t - 1.453_152_027;
    p = p * t + 1.421_413_741;
    p = p * t - 0.284_496_736;
    p = p * t + 0.254_829_592;
    let y = 1.0 - p * t * exp(-a * a);
    if x < 0.0 { -y } else { y }
}

const FRAC_1_SQRT_2: f32 = std::f32::consts::FRAC_1_SQRT_2;
const FRAC_1_SQRT_2PI: f32 = 0.398_942_280_4;

/// x Phi(x) with the exact normal distribution function Phi: PyTorch's default GELU.
#[inline(always)]
pub(crate) fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * FRAC_1_SQRT_2))
}

/// The derivative of [`gelu`]: Phi(x) + x phi(x).
#[inline(always)]
pub(crate) fn gelu_derivative(x: f32) -> f32 {
    0.5 * (1.0 + erf(x * FRAC_1_SQRT_2)) + x * FRAC_1_SQRT_2PI * exp(-0.5 * x * x)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The error function by its Maclaurin series in f64, exact to rounding for |x| <= 4.
    fn erf_series(x: f64) -> f64 {
        let (mut term, mut sum, mut n) = (x, x, 0.0);
        while term.abs() > 1e-18 {
            n += 1.0;
            term *= -x * x / n;
            sum += term / (2.0 * n + 1.0);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    }

    #[test]
    fn exp_agrees_with_the_library_in_f64() {
        for i in -87_000..=88_000 {
            let x = i as f32 / 1000.0;
            let expected = f64::from(x).exp();
            let relative = (f64::from(exp(x)) - expected).abs() / expected;
            assert!(relative < 3e-7, "exp({x}): relative error {relative}");
        }
        assert_eq!(exp(-1000.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(1000.0) > 1e38 && exp(1000.0).is_finite());
    }

    #[test]
    fn erf_and_gelu_agree_with_the_series() {
        for i in -4000..=4000 {
            let x = i as f32 / 1000.0;
            assert!((f64::from(erf(x)) - erf_series(f64::from(x))).abs() < 5e-7, "erf({x})");
            let phi = 0.5 * (1.0 + erf_series(f64::from(x) / 2f64.sqrt()));
            assert!((f64::from(gelu(x)) - f64::from(x) * phi).abs() < 2e-6, "gelu({x})");
            let density = (-0.5 * f64::from(x).powi(2)).exp() / (2.0 * std::f64::consts::PI).sqrt();
            let slope = phi + f64::from(x) * density;
            assert!((f64::from(gelu_derivative(x)) - slope).abs() < 2e-6, "gelu'({x})");
        }
    }
}
