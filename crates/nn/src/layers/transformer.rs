//! The parts of a transformer block.

use candle_core::Tensor;

use super::Linear;
use crate::{Init, Params, Result, ops};

/// Added to the variance, as in PyTorch.
const EPS: f64 = 1e-5;

/// Layer normalisation over the last axis. Parameters (if affine): `weight` and `bias` `[d]`.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    gamma: Option<Tensor>,
    beta: Option<Tensor>,
}

/// Multi-head self-attention over the tokens of each sample, with its projections: `qkv` (d to 3 d) and `out` (d to d).
#[derive(Debug, Clone)]
pub struct SelfAttention {
    qkv: Linear,
    out: Linear,
    heads: usize,
}

impl LayerNorm {
    /// A layer for rows of `d`; `affine` adds a learnt scale (1 at first) and offset (0 at first).
    pub fn new(params: &Params, d: usize, affine: bool) -> Result<Self> {
        if !affine {
            return Ok(Self { gamma: None, beta: None });
        }
        let gamma = Some(params.weight("weight", &[d], Init::Ones)?);
        Ok(Self { gamma, beta: Some(params.weight("bias", &[d], Init::Zeros)?) })
    }

    /// `[.., d]` to the same shape.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::layer_norm(x, self.gamma.as_ref(), self.beta.as_ref(), EPS)
    }
}

impl SelfAttention {
    /// A layer for tokens of `d` channels with `heads` heads, which divide `d`.
    pub fn new(params: &Params, d: usize, heads: usize) -> Result<Self> {
        Ok(Self { qkv: Linear::new(&params.sub("qkv"), d, 3 * d)?, out: Linear::new(&params.sub("out"), d, d)?, heads })
    }

    /// `[n, t, d]` to the same shape.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.out.forward(&ops::attention(&self.qkv.forward(x)?, self.heads)?)
    }
}
