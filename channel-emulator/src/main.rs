//! The channel emulator's binary: settings, logs, listener, signals.

use std::process::ExitCode;

use clap::Parser;
use semlink_channel_emulator::{Settings, serve};
use semlink_service::config::{self, ListenAddress, Problems};
use semlink_service::{Error, exit, logging, shutdown};

/// Passes frames on to another Link, with noise and fading that can be changed live
#[derive(Debug, Parser)]
#[command(name = "semlink-channel-emulator", version)]
struct Arguments {
    /// Address to serve on
    #[arg(long, env = "SEMLINK_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:50052")]
    listen: String,

    #[command(flatten)]
    settings: Settings,

    #[command(flatten)]
    log: logging::LogArgs,
}

fn main() -> ExitCode {
    exit::run("semlink-channel-emulator", run(Arguments::parse()))
}

async fn run(Arguments { listen, settings, log }: Arguments) -> Result<(), Error> {
    if let Some(health) = settings.health().await {
        return health;
    }
    let mut problems = Problems::new();
    problems.include(logging::init(&log));
    problems.parse::<ListenAddress>("--listen", &listen);
    let config = settings.check(&mut problems);
    let config = problems.finish(config)?;
    let listener = config::listen(&listen).await?;
    serve(listener, config, shutdown::signal()).await
}
