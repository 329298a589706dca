//! The comparison of searched students with their controls, arm by arm; an arm that is done is never run again.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use plotters::prelude::*;
use plotters::style::FontDesc;
use semlink_codec::Classifier;
use semlink_codec::cells::Genotype;
use semlink_nn::runtime;
use semlink_trainer::recipe::Recipe;
use semlink_trainer::{Context, SearchReport, Stage, Trial};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::measure::row;
use crate::results::{Row, read as read_topic, record, root};

/// One trained student.
#[derive(Debug, Serialize, Deserialize)]
struct Arm {
    /// Family and value, see [`ARMS`].
    name: String,
    params: usize,
    macs: u64,
    /// On the test split.
    accuracy: f64,
    ci95: [f64; 2],
    search_seconds: f64,
    distill_seconds: f64,
    search: Option<SearchReport>,
    genotype: Option<Genotype>,
}

/// A family of students: its name, its recipe in recipes/search, the key that changes from one to the next, and its values.
const ARMS: [(&str, &str, &str, &[u64]); 7] = [
    ("searched", "searched", "search.fit.seed", &[1, 2, 3]),
    ("random", "random", "student.cells.genotype.random", &[1, 2, 3, 4, 5, 6, 7, 8]),
    ("hand-made", "hand-made", "distill.fit.seed", &[1, 2, 3]),
    ("task-only", "task-only", "search.fit.seed", &[1]),
    ("no-penalty", "no-penalty", "search.fit.seed", &[1]),
    ("no-alpha", "no-alpha", "search.fit.seed", &[1, 2, 3]),
    // For the picture of accuracy over cost.
    ("target", "searched", "search.target", &[45_000, 80_000]),
];

const FILE: &str = "bench/results/search-arms.json";

pub(crate) fn run(run: &Path, only: Option<&str>) -> Result<()> {
    runtime::init(None)?;
    prepare(run)?;
    let mut arms = read()?;
    // One of each family first: a comparison that is cut short is then thin but whole.
    for index in 0..8 {
        for (family, recipe, key, values) in ARMS {
            let Some(value) = values.get(index) else { continue };
            let name = format!("{family}-{value}");
            let wanted = only.is_none_or(|only| name.starts_with(only));
            if !wanted || arms.iter().any(|arm| arm.name == name) {
                continue;
            }
            println!("{name}");
            arms.push(runtime::on_pool(|| train(run, recipe, &name, &format!("{key}={value}")))?);
            let text = serde_json::to_string_pretty(&arms)? + "\n";
            fs::write(root().join(FILE), text).context(FILE)?;
        }
    }
    draw(&arms).map_err(|e| anyhow!("docs/pareto.svg: {e}"))?;
    compare(&arms)
}

/// Makes a run with the shipped teacher and its cache, unless there is one.
fn prepare(run: &Path) -> Result<()> {
    let teacher = root().join("assets/teacher/fashion-mnist.safetensors");
    let shipped = format!("teacher.from={:?}", teacher.display().to_string());
    let recipe = Recipe::read(&root().join("recipes/fashion-mnist.toml"), &[shipped])?;
    for (stage, file) in [(Stage::Teacher, "teacher.safetensors"), (Stage::Cache, "cache.safetensors")] {
        if !run.join(file).exists() {
            runtime::on_pool(|| Context::new(&recipe, None, Some(run))?.run(Some(stage)))?;
        }
    }
    Ok(())
}

fn read() -> Result<Vec<Arm>> {
    let path = root().join(FILE);
    if !path.exists() {
        return Ok(Vec::new());
    }
    serde_json::from_str(&fs::read_to_string(&path)?).context(FILE)
}

fn train(run: &Path, recipe: &str, name: &str, change: &str) -> Result<Arm> {
    let recipe = Recipe::read(&root().join(format!("recipes/search/{recipe}.toml")), &[change.to_owned()])?;
    let out = root().join("runs/search").join(name);
    let context = Context::new(&recipe, None, Some(&out))?.resume(true);
    context.take_from(run)?;
    // A stage that was done or begun before is not done again; its time counts.
    let timed = |stage| -> Result<f64> {
        if context.seconds(stage).is_none() {
            context.run(Some(stage))?;
        }
        context.seconds(stage).with_context(|| format!("{name}: no record of stage {}", stage.name()))
    };
    let (search_seconds, distill_seconds) = (timed(Stage::Search)?, timed(Stage::Distill)?);
    let student = context.evaluate_student()?;
    let report = out.join("search.json");
    let search = if report.exists() { Some(serde_json::from_str(&fs::read_to_string(report)?)?) } else { None };
    println!("{name}: {} parameters, test accuracy {:.2} %", student.params, 100.0 * student.accuracy);
    Ok(Arm {
        name: name.to_owned(),
        params: student.params,
        macs: student.macs,
        accuracy: student.accuracy,
        ci95: student.ci95,
        search_seconds,
        distill_seconds,
        search,
        genotype: context.genotype_of_student()?,
    })
}

/// Mean and standard error.
fn mean(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / (n - 1.0).max(1.0);
    (mean, (variance / n).sqrt())
}

fn compare(arms: &[Arm]) -> Result<()> {
    let of = |prefix: &str| -> Vec<&Arm> {
        arms.iter().filter(|arm| arm.name.rsplit_once('-').is_some_and(|(name, _)| name == prefix)).collect()
    };
    let accuracies = |arms: &[&Arm]| -> Vec<f64> { arms.iter().map(|arm| 100.0 * arm.accuracy).collect() };
    let list = |values: &[f64]| values.iter().map(|v| format!("{v:.2}")).collect::<Vec<_>>().join(", ");
    let (searched, random, hand_made) = (of("searched"), of("random"), of("hand-made"));
    let mut rows = Vec::new();
    if searched.is_empty() {
        return Ok(());
    }
    let found = accuracies(&searched);
    let (ours, error) = mean(&found);
    if !random.is_empty() {
        let others = accuracies(&random);
        let (theirs, their_error) = mean(&others);
        let one = error.hypot(their_error);
        let best = others.iter().copied().fold(f64::MIN, f64::max);
        let rounded = |points: f64| json!((1e3 * points).round() / 1e3);
        let (must, aim) = (rounded(one), rounded(best - theirs));
        let what = "searched students above random architectures of the same size, test accuracy";
        let mut row = row(what, ours - theirs, "points", "higher", must, aim, "search");
        row.note = format!(
            "searched {} (mean {ours:.2}, standard error {error:.2}); random {} (mean {theirs:.2}, standard error \
             {their_error:.2}); must: one standard error of the difference, aim: the best of the random ones",
            list(&found),
            list(&others)
        );
        rows.push(row);
    }
    if !hand_made.is_empty() {
        let others = accuracies(&hand_made);
        let theirs = mean(&others).0;
        let what = "searched students above the hand-made residual student of the same size, test accuracy";
        let mut row = row(what, ours - theirs, "points", "higher", json!(0), json!(0.5), "search");
        row.note = format!(
            "hand-made {} (mean {theirs:.2}), {} parameters, {} MACs; searched {} MACs",
            list(&others),
            hand_made[0].params,
            hand_made[0].macs,
            searched.iter().map(|arm| arm.macs.to_string()).collect::<Vec<_>>().join(", ")
        );
        rows.push(row);
    }
    for (control, what) in [
        ("task-only", "searched students above the same search without the distillation loss"),
        ("no-penalty", "searched students above the same search without the penalty"),
        ("no-alpha", "searched students above the best of eight random ones by the same trials, alpha at rest"),
    ] {
        let control = of(control);
        if let Some(first) = control.first() {
            let each = accuracies(&control);
            let (theirs, _) = mean(&each);
            let mut row = row(what, ours - theirs, "points", "higher", Value::Null, Value::Null, "search");
            let costs = control.iter().map(|arm| format!("{} parameters, {} MACs", arm.params, arm.macs));
            row.note = match control.len() {
                1 => format!("control {theirs:.2} %, {} parameters, {} MACs", first.params, first.macs),
                _ => format!("control {} (mean {theirs:.2}); {}", list(&each), costs.collect::<Vec<_>>().join("; ")),
            };
            rows.push(row);
        }
    }
    let link = read_topic("link")?;
    if let Some(top) = link.rows.iter().find(|row| row.what == "teacher, test accuracy").and_then(|row| row.value) {
        let what = "searched students of the comparison (mean), test accuracy over the teacher's";
        let mut over = row(what, 100.0 * ours / top, "%", "higher", Value::Null, Value::Null, "search");
        over.note = format!("teacher {top:.2} %; trained for a quarter as long as the shipped student");
        rows.push(over);
    }
    // The shipped student is the first of the searched, trained to the end.
    if let Some(shipped) = link.rows.iter().find(|row| row.what == "student, test accuracy over the teacher's") {
        let what = "shipped searched student, test accuracy over the teacher's";
        let value = shipped.value.context("the shipped student was not measured")?;
        let mut over = row(what, value, "%", "higher", json!(98), json!(99.5), "evaluate");
        over.note.clone_from(&shipped.note);
        rows.push(over);
    }
    let largest = searched.iter().map(|arm| arm.params).max().unwrap_or(1);
    let what = "teacher's parameters over the largest searched student's";
    let ratio = teacher_params()? as f64 / largest as f64;
    rows.push(row(what, ratio, "ratio", "higher", json!(30), json!(30), "search"));
    let reports: Vec<&SearchReport> = searched.iter().filter_map(|arm| arm.search.as_ref()).collect();
    if !reports.is_empty() {
        let off = reports.iter().map(|r| 100.0 * (r.realised_cost / r.target - 1.0).abs()).fold(0.0, f64::max);
        let what = "realised cost off the target, the worst seed";
        rows.push(row(what, off, "%", "lower", json!(10), json!(3), "search"));
        let longest = searched.iter().map(|arm| arm.search_seconds).fold(0.0, f64::max) / 60.0;
        let what = "search for Fashion-MNIST on 2 cores, the longest";
        rows.push(row(what, longest, "min", "lower", json!(90), json!(30), "search"));
        let gap = mean(&reports.iter().map(|r| r.discretised_loss - r.supernet_loss).collect::<Vec<_>>()).0;
        let what = "validation loss of the discretised network before retraining, above the supernet's";
        let mut row = row(what, gap, "nats", "lower", Value::Null, Value::Null, "search");
        let each = |r: &&SearchReport| format!("{:.3} against {:.3}", r.discretised_loss, r.supernet_loss);
        row.note = reports.iter().map(each).collect::<Vec<_>>().join(", ");
        rows.push(row);
        rows.extend(trials(&reports));
    }
    record("search", rows)
}

/// Parameters of the shipped teacher, its classifier included.
fn teacher_params() -> Result<usize> {
    let recipe = Recipe::read(&root().join("recipes/fashion-mnist.toml"), &[])?;
    let network = recipe.teacher.network.as_ref().context("the shipped recipe trains its teacher")?;
    let channels = recipe.data.mean.len();
    Ok((network.cost(28, 28, channels) + Classifier::cost(network.features, recipe.classes())).params)
}

/// What alpha knows beyond chance: the likeliest network of each search in its trials, against those drawn around it.
fn trials(reports: &[&SearchReport]) -> Option<Row> {
    let tried: Vec<&[Trial]> = reports.iter().map(|r| r.trials.as_slice()).filter(|trials| trials.len() > 1).collect();
    let ahead = |trials: &&[Trial]| mean(&trials[1..].iter().map(|t| t.loss).collect::<Vec<_>>()).0 - trials[0].loss;
    let best = |trials: &&[Trial]| {
        let rank = 1 + trials[1..].iter().filter(|t| t.loss < trials[0].loss).count();
        let losses = trials.iter().map(|t| t.loss);
        let (low, high) = losses.fold((f64::MAX, f64::MIN), |(low, high), loss| (low.min(loss), high.max(loss)));
        format!("place {rank} of {}, losses {low:.3} to {high:.3}", trials.len())
    };
    if tried.is_empty() {
        return None;
    }
    let (gain, _) = mean(&tried.iter().map(ahead).collect::<Vec<_>>());
    let what = "the likeliest network's validation loss in its trial, below the mean of those drawn around it";
    let mut row = row(what, gain, "nats", "higher", Value::Null, Value::Null, "search");
    row.note = tried.iter().map(best).collect::<Vec<_>>().join("; ");
    Some(row)
}

/// `docs/pareto.svg`: test accuracy of every trained student over its parameters and over its multiply-accumulates.
fn draw(arms: &[Arm]) -> std::result::Result<(), Box<dyn std::error::Error>> {
    if arms.is_empty() {
        return Ok(());
    }
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (960, 420)).into_drawing_area();
        root.fill(&WHITE)?;
        let panels = root.split_evenly((1, 2));
        panel(&panels[0], arms, "parameters in thousands", |arm| arm.params as f64 / 1e3)?;
        panel(&panels[1], arms, "multiply-accumulates in millions", |arm| arm.macs as f64 / 1e6)?;
        root.present()?;
    }
    Ok(fs::write(root().join("docs/pareto.svg"), svg)?)
}

fn panel(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    arms: &[Arm],
    cost_name: &str,
    cost: impl Fn(&Arm) -> f64,
) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let range = |values: Vec<f64>| {
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let room = (0.1 * (high - low)).max(0.01 * high.abs());
        low - room..high + room
    };
    let font = |size: u32| FontDesc::from(("sans-serif", size));
    let mut chart = ChartBuilder::on(area).margin(14).x_label_area_size(40).y_label_area_size(56).build_cartesian_2d(
        range(arms.iter().map(&cost).collect()),
        range(arms.iter().map(|arm| 100.0 * arm.accuracy).collect()),
    )?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .label_style(font(12))
        .x_desc(cost_name)
        .y_desc("test accuracy in %")
        .draw()?;
    for (i, (family, ..)) in ARMS.iter().enumerate() {
        let of_family = |arm: &&Arm| arm.name.rsplit_once('-').is_some_and(|(name, _)| name == *family);
        let color = HSLColor(i as f64 / ARMS.len() as f64, 0.75, 0.42);
        let found: Vec<_> = arms.iter().filter(of_family).map(|arm| (cost(arm), 100.0 * arm.accuracy)).collect();
        if found.is_empty() {
            continue;
        }
        let label = if *family == "target" { "searched, other targets" } else { family };
        chart
            .draw_series(found.into_iter().map(|point| Circle::new(point, 5, color.mix(0.8).filled())))?
            .label(label)
            .legend(move |(x, y)| Circle::new((x + 8, y), 5, color.mix(0.8).filled()));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.2))
        .label_font(font(12))
        .draw()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_error_is_that_of_the_mean() {
        // 1, 2, 3: mean 2, sample variance 1, standard error sqrt(1 / 3).
        let (m, e) = mean(&[1.0, 2.0, 3.0]);
        assert!((m - 2.0).abs() < 1e-12 && (e - (1.0f64 / 3.0).sqrt()).abs() < 1e-12);
    }
}
