//! The trainer's error type.

use std::path::PathBuf;

/// `std::result::Result` with this crate's [`Error`] unless another is named.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can stop a run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder.
    #[error("{}: {source}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A recipe that cannot be run.
    #[error("{}: {}", path.display(), faults.join("; "))]
    Recipe {
        /// The file.
        path: PathBuf,
        /// Every fault found.
        faults: Vec<String>,
    },
    /// The data set's files.
    #[error(transparent)]
    Data(#[from] semlink_codec::images::ImagesError),
    /// A file of the data set is not the one that the recipe states.
    #[error("{}: SHA-256 {found}, but the recipe's data.sha256 states {expected}; fetch the file again", path.display())]
    Hash {
        /// The file.
        path: PathBuf,
        /// What it has.
        found: String,
        /// What the recipe states.
        expected: String,
    },
    /// The data set does not fit the recipe.
    #[error("{0}")]
    Split(String),
    /// Labels.
    #[error(transparent)]
    Labels(#[from] semlink_codec::LabelsError),
    /// A network.
    #[error(transparent)]
    Codec(#[from] semlink_codec::Error),
    /// A bundle.
    #[error(transparent)]
    Bundle(#[from] semlink_codec::BundleError),
    /// An operator, optimiser or checkpoint.
    #[error(transparent)]
    Nn(#[from] semlink_nn::Error),
    /// The tensor library.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
    /// A channel quantity.
    #[error(transparent)]
    Channel(#[from] semlink_channel::Error),
    /// The GPU has no room for a training step.
    #[error("stage {stage}: a batch of {batch} does not fit into the GPU's memory; {advice}")]
    GpuMemory {
        /// The stage.
        stage: &'static str,
        /// Images in a step.
        batch: usize,
        /// What fits.
        advice: String,
    },
    /// Processes that were to train together.
    #[error("{0}")]
    Group(String),
    /// A process that trained along is gone.
    #[error("process {rank} was lost: {what}; all processes stop, --resume goes on from the last checkpoint")]
    PeerLost {
        /// Its number.
        rank: usize,
        /// How that shows.
        what: String,
    },
    /// A process that trained along gave up.
    #[error("process {rank}: {what}")]
    PeerFailed {
        /// Its number.
        rank: usize,
        /// What it said.
        what: String,
    },
    /// The loss is no longer a number.
    #[error("stage {stage}: the loss became {loss} at step {step}; the last good checkpoint is {}; try a lower lr or clip = 1.0", checkpoint.display())]
    Diverged {
        /// Which stage.
        stage: &'static str,
        /// Which step, from 0.
        step: usize,
        /// What it became.
        loss: f32,
        /// Where training can go on from.
        checkpoint: PathBuf,
    },
    /// An architecture search that runs into skips and pools.
    #[error(
        "stage search: {:.0} % of the normal cell's edges are skips or pools, more than max_free_share allows ({:.0} %): \
         the search has collapsed; raise beta_decay or warmup_epochs, lower alpha_lr, or raise the target",
        100.0 * share, 100.0 * most
    )]
    Collapse {
        /// What it came to.
        share: f64,
        /// What the recipe allows.
        most: f64,
    },
    /// The run was told to stop here.
    #[error("stage {stage}: stopped after step {step} of {total}; --resume goes on from there")]
    Stopped {
        /// Which stage.
        stage: &'static str,
        /// Steps done.
        step: usize,
        /// Steps of the stage.
        total: usize,
    },
    /// A checkpoint that does not belong to this recipe.
    #[error("{}: made with another configuration of stage {stage}; run without --resume to start that stage afresh", path.display())]
    OtherCheckpoint {
        /// Which stage.
        stage: &'static str,
        /// The checkpoint.
        path: PathBuf,
    },
    /// A stage needs the result of an earlier one.
    #[error("{} is missing, which stage {earlier} writes: run that one first", path.display())]
    Missing {
        /// The stage that makes the file.
        earlier: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// A download.
    #[error("{url}: {what}")]
    Fetch {
        /// From where.
        url: String,
        /// What went wrong.
        what: String,
    },
    /// A pretrained teacher that cannot be used.
    #[error("{}: {what}", path.display())]
    Teacher {
        /// The folder or file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A page, or a picture.
    #[error(transparent)]
    Page(#[from] semlink_report::Error),
    /// A plot or report.
    #[error("{}: {what}", path.display())]
    Report {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        what: String,
    },
}
