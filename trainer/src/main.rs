//! `semlink-trainer`: from a recipe and images to a codec bundle.

use std::path::PathBuf;
use std::process::ExitCode;

use candle_core::Device;
use clap::{Parser, Subcommand};
use semlink_trainer::recipe::{Recipe, StudentSpec};
use semlink_trainer::teachers::Precision;
use semlink_trainer::teachers::timing::{self, Timing};
use semlink_trainer::{Context, Error, LatencyTable, Stage, dataset};

/// Trains semantic codecs: a teacher, a small student distilled from it, and the channel codec around the student.
#[derive(Debug, Parser)]
#[command(version, after_help = HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const HELP: &str = "\
Example, from nothing to a bundle:
  semlink-trainer data fetch --out data          (or: apt-get install dataset-fashion-mnist)
  semlink-trainer run recipes/fashion-mnist.toml --data data
  semlink-receiver --bundle runs/fashion-mnist/bundle ...

Exit status: 0 done, 2 wrong usage, 64 wrong recipe, 1 anything else.";

const RUN_HELP: &str = "\
Stages, in order, and what they write into the run's folder:
  teacher   trains a large classifier, or takes the one that the recipe names   teacher.safetensors
  cache     the teacher's outputs for augmented views of the training images    cache.safetensors
  search    KDL-DARTS: the student's cells, if the recipe searches them           genotype.json, search.json, .svg
  distill   stage 1: the student learns the teacher's features                  student.safetensors
  robust    stage 2: channel codec and classifier learn over random channels    codec.safetensors
  evaluate  accuracy on the test split by channel, SNR and channel uses         report.json, .svg, .txt
  bundle    what the services load                                              bundle/

metrics.jsonl has a line for every 50 steps and every epoch; STAGE.done.json says how long a stage took; STAGE.checkpoint.safetensors
is what --resume continues from after a kill, with the result that the run would have had.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a recipe: teacher, cache, search, distill, robust, evaluate, bundle.
    #[command(after_help = RUN_HELP)]
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
        /// Stage bundle also copies bundle, teacher and sample to this folder, as the repository's assets/ holds them.
        #[arg(long)]
        assets: Option<PathBuf>,
    },
    /// Measures what each candidate operation of a recipe's search takes on this host, for [search] cost = { latency = FILE }.
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
    /// The images of Fashion-MNIST.
    #[command(subcommand)]
    Data(Data),
    /// Large pretrained teachers.
    #[command(subcommand)]
    Teacher(Teacher),
}

#[derive(Debug, Subcommand)]
enum Teacher {
    /// Times a CLIP ViT-B/32 of random weights: images per second from 8-bit pixels to cached features, and of the tower alone, as JSON.
    Time {
        /// cpu or cuda:N.
        #[arg(long, default_value = "cpu")]
        device: String,
        /// Numbers of matrix products: f32, tf32, bf16 or f16.
        #[arg(long, default_value_t = Precision::F32)]
        precision: Precision,
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

/// `cpu` or `cuda:N`.
fn device(text: &str) -> semlink_trainer::Result<Device> {
    let number = text.strip_prefix("cuda:").and_then(|number| number.parse().ok());
    match (text, number) {
        ("cpu", _) => Ok(Device::Cpu),
        (_, Some(number)) => Ok(Device::new_cuda(number)?),
        _ => Err(candle_core::Error::msg(format!("--device {text}: expected cpu or cuda:N")).into()),
    }
}

fn teacher(command: Teacher) -> semlink_trainer::Result<()> {
    match command {
        Teacher::Time { device: name, precision, batch, side, batches, rounds, threads } => {
            semlink_nn::runtime::init(threads)?;
            let timing = Timing { batch, side, batches, rounds, precision };
            let rates = timing::clip_base_32(&device(&name)?, &timing)?;
            let about = serde_json::json!({
                "what": "CLIP ViT-B/32", "device": name, "precision": precision.to_string(), "batch": batch, "side": side,
                "images_per_second": rates.caching, "tower_images_per_second": rates.tower,
                "params": rates.params, "macs": rates.macs,
            });
            println!("{about}");
            Ok(())
        }
    }
}

#[derive(Debug, Subcommand)]
enum Data {
    /// Downloads the four files (30 MB) from their authors and checks their content.
    Fetch {
        /// Folder to put them in.
        #[arg(long, default_value = "data")]
        out: PathBuf,
        /// Where to get them from.
        #[arg(long, default_value = dataset::ADDRESS)]
        from: String,
    },
    /// Writes the first 1,000 test images and labels, which are shipped for demonstrations.
    Sample {
        /// Folder of the IDX files.
        #[arg(long, env = "SEMLINK_DATA", default_value = "/usr/share/datasets/fashion-mnist")]
        data: PathBuf,
        /// Folder to put them in.
        #[arg(long, default_value = "assets/sample")]
        out: PathBuf,
    },
}

/// The host's CPU, where Linux tells it.
fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':').map(|(_, name)| name));
    model.unwrap_or("unknown CPU").trim().to_owned()
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("semlink-trainer: {error}");
            ExitCode::from(if matches!(error, Error::Recipe { .. }) { 64 } else { 1 })
        }
    }
}

fn run(cli: Cli) -> semlink_trainer::Result<()> {
    match cli.command {
        Command::Run { recipe, changes, stage, from, resume, data, out, threads, assets } => {
            let recipe = Recipe::read(&recipe, &changes)?;
            semlink_nn::runtime::init(threads)?;
            semlink_nn::runtime::on_pool(|| {
                let context = Context::new(&recipe, data.as_deref(), out.as_deref())?.resume(resume).assets(assets);
                if let Some(from) = &from {
                    context.take_from(from)?;
                }
                context.run(stage)
            })
        }
        Command::Latency { recipe: path, size, out } => {
            let recipe = Recipe::read(&path, &[])?;
            let (Some(search), StudentSpec::Cells(spec)) = (&recipe.search, &recipe.student) else {
                let faults = vec!["a latency table needs [search] and a student of cells".into()];
                return Err(Error::Recipe { path, faults });
            };
            semlink_nn::runtime::init(Some(1))?;
            let size = (size[0], size[1], recipe.data.mean.len());
            let table = LatencyTable::measure(&spec.layout, &search.operations, size, machine())?;
            table.write(&out)?;
            println!("{} holds {} operations", out.display(), table.operations.len());
            Ok(())
        }
        Command::Teacher(command) => teacher(command),
        Command::Data(Data::Fetch { out, from }) => dataset::fetch(&from, &out),
        Command::Data(Data::Sample { data, out }) => dataset::sample(&data, &out),
    }
}
