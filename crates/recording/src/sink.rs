//! One recording while it is written.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use num_complex::Complex32;
use serde::Serialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha512};

use crate::{
    Error, MAX_ANNOTATIONS, MAX_GLOBAL_BYTES, MAX_META_BYTES, Result, SYMBOL_BYTES, files::Pair, global, time,
};

/// More than any annotation of a frame takes.
const ANNOTATION_BYTES: u64 = 1_024;
/// More than the only capture takes.
const CAPTURES_BYTES: u64 = 1_024;
/// Symbols that are encoded at once.
const CHUNK: usize = 8_192;

/// Both files under their unfinished names. The meta file is written as it comes, annotations first; what is known only at the end
/// (checksum, profiles) follows them, so that memory does not grow with the frames.
#[derive(Debug)]
pub(crate) struct Sink {
    finals: Pair,
    parts: Pair,
    meta: BufWriter<File>,
    data: BufWriter<File>,
    hash: Sha512,
    begun: SystemTime,
    meta_bytes: u64,
    annotations: usize,
    samples: u64,
    bytes: Vec<u8>,
}

impl Sink {
    pub(crate) fn create(finals: Pair) -> Result<Sink> {
        let parts = finals.parts();
        let data = create(&parts.data)?;
        let meta = match create(&parts.meta) {
            Ok(meta) => meta,
            Err(e) => {
                // Made a moment ago and still empty.
                let _ = fs::remove_file(&parts.data);
                return Err(e);
            }
        };
        let mut sink = Sink {
            finals,
            parts,
            meta,
            data,
            hash: Sha512::new(),
            begun: SystemTime::now(),
            meta_bytes: 0,
            annotations: 0,
            samples: 0,
            bytes: Vec::new(),
        };
        sink.text(b"{\"annotations\":[")?;
        Ok(sink)
    }

    /// Symbols written so far: the index of the next one.
    pub(crate) fn samples(&self) -> u64 {
        self.samples
    }

    pub(crate) fn meta_path(&self) -> &Path {
        &self.finals.meta
    }

    pub(crate) fn data_path(&self) -> &Path {
        &self.finals.data
    }

    /// Whether a reader would accept one annotation more.
    pub(crate) fn has_room(&self) -> bool {
        let taken = self.meta_bytes + ANNOTATION_BYTES + CAPTURES_BYTES + MAX_GLOBAL_BYTES as u64;
        taken <= MAX_META_BYTES && self.annotations < MAX_ANNOTATIONS
    }

    pub(crate) fn annotation(&mut self, annotation: &impl Serialize) -> Result<()> {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        bytes.extend_from_slice(if self.annotations == 0 { b"\n" } else { b",\n" });
        let written = self.json(&mut bytes, annotation).and_then(|()| self.text(&bytes));
        self.bytes = bytes;
        self.annotations += 1;
        written
    }

    /// Appends symbols to the data.
    pub(crate) fn symbols(&mut self, symbols: &[Complex32]) -> Result<()> {
        for chunk in symbols.chunks(CHUNK) {
            self.bytes.clear();
            self.bytes.reserve(chunk.len() * SYMBOL_BYTES);
            for symbol in chunk {
                self.bytes.extend_from_slice(&symbol.re.to_le_bytes());
                self.bytes.extend_from_slice(&symbol.im.to_le_bytes());
            }
            self.hash.update(&self.bytes);
            self.data.write_all(&self.bytes).map_err(|e| io(&self.parts.data, "write", e))?;
            self.samples += chunk.len() as u64;
        }
        Ok(())
    }

    /// Writes what remains, with the checksum added to `global`; the files keep their unfinished names.
    pub(crate) fn seal(&mut self, mut global: Map<String, Value>) -> Result<()> {
        self.data.flush().map_err(|e| io(&self.parts.data, "write", e))?;
        global.insert(global::SHA512.into(), hex(&self.hash.finalize_reset()).into());
        let captures = json!([{ "core:sample_start": 0, "core:datetime": time::rfc3339(self.begun) }]);
        let mut bytes = b"\n],\"captures\":".to_vec();
        self.json(&mut bytes, &captures)?;
        bytes.extend_from_slice(b",\"global\":");
        self.json(&mut bytes, &global)?;
        // No line end: then every shorter file is no JSON.
        bytes.push(b'}');
        self.text(&bytes)?;
        self.meta.flush().map_err(|e| io(&self.parts.meta, "write", e))
    }

    /// Gives the data its final name, to be followed by [`Sink::publish_meta`].
    pub(crate) fn publish_data(&self) -> Result<()> {
        rename(&self.parts.data, &self.finals.data)
    }

    /// Gives the meta file its final name, by which the recording is finished.
    pub(crate) fn publish_meta(&self) -> Result<PathBuf> {
        rename(&self.parts.meta, &self.finals.meta)?;
        Ok(self.finals.meta.clone())
    }

    /// Removes the unfinished files of a recording that never began.
    pub(crate) fn discard(self) {
        let _ = fs::remove_file(&self.parts.data);
        let _ = fs::remove_file(&self.parts.meta);
    }

    fn json(&self, bytes: &mut Vec<u8>, value: &impl Serialize) -> Result<()> {
        serde_json::to_writer(bytes, value).map_err(|e| io(&self.parts.meta, "write", e.into()))
    }

    fn text(&mut self, bytes: &[u8]) -> Result<()> {
        self.meta_bytes += bytes.len() as u64;
        self.meta.write_all(bytes).map_err(|e| io(&self.parts.meta, "write", e))
    }
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn create(path: &Path) -> Result<BufWriter<File>> {
    match File::create_new(path) {
        Ok(file) => Ok(BufWriter::with_capacity(64 << 10, file)),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Err(Error::Exists { path: path.into() }),
        Err(e) => Err(io(path, "create the file", e)),
    }
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    if crate::files::exists(to)? {
        return Err(Error::Exists { path: to.into() });
    }
    fs::rename(from, to).map_err(|e| io(from, "rename the finished file", e))
}

fn io(path: &Path, action: &'static str, source: std::io::Error) -> Error {
    Error::Io { path: path.into(), action, source }
}
