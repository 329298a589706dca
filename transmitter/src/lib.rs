//! The transmitter: image files in, decisions out, by way of a noisy link.
//!
//! Each image is decoded and preprocessed, encoded into k channel symbols together with whatever else waits, and sent to the next
//! `Link`; the report that comes back is the answer and tells the encoder how the channel is.
//!
//! At the limits: `Config::queue` images may be under way in all; beyond it a stream is not read, which holds its client back, and a
//! single call is refused with `RESOURCE_EXHAUSTED`. An image above `Config::max_image_bytes` is an error under its id; a message of
//! more than twice that ends its call with `OUT_OF_RANGE`. A shutdown ends the reading of streams; what was read is answered.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod batch;
mod classify;
mod config;
mod error;
mod feedback;
mod model;
pub mod rate;
mod shim;

use std::sync::Arc;
use std::time::Duration;

use semlink_codec::{EncoderHalf, ImageLimits};
use semlink_proto::v1::transmitter_server::TransmitterServer;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

pub use config::Config;
pub use error::Error;

use batch::Limits;
use classify::{Inner, TransmitterService};
use feedback::Feedback;
use model::{Encoder, Model};
use rate::{Rate, RateTable};

/// Room in a message for what is not the image.
const ENVELOPE: usize = 64 << 10;

/// Serves on `listener` until `shutdown` resolves, then answers what was accepted and returns.
///
/// # Errors
/// Settings or a bundle that cannot be served with ([`Error::is_configuration`]), all faulty settings at once; what the system refuses.
pub async fn serve(listener: TcpListener, config: Config, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    let mut faults = config.faults();
    let next = config.next.parse().map_err(|fault: String| faults.push(format!("--next: {fault}")));
    let half = EncoderHalf::open(&config.bundle)
        .map_err(|error| faults.push(format!("--bundle {}: {error}", config.bundle.display())));
    let (Ok(next), Ok(half)) = (next, half) else { return Err(Error::Settings(faults)) };
    let rates = Arc::new(RateTable::of(half.manifest()));
    if let Rate::Fixed(uses) = config.rate
        && rates.get(uses.get()).is_none()
    {
        faults.push(format!("--rate is {uses}, this codec has {}", rates.listed()));
    }
    if !faults.is_empty() {
        return Err(Error::Settings(faults));
    }

    let codec_id = half.codec_id().to_owned();
    let feedback = Arc::new(Feedback::new(Duration::from_secs_f64(config.feedback_age)));
    let limits = ImageLimits {
        max_bytes: config.max_image_bytes,
        max_pixels: config.max_image_pixels,
        ..ImageLimits::default()
    };
    let encoder = Encoder { half, limits, rate: config.rate, rates: rates.clone(), feedback: feedback.clone() };
    encoder.probe().map_err(|status| Error::Encoder { dir: config.bundle.clone(), status })?;
    let batches = Limits { queue: config.queue, batch: config.max_batch };
    let model = Model::spawn(encoder, batches).map_err(Error::Thread)?;

    let drain = shim::Drain(shim::CancellationToken::new());
    let service = TransmitterService::new(Inner {
        codec_id,
        rates,
        model,
        link: shim::peer::LinkClient::new(next),
        feedback,
        door: Semaphore::new(config.queue),
        in_flight: config.in_flight,
        drain: drain.clone(),
    });
    let service = TransmitterServer::new(service).max_decoding_message_size(2 * config.max_image_bytes + ENVELOPE);
    tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .add_service(service)
        .serve_with_incoming_shutdown(tokio_stream::wrappers::TcpListenerStream::new(listener), async {
            shutdown.await;
            drain.0.cancel();
        })
        .await?;
    Ok(())
}
