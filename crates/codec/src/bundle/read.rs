//! Reading one half, with every check.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use semlink_nn::{Params, checkpoint};

use super::{BundleError, Half, MANIFEST_FILE};
use crate::manifest::{BUNDLE_VERSION, Manifest, sha256};

/// Reads and checks `bundle.json` in `dir` for a host that serves `half`.
pub(crate) fn read_manifest(dir: &Path, half: Half) -> Result<Manifest, BundleError> {
    let path = dir.join(MANIFEST_FILE);
    let bytes = read(&path, half)?;
    parse_manifest(path, &bytes)
}

/// Checks the content of `bundle.json`, which errors call `path`.
pub(crate) fn parse_manifest(path: PathBuf, bytes: &[u8]) -> Result<Manifest, BundleError> {
    let syntax = |source| BundleError::ManifestSyntax { path: path.clone(), source };
    // The version first: in another version every other field may differ.
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(syntax)?;
    if let Some(found) = value.get("version").and_then(serde_json::Value::as_u64)
        && found != u64::from(BUNDLE_VERSION)
    {
        return Err(BundleError::Version { path, found, supported: BUNDLE_VERSION });
    }
    // From the text, not from `value`: errors then carry line and column.
    let manifest: Manifest = serde_json::from_slice(bytes).map_err(syntax)?;
    if let Some(expected) = manifest.hashes.codec_id()
        && expected != manifest.codec_id
    {
        return Err(BundleError::CodecId { path, expected, found: manifest.codec_id });
    }
    let faults = manifest.faults();
    if faults.is_empty() { Ok(manifest) } else { Err(BundleError::Manifest { path, faults }) }
}

/// Reads and checks the file of one half: the very file of the manifest, and in it exactly the tensors that `build` asks for, f32 and
/// finite. Returns what `build` made of frozen parameters.
pub(crate) fn read_half<N>(
    dir: &Path,
    half: Half,
    manifest: &Manifest,
    build: impl Fn(&Params) -> crate::Result<N>,
) -> Result<N, BundleError> {
    let path = dir.join(half.file_name());
    let bytes = read(&path, half)?;
    build_half(&path, &bytes, half, manifest, build)
}

/// The same for the content of the file, which errors call `path`.
pub(crate) fn build_half<N>(
    path: &Path,
    bytes: &[u8],
    half: Half,
    manifest: &Manifest,
    build: impl Fn(&Params) -> crate::Result<N>,
) -> Result<N, BundleError> {
    let tensors = check_file(path, half, half.hash(&manifest.hashes), bytes)?;
    // The networks themselves say which tensors they consist of. Their shapes alone: a manifest may describe networks of any size, and
    // nothing as large is allocated before the file turns out to hold it.
    let template = Params::shapes();
    build(&template)?;
    check_tensors(path, &tensors, &template.tensors().map_err(crate::Error::from)?)?;
    Ok(build(&Params::frozen(tensors))?)
}

fn read(path: &Path, half: Half) -> Result<Vec<u8>, BundleError> {
    std::fs::read(path).map_err(|source| match source.kind() {
        ErrorKind::NotFound => BundleError::MissingFile { path: path.to_owned(), half },
        _ => BundleError::Io { path: path.to_owned(), source },
    })
}

fn check_file(path: &Path, half: Half, expected: &str, bytes: &[u8]) -> Result<BTreeMap<String, Tensor>, BundleError> {
    let found = sha256(bytes);
    let same = found.eq_ignore_ascii_case(expected);
    let parsed = checkpoint::from_bytes(bytes, &Device::Cpu);
    if !same {
        // A file in the other's place has another hash as well, but deserves a better word. Nothing else in it is trusted.
        let marked = parsed.ok().and_then(|file| file.metadata.get("half").cloned());
        return Err(match marked {
            Some(marked) if marked == half.other().as_str() => {
                BundleError::WrongHalf { path: path.to_owned(), expected: half, found: Some(marked) }
            }
            _ => BundleError::Hash { path: path.to_owned(), expected: expected.to_owned(), found },
        });
    }
    let file = parsed.map_err(|e| BundleError::Format { path: path.to_owned(), what: e.to_string() })?;
    let marked = file.metadata.get("half").cloned();
    if marked.as_deref() != Some(half.as_str()) {
        return Err(BundleError::WrongHalf { path: path.to_owned(), expected: half, found: marked });
    }
    Ok(file.tensors)
}

/// Compares names, shapes and types with those of a freshly built network, and looks at every value.
pub(super) fn check_tensors(
    path: &Path,
    tensors: &BTreeMap<String, Tensor>,
    template: &BTreeMap<String, Tensor>,
) -> Result<(), BundleError> {
    let lacking = |a: &BTreeMap<String, Tensor>, b: &BTreeMap<String, Tensor>| -> Vec<String> {
        a.keys().filter(|name| !b.contains_key(*name)).cloned().collect()
    };
    let (missing, unexpected) = (lacking(template, tensors), lacking(tensors, template));
    if !missing.is_empty() || !unexpected.is_empty() {
        return Err(BundleError::Names { path: path.to_owned(), missing, unexpected });
    }
    for ((name, tensor), expected) in tensors.iter().zip(template.values()) {
        let (path, name) = (path.to_owned(), name.clone());
        if tensor.dtype() != DType::F32 {
            return Err(BundleError::Dtype { path, tensor: name, found: tensor.dtype().as_str().to_owned() });
        }
        if tensor.dims() != expected.dims() {
            let (expected, found) = (expected.dims().to_vec(), tensor.dims().to_vec());
            return Err(BundleError::Shape { path, tensor: name, expected, found });
        }
        let values = tensor.flatten_all().and_then(|t| t.to_vec1::<f32>()).map_err(crate::Error::from)?;
        if let Some((index, &value)) = values.iter().enumerate().find(|(_, v)| !v.is_finite()) {
            return Err(BundleError::NonFinite { path, tensor: name, index, value });
        }
    }
    Ok(())
}
