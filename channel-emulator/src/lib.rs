//! The channel emulator: a `Link` that sends each frame through a channel and then on to another `Link`.
//!
//! It holds any number of named links, each with its own next hop, chain of models (`docs/CHANNELS.md`), loss and delay of frames, and SNR
//! schedule; all of it can be changed while frames flow, by the `ChannelControl` service, and a change applies to whole frames. A frame's draws are a
//! function of (seed, link, stream, sequence), so that a replay is bit-identical.
//!
//! At the limits: of each stream `Config::in_flight` frames may be under way, and of each link 2^20 symbols; beyond it the stream is not read.
//! While the next Link cannot be reached frames wait, each until its deadline, and are then answered with `UNAVAILABLE` naming its address. No link
//! waits for another. A
//! shutdown ends the reading; what was read is answered, and recordings are finished.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod config;
mod control;
mod distort;
mod document;
#[doc(hidden)]
pub mod fuzzing;
mod link;
mod links;
mod metrics;
mod profile;
mod record;
mod schedule;
#[doc(hidden)]
pub mod testing;
mod transport;
mod watch;

use std::sync::Arc;

use semlink_proto::v1::channel_control_server::ChannelControlServer;
use semlink_proto::v1::link_server::LinkServer;
use semlink_service::config::Problems;
use semlink_service::metrics::Metrics;
use semlink_service::{Error, Shell};
use tokio::net::TcpListener;

pub use config::{Config, Settings};
pub use document::read_links;
pub use links::{LinkConfig, responses};
pub use profile::CsiMode;
pub use schedule::{Axis, Schedule, Walk};
pub use transport::Transport;

use control::ControlService;
use link::LinkService;

const NAME: &str = "semlink-channel-emulator";

/// Serves on `listener` until `shutdown` resolves, then answers what was accepted and returns.
///
/// # Errors
/// [`Error::Config`] for settings that cannot be served with, all of them at once; [`Error::Serve`] when the server fails.
pub async fn serve(listener: TcpListener, config: Config, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    let mut problems = Problems::new();
    let shell = Shell::build(NAME, &config.service, &listener, &mut problems);
    let metrics = shell.as_ref().map_or_else(|| Metrics::new(NAME), Shell::metrics);
    let links = config.check(&metrics, &mut problems);
    let (shell, links) = problems.finish(shell.zip(links))?;
    let drain = shell.drain();
    let link = LinkService {
        links: Arc::clone(&links),
        in_flight: config.in_flight,
        traces: shell.traces(),
        drain: drain.clone(),
    };
    let control = ControlService::new(Arc::clone(&links), drain);
    let served = shell
        .add_service(LinkServer::new(link))
        .add_service(ChannelControlServer::new(control))
        .serve(listener, shutdown)
        .await;
    for link in links.all() {
        let recording = link.recording().take();
        if let Some(recording) = recording
            && let Err(error) = recording.stop().await
        {
            tracing::warn!(link = link.name, error, "the recording could not be finished");
        }
    }
    served
}
