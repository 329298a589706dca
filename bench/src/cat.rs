//! The channel codec against the physical limit, its baselines and its ablations.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use plotters::prelude::*;
use plotters::style::FontDesc;
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
    draw(&arms).map_err(|e| anyhow!("docs/cat-baselines.svg: {e}"))?;
    let picture = run.join("report.svg");
    if picture.exists() {
        fs::copy(picture, root().join("docs/cat.svg"))?;
    }
    tables(&arms)?;
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

/// `docs/CAT-TABLES.md`: every point of CAT and of the pairs, and the arms side by side at k = 64.
fn tables(arms: &[Arm]) -> Result<()> {
    let mut page = String::from(
        "# Accuracy against SNR, for every k\n\nWritten by `cargo run --release -p semlink-bench -- cat` from \
         `bench/results/cat-arms.json`, which has the intervals. Accuracy in %, in brackets the points that the limit lies above it; \
         Fashion-MNIST test split, 10,000 images, each sent over ten draws of a fading channel (ablations, and baselines but the MLP codec: two).\n",
    );
    for (name, heading) in
        [("cat", "CAT, 10 classes"), ("pairs", "Two images to a frame, 100 joint classes"), ("mlp", "The MLP codec")]
    {
        let Some(arm) = arms.iter().find(|arm| arm.name == name) else { continue };
        let mut rates: Vec<usize> = arm.points.iter().map(|p| p.k).collect();
        rates.sort_unstable();
        rates.dedup();
        let columns: String = rates.iter().map(|k| format!(" k = {k} |")).collect();
        writeln!(page, "\n## {heading}\n\nClean {:.2} %.\n\n| channel | dB |{columns}", 100.0 * arm.clean)?;
        writeln!(page, "|---|---|{}", "---|".repeat(rates.len()))?;
        let key = |p: &Small| (p.channel, p.snr_db.to_bits(), p.k_factor_db.map(f32::to_bits), p.pilots);
        for row in arm.points.chunk_by(|a, b| key(a) == key(b)) {
            let mut channel = row[0].channel.to_string();
            if let Some(db) = row[0].k_factor_db {
                write!(channel, ", K {db} dB")?;
            }
            if row[0].pilots > 0 {
                write!(channel, ", {} pilots", row[0].pilots)?;
            }
            write!(page, "| {channel} | {} |", row[0].snr_db)?;
            row.iter().try_for_each(|p| write!(page, " {:.2} ({:.2}) |", 100.0 * p.accuracy, p.gap()))?;
            writeln!(page)?;
        }
        if let Some(first) = arm.mismatch.first() {
            let rows: Vec<&[Small]> =
                arm.mismatch.chunk_by(|a, b| (a.channel, a.snr_db) == (b.channel, b.snr_db)).collect();
            let told = |p: &Small| p.told_snr_db.map_or("nothing".into(), |db| format!("{db} dB"));
            let columns: String = rows[0].iter().map(|p| format!(" told {} |", told(p))).collect();
            writeln!(
                page,
                "\nThe encoder told another SNR than there is, k = {}:\n\n| channel | dB |{columns}",
                first.k
            )?;
            writeln!(page, "|---|---|{}", "---|".repeat(rows[0].len()))?;
            for row in rows {
                write!(page, "| {} | {} |", row[0].channel, row[0].snr_db)?;
                row.iter().try_for_each(|p| write!(page, " {:.2} |", 100.0 * p.accuracy))?;
                writeln!(page)?;
            }
        }
    }
    writeln!(page, "\n## Baselines and ablations, k = 64 (conference scheme: k = 256)\n")?;
    let snrs = [-10.0f32, -5.0, 0.0, 5.0, 10.0, 20.0];
    let columns: String =
        ["AWGN", "Rayleigh"].iter().flat_map(|kind| snrs.map(|db| format!(" {kind} {db} dB |"))).collect();
    writeln!(page, "| codec | clean |{columns}\n|---|---|{}", "---|".repeat(2 * snrs.len()))?;
    let line =
        |page: &mut String, what: &str, clean: f64, at: &dyn Fn(ChannelKind, f32) -> Option<f64>| -> Result<()> {
            let clean = if clean.is_nan() { "-".to_owned() } else { format!("{:.2}", 100.0 * clean) };
            write!(page, "| {what} | {clean} |")?;
            for kind in [ChannelKind::Awgn, ChannelKind::Rayleigh] {
                for db in snrs {
                    let value = at(kind, db).map_or("-".into(), |v| format!("{:.2}", 100.0 * v));
                    write!(page, " {value} |")?;
                }
            }
            Ok(writeln!(page)?)
        };
    for (name, _, what) in ARMS.iter().filter(|(_, _, what)| !what.is_empty()) {
        let Some(arm) = arms.iter().find(|arm| arm.name == *name) else { continue };
        let k = if *name == "conference" { 256 } else { 64 };
        let at = |kind: ChannelKind, db: f32| {
            arm.points.iter().find(|p| p.channel == kind && p.snr_db == db && p.k == k && p.pilots == 0)
        };
        if *name == "cat" {
            line(&mut page, "the label at the transmitter (the limit)", arm.clean, &|kind, db| {
                Some(at(kind, db)?.limit)
            })?;
        }
        line(&mut page, what, arm.clean, &|kind, db| Some(at(kind, db)?.accuracy))?;
        if !arm.digital.is_empty() {
            let at = |kind: ChannelKind, db: f32| {
                arm.digital.iter().find(|p| p.0 == kind && p.1 == db && p.2 == k).map(|p| p.3)
            };
            line(&mut page, "JPEG over an ideal code, the teacher decides", f64::NAN, &at)?;
        }
    }
    fs::write(root().join("docs/CAT-TABLES.md"), page).context("docs/CAT-TABLES.md")
}

/// `docs/cat-baselines.svg`: accuracy over SNR of all codecs at k = 64.
fn draw(arms: &[Arm]) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let Some(cat) = arms.iter().find(|arm| arm.name == "cat") else { return Ok(()) };
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (1080, 460)).into_drawing_area();
        root.fill(&WHITE)?;
        for (kind, area) in [ChannelKind::Awgn, ChannelKind::Rayleigh].into_iter().zip(root.split_evenly((1, 2))) {
            let font = |size: u32| FontDesc::from(("sans-serif", size));
            let mut chart = ChartBuilder::on(&area)
                .caption(format!("{kind}, k = 64"), font(18))
                .margin(12)
                .x_label_area_size(36)
                .y_label_area_size(44)
                .build_cartesian_2d(-10f32..20f32, 10f64..100f64)?;
            chart
                .configure_mesh()
                .light_line_style(TRANSPARENT)
                .bold_line_style(BLACK.mix(0.12))
                .label_style(font(12))
                .x_desc("Es/N0 in dB")
                .y_desc("accuracy in %")
                .draw()?;
            let of = |arm: &Arm, k: usize, value: fn(&Small) -> f64| -> Vec<(f32, f64)> {
                let wanted = |p: &&Small| p.channel == kind && p.k == k && p.pilots == 0;
                arm.points.iter().filter(wanted).map(|p| (p.snr_db, 100.0 * value(p))).collect()
            };
            chart
                .draw_series(DashedLineSeries::new(of(cat, 64, |p| p.limit), 5, 4, BLACK.stroke_width(1)))?
                .label("limit")
                .legend(|(x, y)| PathElement::new([(x, y), (x + 16, y)], BLACK.stroke_width(1)));
            let named: Vec<_> = ARMS.iter().filter(|(_, _, what)| !what.is_empty()).collect();
            for (i, (name, _, what)) in named.iter().enumerate() {
                let Some(arm) = arms.iter().find(|arm| arm.name == *name) else { continue };
                // The conference scheme has one length only.
                let k = if arm.points.iter().any(|p| p.k == 64) {
                    64
                } else {
                    arm.points.iter().map(|p| p.k).max().unwrap_or(64)
                };
                let line = of(arm, k, |p| p.accuracy);
                let what = if k == 64 { (*what).to_owned() } else { format!("{what} (k = {k})") };
                let color = HSLColor(i as f64 / named.len() as f64, 0.75, 0.42);
                let width = if *name == "cat" { 3 } else { 1 };
                chart
                    .draw_series(LineSeries::new(line, color.stroke_width(width)).point_size(2))?
                    .label(what)
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(width)));
            }
            let digital = arms.iter().flat_map(|arm| &arm.digital).filter(|p| p.0 == kind && p.2 == 64);
            let digital: Vec<(f32, f64)> = digital.map(|p| (p.1, 100.0 * p.3)).collect();
            chart
                .draw_series(LineSeries::new(digital, BLACK.mix(0.5).stroke_width(1)).point_size(2))?
                .label("JPEG over an ideal code")
                .legend(|(x, y)| PathElement::new([(x, y), (x + 16, y)], BLACK.mix(0.5).stroke_width(1)));
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::LowerRight)
                .background_style(WHITE.mix(0.8))
                .border_style(BLACK.mix(0.2))
                .label_font(font(11))
                .draw()?;
        }
        root.present()?;
    }
    Ok(fs::write(root().join("docs/cat-baselines.svg"), svg)?)
}
