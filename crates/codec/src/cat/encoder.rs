//! The edge half of CAT: a feature vector becomes channel symbols.

use candle_core::Tensor;
use semlink_nn::layers::{LayerNorm, Linear};
use semlink_nn::{Init, Params, ops};

use super::blocks::{Blocks, neutral};
use super::condition::{Condition, Embedding};
use super::{CatConfig, frame};
use crate::{Cost, Error, Result};

/// Turns feature vectors into frames of symbols, for the channel that it is told of.
///
/// Each token is a linear map of the whole feature vector, so that the split loses nothing, plus a codeword: the vector attends to a learnt
/// codebook, more or less sharply as the channel's condition asks. At high SNR features are worth sending; at low SNR nothing beats a simplex
/// code on the decision, which a sharp choice among codewords is (docs/CHANNELS.md, "The limit"). Then come blocks of self-attention over the tokens, and
/// each token gives K/T symbols, which are dealt out so that every prefix takes from all tokens.
#[derive(Debug, Clone)]
pub struct CatEncoder {
    condition: Embedding,
    tokens: Linear,
    codebook: Option<Codebook>,
    blocks: Blocks,
    norm: LayerNorm,
    scale_shift: Linear,
    symbols: Linear,
    shape: (usize, usize),
    max_uses: usize,
}

/// c = softmax(sharpness (W f + b)) V, the attention of a feature vector to a codebook.
#[derive(Debug, Clone)]
struct Codebook {
    scores: Linear,
    /// From the condition: sharpness, as scale of all scores.
    sharpness: Linear,
    /// From the condition: scale of the features' and of the codeword's share of a token.
    shares: [Linear; 2],
    codewords: Linear,
}

impl Codebook {
    fn new(params: &Params, config: &CatConfig, features: usize) -> Result<Self> {
        let (count, width) = (config.codewords, config.encoder.width);
        // Codewords that are drawn at random are nearly orthogonal, and as large as the tokens that they are added to.
        let free = Init::Normal { std: 1.0 };
        Ok(Self {
            scores: Linear::new(&params.sub("scores"), features, count)?,
            sharpness: neutral(&params.sub("sharpness"), 1)?,
            shares: [neutral(&params.sub("features_share"), width)?, neutral(&params.sub("codeword_share"), width)?],
            codewords: Linear::with_init(&params.sub("codewords"), count, config.tokens * width, free, false)?,
        })
    }

    /// Adds the codeword of `features` \[n, features\] to their `tokens` \[n, T, width\].
    fn add_to(&self, tokens: &Tensor, features: &Tensor, condition: &Tensor) -> Result<Tensor> {
        let scores = self.scores.forward(features)?;
        let sharpness = self.sharpness.forward(condition)?.exp()?;
        let choice = ops::softmax(&scores.broadcast_mul(&sharpness)?)?;
        let codeword = self.codewords.forward(&choice)?.reshape(tokens.shape())?;
        let [features_share, codeword_share] = &self.shares;
        let nothing = tokens.zeros_like()?;
        let tokens = ops::gated_add(&nothing, tokens, &features_share.forward(condition)?)?;
        Ok(ops::gated_add(&tokens, &codeword, &codeword_share.forward(condition)?)?)
    }

    fn cost(config: &CatConfig, features: usize) -> Cost {
        let (count, width) = (config.codewords, config.encoder.width);
        let mut codewords = Cost::linear(count, config.tokens * width);
        codewords.params = count * config.tokens * width;
        Cost::linear(features, count)
            + codewords
            + Cost::linear(Embedding::WIDTH, 1)
            + Cost::linear(Embedding::WIDTH, width)
            + Cost::linear(Embedding::WIDTH, width)
    }
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
            codebook: match config.codewords {
                0 => None,
                _ => Some(Codebook::new(&params.sub("codebook"), config, features)?),
            },
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
        let x = match &self.codebook {
            Some(codebook) => codebook.add_to(&x, features, &condition)?,
            None => x,
        };
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
        let codebook = if config.codewords > 0 { Codebook::cost(config, features) } else { Cost::default() };
        codebook
            + Embedding::cost(config)
            + Cost::linear(features, tokens * width)
            + Blocks::cost(&config.encoder, tokens)
            + Cost::linear(Embedding::WIDTH, 2 * width)
            + Cost::linear_over(width, 2 * config.max_uses() / tokens, tokens)
    }
}
