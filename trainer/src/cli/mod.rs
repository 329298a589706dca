//! The command line of `semlink-trainer`.

mod together;

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use clap_complete::Shell;
use semlink_nn::DeviceChoice;
use semlink_trainer::teachers::Precision;
use semlink_trainer::teachers::import::HUB;
use semlink_trainer::{Stage, dataset};

pub(crate) use together::{Together, group};

const HELP: &str = "\
Example, from nothing to a bundle:
  semlink-trainer data fetch --out data          (or: apt-get install dataset-fashion-mnist)
  semlink-trainer run recipes/fashion-mnist.toml --data data
  semlink-trainer report runs/fashion-mnist      (the whole run on a page, report.html)
  semlink-receiver --bundle runs/fashion-mnist/bundle ...

Exit status: 0 done, 2 wrong usage, 64 wrong recipe, 1 anything else.";

const RUN_HELP: &str = "\
Stages, in order, and what they write into the run's folder:
  teacher   trains a large classifier, or takes the recipe's one   teacher.safetensors
            of a pretrained one, trains a classifier alone         probe.json
  cache     the teacher's outputs for augmented training images    cache.safetensors
  search    KDL-DARTS: the student's cells, if they are searched   genotype.json, search.json, .svg
  distill   stage 1: the student learns the teacher's features     student.safetensors
  robust    stage 2: codec and classifier over random channels     codec.safetensors
  evaluate  accuracy on the test split by channel, SNR and k       report.json, .svg, .txt
  bundle    what the services load                                 bundle/

metrics.jsonl has a line for every 50 steps and every epoch; STAGE.done.json says how long a stage took; STAGE.checkpoint.safetensors
is what --resume continues from after a kill, with the result that the run would have had. recipe.toml is the recipe as it counted.

Several GPUs: --processes 4 trains stages teacher, distill and robust on GPUs 0 to 3 of this host. Over several hosts, which share the run's
folder, start one process for each GPU with --world-size, --rank and --rendezvous. Both take the recipe's batches, shared out.

Examples:
  semlink-trainer run recipes/fashion-mnist.toml --resume
  semlink-trainer run recipes/fashion-mnist.toml --stage evaluate --json | jq .student.accuracy
  semlink-trainer run recipes/fashion-mnist.toml --set search.fit.seed=2 --out runs/seed-2 \\
    --from runs/fashion-mnist";

const REPORT_HELP: &str = "\
Examples:
  semlink-trainer report runs/fashion-mnist
  semlink-trainer report runs/fashion-mnist --out /tmp/run.html --json | jq .missing

The page holds what the run's stages have left so far: what was run, accuracy over SNR with limit and baselines, confusion, calibration, sample
images, the searched cells, the search's trials, training curves and the recipe. One file; it opens without a network and prints.";

const LATENCY_HELP: &str = "\
Example:
  semlink-trainer latency recipes/fashion-mnist.toml --out latency.json
  semlink-trainer run recipes/fashion-mnist.toml --set 'search.cost={latency=\"latency.json\"}'";

const GATHER_HELP: &str = "\
Examples:
  semlink-trainer gather runs
  semlink-trainer gather runs --json | jq .";

const TIME_HELP: &str = "\
Example:
  semlink-trainer teacher time --device cuda:0 --precision f16 --batch 512";

const FETCH_HELP: &str = "\
Example:
  semlink-trainer data fetch --out data
  semlink-trainer run recipes/fashion-mnist.toml --data data";

const SAMPLE_HELP: &str = "\
Example:
  semlink-trainer data sample --data data --out assets/sample";

const COMPLETIONS_HELP: &str = "\
Example:
  semlink-trainer completions bash > /etc/bash_completion.d/semlink-trainer";

const LABELS_HELP: &str = "\
Example:
  semlink-trainer labels \"a photo of a {}\" --teacher teachers/clip-vit-base-patch32 \\
    --names cat,dog,horse --out labels.safetensors
  semlink-receiver --bundle BUNDLE --labels labels.safetensors

The codec's teacher must be this very CLIP: bundle.json names it as feature_space. A running receiver takes a new file of labels in
within a second; nothing is trained, and transmitters need not know.";

const IMPORT_HELP: &str = "\
A checkpoint is a folder with config.json, preprocessor_config.json and model.safetensors, as transformers' save_pretrained writes
it and the Hugging Face hub has it; CLIP's tokenizer.json comes along, for labels. Examples:
  semlink-trainer teacher import ~/clip-vit-base-patch32
  semlink-trainer teacher import --hub openai/clip-vit-base-patch32

In a recipe:
  [teacher]
  pretrained = { path = \"teachers/clip-vit-base-patch32\", features = 512 }";

/// Trains semantic codecs: a teacher, a small student distilled from it, and the channel codec around the student.
#[derive(Debug, Parser)]
#[command(version, after_help = HELP)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs a recipe: teacher, cache, search, distill, robust, evaluate, bundle.
    #[command(after_help = RUN_HELP, args_override_self = true)]
    Run {
        /// The experiment, e.g. recipes/fashion-mnist.toml.
        recipe: PathBuf,
        /// Changes a key of the recipe, e.g. --set search.fit.seed=2; may be repeated.
        #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
        changes: Vec<String>,
        /// Only this stage; earlier ones must have run in the same folder.
        #[arg(long)]
        stage: Option<Stage>,
        /// Takes teacher and cache from another run's folder; stages teacher and cache need not run then.
        #[arg(long, value_name = "RUN")]
        from: Option<PathBuf>,
        /// Skips stages that are done and continues the one that was interrupted, with the result it would have had.
        #[arg(long)]
        resume: bool,
        /// Folder of the IDX files instead of the recipe's.
        #[arg(long, env = "SEMLINK_DATA")]
        data: Option<PathBuf>,
        /// Folder of this run [default: runs/NAME].
        #[arg(long)]
        out: Option<PathBuf>,
        /// Threads to compute with [default: the CPUs that this process may use].
        #[arg(long, env = "SEMLINK_THREADS")]
        threads: Option<usize>,
        /// Where to compute: auto (the first GPU, if this build serves GPUs and there is one), cpu or cuda:N.
        #[arg(long, env = "SEMLINK_DEVICE", default_value_t = DeviceChoice::Auto)]
        device: DeviceChoice,
        /// Computes on a GPU in full f32 instead of TF32 (factors of products rounded to 10 bits of mantissa).
        #[arg(long)]
        exact: bool,
        /// Stage bundle also copies bundle, teacher and sample to this folder, as the repository's assets/ holds them.
        #[arg(long)]
        assets: Option<PathBuf>,
        /// Prints the results of stages evaluate and bundle as JSON, a line each, instead of a table.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        together: Together,
    },
    /// Writes a page about a run, as far as it is done: one HTML file to hand on.
    #[command(after_help = REPORT_HELP)]
    Report {
        /// The run's folder, e.g. runs/fashion-mnist.
        run: PathBuf,
        /// The file [default: report.html in the run's folder].
        #[arg(long, value_name = "FILE.html")]
        out: Option<PathBuf>,
        /// Prints the run in short as a JSON object instead of the file's name.
        #[arg(long)]
        json: bool,
    },
    /// Measures what each candidate operation of a recipe's search takes on this host, for [search] cost = { latency = FILE }.
    #[command(after_help = LATENCY_HELP)]
    Latency {
        /// A recipe with a student of cells and a [search].
        recipe: PathBuf,
        /// Height and width of the images.
        #[arg(long, num_args = 2, default_values_t = [28, 28])]
        size: Vec<usize>,
        /// The table to write.
        #[arg(long, default_value = "latency.json")]
        out: PathBuf,
    },
    /// What many runs found, side by side: those below a folder, such as the searches of a sweep; also writes runs.json there.
    #[command(after_help = GATHER_HELP)]
    Gather {
        /// Folder of the runs' folders.
        runs: PathBuf,
        /// Prints runs.json instead of the table.
        #[arg(long)]
        json: bool,
    },
    /// The images of Fashion-MNIST.
    #[command(subcommand)]
    Data(Data),
    /// Large pretrained teachers: CLIP, ViT and DINOv2.
    #[command(subcommand)]
    Teacher(Teacher),
    /// Writes labels for a receiver to decide among: names, embedded by the text tower of a CLIP teacher.
    #[command(after_help = LABELS_HELP)]
    Labels {
        /// What the names are put into, {} their place, e.g. "a photo of a {}"; of several the mean is taken.
        #[arg(required = true)]
        prompts: Vec<String>,
        /// Folder of the teacher that the codec was distilled from, as teacher import leaves it.
        #[arg(long)]
        teacher: PathBuf,
        /// The names, separated by commas.
        #[arg(long, value_delimiter = ',', required_unless_present = "names_from")]
        names: Vec<String>,
        /// A text file with a name on each line.
        #[arg(long, value_name = "FILE", conflicts_with = "names")]
        names_from: Option<PathBuf>,
        /// The file to write; it appears whole or not at all.
        #[arg(long, default_value = "labels.safetensors")]
        out: PathBuf,
    },
    /// Prints a shell's completions for this program.
    #[command(after_help = COMPLETIONS_HELP)]
    Completions {
        /// Which shell.
        shell: Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Teacher {
    /// Checks a checkpoint, says what it is and puts it to where recipes find it.
    #[command(after_help = IMPORT_HELP)]
    Import {
        /// Its folder.
        #[arg(required_unless_present = "hub", conflicts_with = "hub")]
        path: Option<PathBuf>,
        /// Fetches it from the Hugging Face hub instead.
        #[arg(long, value_name = "OWNER/NAME")]
        hub: Option<String>,
        /// Branch, tag or commit on the hub.
        #[arg(long, default_value = "main", requires = "hub")]
        revision: String,
        /// Where the hub is.
        #[arg(long, env = "HF_ENDPOINT", default_value = HUB, hide_env_values = true)]
        endpoint: String,
        /// What to call it [default: its name there].
        #[arg(long)]
        name: Option<String>,
        /// The folder of all teachers.
        #[arg(long, default_value = "teachers")]
        into: PathBuf,
    },
    /// Times a CLIP ViT-B/32 of random weights: images per second from 8-bit pixels to cached features, and of the tower alone, as JSON.
    #[command(after_help = TIME_HELP)]
    Time {
        /// Where to compute: auto, cpu or cuda:N.
        #[arg(long, env = "SEMLINK_DEVICE", default_value_t = DeviceChoice::Auto)]
        device: DeviceChoice,
        /// What the tower computes in: f32, bf16 or f16.
        #[arg(long, default_value_t = Precision::F32)]
        precision: Precision,
        /// f32 on a GPU in full instead of TF32.
        #[arg(long)]
        exact: bool,
        /// Images that go through together.
        #[arg(long, default_value_t = 256)]
        batch: usize,
        /// Side of the images before they are resized.
        #[arg(long, default_value_t = 32)]
        side: usize,
        /// Batches of a round.
        #[arg(long, default_value_t = 4)]
        batches: usize,
        /// Rounds; the median counts.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Threads to compute with [default: the CPUs that this process may use].
        #[arg(long, env = "SEMLINK_THREADS")]
        threads: Option<usize>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Data {
    /// Downloads the four files (30 MB) from their authors and checks their content.
    #[command(after_help = FETCH_HELP)]
    Fetch {
        /// Folder to put them in.
        #[arg(long, default_value = "data")]
        out: PathBuf,
        /// Where to get them from.
        #[arg(long, default_value = dataset::ADDRESS)]
        from: String,
    },
    /// Writes the first 1,000 test images and labels, which are shipped for demonstrations.
    #[command(after_help = SAMPLE_HELP)]
    Sample {
        /// Folder of the IDX files.
        #[arg(long, env = "SEMLINK_DATA", default_value = "/usr/share/datasets/fashion-mnist")]
        data: PathBuf,
        /// Folder to put them in.
        #[arg(long, default_value = "assets/sample")]
        out: PathBuf,
    },
}
