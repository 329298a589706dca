//! What the runs of `fuzz/run.sh` left.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::json;

use super::command;
use crate::measure::row;
use crate::results::{Row, root};

/// Of `fuzz/run.sh`, a line for each run.
const RUNS: &str = "target/fuzz-runs/results.jsonl";

/// A run of one target.
#[derive(Debug, Deserialize)]
struct Run {
    target: String,
    executions: u64,
    seconds: u64,
    crashes: u64,
    /// Edges reached.
    coverage: u64,
}

pub(super) fn fuzz() -> Result<Vec<Row>> {
    let path = root().join(RUNS);
    let text = fs::read_to_string(&path).with_context(|| format!("{}: run fuzz/run.sh", path.display()))?;
    rows(&text).with_context(|| path.display().to_string())
}

/// A row for each target, of its last run.
fn rows(lines: &str) -> Result<Vec<Row>> {
    let mut last = BTreeMap::new();
    for line in lines.lines() {
        let run: Run = serde_json::from_str(line).with_context(|| line.to_owned())?;
        last.insert(run.target.clone(), run);
    }
    ensure!(!last.is_empty(), "no runs");
    let rows = last.into_values().map(|Run { target, executions, seconds, crashes, coverage }| {
        // Nothing can be said of a target that crashed.
        let value = if crashes == 0 { executions as f64 } else { 0.0 };
        let what = format!("fuzzing, {target}: executions without a crash");
        let mut row = row(&what, value, "executions", "higher", json!(1_000_000), json!(10_000_000), &command("fuzz"));
        row.command = format!("fuzz/run.sh -n {executions} {target}; {}", row.command);
        row.note = format!("{seconds} s, {coverage} edges reached, {crashes} inputs that fail");
        row
    });
    Ok(rows.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_run_of_a_target_counts_and_a_crash_spoils_it() {
        let line = |target, executions, crashes| {
            format!(
                r#"{{"target": "{target}", "executions": {executions}, "seconds": 9, "crashes": {crashes}, "coverage": 5}}"#
            )
        };
        let lines = [line("frame", 7, 1), line("bundle", 8, 0), line("frame", 9, 0), line("image", 10, 2)].join("\n");
        let rows = rows(&lines).expect("rows");
        let values: Vec<_> = rows.iter().map(|row| row.value).collect();
        assert_eq!(values, [Some(8.0), Some(9.0), Some(0.0)]);
        assert!(super::rows("").is_err());
    }
}
