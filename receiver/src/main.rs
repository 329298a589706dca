//! The receiver's binary: settings, logs, listener, signals.

use std::process::ExitCode;

use clap::Parser;
use semlink_receiver::{Config, serve};
use semlink_service::{Error, config, exit, logging, shutdown};

/// Decodes frames of channel symbols into decisions, at the server's end of a noisy link
#[derive(Debug, Parser)]
#[command(name = "semlink-receiver", version, after_help = HELP)]
struct Arguments {
    /// Address to serve on
    #[arg(long, env = "SEMLINK_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:50053")]
    listen: String,

    #[command(flatten)]
    config: Config,

    #[command(flatten)]
    log: logging::LogArgs,
}

const HELP: &str = "\
Examples:
  semlink-receiver --bundle assets/fashion-mnist
  semlink-receiver --listen 0.0.0.0:50053 --bundle assets/fashion-mnist --metrics 127.0.0.1:9103 \\
    --tls-cert server.pem --tls-key server.key --tls-client-ca ca.pem --tokens tokens

Every flag has a SEMLINK_* variable. docs/OPERATIONS.md tells what happens at each limit, docs/SECURITY.md who may call.
Exit status: 0 ended by a signal, 2 wrong usage, 64 wrong settings, 1 anything else.";

fn main() -> ExitCode {
    // Before any other thread: networks allocate by the megabyte, and pages that come back to the system are paid for again.
    semlink_codec::keep_freed_memory();
    exit::run("semlink-receiver", run(Arguments::parse()))
}

async fn run(Arguments { listen, config, log }: Arguments) -> Result<(), Error> {
    if config.service.metrics.check_health {
        return config.service.metrics.check_health().await;
    }
    logging::init(&log)?;
    let listener = config::listen(&listen).await?;
    serve(listener, config, shutdown::signal()).await
}
