//! What stage `evaluate` found: `report.json`.

use std::path::Path;

use semlink_channel::ChannelKind;
use semlink_report::{Confusion, Reliability};
use serde::{Deserialize, Serialize};

use crate::{Result, json};

/// Measured on the test split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The data set, by the recipe's name.
    pub dataset: String,
    /// The teacher: encoder and classifier.
    pub teacher: Network,
    /// The student's encoder with a linear classifier of its own, without a channel.
    pub student: Network,
    /// Parameters of the channel encoder.
    pub encoder_params: usize,
    /// Its multiply-accumulates for one frame.
    pub encoder_macs: u64,
    /// Parameters of the channel decoder, without the classifier.
    pub decoder_params: usize,
    /// Its multiply-accumulates for one frame.
    pub decoder_macs: u64,
    /// Classes that a frame is decided among: for frames of several images, all combinations.
    pub classes: usize,
    /// What the student's features are worth when nothing is lost on the way: the better of `student` and of the codec with all its channel
    /// uses over AWGN at the highest SNR that it was trained for. Limits and losses count from here.
    pub clean: f64,
    /// The codec over the channel; the encoder is told the SNR that there is.
    pub points: Vec<Point>,
    /// The codec with an encoder that is told another SNR, or none.
    pub mismatch: Vec<Point>,
    /// JPEG over an ideal channel code, classified by the teacher.
    #[serde(default)]
    pub digital: Vec<DigitalPoint>,
    /// What was decided at the lowest, the middle and the highest SNR of each channel, with one k and perfect CSI.
    #[serde(default)]
    pub details: Vec<Detail>,
    /// The first test images; none of frames of several.
    #[serde(default)]
    pub samples: Vec<Sample>,
}

/// Decisions at one operating point.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Detail {
    /// The fading model.
    pub channel: ChannelKind,
    /// K of the Rician channel, in dB; absent for the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub k_factor_db: Option<f32>,
    /// Average Es/N0.
    pub snr_db: f32,
    /// Channel uses.
    pub k: usize,
    /// True class, class decided, how often.
    pub confusion: Confusion,
    /// For each bin of confidence: decisions, sum of their confidences, how many were right.
    pub reliability: Reliability,
    /// Class and confidence of the decisions about `samples`.
    pub decisions: Vec<(u32, f32)>,
}

/// A test image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Its class.
    pub class: u32,
    /// A PNG file in base64.
    pub png: String,
}

/// The digital scheme at one operating point.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct DigitalPoint {
    /// The fading model.
    pub channel: ChannelKind,
    /// Average Es/N0.
    pub snr_db: f32,
    /// Channel uses.
    pub k: usize,
    /// Top-1 accuracy; the class is guessed where no file fits.
    pub accuracy: f64,
    /// Share of images of which a file fits.
    pub fits: f64,
}

/// A network without a channel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Network {
    /// Trainable scalars.
    pub params: usize,
    /// Multiply-accumulates for one image.
    pub macs: u64,
    /// Top-1 accuracy.
    pub accuracy: f64,
    /// 95 % Wilson interval of `accuracy`.
    pub ci95: [f64; 2],
    /// Images measured.
    pub images: usize,
}

/// The codec at one operating point.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// The fading model, constant over a frame.
    pub channel: ChannelKind,
    /// Average Es/N0.
    pub snr_db: f32,
    /// K of the Rician channel, in dB; absent for the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub k_factor_db: Option<f32>,
    /// Payload channel uses.
    pub k: usize,
    /// Pilot symbols, on top of k.
    pub pilots: usize,
    /// What the receiver knows: `perfect`, `pilots` or `none`.
    pub csi: String,
    /// Average SNR that the encoder is told; absent if it is told nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told_snr_db: Option<f32>,
    /// Images sent: every test image `draws` times.
    pub images: usize,
    /// Frames of each test image, through independent channels.
    pub draws: usize,
    /// Images recognised.
    pub correct: usize,
    /// `correct` / `images`.
    pub accuracy: f64,
    /// 95 % Wilson interval of `accuracy` for `images` / `draws` images: several frames of one image are not independent trials.
    pub ci95: [f64; 2],
    /// Power of all h x over the power of all noise drawn.
    pub snr_db_measured: f32,
    /// What the measurement managed; includes the simulated channel, excludes the student.
    pub images_per_second: f64,
    /// The highest accuracy that any codec could reach here with this student, see [`semlink_channel::limit`].
    pub limit: f64,
    /// `limit` - `accuracy`.
    pub gap: f64,
    /// Expected calibration error of the decisions' probabilities, 15 bins, 0 to 1.
    pub calibration_error: f64,
}

impl Point {
    /// The channel for a table: kind, K and pilots.
    pub fn channel_text(&self) -> String {
        let mut text = channel_text(self.channel, self.k_factor_db);
        if self.pilots > 0 {
            text += &format!(", {} pilots", self.pilots);
        }
        text
    }
}

impl Detail {
    /// The channel as [`Point::channel_text`] has it.
    pub fn channel_text(&self) -> String {
        channel_text(self.channel, self.k_factor_db)
    }
}

fn channel_text(channel: ChannelKind, k_factor_db: Option<f32>) -> String {
    match k_factor_db {
        Some(k_factor_db) => format!("{channel} K {k_factor_db} dB"),
        None => channel.to_string(),
    }
}

impl Report {
    /// Reads a report.
    ///
    /// # Errors
    /// The file cannot be read or is no report.
    pub fn read(path: &Path) -> Result<Self> {
        json::read(path)
    }

    /// Writes the report.
    ///
    /// # Errors
    /// The folder takes no file.
    pub fn write(&self, path: &Path) -> Result<()> {
        json::write(path, self)
    }
}
