//! Tiny codecs with random weights, for tests that need a bundle but no accuracy.

use std::io::Cursor;
use std::path::Path;

use candle_core::Device;
use semlink_nn::Params;

use crate::{
    BlocksConfig, BundleDraft, BundleError, Calibration, CatConfig, DecoderNetwork, EncoderNetwork, InputSpec,
    Manifest, Provenance, ResidualConfig, StageConfig, StudentConfig, write_bundle as write,
};

/// Writes a bundle for 28 x 28 gray images, 10 classes and 8 to 256 channel uses into `dir`. The same seed gives the same bundle.
///
/// # Errors
/// The directory takes no files.
pub fn write_bundle(dir: impl AsRef<Path>, seed: u64) -> Result<Manifest, BundleError> {
    write_draft(dir, seed, draft())
}

/// As [`write_bundle`], of another description.
///
/// # Errors
/// The directory takes no files, or the description cannot be.
pub fn write_draft(dir: impl AsRef<Path>, seed: u64, draft: BundleDraft) -> Result<Manifest, BundleError> {
    let params = Params::init(seed, &Device::Cpu);
    EncoderNetwork::new(&params, &draft.student, &draft.cat, draft.input.channels)?;
    DecoderNetwork::new(&params, &draft.cat, draft.student.features(), draft.labels.len())?;
    let tensors = params.tensors().map_err(crate::Error::from)?;
    write(dir.as_ref(), draft, &tensors)
}

/// The description of the bundle that [`write_bundle`] writes.
pub fn draft() -> BundleDraft {
    let stage = |channels| StageConfig { channels, blocks: 0, stride: 2 };
    let blocks = |width| BlocksConfig { width, blocks: 1, heads: 2, expansion: 2 };
    BundleDraft {
        created: "2025-01-01T00:00:00Z".to_owned(),
        student: StudentConfig::Residual(ResidualConfig { stem: 4, stages: vec![stage(8), stage(8)], features: 16 }),
        cat: CatConfig {
            tokens: 8,
            rates: vec![8, 16, 32, 64, 128, 256],
            codewords: 10,
            encoder: blocks(8),
            decoder: blocks(16),
        },
        input: InputSpec { height: 28, width: 28, channels: 1, mean: vec![0.5], std: vec![0.25] },
        labels: ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
            .map(String::from)
            .to_vec(),
        snr_range_db: [-10.0, 20.0],
        clean_accuracy: None,
        accuracy: Vec::new(),
        calibration: Calibration::default(),
        feature_space: None,
        provenance: Provenance { recipe: "random weights".to_owned(), ..Provenance::default() },
    }
}

/// A PNG file of 28 x 28 gray pixels, another for each seed.
pub fn png(seed: u64) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    let image = image::GrayImage::from_fn(28, 28, |x, y| {
        // A few rounds of a multiplicative hash: any texture will do.
        let mut v = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (u64::from(x / 4) << 32 | u64::from(y / 4));
        v = (v ^ (v >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        image::Luma([(v >> 40) as u8])
    });
    // Writing to memory cannot fail.
    let _ = image.write_to(&mut bytes, image::ImageFormat::Png);
    bytes.into_inner()
}
