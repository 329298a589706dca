//! The transmitter: image files in, decisions out, by way of a noisy link.
//!
//! Each image is decoded and preprocessed, encoded into k channel symbols together with whatever else waits, and sent to the next
//! `Link`; the report that comes back is the answer and tells the encoder how the channel is.
//!
//! At the limits: `Config::queue` images may be under way in all; beyond it a stream is not read, which holds its client back, and a
//! single call is refused with `RESOURCE_EXHAUSTED`. An image above `Config::max_image_bytes` is an error under its id; a message of
//! more than twice that ends its call with `OUT_OF_RANGE`. A shutdown ends the reading of streams; what was read is answered.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod classify;
mod config;
mod control;
mod model;
pub mod rate;

use std::sync::Arc;
use std::time::Duration;

use semlink_channel::{iq, pilots};
use semlink_codec::{EncoderHalf, ImageLimits};
use semlink_proto::v1::transmitter_server::TransmitterServer;
use semlink_service::peer::{LinkClient, NextHop};
use semlink_service::{Error, Shell, config::Problems};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

pub use config::Config;

use classify::{Inner, TransmitterService};
use control::Control;
use model::{Encoder, Model};
use rate::{Rate, RateTable};
use semlink_service::batch::Limits;

const NAME: &str = "semlink-transmitter";
/// Room in a message for what is not the image.
const ENVELOPE: usize = 64 << 10;

/// Serves on `listener` until `shutdown` resolves, then answers what was accepted and returns.
///
/// # Errors
/// [`Error::Config`] for settings and bundles that cannot be served with, all of them at once; [`Error::Serve`] when the server fails.
pub async fn serve(listener: TcpListener, config: Config, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    let (encoder, next) = prepare(&config)?;
    let shell = Shell::new(NAME);
    let codec_id = encoder.half.codec_id().to_owned();
    let control = Arc::clone(&encoder.control);
    let batches = Limits { queue: config.queue, batch: config.max_batch };
    let model = Model::spawn(encoder, batches)
        .map_err(|error| Error::Serve { service: NAME, message: format!("no thread for the encoder: {error}") })?;
    let service = TransmitterService::new(Inner {
        codec_id,
        model,
        link: LinkClient::new(next),
        pilots: iq::encode(&pilots::sequence(config.pilots)).into(),
        control,
        door: Semaphore::new(config.queue),
        in_flight: config.in_flight,
        drain: shell.drain(),
    });
    let service = TransmitterServer::new(service).max_decoding_message_size(2 * config.max_image_bytes + ENVELOPE);
    shell.add_service(service).serve(listener, shutdown).await
}

/// An encoder that has passed a real forward pass, and where its frames go.
fn prepare(config: &Config) -> Result<(Encoder, NextHop), Error> {
    let mut problems = Problems::new();
    config.check(&mut problems);
    let next = problems.parse::<NextHop>("--next", &config.next);
    let next = next.and_then(|next| problems.check("--link", next.with_link(&config.link)));
    let bundle = format!("--bundle {}", config.bundle.display());
    let half = problems.check(&bundle, EncoderHalf::open(&config.bundle));
    let encoder = half.and_then(|half| {
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
    });
    problems.finish(encoder.zip(next))
}
