//! The server half of CAT: received symbols become a feature vector.

use candle_core::Tensor;
use semlink_nn::layers::Linear;
use semlink_nn::{Activation, Params, ops};

use super::blocks::{Blocks, neutral};
use super::condition::Embedding;
use super::{CatConfig, Estimates, frame};
use crate::{Cost, Result};

/// Turns frames of estimated symbols into feature vectors.
///
/// The symbols enter linearly, scaled by their reliability, and reach the last layer past all blocks: at low SNR the best receiver is a
/// correlator, and nothing in the way of one is normalised.
#[derive(Debug, Clone)]
pub struct CatDecoder {
    condition: Embedding,
    embed: Linear,
    scale_shift: Linear,
    blocks: Blocks,
    hidden: Linear,
    features: Linear,
    tokens: usize,
}

impl CatDecoder {
    /// Builds the decoder for feature vectors of this length.
    ///
    /// # Errors
    /// A faulty configuration; missing or misshapen parameters.
    pub fn new(params: &Params, config: &CatConfig, features: usize) -> Result<Self> {
        config.validate()?;
        let (tokens, width) = (config.tokens, config.decoder.width);
        Ok(Self {
            condition: Embedding::new(&params.sub("condition"), config)?,
            embed: Linear::new(&params.sub("embed"), 3 * config.max_uses() / tokens, width)?,
            scale_shift: neutral(&params.sub("scale_shift"), 2 * width)?,
            blocks: Blocks::new(&params.sub("blocks"), &config.decoder)?,
            hidden: Linear::new(&params.sub("hidden"), tokens * width, 2 * features)?,
            features: Linear::new(&params.sub("features"), 2 * features, features)?,
            tokens,
        })
    }

    /// Estimates of n frames to features \[n, features\].
    ///
    /// # Errors
    /// [`crate::Error::Rate`] for a number of uses outside the set.
    pub fn forward(&self, received: &Estimates) -> Result<Tensor> {
        let condition = self.condition.forward(&received.conditions)?;
        let uses: Vec<usize> = received.conditions.iter().map(|c| c.uses).collect();
        let x = frame::to_tokens(&received.symbols, &received.reliability, self.tokens, &uses)?;
        let x = ops::modulate(&self.embed.forward(&x)?, &self.scale_shift.forward(&condition)?)?;
        let x = self.blocks.forward(&x, &condition)?;
        let x = ops::activate(&self.hidden.forward(&x.flatten_from(1)?)?, Activation::Gelu)?;
        Ok(self.features.forward(&x)?)
    }

    /// Parameters and multiply-accumulates for one frame, all K symbols counted.
    pub fn cost(config: &CatConfig, features: usize) -> Cost {
        let (tokens, width) = (config.tokens, config.decoder.width);
        Embedding::cost(config)
            + Cost::linear_over(3 * config.max_uses() / tokens, width, tokens)
            + Cost::linear(Embedding::WIDTH, 2 * width)
            + Blocks::cost(&config.decoder, tokens)
            + Cost::linear(tokens * width, 2 * features)
            + Cost::linear(2 * features, features)
    }
}
