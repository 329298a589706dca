//! The transmitter's binary: settings, logs, listener, signals.

use std::process::ExitCode;

use clap::Parser;
use semlink_service::{Error, config, exit, logging, shutdown};
use semlink_transmitter::{Config, serve};

/// Encodes images into a few channel symbols each and has them decided at the other end of a noisy link
#[derive(Debug, Parser)]
#[command(name = "semlink-transmitter", version, after_help = HELP)]
struct Arguments {
    /// Address to serve on
    #[arg(long, env = "SEMLINK_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:50051")]
    listen: String,

    #[command(flatten)]
    config: Config,

    #[command(flatten)]
    log: logging::LogArgs,
}

const HELP: &str = "\
Examples:
  semlink-transmitter --next http://127.0.0.1:50052 --bundle assets/fashion-mnist
  semlink-transmitter --next https://receiver.example:50053 --bundle assets/fashion-mnist \\
    --rate auto --ca ca.pem --cert edge.pem --key edge.key --token-file edge.token

Every flag has a SEMLINK_* variable. docs/OPERATIONS.md tells what happens at each limit, docs/SECURITY.md who may call.
Exit status: 0 ended by a signal, 2 wrong usage, 64 wrong settings, 1 anything else.";

fn main() -> ExitCode {
    // Before any other thread: networks allocate by the megabyte, and pages that come back to the system are paid for again.
    semlink_codec::keep_freed_memory();
    exit::run("semlink-transmitter", run(Arguments::parse()))
}

async fn run(Arguments { listen, config, log }: Arguments) -> Result<(), Error> {
    if config.service.metrics.check_health {
        return config.service.metrics.check_health().await;
    }
    logging::init(&log)?;
    let listener = config::listen(&listen).await?;
    serve(listener, config, shutdown::signal()).await
}
