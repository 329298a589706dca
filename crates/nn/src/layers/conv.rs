//! Convolutions, alone and with batch normalisation.

use candle_core::Tensor;

use super::{BatchNorm2d, Scale};
use crate::ops::{self, Activation, Conv2dSpec};
use crate::{Error, Init, Mode, Params, Result};

/// Sizes of a convolution layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvConfig {
    /// Input channels.
    pub inputs: usize,
    /// Output channels.
    pub outputs: usize,
    /// Kernel height and width.
    pub kernel: usize,
    /// Stride, padding, dilation, groups.
    pub spec: Conv2dSpec,
}

/// A convolution, with or without bias. Parameters: `weight` `[k, k, in/groups, out]`, `bias` `[out]`.
#[derive(Debug, Clone)]
pub struct Conv2d {
    weight: Tensor,
    bias: Option<Tensor>,
    spec: Conv2dSpec,
}

/// Convolution without bias, batch normalisation, activation. Parameters: `conv.weight` `[k, k, in/groups, out]` and those of
/// [`BatchNorm2d`] below `bn`. Built from frozen parameters it is one convolution with bias, whatever the [`Mode`].
#[derive(Debug, Clone)]
pub struct ConvBn {
    act: Activation,
    body: Body,
}

#[derive(Debug, Clone)]
enum Body {
    Learning { conv: Conv2d, bn: BatchNorm2d },
    Folded(Conv2d),
}

impl ConvConfig {
    /// A dense convolution that keeps height and width at stride 1: padding (kernel - 1) / 2.
    pub fn same(inputs: usize, outputs: usize, kernel: usize, stride: usize) -> Self {
        let padding = kernel.saturating_sub(1) / 2;
        let spec = Conv2dSpec { stride, padding, dilation: 1, groups: 1 };
        Self { inputs, outputs, kernel, spec }
    }

    fn weight(&self, params: &Params) -> Result<Tensor> {
        let groups = self.spec.groups;
        if groups == 0 || !self.inputs.is_multiple_of(groups) || !self.outputs.is_multiple_of(groups) {
            return Err(Error::Argument {
                op: "conv2d",
                what: format!("{} inputs and {} outputs do not divide into {groups} groups", self.inputs, self.outputs),
            });
        }
        // Fan-out as is usual for residual networks: the backward signal keeps its variance.
        let fan = self.kernel * self.kernel * self.outputs / groups;
        let shape = [self.kernel, self.kernel, self.inputs / groups, self.outputs];
        params.weight("weight", &shape, Init::KaimingNormal { fan })
    }
}

impl Conv2d {
    /// A convolution; Kaiming-normal weight by fan-out, zero bias.
    pub fn new(params: &Params, config: ConvConfig, bias: bool) -> Result<Self> {
        let weight = config.weight(params)?;
        let bias = if bias { Some(params.weight("bias", &[config.outputs], Init::Zeros)?) } else { None };
        Ok(Self { weight, bias, spec: config.spec })
    }

    /// `[n, h, w, in]` to `[n, oh, ow, out]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_act(x, Activation::Identity)
    }

    /// As [`Conv2d::forward`], with an activation applied to the result.
    pub fn forward_act(&self, x: &Tensor, act: Activation) -> Result<Tensor> {
        ops::conv2d_bias_act(x, &self.weight, self.bias.as_ref(), act, self.spec)
    }
}

impl ConvBn {
    /// The layer with affine batch-norm.
    pub fn new(params: &Params, config: ConvConfig, act: Activation) -> Result<Self> {
        Self::with_affine(params, config, act, true)
    }

    /// The layer with affine batch-norm or with the plain normalisation (architecture search).
    pub fn with_affine(params: &Params, config: ConvConfig, act: Activation, affine: bool) -> Result<Self> {
        let conv = Conv2d::new(&params.sub("conv"), config, false)?;
        let bn = BatchNorm2d::new(&params.sub("bn"), config.outputs, affine)?;
        // What is scaled from elsewhere is never folded.
        if !params.is_frozen() || !affine {
            return Ok(Self { act, body: Body::Learning { conv, bn } });
        }
        let (scale, offset) = bn.scale_and_offset()?;
        let folded =
            Conv2d { weight: conv.weight.broadcast_mul(&scale)?.contiguous()?, bias: Some(offset), spec: config.spec };
        Ok(Self { act, body: Body::Folded(folded) })
    }

    /// `[n, h, w, in]` to `[n, oh, ow, out]`.
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        match &self.body {
            Body::Learning { conv, bn } => bn.forward(&ops::conv2d(x, &conv.weight, conv.spec)?, self.act, mode),
            Body::Folded(conv) => conv.forward_act(x, self.act),
        }
    }

    /// As [`ConvBn::forward`] without activation, the result multiplied by `scale`; for a layer that is not affine.
    ///
    /// # Errors
    /// The layer has a scale of its own; another number of channels.
    pub fn forward_scaled(&self, x: &Tensor, scale: &Scale, mode: Mode) -> Result<Tensor> {
        match &self.body {
            Body::Learning { conv, bn } => bn.forward_scaled(&conv.forward(x)?, scale, mode),
            Body::Folded(_) => {
                Err(Error::Argument { op: "batch_norm", what: "this layer has a scale of its own".into() })
            }
        }
    }
}
