//! Connections to the services, and what is said when they fail.

use std::error::Error as _;
use std::time::Duration;

use anyhow::{Result, anyhow};
use semlink_proto::v1;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Connects to a service; the error names the address.
pub(crate) async fn connect(url: &str) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|error| anyhow!("{url}: {error}"))?;
    let connected = endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true).connect().await;
    connected.map_err(|error| anyhow!("cannot reach {url}: {}; is the service running?", root(&error)))
}

/// One line for a failed call.
pub(crate) fn failed(url: &str, status: &Status) -> anyhow::Error {
    match status.source() {
        Some(source) => anyhow!("{url}: {}", root(source)),
        None => anyhow!("{url}: {}: {}", status.code(), status.message()),
    }
}

/// What is told about the channel, as the flags call it.
pub(crate) fn csi_name(mode: v1::CsiMode) -> &'static str {
    match mode {
        v1::CsiMode::Perfect => "perfect",
        v1::CsiMode::Pilots => "pilots",
        v1::CsiMode::None => "none",
        v1::CsiMode::Unspecified => "unspecified",
    }
}

/// The last cause says what happened; the transport's own messages say only that something did.
fn root(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
