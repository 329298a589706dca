//! The channel emulator: a `Link` that sends each frame through a channel and then on to another `Link`.
//!
//! The channel (AWGN, Rayleigh or Rician fading) can be changed while frames flow, by the `ChannelControl` service; a change applies to
//! whole frames. A frame's noise is a function of (seed, hop, stream, sequence), so that a replay is bit-identical.
//!
//! At the limits: of each stream `Config::in_flight` frames may be under way, beyond it the stream is not read. While the next Link
//! cannot be reached each frame is answered with `UNAVAILABLE` naming its address. A shutdown ends the reading; what was read is
//! answered.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod config;
mod control;
mod distort;
mod link;
mod profile;

use semlink_proto::v1::channel_control_server::ChannelControlServer;
use semlink_proto::v1::link_server::LinkServer;
use semlink_service::peer::LinkClient;
use semlink_service::{Error, Shell, config::Problems};
use tokio::net::TcpListener;
use tokio::sync::watch;

pub use config::{Config, Settings};
pub use profile::CsiMode;

use control::ControlService;
use link::{Inner, LinkService};

/// Serves on `listener` until `shutdown` resolves, then answers what was accepted and returns.
///
/// # Errors
/// [`Error::Config`] for settings that cannot be served with, all of them at once; [`Error::Serve`] when the server fails.
pub async fn serve(listener: TcpListener, config: Config, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    let mut problems = Problems::new();
    let next = config.check(&mut problems);
    let next = problems.finish(next)?;
    let shell = Shell::new("semlink-channel-emulator");
    let (profile, now) = watch::channel(config.profile());
    let link = LinkService::new(Inner {
        next: LinkClient::new(next),
        profile: now,
        hop: config.hop,
        in_flight: config.in_flight,
        drain: shell.drain(),
    });
    let control = ControlService::new(profile, shell.drain());
    shell
        .add_service(LinkServer::new(link))
        .add_service(ChannelControlServer::new(control))
        .serve(listener, shutdown)
        .await
}
