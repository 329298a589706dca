//! What can be wrong with a bundle, each fault by the name of its file and tensor.

use std::path::PathBuf;

use super::Half;
use crate::Error;

/// Why a bundle was not written or not loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// The directory lacks one of its files.
    #[error("{} is missing; a {half} needs it and bundle.json in the bundle's directory", path.display())]
    MissingFile {
        /// The file.
        path: PathBuf,
        /// Whose it is, or who reads it.
        half: Half,
    },

    /// A file that is there cannot be read, or one cannot be written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },

    /// The manifest is not JSON, lacks a field or has one that is not known.
    #[error("{}: {source}", path.display())]
    ManifestSyntax {
        /// The file.
        path: PathBuf,
        /// What and where, with line and column.
        source: serde_json::Error,
    },

    /// The manifest is of a version that this program does not read.
    #[error("{} is of version {found}, this program reads version {supported}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// In the file.
        found: u64,
        /// The only one that is read.
        supported: u32,
    },

    /// The manifest can be read, but what it says cannot be.
    #[error("{}: {}", path.display(), faults.join("; "))]
    Manifest {
        /// The file.
        path: PathBuf,
        /// Every fault, naming its field.
        faults: Vec<String>,
    },

    /// The manifest's id is not that of its hashes.
    #[error("{}: codec_id is {found}, but the hashes in it give {expected}", path.display())]
    CodecId {
        /// The file.
        path: PathBuf,
        /// From the hashes.
        expected: String,
        /// In the file.
        found: String,
    },

    /// The file holds the other half, or does not say which.
    #[error(
        "{} should be the {expected} half, but {}", path.display(),
        found.as_ref().map_or("does not say which half it is".to_owned(), |half| format!("is marked {half:?}"))
    )]
    WrongHalf {
        /// The file.
        path: PathBuf,
        /// What it should be.
        expected: Half,
        /// Its metadata entry `half`.
        found: Option<String>,
    },

    /// The file is not the one that the manifest was written for: damaged, or of another bundle.
    #[error("{} has SHA-256 {found}, bundle.json says {expected}: it is damaged or of another bundle", path.display())]
    Hash {
        /// The file.
        path: PathBuf,
        /// From the manifest.
        expected: String,
        /// Of the file.
        found: String,
    },

    /// The file is not a safetensors file.
    #[error("{}: {what}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },

    /// The tensors are not those of the networks that the manifest describes.
    #[error("{}: missing tensors: [{}]; unexpected tensors: [{}]", path.display(), missing.join(", "), unexpected.join(", "))]
    Names {
        /// The file.
        path: PathBuf,
        /// Names that the networks need.
        missing: Vec<String>,
        /// Names that no network asks for.
        unexpected: Vec<String>,
    },

    /// A tensor has another shape than its layer.
    #[error("{}: tensor {tensor} has shape {found:?}, expected {expected:?}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The layer's.
        expected: Vec<usize>,
        /// In the file.
        found: Vec<usize>,
    },

    /// A tensor is not f32.
    #[error("{}: tensor {tensor} is of type {found}, expected f32", path.display())]
    Dtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// In the file.
        found: String,
    },

    /// A tensor holds a NaN or an infinity.
    #[error("{}: tensor {tensor} holds {value} at element {index}", path.display())]
    NonFinite {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The first such element, in row-major order.
        index: usize,
        /// NaN or an infinity.
        value: f32,
    },

    /// The networks cannot be built.
    #[error(transparent)]
    Network(#[from] Error),
}
