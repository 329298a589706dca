//! The server half in service: from received symbols to a decision.

use std::path::Path;

use rayon::prelude::*;
use semlink_channel::Complex32;
use semlink_nn::runtime;

use crate::bundle::{MANIFEST_FILE, build_half, parse_manifest, read_half, read_manifest};
use crate::{
    BundleError, Calibration, Condition, Csi, DecoderNetwork, Error, Estimates, Half, Labels, LabelsError, Manifest,
    Result,
};

/// CAT decoder and classifier of a bundle: frozen, stateless, to be shared between threads.
#[derive(Debug, Clone)]
pub struct DecoderHalf {
    manifest: Manifest,
    network: DecoderNetwork,
    /// In the classifier's place.
    labels: Option<Labels>,
}

/// A frame as it arrived.
#[derive(Debug, Clone, PartialEq)]
pub struct Received {
    /// y = h x + n, not equalised.
    pub symbols: Vec<Complex32>,
    /// What the receiver knows of this frame's channel.
    pub csi: Csi,
}

/// What the receiver makes of a frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// Class of the largest probability; an index into [`DecoderHalf::labels`].
    pub index: usize,
    /// Its probability.
    pub confidence: f32,
    /// Probability of every class; they sum to 1.
    pub probabilities: Vec<f32>,
}

/// Frames that one thread decodes at a time: enough for matrix products to run at full speed, few enough to stay in its cache.
const GROUP: usize = 32;

impl DecoderHalf {
    /// Loads the decoder of the bundle in `dir`, from `bundle.json` and `decoder.safetensors` alone.
    ///
    /// # Errors
    /// Any [`BundleError`], by the name of the file and tensor.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, BundleError> {
        let manifest = read_manifest(dir.as_ref(), Half::Decoder)?;
        let network = read_half(dir.as_ref(), Half::Decoder, &manifest, |params| manifest.decoder_network(params))?;
        Ok(Self { manifest, network, labels: None })
    }

    /// The same from the content of the two files.
    ///
    /// # Errors
    /// As for [`DecoderHalf::open`].
    pub fn from_bytes(manifest: &[u8], weights: &[u8]) -> Result<Self, BundleError> {
        let manifest = parse_manifest(MANIFEST_FILE.into(), manifest)?;
        let path = Path::new(Half::Decoder.file_name());
        let network = build_half(path, weights, Half::Decoder, &manifest, |params| manifest.decoder_network(params))?;
        Ok(Self { manifest, network, labels: None })
    }

    /// The same decoder with labels in the place of its classifier: probabilities are the softmax of the labels' factor times the cosine between
    /// the decoder's features and each label's embedding (as CLIP's of images and texts, Radford et al. 2021). They are not calibrated: temperatures of
    /// the bundle are those of its classifier.
    ///
    /// # Errors
    /// [`LabelsError::NoSpace`], [`LabelsError::Teacher`] or [`LabelsError::Width`].
    pub fn with_labels(&self, labels: &Labels) -> Result<Self, LabelsError> {
        let codec_id = || self.manifest.codec_id.clone();
        let Some(space) = &self.manifest.feature_space else {
            return Err(LabelsError::NoSpace { codec_id: codec_id() });
        };
        if labels.teacher() != space {
            let (codec, labels) = (space.clone(), labels.teacher().to_owned());
            return Err(LabelsError::Teacher { codec_id: codec_id(), codec, labels });
        }
        let (codec, width) = (self.manifest.student.features(), labels.width());
        if codec != width {
            return Err(LabelsError::Width { codec_id: codec_id(), codec, labels: width });
        }
        Ok(Self { labels: Some(labels.clone()), ..self.clone() })
    }

    /// What decisions are made among: the names of the labels, if it was given some, else the bundle's classes.
    pub fn labels(&self) -> &[String] {
        self.labels.as_ref().map_or(&self.manifest.labels, Labels::names)
    }

    /// What the bundle says about itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Names the bundle; frames that carry another id were made with another codec.
    pub fn codec_id(&self) -> &str {
        &self.manifest.codec_id
    }

    /// One decision for each frame; it does not depend on the others. Groups of frames run on all threads, or on this one within
    /// [`on_this_thread`](crate::on_this_thread). A channel state's SNR outside the range that the codec was trained
    /// for counts as the nearest within.
    ///
    /// # Errors
    /// A number of symbols that is not one of [`Manifest::rates`], symbols or channel states that are not finite or do not fit each
    /// other, weights that lead to no finite probabilities.
    pub fn decode(&self, frames: &[Received]) -> Result<Vec<Decision>> {
        if frames.is_empty() {
            return Ok(Vec::new());
        }
        let rates = self.manifest.rates();
        if let Some(frame) = frames.iter().find(|frame| !rates.contains(&frame.symbols.len())) {
            return Err(Error::Rate { uses: frame.symbols.len(), rates: rates.to_vec() });
        }
        let group = |frames| runtime::on_this_thread(|| self.decode_group(frames));
        if frames.len() <= GROUP {
            return group(frames);
        }
        if !runtime::shares_work() {
            return Ok(frames.chunks(GROUP).map(group).collect::<Result<Vec<_>>>()?.concat());
        }
        Ok(frames.par_chunks(GROUP).map(group).collect::<Result<Vec<_>>>()?.concat())
    }

    /// At most [`GROUP`] frames, from beginning to end on one thread.
    fn decode_group(&self, frames: &[Received]) -> Result<Vec<Decision>> {
        let received: Vec<_> = frames.iter().map(|frame| (frame.symbols.as_slice(), &frame.csi)).collect();
        let mut estimates = Estimates::receive(&received, self.manifest.cat.max_uses())?;
        estimates.conditions.iter_mut().for_each(|condition| self.clamp(condition));
        let features = self.network.cat.forward(&estimates)?;
        if let Some(labels) = &self.labels {
            let neutral = Calibration::default();
            let logits = labels.logits(&features)?.into_iter().zip(&estimates.conditions);
            return logits.map(|(z, condition)| decide(neutral.at(condition).probabilities(&z))).collect();
        }
        let logits = self.network.classifier.forward(&features)?.to_vec2::<f32>()?;
        let calibrated = logits.iter().zip(&estimates.conditions);
        calibrated
            .map(|(logits, condition)| decide(self.manifest.calibration.at(condition).probabilities(logits)))
            .collect()
    }

    /// Moves what the network is told into the range that it was trained for. The SNR of one frame goes beyond the range of the average by
    /// as much as fading does: a gain above 8 dB has probability 0.002 over a Rayleigh channel, one below -30 dB 0.001.
    fn clamp(&self, condition: &mut Condition) {
        let [low, high] = self.manifest.snr_range_db;
        condition.snr_db = condition.snr_db.map(|db| db.clamp(low, high));
        condition.frame_snr_db = condition.frame_snr_db.map(|db| db.clamp(low - 30.0, high + 8.0));
    }
}

/// The first of the most probable classes.
fn decide(probabilities: Vec<f32>) -> Result<Decision> {
    let mut best = (0, f32::NEG_INFINITY);
    for (index, &p) in probabilities.iter().enumerate() {
        if !p.is_finite() {
            return Err(Error::NotFinite { what: "class probabilities" });
        }
        if p > best.1 {
            best = (index, p);
        }
    }
    Ok(Decision { index: best.0, confidence: best.1, probabilities })
}
