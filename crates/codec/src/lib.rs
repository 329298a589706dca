//! What an image becomes on its way over the channel, in one definition for training and serving.
//!
//! Edge half: preprocessing, student encoder ([`StudentNet`]), CAT encoder ([`CatEncoder`]). Server half: CAT decoder ([`CatDecoder`])
//! and [`Classifier`], or [`Labels`] in its place. For serving, [`EncoderHalf`] and [`DecoderHalf`] load them from a bundle, which [`write_bundle`] writes.

mod bundle;
mod calibration;
mod cat;
pub mod cells;
mod classifier;
mod cost;
mod edge;
mod error;
pub mod images;
mod labels;
mod manifest;
mod network;
mod preprocess;
mod residual;
mod server;
mod student;
#[doc(hidden)]
pub mod testing;

pub use bundle::{BundleDraft, BundleError, Half, MANIFEST_FILE, write_bundle};
pub use calibration::{Calibration, CalibrationPoint};
pub use cat::{
    BlocksConfig, CatConfig, CatDecoder, CatEncoder, Condition, Csi, CsiSource, Estimates, MlpConfig, MlpDecoder,
    MlpEncoder, Passage, through_channel,
};
pub use classifier::Classifier;
pub use cost::Cost;
pub use edge::{EncoderHalf, EncoderState};
pub use error::{Error, Result};
pub use labels::{Labels, LabelsError};
pub use manifest::{AccuracyPoint, BUNDLE_VERSION, Hashes, Manifest, Provenance};
pub use network::{DecoderNetwork, EncoderNetwork};
pub use preprocess::{ImageError, ImageLimits, Input, InputSpec};
pub use residual::{ResidualConfig, ResidualNet, StageConfig};
pub use semlink_nn::runtime::{available_cpus, keep_freed_memory, on_this_thread};
pub use server::{Decision, DecoderHalf, Received};
pub use student::{StudentConfig, StudentNet};
