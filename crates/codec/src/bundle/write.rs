//! Writing a bundle.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Tensor};
use semlink_nn::{Params, checkpoint};

use super::read::check_tensors;
use super::{BundleError, Half, MANIFEST_FILE};
use crate::manifest::{AccuracyPoint, BUNDLE_VERSION, Hashes, Manifest, Provenance, sha256};
use crate::{Calibration, CatConfig, EncoderNetwork, InputSpec, StudentConfig};

/// A [`Manifest`] before its halves have been written: the same fields but version, id and hashes.
#[derive(Clone, Debug, PartialEq)]
pub struct BundleDraft {
    /// See [`Manifest::created`].
    pub created: String,
    /// See [`Manifest::student`].
    pub student: StudentConfig,
    /// See [`Manifest::cat`].
    pub cat: CatConfig,
    /// See [`Manifest::input`].
    pub input: InputSpec,
    /// See [`Manifest::labels`].
    pub labels: Vec<String>,
    /// See [`Manifest::snr_range_db`].
    pub snr_range_db: [f32; 2],
    /// See [`Manifest::clean_accuracy`].
    pub clean_accuracy: Option<f64>,
    /// See [`Manifest::accuracy`].
    pub accuracy: Vec<AccuracyPoint>,
    /// See [`Manifest::calibration`].
    pub calibration: Calibration,
    /// See [`Manifest::feature_space`].
    pub feature_space: Option<String>,
    /// See [`Manifest::provenance`].
    pub provenance: Provenance,
}

impl From<Manifest> for BundleDraft {
    /// What a bundle that differs in its weights alone says of itself.
    fn from(manifest: Manifest) -> BundleDraft {
        let Manifest {
            created,
            student,
            cat,
            input,
            labels,
            snr_range_db,
            clean_accuracy,
            accuracy,
            calibration,
            feature_space,
            provenance,
            ..
        } = manifest;
        BundleDraft {
            created,
            student,
            cat,
            input,
            labels,
            snr_range_db,
            clean_accuracy,
            accuracy,
            calibration,
            feature_space,
            provenance,
        }
    }
}

/// Writes a bundle into `dir`, which is created if it is not there, and returns its manifest.
///
/// `tensors` are those of an [`EncoderNetwork`] and a [`DecoderNetwork`](crate::DecoderNetwork) by full name (`Params::tensors`), and no others; tensors of
/// other types are converted to f32. Everything is checked as for loading before anything is written. Each file appears complete
/// or not at all, the manifest last.
///
/// # Errors
/// [`BundleError::Manifest`] with every fault of the draft; the tensors are not those of the networks; the directory takes no files.
pub fn write_bundle(
    dir: &Path,
    draft: BundleDraft,
    tensors: &BTreeMap<String, Tensor>,
) -> Result<Manifest, BundleError> {
    let (encoder, decoder) = (content(Half::Encoder, tensors)?, content(Half::Decoder, tensors)?);
    let hashes = Hashes { encoder: sha256(&encoder.bytes), decoder: sha256(&decoder.bytes) };
    let manifest = Manifest {
        version: BUNDLE_VERSION,
        codec_id: hashes.codec_id().unwrap_or_default(),
        hashes,
        created: draft.created,
        student: draft.student,
        cat: draft.cat,
        input: draft.input,
        labels: draft.labels,
        snr_range_db: draft.snr_range_db,
        clean_accuracy: draft.clean_accuracy,
        accuracy: draft.accuracy,
        calibration: draft.calibration,
        feature_space: draft.feature_space,
        provenance: draft.provenance,
    };
    let manifest_path = dir.join(MANIFEST_FILE);
    let faults = manifest.faults();
    if !faults.is_empty() {
        return Err(BundleError::Manifest { path: manifest_path, faults });
    }
    for (half, content) in [(Half::Encoder, &encoder), (Half::Decoder, &decoder)] {
        let template = Params::shapes();
        match half {
            Half::Encoder => drop(manifest.encoder_network(&template)?),
            Half::Decoder => drop(manifest.decoder_network(&template)?),
        }
        let template = template.tensors().map_err(crate::Error::from)?;
        check_tensors(&dir.join(half.file_name()), &content.tensors, &template)?;
    }
    std::fs::create_dir_all(dir).map_err(|source| BundleError::Io { path: dir.to_owned(), source })?;
    write(&dir.join(Half::Encoder.file_name()), &encoder.bytes)?;
    write(&dir.join(Half::Decoder.file_name()), &decoder.bytes)?;
    let text = serde_json::to_vec_pretty(&manifest)
        .map_err(|source| BundleError::ManifestSyntax { path: manifest_path.clone(), source })?;
    write(&manifest_path, &text)?;
    Ok(manifest)
}

struct Content {
    tensors: BTreeMap<String, Tensor>,
    bytes: Vec<u8>,
}

/// The file of a half, in f32. What belongs to no network goes to the decoder's half, where the check names it.
fn content(half: Half, tensors: &BTreeMap<String, Tensor>) -> Result<Content, BundleError> {
    let of_encoder = |name: &str| {
        let below = |prefix: &str| name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.'));
        EncoderNetwork::PREFIXES.into_iter().any(below)
    };
    let own = tensors.iter().filter(|(name, _)| of_encoder(name) == (half == Half::Encoder));
    let converted = own.map(|(name, t)| Ok((name.clone(), t.to_dtype(DType::F32)?)));
    let tensors = converted.collect::<candle_core::Result<BTreeMap<_, _>>>().map_err(crate::Error::from)?;
    let metadata = BTreeMap::from([
        ("format".to_owned(), format!("semlink-bundle-{BUNDLE_VERSION}")),
        ("half".to_owned(), half.as_str().to_owned()),
    ]);
    let bytes = checkpoint::to_bytes(&tensors, &metadata).map_err(crate::Error::from)?;
    Ok(Content { tensors, bytes })
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), BundleError> {
    checkpoint::write_atomically(path, bytes).map_err(|e| match e {
        semlink_nn::Error::Io { path, source } => BundleError::Io { path, source },
        other => BundleError::Network(other.into()),
    })
}
