//! The fully connected layer.

use candle_core::Tensor;

use crate::{Init, Params, Result, ops};

/// y = x w^T + b. Parameters: `weight` `[out, in]`, `bias` `[out]`.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
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
        Ok(Self { weight, bias })
    }

    /// `[.., in]` to `[.., out]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::linear(x, &self.weight, self.bias.as_ref())
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
