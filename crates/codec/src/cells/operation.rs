//! The operations that an edge of a cell may carry.

use candle_core::Tensor;
use semlink_nn::layers::{BatchNorm2d, Conv2d, ConvBn, ConvConfig, Scale};
use semlink_nn::ops::{self, Conv2dSpec, Pool2dSpec};
use semlink_nn::{Activation, Mode, Params};
use serde::{Deserialize, Serialize};

use crate::{Cost, Result};

/// What an edge does to a state of C channels; the result has C channels, at stride 2 half the height and width (rounded up).
///
/// Names and kinds are those of DARTS (Liu, Simonyan, Yang 2019), plus dense convolutions. Two differences keep inference cheap:
/// a separable convolution is applied once and not twice, and the ReLU stands behind a node's sum and not before each operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Operation {
    /// Nothing: the edge is absent. A candidate of the search, never part of a genotype.
    #[serde(rename = "none")]
    None,
    /// The identity; at stride 2 the mean of 3x3 pixels and a 1x1 convolution.
    #[serde(rename = "skip")]
    Skip,
    /// The largest of 3x3 pixels.
    #[serde(rename = "max_pool_3x3")]
    MaxPool3,
    /// The mean of 3x3 pixels.
    #[serde(rename = "avg_pool_3x3")]
    AvgPool3,
    /// Dense convolution of one pixel.
    #[serde(rename = "conv_1x1")]
    Conv1,
    /// Dense 3x3 convolution.
    #[serde(rename = "conv_3x3")]
    Conv3,
    /// Depthwise 3x3, then 1x1.
    #[serde(rename = "sep_conv_3x3")]
    Sep3,
    /// Depthwise 5x5, then 1x1.
    #[serde(rename = "sep_conv_5x5")]
    Sep5,
    /// Depthwise 3x3 with dilation 2 (5x5 pixels), then 1x1.
    #[serde(rename = "dil_conv_3x3")]
    Dil3,
    /// Depthwise 5x5 with dilation 2 (9x9 pixels), then 1x1.
    #[serde(rename = "dil_conv_5x5")]
    Dil5,
}

/// The 3x3 window of both pools, of strided skips and of strided cell inputs.
pub(super) fn window(stride: usize) -> Pool2dSpec {
    Pool2dSpec { kernel: 3, stride, padding: 1 }
}

impl Operation {
    /// Every operation.
    pub const ALL: [Self; 10] = [
        Self::None,
        Self::Skip,
        Self::MaxPool3,
        Self::AvgPool3,
        Self::Conv1,
        Self::Conv3,
        Self::Sep3,
        Self::Sep5,
        Self::Dil3,
        Self::Dil5,
    ];

    /// As in a genotype file.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Skip => "skip",
            Self::MaxPool3 => "max_pool_3x3",
            Self::AvgPool3 => "avg_pool_3x3",
            Self::Conv1 => "conv_1x1",
            Self::Conv3 => "conv_3x3",
            Self::Sep3 => "sep_conv_3x3",
            Self::Sep5 => "sep_conv_5x5",
            Self::Dil3 => "dil_conv_3x3",
            Self::Dil5 => "dil_conv_5x5",
        }
    }

    /// Kernel size and dilation of a depthwise convolution.
    fn depthwise(self) -> Option<(usize, usize)> {
        match self {
            Self::Sep3 => Some((3, 1)),
            Self::Sep5 => Some((5, 1)),
            Self::Dil3 => Some((3, 2)),
            Self::Dil5 => Some((5, 2)),
            _ => None,
        }
    }

    /// What the operation costs on `channels` channels with `pixels` output pixels, batch-norm with scale and offset included.
    pub fn cost(self, channels: usize, stride: usize, pixels: usize) -> Cost {
        let norm = Cost::norm(channels);
        match self {
            Self::None => Cost::default(),
            Self::Skip if stride == 1 => Cost::default(),
            Self::Skip | Self::Conv1 => Cost::conv_bn(1, channels, channels, pixels),
            Self::MaxPool3 | Self::AvgPool3 => norm,
            Self::Conv3 => Cost::conv_bn(3, channels, channels, pixels),
            Self::Sep3 | Self::Sep5 | Self::Dil3 | Self::Dil5 => {
                let kernel = self.depthwise().map_or(0, |(kernel, _)| kernel);
                Cost::depthwise(kernel, channels, pixels) + Cost::conv_bn(1, channels, channels, pixels)
            }
        }
    }
}

/// The layers of one [`Operation`] on one edge.
#[derive(Debug, Clone)]
pub struct OperationLayer(Body);

#[derive(Debug, Clone)]
enum Body {
    Identity,
    Pool {
        max: bool,
        window: Pool2dSpec,
        bn: BatchNorm2d,
    },
    /// Strided skip.
    Shrink(ConvBn),
    Dense(ConvBn),
    Separable {
        depthwise: Conv2d,
        pointwise: ConvBn,
    },
}

impl OperationLayer {
    /// The layers for a state of `channels` channels; [`Operation::None`] has none. `affine`: batch-norm with a learnt scale and offset;
    /// off in a search, where they would do the work of the architecture's own weights.
    ///
    /// # Errors
    /// Missing or misshapen parameters.
    pub fn new(
        params: &Params,
        operation: Operation,
        channels: usize,
        stride: usize,
        affine: bool,
    ) -> Result<Option<Self>> {
        let dense = |kernel, stride| {
            let config = ConvConfig::same(channels, channels, kernel, stride);
            ConvBn::with_affine(params, config, Activation::Identity, affine)
        };
        let pool = |max| -> Result<Body> {
            let bn = BatchNorm2d::new(&params.sub("bn"), channels, affine)?;
            Ok(Body::Pool { max, window: window(stride), bn })
        };
        Ok(Some(Self(match operation {
            Operation::None => return Ok(None),
            Operation::Skip if stride == 1 => Body::Identity,
            Operation::Skip => Body::Shrink(dense(1, 1)?),
            Operation::MaxPool3 => pool(true)?,
            Operation::AvgPool3 => pool(false)?,
            Operation::Conv1 => Body::Dense(dense(1, stride)?),
            Operation::Conv3 => Body::Dense(dense(3, stride)?),
            Operation::Sep3 | Operation::Sep5 | Operation::Dil3 | Operation::Dil5 => {
                let (kernel, dilation) = operation.depthwise().unwrap_or((3, 1));
                let spec = Conv2dSpec { stride, padding: dilation * (kernel / 2), dilation, groups: channels };
                let config = ConvConfig { inputs: channels, outputs: channels, kernel, spec };
                Body::Separable {
                    depthwise: Conv2d::new(&params.sub("depthwise"), config, false)?,
                    pointwise: dense(1, 1)?,
                }
            }
        })))
    }

    /// \[n, h, w, channels\] to \[n, h / stride, w / stride, channels\], halves rounded up.
    ///
    /// # Errors
    /// Another number of channels.
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        Ok(match &self.0 {
            Body::Identity => x.clone(),
            Body::Pool { max, window, bn } => bn.forward(&pool(x, *max, *window)?, Activation::Identity, mode)?,
            Body::Shrink(conv) => conv.forward(&pool(x, false, window(2))?, mode)?,
            Body::Dense(conv) => conv.forward(x, mode)?,
            Body::Separable { depthwise, pointwise } => pointwise.forward(&depthwise.forward(x)?, mode)?,
        })
    }

    /// As [`OperationLayer::forward`], the result multiplied by `scale`; for layers without a scale of their own.
    ///
    /// # Errors
    /// Another number of channels.
    pub fn forward_scaled(&self, x: &Tensor, scale: &Scale, mode: Mode) -> Result<Tensor> {
        Ok(match &self.0 {
            Body::Identity => scale.apply(x)?,
            Body::Pool { max, window, bn } => bn.forward_scaled(&pool(x, *max, *window)?, scale, mode)?,
            Body::Shrink(conv) => conv.forward_scaled(&pool(x, false, window(2))?, scale, mode)?,
            Body::Dense(conv) => conv.forward_scaled(x, scale, mode)?,
            Body::Separable { depthwise, pointwise } => {
                pointwise.forward_scaled(&depthwise.forward(x)?, scale, mode)?
            }
        })
    }
}

fn pool(x: &Tensor, max: bool, window: Pool2dSpec) -> Result<Tensor> {
    Ok(if max { ops::max_pool2d(x, window)? } else { ops::avg_pool2d(x, window)? })
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn every_operation_has_the_parameters_that_it_is_counted_with_and_halves_at_stride_2() {
        for operation in Operation::ALL {
            for stride in [1, 2] {
                let params = Params::init(1, &Device::Cpu);
                let layer = OperationLayer::new(&params, operation, 6, stride, true).unwrap();
                let Some(layer) = layer else {
                    assert_eq!(operation, Operation::None);
                    continue;
                };
                let out = if stride == 1 { 7 } else { 4 };
                assert_eq!(
                    params.count(),
                    operation.cost(6, stride, out * out).params,
                    "{operation:?}, stride {stride}"
                );
                let x = Tensor::ones((2, 7, 7, 6), candle_core::DType::F32, &Device::Cpu).unwrap();
                assert_eq!(layer.forward(&x, Mode::Train).unwrap().dims(), [2, out, out, 6], "{operation:?}");
            }
        }
    }

    #[test]
    fn a_scaled_operation_is_a_multiple_of_the_plain_one() {
        for operation in Operation::ALL {
            let params = Params::init(2, &Device::Cpu);
            let Some(layer) = OperationLayer::new(&params, operation, 4, 1, false).unwrap() else { continue };
            let x = Tensor::randn(0f32, 1.0, (3, 5, 5, 4), &Device::Cpu).unwrap();
            let scale = Scale::new(&Tensor::new(&[0.25f32; 4], &Device::Cpu).unwrap()).unwrap();
            for mode in [Mode::Probe, Mode::Eval] {
                let plain: Vec<f32> = layer.forward(&x, mode).unwrap().flatten_all().unwrap().to_vec1().unwrap();
                let scaled = layer.forward_scaled(&x, &scale, mode).unwrap();
                let scaled: Vec<f32> = scaled.flatten_all().unwrap().to_vec1().unwrap();
                for (a, b) in plain.iter().zip(&scaled) {
                    assert!((0.25 * a - b).abs() < 1e-5, "{operation:?}: {a} {b}");
                }
            }
        }
    }
}
