//! `semlink-trainer`: from a recipe and images to a codec bundle.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;
use semlink_nn::DeviceChoice;
use semlink_report::Output;
use semlink_trainer::page::Run;
use semlink_trainer::recipe::{Recipe, StudentSpec};
use semlink_trainer::teachers::import::{HUB, Imported, Source, import};
use semlink_trainer::teachers::timing::{self, Timing};
use semlink_trainer::teachers::{self, Precision};
use semlink_trainer::{Context, Error, LatencyTable, Stage, dataset, gather};

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
  semlink-trainer report runs/fashion-mnist      (runs/fashion-mnist/report.html: the whole run on a page)
  semlink-receiver --bundle runs/fashion-mnist/bundle ...

Exit status: 0 done, 2 wrong usage, 64 wrong recipe, 1 anything else.";

const RUN_HELP: &str = "\
Stages, in order, and what they write into the run's folder:
  teacher   trains a large classifier, or takes the one that the recipe names   teacher.safetensors
            of a pretrained one, trains a classifier alone                      probe.json
  cache     the teacher's outputs for augmented views of the training images    cache.safetensors
  search    KDL-DARTS: the student's cells, if the recipe searches them           genotype.json, search.json, .svg
  distill   stage 1: the student learns the teacher's features                  student.safetensors
  robust    stage 2: channel codec and classifier learn over random channels    codec.safetensors
  evaluate  accuracy on the test split by channel, SNR and channel uses         report.json, .svg, .txt
  bundle    what the services load                                              bundle/

metrics.jsonl has a line for every 50 steps and every epoch; STAGE.done.json says how long a stage took; STAGE.checkpoint.safetensors
is what --resume continues from after a kill, with the result that the run would have had. recipe.toml is the recipe as it counted.

Examples:
  semlink-trainer run recipes/fashion-mnist.toml --resume
  semlink-trainer run recipes/fashion-mnist.toml --stage evaluate --json | jq .student.accuracy
  semlink-trainer run recipes/fashion-mnist.toml --set search.fit.seed=2 --out runs/seed-2 --from runs/fashion-mnist";

const REPORT_HELP: &str = "\
Examples:
  semlink-trainer report runs/fashion-mnist
  semlink-trainer report runs/fashion-mnist --out /tmp/run.html --json | jq .missing

The page holds what the run's stages have left so far: what was run, accuracy over SNR with limit and baselines, confusion, calibration, sample
images, the searched cells, the search's trials, training curves and the recipe. One file; it opens without a network and prints.";

const COMPLETIONS_HELP: &str = "\
Example:
  semlink-trainer completions bash > /etc/bash_completion.d/semlink-trainer";

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

const LABELS_HELP: &str = "\
Example:
  semlink-trainer labels \"a photo of a {}\" --teacher teachers/clip-vit-base-patch32 --names cat,dog,horse --out labels.safetensors
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

#[derive(Debug, Subcommand)]
enum Teacher {
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

fn teacher(command: Teacher) -> semlink_trainer::Result<()> {
    match command {
        Teacher::Import { path, hub, revision, endpoint, name, into } => {
            semlink_nn::runtime::init(None)?;
            let source = match (path, hub) {
                (Some(folder), _) => Source::Folder(folder),
                (None, hub) => Source::Hub { endpoint, repository: hub.unwrap_or_default(), revision },
            };
            let Imported { path, about, text } = import(&source, &into, name.as_deref())?;
            let (height, width) = about.input;
            println!("{}: {}, {} parameters in its vision tower", path.display(), about.kind, about.params);
            println!("  input     {height} x {width} pixels; images are brought there: {}", about.preprocessing);
            println!(
                "  features  {}{}",
                about.features,
                if about.shared_space { ", in a space with texts" } else { "" }
            );
            println!("  texts     {}", if text { "yes: semlink-trainer labels" } else { "no" });
            println!("  id        {}", about.id);
            println!(
                "In a recipe, below [teacher]: pretrained = {{ path = {:?}, features = {} }}",
                path, about.features
            );
            Ok(())
        }
        Teacher::Time { device, precision: numbers, exact, batch, side, batches, rounds, threads } => {
            semlink_nn::runtime::init(threads)?;
            let opened = device.open()?;
            precision(exact);
            let timing = Timing { batch, side, batches, rounds, precision: numbers };
            let rates = timing::clip_base_32(&opened, &timing)?;
            let tf32 = numbers == Precision::F32 && !exact && !opened.is_cpu();
            let about = serde_json::json!({
                "what": "CLIP ViT-B/32", "device": if opened.is_cpu() { "cpu".into() } else { device.to_string() },
                "precision": if tf32 { "tf32".into() } else { numbers.to_string() }, "batch": batch, "side": side,
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

/// What GPUs compute products in.
fn precision(exact: bool) {
    #[cfg(feature = "cuda")]
    semlink_nn::cuda::set_tf32(!exact);
    #[cfg(not(feature = "cuda"))]
    let _ = exact;
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
        Command::Run { recipe, changes, stage, from, resume, data, out, threads, device, exact, assets, json } => {
            let recipe = Recipe::read(&recipe, &changes)?;
            semlink_nn::runtime::init(threads)?;
            let device = device.open()?;
            precision(exact);
            semlink_nn::runtime::on_pool(|| {
                let context = Context::new(&recipe, data.as_deref(), out.as_deref())?.resume(resume).assets(assets);
                let context = context.on(device).json(json);
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
        Command::Gather { runs, json } => {
            let found = gather::gather(&runs)?;
            match json {
                true => print!("{}", std::fs::read_to_string(runs.join(gather::FILE)).unwrap_or_default()),
                false => print!("{}", gather::table(&found)),
            }
            Ok(())
        }
        Command::Report { run: folder, out, json } => {
            let run = Run::read(&folder)?;
            let output = Output::prepare(&out.unwrap_or_else(|| folder.join("report.html")))?;
            let path = output.path().to_owned();
            run.write(output)?;
            match json {
                true => println!("{}", serde_json::json!(run.summary(&path))),
                false => println!("wrote {}", path.display()),
            }
            Ok(())
        }
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "semlink-trainer", &mut std::io::stdout());
            Ok(())
        }
        Command::Teacher(command) => teacher(command),
        Command::Labels { prompts, teacher, names, names_from, out } => {
            let names = match names_from {
                None => names,
                Some(path) => {
                    let text = std::fs::read_to_string(&path).map_err(|source| Error::Io { path, source })?;
                    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
                }
            };
            let labels = teachers::labels(&teacher, &prompts, names)?;
            labels.write(&out)?;
            println!("{} holds {} labels of {}", out.display(), labels.names().len(), labels.teacher());
            Ok(())
        }
        Command::Data(Data::Fetch { out, from }) => dataset::fetch(&from, &out),
        Command::Data(Data::Sample { data, out }) => dataset::sample(&data, &out),
    }
}
