//! The one error type of this crate.

use std::path::PathBuf;

use crate::{MAX_FRAME_SYMBOLS, MAX_META_BYTES};

/// `std::result::Result` with this crate's [`Error`] unless another is named.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a recording was not written or not read: what, in which file and field, and what would be right.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be made, read, written or renamed.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The cause.
        source: std::io::Error,
    },

    /// A name that could leave its folder, or be hidden in it.
    #[error("recording name {name:?} must be 1 to 200 of A-Z a-z 0-9 . _ - and not begin with a dot")]
    Name {
        /// As it was given.
        name: String,
    },

    /// Nothing is ever overwritten.
    #[error("{} exists; choose another name or remove it", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },

    /// A value given to a writer that cannot be written.
    #[error("{}: {field} {what}", path.display())]
    Value {
        /// The file that it was for.
        path: PathBuf,
        /// The argument.
        field: String,
        /// What is wrong, and what would be right.
        what: String,
    },

    /// The meta file has no room left that a reader would accept.
    #[error("{}: full after {frames} frames; finish this recording and begin another", path.display())]
    Full {
        /// The meta file.
        path: PathBuf,
        /// Frames written.
        frames: u64,
    },

    /// An earlier write failed, so that the files no longer agree.
    #[error("{}: an earlier write failed; begin another recording, this one stays unfinished", path.display())]
    Broken {
        /// The meta file.
        path: PathBuf,
    },

    /// There is no such recording.
    #[error("{}: no such file; a recording is a .sigmf-meta and a .sigmf-data file of the same name", path.display())]
    NotFound {
        /// The meta file that was looked for.
        path: PathBuf,
    },

    /// The recorder was stopped before its end.
    #[error("{} is there: the recording was not finished; record again", path.display())]
    Unfinished {
        /// The file that shows it.
        path: PathBuf,
    },

    /// A meta file without its data file.
    #[error("{}: no such data file; copy it beside its .sigmf-meta file", path.display())]
    NoData {
        /// The data file that was looked for.
        path: PathBuf,
    },

    /// The meta file is larger than is read.
    #[error("{}: {bytes} bytes, must be at most {MAX_META_BYTES}; split the recording", path.display())]
    MetaTooLarge {
        /// The meta file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },

    /// The meta file ends before its JSON does.
    #[error("{}: truncated JSON: {source}; copy the file again", path.display())]
    Truncated {
        /// The meta file.
        path: PathBuf,
        /// Where, with line and column.
        source: serde_json::Error,
    },

    /// The meta file is not JSON, or its JSON is not built as SigMF asks.
    #[error("{}: not SigMF JSON: {source}", path.display())]
    Json {
        /// The meta file.
        path: PathBuf,
        /// What and where, with line and column.
        source: serde_json::Error,
    },

    /// The meta file lacks one of its three parts.
    #[error("{}: {section} is missing; a SigMF meta file has global, captures and annotations", path.display())]
    Section {
        /// The meta file.
        path: PathBuf,
        /// Which.
        section: &'static str,
    },

    /// A field of `global` that is missing or wrong.
    #[error("{}: global: {field} {what}", path.display())]
    Global {
        /// The meta file.
        path: PathBuf,
        /// The field.
        field: &'static str,
        /// What is wrong, and what would be right.
        what: String,
    },

    /// SigMF that this program does not read.
    #[error("{}: {field} is {found}, must be {needed}; convert the recording first", path.display())]
    Unsupported {
        /// The meta file.
        path: PathBuf,
        /// The field.
        field: &'static str,
        /// Its value.
        found: String,
        /// What is read.
        needed: &'static str,
    },

    /// A capture or annotation that is wrong, the first of them.
    #[error("{}: {section}[{index}]: {field} {what}", path.display())]
    Segment {
        /// The meta file.
        path: PathBuf,
        /// `captures` or `annotations`.
        section: &'static str,
        /// Which, from 0.
        index: usize,
        /// The field.
        field: &'static str,
        /// What is wrong, and what would be right.
        what: String,
    },

    /// A frame that is longer than any link sends.
    #[error("{}: annotations[{index}]: core:sample_count is {found}, a frame has at most {MAX_FRAME_SYMBOLS}", path.display())]
    FrameTooLong {
        /// The meta file.
        path: PathBuf,
        /// Which annotation, from 0.
        index: usize,
        /// Symbols in the annotation.
        found: u64,
    },

    /// Half a symbol at the end of the data.
    #[error("{}: {bytes} bytes are no whole number of symbols, must be a multiple of 8 (cf32_le); copy the file again", path.display())]
    PartialSymbol {
        /// The data file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },

    /// The data ends before the annotations do.
    #[error(
        "{}: truncated: {samples} symbols, but {section}[{index}] (core:sample_start, core:sample_count) ends at {end}; copy the file again",
        path.display()
    )]
    TooShort {
        /// The data file.
        path: PathBuf,
        /// Symbols in it.
        samples: u64,
        /// `captures` or `annotations`.
        section: &'static str,
        /// The first that goes beyond the data, from 0.
        index: usize,
        /// Its end.
        end: u64,
    },

    /// The data is not that of the meta file.
    #[error("{}: SHA-512 is {found}, core:sha512 says {expected}: damaged, or of another recording", path.display())]
    Checksum {
        /// The data file.
        path: PathBuf,
        /// In the meta file.
        expected: String,
        /// Of the data.
        found: String,
    },

    /// Symbols were asked for that the recording does not have.
    #[error("{}: symbols {start} to {start} + {count} asked for, there are {samples}", path.display())]
    Range {
        /// The data file.
        path: PathBuf,
        /// First symbol.
        start: u64,
        /// How many.
        count: usize,
        /// Symbols in the recording.
        samples: u64,
    },

    /// A NaN or an infinity among the symbols.
    #[error("{}: symbol {index} is {value}, must be finite", path.display())]
    NonFinite {
        /// The data file.
        path: PathBuf,
        /// Its index in the data file, from 0.
        index: u64,
        /// The value found.
        value: String,
    },

    /// A recording that does not hold impulse responses.
    #[error("{}: {field} {what}", path.display())]
    Responses {
        /// The meta file.
        path: PathBuf,
        /// The field.
        field: &'static str,
        /// What is wrong, and what would be right.
        what: String,
    },
}
