//! Training on a GPU: steps beside PyTorch on the same GPU, and a whole recipe from images to bundle.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use candle_core::Device;
use clap::{Args, ValueEnum};
use semlink_nn::{DeviceChoice, runtime};
use semlink_trainer::recipe::{Recipe, StudentSpec};
use semlink_trainer::teachers::Precision;
use semlink_trainer::teachers::timing::{self, Timing};
use semlink_trainer::testing::SupernetStep;
use semlink_trainer::{Context, Stage};
use serde_json::{Value, json};

use crate::measure::{Step, median, peer, ratio, row, students};
use crate::results::{Row, announce, record, root};

const TOPIC: &str = "gpu";
/// Steps between two waits for the GPU.
const STEPS: usize = 10;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only this part.
    #[arg(long)]
    only: Option<Part>,
    /// The GPU.
    #[arg(long, default_value_t = DeviceChoice::Cuda(0))]
    device: DeviceChoice,
    /// Folder of the images for the recipe.
    #[arg(long, env = "SEMLINK_DATA")]
    data: Option<PathBuf>,
    /// The run's folder.
    #[arg(long, default_value = "runs/gpu")]
    out: PathBuf,
    /// Changes a key of the recipe, for a trial run whose figures are not recorded; may be repeated.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    changes: Vec<String>,
    /// The network of the part `one-step`.
    #[arg(long, default_value = "large")]
    of: Network,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Training steps of students of 0.2 M and 2.9 M parameters, batch 512.
    Steps,
    /// A step of the search's mixed network, batch 256.
    Supernet,
    /// Features of a CLIP ViT-B/32, as stage cache computes them.
    Features,
    /// recipes/fashion-mnist-large.toml from images to bundle.
    Recipe,
    /// A step of the network named by `--of` with two images, without a figure: for a profiler, or an emulated GPU that counts launches.
    OneStep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Network {
    /// The student of 0.2 M parameters.
    Small,
    /// The student of 2.9 M parameters.
    Large,
    /// The search's mixed network.
    Supernet,
}

/// The first GPU, as its driver calls it.
pub(crate) fn name() -> Option<String> {
    let output = Command::new("nvidia-smi").args(["--query-gpu=name,driver_version", "--format=csv,noheader"]).output();
    let text = String::from_utf8(output.ok()?.stdout).ok()?;
    let (name, driver) = text.lines().next()?.split_once(", ")?;
    Some(format!("{name}, driver {driver}"))
}

pub(crate) fn run(python: &Path, options: &Options) -> Result<()> {
    runtime::init(None)?;
    let device = options.device.open()?;
    ensure!(!device.is_cpu(), "--device {} is no GPU", options.device);
    if options.only == Some(Part::OneStep) {
        return one_step(options.of, &device);
    }
    announce(TOPIC, unmeasured())?;
    let wanted = |part| options.only.is_none_or(|only| only == part);
    if wanted(Part::Steps) {
        steps(python, &device)?;
    }
    if wanted(Part::Supernet) {
        supernet(python, &device)?;
    }
    if wanted(Part::Features) {
        features(python, options, &device)?;
    }
    if wanted(Part::Recipe) {
        runtime::on_pool(|| recipe(options, &device))?;
    }
    Ok(())
}

/// Every row of the topic, for those that were not measured yet.
fn unmeasured() -> Vec<Row> {
    let steps =
        students().map(|(size, _)| (step_row(size), "ratio", "lower", json!(1.5), json!(0.8), "gpu --only steps"));
    let others = [
        (SUPERNET, "ratio", "lower", json!(1.5), json!(0.8), "gpu --only supernet"),
        (FEATURES, "ratio", "higher", json!(0.7), json!(1.0), "gpu --only features"),
        (SEARCH, "min", "lower", json!(15), json!(3), RECIPE_COMMAND),
        (WHOLE, "min", "lower", json!(30), json!(6), RECIPE_COMMAND),
        (BUSY, "%", "higher", json!(80), json!(95), RECIPE_COMMAND),
        (LARGE, "%", "higher", json!(98), json!(99.5), RECIPE_COMMAND),
    ];
    let others =
        others.map(|(what, unit, better, must, aim, command)| (what.to_owned(), unit, better, must, aim, command));
    let rows = steps.into_iter().chain(others).map(|(what, unit, better, must, aim, command)| {
        let mut row = row(&what, f64::NAN, unit, better, must, aim, command);
        (row.value, row.note) = (None, "not measured: no GPU was at hand for as long as it takes".into());
        row
    });
    rows.collect()
}

const RECIPE_COMMAND: &str = "gpu --only recipe";
const SUPERNET: &str = "supernet step on the GPU (weights and architecture), over PyTorch eager with cuDNN";
const FEATURES: &str = "CLIP ViT-B/32 feature caching on the GPU, images per second over PyTorch";
const SEARCH: &str = "supernet search for Fashion-MNIST on the GPU";
const WHOLE: &str = "the whole recipe on the GPU, from images to bundle";
const BUSY: &str = "GPU busy while teacher, search and distillation train (share of time with a kernel running)";
const LARGE: &str =
    "teacher of 30 M parameters and more trained on the GPU: student's test accuracy over the teacher's";

fn step_row(size: &str) -> String {
    format!("training step on the GPU, residual student of {size} parameters, over PyTorch eager with cuDNN")
}

/// What is computed in, of the two that the GPU serves.
fn set_tf32(on: bool) {
    #[cfg(feature = "cuda")]
    semlink_nn::cuda::set_tf32(on);
    #[cfg(not(feature = "cuda"))]
    let _ = on;
}

/// Median time of a step in milliseconds over rounds of [`STEPS`] steps.
fn per_step(device: &Device, rounds: usize, mut step: impl FnMut() -> Result<()>) -> Result<f64> {
    for _ in 0..5 {
        step()?;
    }
    let mut times = Vec::new();
    for _ in 0..rounds {
        device.synchronize()?;
        let start = Instant::now();
        for _ in 0..STEPS {
            step()?;
        }
        device.synchronize()?;
        times.push(start.elapsed().as_secs_f64() * 1e3 / STEPS as f64);
    }
    Ok(median(times))
}

fn steps(python: &Path, device: &Device) -> Result<()> {
    let (batch, rounds) = (512, 10);
    for (size, config) in students() {
        let task = json!({
            "kind": "step", "network": config, "batch": batch, "size": 32, "channels": 3, "device": "cuda"
        });
        let mut step = Step::new(&serde_json::from_value(config)?, batch, device)?;
        let params = step.params;
        set_tf32(false);
        let exact = per_step(device, rounds, || step.run())?;
        set_tf32(true);
        let (ratio, ours, theirs, answer) = ratio(
            || per_step(device, rounds, || step.run()),
            || peer(python, "torch_peer.py", &["8".into(), rounds.to_string(), task.to_string()]),
        )?;
        ensure!(
            answer["params"] == json!(params),
            "the peer's network has {} parameters, ours {params}",
            answer["params"]
        );
        let what = step_row(size);
        let mut row = row(&what, ratio, "ratio", "lower", json!(1.5), json!(0.8), "gpu --only steps");
        row.peer = answer["peer"].as_str().map(str::to_owned);
        row.note = format!(
            "{ours:.2} ms against {theirs:.2} ms; {params} parameters, batch {batch}, 3x32x32, both in TF32; in full f32 {exact:.2} ms"
        );
        record(TOPIC, vec![row])?;
    }
    Ok(())
}

fn one_step(of: Network, device: &Device) -> Result<()> {
    const BATCH: usize = 2;
    let student = match of {
        Network::Small => 0,
        Network::Large => 1,
        Network::Supernet => return Ok(supernet_step(BATCH, device)?.0.step()?),
    };
    let (_, config) = students().into_iter().nth(student).context("no such student")?;
    Step::new(&serde_json::from_value(config)?, BATCH, device)?.run()
}

/// The step, and its configuration for the peer.
fn supernet_step(batch: usize, device: &Device) -> Result<(SupernetStep, Value)> {
    let recipe = Recipe::read(&root().join("recipes/search/searched.toml"), &[])?;
    let (Some(search), StudentSpec::Cells(spec)) = (&recipe.search, &recipe.student) else {
        bail!("recipes/search/searched.toml searches nothing");
    };
    let step = SupernetStep::new(&spec.layout, &search.operations, search.partial, batch, device)?;
    let config = json!({
        "layout": spec.layout, "operations": search.operations, "partial": search.partial, "batch": batch, "device": "cuda"
    });
    Ok((step, config))
}

fn supernet(python: &Path, device: &Device) -> Result<()> {
    let (batch, rounds) = (256, 10);
    let (mut step, config) = supernet_step(batch, device)?;
    let (ratio, ours, theirs, answer) = ratio(
        || runtime::on_pool(|| per_step(device, rounds.min(3), || Ok(step.step()?))),
        || peer(python, "torch_supernet.py", &["8".into(), rounds.to_string(), config.to_string()]),
    )?;
    let params = answer["params"].as_u64().unwrap_or(0);
    let mut row = row(SUPERNET, ratio, "ratio", "lower", json!(1.5), json!(0.8), "gpu --only supernet");
    row.peer = answer["peer"].as_str().map(str::to_owned);
    row.note =
        format!("{ours:.1} ms against {theirs:.1} ms; {params} parameters, batch {batch}, 28x28x1, both in TF32");
    record(TOPIC, vec![row])
}

/// In all that the GPU serves; the row's value is that of TF32, which runs compute in.
fn features(python: &Path, options: &Options, device: &Device) -> Result<()> {
    let timing = Timing { batch: 256, side: 32, batches: 4, rounds: 5, precision: Precision::F32 };
    let mut row = row(FEATURES, f64::NAN, "ratio", "higher", json!(0.7), json!(1.0), "gpu --only features");
    let mut notes = Vec::new();
    for (name, precision) in [("tf32", Precision::F32), ("bf16", Precision::Bf16), ("f32", Precision::F32)] {
        set_tf32(name == "tf32");
        let ours = timing::clip_base_32(device, &Timing { precision, ..timing })?;
        let (gpu, batch, side) = (options.device.to_string(), timing.batch.to_string(), timing.side.to_string());
        let arguments = ["--device", &gpu, "--precision", name, "--batch", &batch, "--side", &side].map(str::to_owned);
        let answer = peer(python, "clip_features.py", &arguments)?;
        ensure!(
            answer["params"] == json!(ours.params),
            "the peer's tower has {} parameters, ours {}",
            answer["params"],
            ours.params
        );
        let rate = |key: &str| answer[key].as_f64().with_context(|| format!("the peer gave no {key}"));
        let (theirs, tower) = (rate("images_per_second")?, rate("tower_images_per_second")?);
        if name == "tf32" {
            row.value = Some(ours.caching / theirs);
        }
        row.peer = answer["peer"].as_str().map(str::to_owned);
        notes.push(format!(
            "{name}: {:.0} against {theirs:.0} images per second from 8-bit pixels to features in memory, {:.0} against {tower:.0} of the tower alone",
            ours.caching, ours.tower
        ));
    }
    row.note =
        format!("batch {}, {side}x{side}x3 to 224x224x3; {}", timing.batch, notes.join("; "), side = timing.side);
    record(TOPIC, vec![row])
}

/// Samples how busy the GPU is, while it lives.
struct Watch(Child);

impl Watch {
    fn begin(log: &Path) -> Result<Self> {
        let file = std::fs::File::create(log)?;
        let query = ["--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200"];
        Ok(Self(
            Command::new("nvidia-smi").args(query).stdout(file).stderr(Stdio::null()).spawn().context("nvidia-smi")?,
        ))
    }

    /// Mean share of time in which a kernel ran, in percent, as the driver counts it.
    fn end(mut self, log: &Path) -> Result<f64> {
        self.0.kill()?;
        self.0.wait()?;
        let text = std::fs::read_to_string(log)?;
        let samples: Vec<f64> = text.lines().filter_map(|line| line.trim().parse().ok()).collect();
        ensure!(!samples.is_empty(), "nvidia-smi told nothing");
        Ok(samples.iter().sum::<f64>() / samples.len() as f64)
    }
}

fn recipe(options: &Options, device: &Device) -> Result<()> {
    let recipe = Recipe::read(&root().join("recipes/fashion-mnist-large.toml"), &options.changes)?;
    let context = Context::new(&recipe, options.data.as_deref(), Some(&options.out))?.on(device.clone());
    let log = options.out.join("busy.txt");
    let started = Instant::now();
    let mut stages = Vec::new();
    for stage in Stage::ALL {
        let watch = Watch::begin(&log)?;
        let stage_started = Instant::now();
        context.run(Some(stage))?;
        let (seconds, busy) = (stage_started.elapsed().as_secs_f64(), watch.end(&log)?);
        println!("{}: {seconds:.1} s, GPU busy {busy:.0} %", stage.name());
        stages.push((stage, seconds, busy));
    }
    let total = started.elapsed().as_secs_f64();
    println!("all stages: {total:.0} s");
    if options.changes.is_empty() { record(TOPIC, rows(&options.out, &stages, total)?) } else { Ok(()) }
}

fn rows(out: &Path, stages: &[(Stage, f64, f64)], total: f64) -> Result<Vec<Row>> {
    let command = RECIPE_COMMAND;
    let report: Value = serde_json::from_str(&std::fs::read_to_string(out.join("report.json"))?)?;
    let number = |network: &str, field: &str| report[network][field].as_f64().context("report.json lacks a figure");
    let of = |stage: Stage| stages.iter().find(|(s, ..)| *s == stage).map_or((0.0, 0.0), |(_, t, busy)| (*t, *busy));
    let each = stages.iter().map(|(s, t, busy)| format!("{} {t:.0} s ({busy:.0} % busy)", s.name()));
    let mut search = row(SEARCH, of(Stage::Search).0 / 60.0, "min", "lower", json!(15), json!(3), command);
    search.note = "with the eight trials that choose among the candidates".into();
    let mut whole = row(WHOLE, total / 60.0, "min", "lower", json!(30), json!(6), command);
    whole.note = each.collect::<Vec<_>>().join(", ");
    let training = [Stage::Teacher, Stage::Search, Stage::Distill];
    let spent: f64 = training.iter().map(|s| of(*s).0).sum();
    let busy = training.iter().map(|s| of(*s).0 * of(*s).1).sum::<f64>() / spent.max(1e-9);
    let mut busy = row(BUSY, busy, "%", "higher", json!(80), json!(95), command);
    busy.note = "mean of the driver's utilisation, sampled every 200 ms; the channel codec's stage simulates channels on the CPU".into();
    let (top, clean) = (number("teacher", "accuracy")?, number("student", "accuracy")?);
    let (large, small) = (number("teacher", "params")?, number("student", "params")?);
    let mut over = row(LARGE, 100.0 * clean / top, "%", "higher", json!(98), json!(99.5), command);
    over.note = format!(
        "teacher {:.2} % with {large:.0} parameters, student {:.2} % with {small:.0}: 1/{:.0} of it (must: at most 1/50)",
        100.0 * top,
        100.0 * clean,
        large / small
    );
    Ok(vec![search, whole, busy, over])
}
