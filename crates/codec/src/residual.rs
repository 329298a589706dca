//! The residual network that turns an image into a feature vector: the student on the edge, and the teacher, only larger.

use candle_core::Tensor;
use semlink_nn::layers::{ConvBn, ConvConfig, Linear};
use semlink_nn::{Activation, Mode, Params, ops};
use serde::{Deserialize, Serialize};

use crate::cost::Cost;
use crate::{Error, Result};

/// Sizes of a residual network.
///
/// A 3x3 stem at the image's resolution, then stages; each is a 3x3 convolution that changes resolution and width, followed by `blocks`
/// residual blocks of two 3x3 convolutions (He et al. 2016, with the shortcut always the identity); then global average
/// pooling and a linear map to the feature vector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResidualConfig {
    /// Channels of the stem.
    pub stem: usize,
    /// The stages, in order.
    pub stages: Vec<StageConfig>,
    /// Length of the feature vector.
    pub features: usize,
}

/// One stage of a [`ResidualConfig`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageConfig {
    /// Output channels.
    pub channels: usize,
    /// Residual blocks behind the first convolution.
    pub blocks: usize,
    /// Stride of the first convolution.
    pub stride: usize,
}

impl ResidualConfig {
    /// Checks every field for images of `channels` channels.
    ///
    /// # Errors
    /// [`Error::Config`] with all faults.
    pub fn validate(&self) -> Result<()> {
        let mut faults = Vec::new();
        let mut check = |ok: bool, name: String, value: usize, range: &str| {
            if !ok {
                faults.push(format!("{name} = {value}, expected {range}"));
            }
        };
        check((1..=1024).contains(&self.stem), "stem".into(), self.stem, "1 to 1024 channels");
        check((1..=4096).contains(&self.features), "features".into(), self.features, "1 to 4096");
        check((1..=8).contains(&self.stages.len()), "stages".into(), self.stages.len(), "1 to 8 stages");
        for (i, stage) in self.stages.iter().enumerate() {
            check((1..=4096).contains(&stage.channels), format!("stages[{i}].channels"), stage.channels, "1 to 4096");
            check(stage.blocks <= 64, format!("stages[{i}].blocks"), stage.blocks, "0 to 64");
            check((1..=4).contains(&stage.stride), format!("stages[{i}].stride"), stage.stride, "1 to 4");
        }
        if faults.is_empty() { Ok(()) } else { Err(Error::Config { what: "residual network", faults }) }
    }

    /// Parameters and multiply-accumulates for one image of `height` x `width` x `channels`.
    pub fn cost(&self, height: usize, width: usize, channels: usize) -> Cost {
        let (mut h, mut w) = (height, width);
        let mut cost = Cost::conv_bn(3, channels, self.stem, h * w);
        let mut inputs = self.stem;
        for stage in &self.stages {
            // 3x3, padding 1: the output has ceil(size / stride) pixels.
            (h, w) = (h.div_ceil(stage.stride), w.div_ceil(stage.stride));
            cost += Cost::conv_bn(3, inputs, stage.channels, h * w);
            for _ in 0..2 * stage.blocks {
                cost += Cost::conv_bn(3, stage.channels, stage.channels, h * w);
            }
            inputs = stage.channels;
        }
        cost + Cost::linear(inputs, self.features)
    }
}

/// The network of a [`ResidualConfig`].
#[derive(Debug, Clone)]
pub struct ResidualNet {
    stem: ConvBn,
    stages: Vec<Stage>,
    features: Linear,
}

#[derive(Debug, Clone)]
struct Stage {
    down: ConvBn,
    blocks: Vec<(ConvBn, ConvBn)>,
}

impl ResidualNet {
    /// Builds the network for images of `channels` channels.
    ///
    /// # Errors
    /// A faulty configuration; missing or misshapen parameters.
    pub fn new(params: &Params, config: &ResidualConfig, channels: usize) -> Result<Self> {
        config.validate()?;
        let stem = ConvBn::new(&params.sub("stem"), ConvConfig::same(channels, config.stem, 3, 1), Activation::Relu)?;
        let mut inputs = config.stem;
        let mut stages = Vec::new();
        for (i, stage) in config.stages.iter().enumerate() {
            let params = params.sub(format!("stage{i}"));
            let width = stage.channels;
            let down = ConvConfig::same(inputs, width, 3, stage.stride);
            let inner = ConvConfig::same(width, width, 3, 1);
            let block = |b: usize| {
                let params = params.sub(format!("block{b}"));
                Ok((
                    ConvBn::new(&params.sub("first"), inner, Activation::Relu)?,
                    ConvBn::new(&params.sub("second"), inner, Activation::Identity)?,
                ))
            };
            stages.push(Stage {
                down: ConvBn::new(&params.sub("down"), down, Activation::Relu)?,
                blocks: (0..stage.blocks).map(block).collect::<Result<_>>()?,
            });
            inputs = width;
        }
        Ok(Self { stem, stages, features: Linear::new(&params.sub("features"), inputs, config.features)? })
    }

    /// Images \[n, h, w, channels\], preprocessed, to feature vectors \[n, features\].
    ///
    /// # Errors
    /// Another number of channels, or images smaller than the strides need.
    pub fn forward(&self, images: &Tensor, mode: Mode) -> Result<Tensor> {
        let mut x = self.stem.forward(images, mode)?;
        for stage in &self.stages {
            x = stage.down.forward(&x, mode)?;
            for (first, second) in &stage.blocks {
                let y = second.forward(&first.forward(&x, mode)?, mode)?;
                x = ops::add_activate(&x, &y, Activation::Relu)?;
            }
        }
        Ok(self.features.forward(&ops::global_avg_pool(&x)?)?)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;

    fn small() -> ResidualConfig {
        let stage = |channels, blocks, stride| StageConfig { channels, blocks, stride };
        ResidualConfig { stem: 4, stages: vec![stage(8, 1, 2), stage(12, 0, 2)], features: 6 }
    }

    #[test]
    fn counted_parameters_are_the_parameters_built() {
        let params = Params::init(1, &Device::Cpu);
        ResidualNet::new(&params, &small(), 3).unwrap();
        assert_eq!(small().cost(9, 7, 3).params, params.count());
    }

    #[test]
    fn cost_by_hand() {
        // 9 x 7 x 3 images: stem at 63 pixels, stages at 5 x 4 = 20 and 3 x 2 = 6.
        let stem = 9 * 3 * 4;
        let (first, inner, second) = (9 * 4 * 8, 9 * 8 * 8, 9 * 8 * 12);
        let cost = small().cost(9, 7, 3);
        assert_eq!(cost.macs, (stem * 63 + (first + 2 * inner) * 20 + second * 6 + 12 * 6) as u64);
        let batch_norm = 2 * (4 + 8 + 8 + 8 + 12);
        assert_eq!(cost.params, stem + first + 2 * inner + second + batch_norm + 12 * 6 + 6);
    }

    #[test]
    fn an_image_gives_the_same_features_in_any_batch() {
        let params = Params::init(2, &Device::Cpu);
        let net = ResidualNet::new(&params, &small(), 1).unwrap();
        let pixels: Vec<f32> = (0..5 * 81).map(|i| ((i * 37) % 101) as f32 / 101.0).collect();
        let images = Tensor::from_vec(pixels, (5, 9, 9, 1), &Device::Cpu).unwrap();
        let all: Vec<Vec<f32>> = net.forward(&images, Mode::Eval).unwrap().to_vec2().unwrap();
        for (i, together) in all.iter().enumerate() {
            let alone: Vec<Vec<f32>> =
                net.forward(&images.narrow(0, i, 1).unwrap(), Mode::Eval).unwrap().to_vec2().unwrap();
            for (a, b) in alone[0].iter().zip(together) {
                assert!((a - b).abs() < 1e-5, "image {i}: {a} alone, {b} together");
            }
        }
    }

    #[test]
    fn every_fault_is_listed() {
        let bad =
            ResidualConfig { stem: 0, stages: vec![StageConfig { channels: 0, blocks: 65, stride: 5 }], features: 0 };
        let message = bad.validate().unwrap_err().to_string();
        for field in ["stem", "features", "stages[0].channels", "stages[0].blocks", "stages[0].stride"] {
            assert!(message.contains(field), "{message} lacks {field}");
        }
    }
}
