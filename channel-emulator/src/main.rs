//! The channel emulator's binary: settings, logs, listener, signals.

use std::process::ExitCode;

use clap::Parser;
use semlink_channel_emulator::{Settings, serve};
use semlink_service::config::{self, ListenAddress, Problems};
use semlink_service::{Error, exit, logging, shutdown};

/// Passes frames on to another Link, with noise and fading that can be changed live
#[derive(Debug, Parser)]
#[command(name = "semlink-channel-emulator", version, after_help = HELP)]
struct Arguments {
    /// Address to serve on
    #[arg(long, env = "SEMLINK_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:50052")]
    listen: String,

    #[command(flatten)]
    settings: Settings,

    #[command(flatten)]
    log: logging::LogArgs,
}

const HELP: &str = "\
Examples:
  semlink-channel-emulator --next http://127.0.0.1:50053 --snr-db 5
  semlink-channel-emulator --next http://127.0.0.1:50053 --channel rayleigh --csi pilots
  semlink-channel-emulator --links links.toml --recordings recordings

`semlink channel` changes it live; docs/EMULATOR.md tells what a file of links holds.

Every flag has a SEMLINK_* variable. docs/OPERATIONS.md tells what happens at each limit, docs/SECURITY.md who may call.
Exit status: 0 ended by a signal, 2 wrong usage, 64 wrong settings, 1 anything else.";

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
