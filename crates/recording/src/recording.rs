//! Reading recordings.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use num_complex::Complex32;
use serde_json::error::Category;
use serde_json::{Map, Value};
use sha2::{Digest, Sha512};

use crate::files::{Pair, exists};
use crate::global::{self, Known};
use crate::meta::{Document, Fault, FaultKind, Span};
use crate::sink::hex;
use crate::{Error, Frame, MAX_GLOBAL_BYTES, MAX_META_BYTES, Result, SYMBOL_BYTES, Side};

/// Bytes that are read at once.
const CHUNK: usize = 64 << 10;

/// A SigMF recording of `cf32_le` symbols, of this crate or of any other program, opened and checked.
#[derive(Debug)]
pub struct Recording {
    files: Pair,
    global: Map<String, Value>,
    known: Known,
    samples: u64,
    data: Mutex<File>,
    spans: Vec<Span>,
    frames: Vec<Frame>,
    no_frame: Option<Fault>,
    any_frame: bool,
}

impl Recording {
    /// Opens a recording by its `.sigmf-meta` file, its `.sigmf-data` file or what these names have in common, and checks it whole: the
    /// data is read once for its SHA-512, where `global` has one. Symbols are looked at only by [`Recording::read`].
    ///
    /// # Errors
    /// Each names the file and, in a meta file, the field: [`Error::NotFound`], [`Error::Unfinished`], [`Error::NoData`],
    /// [`Error::MetaTooLarge`], [`Error::Truncated`], [`Error::Json`], [`Error::Section`], [`Error::Global`], [`Error::Unsupported`]
    /// (another datatype, several channels, samples kept elsewhere), [`Error::Segment`] (positions that are missing, negative or out of
    /// order, or frames that overlap), [`Error::FrameTooLong`], [`Error::PartialSymbol`], [`Error::TooShort`], [`Error::Checksum`], [`Error::Io`].
    pub fn open(path: impl AsRef<Path>) -> Result<Recording> {
        let files = Pair::of(path.as_ref());
        let parts = files.parts();
        if !exists(&files.meta)? {
            for part in [parts.meta, parts.data] {
                if exists(&part)? {
                    return Err(Error::Unfinished { path: part });
                }
            }
            return Err(Error::NotFound { path: files.meta });
        }
        let document = parse(&files.meta)?;
        let global = document.global.ok_or_else(|| Error::Section { path: files.meta.clone(), section: "global" })?;
        let captures =
            document.captures.ok_or_else(|| Error::Section { path: files.meta.clone(), section: "captures" })?;
        let annotations =
            document.annotations.ok_or_else(|| Error::Section { path: files.meta.clone(), section: "annotations" })?;
        let global = parse_global(global.get(), &files.meta)?;
        let data_name = files.data.file_name().unwrap_or_default().to_string_lossy();
        let known = global::check(&global, &files.meta, &data_name)?;
        for (section, fault) in [("captures", captures.fault), ("annotations", annotations.fault)] {
            if let Some(fault) = fault {
                return Err(segment_error(&files.meta, section, fault));
            }
        }

        if !exists(&files.data)? {
            let unfinished = exists(&parts.data)?;
            return Err(if unfinished {
                Error::Unfinished { path: parts.data }
            } else {
                Error::NoData { path: files.data }
            });
        }
        let mut data = File::open(&files.data).map_err(|e| io(&files.data, "open", e))?;
        let bytes = data.metadata().map_err(|e| io(&files.data, "open", e))?.len();
        if bytes % SYMBOL_BYTES as u64 != 0 {
            return Err(Error::PartialSymbol { path: files.data, bytes });
        }
        let samples = bytes / SYMBOL_BYTES as u64;
        for (section, spans) in [("captures", &captures.spans), ("annotations", &annotations.spans)] {
            if let Some((index, span)) = spans.iter().enumerate().find(|(_, span)| span.end() > samples) {
                return Err(Error::TooShort { path: files.data, samples, section, index, end: span.end() });
            }
        }
        if let Some(expected) = &known.sha512 {
            let found = sha512(&mut data).map_err(|e| io(&files.data, "read", e))?;
            if found != *expected {
                return Err(Error::Checksum { path: files.data, expected: expected.clone(), found });
            }
        }
        Ok(Recording {
            files,
            global,
            known,
            samples,
            data: Mutex::new(data),
            spans: annotations.spans,
            frames: annotations.frames,
            no_frame: annotations.no_frame,
            any_frame: annotations.frame_end.is_some(),
        })
    }

    /// The meta file.
    pub fn path(&self) -> &Path {
        &self.files.meta
    }

    /// Symbols in the recording.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// Symbols per second, where the recording says so.
    pub fn sample_rate_hz(&self) -> Option<f64> {
        self.known.sample_rate_hz
    }

    /// `global` as it is in the file.
    pub fn global(&self) -> &Map<String, Value> {
        &self.global
    }

    /// Name of the link.
    pub fn link(&self) -> Option<&str> {
        self.global.get(global::LINK).and_then(Value::as_str)
    }

    /// Number of the link in the key of its noise.
    pub fn link_key(&self) -> Option<u64> {
        self.known.link_key
    }

    /// Before or after the channel.
    pub fn side(&self) -> Option<Side> {
        self.known.side
    }

    /// The channel profile of a version.
    pub fn profile(&self, version: u64) -> Option<&Value> {
        self.global.get(global::PROFILES)?.get(version.to_string())
    }

    /// The frames in their order.
    ///
    /// # Errors
    /// [`Error::Segment`] naming the first annotation that is no frame of this crate and the field that shows it; [`Error::Global`] if
    /// there are no annotations, nor `semlink:side`.
    pub fn frames(&self) -> Result<&[Frame]> {
        if let Some(fault) = &self.no_frame {
            return Err(segment_error(&self.files.meta, "annotations", fault.clone()));
        }
        if self.frames.is_empty() && self.known.side.is_none() {
            let what = "is missing, must be before or after: no recording of frames".into();
            return Err(Error::Global { path: self.files.meta.clone(), field: global::SIDE, what });
        }
        Ok(&self.frames)
    }

    /// `count` symbols from `start` on, 8 bytes of memory each.
    ///
    /// # Errors
    /// [`Error::Range`] beyond the recording, [`Error::NonFinite`] with the index of the first NaN or infinity, [`Error::Io`].
    pub fn read(&self, start: u64, count: usize) -> Result<Vec<Complex32>> {
        let path = &self.files.data;
        if start.checked_add(count as u64).is_none_or(|end| end > self.samples) {
            return Err(Error::Range { path: path.clone(), start, count, samples: self.samples });
        }
        let mut symbols: Vec<Complex32> = Vec::new();
        symbols
            .try_reserve_exact(count)
            .map_err(|e| io(path, "hold the symbols in memory", std::io::Error::other(e)))?;
        // Nothing is left half done by a panic elsewhere: the position is set anew by every reader.
        let mut data = self.data.lock().unwrap_or_else(PoisonError::into_inner);
        data.seek(SeekFrom::Start(start * SYMBOL_BYTES as u64)).map_err(|e| io(path, "read", e))?;
        let mut bytes = vec![0; CHUNK.min(count * SYMBOL_BYTES)];
        let mut left = count * SYMBOL_BYTES;
        while left > 0 {
            bytes.truncate(left);
            data.read_exact(&mut bytes).map_err(|e| io(path, "read", e))?;
            left -= bytes.len();
            for &[a, b, c, d, e, f, g, h] in bytes.as_chunks::<SYMBOL_BYTES>().0 {
                let symbol = Complex32::new(f32::from_le_bytes([a, b, c, d]), f32::from_le_bytes([e, f, g, h]));
                if !symbol.is_finite() {
                    let index = start + symbols.len() as u64;
                    return Err(Error::NonFinite { path: path.clone(), index, value: symbol.to_string() });
                }
                symbols.push(symbol);
            }
        }
        Ok(symbols)
    }

    /// Pilots and payload of a frame.
    ///
    /// # Errors
    /// Those of [`Recording::read`]; [`Error::Range`] also for a frame of another recording that goes beyond this one.
    pub fn read_frame(&self, frame: &Frame) -> Result<(Vec<Complex32>, Vec<Complex32>)> {
        let mut pilots = self.read(frame.start, frame.note.pilots.saturating_add(frame.note.symbols))?;
        let symbols = pilots.split_off(frame.note.pilots);
        Ok((pilots, symbols))
    }

    /// Where the annotations lie.
    pub(crate) fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// Whether it was made by a [`crate::Recorder`], or looks so.
    pub(crate) fn has_frames(&self) -> bool {
        self.any_frame || self.known.side.is_some()
    }
}

fn parse(path: &Path) -> Result<Document> {
    let file = File::open(path).map_err(|e| io(path, "open", e))?;
    let bytes = file.metadata().map_err(|e| io(path, "open", e))?.len();
    if bytes > MAX_META_BYTES {
        return Err(Error::MetaTooLarge { path: path.into(), bytes });
    }
    // It may grow meanwhile.
    let reader = BufReader::with_capacity(CHUNK, file.take(MAX_META_BYTES));
    serde_json::from_reader(reader).map_err(|e| json(path, e))
}

fn parse_global(text: &str, path: &Path) -> Result<Map<String, Value>> {
    if text.len() > MAX_GLOBAL_BYTES {
        return Err(Error::Global {
            path: path.into(),
            field: "(all of it)",
            what: format!("has {} bytes, must have at most {MAX_GLOBAL_BYTES}", text.len()),
        });
    }
    serde_json::from_str(text).map_err(|e| json(path, e))
}

fn json(path: &Path, source: serde_json::Error) -> Error {
    let path = path.into();
    match source.classify() {
        Category::Eof => Error::Truncated { path, source },
        Category::Io => Error::Io { path, action: "read", source: source.into() },
        Category::Syntax | Category::Data => Error::Json { path, source },
    }
}

fn segment_error(path: &Path, section: &'static str, fault: Fault) -> Error {
    let Fault { index, field, kind } = fault;
    let path = path.to_path_buf();
    match kind {
        FaultKind::Wrong(what) => Error::Segment { path, section, index, field, what },
        FaultKind::TooLong(found) => Error::FrameTooLong { path, index, found },
        FaultKind::Unsupported { found, needed } => Error::Unsupported { path, field, found, needed },
    }
}

fn sha512(data: &mut File) -> std::io::Result<String> {
    let (mut hash, mut bytes) = (Sha512::new(), vec![0; CHUNK]);
    loop {
        let read = data.read(&mut bytes)?;
        match bytes.get(..read) {
            Some([]) | None => return Ok(hex(&hash.finalize())),
            Some(read) => hash.update(read),
        }
    }
}

fn io(path: &Path, action: &'static str, source: std::io::Error) -> Error {
    Error::Io { path: path.into(), action, source }
}
