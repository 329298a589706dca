//! Commands for running services: sweep, send, channel.

use std::path::PathBuf;

use anyhow::{Result, anyhow, bail};
use clap::{Args, Subcommand};
use semlink_channel::{ChannelKind, RicianK, SnrDb};
use semlink_proto::v1;
use semlink_proto::v1::channel_control_client::ChannelControlClient;
use semlink_proto::v1::transmitter_client::TransmitterClient;
use semlink_service::wire;
use serde_json::json;
use tonic::Status;

use crate::files::{self, Sweep};
use crate::grid::{Kinds, Rate, SnrGrid};
use crate::images::Images;
use crate::plot::Curves;
use crate::sweep::{Link, connect};
use crate::terminal;

/// Sweeps the SNR of running services live and measures accuracy on labelled images.
#[derive(Debug, Args)]
pub struct SweepArgs {
    /// The transmitter
    #[arg(long, value_name = "URL", env = "SEMLINK_TO", default_value = "http://127.0.0.1:50051")]
    to: String,
    /// The channel emulator behind it
    #[arg(long, value_name = "URL", env = "SEMLINK_CONTROL", default_value = "http://127.0.0.1:50052")]
    control: String,
    /// Labelled images: an IDX image file with its labels beside it, or a folder with a folder for each class
    #[arg(long, value_name = "PATH")]
    data: PathBuf,
    /// How many images to send at each point, at most
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    images: usize,
    /// SNRs (Es/N0) in dB: a list such as -10,0,10 or a range FROM:TO:STEP
    #[arg(long, value_name = "LIST", default_value = "-10:20:5", allow_hyphen_values = true)]
    snr: SnrGrid,
    /// Channels: awgn, rayleigh, rician
    #[arg(long, value_name = "LIST", default_value = "awgn")]
    channel: Kinds,
    /// Channel uses of an image: one of the codec's numbers, or auto for the transmitter's choice
    #[arg(long, value_name = "auto|K", default_value = "auto")]
    rate: Rate,
    /// Where sweep.json, sweep.csv and sweep.svg go
    #[arg(long, value_name = "DIR", default_value = "semlink-sweep")]
    out: PathBuf,
}

/// Sends images through a running transmitter and shows what the receiver decided.
#[derive(Debug, Args)]
pub struct SendArgs {
    /// The transmitter
    #[arg(long, value_name = "URL", env = "SEMLINK_TO", default_value = "http://127.0.0.1:50051")]
    to: String,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    /// PNG, JPEG or WebP files
    #[arg(required = true)]
    images: Vec<PathBuf>,
}

/// Shows or changes the channel of a running emulator.
#[derive(Debug, Args)]
pub struct ChannelArgs {
    /// The channel emulator
    #[arg(long, global = true, value_name = "URL", env = "SEMLINK_CONTROL", default_value = "http://127.0.0.1:50052")]
    control: String,
    /// One JSON object a line
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Shows the channel.
    Get,
    /// Changes what is named, from the next frame on; leaves the rest.
    Set {
        /// Average Es/N0 in dB, -60 to 100
        #[arg(long, value_name = "DB", allow_negative_numbers = true)]
        snr_db: Option<SnrDb>,
        /// awgn, rayleigh or rician
        #[arg(long, value_name = "KIND")]
        channel: Option<ChannelKind>,
        /// Rician K in dB
        #[arg(long, value_name = "DB", allow_negative_numbers = true)]
        k_factor_db: Option<RicianK>,
        /// Symbols over which fading is constant; 0: the whole frame
        #[arg(long, value_name = "SYMBOLS")]
        coherence: Option<u32>,
        /// What the receiver is told: perfect or none
        #[arg(long, value_name = "MODE")]
        csi: Option<semlink_channel_emulator::CsiMode>,
        /// Seed of noise and fading
        #[arg(long, value_name = "N")]
        seed: Option<u64>,
    },
    /// Back to the channel that the emulator was started with.
    Reset,
    /// Shows the channel now and after each change, until interrupted.
    Watch,
}

fn failed(what: &str, status: &Status) -> anyhow::Error {
    anyhow!("{what}: {}", status.message())
}

/// `semlink sweep`
///
/// # Errors
/// Services that do not answer or fail; images that cannot be read.
pub async fn sweep(args: SweepArgs) -> Result<()> {
    let images = Images::read(&args.data, args.images)?;
    let mut link = Link::open(&args.to, &args.control).await?;
    // The services tell neither codec nor clean accuracy, so no limit is drawn.
    let curves = Curves::default();
    println!("{}", terminal::HEAD);
    let points = link
        .sweep(&images, &args.channel, &args.snr, args.rate, |point| println!("{}", terminal::row(point, &curves)))
        .await?;
    println!("\n{}", terminal::plot(&points, &curves));
    files::write(&args.out, &Sweep { codec_id: String::new(), dataset: images.name, points }, &curves)?;
    println!("Wrote sweep.json, sweep.csv and sweep.svg to {}.", args.out.display());
    Ok(())
}

/// `semlink send`
///
/// # Errors
/// A transmitter that does not answer; afterwards, if any image failed.
pub async fn send(args: SendArgs) -> Result<()> {
    let mut transmitter = TransmitterClient::new(connect(&args.to).await?).max_encoding_message_size(64 << 20);
    let mut failures = 0;
    for (id, path) in args.images.iter().enumerate() {
        let name = path.display();
        let answer = match std::fs::read(path) {
            Ok(image) => {
                let request = v1::ClassifyRequest { id: id as u64, image: image.into(), stream: 0, uses: None };
                transmitter.classify(request).await.map(tonic::Response::into_inner).map_err(|s| s.message().to_owned())
            }
            Err(error) => Err(error.to_string()),
        };
        let answer =
            answer.and_then(|answer| answer.decision.clone().ok_or("no decision".to_owned()).map(|d| (d, answer)));
        match answer {
            Ok((decision, answer)) => {
                let link = answer.link.unwrap_or_default();
                if args.json {
                    println!(
                        "{}",
                        json!({"image": path, "index": decision.index, "label": decision.label, "confidence": decision.confidence,
                            "uses": link.uses, "pilots": link.pilots, "snr_db_estimated": link.snr_db_estimated,
                            "bandwidth_ratio": link.bandwidth_ratio})
                    );
                } else {
                    let snr = link.snr_db_estimated.map_or(String::new(), |snr| format!(" at {snr:.1} dB"));
                    let percent = 100.0 * decision.confidence;
                    println!("{name}: {} ({percent:.1} %), {} channel uses{snr}", decision.label, link.uses);
                }
            }
            Err(error) => {
                failures += 1;
                if args.json {
                    println!("{}", json!({"image": path, "error": error}));
                }
                eprintln!("{name}: {error}");
            }
        }
    }
    if failures > 0 {
        bail!("{failures} of {} images failed", args.images.len());
    }
    Ok(())
}

/// `semlink channel`
///
/// # Errors
/// An emulator that does not answer or refuses the change.
pub async fn channel(args: ChannelArgs) -> Result<()> {
    let mut control = ChannelControlClient::new(connect(&args.control).await?);
    let profile = match args.action {
        Action::Get => control.get_channel(v1::GetChannelRequest {}).await,
        Action::Reset => control.reset_channel(v1::ResetChannelRequest {}).await,
        Action::Set { snr_db, channel, k_factor_db, coherence, csi, seed } => {
            let change = v1::SetChannelRequest {
                kind: channel.map(|kind| wire::kind(kind).into()),
                snr_db: snr_db.map(SnrDb::db),
                k_factor_db: k_factor_db.map(RicianK::db),
                coherence,
                csi: csi.map(|mode| v1::CsiMode::from(mode).into()),
                seed,
            };
            control.set_channel(change).await
        }
        Action::Watch => {
            let watched = control.watch_channel(v1::WatchChannelRequest {}).await.map_err(|s| failed("watch", &s))?;
            let mut profiles = watched.into_inner();
            loop {
                let next = tokio::select! {
                    next = profiles.message() => next.map_err(|s| failed("watch", &s))?,
                    () = semlink_service::shutdown::signal() => None,
                };
                match next {
                    Some(profile) => show(&profile, args.json)?,
                    None => return Ok(()),
                }
            }
        }
    };
    show(&profile.map_err(|s| failed("channel", &s))?.into_inner(), args.json)
}

fn show(profile: &v1::ChannelProfile, as_json: bool) -> Result<()> {
    let kind = wire::try_kind(profile.kind).map_err(|s| failed("channel", &s))?;
    let csi = match profile.csi() {
        v1::CsiMode::Perfect => "perfect",
        v1::CsiMode::Pilots => "pilots",
        v1::CsiMode::None | v1::CsiMode::Unspecified => "none",
    };
    let v1::ChannelProfile { snr_db, k_factor_db, coherence, seed, version, .. } = *profile;
    if as_json {
        let line = json!({"channel": kind, "snr_db": snr_db, "k_factor_db": k_factor_db, "coherence": coherence, "csi": csi,
            "seed": seed, "version": version});
        println!("{line}");
    } else {
        let k = if kind == ChannelKind::Rician { format!(", K {k_factor_db} dB") } else { String::new() };
        println!("{kind} at {snr_db} dB{k}, coherence {coherence}, csi {csi}, seed {seed} (version {version})");
    }
    Ok(())
}
