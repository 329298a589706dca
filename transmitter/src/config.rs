//! Settings of the transmitter.

use std::path::PathBuf;

use bytes::Bytes;
use semlink_channel::{iq, pilots};
use semlink_service::Door;
use semlink_service::ServiceArgs;
use semlink_service::config::Problems;
use semlink_service::security::ClientArgs;
use tokio::sync::Semaphore;

use crate::rate::Rate;

/// Settings of a transmitter.
#[derive(Debug, Clone, clap::Args)]
pub struct Config {
    /// The Link that frames go to: a channel emulator or a receiver
    #[arg(
        long,
        env = "SEMLINK_NEXT",
        value_name = "URL",
        default_value = "",
        required_unless_present = "check_health",
        hide_default_value = true
    )]
    pub next: String,

    /// Name of the channel emulator's link that the frames take; empty: its default one
    #[arg(long, env = "SEMLINK_LINK", value_name = "NAME", default_value = "", hide_default_value = true)]
    pub link: String,

    /// Directory of the codec bundle, of which the transmitter reads the encoder half and bundle.json, and reads them again when they change
    #[arg(
        long,
        env = "SEMLINK_BUNDLE",
        value_name = "DIR",
        default_value = "",
        required_unless_present = "check_health",
        hide_default_value = true
    )]
    pub bundle: PathBuf,

    /// Channel uses of a frame: one of the codec's numbers, or auto for the fewest that reach --target over the reported channel
    #[arg(long, env = "SEMLINK_RATE", value_name = "auto|K", default_value = "64")]
    pub rate: Rate,

    /// Accuracy that a frame of automatic rate should have, as a fraction of the bundle's accuracy without a channel
    #[arg(long, env = "SEMLINK_TARGET", value_name = "FRACTION", default_value_t = Config::TARGET, allow_negative_numbers = true)]
    pub target: f64,

    /// Pilots before each frame, 0 or 2 to 1024: known symbols from which a receiver that is told nothing estimates the channel
    #[arg(long, env = "SEMLINK_PILOTS", value_name = "P", default_value_t = 0)]
    pub pilots: usize,

    /// Images that may be under way, a larger one counting once for each 16 KiB; beyond it streams are held back and single calls are refused
    #[arg(long, env = "SEMLINK_QUEUE", value_name = "IMAGES", default_value_t = Config::QUEUE)]
    pub queue: usize,

    /// Seconds that an image may take before it is answered with an error, while next hops come and go
    #[arg(long, env = "SEMLINK_PATIENCE", value_name = "SECONDS", default_value_t = Config::PATIENCE, allow_negative_numbers = true)]
    pub patience: f64,

    /// Images of one stream that may be under way
    #[arg(long, env = "SEMLINK_IN_FLIGHT", value_name = "IMAGES", default_value_t = Config::IN_FLIGHT)]
    pub in_flight: usize,

    /// Most images that are encoded together
    #[arg(long, env = "SEMLINK_MAX_BATCH", value_name = "IMAGES", default_value_t = Config::MAX_BATCH)]
    pub max_batch: usize,

    /// Milliseconds that encoding a batch should take at most: batches are made as large as that allows
    #[arg(long, env = "SEMLINK_BATCH_LATENCY_MS", value_name = "MS", default_value_t = Config::BATCH_LATENCY_MS)]
    pub batch_latency_ms: u64,

    /// Largest image file that is accepted
    #[arg(long, env = "SEMLINK_MAX_IMAGE_BYTES", value_name = "BYTES", default_value_t = Config::MAX_IMAGE_BYTES)]
    pub max_image_bytes: usize,

    /// Largest width times height that is accepted, checked before an image is decoded
    #[arg(long, env = "SEMLINK_MAX_IMAGE_PIXELS", value_name = "PIXELS", default_value_t = Config::MAX_IMAGE_PIXELS)]
    pub max_image_pixels: u64,

    /// Seconds that a reported channel counts; with 0 frames depend on nothing but image and rate
    #[arg(long, env = "SEMLINK_FEEDBACK_AGE", value_name = "SECONDS", default_value_t = Config::FEEDBACK_AGE, allow_negative_numbers = true)]
    pub feedback_age: f64,

    #[command(flatten)]
    #[allow(missing_docs, reason = "a comment here would take the place of the command's own")]
    pub service: ServiceArgs,

    #[command(flatten)]
    #[allow(missing_docs, reason = "a comment here would take the place of the command's own")]
    pub client: ClientArgs,
}

impl Config {
    const TARGET: f64 = 0.98;
    const QUEUE: usize = 1024;
    const IN_FLIGHT: usize = 256;
    const PATIENCE: f64 = 30.0;
    const MAX_BATCH: usize = 64;
    const BATCH_LATENCY_MS: u64 = 20;
    /// Of an image file, unless told otherwise.
    pub const MAX_IMAGE_BYTES: usize = 8 << 20;
    const MAX_IMAGE_PIXELS: u64 = 16_000_000;
    const FEEDBACK_AGE: f64 = 10.0;

    /// The default settings with this next Link and bundle.
    pub fn new(next: impl Into<String>, bundle: impl Into<PathBuf>, rate: Rate) -> Config {
        Config {
            next: next.into(),
            link: String::new(),
            bundle: bundle.into(),
            rate,
            target: Config::TARGET,
            pilots: 0,
            queue: Config::QUEUE,
            patience: Config::PATIENCE,
            in_flight: Config::IN_FLIGHT,
            max_batch: Config::MAX_BATCH,
            batch_latency_ms: Config::BATCH_LATENCY_MS,
            max_image_bytes: Config::MAX_IMAGE_BYTES,
            max_image_pixels: Config::MAX_IMAGE_PIXELS,
            feedback_age: Config::FEEDBACK_AGE,
            service: ServiceArgs::default(),
            client: ClientArgs::default(),
        }
    }

    /// What precedes each payload, cf32_le.
    pub(crate) fn pilot_bytes(&self) -> Bytes {
        iq::encode(&pilots::sequence(self.pilots)).into()
    }

    /// Whether the target can be one: above 0, at most 1.
    pub(crate) fn target_is_fraction(&self) -> bool {
        self.target > 0.0 && self.target <= 1.0
    }

    /// Notes every number that cannot be served with.
    pub(crate) fn check(&self, problems: &mut Problems) {
        let bounds = [
            ("--queue", self.queue, Door::MOST),
            ("--in-flight", self.in_flight, Semaphore::MAX_PERMITS),
            ("--max-batch", self.max_batch, 1024),
            ("--max-image-bytes", self.max_image_bytes, 256 << 20),
        ];
        for (flag, value, max) in bounds {
            if !(1..=max).contains(&value) {
                problems.add(flag, format!("{value}, expected 1 to {max}"));
            }
        }
        if !self.target_is_fraction() {
            problems.add("--target", format!("{}, expected above 0 and at most 1", self.target));
        }
        if self.pilots != 0 && !(pilots::MIN..=pilots::MAX).contains(&self.pilots) {
            let expected = format!("{}, expected 0 or {} to {}", self.pilots, pilots::MIN, pilots::MAX);
            problems.add("--pilots", expected);
        }
        if !(1..=1 << 30).contains(&self.max_image_pixels) {
            problems.add("--max-image-pixels", format!("{}, expected 1 to {}", self.max_image_pixels, 1 << 30));
        }
        problems.within("--batch-latency-ms", self.batch_latency_ms, 1, 60_000);
        if !(self.patience > 0.0 && self.patience <= 300.0) {
            problems.add("--patience", format!("{}, expected above 0 and at most 300 seconds", self.patience));
        }
        if !(0.0..=86_400.0).contains(&self.feedback_age) {
            problems.add("--feedback-age", format!("{}, expected 0 to 86400 seconds", self.feedback_age));
        }
    }
}
