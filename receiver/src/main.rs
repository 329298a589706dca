//! The receiver's binary: settings, listener, signals.

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use semlink_receiver::{Config, Error, serve};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Exit status for a configuration that cannot be served with (EX_USAGE).
const WRONG_CONFIGURATION: u8 = 64;

/// Decodes frames of channel symbols into decisions, at the server's end of a noisy link
#[derive(Debug, Parser)]
#[command(name = "semlink-receiver", version)]
struct Arguments {
    /// Address to serve on
    #[arg(long, env = "SEMLINK_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:50053")]
    listen: SocketAddr,

    #[command(flatten)]
    config: Config,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("semlink-receiver: {error:#}");
            let configuration = error.downcast_ref().is_some_and(Error::is_configuration);
            if configuration { ExitCode::from(WRONG_CONFIGURATION) } else { ExitCode::FAILURE }
        }
    }
}

async fn run(Arguments { listen, config }: Arguments) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let listener = TcpListener::bind(listen).await.with_context(|| format!("--listen {listen}"))?;
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            // An error: no way to hear of Ctrl-C; SIGTERM remains.
            Ok(()) = tokio::signal::ctrl_c() => {}
        }
    };
    Ok(serve(listener, config, shutdown).await?)
}
