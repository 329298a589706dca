//! Settings of the channel emulator.

use semlink_channel::{ChannelConfig, ChannelKind, RicianK, SnrDb};
use semlink_service::config::Problems;
use semlink_service::peer::NextHop;

use crate::profile::{CsiMode, Profile};

/// Settings of a channel emulator; those of the channel can be changed while it runs.
#[derive(Debug, Clone)]
pub struct Config {
    /// The Link that frames go to, `http://HOST:PORT`: a receiver or another channel emulator.
    pub next: String,
    /// Average signal-to-noise ratio Es/N0.
    pub snr_db: SnrDb,
    /// Fading.
    pub channel: ChannelKind,
    /// Rician factor K; read for [`ChannelKind::Rician`] only.
    pub k_factor_db: RicianK,
    /// Symbols over which fading is constant; 0: the whole frame.
    pub coherence: u32,
    /// What the receiver is told about the channel.
    pub csi: CsiMode,
    /// Of noise and fading.
    pub seed: u64,
    /// Which hop of a chain of emulators this is: hops with the same seed differ by it.
    pub hop: u64,
    /// Frames of one stream that may be under way, 1 to 1,048,576.
    pub in_flight: usize,
}

/// The settings as flags and environment variables, as text: all that is wrong with them is reported together by [`Settings::check`].
#[derive(Debug, Clone, clap::Args)]
pub struct Settings {
    /// The Link that frames go to: a receiver or another channel emulator
    #[arg(long, env = "SEMLINK_NEXT", value_name = "URL")]
    next: String,

    /// Average signal-to-noise ratio Es/N0 in dB, -60 to 100
    #[arg(long, env = "SEMLINK_SNR_DB", value_name = "DB", default_value = "10", allow_negative_numbers = true)]
    snr_db: String,

    /// Fading: awgn (none), rayleigh or rician
    #[arg(long, env = "SEMLINK_CHANNEL", value_name = "KIND", default_value = "awgn")]
    channel: String,

    /// Rician factor K in dB, -40 to 60; read for rician only
    #[arg(long, env = "SEMLINK_K_FACTOR_DB", value_name = "DB", default_value = "6", allow_negative_numbers = true)]
    k_factor_db: String,

    /// Symbols over which fading is constant; 0: the whole frame
    #[arg(long, env = "SEMLINK_COHERENCE", value_name = "SYMBOLS", default_value = "0", allow_negative_numbers = true)]
    coherence: String,

    /// What the receiver is told about the channel: perfect (the frame's h and N0), pilots (it estimates both from the frame's) or none
    #[arg(long, env = "SEMLINK_CSI", value_name = "MODE", default_value = "perfect")]
    csi: String,

    /// Seed of noise and fading
    #[arg(long, env = "SEMLINK_SEED", value_name = "N", default_value = "0", allow_negative_numbers = true)]
    seed: String,

    /// Which hop of a chain of emulators this is: hops with the same seed differ by it
    #[arg(long, env = "SEMLINK_HOP", value_name = "N", default_value = "0", allow_negative_numbers = true)]
    hop: String,

    /// Frames of one stream that may be under way, 1 to 1048576
    #[arg(
        long,
        env = "SEMLINK_IN_FLIGHT",
        value_name = "FRAMES",
        default_value = "1024",
        allow_negative_numbers = true
    )]
    in_flight: String,
}

impl Config {
    const IN_FLIGHT: usize = 1024;

    /// The default settings with this next Link and SNR: AWGN, perfect channel state, seed 0.
    pub fn new(next: impl Into<String>, snr_db: SnrDb) -> Config {
        Config {
            next: next.into(),
            snr_db,
            channel: ChannelKind::Awgn,
            k_factor_db: RicianK::default(),
            coherence: 0,
            csi: CsiMode::default(),
            seed: 0,
            hop: 0,
            in_flight: Config::IN_FLIGHT,
        }
    }

    /// The next Link; notes every setting that cannot be served with.
    pub(crate) fn check(&self, problems: &mut Problems) -> Option<NextHop> {
        problems.check("--csi", self.profile().check());
        check(&self.next, Some(self.in_flight), problems)
    }

    /// The channel to start with.
    pub(crate) fn profile(&self) -> Profile {
        let channel = ChannelConfig {
            kind: self.channel,
            snr: self.snr_db,
            k_factor: self.k_factor_db,
            coherence: self.coherence as usize,
        };
        Profile { channel, csi: self.csi, seed: self.seed, version: 0 }
    }
}

impl Settings {
    /// What the texts say; notes every one that cannot be served with.
    pub fn check(&self, problems: &mut Problems) -> Option<Config> {
        let snr_db = problems.parse("--snr-db", &self.snr_db);
        let channel = problems.parse("--channel", &self.channel);
        let k_factor_db = problems.parse("--k-factor-db", &self.k_factor_db);
        let coherence = problems.parse("--coherence", &self.coherence);
        let csi = problems.parse("--csi", &self.csi);
        let seed = problems.parse("--seed", &self.seed);
        let hop = problems.parse("--hop", &self.hop);
        let in_flight = problems.parse("--in-flight", &self.in_flight);
        check(&self.next, in_flight, problems)?;
        let config = Config {
            next: self.next.clone(),
            snr_db: snr_db?,
            channel: channel?,
            k_factor_db: k_factor_db?,
            coherence: coherence?,
            csi: csi?,
            seed: seed?,
            hop: hop?,
            in_flight: in_flight?,
        };
        problems.check("--csi", config.profile().check())?;
        Some(config)
    }
}

fn check(next: &str, in_flight: Option<usize>, problems: &mut Problems) -> Option<NextHop> {
    if let Some(frames) = in_flight {
        problems.within("--in-flight", frames, 1, 1 << 20);
    }
    problems.parse("--next", next)
}
