//! What a person sees while a stage runs, and what a script reads afterwards.

use std::fs::{File, OpenOptions};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use semlink_report::spark;

use crate::{Error, Result};

/// A bar with rate and remaining time on a terminal, otherwise a line now and then, on standard error.
pub(crate) struct Progress {
    stage: &'static str,
    bar: Option<ProgressBar>,
    total: usize,
    batch: usize,
    first: usize,
    started: Instant,
    last_line: Instant,
    history: History,
}

/// Losses for a plot of a line: every step's at first, then those of fewer and fewer.
#[derive(Default)]
struct History {
    losses: Vec<f64>,
    stride: usize,
    seen: usize,
}

impl History {
    /// Enough for the plot's columns.
    const MOST: usize = 256;
    const COLUMNS: usize = 24;

    fn add(&mut self, loss: f64) {
        if self.seen.is_multiple_of(self.stride.max(1)) && loss.is_finite() {
            self.losses.push(loss);
        }
        self.seen += 1;
        if self.losses.len() >= Self::MOST {
            let mut keep = false;
            self.losses.retain(|_| {
                keep = !keep;
                keep
            });
            self.stride = 2 * self.stride.max(1);
        }
    }

    /// From the lowest loss to the highest.
    fn plot(&self) -> String {
        let low = self.losses.iter().copied().fold(f64::INFINITY, f64::min);
        let high = self.losses.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        spark(&self.losses, low, high, Self::COLUMNS)
    }
}

/// Between lines when standard error is not a terminal.
const LINE_EVERY: Duration = Duration::from_secs(30);

impl Progress {
    /// `first` of `total` steps of `batch` samples are done already.
    pub(crate) fn new(stage: &'static str, total: usize, first: usize, batch: usize) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(total as u64).with_position(first as u64);
            let style = ProgressStyle::with_template("{prefix:>8} {bar:32} {pos}/{len} {per_sec}, {eta} left, {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_prefix(stage);
            bar.reset_eta();
            bar
        });
        Self {
            stage,
            bar,
            total,
            batch,
            first,
            started: Instant::now(),
            last_line: Instant::now(),
            history: History::default(),
        }
    }

    /// Step `done` ended with this (smoothed) loss.
    pub(crate) fn step(&mut self, done: usize, loss: f32) {
        self.history.add(f64::from(loss));
        let history = std::mem::take(&mut self.history);
        self.show(done, || (format!("loss {loss:.4}"), history.plot()));
        self.history = history;
    }

    /// Step `done` of work without a loss ended.
    pub(crate) fn tick(&mut self, done: usize) {
        self.show(done, Default::default);
    }

    /// The message's second part is a plot, for terminals.
    fn show(&mut self, done: usize, message: impl FnOnce() -> (String, String)) {
        if let Some(bar) = &self.bar {
            bar.set_position(done as u64);
            let (message, plot) = message();
            bar.set_message(format!("{message} {plot}"));
        } else if self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            let rate = (done - self.first) as f64 / self.started.elapsed().as_secs_f64().max(1e-9);
            let left = (self.total - done) as f64 / rate.max(1e-9);
            let samples = rate * self.batch as f64;
            let (stage, total, (message, _)) = (self.stage, self.total, message());
            eprintln!("{stage:>8} step {done}/{total}, {samples:.0} images/s, {left:.0} s left {message}");
        }
    }

    /// An epoch ended with these validation figures.
    pub(crate) fn epoch(&self, epoch: usize, epochs: usize, loss: f32, figures: &[(String, f64)]) {
        let figures: Vec<_> = figures.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
        let line =
            format!("{:>8} epoch {epoch}/{epochs}: loss {loss:.4}, validation: {}", self.stage, figures.join(", "));
        match &self.bar {
            Some(bar) => bar.println(line),
            None => eprintln!("{line}"),
        }
    }

    /// Removes the bar.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// The run's file of [`Metrics`].
pub(crate) const METRICS: &str = "metrics.jsonl";

/// Figures as JSON lines, appended.
pub(crate) struct Metrics {
    file: File,
    path: PathBuf,
}

impl Metrics {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        Ok(Self { file: file.map_err(|source| Error::Io { path: path.to_owned(), source })?, path: path.to_owned() })
    }

    /// All lines of a file; one that a kill cut short is left out.
    pub(crate) fn read(path: &Path) -> Result<Vec<serde_json::Value>> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    pub(crate) fn write(&mut self, value: &serde_json::Value) -> Result<()> {
        writeln!(self.file, "{value}").map_err(|source| Error::Io { path: self.path.clone(), source })
    }
}
