//! The fully connected layer.

use candle_core::Tensor;

use crate::{Init, Params, Result, ops};

/// y = x w^T + b. Parameters: `weight` `[out, in]`, `bias` `[out]`.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
    /// The weight as serving reads it, `[in, out]`; only when frozen.
    transposed: Option<Tensor>,
}

impl Linear {
    /// A layer with bias; Xavier-uniform weight, zero bias.
    pub fn new(params: &Params, inputs: usize, outputs: usize) -> Result<Self> {
        let init = Init::XavierUniform { fan_in: inputs, fan_out: outputs };
        Self::with_init(params, inputs, outputs, init, true)
    }

    /// A layer with its own initialisation, with or without (zero) bias.
    pub fn with_init(params: &Params, inputs: usize, outputs: usize, init: Init, bias: bool) -> Result<Self> {
        let weight = params.weight("weight", &[outputs, inputs], init)?;
        let bias = if bias { Some(params.weight("bias", &[outputs], Init::Zeros)?) } else { None };
        let transposed = if params.is_frozen() { Some(weight.t()?.contiguous()?) } else { None };
        Ok(Self { weight, bias, transposed })
    }

    /// `[.., in]` to `[.., out]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match &self.transposed {
            Some(transposed) if !x.track_op() => ops::linear_transposed(x, transposed, self.bias.as_ref()),
            _ => ops::linear(x, &self.weight, self.bias.as_ref()),
        }
    }

    /// The weight, `[out, in]`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The bias, `[out]`.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }
}
