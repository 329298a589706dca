//! What stage `evaluate` found: `report.json`.

use std::path::Path;

use semlink_channel::ChannelKind;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Measured on the test split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The data set, by the recipe's name.
    pub dataset: String,
    /// The teacher: encoder and classifier.
    pub teacher: Network,
    /// The student's encoder, judged through the teacher's classifier, without a channel.
    pub student: Network,
    /// The codec over the channel.
    pub points: Vec<Point>,
}

/// A network without a channel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Network {
    /// Trainable scalars.
    pub params: usize,
    /// Multiply-accumulates for one image.
    pub macs: u64,
    /// Top-1 accuracy.
    pub accuracy: f64,
    /// 95 % Wilson interval of `accuracy`.
    pub ci95: [f64; 2],
    /// Images measured.
    pub images: usize,
}

/// The codec at one operating point. The encoder is told average SNR and kind, the decoder has perfect channel state information.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// The fading model, constant over a frame.
    pub channel: ChannelKind,
    /// Average Es/N0.
    pub snr_db: f32,
    /// K of the Rician channel, in dB; absent for the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub k_factor_db: Option<f32>,
    /// Payload channel uses.
    pub k: usize,
    /// Pilot symbols, on top of k.
    pub pilots: usize,
    /// What the receiver knows: `perfect`.
    pub csi: String,
    /// Images sent: every test image `draws` times.
    pub images: usize,
    /// Frames of each test image, through independent channels.
    pub draws: usize,
    /// Images recognised.
    pub correct: usize,
    /// `correct` / `images`.
    pub accuracy: f64,
    /// 95 % Wilson interval of `accuracy` for `images` / `draws` images: several frames of one image are not independent trials.
    pub ci95: [f64; 2],
    /// Power of all h x over the power of all noise drawn.
    pub snr_db_measured: f32,
    /// What the measurement managed; includes the simulated channel, excludes the student.
    pub images_per_second: f64,
    /// The highest accuracy that any codec could reach here with this student, see [`semlink_channel::limit`].
    pub limit: f64,
}

impl Report {
    /// Reads a report.
    ///
    /// # Errors
    /// The file cannot be read or is no report.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        serde_json::from_str(&text).map_err(|e| Error::Report { path: path.to_owned(), what: e.to_string() })
    }

    /// Writes the report.
    ///
    /// # Errors
    /// The folder takes no file.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self)
            .map_err(|e| Error::Report { path: path.to_owned(), what: e.to_string() })?;
        Ok(semlink_nn::checkpoint::write_atomically(path, &text)?)
    }
}

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
