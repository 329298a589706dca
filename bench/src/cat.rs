//! The channel codec against the physical limit, its baselines and its ablations.

mod pages;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use semlink_channel::ChannelKind;
use semlink_nn::runtime;
use semlink_trainer::recipe::Recipe;
use semlink_trainer::report::{Point, Report};
use semlink_trainer::{Context, Stage};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::measure::{row, swept};
use crate::results::{Row, record, root};

/// A codec: its name, its recipe in recipes/, and what it is in the picture.
const ARMS: [(&str, &str, &str); 13] = [
    ("cat", "fashion-mnist.toml", "CAT"),
    ("mlp", "cat/mlp.toml", "MLP codec"),
    ("pairs", "fashion-pairs.toml", ""),
    ("pairs-mlp", "cat/pairs-mlp.toml", ""),
    ("uncoded", "cat/uncoded.toml", "features uncoded (PCA)"),
    ("conference", "cat/conference.toml", "conference scheme"),
    ("no-attention", "cat/no-attention.toml", "no attention"),
    ("no-codebook", "cat/no-codebook.toml", "no codebook"),
    ("no-conditioning", "cat/no-conditioning.toml", "no conditioning"),
    ("fixed-k", "cat/fixed-k.toml", "k = 64 only"),
    ("no-stage-2", "cat/no-stage-2.toml", "no stage 2"),
    ("no-stage-1", "cat/no-stage-1.toml", "no stage 1 (deep JSCC)"),
    ("joint", "cat/joint.toml", "student fine-tuned along"),
];

const FILE: &str = "bench/results/cat-arms.json";

/// One trained codec on the test split.
#[derive(Debug, Serialize, Deserialize)]
struct Arm {
    name: String,
    /// Of stage 2.
    seconds: f64,
    clean: f64,
    classes: usize,
    encoder_params: usize,
    decoder_params: usize,
    points: Vec<Small>,
    mismatch: Vec<Small>,
    /// JPEG over an ideal code: channel, SNR, k, accuracy.
    digital: Vec<(ChannelKind, f32, usize, f64)>,
}

/// A [`Point`] in one line.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Small {
    channel: ChannelKind,
    k_factor_db: Option<f32>,
    snr_db: f32,
    k: usize,
    pilots: usize,
    told_snr_db: Option<f32>,
    images: usize,
    accuracy: f64,
    ci95: [f64; 2],
    limit: f64,
    calibration_error: f64,
}

impl Small {
    fn new(p: &Point) -> Self {
        // Enough digits for counts of 100,000 images.
        let short = |value: f64| (1e6 * value).round() / 1e6;
        Self {
            channel: p.channel,
            k_factor_db: p.k_factor_db,
            snr_db: p.snr_db,
            k: p.k,
            pilots: p.pilots,
            told_snr_db: p.told_snr_db,
            images: p.images,
            accuracy: short(p.accuracy),
            ci95: p.ci95.map(short),
            limit: short(p.limit),
            calibration_error: short(p.calibration_error),
        }
    }

    /// Points of a percent below the limit that `clean` leads to instead of this codec's own clean accuracy `own`.
    fn gap_from(&self, own: f64, clean: f64, classes: usize) -> f64 {
        let others = (classes - 1) as f64;
        let p = (self.limit - (1.0 - own) / others) / (own - (1.0 - own) / others);
        100.0 * (clean * p + (1.0 - clean) * (1.0 - p) / others - self.accuracy)
    }

    /// Points of a percent below the limit.
    fn gap(&self) -> f64 {
        100.0 * (self.limit - self.accuracy)
    }

    fn place(&self) -> String {
        let k_factor = self.k_factor_db.map(|db| format!(", K {db} dB")).unwrap_or_default();
        format!("{}{k_factor}, {} dB, k = {}", self.channel, self.snr_db, self.k)
    }
}

pub(crate) fn run(run: &Path, only: Option<&str>) -> Result<()> {
    runtime::init(None)?;
    let mut arms = read()?;
    for (name, recipe, _) in ARMS {
        if only.is_some_and(|only| only != name) || arms.iter().any(|arm| arm.name == name) {
            continue;
        }
        println!("{name}");
        arms.push(runtime::on_pool(|| train(run, name, recipe))?);
        write(&arms)?;
    }
    pages::draw(&arms).map_err(|e| anyhow!("docs/cat-baselines.svg: {e}"))?;
    let picture = run.join("report.svg");
    if picture.exists() {
        fs::copy(picture, root().join("docs/cat.svg"))?;
    }
    pages::tables(&arms)?;
    record("cat", rows(&arms)?)
}

fn read() -> Result<Vec<Arm>> {
    let path = root().join(FILE);
    if !path.exists() {
        return Ok(Vec::new());
    }
    serde_json::from_str(&fs::read_to_string(&path)?).context(FILE)
}

/// A line for each point.
fn write(arms: &[Arm]) -> Result<()> {
    let text =
        serde_json::to_string(arms)?.replace("{\"channel\"", "\n{\"channel\"").replace("{\"name\"", "\n{\"name\"");
    fs::write(root().join(FILE), text + "\n").context(FILE)
}

fn train(run: &Path, name: &str, recipe: &str) -> Result<Arm> {
    let shipped = |file: &str| root().join("assets").join(file).display().to_string();
    let changes = [
        format!("teacher.from={:?}", shipped("teacher/fashion-mnist.safetensors")),
        format!("distill.from={:?}", shipped("fashion-mnist")),
    ];
    let out = if name == "cat" { run.to_owned() } else { root().join("runs/cat").join(name) };
    let with_changes = Recipe::read(&root().join("recipes").join(recipe), &changes)?;
    let plain = Recipe::read(&root().join("recipes").join(recipe), &[])?;
    // The run that shipped the bundle trained its student; all others take that one.
    let recipe = if name == "cat" && Context::new(&plain, None, Some(run))?.seconds(Stage::Robust).is_some() {
        plain
    } else {
        with_changes
    };
    let context = Context::new(&recipe, None, Some(&out))?.resume(true);
    if name != "cat" {
        context.take_from(run)?;
    }
    for stage in [Stage::Teacher, Stage::Cache, Stage::Distill, Stage::Robust, Stage::Evaluate] {
        let taken = matches!(stage, Stage::Teacher | Stage::Cache) && out.join("cache.safetensors").exists();
        if !taken && context.seconds(stage).is_none() {
            context.run(Some(stage))?;
        }
    }
    let report = Report::read(&out.join("report.json"))?;
    Ok(Arm {
        name: name.to_owned(),
        seconds: context.seconds(Stage::Robust).context("stage robust has no record")?,
        clean: report.clean,
        classes: report.classes,
        encoder_params: report.encoder_params,
        decoder_params: report.decoder_params,
        points: report.points.iter().map(Small::new).collect(),
        mismatch: report.mismatch.iter().map(Small::new).collect(),
        digital: report.digital.iter().map(|p| (p.channel, p.snr_db, p.k, p.accuracy)).collect(),
    })
}

/// The point of the largest value, with the value.
fn worst<'a>(points: impl Iterator<Item = &'a Small>, value: impl Fn(&Small) -> f64) -> Option<(f64, &'a Small)> {
    points.map(|p| (value(p), p)).max_by(|a, b| a.0.total_cmp(&b.0))
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (count, sum) = values.fold((0.0, 0.0), |(count, sum), value| (count + 1.0, sum + value));
    sum / f64::max(count, 1.0)
}

fn rows(arms: &[Arm]) -> Result<Vec<Row>> {
    let arm = |name: &str| arms.iter().find(|arm| arm.name == name);
    let mut rows = Vec::new();
    let Some(cat) = arm("cat") else { return Ok(rows) };
    let told = |arm: &'_ Arm| -> Vec<Small> { arm.points.iter().filter(|p| p.pilots == 0).copied().collect() };
    let known = told(cat);
    for (kind, what) in [
        (ChannelKind::Awgn, "AWGN, perfect CSI, every k and SNR: below the limit, the worst"),
        (ChannelKind::Rayleigh, "Rayleigh block, perfect CSI, every k and SNR: below the limit, the worst"),
        (ChannelKind::Rician, "Rician, K = 0, 5, 10 dB, every k and SNR: below the limit, the worst"),
    ] {
        let points: Vec<&Small> = known.iter().filter(|p| p.channel == kind).collect();
        let Some((gap, at)) = worst(points.iter().copied(), Small::gap) else { continue };
        let mut row = row(what, gap, "points", "lower", json!(1.5), json!(0.5), "cat");
        row.note = format!(
            "at {}: {:.2} % ({:.2} to {:.2}), limit {:.2} %; mean gap {:.3}; {} frames each",
            at.place(),
            100.0 * at.accuracy,
            100.0 * at.ci95[0],
            100.0 * at.ci95[1],
            100.0 * at.limit,
            mean(points.iter().map(|p| p.gap())),
            at.images
        );
        rows.push(row);
    }
    if let Some(mlp) = arm("mlp") {
        // One limit for both: that of whichever makes more of the student's features when nothing is lost.
        let clean = cat.clean.max(mlp.clean);
        let gap = |arm: &Arm| mean(told(arm).iter().map(|p| p.gap_from(arm.clean, clean, arm.classes)));
        let (ours, theirs) = (gap(cat), gap(mlp));
        let what = "CAT's mean gap to the limit over the MLP codec's, all channels, SNRs and k";
        let mut row = row(what, ours / theirs, "ratio", "lower", json!(1), json!(0.5), "cat");
        row.note = format!(
            "{ours:.3} against {theirs:.3} points below the limit of clean {:.2} % (CAT {:.2} %, MLP codec {:.2} %); parameters {} + {} against {} + {}",
            100.0 * clean,
            100.0 * cat.clean,
            100.0 * mlp.clean,
            cat.encoder_params,
            cat.decoder_params,
            mlp.encoder_params,
            mlp.decoder_params
        );
        rows.push(row);
    }
    let fall = |arm: &Arm| -> Option<f64> {
        let p = arm
            .points
            .iter()
            .find(|p| p.channel == ChannelKind::Awgn && p.snr_db == -10.0 && p.k == 256 && p.pilots == 0)?;
        Some(100.0 * (arm.clean - p.accuracy))
    };
    let falls = |names: [&str; 2]| {
        let each = names.iter().filter_map(|name| Some(format!("{name} {:.2}", fall(arm(name)?)?)));
        each.collect::<Vec<_>>().join(", ")
    };
    if let Some(value) = fall(cat) {
        let what = "AWGN -10 dB, 256 uses, 10 classes: fall from clean";
        let mut row = row(what, value, "points", "lower", json!(0.5), json!(0.1), "cat");
        row.note = falls(["mlp", "conference"]);
        rows.push(row);
    }
    if let Some(pairs) = arm("pairs") {
        if let Some(value) = fall(pairs) {
            let what = "100 joint classes, AWGN -10 dB, 256 uses: fall from clean";
            let mut row = row(what, value, "points", "lower", json!(1.5), json!(0.3), "cat");
            row.note = format!("clean {:.2} %; {}", 100.0 * pairs.clean, falls(["pairs-mlp", "none"]));
            rows.push(row);
        }
        let long = |arm: &Arm| -> Vec<Small> {
            let wanted = |p: &&Small| p.pilots == 0 && p.k >= 64 && p.channel != ChannelKind::Rician;
            arm.points.iter().filter(wanted).copied().collect()
        };
        let points = long(pairs);
        if let Some((gap, at)) = worst(points.iter(), Small::gap) {
            let what = "100 joint classes, AWGN and Rayleigh, k in 64, 128, 256: worst gap below the limit for M = 100";
            let mut row = row(what, gap, "points", "lower", json!(6), json!(2), "cat");
            row.note = format!("at {}, limit {:.2} %", at.place(), 100.0 * at.limit);
            if let Some(mlp) = arm("pairs-mlp") {
                let points = long(mlp);
                if let Some((gap, at)) = worst(points.iter(), Small::gap) {
                    let _ = write!(row.note, "; MLP codec {gap:.2} at {}", at.place());
                }
            }
            rows.push(row);
        }
    }
    let same = |a: &Small, b: &Small| (a.channel, a.snr_db, a.k) == (b.channel, b.snr_db, b.k);
    let lost: Vec<(f64, Small)> = cat
        .points
        .iter()
        .filter(|p| p.pilots == 8 && p.channel == ChannelKind::Rayleigh && p.snr_db == 10.0)
        .filter_map(|p| Some((100.0 * (known.iter().find(|q| same(p, q))?.accuracy - p.accuracy), *p)))
        .collect();
    if let Some((value, at)) = lost.iter().max_by(|a, b| a.0.total_cmp(&b.0)) {
        let what = "8 pilots instead of perfect CSI, Rayleigh 10 dB: loss, the worst k";
        let mut row = row(what, *value, "points", "lower", json!(2), json!(0.5), "cat");
        row.note = format!("k = {}; {}", at.k, each(&lost));
        rows.push(row);
    }
    let exact = |p: &Small| cat.mismatch.iter().find(|q| same(p, q) && q.told_snr_db == Some(p.snr_db));
    let off: Vec<(f64, Small)> = cat
        .mismatch
        .iter()
        .filter(|p| p.snr_db == 0.0 && p.told_snr_db.is_some_and(|told| told.abs() == 10.0))
        .filter_map(|p| Some((100.0 * (exact(p)?.accuracy - p.accuracy), *p)))
        .collect();
    if let Some((value, at)) = off.iter().max_by(|a, b| a.0.total_cmp(&b.0)) {
        let what = "encoder told an SNR 10 dB off, true SNR 0 dB, k = 64: loss, the worst";
        let mut row = row(what, *value, "points", "lower", json!(2), json!(0.5), "cat");
        row.note = format!("{}, told {} dB", at.channel, at.told_snr_db.unwrap_or(f32::NAN));
        rows.push(row);
    }
    if let Some((value, at)) = worst(known.iter(), |p| 100.0 * p.calibration_error) {
        let what = "expected calibration error, the worst point";
        let mut row = row(what, value, "%", "lower", json!(3), json!(1), "cat");
        row.note = format!("at {}; mean {:.2} %", at.place(), mean(known.iter().map(|p| 100.0 * p.calibration_error)));
        rows.push(row);
    }
    let what = "stage 2 from cached features on 2 cores";
    let mut stage = row(what, cat.seconds / 60.0, "min", "lower", json!(30), json!(5), "cat");
    stage.note = "the student's features of all views included where they were not stored yet".into();
    rows.push(stage);
    for (name, _, what) in ARMS.iter().filter(|(name, _, what)| !what.is_empty() && *name != "cat") {
        let Some(other) = arm(name) else { continue };
        let points = told(other);
        // Only where both were measured.
        let pairs: Vec<(f64, f64)> = points
            .iter()
            .filter_map(|p| {
                let ours = known.iter().find(|q| same(p, q) && p.k_factor_db == q.k_factor_db)?;
                Some((100.0 * (cat.clean - ours.accuracy), 100.0 * (cat.clean - p.accuracy)))
            })
            .collect();
        let (ours, theirs) = (mean(pairs.iter().map(|p| p.0)), mean(pairs.iter().map(|p| p.1)));
        let mut row = row(
            &format!("{what}: mean accuracy below CAT's"),
            theirs - ours,
            "points",
            "lower",
            Value::Null,
            Value::Null,
            "cat",
        );
        row.note = format!("over {} points; clean {:.2} %", pairs.len(), 100.0 * other.clean);
        rows.push(row);
    }
    Ok(rows)
}

/// Live: three services, the transmitter choosing the rate.
pub(crate) fn rate() -> Result<()> {
    let (points, _) = swept(&["--channel", "awgn,rayleigh", "--rate", "auto"])?;
    let mut rows = Vec::new();
    for channel in ["awgn", "rayleigh"] {
        let of: Vec<&Value> = points.iter().filter(|p| p["channel"] == channel).collect();
        let at = of.iter().find(|p| p["snr_db"] == 10.0).context("sweep.json lacks 10 dB")?;
        let k = |p: &Value| p["k"].as_f64().unwrap_or(f64::NAN);
        let what = format!("rate auto, target 0.98, {channel} 10 dB: channel uses saved against k = 256");
        let mut row = row(&what, 100.0 * (1.0 - k(at) / 256.0), "%", "higher", json!(80), json!(95), "rate");
        let each = of.iter().map(|p| {
            format!("{} dB: k = {:.0}, {:.1} %", p["snr_db"], k(p), 100.0 * p["accuracy"].as_f64().unwrap_or(f64::NAN))
        });
        row.note = format!("1,000 images each: {}", each.collect::<Vec<_>>().join("; "));
        rows.push(row);
    }
    record("cat", rows)
}

fn each(found: &[(f64, Small)]) -> String {
    found.iter().map(|(value, p)| format!("k = {}: {value:.2}", p.k)).collect::<Vec<_>>().join(", ")
}
