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
mod report;
mod send;
mod sweep;
mod terminal;

use std::io;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;

/// Images over a noisy link, decided at the other end
#[derive(Debug, Parser)]
#[command(name = "semlink", version, after_help = HELP)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const HELP: &str = "\
Examples:
  semlink demo                                   the whole link on this machine, a table and a plot
  semlink demo --report demo.html                the same as a page to hand on
  semlink send --to http://edge:50051 photo.png  one image through running services
  semlink channel set --snr-db 0 --channel rayleigh
  semlink sweep --data photos/ --snr -10:20:5    accuracy over the SNR of running services
  semlink completions bash > /etc/bash_completion.d/semlink

Exit status: 0 done, 2 wrong usage, 1 anything else; errors are one line on standard error. Results are on standard output, with --json
for scripts; progress is on standard error.";

const DEMO_HELP: &str = "\
Examples:
  semlink demo --images 200 --snr -10,0,10 --channel awgn,rayleigh,rician
  semlink demo --rate auto --report demo.html    as few channel uses as each SNR allows
  semlink demo --csi pilots --pilots 8           the receiver estimates the channel
  semlink demo --json 2>/dev/null | jq '.points[] | [.snr_db, .accuracy]'";

const SEND_HELP: &str = "\
Examples:
  semlink send --to http://127.0.0.1:50051 photo.png other.jpg
  semlink send --json *.png | jq -r 'select(.confidence < 0.5) | .image'";

const SWEEP_HELP: &str = "\
Examples:
  semlink sweep --data assets/sample --snr -10:20:5 --channel awgn,rayleigh
  semlink sweep --data photos/ --bundle assets/fashion-mnist --report sweep.html
  photos/ holds a subfolder for each class, named by index or label

The channel is set back at the end, also when the sweep is stopped (Ctrl-C).";

const DASHBOARD_HELP: &str = "\
Examples:
  semlink dashboard --to http://edge:50051 --control http://edge:50052
  semlink demo --dashboard                       the same on services of its own";

const CHANNEL_HELP: &str = "\
Examples:
  semlink channel set --channel rayleigh --snr-db 0
  semlink channel set --schedule 0:20,60:-10 --repeat
  semlink channel watch --json | jq .snr_db
  semlink channel models                         what --stage takes";

const COMPLETIONS_HELP: &str = "\
Examples:
  semlink completions bash > /etc/bash_completion.d/semlink
  semlink completions zsh > ~/.zfunc/_semlink
  semlink completions fish > ~/.config/fish/completions/semlink.fish";

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the three services on loopback and sweep the channel between them with real images
    #[command(after_help = DEMO_HELP)]
    Demo(Box<demo::DemoArgs>),
    /// Classify image files through a running transmitter
    #[command(after_help = SEND_HELP)]
    Send(Box<send::Args>),
    /// Sweep the channel between running services
    #[command(after_help = SWEEP_HELP)]
    Sweep(Box<demo::SweepArgs>),
    /// Serve a page that shows the link at work and changes its channel
    #[command(after_help = DASHBOARD_HELP)]
    Dashboard(Box<dashboard::Args>),
    /// Look at or change the channel of a running emulator
    #[command(subcommand, after_help = CHANNEL_HELP)]
    Channel(Box<channel::Command>),
    /// Print a shell's completions for this program
    #[command(after_help = COMPLETIONS_HELP)]
    Completions {
        /// Which shell
        shell: Shell,
    },
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
    if let Command::Completions { shell } = command {
        clap_complete::generate(*shell, &mut Arguments::command(), "semlink", out);
        return Ok(());
    }
    runtime.block_on(async {
        match command {
            Command::Demo(args) => demo::demo(args, out).await,
            Command::Send(args) => send::run(args, out).await,
            Command::Sweep(args) => demo::sweep(args, out).await,
            Command::Dashboard(args) => dashboard::run(args, out).await,
            Command::Channel(command) => channel::run(command, out).await,
            Command::Completions { .. } => Ok(()),
        }
    })
}
