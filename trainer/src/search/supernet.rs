//! The mixed network: every edge carries every operation, weighted by the architecture's gates.
//!
//! Partial channels (PC-DARTS, Xu et al. 2020): a state is held in `partial` parts of equal width; the operations of an edge work on the first
//! part, the others pass by. A node's parts are rotated, so that other channels come to the operations at the next node; as the parts
//! are tensors of their own, nothing is copied for it.

use candle_core::Tensor;
use semlink_codec::Classifier;
use semlink_codec::cells::{CellInput, CellLayout, Operation, OperationLayer, Place, Stem};
use semlink_nn::layers::Linear;
use semlink_nn::ops::{self, Pool2dSpec};
use semlink_nn::{Activation, Mode, Params};

use super::architecture::{CellScales, Gates, edges_of, kind_index};
use crate::Result;

/// Mixed cells between stem and head, and a classifier.
pub(crate) struct Supernet {
    stem: Stem,
    cells: Vec<MixedCell>,
    features: Linear,
    classifier: Classifier,
    parts: usize,
}

struct MixedCell {
    place: Place,
    input: CellInput,
    nodes: Vec<std::ops::Range<usize>>,
    /// By edge (flat) and operation; nothing for `none`.
    edges: Vec<Vec<Option<OperationLayer>>>,
}

impl Supernet {
    /// Builds the network; `parts` divides the width of every cell.
    pub(crate) fn new(
        params: &Params,
        layout: &CellLayout,
        operations: &[Operation],
        parts: usize,
        channels: usize,
        classes: usize,
    ) -> Result<Self> {
        let nodes = edges_of(layout.nodes);
        let cell = |(i, place): (usize, &Place)| -> Result<MixedCell> {
            let params = params.sub(format!("cell{i}"));
            let mut edges = Vec::new();
            for (n, range) in nodes.iter().enumerate() {
                for from in 0..range.len() {
                    let layer = |op: &Operation| {
                        let params = params.sub(format!("node{n}")).sub(format!("{}_from_{from}", op.name()));
                        Ok(OperationLayer::new(&params, *op, place.width / parts, place.stride(from), false)?)
                    };
                    edges.push(operations.iter().map(layer).collect::<Result<Vec<_>>>()?);
                }
            }
            Ok(MixedCell { place: *place, input: CellInput::new(&params, place)?, nodes: nodes.clone(), edges })
        };
        Ok(Self {
            stem: Stem::new(params, layout, channels)?,
            cells: layout.places(1, 1).iter().enumerate().map(cell).collect::<Result<_>>()?,
            features: Linear::new(&params.sub("features"), layout.head_inputs(), layout.features)?,
            classifier: Classifier::new(&params.sub("classifier"), layout.features, classes)?,
            parts,
        })
    }

    /// Features \[n, features\] and logits \[n, classes\] of images \[n, h, w, channels\].
    pub(crate) fn forward(&self, images: &Tensor, gates: &[Option<Gates>; 2], mode: Mode) -> Result<(Tensor, Tensor)> {
        let stem = self.stem.forward(images, mode)?;
        let (mut before, mut previous) = (stem.clone(), stem);
        for cell in &self.cells {
            let Some(gates) = &gates[kind_index(cell.place.kind)] else { continue };
            let scales = gates.scales(&cell.place, cell.place.width / self.parts, self.parts)?;
            let output = cell.forward(&before, &previous, &scales, self.parts, mode)?;
            (before, previous) = (previous, output);
        }
        let features = self.features.forward(&ops::global_avg_pool(&previous)?)?;
        let logits = self.classifier.forward(&features)?;
        Ok((features, logits))
    }
}

impl MixedCell {
    fn forward(
        &self,
        before: &Tensor,
        previous: &Tensor,
        scales: &CellScales,
        parts: usize,
        mode: Mode,
    ) -> Result<Tensor> {
        let width = self.place.width / parts;
        let split = |x: Tensor| -> Result<Vec<Tensor>> {
            let part = |i| Ok(x.narrow(3, i * width, width)?.contiguous()?);
            (0..parts).map(part).collect()
        };
        let inputs = self.input.forward(before, previous, mode)?;
        let mut states = inputs.into_iter().map(split).collect::<Result<Vec<_>>>()?;
        // The parts that pass by, at the output's resolution.
        let mut passing = Vec::new();
        for (from, state) in states.iter().enumerate() {
            passing.push(self.passing(state, from)?);
        }
        for range in &self.nodes {
            let mut sums: Vec<Vec<Tensor>> = vec![Vec::new(); parts];
            for from in 0..range.len() {
                let edge = range.start + from;
                let x = &states[from][0];
                for (layer, scale) in self.edges[edge].iter().zip(&scales.operations[edge]) {
                    if let Some(layer) = layer {
                        sums[0].push(layer.forward_scaled(x, scale, mode)?);
                    }
                }
                for (sum, x) in sums[1..].iter_mut().zip(&passing[from]) {
                    sum.push(scales.edges[edge].apply(x)?);
                }
            }
            let mut node = sums.iter().map(|terms| relu_of_sum(terms)).collect::<Result<Vec<_>>>()?;
            node.rotate_left(1);
            passing.push(self.passing(&node, range.len())?);
            states.push(node);
        }
        let nodes: Vec<&Tensor> = states[2..].iter().flatten().collect();
        Ok(ops::concat(&nodes, 3)?)
    }

    fn passing(&self, state: &[Tensor], from: usize) -> Result<Vec<Tensor>> {
        if self.place.stride(from) == 1 {
            return Ok(state[1..].to_vec());
        }
        let window = Pool2dSpec { kernel: 3, stride: 2, padding: 1 };
        state[1..].iter().map(|x| Ok(ops::max_pool2d(x, window)?)).collect()
    }
}

fn relu_of_sum(terms: &[Tensor]) -> Result<Tensor> {
    Ok(ops::sum_activate(terms, Activation::Relu)?)
}
