//! Settings of the channel emulator.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use semlink_channel::{Chain, ChannelConfig, ChannelKind, RicianK, SnrDb};
use semlink_service::ServiceArgs;
use semlink_service::config::Problems;
use semlink_service::metrics::{Metrics, PeerMetrics};
use semlink_service::security::{ClientArgs, Plaintext};

use crate::document::read_links;
use crate::links::{self, LinkConfig, Links, Way};
use crate::metrics::EmulatorMetrics;
use crate::profile::CsiMode;
use crate::transport::Transport;

/// Settings of a channel emulator; its links and their channels can be changed while it runs.
#[derive(Debug, Clone)]
pub struct Config {
    /// The Link that frames of the link "default" go to, `http://HOST:PORT`: a receiver or another channel emulator. Empty: there is no such link,
    /// unless it is one of `links`, and the settings of its channel count for nothing.
    pub next: String,
    /// More links.
    pub links: Vec<LinkConfig>,
    /// Where recordings are written and impulse responses are looked for; without it there are none.
    pub recordings: Option<PathBuf>,
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
    /// Seconds that a frame without a deadline of its own waits for its report, above 0, at most 300.
    pub patience: f64,
    /// The server.
    pub service: ServiceArgs,
    /// What next hops are shown.
    pub client: ClientArgs,
}

/// The settings as flags and environment variables, as text: all that is wrong with them is reported together by [`Settings::check`].
#[derive(Debug, Clone, clap::Args)]
pub struct Settings {
    /// The Link that frames go to: a receiver or another channel emulator; may be left out where --links has links
    #[arg(
        long,
        env = "SEMLINK_NEXT",
        value_name = "URL",
        default_value = "",
        required_unless_present_any = ["links", "check_health"],
        hide_default_value = true
    )]
    next: String,

    /// File of named links in TOML, see docs/EMULATOR.md; --next with the flags of its channel is the link "default" beside them
    #[arg(long, env = "SEMLINK_LINKS", value_name = "FILE")]
    links: Option<PathBuf>,

    /// Directory for recordings, and with impulse responses to be played; without it there are none
    #[arg(long, env = "SEMLINK_RECORDINGS", value_name = "DIR")]
    recordings: Option<PathBuf>,

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

    /// Seconds that a frame without a deadline of its own waits for its report, while next hops come and go
    #[arg(long, env = "SEMLINK_PATIENCE", value_name = "SECONDS", default_value_t = Config::PATIENCE, allow_negative_numbers = true)]
    patience: f64,

    #[command(flatten)]
    service: ServiceArgs,

    #[command(flatten)]
    client: ClientArgs,
}

impl Config {
    const IN_FLIGHT: usize = 1024;
    const PATIENCE: f64 = 30.0;

    /// The default settings with this next Link and SNR: AWGN, perfect channel state, seed 0.
    pub fn new(next: impl Into<String>, snr_db: SnrDb) -> Config {
        Config {
            next: next.into(),
            links: Vec::new(),
            recordings: None,
            snr_db,
            channel: ChannelKind::Awgn,
            k_factor_db: RicianK::default(),
            coherence: 0,
            csi: CsiMode::default(),
            seed: 0,
            hop: 0,
            in_flight: Config::IN_FLIGHT,
            patience: Config::PATIENCE,
            service: ServiceArgs::default(),
            client: ClientArgs::default(),
        }
    }

    /// The links to begin with; notes every setting that cannot be served with.
    pub(crate) fn check(&self, metrics: &Metrics, problems: &mut Problems) -> Option<Arc<Links>> {
        problems.within("--in-flight", self.in_flight, 1, 1 << 20);
        if let Some(directory) = self.recordings.as_deref() {
            problems.check("--recordings", writable(directory));
        }
        if !(self.patience > 0.0 && self.patience <= 300.0) {
            problems.add("--patience", format!("{}, expected above 0 and at most 300 seconds", self.patience));
        }
        let plaintext = self.service.allows_plaintext(Plaintext::Next);
        let way = Way {
            credentials: self.client.check(problems).unwrap_or_default().with_plaintext(plaintext),
            plaintext,
            // One that is none is a problem already noted.
            patience: Duration::try_from_secs_f64(self.patience).unwrap_or_default(),
            peer_metrics: PeerMetrics::default(),
            metrics: EmulatorMetrics::default(),
        };
        way.peer_metrics.register(metrics);
        way.metrics.register(metrics);
        let links = Links::new(self.recordings.clone(), self.hop, way);
        if !self.next.is_empty() {
            let config = self.default_link();
            let next = problems.check("--next", links.hop(&config));
            let profile = config.profile(None).map(|profile| profile.with_defaults(self.k_factor_db, self.coherence));
            if let (Some(next), Some(profile)) = (next, problems.check("--csi", profile)) {
                problems.check("--next", links.insert(links.link(&config, next, profile)));
            }
        } else if self.links.is_empty() {
            problems.add("--next", "is missing, expected http://HOST:PORT, or --links with links");
        }
        for config in &self.links {
            if let Some(link) = problems.check("--links", links.build(config)) {
                problems.check("--links", links.insert(link).map_err(|status| status.message().to_owned()));
            }
        }
        Some(Arc::new(links))
    }

    /// The link that the flags describe.
    fn default_link(&self) -> LinkConfig {
        let channel = ChannelConfig {
            kind: self.channel,
            snr: self.snr_db,
            k_factor: self.k_factor_db,
            coherence: self.coherence as usize,
        };
        LinkConfig {
            name: links::DEFAULT.to_owned(),
            next: self.next.clone(),
            next_link: String::new(),
            csi: self.csi,
            seed: self.seed,
            stages: Chain::from(channel).specs().to_vec(),
            transport: Transport::default(),
            schedule: None,
        }
    }
}

/// Whether files can be made in it, seen by making one without a name: mounts and users refuse what permissions seem to allow.
fn writable(directory: &Path) -> Result<(), String> {
    let shown = directory.display();
    if !directory.is_dir() {
        return Err(format!("{shown}: no such directory"));
    }
    let refused = |error: std::io::Error| {
        // Its kind alone: the rest names a file that nobody asked for.
        let why = error.kind();
        format!("{shown}: cannot be written: {why}; a container needs a volume there that its user may write")
    };
    tempfile::tempfile_in(directory).map(drop).map_err(refused)
}

impl Settings {
    /// What the running service says of itself, if that is all that is asked.
    ///
    /// # Errors
    /// As [`MetricsArgs::check_health`](semlink_service::metrics::MetricsArgs::check_health).
    pub async fn health(&self) -> Option<Result<(), semlink_service::Error>> {
        let metrics = &self.service.metrics;
        if metrics.check_health { Some(metrics.check_health().await) } else { None }
    }

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
        let links = match &self.links {
            Some(path) => problems.check("--links", read_links(path)),
            None => Some(Vec::new()),
        };
        let config = Config {
            next: self.next.clone(),
            links: links?,
            recordings: self.recordings.clone(),
            snr_db: snr_db.unwrap_or(SnrDb::MAX),
            channel: channel.unwrap_or(ChannelKind::Awgn),
            k_factor_db: k_factor_db.unwrap_or_default(),
            coherence: coherence.unwrap_or_default(),
            csi: csi.unwrap_or_default(),
            seed: seed.unwrap_or_default(),
            hop: hop.unwrap_or_default(),
            in_flight: in_flight.unwrap_or(Config::IN_FLIGHT),
            patience: self.patience,
            service: self.service.clone(),
            client: self.client.clone(),
        };
        // With what could not be read at its default: what is wrong beside it is told, too.
        config.check(&Metrics::new(crate::NAME), problems);
        Some(config)
    }
}
