//! Pictures of a search: the cells it found, and how it got there.

use std::fmt::Write as _;
use std::path::Path;

use semlink_codec::cells::{Cell, Genotype, Operation};
use semlink_report::{Axis, Chart, Corner, Line, Mark, Stroke, Tone};
use serde_json::Value;

use crate::Result;

const STEP: (f64, f64) = (250.0, 92.0);
const MARGIN: f64 = 70.0;

/// Both cells side by side as SVG: states as boxes from left to right, edges as arrows with their operations.
pub(crate) fn genotype(genotype: &Genotype) -> String {
    let cells = [("normal cell", &genotype.normal), ("reduction cell", &genotype.reduction)];
    let width = cells.iter().map(|(_, cell)| width(cell)).fold(0.0, f64::max);
    let heights: Vec<f64> = cells.iter().map(|(_, cell)| height(cell)).collect();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"8\" markerHeight=\"8\" orient=\"auto\">\
         <path d=\"M0,0 L8,4 L0,8 z\" fill=\"#555\"/></marker></defs>\n",
        heights.iter().sum::<f64>()
    );
    let mut top = 0.0;
    for ((title, cell), height) in cells.iter().zip(&heights) {
        let _ = writeln!(svg, "<g transform=\"translate(0 {top})\">");
        let _ = writeln!(svg, "<text x=\"20\" y=\"26\" font-size=\"16\">{title}</text>");
        draw_cell(cell, &mut svg);
        svg += "</g>\n";
        top += height;
    }
    svg + "</svg>\n"
}

/// The last node stands `nodes` steps right of the inputs.
fn width(cell: &Cell) -> f64 {
    2.0 * MARGIN + STEP.0 * cell.len() as f64
}

fn height(cell: &Cell) -> f64 {
    110.0 + STEP.1 * cell.len().max(2) as f64
}

/// Inputs at the left, one below the other; nodes step down to the right, so that no edge runs through a box.
fn position(state: usize, nodes: usize) -> (f64, f64) {
    let inputs = 60.0 + STEP.1 * nodes.max(2) as f64 * 0.5;
    match state {
        0 => (MARGIN, inputs - 38.0),
        1 => (MARGIN, inputs + 46.0),
        node => (MARGIN + STEP.0 * (node - 1) as f64, 60.0 + STEP.1 * (node as f64 - 1.5)),
    }
}

fn color(op: Operation) -> &'static str {
    match op {
        Operation::None | Operation::Skip => "#666",
        Operation::MaxPool3 | Operation::AvgPool3 => "#8a6500",
        Operation::Conv1 | Operation::Conv3 => "#b22222",
        Operation::Sep3 | Operation::Sep5 => "#1f5fbf",
        Operation::Dil3 | Operation::Dil5 => "#247046",
    }
}

fn draw_cell(cell: &Cell, svg: &mut String) {
    let half = (34.0, 16.0);
    for (n, edges) in cell.iter().enumerate() {
        for (i, edge) in edges.iter().enumerate() {
            let ((x0, y0), (x1, y1)) = (position(edge.from, cell.len()), position(n + 2, cell.len()));
            let (x0, x1) = (x0 + half.0, x1 - half.0);
            // Edges into one node end apart.
            let y1 = y1 + 10.0 * (i as f64 - (edges.len() - 1) as f64 / 2.0);
            let tone = color(edge.op);
            // An edge past other nodes stays high until it is behind them.
            let past = edge.from >= 2 && edge.from + 1 < n + 2;
            let (leave, arrive) = if past { (0.9, 0.1) } else { (0.45, 0.45) };
            let (leave, arrive) = (x0 + leave * (x1 - x0), x1 - arrive * (x1 - x0));
            let _ = writeln!(
                svg,
                "<path d=\"M{x0},{y0} C{},{y0} {},{y1} {x1},{y1}\" fill=\"none\" stroke=\"{tone}\" stroke-width=\"1.6\" \
                 marker-end=\"url(#tip)\"/>",
                leave, arrive
            );
            let (x, y) = bezier([(x0, y0), (leave, y0), (arrive, y1), (x1, y1)], 0.5);
            let _ = writeln!(
                svg,
                "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"{tone}\" stroke=\"white\" stroke-width=\"4\" \
                 paint-order=\"stroke\">{}</text>",
                y - 4.0,
                edge.op.name()
            );
        }
    }
    for state in 0..cell.len() + 2 {
        let (x, y) = position(state, cell.len());
        let (name, fill) = match state {
            0 => ("cell - 2".to_owned(), "#dce9f7"),
            1 => ("cell - 1".to_owned(), "#dce9f7"),
            node => (format!("node {}", node - 2), "#fbf3d5"),
        };
        let _ = writeln!(
            svg,
            "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" rx=\"5\" fill=\"{fill}\" stroke=\"#555\"/>\
             <text x=\"{x}\" y=\"{}\" text-anchor=\"middle\">{name}</text>",
            x - half.0,
            y - half.1,
            2.0 * half.0,
            2.0 * half.1,
            y + 4.5
        );
    }
}

fn bezier(p: [(f64, f64); 4], t: f64) -> (f64, f64) {
    let s = 1.0 - t;
    let weights = [s * s * s, 3.0 * s * s * t, 3.0 * s * t * t, t * t * t];
    let sum = |of: fn(&(f64, f64)) -> f64| p.iter().zip(weights).map(|(p, w)| of(p) * w).sum();
    (sum(|p| p.0), sum(|p| p.1))
}

/// Draws `search.svg`.
pub(crate) fn write_history(metrics: &[Value], path: &Path) -> Result<()> {
    let svg = history(metrics).svg()?;
    Ok(semlink_nn::checkpoint::write_atomically(path, svg.markup().as_bytes())?)
}

/// Validation loss over expected cost, epoch by epoch, from the lines of `metrics.jsonl`; a restarted search draws its last attempt.
pub(crate) fn history(metrics: &[Value]) -> Chart {
    let mut points: Vec<(f64, f64)> = Vec::new();
    for line in metrics.iter().filter(|line| line["stage"] == "search" && line["validation"].is_object()) {
        let at = |name: &str| line["validation"][name].as_f64();
        if let (Some(cost), Some(loss)) = (at("expected cost"), at("-loss")) {
            if line["epoch"] == 0 {
                points.clear();
            }
            points.push((cost, -loss));
        }
    }
    let (x, y) = (Axis::fitted("expected cost"), Axis::fitted("validation distillation loss"));
    let mut chart = Chart::new("search, epoch by epoch", x, y).legend(Corner::UpperRight);
    let last = points.last().copied();
    chart.push(Line::new("", Tone::Blue, points).stroke(Stroke::Thin).mark(Mark::Circle));
    chart.push(Line::new("last epoch", Tone::Orange, last).stroke(Stroke::None).mark(Mark::Ring));
    chart
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_edge_and_state_is_drawn() {
        let edge = |from, op| semlink_codec::cells::Edge { from, op };
        let cell = vec![
            vec![edge(0, Operation::Sep3), edge(1, Operation::Skip)],
            vec![edge(2, Operation::Conv3), edge(0, Operation::MaxPool3)],
        ];
        // The last node stands as far from the right border as the inputs from the left one.
        assert!((width(&cell) - position(3, 2).0 - MARGIN).abs() < 1e-9);
        let svg = genotype(&Genotype { version: 1, normal: cell.clone(), reduction: cell });
        assert_eq!(svg.matches("<rect x").count(), 8);
        assert_eq!(svg.matches("marker-end").count(), 8);
        assert_eq!(svg.matches(">max_pool_3x3</text>").count(), 2);
    }
}
