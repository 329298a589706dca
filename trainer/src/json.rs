//! JSON files of a run.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Error, Result};

/// Reads a file.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    serde_json::from_str(&text).map_err(|e| Error::Report { path: path.to_owned(), what: e.to_string() })
}

/// Writes a file, indented; a reader never sees half of it.
pub(crate) fn write<T: Serialize + ?Sized>(path: &Path, value: &T) -> Result<()> {
    let text =
        serde_json::to_vec_pretty(value).map_err(|e| Error::Report { path: path.to_owned(), what: e.to_string() })?;
    Ok(semlink_nn::checkpoint::write_atomically(path, &text)?)
}
