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

mod batch;
mod check;
mod config;
mod decisions;
mod error;
mod link;
mod model;
mod shim;

use semlink_codec::DecoderHalf;
use semlink_proto::v1::{decisions_server::DecisionsServer, link_server::LinkServer};
use tokio::net::TcpListener;

pub use config::Config;
pub use error::Error;

use batch::Limits;
use check::Checker;
use decisions::{Broadcast, DecisionsService};
use link::LinkService;
use model::Model;

/// Serves on `listener` until `shutdown` resolves, then answers what was accepted and returns.
///
/// It serves, and its health says so, only after a real forward pass of the decoder.
///
/// # Errors
/// Settings or a bundle that cannot be served with ([`Error::is_configuration`]), all faulty settings at once; what the system refuses.
pub async fn serve(listener: TcpListener, config: Config, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    let mut faults = config.faults();
    let half = DecoderHalf::open(&config.bundle)
        .map_err(|error| faults.push(format!("--bundle {}: {error}", config.bundle.display())));
    let (Ok(half), true) = (half, faults.is_empty()) else { return Err(Error::Settings(faults)) };

    let checker = Checker::new(half.codec_id().to_owned(), half.manifest().rates().to_vec());
    model::probe(&half).map_err(|status| Error::Decoder { dir: config.bundle.clone(), status })?;
    tracing::info!(
        codec_id = half.codec_id(),
        rates = ?half.manifest().rates(),
        classes = half.manifest().classes(),
        bundle = %config.bundle.display(),
        "the decoder is ready"
    );
    let batches = Limits { queue: config.queue, batch: config.max_batch };
    let model = Model::spawn(half, batches).map_err(Error::Thread)?;

    let shell = shim::Shell::new();
    let events = Broadcast::new(config.decision_lag);
    let decisions = DecisionsService::new(events.clone(), shell.drain());
    let link = LinkService::new(checker, model, events, config.in_flight, shell.drain());
    shell.serve(listener, LinkServer::new(link), DecisionsServer::new(decisions), shutdown).await?;
    Ok(())
}
