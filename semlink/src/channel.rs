//! `semlink channel`: the channel of a running emulator, live.

use std::io::Write;

use anyhow::{Context as _, Result};
use clap::Subcommand;
use semlink_channel::{ChannelKind, RicianK, SnrDb};
use semlink_channel_emulator::CsiMode;
use semlink_proto::v1::channel_control_client::ChannelControlClient;
use semlink_proto::v1::{
    self, ChannelProfile, GetChannelRequest, ResetChannelRequest, SetChannelRequest, WatchChannelRequest,
};
use semlink_service::peer::NextHop;
use semlink_service::wire;
use serde_json::json;

use crate::client;

/// What to do with the channel.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print the channel
    Get(Target),
    /// Change what is given, leave the rest
    Set(Set),
    /// Back to the channel that the emulator was started with
    Reset(Target),
    /// Print the channel now and after each change
    Watch(Target),
}

/// Which emulator, and how to print.
#[derive(Debug, clap::Args)]
pub(crate) struct Target {
    /// Address of the channel emulator
    #[arg(long, env = "SEMLINK_CONTROL", value_name = "URL", default_value = "http://127.0.0.1:50052")]
    control: NextHop,

    /// Print JSON objects
    #[arg(long)]
    json: bool,
}

/// A change.
#[derive(Debug, clap::Args)]
pub(crate) struct Set {
    #[command(flatten)]
    target: Target,

    #[command(flatten)]
    change: Change,
}

/// The fields of a change; at least one.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
pub(crate) struct Change {
    /// Average signal-to-noise ratio Es/N0 in dB, -60 to 100
    #[arg(long, value_name = "DB", allow_negative_numbers = true)]
    snr_db: Option<SnrDb>,

    /// Fading: awgn (none), rayleigh or rician
    #[arg(long, value_name = "KIND")]
    channel: Option<ChannelKind>,

    /// Rician factor K in dB, -40 to 60
    #[arg(long, value_name = "DB", allow_negative_numbers = true)]
    k_factor_db: Option<RicianK>,

    /// Symbols over which fading is constant; 0: the whole frame
    #[arg(long, value_name = "SYMBOLS")]
    coherence: Option<u32>,

    /// What the receiver is told about the channel
    #[arg(long, value_name = "MODE")]
    csi: Option<CsiMode>,

    /// Seed of noise and fading
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

impl Command {
    fn target(&self) -> &Target {
        match self {
            Command::Get(target) | Command::Reset(target) | Command::Watch(target) => target,
            Command::Set(set) => &set.target,
        }
    }
}

/// Runs the command; `watch` goes on until the emulator leaves or the program is stopped.
pub(crate) async fn run(command: &Command, out: &mut impl Write) -> Result<()> {
    let target = command.target();
    let url = target.control.as_str();
    let mut control = ChannelControlClient::new(client::connect(url).await?);
    let profile = match command {
        Command::Get(_) => control.get_channel(GetChannelRequest {}).await,
        Command::Set(set) => control.set_channel(set.change.request()).await,
        Command::Reset(_) => control.reset_channel(ResetChannelRequest {}).await,
        Command::Watch(_) => {
            let profiles = control.watch_channel(WatchChannelRequest {}).await;
            let mut profiles = profiles.map_err(|status| client::failed(url, &status))?.into_inner();
            while let Some(profile) = profiles.message().await.map_err(|status| client::failed(url, &status))? {
                print(&profile, target.json, out)?;
            }
            return Ok(());
        }
    };
    print(&profile.map_err(|status| client::failed(url, &status))?.into_inner(), target.json, out)
}

impl Change {
    fn request(&self) -> SetChannelRequest {
        let csi = |mode| match mode {
            CsiMode::Perfect => v1::CsiMode::Perfect,
            CsiMode::Pilots => v1::CsiMode::Pilots,
            CsiMode::None => v1::CsiMode::None,
        };
        SetChannelRequest {
            kind: self.channel.map(|kind| wire::kind(kind).into()),
            snr_db: self.snr_db.map(SnrDb::db),
            k_factor_db: self.k_factor_db.map(RicianK::db),
            coherence: self.coherence,
            csi: self.csi.map(|mode| csi(mode).into()),
            seed: self.seed,
        }
    }
}

fn print(profile: &ChannelProfile, as_json: bool, out: &mut impl Write) -> Result<()> {
    let kind = wire::try_kind(profile.kind).map_or("unknown", |kind| kind.as_str());
    let csi = client::csi_name(profile.csi());
    let ChannelProfile { snr_db, k_factor_db, coherence, seed, version, .. } = *profile;
    if as_json {
        let object = json!({
            "channel": kind, "snr_db": snr_db, "k_factor_db": k_factor_db, "coherence": coherence, "csi": csi,
            "seed": seed, "version": version,
        });
        writeln!(out, "{object}")
    } else {
        let rician = if kind == "rician" { format!(", K {k_factor_db} dB") } else { String::new() };
        let coherence = if coherence == 0 { "a frame".to_owned() } else { format!("{coherence} symbols") };
        writeln!(
            out,
            "{kind}, SNR {snr_db} dB{rician}, coherence {coherence}, CSI {csi}, seed {seed} (version {version})"
        )
    }
    .and_then(|()| out.flush())
    .context("standard output")
}
