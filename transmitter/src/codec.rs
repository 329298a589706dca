//! The codec that images are encoded with, and how a new one takes its place.
//!
//! A bundle whose files change is read again. Its encoder is taken once a frame of it has come back decided: a receiver that does not hold the
//! codec yet changes nothing here. The one before it is kept, for images that meet a receiver which holds only that.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use semlink_channel::ChannelUses;
use semlink_codec::{EncoderHalf, ImageLimits, Manifest};
use semlink_proto::v1;
use semlink_service::batch::Limits;
use semlink_service::config::Problems;
use semlink_service::metrics::{BatchMetrics, BundleMetrics};
use semlink_service::peer::LinkClient;
use semlink_service::reload::Directory;
use semlink_service::{Drain, wire};
use tokio::time::Instant;
use tonic::Status;

use crate::config::Config;
use crate::control::Control;
use crate::model::{Encoder, Model};
use crate::rate::{Rate, RateTable};

/// For a trial frame to come back.
const TRIAL: Duration = Duration::from_secs(5);

/// One codec, ready to encode.
#[derive(Debug)]
pub(crate) struct Codec {
    pub(crate) id: String,
    /// What clients are told of it; the pilots are not the codec's.
    pub(crate) info: v1::CodecInfo,
    pub(crate) model: Model,
    pub(crate) control: Arc<Control>,
}

/// The present codec and the one before it.
#[derive(Debug)]
pub(crate) struct Codecs {
    held: RwLock<Held>,
    config: Config,
    batch_metrics: BatchMetrics,
    metrics: BundleMetrics,
}

#[derive(Debug, Clone)]
struct Held {
    present: Arc<Codec>,
    before: Option<Arc<Codec>>,
}

/// Why a bundle's codec is not taken.
enum Refusal {
    /// It cannot be served with, until its files change again.
    Bundle(String),
    /// Not now: no receiver holds it, none can be reached, or the channel lost its frame.
    Link(Status),
}

/// The encoder of the configured bundle, after a real forward pass; notes every problem with it.
pub(crate) fn open(config: &Config, problems: &mut Problems) -> Option<Encoder> {
    let bundle = format!("--bundle {}", config.bundle.display());
    let half = problems.check(&bundle, EncoderHalf::open(&config.bundle))?;
    let rates = RateTable::of(half.manifest());
    let known = match config.rate {
        Rate::Fixed(uses) => rates
            .get(uses.get())
            .map(drop)
            .ok_or_else(|| format!("{uses} is not one of this codec's: {}", rates.listed())),
        Rate::Auto => Ok(()),
    };
    problems.check("--rate", known)?;
    // A target that is none is a problem already noted.
    if config.rate == Rate::Auto && config.target_is_fraction() {
        problems.check("--target", rates.check(config.target))?;
    }
    let limits = ImageLimits {
        max_bytes: config.max_image_bytes,
        max_pixels: config.max_image_pixels,
        ..ImageLimits::default()
    };
    // An age out of range is a problem already noted.
    let age = Duration::try_from_secs_f64(config.feedback_age).unwrap_or_default();
    let control = Arc::new(Control::new(config.rate, config.target, Arc::new(rates), age));
    let encoder = Encoder { half, limits, control };
    problems.check(&bundle, encoder.probe().map_err(|status| status.message().to_owned()))?;
    Some(encoder)
}

impl Codecs {
    /// Begins with this encoder.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub(crate) fn new(
        encoder: Encoder,
        config: Config,
        batch_metrics: BatchMetrics,
        metrics: BundleMetrics,
    ) -> Result<Codecs, String> {
        let present = Arc::new(Codec::start(encoder, &config, &batch_metrics)?);
        metrics.hold([present.id.as_str()]);
        Ok(Codecs { held: RwLock::new(Held { present, before: None }), config, batch_metrics, metrics })
    }

    /// What images are encoded with now.
    pub(crate) fn present(&self) -> Arc<Codec> {
        Arc::clone(&self.held.read().unwrap_or_else(PoisonError::into_inner).present)
    }

    /// Another one that may be held where this one is not.
    pub(crate) fn instead_of(&self, codec: &Codec) -> Option<Arc<Codec>> {
        let Held { present, before } = self.held.read().unwrap_or_else(PoisonError::into_inner).clone();
        if present.id == codec.id { before } else { Some(present) }
    }

    /// Takes in what the bundle changes to, until the drain begins.
    pub(crate) async fn follow(self: Arc<Self>, mut directory: Directory, link: LinkClient, drain: Drain) {
        let mut told = None;
        loop {
            let codecs = Arc::clone(&self);
            let Some(opened) = directory.next(&drain, move |_| codecs.open()).await else { return };
            let taken = match opened {
                Ok(encoder) => self.take(encoder, &link).await,
                Err(why) => Err(Refusal::Bundle(why)),
            };
            let bundle = directory.path().display().to_string();
            match taken {
                Ok(codec_id) => {
                    told = None;
                    self.metrics.reloaded.inc();
                    tracing::info!(bundle, codec_id, "codec taken");
                }
                Err(Refusal::Bundle(why)) => {
                    self.metrics.refused.inc();
                    tracing::warn!(bundle, why, "bundle changed, but cannot be served; the codec before it stays");
                }
                Err(Refusal::Link(status)) => {
                    directory.look_again();
                    // Once for each reason: it is tried again and again.
                    if told.replace(status.code()) != Some(status.code()) {
                        self.metrics.refused.inc();
                        tracing::warn!(
                            bundle,
                            why = status.message(),
                            "bundle changed, but its codec does not come through yet; the one before it stays"
                        );
                    }
                }
            }
        }
    }

    fn open(&self) -> Result<Encoder, String> {
        let mut problems = Problems::new();
        let encoder = open(&self.config, &mut problems);
        problems.finish(encoder).map_err(|error| error.to_string())
    }

    /// Makes this encoder's codec the present one, after a frame of it has been decided.
    async fn take(&self, encoder: Encoder, link: &LinkClient) -> Result<String, Refusal> {
        let id = encoder.half.codec_id().to_owned();
        if id != self.present().id {
            // After a rollback of the bundle the codec before is there, but it may have been changed in all but its weights.
            self.trial(&encoder, link).await.map_err(Refusal::Link)?;
        }
        let codec = Codec::start(encoder, &self.config, &self.batch_metrics).map_err(Refusal::Bundle)?;
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut held.present, Arc::new(codec));
        if before.id != id {
            held.before = Some(before);
        }
        let codecs = [Some(&held.present), held.before.as_ref()];
        self.metrics.hold(codecs.into_iter().flatten().map(|codec| codec.id.as_str()));
        Ok(id)
    }

    async fn trial(&self, encoder: &Encoder, link: &LinkClient) -> Result<(), Status> {
        let frame = v1::Frame {
            codec_id: encoder.half.codec_id().to_owned(),
            symbols: encoder.probe()?.symbols,
            pilots: self.config.pilot_bytes(),
            trial: true,
            ..Default::default()
        };
        // A frame that the channel loses says nothing about the codec: that is an error, too, and the trial is made again.
        let report = link.transmit(frame, Instant::now() + TRIAL).await?.report;
        report.error.map_or(Ok(()), |error| Err(wire::status(error)))
    }
}

impl Codec {
    fn start(encoder: Encoder, config: &Config, metrics: &BatchMetrics) -> Result<Codec, String> {
        let (id, control) = (encoder.half.codec_id().to_owned(), Arc::clone(&encoder.control));
        let info = info(encoder.half.manifest(), control.table(), config.rate);
        let limits = Limits {
            queue: config.queue,
            batch: config.max_batch,
            latency: Duration::from_millis(config.batch_latency_ms),
            workers: semlink_codec::available_cpus(),
        };
        let model = Model::spawn(encoder, limits, metrics.clone());
        let model = model.map_err(|error| format!("no thread for the encoder: {error}"))?;
        Ok(Codec { id, info, model, control })
    }
}

fn info(manifest: &Manifest, rates: &RateTable, rate: Rate) -> v1::CodecInfo {
    // At most 65536.
    let uses = |uses: ChannelUses| uses.get() as u32;
    v1::CodecInfo {
        codec_id: manifest.codec_id.clone(),
        uses: rates.rates().iter().copied().map(uses).collect(),
        default_uses: match rate {
            Rate::Fixed(k) => Some(uses(k)),
            Rate::Auto => None,
        },
        pilots: 0,
        labels: manifest.labels.clone(),
        clean_accuracy: manifest.clean_accuracy,
    }
}
