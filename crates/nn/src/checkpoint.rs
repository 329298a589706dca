//! Named tensors in safetensors files.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;
use serde_json::json;

use crate::{Error, Result};

/// What a file holds: tensors by name and free text by key.
#[derive(Debug, Clone, Default)]
pub struct Checkpoint {
    /// Tensors by full name.
    pub tensors: BTreeMap<String, Tensor>,
    /// Text by key.
    pub metadata: BTreeMap<String, String>,
}

/// Writes tensors and text to `path`. The file appears complete or not at all: it is written and synced under another name in
/// the same folder and then renamed.
///
/// # Errors
/// The folder does not take the file, or a tensor is of a type that the format has no name for.
pub fn save(path: &Path, tensors: &BTreeMap<String, Tensor>, metadata: &BTreeMap<String, String>) -> Result<()> {
    let bytes = to_bytes(tensors, metadata).map_err(|e| at(path, e))?;
    write_atomically(path, &bytes)
}

/// Reads a file that [`save`] (or any safetensors writer) made. Tensors keep their type (f16, bf16, f32, f64, u8, u32, i64).
///
/// # Errors
/// The file cannot be read, is not a valid safetensors file, or holds a type that tensors cannot have.
pub fn load(path: &Path, device: &Device) -> Result<Checkpoint> {
    let bytes = std::fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    from_bytes(&bytes, device).map_err(|e| at(path, e))
}

/// Decodes the content of a safetensors file. Never panics on bad bytes.
pub fn from_bytes(bytes: &[u8], device: &Device) -> Result<Checkpoint> {
    let invalid = |e: safetensors::SafeTensorError| candle_core::Error::msg(format!("not a safetensors file: {e}"));
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(invalid)?;
    let file = SafeTensors::deserialize(bytes).map_err(invalid)?;
    let mut checkpoint = Checkpoint::default();
    if let Some(metadata) = header.metadata() {
        checkpoint.metadata = metadata.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    }
    for (name, view) in file.tensors() {
        let dtype = DType::try_from(view.dtype())?;
        let t = Tensor::from_raw_buffer(view.data(), dtype, view.shape(), device)?;
        checkpoint.tensors.insert(name, t);
    }
    Ok(checkpoint)
}

/// Encodes tensors and text as the content of a safetensors file; the same input gives the same bytes (the format's own writer
/// takes the text as a hash map, whose order differs from run to run, and files are identified by their hash).
pub fn to_bytes(tensors: &BTreeMap<String, Tensor>, metadata: &BTreeMap<String, String>) -> Result<Vec<u8>> {
    // Wide elements first keeps every tensor aligned to its element, as readers that map the file expect.
    let mut sorted: Vec<(&String, &Tensor)> = tensors.iter().collect();
    sorted.sort_by_key(|(_, t)| std::cmp::Reverse(t.dtype().size_in_bytes()));
    let mut header = serde_json::Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".to_owned(), json!(metadata));
    }
    let mut data = Vec::new();
    for (name, t) in sorted {
        let start = data.len();
        let dtype = append(t, &mut data)?;
        let entry = json!({ "dtype": dtype, "shape": t.dims(), "data_offsets": [start, data.len()] });
        header.insert(name.clone(), entry);
    }
    let mut text = serde_json::Value::Object(header).to_string();
    let padding = text.len().next_multiple_of(8) - text.len();
    text.extend(std::iter::repeat_n(' ', padding));
    let mut bytes = Vec::with_capacity(8 + text.len() + data.len());
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes.extend(data);
    Ok(bytes)
}

/// Appends a tensor's elements in little-endian order; returns the format's name of their type.
fn append(t: &Tensor, out: &mut Vec<u8>) -> Result<&'static str> {
    fn elements<T: candle_core::WithDType, const N: usize>(
        t: &Tensor,
        out: &mut Vec<u8>,
        f: impl Fn(T) -> [u8; N],
    ) -> Result<()> {
        let values = t.flatten_all()?.to_vec1::<T>()?;
        out.reserve(N * values.len());
        // By whole elements: an iterator over bytes takes seconds for a large teacher, at every checkpoint.
        values.into_iter().for_each(|value| out.extend_from_slice(&f(value)));
        Ok(())
    }
    Ok(match t.dtype() {
        DType::F32 => elements(t, out, f32::to_le_bytes).map(|()| "F32")?,
        DType::F64 => elements(t, out, f64::to_le_bytes).map(|()| "F64")?,
        DType::I64 => elements(t, out, i64::to_le_bytes).map(|()| "I64")?,
        DType::U32 => elements(t, out, u32::to_le_bytes).map(|()| "U32")?,
        DType::U8 => elements(t, out, u8::to_le_bytes).map(|()| "U8")?,
        DType::F16 => elements(t, out, half::f16::to_le_bytes).map(|()| "F16")?,
        DType::BF16 => elements(t, out, half::bf16::to_le_bytes).map(|()| "BF16")?,
        got => {
            return Err(Error::Dtype { op: "checkpoint", got });
        }
    })
}

/// Writes a file under a temporary name in the same folder, syncs it, renames it.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let Some(name) = path.file_name() else {
        return Err(io(std::io::Error::from(std::io::ErrorKind::InvalidInput)));
    };
    let mut temporary_name = name.to_owned();
    temporary_name.push(format!(".{}.tmp", std::process::id()));
    let temporary: PathBuf = path.with_file_name(temporary_name);
    let written = File::create(&temporary)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .and_then(|()| std::fs::rename(&temporary, path));
    written.map_err(|e| {
        // What is left of a failed attempt is of no use; that it may not be there is no further error.
        let _ = std::fs::remove_file(&temporary);
        io(e)
    })
}

/// The same error, with the file's name.
fn at(path: &Path, e: Error) -> Error {
    Error::Checkpoint { path: path.to_owned(), what: e.to_string() }
}
