//! What a person sees while a stage runs, and what a script reads afterwards.

use std::fs::{File, OpenOptions};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

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
        Self { stage, bar, total, batch, first, started: Instant::now(), last_line: Instant::now() }
    }

    /// Step `done` ended with this (smoothed) loss.
    pub(crate) fn step(&mut self, done: usize, loss: f32) {
        self.show(done, || format!("loss {loss:.4}"));
    }

    /// Step `done` of work without a loss ended.
    pub(crate) fn tick(&mut self, done: usize) {
        self.show(done, String::new);
    }

    fn show(&mut self, done: usize, message: impl FnOnce() -> String) {
        if let Some(bar) = &self.bar {
            bar.set_position(done as u64);
            bar.set_message(message());
        } else if self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            let rate = (done - self.first) as f64 / self.started.elapsed().as_secs_f64().max(1e-9);
            let left = (self.total - done) as f64 / rate.max(1e-9);
            let samples = rate * self.batch as f64;
            let (stage, total, message) = (self.stage, self.total, message());
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
