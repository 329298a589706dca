//! `semlink-trainer`: from a recipe and images to a codec bundle.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use semlink_nn::DeviceChoice;
use semlink_report::Output;
use semlink_trainer::group::{Alone, Group, Locals, Patience, Rendezvous, Tcp};
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

Several GPUs: --processes 4 trains stages teacher, distill and robust on GPUs 0 to 3 of this host. Over several hosts, which share the run's
folder, start one process for each GPU with --world-size, --rank and --rendezvous. Both take the recipe's batches, shared out.

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

/// Several processes that train together.
#[derive(Debug, Args)]
struct Together {
    /// Processes on this host, which train together: this one starts the others; number r computes on GPU r, or all on the CPU.
    #[arg(long, env = "SEMLINK_PROCESSES", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    processes: u32,
    /// Processes that train together, on any hosts, each started with its own --rank.
    #[arg(long, env = "SEMLINK_WORLD_SIZE", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    world_size: u32,
    /// Number of this process, from 0.
    #[arg(long, env = "SEMLINK_RANK", default_value_t = 0)]
    rank: u32,
    /// Where process 0 listens for the others; of process 0 itself, port 0 takes a free one.
    #[arg(long, env = "SEMLINK_RENDEZVOUS", value_name = "HOST:PORT")]
    rendezvous: Option<String>,
    /// Without a sign of life for so many seconds, a process counts as lost; all may take ten times as long to come.
    #[arg(long, env = "SEMLINK_PEER_TIMEOUT", value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    peer_timeout: u64,
}

impl Together {
    /// Ends the program with status 2 if the options contradict each other.
    fn check(&self) {
        let fault = if self.processes > 1 && (self.world_size > 1 || self.rank > 0) {
            "--processes starts all processes itself: leave --world-size and --rank out".to_owned()
        } else if self.rank >= self.world_size {
            format!(
                "--rank {}: expected 0 to {}, as --world-size is {}",
                self.rank,
                self.world_size - 1,
                self.world_size
            )
        } else if self.world_size > 1 && self.rendezvous.is_none() {
            "--world-size above 1 needs --rendezvous HOST:PORT, where process 0 listens".to_owned()
        } else {
            return;
        };
        Cli::command().error(ErrorKind::ValueValidation, fault).exit()
    }

    /// Processes in all.
    fn size(&self) -> usize {
        self.processes.max(self.world_size) as usize
    }

    /// Where the processes of this host compute, by their numbers.
    fn device(&self, asked: DeviceChoice) -> impl Fn(usize) -> DeviceChoice + use<> {
        let first = match asked {
            // All on GPUs or none.
            DeviceChoice::Auto if self.processes > 1 => match DeviceChoice::Cuda(0).open() {
                Ok(_) => DeviceChoice::Cuda(0),
                Err(_) => DeviceChoice::Cpu,
            },
            asked => asked,
        };
        move |rank| match first {
            DeviceChoice::Cuda(number) => DeviceChoice::Cuda(number + rank),
            other => other,
        }
    }

    /// Brings the processes together, and starts those of this host.
    fn meet(
        &self,
        device: &impl Fn(usize) -> DeviceChoice,
        threads: Option<usize>,
    ) -> semlink_trainer::Result<(Option<Tcp>, Option<Locals>)> {
        let (size, rank) = (self.size(), self.rank as usize);
        let patience = Patience::new(Duration::from_secs(self.peer_timeout));
        if size == 1 {
            return Ok((None, None));
        }
        if rank > 0 {
            return Ok((Some(Tcp::join(self.rendezvous.as_deref().unwrap_or_default(), rank, size, patience)?), None));
        }
        let here = if self.processes > 1 { Some("127.0.0.1:0") } else { self.rendezvous.as_deref() };
        let rendezvous = Rendezvous::bind(here.unwrap_or_default())?;
        let address = rendezvous.address();
        if self.processes == 1 {
            eprintln!("process 0 waits at {address} for {} more", size - 1);
            let pause = |time| {
                std::thread::sleep(time);
                None
            };
            return Ok((Some(rendezvous.gather(size, patience, pause)?), None));
        }
        // The same command line; of an option that comes twice, the last counts.
        let arguments = |rank: usize| {
            let own = [
                ("--processes", "1".to_owned()),
                ("--world-size", size.to_string()),
                ("--rank", rank.to_string()),
                ("--rendezvous", address.to_string()),
                ("--device", device(rank).to_string()),
                ("--threads", threads.unwrap_or(1).to_string()),
            ];
            let own = own.into_iter().flat_map(|(name, value)| [name.into(), value.into()]);
            std::env::args_os().skip(1).chain(own).collect::<Vec<OsString>>()
        };
        let mut locals = Locals::start(size, arguments)?;
        let group = rendezvous.gather(size, patience, |time| locals.ended(time))?;
        Ok((Some(group), Some(locals)))
    }

    /// Threads of each process of this host, where nothing else is asked for.
    fn threads(&self) -> usize {
        (semlink_nn::runtime::available_cpus() / self.processes as usize).max(1)
    }
}

/// What adds up the gradients.
fn group(met: Option<Tcp>, device: &candle_core::Device) -> semlink_trainer::Result<Arc<dyn Group>> {
    let Some(tcp) = met else { return Ok(Arc::new(Alone)) };
    #[cfg(feature = "nccl")]
    if device.is_cuda() {
        return Ok(Arc::new(semlink_trainer::group::Nccl::new(tcp, device)?));
    }
    #[cfg(not(feature = "nccl"))]
    let _ = device;
    Ok(Arc::new(tcp))
}

#[derive(Debug, Subcommand)]
enum Command {
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
            // Nobody may be reading any more.
            let _ = writeln!(std::io::stderr(), "semlink-trainer: {error}");
            ExitCode::from(if matches!(error, Error::Recipe { .. }) { 64 } else { 1 })
        }
    }
}

fn run(cli: Cli) -> semlink_trainer::Result<()> {
    match cli.command {
        Command::Run {
            recipe,
            changes,
            stage,
            from,
            resume,
            data,
            out,
            threads,
            device,
            exact,
            assets,
            json,
            together,
        } => {
            together.check();
            let recipe = Recipe::read(&recipe, &changes)?;
            recipe.check_processes(together.size())?;
            let threads = threads.or_else(|| (together.processes > 1).then(|| together.threads()));
            semlink_nn::runtime::init(threads)?;
            let choose = together.device(device);
            let device = choose(0).open()?;
            precision(exact);
            let (met, locals) = together.meet(&choose, threads)?;
            let result = semlink_nn::runtime::on_pool(|| {
                let group = group(met, &device)?;
                let context = Context::new(&recipe, data.as_deref(), out.as_deref())?.resume(resume).assets(assets);
                let context = context.on(device).together(group).json(json);
                if let Some(from) = &from {
                    context.take_from(from)?;
                }
                context.run(stage)
            });
            match (result, locals) {
                (Err(error), Some(mut locals)) => Err(locals.explain(error)),
                (Ok(()), Some(locals)) => locals.finish(Duration::from_secs(together.peer_timeout)),
                (result, None) => result,
            }
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
