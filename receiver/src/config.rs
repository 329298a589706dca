//! Settings of the receiver.

use std::path::PathBuf;

use semlink_channel::pilots::Estimator;
use semlink_service::ServiceArgs;
use semlink_service::config::Problems;

/// Settings of a receiver.
#[derive(Debug, Clone, clap::Args)]
pub struct Config {
    /// Directory of a codec bundle, of which the receiver reads the decoder half and bundle.json; may be given several times (in the
    /// environment: separated by commas). A directory whose files change is read again
    #[arg(
        long = "bundle",
        env = "SEMLINK_BUNDLE",
        value_name = "DIR",
        required_unless_present = "check_health",
        value_delimiter = ','
    )]
    pub bundles: Vec<PathBuf>,

    /// A file of labels, as `semlink-trainer labels` writes it, to decide among instead of the bundles' classes; for codecs whose teacher is CLIP. A file that
    /// changes is read again
    #[arg(long, env = "SEMLINK_LABELS", value_name = "FILE")]
    pub labels: Option<PathBuf>,

    /// Codecs that are held of each bundle: the present one and those before it
    #[arg(long, env = "SEMLINK_KEEP_CODECS", value_name = "N", default_value_t = Config::KEEP_CODECS)]
    pub keep_codecs: usize,

    /// Frames that may be under way; beyond it streams are held back
    #[arg(long, env = "SEMLINK_QUEUE", value_name = "FRAMES", default_value_t = Config::QUEUE)]
    pub queue: usize,

    /// Frames of one stream that may be under way
    #[arg(long, env = "SEMLINK_IN_FLIGHT", value_name = "FRAMES", default_value_t = Config::IN_FLIGHT)]
    pub in_flight: usize,

    /// Most frames that are decoded together
    #[arg(long, env = "SEMLINK_MAX_BATCH", value_name = "FRAMES", default_value_t = Config::MAX_BATCH)]
    pub max_batch: usize,

    /// Milliseconds that decoding a batch should take at most: batches are made as large as that allows
    #[arg(long, env = "SEMLINK_BATCH_LATENCY_MS", value_name = "MS", default_value_t = Config::BATCH_LATENCY_MS)]
    pub batch_latency_ms: u64,

    /// Frames whose reports are remembered, so that one that is sent again is not decided twice
    #[arg(long, env = "SEMLINK_REMEMBER", value_name = "FRAMES", default_value_t = Config::REMEMBER)]
    pub remember: usize,

    /// Decisions that a consumer of Decisions.Subscribe may lag behind before it loses the oldest
    #[arg(long, env = "SEMLINK_DECISION_LAG", value_name = "DECISIONS", default_value_t = Config::DECISION_LAG)]
    pub decision_lag: usize,

    /// Most probable classes that each decision names, with their probabilities
    #[arg(long, env = "SEMLINK_TOP", value_name = "N", default_value_t = 0)]
    pub top: usize,

    /// Confidence below which a decision is marked as unsure, 0 to 1
    #[arg(long, env = "SEMLINK_MIN_CONFIDENCE", value_name = "P", default_value_t = 0.0)]
    pub min_confidence: f32,

    /// How fading is estimated from pilots: mmse (least mean squared error, for fading of mean power 1) or ls (least squares)
    #[arg(long, env = "SEMLINK_ESTIMATOR", value_name = "mmse|ls", default_value_t = Estimator::default())]
    pub estimator: Estimator,

    #[command(flatten)]
    #[allow(missing_docs, reason = "a comment here would take the place of the command's own")]
    pub service: ServiceArgs,
}

impl Config {
    const QUEUE: usize = 1024;
    const IN_FLIGHT: usize = 512;
    const MAX_BATCH: usize = 64;
    const DECISION_LAG: usize = 1024;
    const KEEP_CODECS: usize = 2;
    const BATCH_LATENCY_MS: u64 = 20;
    const REMEMBER: usize = 8192;
    const MAX_TOP: usize = 1000;

    /// The default settings with this bundle.
    pub fn new(bundle: impl Into<PathBuf>) -> Config {
        Config {
            bundles: vec![bundle.into()],
            labels: None,
            keep_codecs: Config::KEEP_CODECS,
            queue: Config::QUEUE,
            in_flight: Config::IN_FLIGHT,
            max_batch: Config::MAX_BATCH,
            batch_latency_ms: Config::BATCH_LATENCY_MS,
            remember: Config::REMEMBER,
            decision_lag: Config::DECISION_LAG,
            top: 0,
            min_confidence: 0.0,
            estimator: Estimator::default(),
            service: ServiceArgs::default(),
        }
    }

    /// Notes every setting that cannot be served with. The bounds keep what is allocated for a queue within reason.
    pub(crate) fn check(&self, problems: &mut Problems) {
        let bounds = [
            ("--queue", self.queue, 1 << 20),
            ("--in-flight", self.in_flight, 1 << 20),
            ("--max-batch", self.max_batch, 1024),
            ("--decision-lag", self.decision_lag, 1 << 20),
            ("--remember", self.remember, 1 << 24),
            ("--keep-codecs", self.keep_codecs, 64),
        ];
        for (flag, value, most) in bounds {
            if !(1..=most).contains(&value) {
                problems.add(flag, format!("{value}, expected 1 to {most}"));
            }
        }
        problems.within("--batch-latency-ms", self.batch_latency_ms, 1, 60_000);
        if self.top > Config::MAX_TOP {
            problems.add("--top", format!("{}, expected at most {}", self.top, Config::MAX_TOP));
        }
        if !(0.0..=1.0).contains(&self.min_confidence) {
            problems.add("--min-confidence", format!("{}, expected 0 to 1", self.min_confidence));
        }
    }
}
