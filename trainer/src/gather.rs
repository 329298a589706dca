//! Results of many runs side by side: what the searches of a sweep found.

use std::fs;
use std::path::Path;

use semlink_codec::cells::Genotype;
use serde::{Deserialize, Serialize};

use crate::report::Report;
use crate::search::{self, SearchReport};
use crate::{Error, Result, json};

/// The file that [`gather`] writes beside the runs.
pub const FILE: &str = "runs.json";
/// What stage `evaluate` writes.
const REPORT: &str = "report.json";

/// One run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gathered {
    /// Its folder's name.
    pub run: String,
    /// What the penalty aimed at, in units of the recipe's cost; absent for a run that searched nothing.
    pub target: Option<f64>,
    /// Cost of the genotype that was found.
    pub cost: Option<f64>,
    /// Distillation loss of the discretised network before retraining.
    pub discretised_loss: Option<f64>,
    /// The genotype.
    pub genotype: Option<Genotype>,
    /// Trainable scalars of the student; absent before stage evaluate.
    pub params: Option<usize>,
    /// Test accuracy of the student without a channel.
    pub accuracy: Option<f64>,
    /// Mean over the operating points of limit minus accuracy.
    pub gap: Option<f64>,
}

/// Reads every run below `folder`, in the order of their names, and writes [`FILE`] there. Runs that are not done are there with what they have.
///
/// # Errors
/// The folder cannot be read or written, holds no run, or a file of one is damaged.
pub fn gather(folder: &Path) -> Result<Vec<Gathered>> {
    let io = |source| Error::Io { path: folder.to_owned(), source };
    let mut runs = Vec::new();
    for entry in fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let is_run = path.join(search::REPORT).exists() || path.join(REPORT).exists();
        if is_run {
            runs.push(one(&path)?);
        }
    }
    if runs.is_empty() {
        let what = format!("no run below it has {} or {REPORT}", search::REPORT);
        return Err(Error::Report { path: folder.to_owned(), what });
    }
    runs.sort_by(|a: &Gathered, b| a.run.cmp(&b.run));
    json::write(&folder.join(FILE), &runs)?;
    Ok(runs)
}

fn one(run: &Path) -> Result<Gathered> {
    let path = |file: &str| Some(run.join(file)).filter(|path| path.exists());
    let found: Option<SearchReport> = path(search::REPORT).map(|path| json::read(&path)).transpose()?;
    let report: Option<Report> = path(REPORT).map(|path| json::read(&path)).transpose()?;
    let gap = |report: &Report| {
        let gaps = report.points.iter().map(|point| point.limit - point.accuracy);
        gaps.sum::<f64>() / report.points.len().max(1) as f64
    };
    Ok(Gathered {
        run: run.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        target: found.as_ref().map(|found| found.target),
        cost: found.as_ref().map(|found| found.realised_cost),
        discretised_loss: found.as_ref().map(|found| found.discretised_loss),
        genotype: path(search::FILE).map(|path| json::read(&path)).transpose()?,
        params: report.as_ref().map(|report| report.student.params),
        accuracy: report.as_ref().map(|report| report.student.accuracy),
        gap: report.as_ref().map(gap),
    })
}

/// The runs as a table for people.
#[must_use]
pub fn table(runs: &[Gathered]) -> String {
    let width = runs.iter().map(|run| run.run.len()).max().unwrap_or(0).max(3);
    let number =
        |value: Option<f64>, digits: usize| value.map_or_else(|| "-".into(), |value| format!("{value:.digits$}"));
    let mut text = format!(
        "{:width$} {:>9} {:>9} {:>8} {:>9} {:>10} {:>8}\n",
        "run", "target", "cost", "loss", "params", "accuracy %", "gap %"
    );
    for run in runs {
        text += &format!(
            "{:width$} {:>9} {:>9} {:>8} {:>9} {:>10} {:>8}\n",
            run.run,
            number(run.target, 0),
            number(run.cost, 0),
            number(run.discretised_loss, 4),
            run.params.map_or_else(|| "-".into(), |params| params.to_string()),
            number(run.accuracy.map(|a| 100.0 * a), 2),
            number(run.gap.map(|g| 100.0 * g), 2),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_gathered_in_order_and_unfinished_ones_show_what_they_have() {
        let dir = tempfile::tempdir().unwrap();
        assert!(gather(dir.path()).unwrap_err().to_string().contains("no run"));
        for (name, cost) in [("seed-1", 640.0), ("seed-0", 655.0)] {
            fs::create_dir(dir.path().join(name)).unwrap();
            let report = serde_json::json!({
                "target": 650.0, "expected_cost": 651.0, "realised_cost": cost, "supernet_loss": 0.2,
                "discretised_loss": 0.3, "entropy": 0.5, "free_share": 0.25
            });
            fs::write(dir.path().join(name).join("search.json"), report.to_string()).unwrap();
        }
        fs::create_dir(dir.path().join("not-a-run")).unwrap();
        let runs = gather(dir.path()).unwrap();
        assert_eq!(
            runs.iter().map(|run| (run.run.as_str(), run.cost)).collect::<Vec<_>>(),
            [("seed-0", Some(655.0)), ("seed-1", Some(640.0))]
        );
        assert_eq!(json::read::<Vec<Gathered>>(&dir.path().join(FILE)).unwrap(), runs);
        let table = table(&runs);
        assert_eq!(table.lines().count(), 3);
        assert!(table.contains("655") && table.lines().nth(1).unwrap().ends_with('-'), "{table}");
        fs::write(dir.path().join("seed-0/search.json"), "{").unwrap();
        assert!(gather(dir.path()).unwrap_err().to_string().contains("search.json"));
    }
}
