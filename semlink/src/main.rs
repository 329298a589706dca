//! The command line: a demo of the whole link, images through a running one, sweeps and live control of its channel.

mod channel;
mod client;
mod dashboard;
mod demo;
mod files;
mod grid;
mod images;
mod plot;
mod progress;
mod send;
mod sweep;
mod terminal;

use std::io;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

/// Images over a noisy link, decided at the other end
#[derive(Debug, Parser)]
#[command(name = "semlink", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the three services on loopback and sweep the channel between them with real images
    Demo(demo::DemoArgs),
    /// Classify image files through a running transmitter
    Send(Box<send::Args>),
    /// Sweep the channel between running services
    Sweep(Box<demo::SweepArgs>),
    /// Serve a page that shows the link at work and changes its channel
    Dashboard(Box<dashboard::Args>),
    /// Look at or change the channel of a running emulator
    #[command(subcommand)]
    Channel(Box<channel::Command>),
}

/// Exit status: 0 done, 2 wrong usage (clap), 1 anything else.
fn main() -> ExitCode {
    // Before any other thread: networks allocate by the megabyte, and pages that come back to the system are paid for again.
    semlink_codec::keep_freed_memory();
    let Arguments { command } = Arguments::parse();
    match run(&command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("semlink: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> Result<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?;
    let out = &mut io::stdout();
    runtime.block_on(async {
        match command {
            Command::Demo(args) => demo::demo(args, out).await,
            Command::Send(args) => send::run(args, out).await,
            Command::Sweep(args) => demo::sweep(args, out).await,
            Command::Dashboard(args) => dashboard::run(args, out).await,
            Command::Channel(command) => channel::run(command, out).await,
        }
    })
}
