//! What is said about a link and about each of its frames.

use num_complex::Complex32;

/// What is known about a link when its recording begins.
#[derive(Debug, Clone, PartialEq)]
pub struct Start {
    /// Name of the link, at most 64 KiB: `semlink:link`.
    pub link: String,
    /// Number of the link in the key of its noise: `semlink:link_key`.
    pub hop_key: u64,
    /// Symbols per second, above 0 and at most 1e12, where the link has such a rate: `core:sample_rate`.
    pub sample_rate_hz: Option<f64>,
    /// For people, at most 64 KiB: `core:description`.
    pub description: String,
}

/// What is known about one frame: an annotation of both recordings.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Note {
    /// The frame's id: `semlink:frame_id`.
    pub id: u64,
    /// The client that sent it: `semlink:stream`.
    pub stream: u64,
    /// Its number in the stream: `semlink:sequence`.
    pub sequence: u64,
    /// Pilots, at the frame's beginning: `semlink:pilots`.
    pub pilots: usize,
    /// Payload symbols: `core:sample_count` less `semlink:pilots`.
    pub symbols: usize,
    /// Seed of the channel: `semlink:seed`.
    pub seed: u64,
    /// Version of the channel profile that it met: `semlink:profile_version`.
    pub profile_version: u64,
    /// Average SNR asked for, in dB: `semlink:snr_db_requested`.
    pub snr_db_requested: f32,
    /// Power of the faded payload over that of the noise drawn, in dB, where it is known: `semlink:snr_db_realised`, or null.
    pub snr_db_realised: Option<f32>,
    /// Whether the channel lost it: `semlink:lost`. What left the channel may then be nothing at all.
    pub lost: bool,
}

/// The symbols of one frame on one side of the channel.
#[derive(Debug, Clone, Copy, Default)]
pub struct FrameSymbols<'a> {
    /// Pilots.
    pub pilots: &'a [Complex32],
    /// Payload.
    pub symbols: &'a [Complex32],
}

impl FrameSymbols<'_> {
    pub(crate) fn len(&self) -> usize {
        self.pilots.len().saturating_add(self.symbols.len())
    }
}

/// One frame of a recording.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Frame {
    /// What was noted; of a lost frame of which nothing left the channel, `pilots` and `symbols` are 0 in the recording after it.
    pub note: Note,
    /// Index of its first symbol in the recording.
    pub start: u64,
}

/// On which side of the channel a recording was made: `semlink:side`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// What came to the channel.
    Before,
    /// What left it.
    After,
}

impl Side {
    /// As in the files: `before` or `after`.
    pub fn as_str(self) -> &'static str {
        match self {
            Side::Before => "before",
            Side::After => "after",
        }
    }
}
