//! How far a measured error rate or accuracy can be trusted.

/// 95 % interval of a proportion found in `n` independent trials (Wilson 1927): the proportions p for which the one found lies within
/// 1.96 standard deviations sqrt(p (1 - p) / n). Never outside \[0, 1\], and sound near its ends; \[0, 1\] for n = 0.
pub fn wilson(proportion: f64, n: usize) -> [f64; 2] {
    // The 97.5 % quantile of the normal law.
    const Z: f64 = 1.959_963_984_540_054;
    if n == 0 {
        return [0.0, 1.0];
    }
    let n = n as f64;
    let center = proportion + Z * Z / (2.0 * n);
    let half = Z * (proportion * (1.0 - proportion) / n + Z * Z / (4.0 * n * n)).sqrt();
    let total = 1.0 + Z * Z / n;
    [((center - half) / total).max(0.0), ((center + half) / total).min(1.0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wilson_intervals_are_the_published_ones() {
        // Newcombe (1998), Statistics in Medicine 17: 857-872, table I, method 3.
        let published = [
            (81, 263, [0.2553, 0.3662]),
            (15, 148, [0.0624, 0.1605]),
            (0, 20, [0.0, 0.1611]),
            (1, 29, [0.0061, 0.1718]),
        ];
        for (correct, n, expected) in published {
            let found = wilson(f64::from(correct) / n as f64, n);
            for (a, b) in found.iter().zip(expected) {
                assert!((a - b).abs() < 5e-5, "{correct} of {n}: {found:?}, published {expected:?}");
            }
        }
        assert_eq!(wilson(0.0, 0), [0.0, 1.0]);
        assert_eq!(wilson(1.0, 20)[1], 1.0);
    }
}
