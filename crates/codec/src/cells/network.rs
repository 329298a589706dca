//! A stack of cells: stem, cells, head. The layout is fixed before a search, the genotype is what the search finds.

use candle_core::Tensor;
use semlink_nn::layers::{ConvBn, ConvConfig, Linear};
use semlink_nn::{Activation, Mode, Params, ops};
use serde::{Deserialize, Serialize};

use super::genotype::{CellKind, Genotype};
use super::operation::{OperationLayer, window};
use crate::{Cost, Error, Result};

/// Everything about a network of cells but their genotype.
///
/// A cell reads the outputs of the two cells before it (the first reads the stem twice), each through a 1x1 convolution to the cell's width;
/// its output is its nodes side by side. The head is the global mean and a linear map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CellLayout {
    /// Channels of the stem's 3x3 convolutions; the first keeps the resolution, each further one halves it. More of them for larger images.
    pub stem: Vec<usize>,
    /// Channels of a node of the first cell; twice as many after each reduction.
    pub width: usize,
    /// The cells, in order; a reduction halves the resolution.
    pub cells: Vec<CellKind>,
    /// Nodes of a cell.
    pub nodes: usize,
    /// Length of the feature vector.
    pub features: usize,
}

/// A network of cells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CellConfig {
    /// Stem, widths, order of the cells, head.
    pub layout: CellLayout,
    /// The cells.
    pub genotype: Genotype,
}

/// One cell's place in a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which cell stands there.
    pub kind: CellKind,
    /// Channels of its two inputs: the output of the cell before the previous one and that of the previous one.
    pub inputs: [usize; 2],
    /// Whether the first of them has twice the resolution of the second and is halved.
    pub halve_first: bool,
    /// Channels of a node.
    pub width: usize,
    /// Height and width of its second input, and of the first one when it has been halved.
    pub input: (usize, usize),
    /// Height and width of its nodes.
    pub output: (usize, usize),
}

impl Place {
    /// Stride of an edge from state `from`: 2 from the inputs of a reduction.
    pub fn stride(&self, from: usize) -> usize {
        if self.kind == CellKind::Reduction && from < 2 { 2 } else { 1 }
    }

    /// Pixels of the output.
    pub fn pixels(&self) -> usize {
        self.output.0 * self.output.1
    }
}

impl CellLayout {
    /// Checks every field.
    ///
    /// # Errors
    /// [`Error::Config`] with all faults.
    pub fn validate(&self) -> Result<()> {
        let mut faults = Vec::new();
        let mut check = |ok: bool, fault: String| {
            if !ok {
                faults.push(fault);
            }
        };
        check(
            (1..=8).contains(&self.stem.len()),
            format!("stem has {} convolutions, expected 1 to 8", self.stem.len()),
        );
        for (i, channels) in self.stem.iter().enumerate() {
            check((1..=1024).contains(channels), format!("stem[{i}] = {channels}, expected 1 to 1024 channels"));
        }
        check((1..=1024).contains(&self.width), format!("width = {}, expected 1 to 1024", self.width));
        check(
            (1..=32).contains(&self.cells.len()),
            format!("cells has {} entries, expected 1 to 32", self.cells.len()),
        );
        let reductions = self.cells.iter().filter(|kind| **kind == CellKind::Reduction).count();
        check(reductions <= 6, format!("cells has {reductions} reductions, expected at most 6"));
        check((1..=8).contains(&self.nodes), format!("nodes = {}, expected 1 to 8", self.nodes));
        check((1..=4096).contains(&self.features), format!("features = {}, expected 1 to 4096", self.features));
        if faults.is_empty() { Ok(()) } else { Err(Error::Config { what: "cells", faults }) }
    }

    /// The places of the cells for images of `height` x `width`.
    pub fn places(&self, height: usize, width: usize) -> Vec<Place> {
        let halve = |(h, w): (usize, usize)| (h.div_ceil(2), w.div_ceil(2));
        let mut size = (height, width);
        for _ in 1..self.stem.len() {
            size = halve(size);
        }
        let stem = self.stem.last().copied().unwrap_or(1);
        let (mut before, mut previous, mut node) = (stem, stem, self.width);
        let mut halve_first = false;
        let place = |kind: &CellKind| {
            let input = size;
            if *kind == CellKind::Reduction {
                node *= 2;
                size = halve(size);
            }
            let place =
                Place { kind: *kind, inputs: [before, previous], halve_first, width: node, input, output: size };
            (before, previous) = (previous, node * self.nodes);
            halve_first = *kind == CellKind::Reduction;
            place
        };
        self.cells.iter().map(place).collect()
    }

    /// Channels that the head reads.
    pub fn head_inputs(&self) -> usize {
        let reductions = self.cells.iter().filter(|kind| **kind == CellKind::Reduction).count();
        (self.width << reductions) * self.nodes
    }

    /// Cost of all that does not depend on the genotype: stem, cell inputs, head.
    pub fn fixed_cost(&self, height: usize, width: usize, channels: usize) -> Cost {
        let (mut size, mut inputs) = ((height, width), channels);
        let mut cost = Cost::default();
        for (i, outputs) in self.stem.iter().enumerate() {
            if i > 0 {
                size = (size.0.div_ceil(2), size.1.div_ceil(2));
            }
            cost += Cost::conv_bn(3, inputs, *outputs, size.0 * size.1);
            inputs = *outputs;
        }
        for place in self.places(height, width) {
            for inputs in place.inputs {
                cost += Cost::conv_bn(1, inputs, place.width, place.input.0 * place.input.1);
            }
        }
        cost + Cost::linear(self.head_inputs(), self.features)
    }
}

impl CellConfig {
    /// Checks layout and genotype, and that they have the same number of nodes.
    ///
    /// # Errors
    /// [`Error::Config`] with all faults.
    pub fn validate(&self) -> Result<()> {
        self.layout.validate()?;
        self.genotype.validate()?;
        for kind in [CellKind::Normal, CellKind::Reduction] {
            let nodes = self.genotype.cell(kind).len();
            if self.layout.cells.contains(&kind) && nodes != self.layout.nodes {
                let fault = format!("genotype: {kind:?} has {nodes} nodes, the layout {}", self.layout.nodes);
                return Err(Error::Config { what: "cells", faults: vec![fault] });
            }
        }
        Ok(())
    }

    /// Parameters and multiply-accumulates for one image of `height` x `width` x `channels`.
    pub fn cost(&self, height: usize, width: usize, channels: usize) -> Cost {
        let cells = self.layout.places(height, width);
        let cells = cells.iter().flat_map(|place| {
            let edges = self.genotype.cell(place.kind).iter().flatten();
            edges.map(|edge| edge.op.cost(place.width, place.stride(edge.from), place.pixels()))
        });
        self.layout.fixed_cost(height, width, channels) + cells.sum()
    }
}

/// The 3x3 convolutions before the first cell.
#[derive(Debug, Clone)]
pub struct Stem(Vec<ConvBn>);

impl Stem {
    /// Parameters below `stem`.
    ///
    /// # Errors
    /// Missing or misshapen parameters.
    pub fn new(params: &Params, layout: &CellLayout, channels: usize) -> Result<Self> {
        let params = params.sub("stem");
        let mut inputs = channels;
        let layer = |(i, outputs): (usize, &usize)| {
            let config = ConvConfig::same(inputs, *outputs, 3, if i == 0 { 1 } else { 2 });
            inputs = *outputs;
            Ok(ConvBn::new(&params.sub(i), config, Activation::Relu)?)
        };
        Ok(Self(layout.stem.iter().enumerate().map(layer).collect::<Result<_>>()?))
    }

    /// Images \[n, h, w, channels\] to \[n, h', w', stem\].
    ///
    /// # Errors
    /// Another number of channels.
    pub fn forward(&self, images: &Tensor, mode: Mode) -> Result<Tensor> {
        self.0.iter().try_fold(images.clone(), |x, layer| Ok(layer.forward(&x, mode)?))
    }
}

/// What brings the outputs of two cells to the width and the resolution of the next.
#[derive(Debug, Clone)]
pub struct CellInput {
    first: ConvBn,
    second: ConvBn,
    halve_first: bool,
}

impl CellInput {
    /// Parameters below `input0` and `input1`.
    ///
    /// # Errors
    /// Missing or misshapen parameters.
    pub fn new(params: &Params, place: &Place) -> Result<Self> {
        let layer = |i: usize| {
            let config = ConvConfig::same(place.inputs[i], place.width, 1, 1);
            ConvBn::new(&params.sub(format!("input{i}")), config, Activation::Relu)
        };
        Ok(Self { first: layer(0)?, second: layer(1)?, halve_first: place.halve_first })
    }

    /// The cell's states 0 and 1.
    ///
    /// # Errors
    /// Another number of channels.
    pub fn forward(&self, before: &Tensor, previous: &Tensor, mode: Mode) -> Result<[Tensor; 2]> {
        let halved;
        let before = if self.halve_first {
            halved = ops::avg_pool2d(before, window(2))?;
            &halved
        } else {
            before
        };
        Ok([self.first.forward(before, mode)?, self.second.forward(previous, mode)?])
    }
}

/// The network of a [`CellConfig`].
#[derive(Debug, Clone)]
pub struct CellNet {
    stem: Stem,
    cells: Vec<CellLayers>,
    features: Linear,
}

#[derive(Debug, Clone)]
struct CellLayers {
    input: CellInput,
    /// For each node, the state and the operation of each of its edges.
    nodes: Vec<Vec<(usize, OperationLayer)>>,
}

impl CellNet {
    /// Builds the network for images of `channels` channels.
    ///
    /// # Errors
    /// A faulty configuration; missing or misshapen parameters.
    pub fn new(params: &Params, config: &CellConfig, channels: usize) -> Result<Self> {
        config.validate()?;
        // Nothing that is built depends on the images' size.
        let places = config.layout.places(1, 1);
        let cell = |(i, place): (usize, &Place)| {
            let params = params.sub(format!("cell{i}"));
            let node = |(n, edges): (usize, &Vec<super::Edge>)| {
                let layer = |edge: &super::Edge| {
                    let params = params.sub(format!("node{n}")).sub(format!("{}_from_{}", edge.op.name(), edge.from));
                    let layer = OperationLayer::new(&params, edge.op, place.width, place.stride(edge.from), true)?;
                    Ok(layer.map(|layer| (edge.from, layer)))
                };
                edges.iter().filter_map(|edge| layer(edge).transpose()).collect::<Result<Vec<_>>>()
            };
            let nodes = config.genotype.cell(place.kind).iter().enumerate().map(node).collect::<Result<_>>()?;
            Ok(CellLayers { input: CellInput::new(&params, place)?, nodes })
        };
        Ok(Self {
            stem: Stem::new(params, &config.layout, channels)?,
            cells: places.iter().enumerate().map(cell).collect::<Result<_>>()?,
            features: Linear::new(&params.sub("features"), config.layout.head_inputs(), config.layout.features)?,
        })
    }

    /// Images \[n, h, w, channels\], preprocessed, to feature vectors \[n, features\].
    ///
    /// # Errors
    /// Another number of channels.
    pub fn forward(&self, images: &Tensor, mode: Mode) -> Result<Tensor> {
        let stem = self.stem.forward(images, mode)?;
        let (mut before, mut previous) = (stem.clone(), stem);
        for cell in &self.cells {
            let output = cell.forward(&before, &previous, mode)?;
            (before, previous) = (previous, output);
        }
        Ok(self.features.forward(&ops::global_avg_pool(&previous)?)?)
    }
}

impl CellLayers {
    fn forward(&self, before: &Tensor, previous: &Tensor, mode: Mode) -> Result<Tensor> {
        let mut states = self.input.forward(before, previous, mode)?.to_vec();
        for edges in &self.nodes {
            let terms = edges.iter().map(|(from, layer)| layer.forward(&states[*from], mode));
            states.push(ops::sum_activate(&terms.collect::<Result<Vec<_>>>()?, Activation::Relu)?);
        }
        Ok(ops::concat(&states[2..].iter().collect::<Vec<_>>(), 3)?)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::super::{Edge, Operation};
    use super::*;

    fn config() -> CellConfig {
        let edge = |from, op| Edge { from, op };
        let normal = vec![
            vec![edge(0, Operation::Sep3), edge(1, Operation::Skip)],
            vec![edge(2, Operation::Conv3), edge(0, Operation::MaxPool3)],
        ];
        let reduction = vec![
            vec![edge(0, Operation::Dil3), edge(1, Operation::AvgPool3)],
            vec![edge(2, Operation::Sep5), edge(1, Operation::Skip), edge(0, Operation::Conv1)],
        ];
        let layout = CellLayout {
            stem: vec![4, 6],
            width: 4,
            cells: vec![CellKind::Normal, CellKind::Reduction, CellKind::Normal, CellKind::Reduction],
            nodes: 2,
            features: 5,
        };
        CellConfig { layout, genotype: Genotype { version: Genotype::VERSION, normal, reduction } }
    }

    #[test]
    fn the_counted_parameters_are_those_of_the_network_and_every_size_of_image_fits() {
        let params = Params::init(3, &Device::Cpu);
        let net = CellNet::new(&params, &config(), 3).unwrap();
        assert_eq!(params.count(), config().cost(28, 28, 3).params);
        for (h, w) in [(28, 28), (7, 13), (32, 32)] {
            let images = Tensor::randn(0f32, 1.0, (2, h, w, 3), &Device::Cpu).unwrap();
            assert_eq!(net.forward(&images, Mode::Train).unwrap().dims(), [2, 5]);
        }
    }

    #[test]
    fn multiply_accumulates_are_those_counted_by_hand() {
        // One normal cell with one node on 8 x 8 images of one channel: stem 9 x 4 x 64, inputs 2 x (4 x 2) x 64, node: depthwise 9 x 2 x 64
        // and pointwise 2 x 2 x 64 plus a 1x1 convolution 2 x 2 x 64, head 2 x 3.
        let edge = |from, op| Edge { from, op };
        let node = vec![vec![edge(0, Operation::Sep3), edge(1, Operation::Conv1)]];
        let layout = CellLayout { stem: vec![4], width: 2, cells: vec![CellKind::Normal], nodes: 1, features: 3 };
        let genotype = Genotype { version: Genotype::VERSION, normal: node.clone(), reduction: node };
        let cost = CellConfig { layout, genotype }.cost(8, 8, 1);
        assert_eq!(cost.macs, 64 * (36 + 16 + 18 + 4 + 4) + 6);
        // Weights, batch-norm pairs (stem 4, inputs 2 + 2, two operations of 2), head with bias.
        assert_eq!(cost.params, 36 + 16 + 18 + 4 + 4 + 2 * (4 + 4 + 4) + 9);
    }

    #[test]
    fn serving_agrees_with_training_in_evaluation_mode_and_does_not_mix_images() {
        let params = Params::init(5, &Device::Cpu);
        let net = CellNet::new(&params, &config(), 1).unwrap();
        let images = Tensor::randn(0f32, 1.0, (6, 14, 14, 1), &Device::Cpu).unwrap();
        for _ in 0..3 {
            net.forward(&images, Mode::Train).unwrap();
        }
        let served = CellNet::new(&Params::frozen(params.tensors().unwrap()), &config(), 1).unwrap();
        let rows = |t: Tensor| t.to_vec2::<f32>().unwrap();
        let (a, b) =
            (rows(net.forward(&images, Mode::Eval).unwrap()), rows(served.forward(&images, Mode::Eval).unwrap()));
        let side_by_side = rows(served.forward(&ops::images_last(&images).unwrap(), Mode::Eval).unwrap());
        assert_eq!(side_by_side[..6], b);
        for (i, (a, b)) in a.iter().zip(&b).enumerate() {
            let alone = rows(served.forward(&images.narrow(0, i, 1).unwrap(), Mode::Eval).unwrap());
            assert_eq!(&alone[0], b, "image {i}");
            for (a, b) in a.iter().zip(b) {
                assert!((a - b).abs() < 1e-4, "{a} {b}");
            }
        }
    }

    #[test]
    fn a_longer_stem_takes_large_colour_images() {
        let mut config = config();
        config.layout.stem = vec![2, 4, 4, 6];
        let net = CellNet::new(&Params::init(7, &Device::Cpu), &config, 3).unwrap();
        let images = Tensor::ones((1, 224, 224, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert_eq!(net.forward(&images, Mode::Eval).unwrap().dims(), [1, 5]);
        // Three strides in the stem and two reductions: 224 / 2^5 = 7.
        assert_eq!(config.layout.places(224, 224).last().unwrap().output, (7, 7));
    }

    #[test]
    fn layout_and_genotype_must_fit() {
        let mut bad = config();
        bad.layout.nodes = 3;
        assert!(bad.validate().unwrap_err().to_string().contains("nodes"));
        let mut bad = config();
        (bad.layout.width, bad.layout.stem) = (0, vec![]);
        let text = bad.validate().unwrap_err().to_string();
        assert!(text.contains("width = 0") && text.contains("stem has 0"), "{text}");
    }
}
