//! Transformer blocks whose normalisation and branches are conditioned on the channel.

use candle_core::Tensor;
use semlink_nn::layers::{LayerNorm, Linear, SelfAttention};
use semlink_nn::{Activation, Init, Params, ops};

use super::BlocksConfig;
use super::condition::Embedding;
use crate::{Cost, Result};

/// A stack of blocks on tokens \[n, tokens, width\]; attention runs over the tokens of one sample.
#[derive(Debug, Clone)]
pub(super) struct Blocks {
    blocks: Vec<Block>,
}

#[derive(Debug, Clone)]
struct Block {
    norm: LayerNorm,
    attention: SelfAttention,
    up: Linear,
    down: Linear,
    /// From the condition to scale, shift and gate of both branches.
    condition: [Linear; 4],
}

impl Blocks {
    pub(super) fn new(params: &Params, config: &BlocksConfig) -> Result<Self> {
        let blocks = (0..config.blocks).map(|i| Block::new(&params.sub(i), config)).collect::<Result<_>>()?;
        Ok(Self { blocks })
    }

    pub(super) fn forward(&self, x: &Tensor, condition: &Tensor) -> Result<Tensor> {
        self.blocks.iter().try_fold(x.clone(), |x, block| block.forward(&x, condition))
    }

    pub(super) fn cost(config: &BlocksConfig, tokens: usize) -> Cost {
        let BlocksConfig { width, blocks, expansion, .. } = *config;
        let per_token = Cost::linear_over(width, 3 * width, tokens)
            + Cost::linear_over(width, width, tokens)
            + Cost::linear_over(width, expansion * width, tokens)
            + Cost::linear_over(expansion * width, width, tokens);
        // Scores and weighted sums: two products of tokens x tokens x width.
        let attention = Cost { params: 0, macs: (2 * tokens * tokens * width) as u64 };
        let condition = Cost::linear(Embedding::WIDTH, 6 * width);
        let mut condition = condition;
        // Four layers have the biases of the one.
        condition.params = Embedding::WIDTH * 6 * width + 6 * width;
        (0..blocks).map(|_| per_token + attention + condition).sum()
    }
}

/// A linear map from the condition that changes nothing at first.
pub(super) fn neutral(params: &Params, outputs: usize) -> Result<Linear> {
    Ok(Linear::with_init(params, Embedding::WIDTH, outputs, Init::Normal { std: 1e-3 }, true)?)
}

impl Block {
    fn new(params: &Params, config: &BlocksConfig) -> Result<Self> {
        let BlocksConfig { width, heads, expansion, .. } = *config;
        let condition = |name: &str, outputs| neutral(&params.sub(name), outputs);
        Ok(Self {
            norm: LayerNorm::new(params, width, false)?,
            attention: SelfAttention::new(&params.sub("attention"), width, heads)?,
            up: Linear::new(&params.sub("up"), width, expansion * width)?,
            down: Linear::new(&params.sub("down"), expansion * width, width)?,
            condition: [
                condition("attention_scale_shift", 2 * width)?,
                condition("attention_gate", width)?,
                condition("mlp_scale_shift", 2 * width)?,
                condition("mlp_gate", width)?,
            ],
        })
    }

    fn forward(&self, x: &Tensor, condition: &Tensor) -> Result<Tensor> {
        let [attention_in, attention_gate, mlp_in, mlp_gate] = &self.condition;
        let y = ops::modulate(&self.norm.forward(x)?, &attention_in.forward(condition)?)?;
        let x = ops::gated_add(x, &self.attention.forward(&y)?, &attention_gate.forward(condition)?)?;
        let y = ops::modulate(&self.norm.forward(&x)?, &mlp_in.forward(condition)?)?;
        let y = ops::activate(&self.up.forward(&y)?, Activation::Gelu)?;
        Ok(ops::gated_add(&x, &self.down.forward(&y)?, &mlp_gate.forward(condition)?)?)
    }
}
