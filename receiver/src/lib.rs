//! The receiver: frames of channel symbols in, decisions and reports out.
//!
//! Each frame is checked against the codec that it names, decoded together with whatever else waits, and answered with exactly one report; a
//! frame that is refused is answered with the error under its id, and its stream goes on. A frame that is sent again gets the report that it
//! got before. A bundle whose files change is read again: what it was before is still held, so that transmitters can follow one by one.
//!
//! At the limits: when `Config::queue` frames are under way, or `Config::in_flight` frames of one stream, streams
//! are not read, which holds their senders back. A message above 4 MiB ends its stream with `OUT_OF_RANGE` after the reports of what came
//! before. A consumer of `Decisions.Subscribe` that lags by more than `Config::decision_lag` decisions loses the oldest and is told so with
//! `DATA_LOSS`. A shutdown ends the reading of streams; what was read is answered.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod check;
mod codecs;
mod config;
mod decisions;
#[doc(hidden)]
pub mod fuzzing;
mod link;
mod metrics;
mod model;
mod recent;

use std::sync::Arc;
use std::time::Duration;

use semlink_codec::{DecoderHalf, Labels};
use semlink_proto::v1::{decisions_server::DecisionsServer, link_server::LinkServer};
use semlink_service::batch::Limits;
use semlink_service::config::Problems;
use semlink_service::metrics::{BatchMetrics, BundleMetrics};
use semlink_service::reload::Directory;
use semlink_service::{Door, Error, Shell};
use tokio::net::TcpListener;

pub use config::Config;

use codecs::{Codecs, Settings};
use decisions::{Broadcast, DecisionsService};
use link::{Inner, LinkService};
use metrics::ReceiverMetrics;
use model::Telling;
use recent::Recent;

const NAME: &str = "semlink-receiver";

/// Serves on `listener` until `shutdown` resolves, then answers what was accepted and returns.
///
/// It serves, and its health says so, only after a real forward pass of every decoder.
///
/// # Errors
/// [`Error::Config`] for settings and bundles that cannot be served with, all of them at once; [`Error::Serve`] when the server fails.
pub async fn serve(listener: TcpListener, config: Config, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    // Before they are read, so that no change is missed.
    let directories: Vec<Directory> = config.bundles.iter().map(Directory::watch).collect();
    let mut problems = Problems::new();
    let labels_file = config.labels.as_ref().map(Directory::watch);
    let prepared = prepare(&config, &mut problems);
    let shell = Shell::build(NAME, &config.service, &listener, &mut problems);
    let ((halves, labels), shell) = problems.finish(prepared.zip(shell))?;
    for half in &halves {
        let manifest = half.manifest();
        tracing::info!(codec_id = manifest.codec_id, rates = ?manifest.rates(), classes = half.labels().len(), "codec loaded");
    }

    let metrics = ReceiverMetrics::default();
    let (batch_metrics, bundle_metrics) = (BatchMetrics::default(), BundleMetrics::default());
    metrics.register(&shell.metrics());
    batch_metrics.register(&shell.metrics(), "decoder");
    bundle_metrics.register(&shell.metrics());
    let settings = Settings {
        estimator: config.estimator,
        telling: Telling { top: config.top, min_confidence: config.min_confidence },
        batches: Limits {
            queue: config.queue,
            batch: config.max_batch,
            latency: Duration::from_millis(config.batch_latency_ms),
            workers: semlink_codec::available_cpus(),
        },
        batch_metrics,
        keep: config.keep_codecs,
    };
    let codecs = Codecs::new(halves, labels, settings, metrics.clone(), bundle_metrics);
    let codecs = Arc::new(codecs.map_err(|message| Error::Serve { service: NAME, message })?);
    for (bundle, directory) in directories.into_iter().enumerate() {
        tokio::spawn(Arc::clone(&codecs).follow(bundle, directory, shell.drain()));
    }
    if let Some(file) = labels_file {
        tokio::spawn(Arc::clone(&codecs).follow_labels(file, shell.drain()));
    }
    let decisions = Broadcast::new(config.decision_lag, metrics.clone());
    let link = LinkService::new(Inner {
        codecs,
        recent: Recent::new(config.remember),
        decisions: decisions.clone(),
        door: Door::new(config.queue),
        in_flight: config.in_flight,
        metrics,
        traces: shell.traces(),
        drain: shell.drain(),
    });
    let decisions = DecisionsService::new(decisions, shell.drain());
    shell
        .add_service(LinkServer::new(link))
        .add_service(DecisionsServer::new(decisions))
        .serve(listener, shutdown)
        .await
}

/// The decoders of all bundles with the labels, if there are some, each of which has passed a real forward pass; notes every problem.
fn prepare(config: &Config, problems: &mut Problems) -> Option<(Vec<DecoderHalf>, Option<Labels>)> {
    config.check(problems);
    let labels = config.labels.as_ref();
    let labels = labels.map(|path| problems.check(&format!("--labels {}", path.display()), codecs::read_labels(path)));
    let named = labels.as_ref().and_then(Option::as_ref);
    let open = |bundle: &std::path::PathBuf| {
        let half = codecs::open(bundle).and_then(|half| codecs::label(&half, named));
        (format!("--bundle {}", bundle.display()), half)
    };
    let halves: Vec<_> = config.bundles.iter().map(open).collect();
    // All of them are checked before the first that is none ends it.
    let checked: Vec<Option<DecoderHalf>> =
        halves.into_iter().map(|(flag, half)| problems.check(&flag, half)).collect();
    let halves = checked.into_iter().collect::<Option<Vec<_>>>()?;
    match labels {
        Some(labels) => Some((halves, Some(labels?))),
        None => Some((halves, None)),
    }
}
