//! Blocks of self-attention and perceptrons, for inference, on every device: in f32 with semlink-nn's operators where it has them, in half precision,
//! which it does not know, with candle's.

use candle_core::{D, DType, Tensor};
use candle_nn::ops;
use semlink_nn::ops::{self as ours, Activation};

use super::config::{Blocks, Hidden};
use super::silu::silu;
use super::weights::Weights;
use crate::Result;

/// Whether semlink-nn's operators take it.
pub(super) fn is_f32(x: &Tensor) -> bool {
    x.dtype() == DType::F32
}

/// y = x w^T + b.
#[derive(Clone, Debug)]
pub(super) struct Linear {
    /// \[out, in\].
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    pub(super) fn new(weights: &Weights, weight: &Tensor, bias: Option<&Tensor>) -> Result<Self> {
        Ok(Self { weight: weights.place(weight)?, bias: bias.map(|bias| weights.place(bias)).transpose()? })
    }

    /// x \[.., in\], contiguous.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if is_f32(x) {
            return Ok(ours::linear(x, &self.weight, self.bias.as_ref())?);
        }
        // One product of two matrices, which is faster than one for each image.
        let (mut dims, outputs) = (x.dims().to_vec(), self.weight.dim(0)?);
        let y = x.reshape(((), x.dim(D::Minus1)?))?.matmul(&self.weight.t()?)?;
        let y = match &self.bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        };
        if let Some(last) = dims.last_mut() {
            *last = outputs;
        }
        Ok(y.reshape(dims)?)
    }
}

/// Layer normalisation over the last axis.
#[derive(Clone, Debug)]
pub(super) struct Norm {
    gamma: Tensor,
    beta: Tensor,
    eps: f32,
}

impl Norm {
    pub(super) fn new(weights: &Weights, name: &str, width: usize, eps: f32) -> Result<Self> {
        let part = |part: &str| weights.place(&weights.raw(&format!("{name}.{part}"), &[width])?);
        Ok(Self { gamma: part("weight")?, beta: part("bias")?, eps })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if is_f32(x) {
            return Ok(ours::layer_norm(x, Some(&self.gamma), Some(&self.beta), self.eps.into())?);
        }
        Ok(ops::layer_norm(&x.contiguous()?, &self.gamma, &self.beta, self.eps)?)
    }
}

/// Names of a block's parameters below its prefix.
pub(super) struct Names {
    /// Queries, keys, values, output.
    pub(super) attention: [&'static str; 4],
    pub(super) norms: [&'static str; 2],
    /// Into the perceptron and out of it.
    pub(super) hidden: [&'static str; 2],
    /// Factors of the two branches, if there are some.
    pub(super) scales: Option<[&'static str; 2]>,
}

/// One block: x + attention(norm(x)), then x + perceptron(norm(x)).
#[derive(Clone, Debug)]
pub(super) struct Block {
    norms: [Norm; 2],
    qkv: Linear,
    out: Linear,
    hidden: [Linear; 2],
    function: Hidden,
    heads: usize,
    /// Whether scores are scaled by the operator, not by the weights.
    fused: bool,
}

/// In x sigmoid(1.702 x).
const QUICK: f64 = 1.702;

impl Block {
    /// `masked`: whether [`Block::forward`] gets a mask.
    pub(super) fn new(weights: &Weights, prefix: &str, names: &Names, config: &Blocks, masked: bool) -> Result<Self> {
        let (width, function) = (config.width, config.function);
        let full = |name: &str, part: &str| format!("{prefix}.{name}.{part}");
        let pair = |name: &str, inputs: usize, outputs: usize, bias: bool| -> Result<(Tensor, Option<Tensor>)> {
            let weight = weights.raw(&full(name, "weight"), &[outputs, inputs])?;
            let bias = bias.then(|| weights.raw(&full(name, "bias"), &[outputs])).transpose()?;
            Ok((weight, bias))
        };
        let scale = |branch: usize| -> Result<Option<Tensor>> {
            let name = config_scale(names, branch);
            name.map(|name| weights.raw(&format!("{prefix}.{name}"), &[width])).transpose()
        };
        let [q, k, v, out] = names.attention;
        let fused = weights.dtype() == DType::F32 && !masked;
        // Queries come scaled by 1 / sqrt(width of a head).
        let shrink = if fused { 1.0 } else { 1.0 / ((width / config.heads) as f64).sqrt() };
        let parts = [(q, shrink), (k, 1.0), (v, 1.0)].map(|(name, factor)| {
            let (weight, bias) = pair(name, width, width, config.qkv_bias)?;
            Ok((weight.affine(factor, 0.0)?, bias.map(|bias| bias.affine(factor, 0.0)).transpose()?))
        });
        let parts = parts.into_iter().collect::<Result<Vec<_>>>()?;
        let weight = Tensor::cat(&parts.iter().map(|(weight, _)| weight).collect::<Vec<_>>(), 0)?;
        let biases: Vec<&Tensor> = parts.iter().filter_map(|(_, bias)| bias.as_ref()).collect();
        let bias = if biases.is_empty() { None } else { Some(Tensor::cat(&biases, 0)?) };
        let qkv = Linear::new(weights, &weight, bias.as_ref())?;

        let (weight, bias) = scaled(pair(out, width, width, true)?, scale(0)?)?;
        let out = Linear::new(weights, &weight, bias.as_ref())?;

        let [first, second] = names.hidden;
        let inner = if function == Hidden::SwiGlu { 2 * config.hidden } else { config.hidden };
        let (mut first_weight, mut first_bias) = pair(first, width, inner, true)?;
        let (mut weight, bias) = scaled(pair(second, config.hidden, width, true)?, scale(1)?)?;
        if function == Hidden::QuickGelu {
            // x sigmoid(a x) = silu(a x) / a: with the factors in the layers around it, one operator.
            first_weight = first_weight.affine(QUICK, 0.0)?;
            first_bias = first_bias.map(|bias| bias.affine(QUICK, 0.0)).transpose()?;
            weight = weight.affine(1.0 / QUICK, 0.0)?;
        }
        let hidden =
            [Linear::new(weights, &first_weight, first_bias.as_ref())?, Linear::new(weights, &weight, bias.as_ref())?];
        let norm = |name: &str| Norm::new(weights, &format!("{prefix}.{name}"), width, config.eps);
        let norms = [norm(names.norms[0])?, norm(names.norms[1])?];
        Ok(Self { norms, qkv, out, hidden, function, heads: config.heads, fused })
    }

    /// x \[n, t, width\]; `mask` \[t, t\] is added to the scores of queries (rows) and keys. With `first`, only the first token's state comes
    /// out, \[n, 1, width\]: all that is left to compute in the last block of a tower that is read there.
    pub(super) fn forward(&self, x: &Tensor, mask: Option<&Tensor>, first: bool) -> Result<Tensor> {
        let qkv = self.qkv.forward(&self.norms[0].forward(x)?)?;
        let attended = if self.fused { ours::attention(&qkv, self.heads)? } else { self.attend(&qkv, mask, first)? };
        let head = |x: &Tensor| if first { x.narrow(1, 0, 1)?.contiguous() } else { Ok(x.clone()) };
        let (x, attended) = (head(x)?, head(&attended)?);
        let x = (x + self.out.forward(&attended)?)?;
        let hidden = self.hidden[0].forward(&self.norms[1].forward(&x)?)?;
        let hidden = match self.function {
            Hidden::QuickGelu => silu(hidden)?,
            Hidden::Gelu if is_f32(&hidden) => ours::activate(&hidden, Activation::Gelu)?,
            Hidden::Gelu => hidden.gelu_erf()?,
            Hidden::GeluTanh => hidden.gelu()?,
            Hidden::SwiGlu => {
                let half = hidden.dim(D::Minus1)? / 2;
                let gate = hidden.narrow(D::Minus1, 0, half)?.contiguous()?;
                let gate = silu(gate)?;
                (gate * hidden.narrow(D::Minus1, half, half)?)?
            }
        };
        Ok((x + self.hidden[1].forward(&hidden)?)?)
    }

    /// Attention of queries, keys and values \[n, t, 3 width\], the queries scaled: \[n, t, width\], or \[n, 1, width\] of the first alone.
    fn attend(&self, qkv: &Tensor, mask: Option<&Tensor>, first: bool) -> Result<Tensor> {
        let (n, tokens, triple) = qkv.dims3()?;
        let width = triple / 3;
        // [3, n, heads, t, width of a head]
        let qkv =
            qkv.reshape((n, tokens, 3, self.heads, width / self.heads))?.permute((2, 0, 3, 1, 4))?.contiguous()?;
        let (mut q, k, v) = (qkv.get(0)?, qkv.get(1)?, qkv.get(2)?);
        if first {
            q = q.narrow(2, 0, 1)?.contiguous()?;
        }
        let mut scores = q.matmul(&k.t()?)?;
        if let Some(mask) = mask {
            scores = scores.broadcast_add(mask)?;
        }
        let attended = ops::softmax_last_dim(&scores)?.matmul(&v)?;
        Ok(attended.transpose(1, 2)?.contiguous()?.reshape((n, (), width))?)
    }
}

fn config_scale(names: &Names, branch: usize) -> Option<&'static str> {
    names.scales.and_then(|scales| scales.get(branch).copied())
}

/// A layer whose outputs are multiplied by factors.
fn scaled((weight, bias): (Tensor, Option<Tensor>), factors: Option<Tensor>) -> Result<(Tensor, Option<Tensor>)> {
    let Some(factors) = factors else { return Ok((weight, bias)) };
    let weight = weight.broadcast_mul(&factors.unsqueeze(1)?)?;
    Ok((weight, bias.map(|bias| bias * factors).transpose()?))
}

/// Parameters of a stack of blocks as a checkpoint has them.
pub(super) fn count(config: &Blocks, scales: bool) -> usize {
    let Blocks { width, hidden, .. } = *config;
    let inner = if config.function == Hidden::SwiGlu { 2 * hidden } else { hidden };
    let attention = 4 * width * width + if config.qkv_bias { 4 } else { 1 } * width;
    let perceptron = width * inner + inner + hidden * width + width;
    config.layers * (attention + perceptron + 4 * width + if scales { 2 * width } else { 0 })
}
