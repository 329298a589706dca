//! Bundles: what training hands to serving.
//!
//! A directory with `encoder.safetensors` (edge half), `decoder.safetensors` (server half) and `bundle.json` ([`Manifest`]). Each half
//! can be read and checked without the other's file. Weights are f32; a file's metadata names its half and its format.

mod error;
mod read;
mod write;

pub use error::BundleError;
pub(crate) use read::{build_half, parse_manifest, read_half, read_manifest};
pub use write::{BundleDraft, write_bundle};

use std::fmt;

/// Name of the manifest in a bundle's directory.
pub const MANIFEST_FILE: &str = "bundle.json";

/// One half of a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Half {
    /// Student encoder and CAT encoder, on the edge.
    Encoder,
    /// CAT decoder and classifier, on the server.
    Decoder,
}

impl Half {
    /// Name of its file in a bundle's directory.
    pub fn file_name(self) -> &'static str {
        match self {
            Half::Encoder => "encoder.safetensors",
            Half::Decoder => "decoder.safetensors",
        }
    }

    /// As text: `encoder` or `decoder`. Value of the metadata entry `half` in its file.
    pub fn as_str(self) -> &'static str {
        match self {
            Half::Encoder => "encoder",
            Half::Decoder => "decoder",
        }
    }

    pub(crate) fn other(self) -> Half {
        match self {
            Half::Encoder => Half::Decoder,
            Half::Decoder => Half::Encoder,
        }
    }

    /// The hash that a manifest has for this half.
    pub(crate) fn hash(self, hashes: &crate::manifest::Hashes) -> &str {
        match self {
            Half::Encoder => &hashes.encoder,
            Half::Decoder => &hashes.decoder,
        }
    }
}

impl fmt::Display for Half {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
