//! Recordings of a link as [SigMF](https://sigmf.org) files: what came to a channel and what left it, frame by frame, so that a run can
//! be looked at with any tool that reads SigMF and replayed without the programs that made it.
//!
//! A [`Recorder`] writes a pair of recordings, `NAME-before` and `NAME-after`; each is a `.sigmf-data` file of `cf32_le` symbols (f32 I,
//! then f32 Q, little-endian) and a `.sigmf-meta` file of JSON with one annotation per frame. In the data a frame's pilots come first, then
//! its payload. A [`Recording`] is such a file, or any other `cf32_le` SigMF recording, opened and checked. Impulse responses, measured
//! or drawn, are kept in the same form: [`write_responses`], [`read_responses`].
//!
//! ```
//! use num_complex::Complex32;
//! use semlink_recording::{FrameSymbols, Note, Recorder, Recording, Start};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let dir = dir.path();
//! let start = Start { link: "uplink".into(), hop_key: 0, sample_rate_hz: None, description: "two symbols".into() };
//! let mut recorder = Recorder::create(dir, "demo", start)?;
//! let note = Note { id: 7, pilots: 1, symbols: 2, snr_db_requested: 10.0, ..Note::default() };
//! let sent = [Complex32::new(1.0, 0.0), Complex32::new(0.0, -1.0)];
//! let frame = FrameSymbols { pilots: &[Complex32::ONE], symbols: &sent };
//! recorder.frame(&note, frame, frame)?;
//! let (_before, after) = recorder.finish()?;
//!
//! let recording = Recording::open(&after)?;
//! let first = &recording.frames()?[0];
//! let (pilots, symbols) = recording.read_frame(first)?;
//! assert_eq!((pilots.len(), symbols.as_slice()), (1, sent.as_slice()));
//! # Ok(())
//! # }
//! ```
//!
//! The fields of the `semlink` namespace are listed at [`Note`] and [`Recorder`].

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod error;
mod files;
mod global;
mod meta;
mod note;
mod recorder;
mod recording;
mod responses;
mod sink;
mod time;

pub use error::{Error, Result};
pub use note::{Frame, FrameSymbols, Note, Side, Start};
pub use recorder::Recorder;
pub use recording::Recording;
pub use responses::{Responses, read_responses, write_responses};

/// Most symbols of one frame, pilots and payload together.
pub const MAX_FRAME_SYMBOLS: usize = 65_536 + 1_024;
/// Most bytes of a `.sigmf-meta` file; about 2.5 million frames.
pub const MAX_META_BYTES: u64 = 1 << 30;
/// Most taps of one impulse response.
pub const MAX_TAPS: usize = 1_024;
/// Most values of a recording of impulse responses, 128 MiB.
pub const MAX_RESPONSE_VALUES: usize = 1 << 24;

/// Most annotations of one recording: bounds the memory that opening one takes.
const MAX_ANNOTATIONS: usize = 1 << 22;
/// Most bytes of `global` when a recording is read; more than a [`Recorder`] ever writes.
const MAX_GLOBAL_BYTES: usize = 32 << 20;
/// Most bytes of all channel profiles of one recording together, as JSON.
const MAX_PROFILE_BYTES: usize = 16 << 20;
/// Most bytes of a link's name and of a description.
const MAX_TEXT_BYTES: usize = 64 << 10;
/// Bytes of one symbol.
const SYMBOL_BYTES: usize = 8;
