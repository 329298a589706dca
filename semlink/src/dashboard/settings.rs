//! What changes seldom: services, codec, channel, and what the page asked for.

use semlink_channel::StageSpec;
use semlink_proto::v1;
use semlink_service::wire;
use semlink_transmitter::rate::Rate;
use serde::Serialize;

use super::Link;
use crate::client;
use crate::files::Point;

/// Images that may be sent in a second.
const MOST_IMAGES: f64 = 1000.0;

/// The event `settings`.
#[derive(Debug, Serialize)]
pub(super) struct Settings {
    /// Of this program.
    version: &'static str,
    /// Callers need tokens.
    tokens: bool,
    pub(super) transmitter: Service,
    pub(super) emulator: Service,
    /// What is behind the transmitter, by its answers.
    pub(super) link: Service,
    pub(super) codec: Option<Codec>,
    pub(super) channel: Option<Channel>,
    pub(super) feed: Feed,
    pub(super) sweep: Sweep,
    pub(super) limit: Option<Limit>,
}

/// A service, and whether it can be reached.
#[derive(Debug, Serialize)]
pub(super) struct Service {
    name: String,
    /// `None`: not known yet.
    pub(super) up: Option<bool>,
    why: String,
}

/// What the transmitter says of its codec.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Codec {
    pub(super) id: String,
    pub(super) uses: Vec<u32>,
    pub(super) default_uses: Option<u32>,
    pilots: u32,
    pub(super) labels: Vec<String>,
    pub(super) clean_accuracy: Option<f64>,
}

/// What the emulator says of the link's channel.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Channel {
    pub(super) kind: &'static str,
    pub(super) snr_db: f32,
    pub(super) k_factor_db: f32,
    pub(super) coherence: u32,
    csi: &'static str,
    pub(super) version: u64,
    /// The SNR follows one.
    pub(super) scheduled: bool,
    stages: Vec<String>,
}

/// The images that the page sends.
#[derive(Debug, Serialize)]
pub(super) struct Feed {
    /// Of the data set; empty: there are no images.
    data: String,
    images: usize,
    pub(super) paused: bool,
    /// `auto`, a number of channel uses, or empty for what the transmitter does.
    #[serde(serialize_with = "rate")]
    pub(super) rate: Option<Rate>,
    pub(super) images_per_second: f64,
}

/// A sweep that the page started.
#[derive(Debug, Default, Serialize)]
pub(super) struct Sweep {
    pub(super) running: bool,
    pub(super) answered: usize,
    pub(super) of: usize,
    pub(super) at: String,
    /// Why it ended before its end.
    pub(super) error: String,
    pub(super) points: Vec<Point>,
}

/// The physical limit.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Limit {
    pub(super) channel: &'static str,
    /// Channel uses; `None`: those of each point.
    pub(super) uses: Option<u32>,
    /// (SNR in dB, accuracy).
    pub(super) points: Vec<(f32, f64)>,
}

impl Settings {
    pub(super) fn new(link: &Link, images_per_second: f64, tokens: bool) -> Settings {
        Settings {
            version: env!("CARGO_PKG_VERSION"),
            tokens,
            transmitter: Service::new(link.to.as_str()),
            emulator: Service::new(link.control.as_str()),
            link: Service::new(&link.link),
            codec: None,
            channel: None,
            feed: Feed {
                data: link.dataset.as_ref().map(|data| data.name.clone()).unwrap_or_default(),
                images: link.dataset.as_ref().map_or(0, |data| data.images.len()),
                paused: false,
                rate: None,
                images_per_second,
            },
            sweep: Sweep::default(),
            limit: None,
        }
    }

    /// Channel uses of the images that the page sends; `None`: the transmitter chooses for each.
    pub(super) fn uses(&self) -> Option<u32> {
        match self.feed.rate {
            Some(Rate::Fixed(uses)) => u32::try_from(uses.get()).ok(),
            Some(Rate::Auto) => None,
            None => self.codec.as_ref().and_then(|codec| codec.default_uses),
        }
    }
}

impl Service {
    fn new(name: &str) -> Service {
        Service { name: name.to_owned(), up: None, why: String::new() }
    }

    /// Whether this is news.
    pub(super) fn set(&mut self, found: Result<(), String>) -> bool {
        let (up, why) = match found {
            Ok(()) => (Some(true), String::new()),
            Err(why) => (Some(false), why),
        };
        let news = self.up != up;
        (self.up, self.why) = (up, why);
        news
    }
}

impl From<v1::CodecInfo> for Codec {
    fn from(info: v1::CodecInfo) -> Codec {
        let v1::CodecInfo { codec_id, uses, default_uses, pilots, labels, clean_accuracy } = info;
        Codec { id: codec_id, uses, default_uses, pilots, labels, clean_accuracy }
    }
}

impl From<&v1::ChannelProfile> for Channel {
    fn from(profile: &v1::ChannelProfile) -> Channel {
        let stages = profile.stages.iter().filter_map(|stage| wire::try_stage(stage).ok());
        Channel {
            kind: wire::try_kind(profile.kind).map_or("unknown", |kind| kind.as_str()),
            snr_db: profile.snr_db,
            k_factor_db: profile.k_factor_db,
            coherence: profile.coherence,
            csi: client::csi_name(profile.csi()),
            version: profile.version,
            scheduled: profile.schedule.is_some(),
            stages: stages.map(|stage: StageSpec| stage.to_string()).collect(),
        }
    }
}

/// Whether so many images may be sent in a second.
pub(super) fn check_rate(images_per_second: f64) -> Result<(), String> {
    if (0.1..=MOST_IMAGES).contains(&images_per_second) {
        return Ok(());
    }
    Err(format!("images per second: {images_per_second}, expected 0.1 to {MOST_IMAGES}"))
}

fn rate<S: serde::Serializer>(rate: &Option<Rate>, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&rate.as_ref().map(Rate::to_string).unwrap_or_default())
}
