//! The edge half of CAT: a feature vector becomes channel symbols.

use candle_core::Tensor;
use semlink_nn::layers::{LayerNorm, Linear};
use semlink_nn::{Params, ops};

use super::blocks::{Blocks, neutral};
use super::condition::{Condition, Embedding};
use super::{CatConfig, frame};
use crate::{Cost, Error, Result};

/// Turns feature vectors into frames of symbols, for the channel that it is told of.
///
/// Each token is a linear map of the whole feature vector, so that the split loses nothing; blocks of self-attention over the tokens; then
/// each token gives K/T symbols, which are dealt out so that every prefix takes from all tokens.
#[derive(Debug, Clone)]
pub struct CatEncoder {
    condition: Embedding,
    tokens: Linear,
    blocks: Blocks,
    norm: LayerNorm,
    scale_shift: Linear,
    symbols: Linear,
    shape: (usize, usize),
    max_uses: usize,
}

impl CatEncoder {
    /// Builds the encoder for feature vectors of this length.
    ///
    /// # Errors
    /// A faulty configuration; missing or misshapen parameters.
    pub fn new(params: &Params, config: &CatConfig, features: usize) -> Result<Self> {
        config.validate()?;
        let (tokens, width) = (config.tokens, config.encoder.width);
        Ok(Self {
            condition: Embedding::new(&params.sub("condition"), config)?,
            tokens: Linear::new(&params.sub("tokens"), features, tokens * width)?,
            blocks: Blocks::new(&params.sub("blocks"), &config.encoder)?,
            norm: LayerNorm::new(params, width, false)?,
            scale_shift: neutral(&params.sub("scale_shift"), 2 * width)?,
            symbols: Linear::new(&params.sub("symbols"), width, 2 * config.max_uses() / tokens)?,
            shape: (tokens, width),
            max_uses: config.max_uses(),
        })
    }

    /// Features \[n, features\] to frames \[n, 2 K\], K the largest number of uses: interleaved symbols of mean power 1, zeros beyond
    /// each frame's own k.
    ///
    /// # Errors
    /// One condition per row is needed; [`Error::Rate`] for a number of uses outside the set.
    pub fn forward(&self, features: &Tensor, conditions: &[Condition]) -> Result<Tensor> {
        let n = features.dim(0)?;
        if conditions.len() != n {
            return Err(Error::Size { what: "conditions", expected: n, got: conditions.len() });
        }
        let condition = self.condition.forward(conditions)?;
        let x = self.tokens.forward(features)?.reshape((n, self.shape.0, self.shape.1))?;
        let x = self.blocks.forward(&x, &condition)?;
        let x = ops::modulate(&self.norm.forward(&x)?, &self.scale_shift.forward(&condition)?)?;
        let uses: Vec<usize> = conditions.iter().map(|c| c.uses).collect();
        frame::to_frame(&self.symbols.forward(&x)?, &uses)
    }

    /// The largest number of channel uses K.
    pub fn max_uses(&self) -> usize {
        self.max_uses
    }

    /// Parameters and multiply-accumulates for one frame, all K symbols counted.
    pub fn cost(config: &CatConfig, features: usize) -> Cost {
        let (tokens, width) = (config.tokens, config.encoder.width);
        Embedding::cost(config)
            + Cost::linear(features, tokens * width)
            + Blocks::cost(&config.encoder, tokens)
            + Cost::linear(Embedding::WIDTH, 2 * width)
            + Cost::linear_over(width, 2 * config.max_uses() / tokens, tokens)
    }
}
