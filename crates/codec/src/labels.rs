//! Labels by their meaning: names with an embedding each in the space that a codec's features lie in, so that a receiver decides among classes that
//! nobody trained it for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use semlink_nn::{checkpoint, ops};

use crate::Result;

/// Names and the embeddings of their texts; see [`DecoderHalf::with_labels`](crate::DecoderHalf::with_labels).
///
/// As a file: safetensors with the tensor `embeddings` \[names, width\] (f32) and, in its metadata, `format`, `names` (JSON), `logit_scale`, `teacher`
/// and `prompt`.
#[derive(Debug, Clone)]
pub struct Labels {
    names: Vec<String>,
    /// \[names, width\], rows of length 1.
    embeddings: Tensor,
    logit_scale: f32,
    teacher: String,
    prompt: String,
}

/// Why labels cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabelsError {
    /// The file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },

    /// It is not a file of labels, or what it says cannot be.
    #[error("{}: {what}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },

    /// The codec's features lie in no space of texts: its teacher has none.
    #[error(
        "codec {codec_id} has features of its own, which no text is embedded among: labels need one whose teacher is CLIP"
    )]
    NoSpace {
        /// The codec.
        codec_id: String,
    },

    /// The labels were made with another teacher than the codec.
    #[error("labels were embedded by teacher {labels}, but codec {codec_id} has the features of {codec}")]
    Teacher {
        /// The codec.
        codec_id: String,
        /// Its teacher.
        codec: String,
        /// That of the labels.
        labels: String,
    },

    /// Embeddings of another width than the codec's features.
    #[error("labels have {labels} numbers each, but the features of codec {codec_id} have {codec}")]
    Width {
        /// The codec.
        codec_id: String,
        /// Of its features.
        codec: usize,
        /// Of the embeddings.
        labels: usize,
    },
}

const FORMAT: &str = "semlink labels, version 1";
const EMBEDDINGS: &str = "embeddings";
/// Largest factor of cosines; CLIP's is at most 100.
const MOST_SCALE: f32 = 1000.0;

impl Labels {
    /// `rows` of equal length, one for each name, of any norm; `teacher` is the hash that a bundle's `feature_space` names.
    ///
    /// # Errors
    /// What cannot be, in words: fewer than two names or more than 65,536, two that are the same, rows that are zero, not finite or of different
    /// lengths, a scale outside (0, 1000\].
    pub fn new(
        names: Vec<String>,
        rows: &[Vec<f32>],
        logit_scale: f32,
        teacher: &str,
        prompt: &str,
    ) -> Result<Self, String> {
        if !(2..=65_536).contains(&names.len()) {
            return Err(format!("{} names, expected 2 to 65536", names.len()));
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = names.iter().find(|name| !seen.insert(name.as_str())) {
            return Err(format!("{twice:?} is there twice"));
        }
        if !(logit_scale > 0.0 && logit_scale <= MOST_SCALE) {
            return Err(format!("logit_scale is {logit_scale}, expected above 0 to {MOST_SCALE}"));
        }
        let width = rows.first().map_or(0, Vec::len);
        if rows.len() != names.len() || width == 0 || rows.iter().any(|row| row.len() != width) {
            return Err(format!("{} embeddings for {} names, or of different widths", rows.len(), names.len()));
        }
        let mut values = Vec::with_capacity(rows.len() * width);
        for (row, name) in rows.iter().zip(&names) {
            let norm = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
            if !(norm > 0.0 && norm.is_finite()) {
                return Err(format!("the embedding of {name:?} is zero or not finite"));
            }
            values.extend(row.iter().map(|x| (f64::from(*x) / norm) as f32));
        }
        let embeddings = Tensor::from_vec(values, (rows.len(), width), &Device::Cpu).map_err(|e| e.to_string())?;
        Ok(Self { names, embeddings, logit_scale, teacher: teacher.to_owned(), prompt: prompt.to_owned() })
    }

    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`LabelsError::Io`] or [`LabelsError::Format`].
    pub fn read(path: &Path) -> Result<Self, LabelsError> {
        let bytes = std::fs::read(path).map_err(|source| LabelsError::Io { path: path.to_owned(), source })?;
        Self::from_bytes(&bytes).map_err(|what| LabelsError::Format { path: path.to_owned(), what })
    }

    /// The content of a file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        // A backtrace may follow the first line.
        let first_line = |e: semlink_nn::Error| e.to_string().lines().next().unwrap_or_default().to_owned();
        let file = checkpoint::from_bytes(bytes, &Device::Cpu).map_err(first_line)?;
        let text = |key: &str| file.metadata.get(key).ok_or_else(|| format!("no file of labels: {key} is missing"));
        let format = text("format")?;
        if format != FORMAT {
            return Err(format!("its format is {format:?}, expected {FORMAT:?}"));
        }
        let names: Vec<String> = serde_json::from_str(text("names")?).map_err(|e| format!("names: {e}"))?;
        let scale = text("logit_scale")?;
        let scale: f32 = scale.parse().map_err(|_| format!("logit_scale is {scale:?}, expected a number"))?;
        let embeddings = file.tensors.get(EMBEDDINGS).filter(|t| t.dims().len() == 2 && t.dtype() == DType::F32);
        let embeddings = embeddings.ok_or_else(|| format!("{EMBEDDINGS} [names, width] of f32 are missing"))?;
        let rows: Vec<Vec<f32>> = embeddings.to_vec2().map_err(|e| e.to_string())?;
        Self::new(names, &rows, scale, text("teacher")?, text("prompt")?)
    }

    /// Writes a file, which appears whole or not at all.
    ///
    /// # Errors
    /// [`LabelsError::Io`].
    pub fn write(&self, path: &Path) -> Result<(), LabelsError> {
        let names = serde_json::to_string(&self.names).unwrap_or_default();
        let about = [
            ("format", FORMAT.to_owned()),
            ("names", names),
            ("logit_scale", self.logit_scale.to_string()),
            ("teacher", self.teacher.clone()),
            ("prompt", self.prompt.clone()),
        ];
        let about = about.map(|(key, value)| (key.to_owned(), value)).into();
        let tensors = BTreeMap::from([(EMBEDDINGS.to_owned(), self.embeddings.clone())]);
        checkpoint::save(path, &tensors, &about).map_err(|e| match e {
            semlink_nn::Error::Io { path, source } => LabelsError::Io { path, source },
            other => LabelsError::Format { path: path.to_owned(), what: other.to_string() },
        })
    }

    /// In the order of a decision's indices.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Numbers of an embedding.
    pub fn width(&self) -> usize {
        self.embeddings.dims().get(1).copied().unwrap_or(0)
    }

    /// The hash of the teacher that embedded them.
    pub fn teacher(&self) -> &str {
        &self.teacher
    }

    /// What the names were put into, `{}` their place.
    pub fn prompt(&self) -> &str {
        &self.prompt
    }

    /// Logits of features \[n, width\]: the factor times the cosine between a row and each embedding, \[n\]\[names\]. A row of zeros is as near to one
    /// label as to the other.
    pub(crate) fn logits(&self, features: &Tensor) -> Result<Vec<Vec<f32>>> {
        let mut logits: Vec<Vec<f32>> = ops::linear(features, &self.embeddings, None)?.to_vec2()?;
        for (logits, row) in logits.iter_mut().zip(features.to_vec2::<f32>()?) {
            let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
            logits.iter_mut().for_each(|z| *z *= self.logit_scale / norm);
        }
        Ok(logits)
    }
}
