//! The three services as they would run: each a process of its own, on loopback, with the shipped bundle; the client is this process.

mod calls;
pub(crate) mod chain;
mod chaos;
pub(crate) mod client;
mod fuzz;
mod life;
mod load;
mod overload;
mod reload;

use std::path::Path;

use anyhow::Result;
use clap::ValueEnum;

use crate::results::record;

const TOPIC: &str = "production";
/// All that is measured here has in common.
const RIG: &str = "28x28 PNG images of the sample, k = 64, AWGN 10 dB; client and services are processes on the same cores, plaintext on loopback";

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Images per second in 64 streams.
    Load,
    /// The same work by a chain in Python with grpcio and ONNX Runtime.
    Peer,
    /// Times of single calls at 200 images per second.
    Latency,
    /// Receiver and emulator are killed while images stream.
    Chaos,
    /// Ten times as many calls as can be answered.
    Overload,
    /// Resident memory without work.
    Idle,
    /// From start to ready.
    Start,
    /// Other bundles under load.
    Reload,
    /// What the last runs of fuzz/run.sh reached; only by its name.
    Fuzz,
}

/// What `semlink-bench production` is told.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only this part.
    #[arg(long)]
    only: Option<Part>,
    /// Images of the part chaos.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    images: u64,
    /// Times that the part chaos kills.
    #[arg(long, default_value_t = 20)]
    kills: usize,
    /// Of overload.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Decides when what is killed, and the intervals between single calls.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub(crate) fn run(python: &Path, options: &Options) -> Result<()> {
    let parts = Part::value_variants().iter().copied().filter(|part| match options.only {
        Some(only) => only == *part,
        None => *part != Part::Fuzz,
    });
    for part in parts {
        let rows = match part {
            Part::Load => vec![load::load()?],
            Part::Peer => vec![load::peer(python)?],
            Part::Latency => calls::latency(options.seed)?,
            Part::Chaos => vec![chaos::chaos(options)?],
            Part::Overload => overload::overload(options.seconds, options.seed)?,
            Part::Idle => life::idle()?,
            Part::Start => vec![life::start()?],
            Part::Reload => vec![reload::reload()?],
            Part::Fuzz => fuzz::fuzz()?,
        };
        record(TOPIC, rows)?;
    }
    Ok(())
}

/// How a part is called.
fn command(part: &str) -> String {
    format!("production --only {part}")
}
