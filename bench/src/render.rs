//! `docs/RESULTS.md` from `bench/results/`.

use std::fmt::Write as _;
use std::fs;

use anyhow::Result;
use serde_json::Value;

use crate::results::{Measured, Row, read, root};

/// Topics, in order, with their headings.
const TOPICS: [(&str, &str); 8] = [
    ("link", "The link works end to end"),
    ("search", "KDL-DARTS"),
    ("cat", "CAT at the physical limit ([all points](CAT-TABLES.md))"),
    ("emulator", "The channel emulator"),
    ("production", "Services one would run for real"),
    ("deploy", "Containers ([how](DEPLOY.md))"),
    ("dashboard", "The dashboard, in a real browser"),
    ("gpu", "Training on a GPU ([how](GPU.md))"),
];

const INTRODUCTION: &str = "# Results

Written by `cargo run --release -p semlink-bench -- render` from `bench/results/`; each row by the command that it names.
What was tried where a figure misses its mark stands in [EXPERIMENTS.md](EXPERIMENTS.md).
";

pub(crate) fn render() -> Result<()> {
    let mut page = INTRODUCTION.to_owned();
    for (topic, heading) in TOPICS {
        let results = read(topic)?;
        if results.rows.is_empty() {
            continue;
        }
        writeln!(page, "\n## {heading}\n")?;
        let occasions = occasions(&results.rows);
        for (letter, Measured { machine, date, commit }) in ('a'..).zip(&occasions) {
            let letter = if occasions.len() > 1 { format!("- ({letter}) ") } else { String::new() };
            writeln!(page, "{letter}{machine}; {date}; commit {commit}.")?;
        }
        writeln!(page, "\n| what | measured | must | aim | reached | note |\n|---|---|---|---|---|---|")?;
        for row in &results.rows {
            let (must, aim) = (shown(&row.must), shown(&row.aim));
            let measured = row.value.map_or("not measured".into(), |value| format!("{} {}", figure(value), row.unit));
            let occasion = row.measured.as_ref().and_then(|at| occasions.iter().position(|known| known == at));
            let measured = match ('a'..).nth(occasion.unwrap_or(0)) {
                Some(letter) if occasion.is_some() && occasions.len() > 1 => format!("{measured} ({letter})"),
                _ => measured,
            };
            let peer = row.peer.as_ref().map(|peer| format!(" ({peer})")).unwrap_or_default();
            writeln!(page, "| {} | {measured} | {must} | {aim} | {} | {}{peer} |", row.what, reached(row), row.note)?;
        }
        let mut commands: Vec<_> = results.rows.iter().map(|row| row.command.as_str()).collect();
        commands.dedup();
        writeln!(
            page,
            "\nCommands, in the order of the rows: {}.",
            commands.iter().map(|c| format!("`{c}`")).collect::<Vec<_>>().join(", ")
        )?;
    }
    let path = root().join("docs/RESULTS.md");
    fs::write(&path, page)?;
    println!("{}", path.display());
    Ok(())
}

/// Where and when the rows were measured, each once, in the order of the rows.
fn occasions(rows: &[Row]) -> Vec<Measured> {
    let mut occasions: Vec<Measured> = Vec::new();
    for measured in rows.iter().filter_map(|row| row.measured.as_ref()) {
        if !occasions.contains(measured) {
            occasions.push(measured.clone());
        }
    }
    occasions
}

/// Four significant digits at most.
fn figure(value: f64) -> String {
    match value.abs() {
        v if v >= 1000.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

fn shown(value: &Value) -> String {
    value.as_f64().map_or_else(|| value.as_str().unwrap_or("-").to_owned(), |v| v.to_string())
}

fn reached(row: &Row) -> &'static str {
    let meets = |mark: &Value| match (row.value, mark.as_f64()) {
        (Some(value), Some(mark)) => Some(if row.better == "lower" { value <= mark } else { value >= mark }),
        _ => None,
    };
    match (meets(&row.aim), meets(&row.must)) {
        (Some(true), _) => "aim",
        (_, Some(true)) => "must",
        (_, Some(false)) => "**no**",
        _ => "-",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn marks_are_compared_in_the_right_direction() {
        let row = |value: Option<f64>, better: &str| Row {
            what: String::new(),
            value,
            unit: String::new(),
            better: better.into(),
            must: json!(2.0),
            aim: json!(if better == "lower" { 1.0 } else { 3.0 }),
            peer: None,
            command: String::new(),
            note: String::new(),
            measured: None,
        };
        assert_eq!(reached(&row(Some(0.5), "lower")), "aim");
        assert_eq!(reached(&row(Some(1.5), "lower")), "must");
        assert_eq!(reached(&row(Some(2.5), "lower")), "**no**");
        assert_eq!(reached(&row(Some(3.5), "higher")), "aim");
        assert_eq!(reached(&row(Some(2.5), "higher")), "must");
        assert_eq!(reached(&row(Some(1.5), "higher")), "**no**");
        assert_eq!(reached(&row(None, "higher")), "-");
    }
}
