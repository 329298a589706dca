//! `semlink-bench`: measures what the project claims beside its peers and renders the results.
//!
//! `cargo run --release -p semlink-bench -- train|encoder|demo|evaluate|search|supernet|cat|rate|emulator|production|deploy|dashboard|gpu|render`. The peers need Python with the packages of
//! `bench/peers/requirements.txt`: `--python PATH` or `SEMLINK_BENCH_PYTHON`.

mod cat;
mod dashboard;
mod deploy;
mod emulator;
mod gpu;
mod measure;
mod process;
mod production;
mod raw;
mod render;
mod results;
mod rig;
mod search;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(
    version,
    about = "Side-by-side measurements against peers; each writes its rows of bench/results/TOPIC.json."
)]
struct Cli {
    /// The interpreter that has the peers' packages.
    #[arg(long, global = true, env = "SEMLINK_BENCH_PYTHON", default_value = "python3")]
    python: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Training steps of residual networks, depthwise convolution and batch-norm, 2 threads, beside PyTorch.
    Train,
    /// The shipped student, batch 1, one thread, beside ONNX Runtime.
    Encoder,
    /// `semlink demo` on the shipped bundle: time, and images per second through all three services.
    Demo,
    /// Takes the figures of `semlink-trainer run` from its run directory.
    Evaluate {
        /// The run.
        #[arg(default_value = "runs/fashion-mnist")]
        run: PathBuf,
    },
    /// Searches and trains the students of recipes/search, as far as bench/results/search-arms.json lacks them, and compares them.
    Search {
        /// The run whose teacher and cache all share.
        #[arg(default_value = "runs/fashion-mnist")]
        run: PathBuf,
        /// Only arms whose name starts so, e.g. random.
        #[arg(long)]
        only: Option<String>,
    },
    /// A step of the search's mixed network, weights and architecture, 2 threads, beside PyTorch.
    Supernet,
    /// Trains the channel codec of recipes/fashion-mnist.toml and those of recipes/cat, as far as bench/results/cat-arms.json lacks them, and
    /// compares them with the limit and each other.
    Cat {
        /// The run whose teacher, cache and student all share.
        #[arg(default_value = "runs/fashion-mnist")]
        run: PathBuf,
        /// Only this one, e.g. mlp.
        #[arg(long)]
        only: Option<String>,
    },
    /// `semlink demo --rate auto` on the shipped bundle: channel uses that the rate control saves.
    Rate,
    /// The channel emulator: noise beside NumPy, rates and latency through gRPC; needs the release binary of semlink-channel-emulator.
    Emulator {
        /// Only this part.
        #[arg(long)]
        only: Option<emulator::Part>,
    },
    /// All three services as processes of their own: load, latency, overload, deaths and reloads; needs their release binaries.
    Production(production::Options),
    /// The services as containers: size, start, rate under limits, a cut network, manifests; needs Docker and the images of deploy/docker/build.sh.
    Deploy(deploy::Options),
    /// The dashboard in chromium: time to figures, slider, updates, loss of the link's rate, weight, accessibility; needs the release binaries of
    /// semlink and the services.
    Dashboard {
        /// Only this part.
        #[arg(long)]
        only: Option<dashboard::Part>,
    },
    /// Training on a GPU beside PyTorch on the same GPU, and the whole recipe there; needs the feature cuda, see bench/gpu.sh.
    Gpu(gpu::Options),
    /// Renders bench/results into docs/RESULTS.md.
    Render,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    match cli.command {
        Command::Train => measure::train(&cli.python),
        Command::Encoder => measure::encoder(&cli.python),
        Command::Demo => measure::demo(),
        Command::Evaluate { run } => measure::evaluate(&run),
        Command::Search { run, only } => search::run(&run, only.as_deref()),
        Command::Cat { run, only } => cat::run(&run, only.as_deref()),
        Command::Rate => cat::rate(),
        Command::Emulator { only } => emulator::run(&cli.python, only),
        Command::Production(options) => production::run(&cli.python, &options),
        Command::Deploy(options) => deploy::run(&cli.python, &options),
        Command::Dashboard { only } => dashboard::run(only),
        Command::Gpu(options) => gpu::run(&cli.python, &options),
        Command::Supernet => measure::supernet(&cli.python),
        Command::Render => render::render(),
    }
}
