//! How training went, from the lines of `metrics.jsonl`.

use std::collections::BTreeMap;

use semlink_report::{Axis, Chart, Corner, Line, Mark, Section, Tone};
use serde_json::Value;

use crate::Result;

/// Stages that train several networks one after the other: each is a curve of its own.
const SEVERAL: &str = "trial";

/// One training.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Curve {
    pub(super) stage: String,
    /// (step, smoothed training loss)
    pub(super) loss: Vec<(f64, f64)>,
    /// (epoch from 1, value) by the figure's name, losses as they are.
    pub(super) validation: BTreeMap<String, Vec<(f64, f64)>>,
    /// Step of what was added last.
    last: u64,
}

/// The trainings of a run in order. Steps that were done again after an interruption count once, and of a stage that was started afresh its last attempt.
pub(super) fn curves(metrics: &[Value]) -> Vec<Curve> {
    let mut curves: Vec<Curve> = Vec::new();
    for line in metrics {
        let (Some(stage), Some(step)) = (line["stage"].as_str(), line["step"].as_u64()) else { continue };
        let place = curves.iter().rposition(|curve| curve.stage == stage);
        let place = match place {
            Some(place) if stage != SEVERAL || curves[place].last <= step => place,
            _ => {
                curves.push(Curve { stage: stage.to_owned(), ..Curve::default() });
                curves.len() - 1
            }
        };
        if let Some(curve) = curves.get_mut(place) {
            curve.add(step, line);
        }
    }
    curves
}

impl Curve {
    /// What the line says, and away with what a step done again had said before of itself and later ones.
    fn add(&mut self, step: u64, line: &Value) {
        let (at, epoch) = (step as f64, line["epoch"].as_u64().unwrap_or(0) as f64);
        self.last = step;
        if let Some(loss) = line["loss"].as_f64() {
            self.loss.retain(|(x, _)| *x < at);
            self.validation.values_mut().for_each(|values| values.retain(|(x, _)| *x <= epoch));
            self.loss.push((at, loss));
        }
        if let Some(figures) = line["validation"].as_object() {
            self.loss.retain(|(x, _)| *x <= at);
            for (name, value) in figures {
                let Some(value) = value.as_f64() else { continue };
                // A loss is negated where more has to be better.
                let (name, value) = name.strip_prefix('-').map_or((name.as_str(), value), |name| (name, -value));
                let values = self.validation.entry(name.to_owned()).or_default();
                values.retain(|(x, _)| *x <= epoch);
                values.push((epoch + 1.0, value));
            }
        }
    }
}

pub(super) fn section(metrics: &[Value]) -> Result<Section> {
    let mut section = Section::new("How training went");
    let curves = curves(metrics);
    let mut stages: Vec<&str> = Vec::new();
    for curve in &curves {
        if !stages.contains(&curve.stage.as_str()) {
            stages.push(&curve.stage);
        }
    }
    for stage in stages {
        let of: Vec<&Curve> = curves.iter().filter(|curve| curve.stage == stage).collect();
        let mut figures: Vec<&str> = of.iter().flat_map(|curve| curve.validation.keys().map(String::as_str)).collect();
        figures.sort_unstable();
        figures.dedup();
        let mut pictures = Vec::new();
        if of.iter().any(|curve| !curve.loss.is_empty()) {
            let losses = of.iter().map(|curve| curve.loss.clone()).collect();
            pictures.push(lines(stage, "training loss", "step", losses).small_svg()?);
        }
        for figure in figures {
            let values = of.iter().map(|curve| curve.validation.get(figure).cloned().unwrap_or_default()).collect();
            pictures.push(lines(stage, &format!("validation: {figure}"), "epoch", values).small_svg()?);
        }
        section.heading(&format!("Stage {stage}"));
        section.side_by_side(|many| {
            for svg in &pictures {
                many.figure(svg, svg.title());
            }
        });
    }
    Ok(section)
}

fn lines(stage: &str, what: &str, x: &str, curves: Vec<Vec<(f64, f64)>>) -> Chart {
    let mut chart =
        Chart::new(format!("{stage}, {what}"), Axis::fitted(x), Axis::fitted(what)).legend(Corner::UpperRight);
    let several = curves.len() > 1;
    for (i, points) in curves.into_iter().enumerate() {
        let name = if several { format!("{}", i + 1) } else { String::new() };
        let few = points.len() <= 40;
        let line = Line::new(name, Tone::nth(i), points);
        chart.push(if few { line.mark(Mark::nth(i)) } else { line });
    }
    chart
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn step(stage: &str, step: u64, loss: f64) -> Value {
        json!({"stage": stage, "epoch": (step - 1) / 60, "step": step, "lr": 0.1, "loss": loss})
    }

    fn epoch(stage: &str, step: u64, epoch: u64, accuracy: f64) -> Value {
        json!({"stage": stage, "epoch": epoch, "step": step, "validation": {"accuracy": accuracy, "-loss": -0.5}})
    }

    #[test]
    fn steps_that_are_done_again_count_once() {
        let killed = [step("distill", 50, 3.0), epoch("distill", 60, 0, 0.5), step("distill", 100, 2.0)];
        // Resumed from a checkpoint at step 60, then all of it started afresh.
        let resumed = [step("distill", 100, 2.1), epoch("distill", 120, 1, 0.7)];
        let found = curves(&[&killed[..], &resumed].concat());
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].loss, [(50.0, 3.0), (100.0, 2.1)]);
        assert_eq!(found[0].validation["accuracy"], [(1.0, 0.5), (2.0, 0.7)]);
        assert_eq!(found[0].validation["loss"], [(1.0, 0.5), (2.0, 0.5)]);
        let afresh = [step("distill", 50, 9.0), epoch("distill", 60, 0, 0.1)];
        let found = curves(&[&killed[..], &resumed, &afresh].concat());
        assert_eq!((found.len(), &found[0].loss), (1, &vec![(50.0, 9.0)]));
        assert_eq!(found[0].validation["accuracy"], [(1.0, 0.1)]);
    }

    #[test]
    fn each_trial_is_a_curve_of_its_own() {
        let lines =
            [step("trial", 50, 1.0), epoch("trial", 60, 0, 0.2), step("trial", 50, 2.0), epoch("trial", 60, 0, 0.3)];
        let found = curves(&lines);
        assert_eq!(found.iter().map(|curve| curve.loss[0].1).collect::<Vec<_>>(), [1.0, 2.0]);
        assert!(section(&lines).is_ok());
    }

    #[test]
    fn lines_of_another_make_are_left_out() {
        assert!(curves(&[json!(3), json!({"stage": 1}), json!({"step": 2})]).is_empty());
    }
}
