//! Settings of the channel emulator.

use semlink_channel::{ChannelConfig, ChannelKind, RicianK, SnrDb};

use crate::profile::{CsiMode, Profile};

/// Settings of a channel emulator; those of the channel can be changed while it runs.
#[derive(Debug, Clone, clap::Args)]
pub struct Config {
    /// The Link that frames go to: a receiver or another channel emulator
    #[arg(long, env = "SEMLINK_NEXT", value_name = "URL")]
    pub next: String,

    /// Average signal-to-noise ratio Es/N0 in dB, -60 to 100
    #[arg(long, env = "SEMLINK_SNR_DB", value_name = "DB", default_value = "10", allow_negative_numbers = true)]
    pub snr_db: SnrDb,

    /// Fading: awgn (none), rayleigh or rician
    #[arg(long, env = "SEMLINK_CHANNEL", value_name = "KIND", default_value = "awgn")]
    pub channel: ChannelKind,

    /// Rician factor K in dB, -40 to 60; read for rician only
    #[arg(long, env = "SEMLINK_K_FACTOR_DB", value_name = "DB", default_value = "6", allow_negative_numbers = true)]
    pub k_factor_db: RicianK,

    /// Symbols over which fading is constant; 0: the whole frame
    #[arg(long, env = "SEMLINK_COHERENCE", value_name = "SYMBOLS", default_value_t = 0)]
    pub coherence: u32,

    /// What the receiver is told about the channel
    #[arg(long, env = "SEMLINK_CSI", value_name = "MODE", default_value_t)]
    pub csi: CsiMode,

    /// Seed of noise and fading
    #[arg(long, env = "SEMLINK_SEED", value_name = "N", default_value_t = 0)]
    pub seed: u64,

    /// Which hop of a chain of emulators this is: hops with the same seed differ by it
    #[arg(long, env = "SEMLINK_HOP", value_name = "N", default_value_t = 0)]
    pub hop: u64,

    /// Frames of one stream that may be under way
    #[arg(long, env = "SEMLINK_IN_FLIGHT", value_name = "FRAMES", default_value_t = Config::IN_FLIGHT)]
    pub in_flight: usize,
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
