//! Structured logs on standard error.

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

/// Flags of every service.
#[derive(Debug, Clone, Args)]
pub struct LogArgs {
    /// How log lines look.
    #[arg(long, env = "SEMLINK_LOG_FORMAT", value_enum, default_value_t = LogFormat::Human)]
    pub log_format: LogFormat,
    /// What is logged: error, warn, info, debug, trace, or a list such as info,semlink_receiver=debug.
    #[arg(long, env = "SEMLINK_LOG", default_value = "info")]
    pub log: String,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// Starts logging for this process; a second call changes nothing.
///
/// # Errors
/// A level that does not exist.
pub fn init(args: &LogArgs) -> Result<(), crate::Error> {
    let filter = EnvFilter::try_new(&args.log)
        .map_err(|error| crate::Error::Config(vec![format!("--log {:?}: {error}", args.log)]))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // An error means that a test or an embedding program logs already.
    let _ = match args.log_format {
        LogFormat::Human => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    Ok(())
}
