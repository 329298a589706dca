//! The measurements.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{Device, Tensor, Var};
use semlink_codec::{Classifier, ResidualConfig, ResidualNet, StudentConfig, StudentNet};
use semlink_nn::optim::{Optimizer, Sgd, SgdConfig};
use semlink_nn::{Activation, Mode, Params, checkpoint, ops, runtime, value_and_grad};
use semlink_trainer::recipe::{Recipe, StudentSpec};
use semlink_trainer::testing::SupernetStep;
use serde_json::{Value, json};

use crate::results::{Row, record, root};

const TOPIC: &str = "link";
/// Rounds of ours and the peer in turn; the median ratio is reported.
const TURNS: usize = 3;

pub(crate) fn row(what: &str, value: f64, unit: &str, better: &str, must: Value, aim: Value, command: &str) -> Row {
    let (unit, better, command) =
        (unit.into(), better.into(), format!("cargo run --release -p semlink-bench -- {command}"));
    Row {
        what: what.into(),
        value: Some(value),
        unit,
        better,
        must,
        aim,
        peer: None,
        command,
        note: String::new(),
        measured: None,
    }
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The value below which this share of `times` lies; sorts them.
pub(crate) fn quantile(times: &mut [f64], share: f64) -> f64 {
    times.sort_by(f64::total_cmp);
    let last = times.len().saturating_sub(1);
    times.get((last as f64 * share).round() as usize).copied().unwrap_or(f64::NAN)
}

/// Median time in milliseconds of `rounds` runs after three that do not count.
pub(crate) fn median_ms(rounds: usize, mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    for _ in 0..3 {
        run()?;
    }
    let mut times = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let start = Instant::now();
        run()?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(median(times))
}

/// Runs a Python peer, which prints a JSON object.
pub(crate) fn peer(python: &Path, script: &str, arguments: &[String]) -> Result<Value> {
    let script = root().join("bench/peers").join(script);
    let output =
        Command::new(python).arg(&script).args(arguments).output().with_context(|| format!("{}", python.display()))?;
    ensure!(output.status.success(), "{}: {}", script.display(), String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Ours and the peer in turn: median ratio, our and the peer's median times, and the peer's answer.
pub(crate) fn ratio(
    mut ours: impl FnMut() -> Result<f64>,
    mut peer: impl FnMut() -> Result<Value>,
) -> Result<(f64, f64, f64, Value)> {
    let (mut a, mut b, mut ratios, mut last) = (Vec::new(), Vec::new(), Vec::new(), Value::Null);
    for _ in 0..TURNS {
        let time = ours()?;
        last = peer()?;
        let other = last["ms"].as_f64().context("the peer gave no time")?;
        ratios.push(time / other);
        a.push(time);
        b.push(other);
    }
    Ok((median(ratios), median(a), median(b), last))
}

fn pixels(shape: &[usize]) -> Result<Tensor> {
    let values: Vec<f32> = (0..shape.iter().product()).map(|i: usize| (i % 97) as f32 / 97.0).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

/// Residual networks of two sizes, as recipes write them.
pub(crate) fn students() -> [(&'static str, Value); 2] {
    let network = |stem: usize, stages: &[(usize, usize, usize)]| {
        let stages: Vec<_> = stages
            .iter()
            .map(|(channels, blocks, stride)| json!({"channels": channels, "blocks": blocks, "stride": stride}))
            .collect();
        json!({"stem": stem, "stages": stages, "features": 128})
    };
    [
        ("0.2 M", network(16, &[(16, 1, 1), (32, 1, 2), (64, 2, 2)])),
        ("2.9 M", network(64, &[(64, 1, 1), (128, 1, 2), (240, 2, 2)])),
    ]
}

pub(crate) fn train(python: &Path) -> Result<()> {
    runtime::init(Some(2))?;
    let mut rows = Vec::new();
    for ((size, config), rounds) in students().into_iter().zip([15, 5]) {
        let task = json!({"kind": "step", "network": config, "batch": 64, "size": 32, "channels": 3});
        let mut step = Step::new(&serde_json::from_value(config)?, 64, &Device::Cpu)?;
        let params = step.params;
        let (ratio, ours, theirs, answer) = ratio(
            || runtime::on_pool(|| median_ms(rounds, || step.run())),
            || peer(python, "torch_peer.py", &["2".into(), rounds.to_string(), task.to_string()]),
        )?;
        ensure!(
            answer["params"] == json!(params),
            "the peer's network has {} parameters, ours {params}",
            answer["params"]
        );
        let what = format!("training step, residual network of {size} parameters, over PyTorch");
        let mut row = row(&what, ratio, "ratio", "lower", json!(1.5), json!(1.0), "train");
        row.peer = answer["peer"].as_str().map(str::to_owned);
        row.note = format!("{ours:.1} ms against {theirs:.1} ms; {params} parameters, batch 64, 3x32x32, 2 threads");
        rows.push(row);
    }
    for kind in ["depthwise", "batch_norm"] {
        let x = Var::from_tensor(&pixels(&[64, 28, 28, 32])?)?;
        let filter = Var::from_tensor(&pixels(&[3, 3, 1, 32])?)?;
        let (gamma, beta) = (
            Var::ones(32, candle_core::DType::F32, &Device::Cpu)?,
            Var::zeros(32, candle_core::DType::F32, &Device::Cpu)?,
        );
        let spec = ops::Conv2dSpec { padding: 1, groups: 32, ..Default::default() };
        let apply = || -> semlink_nn::Result<Tensor> {
            if kind == "depthwise" {
                return ops::conv2d(x.as_tensor(), filter.as_tensor(), spec);
            }
            let gamma_beta = Some((gamma.as_tensor(), beta.as_tensor()));
            Ok(ops::batch_norm_train(x.as_tensor(), gamma_beta, 1e-5, Activation::Identity)?.0)
        };
        // From a gradient of ones, as on the other side.
        let run = || -> Result<()> { Ok(value_and_grad(apply).map(drop)?) };
        let task = json!({"kind": kind});
        let (ratio, ours, theirs, answer) = ratio(
            || runtime::on_pool(|| median_ms(50, run)),
            || peer(python, "torch_peer.py", &["2".into(), "50".into(), task.to_string()]),
        )?;
        let name = if kind == "depthwise" { "depthwise 3x3" } else { "batch-norm" };
        let mut row = row(
            &format!("{name}, forward + backward, over PyTorch"),
            ratio,
            "ratio",
            "lower",
            json!(1.5),
            json!(0.8),
            "train",
        );
        row.peer = answer["peer"].as_str().map(str::to_owned);
        row.note = format!("{ours:.2} ms against {theirs:.2} ms; batch 64, 28x28x32, 2 threads");
        rows.push(row);
    }
    record(TOPIC, rows)
}

/// One training step after another of a residual network with a classifier.
pub(crate) struct Step {
    network: ResidualNet,
    classifier: Classifier,
    optimizer: Sgd,
    images: Tensor,
    targets: Tensor,
    pub(crate) params: usize,
}

impl Step {
    /// For `batch` images of 32 x 32 x 3.
    pub(crate) fn new(config: &ResidualConfig, batch: usize, device: &Device) -> Result<Self> {
        let params = Params::init(1, device);
        let network = ResidualNet::new(&params.sub("encoder"), config, 3)?;
        let classifier = Classifier::new(&params.sub("classifier"), config.features, 10)?;
        let settings = SgdConfig { momentum: 0.9, nesterov: true, weight_decay: 5e-4, decay_vectors: true };
        let targets: Vec<f32> = (0..10 * batch).map(|i| f32::from(u8::from(i % 10 == i / 10 % 10))).collect();
        Ok(Self {
            network,
            classifier,
            optimizer: Sgd::new(params.vars(), settings)?,
            images: pixels(&[batch, 32, 32, 3])?.to_device(device)?,
            targets: Tensor::from_vec(targets, (batch, 10), device)?,
            params: params.count(),
        })
    }

    pub(crate) fn run(&mut self) -> Result<()> {
        let (_, grads) = value_and_grad(|| -> semlink_codec::Result<Tensor> {
            let logits = self.classifier.forward(&self.network.forward(&self.images, Mode::Train)?)?;
            Ok(ops::cross_entropy(&logits, &self.targets, None)?)
        })?;
        self.optimizer.step(&grads, 0.01)?;
        Ok(())
    }
}

pub(crate) fn supernet(python: &Path) -> Result<()> {
    runtime::init(Some(2))?;
    let recipe = Recipe::read(&root().join("recipes/search/searched.toml"), &[])?;
    let (Some(search), StudentSpec::Cells(spec)) = (&recipe.search, &recipe.student) else {
        bail!("recipes/search/searched.toml searches nothing");
    };
    let (batch, rounds) = (search.fit.batch, 5);
    let mut step = SupernetStep::new(&spec.layout, &search.operations, search.partial, batch, &Device::Cpu)?;
    let config = json!({
        "layout": spec.layout, "operations": search.operations, "partial": search.partial, "batch": batch
    });
    let (ratio, ours, theirs, answer) = ratio(
        || runtime::on_pool(|| median_ms(rounds, || Ok(step.step()?))),
        || peer(python, "torch_supernet.py", &["2".into(), rounds.to_string(), config.to_string()]),
    )?;
    let params = answer["params"].as_u64().unwrap_or(0);
    // Ours has a classifier besides.
    let classifier = (spec.layout.features * 10 + 10) as u64;
    ensure!(params + classifier == step.params() as u64, "the two networks differ: {params} and {}", step.params());
    let what = "one supernet step (weights and architecture), over PyTorch";
    let mut row = row(what, ratio, "ratio", "lower", json!(1.5), json!(1.0), "supernet");
    row.peer = answer["peer"].as_str().map(str::to_owned);
    row.note = format!("{ours:.0} ms against {theirs:.0} ms; {params} parameters, batch {batch}, 28x28x1, 2 threads");
    record("search", vec![row])
}

pub(crate) fn encoder(python: &Path) -> Result<()> {
    runtime::init(Some(1))?;
    let bundle = root().join("assets/fashion-mnist");
    let manifest: Value = serde_json::from_str(&fs::read_to_string(bundle.join("bundle.json"))?)?;
    let config: StudentConfig = serde_json::from_value(manifest["student"].clone())?;
    let tensors = checkpoint::load(&bundle.join("encoder.safetensors"), &Device::Cpu)?.tensors;
    let params = Params::frozen(tensors);
    let size = |name: &str| manifest["input"][name].as_u64().unwrap_or(0) as usize;
    let channels = size("channels");
    let student = StudentNet::new(&params.sub("student"), &config, channels)?;
    let image = pixels(&[1, size("height"), size("width"), channels])?;
    let features: Vec<f32> = student.forward(&image, Mode::Eval)?.flatten_all()?.to_vec1()?;
    let rounds = 2000;
    let (ratio, ours, theirs, answer) = ratio(
        || {
            runtime::on_pool(|| {
                median_ms(rounds, || {
                    student.forward(&image, Mode::Eval)?;
                    Ok(())
                })
            })
        },
        || peer(python, "ort_peer.py", &[bundle.display().to_string(), rounds.to_string()]),
    )?;
    let theirs_features: Vec<f32> = serde_json::from_value(answer["features"].clone())?;
    let apart = features.iter().zip(&theirs_features).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    if features.len() != theirs_features.len() || apart > 1e-3 {
        bail!("the two networks differ by {apart}: they are not the same");
    }
    let mut row = row(
        "student encoder, batch 1, one thread, over ONNX Runtime",
        ratio,
        "ratio",
        "lower",
        json!(2.5),
        json!(1.0),
        "encoder",
    );
    row.peer = answer["peer"].as_str().map(str::to_owned);
    row.note = format!("{:.0} us against {:.0} us; features agree within {apart:.1e}", ours * 1e3, theirs * 1e3);
    record(TOPIC, vec![row])
}

/// Runs `semlink demo` with 1,000 images a point from -10 to 20 dB and more arguments: the points of its `sweep.json`, and what it took.
pub(crate) fn swept(more: &[&str]) -> Result<(Vec<Value>, f64)> {
    let out = std::env::temp_dir().join(format!("semlink-bench-{}", std::process::id()));
    let binary = root().join("target/release/semlink");
    ensure!(binary.exists(), "{} is not built: cargo build --release -p semlink", binary.display());
    let arguments = ["demo", "--images", "1000", "--snr", "-10:20:5", "--out"];
    let start = Instant::now();
    let status = Command::new(&binary).args(arguments).arg(&out).args(more).status()?;
    let seconds = start.elapsed().as_secs_f64();
    ensure!(status.success(), "semlink demo failed");
    let mut sweep: Value = serde_json::from_str(&fs::read_to_string(out.join("sweep.json"))?)?;
    fs::remove_dir_all(&out).ok();
    match sweep["points"].take() {
        Value::Array(points) => Ok((points, seconds)),
        _ => anyhow::bail!("sweep.json has no points"),
    }
}

pub(crate) fn demo() -> Result<()> {
    let (points, seconds) = swept(&["--channel", "awgn"])?;
    let rates: Vec<f64> = points.iter().filter_map(|p| p["images_per_second"].as_f64()).collect();
    ensure!(!rates.is_empty(), "sweep.json has no rates");
    let mut time =
        row("semlink demo after the build, 1,000 images x 7 SNRs", seconds, "s", "lower", json!(60), json!(10), "demo");
    time.note = "whole process, AWGN, k = 64".into();
    let rate = median(rates);
    let what = "images per second through all three services on loopback, 2 cores, streamed";
    let mut rate = row(what, rate, "images/s", "higher", json!(1000), json!(4000), "demo");
    rate.note = "median over the sweep's points; client and services share one process and both cores".into();
    record(TOPIC, vec![time, rate])
}

pub(crate) fn evaluate(run: &Path) -> Result<()> {
    let read = |name: &str| -> Result<Value> {
        let path = run.join(name);
        Ok(serde_json::from_str(&fs::read_to_string(&path).with_context(|| path.display().to_string())?)?)
    };
    let report = read("report.json")?;
    let number = |value: &Value| value.as_f64().context("report.json lacks a figure");
    let (teacher, student) = (&report["teacher"], &report["student"]);
    let (top, clean) = (number(&teacher["accuracy"])?, number(&student["accuracy"])?);
    let (teacher_params, params) = (number(&teacher["params"])?, number(&student["params"])?);
    let evaluate = "evaluate";
    let interval = |network: &Value| {
        let percent = |value: &Value| 100.0 * value.as_f64().unwrap_or(f64::NAN);
        format!("95 % interval {:.2} to {:.2} %", percent(&network["ci95"][0]), percent(&network["ci95"][1]))
    };
    let mut rows = vec![
        row("teacher, test accuracy", 100.0 * top, "%", "higher", json!(93.5), json!(95), evaluate),
        row(
            "teacher's parameters over the student's",
            teacher_params / params,
            "ratio",
            "higher",
            json!(25),
            json!(25),
            evaluate,
        ),
        row(
            "student, test accuracy over the teacher's",
            100.0 * clean / top,
            "%",
            "higher",
            json!(97.5),
            json!(99),
            evaluate,
        ),
    ];
    rows[0].note = format!("{teacher_params} parameters, 10,000 images, {}", interval(teacher));
    rows[1].note = format!("{params} parameters in the student, {} MACs", student["macs"]);
    rows[2].note = format!("student {:.2} %, {}", 100.0 * clean, interval(student));
    let points = report["points"].as_array().context("report.json has no points")?;
    let at = |channel: &str, snr_db: f64| {
        let found = points.iter().find(|p| p["channel"] == channel && p["snr_db"] == snr_db && p["k"] == 64);
        found.with_context(|| format!("report.json has no point for k = 64, {channel}, {snr_db} dB"))
    };
    let best = number(&report["clean"])?;
    for (channel, snr_db, must, aim) in
        [("awgn", 10.0, 0.5, 0.2), ("awgn", 0.0, 1.0, 0.3), ("awgn", -10.0, 6.0, 3.0), ("rayleigh", 10.0, 2.0, 0.7)]
    {
        let point = at(channel, snr_db)?;
        let what = format!("k = 64, {channel}, {snr_db} dB: below clean accuracy");
        let accuracy = number(&point["accuracy"])?;
        let mut row = row(&what, 100.0 * (best - accuracy), "points", "lower", json!(must), json!(aim), evaluate);
        let percent = |value: &Value| 100.0 * value.as_f64().unwrap_or(f64::NAN);
        let (low, high) = (percent(&point["ci95"][0]), percent(&point["ci95"][1]));
        row.note = format!(
            "{:.2} % ({low:.2} to {high:.2}), {} frames; clean: {:.2} %, see CONVENTIONS.md",
            100.0 * accuracy,
            point["images"],
            100.0 * best
        );
        rows.push(row);
    }
    let stages = ["teacher", "cache", "search", "distill", "robust", "evaluate"];
    if !run.join("search.done.json").exists() {
        // The student was taken from a bundle: this run does not say what the whole recipe takes.
        return record(TOPIC, rows);
    }
    let seconds = stages
        .iter()
        .map(|stage| number(&read(&format!("{stage}.done.json"))?["seconds"]))
        .collect::<Result<Vec<_>>>()?;
    let hours = seconds.iter().sum::<f64>() / 3600.0;
    // A teacher that is read from a file takes no time worth the name.
    let what = if seconds[0] > 60.0 {
        "the whole recipe from nothing on 2 cores"
    } else {
        "the whole recipe on 2 cores, from the shipped teacher"
    };
    let mut whole = row(what, hours, "h", "lower", json!(3), json!(1), evaluate);
    let each: Vec<_> = stages.iter().zip(&seconds).map(|(stage, s)| format!("{stage} {s:.0} s")).collect();
    whole.note = format!("sum of its stages: {}; other work shared the cores", each.join(", "));
    rows.push(whole);
    record(TOPIC, rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_sorted_times() {
        let mut times: Vec<f64> = (0..=100).rev().map(f64::from).collect();
        assert_eq!((quantile(&mut times, 0.5), quantile(&mut times, 0.99)), (50.0, 99.0));
        assert!(quantile(&mut [], 0.5).is_nan());
    }
}
