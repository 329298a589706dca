//! `bundle.json`: what a bundle is, what it was made from and how well it does.

use std::collections::BTreeSet;

use semlink_channel::ChannelKind;
use semlink_nn::Params;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Calibration, CatConfig, DecoderNetwork, EncoderNetwork, InputSpec, Result, StudentConfig};

/// The version of the bundle format that this crate writes and the only one that it reads.
pub const BUNDLE_VERSION: u32 = 3;

/// Everything about a bundle but its weights. Unknown fields are refused: they would be from another version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`BUNDLE_VERSION`] of the crate that wrote it.
    pub version: u32,
    /// Names the pair of halves, see [`Hashes::codec_id`]. Frames carry it.
    pub codec_id: String,
    /// SHA-256 of each half's file.
    pub hashes: Hashes,
    /// When the bundle was written: RFC 3339, UTC.
    pub created: String,
    /// The student encoder.
    pub student: StudentConfig,
    /// Both channel-aware transformers, with the numbers of channel uses that they offer.
    pub cat: CatConfig,
    /// The encoder's input.
    pub input: InputSpec,
    /// Name of each class, in the order of the classifier's outputs.
    pub labels: Vec<String>,
    /// Lowest and highest average SNR in dB that the codec was trained for.
    pub snr_range_db: [f32; 2],
    /// Top-1 accuracy when nothing is lost on the way, 0 to 1, on the test split; absent if it was not measured.
    #[serde(default)]
    pub clean_accuracy: Option<f64>,
    /// Top-1 accuracy over the channel; empty if it was not measured.
    #[serde(default)]
    pub accuracy: Vec<AccuracyPoint>,
    /// Temperatures of the decoder's logits.
    #[serde(default)]
    pub calibration: Calibration,
    /// The teacher whose embeddings of images the decoder's features are, `sha256:` and 64 digits, if that teacher embeds texts in the same space:
    /// [`Labels`](crate::Labels) of that teacher can then take the classifier's place. Absent: features of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feature_space: Option<String>,
    /// What the bundle was made from.
    pub provenance: Provenance,
}

/// SHA-256 of the files of both halves, each in lower-case hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hashes {
    /// Of `encoder.safetensors`.
    pub encoder: String,
    /// Of `decoder.safetensors`.
    pub decoder: String,
}

/// Accuracy at one operating point.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccuracyPoint {
    /// The fading model.
    pub channel: ChannelKind,
    /// Average SNR in dB.
    pub snr_db: f32,
    /// Payload channel uses of one frame.
    pub k: usize,
    /// Top-1 accuracy, 0 to 1.
    pub accuracy: f64,
    /// Images that it was measured on.
    pub images: usize,
}

/// What a bundle was made from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// Name of the recipe.
    pub recipe: String,
    /// The recipe's seed.
    pub seed: u64,
    /// Hash of the training data.
    pub data_hash: String,
    /// The teacher: its name or hash.
    pub teacher: String,
}

impl Hashes {
    /// The codec's id: `sha256:` and the SHA-256, in hexadecimal, of the two halves' SHA-256, encoder first, each as 32 bytes. A host
    /// that holds one half and the manifest can so check its half and the id without the other file. `None` unless both
    /// are 64 hexadecimal digits.
    pub fn codec_id(&self) -> Option<String> {
        let mut hash = Sha256::new();
        hash.update(from_hex(&self.encoder)?);
        hash.update(from_hex(&self.decoder)?);
        Some(format!("sha256:{}", to_hex(&hash.finalize())))
    }
}

impl Manifest {
    /// Numbers of channel uses that the codec offers, ascending.
    pub fn rates(&self) -> &[usize] {
        &self.cat.rates
    }

    /// Classes that the codec tells apart.
    pub fn classes(&self) -> usize {
        self.labels.len()
    }

    pub(crate) fn encoder_network(&self, params: &Params) -> Result<EncoderNetwork> {
        EncoderNetwork::new(params, &self.student, &self.cat, self.input.channels)
    }

    pub(crate) fn decoder_network(&self, params: &Params) -> Result<DecoderNetwork> {
        DecoderNetwork::new(params, &self.cat, self.student.features(), self.classes())
    }

    /// Every fault, naming its field; none if the networks can be built and served.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        match self.hashes.codec_id() {
            None => faults.push("hashes: each must be 64 hexadecimal digits".to_owned()),
            Some(id) if id != self.codec_id => {
                faults.push(format!("codec_id is {}, but that of the hashes is {id}", self.codec_id));
            }
            Some(_) => {}
        }
        let mut network = |field: &str, checked: Result<()>| {
            if let Err(fault) = checked {
                faults.push(format!("{field}: {fault}"));
            }
        };
        network("student", self.student.validate());
        network("cat", self.cat.validate());
        faults.extend(self.input.faults().into_iter().map(|fault| format!("input: {fault}")));
        faults.extend(self.calibration.faults());
        if !(2..=65_536).contains(&self.labels.len()) {
            faults.push(format!("labels: {} of them, expected 2 to 65536", self.labels.len()));
        }
        if self.labels.iter().collect::<BTreeSet<_>>().len() != self.labels.len() {
            faults.push("labels: two are the same".to_owned());
        }
        let is_hash = |space: &String| space.strip_prefix("sha256:").and_then(from_hex).is_some();
        if self.feature_space.as_ref().is_some_and(|space| !is_hash(space)) {
            faults.push("feature_space: expected sha256: and 64 hexadecimal digits".to_owned());
        }
        let [low, high] = self.snr_range_db;
        if !(-60.0..=100.0).contains(&low) || !(low..=100.0).contains(&high) {
            faults.push(format!("snr_range_db is [{low}, {high}], expected low to high within [-60, 100] dB"));
        }
        if self.clean_accuracy.is_some_and(|a| !(0.0..=1.0).contains(&a)) {
            faults.push("clean_accuracy: expected 0 to 1".to_owned());
        }
        for (i, point) in self.accuracy.iter().enumerate() {
            if !(0.0..=1.0).contains(&point.accuracy) || !point.snr_db.is_finite() {
                faults.push(format!("accuracy[{i}]: expected an accuracy of 0 to 1 at a finite snr_db"));
            }
            if !self.rates().contains(&point.k) {
                faults.push(format!(
                    "accuracy[{i}].k is {}, which is not one of cat.rates {:?}",
                    point.k,
                    self.rates()
                ));
            }
        }
        faults
    }
}

/// SHA-256 in lower-case hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    to_hex(&Sha256::digest(bytes))
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    // All ASCII, so that cutting at any byte is cutting between characters.
    if text.len() != 64 || !text.bytes().all(|c| c.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_the_hash_of_the_hashes() {
        // SHA-256 of the empty message, from FIPS 180-4's examples; the id by `sha256sum` over both digests in binary.
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(sha256(b""), empty);
        let hashes = Hashes { encoder: empty.to_owned(), decoder: sha256(b"abc") };
        let expected = "sha256:bddbdf7e9df02f902ee5dd61b2b513d7566a2112ff97db7dc3b6d184a43ef0e3";
        assert_eq!(hashes.codec_id().as_deref(), Some(expected));
        let swapped = Hashes { encoder: hashes.decoder.clone(), decoder: hashes.encoder.clone() };
        assert_ne!(swapped.codec_id(), hashes.codec_id());
    }

    #[test]
    fn what_is_no_hash_has_no_id() {
        let good = sha256(b"");
        for bad in ["", "xyz", &good[1..], &format!("{good}0"), &good.replace('e', "g"), &"é".repeat(32)] {
            let hashes = Hashes { encoder: bad.to_owned(), decoder: good.clone() };
            assert_eq!(hashes.codec_id(), None, "{bad}");
        }
    }
}
