//! The channel emulator's binary: settings, logs, listener, signals.

use std::process::ExitCode;

use clap::Parser;
use semlink_channel_emulator::{Config, serve};
use semlink_service::{Error, config, exit, logging, shutdown};

/// Passes frames on to another Link, with noise and fading that can be changed live
#[derive(Debug, Parser)]
#[command(name = "semlink-channel-emulator", version)]
struct Arguments {
    /// Address to serve on
    #[arg(long, env = "SEMLINK_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:50052")]
    listen: String,

    #[command(flatten)]
    config: Config,

    #[command(flatten)]
    log: logging::LogArgs,
}

fn main() -> ExitCode {
    exit::run("semlink-channel-emulator", run(Arguments::parse()))
}

async fn run(Arguments { listen, config, log }: Arguments) -> Result<(), Error> {
    logging::init(&log)?;
    let listener = config::listen(&listen).await?;
    serve(listener, config, shutdown::signal()).await
}
