//! Buckets of the histograms: the same quantity has the same buckets wherever it is measured.

use super::Histogram;

/// Of a duration: 0.1 ms to 30 s, three for each decade.
pub const SECONDS: [f64; 17] =
    [1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0];
/// Of a batch: powers of two.
pub const BATCH: [f64; 11] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];
/// Of an SNR in dB: five dB wide.
pub const SNR_DB: [f64; 15] =
    [-30.0, -25.0, -20.0, -15.0, -10.0, -5.0, 0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 35.0, 40.0];
/// Of a confidence: finer where decisions are sure.
pub const CONFIDENCE: [f64; 12] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0];

/// An empty histogram of seconds.
pub fn seconds() -> Histogram {
    Histogram::new(SECONDS)
}

/// An empty histogram of batch sizes.
pub fn batch() -> Histogram {
    Histogram::new(BATCH)
}

/// An empty histogram of SNRs in dB.
pub fn snr_db() -> Histogram {
    Histogram::new(SNR_DB)
}

/// An empty histogram of confidences.
pub fn confidence() -> Histogram {
    Histogram::new(CONFIDENCE)
}

/// An empty histogram of channel uses: powers of two up to the largest frame.
pub fn uses() -> Histogram {
    Histogram::new((0..=16).map(|power| f64::from(1_u32 << power)))
}
