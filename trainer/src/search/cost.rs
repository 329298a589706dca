//! What an architecture costs, by kind of cell, edge and operation.

use std::path::{Path, PathBuf};

use semlink_codec::cells::{CellConfig, CellLayout, Genotype, Operation};
use serde::{Deserialize, Serialize};

use super::architecture::{KINDS, edges_of, kind_index};
use super::latency::LatencyTable;
use crate::{Error, Result};

/// What the search counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CostMeasure {
    /// Trainable parameters of the encoder.
    Params,
    /// Multiply-accumulates for one image.
    Macs,
    /// Microseconds for one image on one thread, from a table that `semlink-trainer latency` wrote on the host that will serve.
    Latency(PathBuf),
}

/// Costs of everything that an architecture may hold.
#[derive(Clone, Debug)]
pub(crate) struct CostTable {
    /// Stem, cell inputs and head.
    pub(crate) fixed: f64,
    /// For each kind of cell, by edge and operation, summed over the cells of that kind.
    pub(crate) edges: [Vec<Vec<f64>>; 2],
    operations: Vec<Operation>,
    nodes: Vec<std::ops::Range<usize>>,
}

impl CostTable {
    /// The table for images of `size` = height, width, channels.
    ///
    /// # Errors
    /// A latency table that cannot be read or lacks an entry.
    pub(crate) fn new(
        measure: &CostMeasure,
        layout: &CellLayout,
        operations: &[Operation],
        size: (usize, usize, usize),
    ) -> Result<Self> {
        let latency = match measure {
            CostMeasure::Latency(path) => Some((LatencyTable::read(path)?, path.as_path())),
            _ => None,
        };
        let (height, width, channels) = size;
        let missing = |path: &Path, what: String| Error::Report {
            path: path.to_owned(),
            what: format!("has no {what}: run semlink-trainer latency with this recipe"),
        };
        let nodes = edges_of(layout.nodes);
        let edge_count = nodes.last().map_or(0, |range| range.end);
        let mut edges: [Vec<Vec<f64>>; 2] = KINDS.map(|_| vec![vec![0.0; operations.len()]; edge_count]);
        for place in layout.places(height, width) {
            for range in &nodes {
                for from in 0..range.len() {
                    let row = &mut edges[kind_index(place.kind)][range.start + from];
                    for (cell, op) in row.iter_mut().zip(operations) {
                        let stride = place.stride(from);
                        let cost = op.cost(place.width, stride, place.pixels());
                        *cell += match (measure, &latency) {
                            (CostMeasure::Macs, _) => cost.macs as f64,
                            (_, Some((table, path))) => table
                                .operation(*op, &place, stride)
                                .ok_or_else(|| missing(path, format!("entry for {} at {place:?}", op.name())))?,
                            _ => cost.params as f64,
                        };
                    }
                }
            }
        }
        let fixed_cost = layout.fixed_cost(height, width, channels);
        let fixed = match (measure, &latency) {
            (CostMeasure::Macs, _) => fixed_cost.macs as f64,
            (_, Some((table, path))) => {
                table.fixed(layout, size).ok_or_else(|| missing(path, "entry for this layout".into()))?
            }
            _ => fixed_cost.params as f64,
        };
        Ok(Self { fixed, edges, operations: operations.to_vec(), nodes })
    }

    /// The cost of a genotype.
    pub(crate) fn of(&self, genotype: &Genotype) -> f64 {
        let kind = |kind| -> f64 {
            let table = &self.edges[kind_index(kind)];
            let node = |(range, edges): (&std::ops::Range<usize>, &Vec<semlink_codec::cells::Edge>)| -> f64 {
                let column = |op| self.operations.iter().position(|o| *o == op);
                edges.iter().filter_map(|e| Some(table[range.start + e.from][column(e.op)?])).sum()
            };
            self.nodes.iter().zip(genotype.cell(kind)).map(node).sum()
        };
        self.fixed + KINDS.into_iter().map(kind).sum::<f64>()
    }

    /// The lowest and the highest cost of a genotype whose nodes have `kept` edges each.
    pub(crate) fn range(&self, kept: usize) -> (f64, f64) {
        let (mut low, mut high) = (self.fixed, self.fixed);
        for table in &self.edges {
            for range in &self.nodes {
                let candidates = |row: &Vec<f64>| -> Vec<f64> {
                    let pairs = row.iter().zip(&self.operations);
                    pairs.filter(|(_, op)| **op != Operation::None).map(|(cost, _)| *cost).collect()
                };
                let rows = table[range.clone()].iter().map(candidates);
                let ends = |row: Vec<f64>| {
                    let low = row.iter().copied().fold(f64::INFINITY, f64::min);
                    (low, row.iter().copied().fold(0.0, f64::max))
                };
                let (mut lows, mut highs): (Vec<f64>, Vec<f64>) = rows.map(ends).unzip();
                lows.sort_by(f64::total_cmp);
                highs.sort_by(|a, b| b.total_cmp(a));
                low += lows.iter().take(kept).filter(|x| x.is_finite()).sum::<f64>();
                high += highs.iter().take(kept).sum::<f64>();
            }
        }
        (low, high)
    }
}

/// Parameters and multiply-accumulates of a genotype in a layout, for a message.
pub(crate) fn describe(layout: &CellLayout, genotype: &Genotype, size: (usize, usize, usize)) -> String {
    let cost = CellConfig { layout: layout.clone(), genotype: genotype.clone() }.cost(size.0, size.1, size.2);
    format!("{} parameters, {} multiply-accumulates", cost.params, cost.macs)
}
