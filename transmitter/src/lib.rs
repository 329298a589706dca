//! The transmitter: image files in, decisions out, by way of a noisy link.
//!
//! Each image is decoded and preprocessed, encoded into k channel symbols together with whatever else waits, and sent to the next
//! `Link`; the report that comes back is the answer and tells the encoder how the channel is.
//!
//! An image that was accepted is answered exactly once, with a decision or an error, whatever happens to the hops behind: its frame is kept until it
//! is reported, and sent again when a stream breaks, until the image's deadline. A bundle whose files change is read again.
//!
//! At the limits: `Config::queue` images of up to 16 KiB may be under way in all, or fewer larger ones; beyond it a stream is not read, which holds its client back, and a
//! single call is refused with `RESOURCE_EXHAUSTED` and told when to try again. An image above `Config::max_image_bytes` is an error under its id; a message of
//! more than twice that ends its call with `OUT_OF_RANGE`. A shutdown ends the reading of streams; what was read is answered.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod classify;
mod codec;
mod config;
mod control;
mod metrics;
mod model;
pub mod rate;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use rand::Rng as _;
use semlink_proto::v1::transmitter_server::TransmitterServer;
use semlink_service::config::Problems;
use semlink_service::metrics::{BatchMetrics, BundleMetrics, PeerMetrics};
use semlink_service::peer::{LinkClient, NextHop};
use semlink_service::reload::Directory;
use semlink_service::security::{Credentials, Plaintext};
use semlink_service::{Door, Error, Shell};
use tokio::net::TcpListener;

pub use config::Config;

use classify::{Inner, TransmitterService};
use codec::Codecs;
use metrics::TransmitterMetrics;

const NAME: &str = "semlink-transmitter";
/// The single calls.
const CLASSIFY: &str = "/semlink.v1.Transmitter/Classify";
/// Room in a message for what is not the image.
const ENVELOPE: usize = 64 << 10;

/// Serves on `listener` until `shutdown` resolves, then answers what was accepted and returns.
///
/// It serves, and its health says so, only after a real forward pass of the encoder; whether the next hop can be reached is told by the health
/// of the service `next`.
///
/// # Errors
/// [`Error::Config`] for settings and bundles that cannot be served with, all of them at once; [`Error::Serve`] when the server fails.
pub async fn serve(listener: TcpListener, config: Config, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    // Before they are read, so that no change is missed.
    let directory = Directory::watch(&config.bundle);
    let mut problems = Problems::new();
    config.check(&mut problems);
    let next = next_hop(&config, &mut problems);
    let encoder = codec::open(&config, &mut problems);
    let shell = Shell::build(NAME, &config.service, &listener, &mut problems);
    let parts = encoder.zip(next).zip(shell);
    let ((encoder, (next, credentials)), mut shell) = problems.finish(parts)?;

    let (metrics, batch_metrics) = (TransmitterMetrics::default(), BatchMetrics::default());
    let (bundle_metrics, peer_metrics) = (BundleMetrics::default(), PeerMetrics::default());
    metrics.register(&shell.metrics());
    batch_metrics.register(&shell.metrics(), "encoder");
    bundle_metrics.register(&shell.metrics());
    peer_metrics.register(&shell.metrics());
    let link = LinkClient::new(next, credentials, peer_metrics);
    link.keep_open();
    shell.depends_on("next", link.open_streams());
    let codecs = Codecs::new(encoder, config.clone(), batch_metrics, bundle_metrics);
    let codecs = Arc::new(codecs.map_err(|message| Error::Serve { service: NAME, message })?);
    tokio::spawn(Arc::clone(&codecs).follow(directory, link.clone(), shell.drain()));
    let service = TransmitterService::new(Inner {
        codecs,
        link,
        pilots: config.pilot_bytes(),
        // Zero would mean that frames have no names.
        origin: rand::rng().random_range(1..=u64::MAX),
        number: AtomicU64::new(0),
        door: Door::new(config.queue),
        in_flight: config.in_flight,
        // One that is none has been refused.
        patience: Duration::try_from_secs_f64(config.patience).unwrap_or_default(),
        metrics,
        traces: shell.traces(),
        drain: shell.drain(),
    });
    let gate = service.gate();
    let service = TransmitterServer::new(service).max_decoding_message_size(2 * config.max_image_bytes + ENVELOPE);
    shell.add_service(service).gate(CLASSIFY, gate).serve(listener, shutdown).await
}

/// Where frames go, and what is shown there.
fn next_hop(config: &Config, problems: &mut Problems) -> Option<(NextHop, Credentials)> {
    let next = problems.parse::<NextHop>("--next", &config.next);
    let next = next.and_then(|next| problems.check("--link", next.with_link(&config.link)));
    let credentials = config.client.check(problems);
    let (next, credentials) = next.zip(credentials)?;
    let allowed = config.service.allows_plaintext(Plaintext::Next);
    problems.check("--next", credentials.check_next(next.uri(), allowed))?;
    Some((next, credentials.with_plaintext(allowed)))
}
