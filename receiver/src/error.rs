//! Why a receiver cannot serve.

use std::io;
use std::path::PathBuf;

use tonic::Status;

/// Why a receiver does not start, or stops serving.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Settings that cannot be served with, the bundle among them; all that are wrong, each by its flag.
    #[error("{}", .0.join("; "))]
    Settings(Vec<String>),
    /// The decoder half was loaded but does not decode.
    #[error("--bundle {}: the decoder fails its first forward pass: {}", dir.display(), status.message())]
    Decoder {
        /// As in the settings.
        dir: PathBuf,
        /// What it says.
        status: Status,
    },
    /// No thread for the decoder.
    #[error("no thread for the decoder: {0}")]
    Thread(io::Error),
    /// The server itself.
    #[error("cannot serve: {0}")]
    Serve(#[from] tonic::transport::Error),
}

impl Error {
    /// Whether other settings, or another bundle, would help.
    pub fn is_configuration(&self) -> bool {
        matches!(self, Error::Settings(_) | Error::Decoder { .. })
    }
}
