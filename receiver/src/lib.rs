//! The receiver: frames of channel symbols in, decisions and reports out.
//!
//! Each frame is checked against the codec that the receiver holds, decoded together with whatever else waits, and answered with
//! exactly one report; a frame that is refused is answered with the error under its id, and its stream goes on.
//!
//! At the limits: when `Config::queue` frames wait for the decoder, or `Config::in_flight` frames of one stream are under way, the stream
//! is not read, which holds its sender back. A message above 4 MiB ends its stream with `OUT_OF_RANGE` after the reports of what came
//! before. A consumer of `Decisions.Subscribe` that lags by more than `Config::decision_lag` decisions loses the oldest and is told so with
//! `DATA_LOSS`. A shutdown ends the reading of streams; what was read is answered.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod check;
mod config;
mod decisions;
#[doc(hidden)]
pub mod fuzzing;
mod link;
mod model;

use semlink_codec::DecoderHalf;
use semlink_proto::v1::{decisions_server::DecisionsServer, link_server::LinkServer};
use semlink_service::config::Problems;
use semlink_service::{Error, Shell};
use tokio::net::TcpListener;

pub use config::Config;

use check::Checker;
use decisions::{Broadcast, DecisionsService};
use link::LinkService;
use model::{Model, Telling};
use semlink_service::batch::Limits;

const NAME: &str = "semlink-receiver";

/// Serves on `listener` until `shutdown` resolves, then answers what was accepted and returns.
///
/// It serves, and its health says so, only after a real forward pass of the decoder.
///
/// # Errors
/// [`Error::Config`] for settings and bundles that cannot be served with, all of them at once; [`Error::Serve`] when the server fails.
pub async fn serve(listener: TcpListener, config: Config, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    let half = prepare(&config)?;
    let manifest = half.manifest();
    tracing::info!(codec_id = manifest.codec_id, rates = ?manifest.rates(), classes = manifest.classes(), "codec loaded");

    let shell = Shell::new(NAME);
    let checker = Checker::new(manifest.codec_id.clone(), manifest.rates().to_vec(), config.estimator);
    let batches = Limits { queue: config.queue, batch: config.max_batch };
    let telling = Telling { top: config.top, min_confidence: config.min_confidence };
    let model = Model::spawn(half, telling, batches)
        .map_err(|error| Error::Serve { service: NAME, message: format!("no thread for the decoder: {error}") })?;
    let events = Broadcast::new(config.decision_lag);
    let decisions = DecisionsService::new(events.clone(), shell.drain());
    let link = LinkService::new(checker, model, events, config.in_flight, shell.drain());
    shell
        .add_service(LinkServer::new(link))
        .add_service(DecisionsServer::new(decisions))
        .serve(listener, shutdown)
        .await
}

/// A decoder that has passed a real forward pass.
fn prepare(config: &Config) -> Result<DecoderHalf, Error> {
    let mut problems = Problems::new();
    config.check(&mut problems);
    let bundle = format!("--bundle {}", config.bundle.display());
    let half = problems.check(&bundle, DecoderHalf::open(&config.bundle)).and_then(|half| {
        problems.check(&bundle, model::probe(&half).map_err(|status| status.message().to_owned()))?;
        Some(half)
    });
    problems.finish(half)
}
