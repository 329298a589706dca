//! The shell that the services share: server with health and reflection, graceful shutdown, logs, exit status, conversions between
//! wire and channel types, and the way to the next `Link`.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod accept;
pub mod batch;
pub mod config;
pub mod deadline;
mod door;
mod drain;
pub mod exit;
pub mod logging;
pub mod metrics;
pub mod peer;
pub mod pipeline;
pub mod reload;
pub mod retry;
pub mod security;
pub mod shell;
pub mod shutdown;
pub mod traces;
pub mod web;
pub mod wire;

pub use door::{Door, Permit};
pub use drain::Drain;
pub use shell::{Health, Peer, ServiceArgs, Shell, ShellArgs, ShellConfig};

/// What can go wrong in a service outside of its calls.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Settings that cannot be used, all of them.
    #[error("configuration: {}", .0.join("; "))]
    Config(Vec<String>),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// As it was given.
        address: String,
        /// The cause.
        source: std::io::Error,
    },
    /// The service does not serve, or cannot be asked.
    #[error("no service serves at {address}: {what}")]
    Health {
        /// Where it was asked.
        address: String,
        /// What was found.
        what: String,
    },
    /// The system gives no threads to run on.
    #[error("cannot start the runtime: {source}")]
    Runtime {
        /// The cause.
        source: std::io::Error,
    },
    /// The server failed.
    #[error("{service}: {message}")]
    Serve {
        /// Which service.
        service: &'static str,
        /// What it says, down to the cause.
        message: String,
    },
}
