//! `bench/results/TOPIC.json`: every figure that the project claims.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A topic's file.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) rows: Vec<Row>,
}

/// Where and when a figure was measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) machine: String,
    pub(crate) date: String,
    pub(crate) commit: String,
}

/// One figure.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) what: String,
    /// `null` where it was not measured.
    pub(crate) value: Option<f64>,
    pub(crate) unit: String,
    /// `lower` or `higher`.
    pub(crate) better: String,
    pub(crate) must: Value,
    pub(crate) aim: Value,
    pub(crate) peer: Option<String>,
    pub(crate) command: String,
    pub(crate) note: String,
    /// `null` where it was not measured.
    pub(crate) measured: Option<Measured>,
}

fn path(topic: &str) -> PathBuf {
    root().join("bench/results").join(format!("{topic}.json"))
}

/// The repository.
pub(crate) fn root() -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default();
    // A binary that was carried to another machine runs in a copy of the repository.
    if built.join("bench/results").is_dir() { built } else { std::env::current_dir().unwrap_or(built) }
}

pub(crate) fn read(topic: &str) -> Result<Results> {
    let path = path(topic);
    if !path.exists() {
        return Ok(Results::default());
    }
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

/// Replaces the rows of the same name, appends the others, stamps them with machine, date and commit.
pub(crate) fn record(topic: &str, rows: Vec<Row>) -> Result<()> {
    let mut results = read(topic)?;
    let here = Measured {
        machine: machine(),
        date: output("date", &["+%Y-%m-%d"]),
        commit: output("git", &["rev-parse", "--short", "HEAD"]),
    };
    for mut row in rows {
        row.measured = row.value.map(|_| here.clone());
        let shown = row.value.map_or("not measured".into(), |v| format!("{v:.4}"));
        println!("{}: {shown} {} (must {}, aim {}) {}", row.what, row.unit, row.must, row.aim, row.note);
        match results.rows.iter_mut().find(|old| old.what == row.what) {
            Some(old) => *old = row,
            None => results.rows.push(row),
        }
    }
    write(topic, &results)
}

fn write(topic: &str, results: &Results) -> Result<()> {
    let path = path(topic);
    fs::write(&path, serde_json::to_string_pretty(results)? + "\n").with_context(|| path.display().to_string())
}

/// Appends those rows that the topic lacks, without a measurement.
pub(crate) fn announce(topic: &str, rows: Vec<Row>) -> Result<()> {
    let mut results = read(topic)?;
    let missing: Vec<Row> =
        rows.into_iter().filter(|row| results.rows.iter().all(|old| old.what != row.what)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    results.rows.extend(missing);
    write(topic, &results)
}

fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name.to_owned()));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let wide = if info.contains(" avx512f ") { ", AVX-512" } else { "" };
    let cpu = format!("{cores} cores of {}{wide}, shared", model.unwrap_or_else(|| "an unknown CPU".into()));
    match crate::gpu::name() {
        Some(gpu) => format!("{gpu}; {cpu}"),
        None => cpu,
    }
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).current_dir(root()).output();
    output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default()
}
