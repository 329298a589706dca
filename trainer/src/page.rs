//! A run as a page to hand on: `semlink-trainer report`.

mod curves;
mod findings;

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use semlink_codec::cells::Genotype;
use semlink_codec::{MANIFEST_FILE, Manifest};
use semlink_report::{Axis, Corner};
use semlink_report::{Cell, Chart, Document, Line, Mark, Output, Section, Stroke, Svg, Table, Tone};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::progress::{METRICS, Metrics};
use crate::report::{Network, Report};
use crate::search::{self, SearchReport, Trial, draw, trials};
use crate::stages::{ABOUT_FILE, About, Context, RECIPE_FILE, Record, evaluate};
use crate::{Error, Result, Stage, json};

/// A run's folder as far as it is there.
pub struct Run {
    folder: PathBuf,
    about: Option<About>,
    /// The text of the recipe, and what it says.
    recipe: Option<(String, toml::Table)>,
    /// Stages that are done, with what they took.
    done: Vec<(Stage, f64)>,
    metrics: Vec<serde_json::Value>,
    search: Option<SearchReport>,
    genotype: Option<Genotype>,
    trials: Vec<Trial>,
    report: Option<Report>,
    bundle: Option<Manifest>,
}

/// A run in short, for scripts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Its folder.
    pub run: String,
    /// The recipe's name.
    pub recipe: Option<String>,
    /// Stages that are done.
    pub done: Vec<String>,
    /// Stages that are not.
    pub missing: Vec<String>,
    /// What those that are done took.
    pub seconds: f64,
    /// Trainable scalars of the student.
    pub student_params: Option<usize>,
    /// Test accuracy of the student without a channel.
    pub student_accuracy: Option<f64>,
    /// Test accuracy of the teacher.
    pub teacher_accuracy: Option<f64>,
    /// Of the bundle.
    pub codec_id: Option<String>,
    /// The page.
    pub report: String,
}

impl Run {
    /// Reads what stages have left in a folder.
    ///
    /// # Errors
    /// The folder is no run, or a file of it is damaged.
    pub fn read(folder: &Path) -> Result<Run> {
        let found = |file: &str| Some(folder.join(file)).filter(|path| path.is_file());
        let done = Stage::ALL.into_iter().filter_map(|stage| Some((stage, found(&Context::record(stage))?)));
        let done: Vec<(Stage, f64)> = done
            .map(|(stage, path)| json::read::<Record>(&path).map(|record| (stage, record.seconds)))
            .collect::<Result<_>>()?;
        let recipe = found(RECIPE_FILE).map(|path| recipe(&path)).transpose()?;
        let metrics = found(METRICS).map(|path| Metrics::read(&path)).transpose()?.unwrap_or_default();
        let search: Option<SearchReport> = optional(found(search::REPORT))?;
        let tried: Option<Vec<trials::Done>> = optional(found(trials::FILE))?;
        let tried = tried.unwrap_or_default().into_iter().map(|done| done.trial).collect();
        let run = Run {
            folder: folder.to_owned(),
            about: optional(found(ABOUT_FILE))?,
            recipe,
            done,
            metrics,
            trials: search
                .as_ref()
                .map(|search| search.trials.clone())
                .filter(|trials| !trials.is_empty())
                .unwrap_or(tried),
            search,
            genotype: optional(found(search::FILE))?,
            report: optional(found(evaluate::FILE))?,
            bundle: optional(found(&format!("bundle/{MANIFEST_FILE}")))?,
        };
        // A recipe alone may lie anywhere.
        let anything = !run.done.is_empty() || !run.metrics.is_empty() || run.search.is_some() || run.report.is_some();
        if !anything {
            let what =
                "no run of semlink-trainer: no stage has left anything in it; name a folder such as runs/fashion-mnist";
            return Err(Error::Report { path: folder.to_owned(), what: what.into() });
        }
        Ok(run)
    }

    /// The run in short; `report` is where the page is.
    pub fn summary(&self, report: &Path) -> Summary {
        let names = |stages: Vec<Stage>| stages.into_iter().map(|stage| stage.name().to_owned()).collect();
        Summary {
            run: self.folder.display().to_string(),
            recipe: self.text(&["name"]),
            done: names(self.done.iter().map(|(stage, _)| *stage).collect()),
            missing: names(self.missing()),
            seconds: self.done.iter().map(|(_, seconds)| seconds).sum(),
            student_params: self.report.as_ref().map(|report| report.student.params),
            student_accuracy: self.report.as_ref().map(|report| report.student.accuracy),
            teacher_accuracy: self.report.as_ref().map(|report| report.teacher.accuracy),
            codec_id: self.bundle.as_ref().map(|bundle| bundle.codec_id.clone()),
            report: report.display().to_string(),
        }
    }

    /// Writes the page.
    ///
    /// # Errors
    /// A picture cannot be drawn, or the file cannot be kept.
    pub fn write(&self, output: Output) -> Result<()> {
        Ok(output.write(&self.document()?.html())?)
    }

    fn document(&self) -> Result<Document> {
        let name = self.text(&["name"]).or_else(|| self.report.as_ref().map(|report| report.dataset.clone()));
        let name = name.unwrap_or_else(|| self.folder.display().to_string());
        let lead = "A semantic codec: what it was trained from, how the training went and what it reaches over noisy channels.";
        let now = humantime::format_rfc3339_seconds(SystemTime::now());
        let maker = format!("Made by semlink-trainer {} on {now}.", env!("CARGO_PKG_VERSION"));
        let mut document = Document::new(format!("Training run {name}"), lead, maker);
        document.push(self.what_was_run());
        if let Some(report) = &self.report {
            let labels = self.labels();
            document.push(findings::accuracy(report)?);
            document.push(findings::samples(report, &labels));
            document.push(findings::confusion(report, &labels));
            document.push(findings::calibration(report)?);
        }
        document.push(self.searched()?);
        document.push(curves::section(&self.metrics)?);
        if let Some((text, _)) = &self.recipe {
            let mut section = Section::new("Recipe");
            section.text("Whole: with what it is based on and what was changed on the command line. It runs as it is.");
            section.verbatim(text);
            document.push(section);
        }
        Ok(document)
    }

    fn missing(&self) -> Vec<Stage> {
        let searches = self.recipe.as_ref().is_none_or(|(_, table)| table.contains_key("search"));
        let is_missing =
            |stage: &Stage| self.done.iter().all(|(done, _)| done != stage) && (searches || *stage != Stage::Search);
        Stage::ALL.into_iter().filter(is_missing).collect()
    }

    fn what_was_run(&self) -> Section {
        let mut section = Section::new("What was run");
        let mut facts = vec![("folder".to_owned(), self.folder.display().to_string())];
        let mut fact = |name: &str, value: Option<String>| facts.extend(value.map(|value| (name.to_owned(), value)));
        fact("recipe", self.text(&["name"]));
        if let Some(About { version, date, device, threads, processes, .. }) = &self.about {
            fact("version", Some(format!("semlink-trainer {version}")));
            fact("last start", Some(format!("{date}, on {device} with {threads} CPUs, processes: {processes}")));
        }
        let data = self.about.as_ref().map(|about| about.data.clone()).or_else(|| self.text(&["data", "dir"]));
        let told = |data: String| {
            let format = self.text(&["data", "format"]).unwrap_or_else(|| "idx".to_owned());
            let validation = self.text(&["data", "validation"]).unwrap_or_default();
            format!("{data} ({format}), {validation} images for validation")
        };
        fact("data", data.map(told));
        fact("seeds", self.recipe.as_ref().map(|(_, table)| seeds(table)));
        fact("classes", Some(self.labels().join(", ")).filter(|labels| !labels.is_empty()));
        if let Some(bundle) = &self.bundle {
            fact("bundle", Some(format!("{}, made {}", bundle.codec_id, bundle.created)));
            fact("data hash", Some(bundle.provenance.data_hash.clone()));
            fact("teacher", Some(bundle.provenance.teacher.clone()));
        }
        section.facts(facts);
        let missing: Vec<&str> = self.missing().into_iter().map(Stage::name).collect();
        if !missing.is_empty() {
            section
                .note(&format!("Not done here: {}. What they would tell is not in this report.", missing.join(", ")));
        }
        if !self.done.is_empty() {
            let mut table = Table::new("Stages that are done", ["stage", "seconds"]);
            for (stage, seconds) in &self.done {
                table.row([Cell::text(stage.name()), Cell::Number(format!("{seconds:.1}"))]);
            }
            section.table(&table);
        }
        if let Some(report) = &self.report {
            section.table(&networks(report));
        }
        section
    }

    fn searched(&self) -> Result<Section> {
        let mut section = Section::new("The searched student");
        if let Some(genotype) = &self.genotype {
            let svg = Svg::light(draw::genotype(genotype), "The student's cells");
            let caption =
                "The student's cells: states as boxes from left to right, edges as arrows with their operations.";
            section.figure(&svg, caption);
            let mut table = Table::new("The same as a list", ["cell", "node", "from", "operation"]);
            for (name, cell) in [("normal", &genotype.normal), ("reduction", &genotype.reduction)] {
                for (node, edge) in
                    cell.iter().enumerate().flat_map(|(node, edges)| edges.iter().map(move |edge| (node, edge)))
                {
                    let from = match edge.from {
                        0 => "cell - 2".to_owned(),
                        1 => "cell - 1".to_owned(),
                        state => format!("node {}", state - 2),
                    };
                    table.row(
                        [name.to_owned(), format!("node {node}"), from, edge.op.name().to_owned()].map(Cell::Text),
                    );
                }
            }
            section.table(&table);
        }
        if !self.trials.is_empty() {
            section.figure(&pareto(&self.trials, self.genotype.as_ref()).svg()?, "Networks that were trained for a short time to decide between them. The line joins those that no other beats in both.");
            let mut table =
                Table::new("Trials, the likeliest first", ["trial", "multiply-accumulates", "accuracy", "loss", ""]);
            for (i, trial) in self.trials.iter().enumerate() {
                let taken = if Some(&trial.genotype) == self.genotype.as_ref() { "taken" } else { "" };
                let loss = Cell::Number(format!("{:.4}", trial.loss));
                table.row([
                    Cell::text((i + 1).to_string()),
                    Cell::number(Some(trial.macs)),
                    Cell::percent(trial.accuracy),
                    loss,
                    Cell::text(taken),
                ]);
            }
            section.table(&table);
        }
        if let Some(found) = &self.search {
            section.facts([
                ("target", format!("{:.0}", found.target)),
                ("expected cost", format!("{:.0}", found.expected_cost)),
                ("realised cost", format!("{:.0}", found.realised_cost)),
                ("loss of the mixed network", format!("{:.4}", found.supernet_loss)),
                ("of the discretised one, before training", format!("{:.4}", found.discretised_loss)),
                ("entropy of the operations", format!("{:.3}", found.entropy)),
                ("share of skips and pools", format!("{:.1} %", 100.0 * found.free_share)),
            ]);
        }
        let searched = |line: &serde_json::Value| line["stage"] == "search" && line["validation"].is_object();
        if self.metrics.iter().any(searched) {
            section.figure(
                &draw::history(&self.metrics).svg()?,
                "The search on its way: expected cost and distillation loss on the validation split.",
            );
        }
        Ok(section)
    }

    fn labels(&self) -> Vec<String> {
        if let Some(bundle) = &self.bundle {
            return bundle.labels.clone();
        }
        let labels = self.recipe.as_ref().and_then(|(_, table)| table.get("data")?.get("labels")?.as_array());
        labels
            .map(|labels| labels.iter().filter_map(|label| label.as_str().map(str::to_owned)).collect())
            .unwrap_or_default()
    }

    /// What the recipe says at a path.
    fn text(&self, path: &[&str]) -> Option<String> {
        let (_, table) = self.recipe.as_ref()?;
        let (first, rest) = path.split_first()?;
        let value = rest.iter().try_fold(table.get(*first)?, |value, name| value.get(*name))?;
        Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    }
}

/// A file that need not be there.
fn optional<T: DeserializeOwned>(path: Option<PathBuf>) -> Result<Option<T>> {
    path.map(|path| json::read(&path)).transpose()
}

fn recipe(path: &Path) -> Result<(String, toml::Table)> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    let table = text.parse().map_err(|e: toml::de::Error| Error::Report {
        path: path.to_owned(),
        what: e.to_string().trim().replace('\n', " "),
    })?;
    Ok((text, table))
}

/// Every key that is called seed, with its section.
fn seeds(table: &toml::Table) -> String {
    fn find(table: &toml::Table, path: &str, found: &mut Vec<String>) {
        for (name, value) in table {
            match value {
                toml::Value::Table(inner) => find(inner, &format!("{path}{name}."), found),
                toml::Value::Integer(seed) if name == "seed" => found.push(format!("{path}seed = {seed}")),
                _ => {}
            }
        }
    }
    let mut found = Vec::new();
    find(table, "", &mut found);
    found.join(", ")
}

fn networks(report: &Report) -> Table {
    let mut table = Table::new(
        format!("Networks, judged on {} test images", report.student.images),
        ["network", "parameters", "multiply-accumulates", "accuracy", "95 % interval"],
    );
    let whole = |name: &str, network: &Network| {
        let [low, high] = network.ci95;
        let interval = Cell::Number(format!("{:.2} to {:.2}", 100.0 * low, 100.0 * high));
        [
            Cell::text(name),
            Cell::number(Some(network.params)),
            Cell::number(Some(network.macs)),
            Cell::percent(network.accuracy),
            interval,
        ]
    };
    let half = |name: &str, params: usize, macs: u64| {
        let none = || Cell::number(None::<u8>);
        [Cell::text(name), Cell::number(Some(params)), Cell::number(Some(macs)), none(), none()]
    };
    table.row(whole("teacher", &report.teacher));
    table.row(whole("student, without a channel", &report.student));
    table.row(half("channel encoder", report.encoder_params, report.encoder_macs));
    table.row(half("channel decoder", report.decoder_params, report.decoder_macs));
    table
}

fn pareto(trials: &[Trial], taken: Option<&Genotype>) -> Chart {
    let at = |trial: &Trial| (trial.macs as f64, 100.0 * trial.accuracy);
    let (x, y) = (Axis::fitted("multiply-accumulates of an image"), Axis::fitted("validation accuracy in %"));
    let mut chart = Chart::new("Trials of the search", x, y).legend(Corner::LowerRight);
    let mut sorted: Vec<(f64, f64)> = trials.iter().map(at).collect();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.total_cmp(&a.1)));
    let mut best = f64::NEG_INFINITY;
    let front: Vec<(f64, f64)> = sorted
        .into_iter()
        .filter(|(_, y)| {
            let better = *y > best;
            best = best.max(*y);
            better
        })
        .collect();
    chart.push(Line::new("Pareto front", Tone::Grey, front).stroke(Stroke::Dashed));
    chart.push(Line::new("trial", Tone::Blue, trials.iter().map(at)).stroke(Stroke::None).mark(Mark::Circle));
    let taken = trials.iter().filter(|trial| Some(&trial.genotype) == taken).map(at);
    chart.push(Line::new("taken", Tone::Orange, taken).stroke(Stroke::None).mark(Mark::Ring));
    chart
}

#[cfg(test)]
mod tests;
