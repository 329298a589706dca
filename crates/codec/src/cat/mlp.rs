//! The baseline without attention: two plain networks of three layers that are told the channel's state beside their input.

use candle_core::Tensor;
use semlink_nn::layers::Linear;
use semlink_nn::{Activation, Params, ops};
use serde::{Deserialize, Serialize};

use super::condition::{Condition, describe, description_len};
use super::{Estimates, frame};
use crate::{Cost, Error, Result};

/// Widths of the hidden layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MlpConfig {
    /// Of the encoder's two.
    pub encoder: usize,
    /// Of the decoder's two.
    pub decoder: usize,
}

/// Feature vectors and conditions to frames.
#[derive(Debug, Clone)]
pub struct MlpEncoder {
    layers: Layers,
    rates: Vec<usize>,
}

/// Received frames to feature vectors.
#[derive(Debug, Clone)]
pub struct MlpDecoder {
    layers: Layers,
    rates: Vec<usize>,
}

#[derive(Debug, Clone)]
struct Layers([Linear; 3]);

impl Layers {
    fn new(params: &Params, inputs: usize, width: usize, outputs: usize) -> Result<Self> {
        Ok(Self([
            Linear::new(&params.sub("first"), inputs, width)?,
            Linear::new(&params.sub("second"), width, width)?,
            Linear::new(&params.sub("third"), width, outputs)?,
        ]))
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let [first, second, third] = &self.0;
        let x = ops::activate(&first.forward(x)?, Activation::Gelu)?;
        let x = ops::activate(&second.forward(&x)?, Activation::Gelu)?;
        Ok(third.forward(&x)?)
    }

    fn cost(inputs: usize, width: usize, outputs: usize) -> Cost {
        Cost::linear(inputs, width) + Cost::linear(width, width) + Cost::linear(width, outputs)
    }
}

impl MlpEncoder {
    /// Builds the encoder for feature vectors of this length and frames of these numbers of uses, ascending.
    ///
    /// # Errors
    /// Missing or misshapen parameters.
    pub fn new(params: &Params, config: &MlpConfig, rates: &[usize], features: usize) -> Result<Self> {
        let (inputs, outputs) = Self::ends(rates, features);
        Ok(Self { layers: Layers::new(params, inputs, config.encoder, outputs)?, rates: rates.to_vec() })
    }

    /// As [`CatEncoder::forward`](super::CatEncoder::forward).
    ///
    /// # Errors
    /// One condition per row is needed; [`Error::Rate`] for a number of uses outside the set.
    pub fn forward(&self, features: &Tensor, conditions: &[Condition]) -> Result<Tensor> {
        let n = features.dim(0)?;
        if conditions.len() != n {
            return Err(Error::Size { what: "conditions", expected: n, got: conditions.len() });
        }
        let x = Tensor::cat(&[features, &describe(conditions, &self.rates)?.to_device(features.device())?], 1)?;
        let uses: Vec<usize> = conditions.iter().map(|c| c.uses).collect();
        // One token: every symbol is its own.
        frame::to_frame(&self.layers.forward(&x)?.unsqueeze(1)?, &uses)
    }

    /// Parameters and multiply-accumulates for one frame.
    pub fn cost(config: &MlpConfig, rates: &[usize], features: usize) -> Cost {
        let (inputs, outputs) = Self::ends(rates, features);
        Layers::cost(inputs, config.encoder, outputs)
    }

    fn ends(rates: &[usize], features: usize) -> (usize, usize) {
        (features + description_len(rates), 2 * rates.last().copied().unwrap_or(0))
    }
}

impl MlpDecoder {
    /// Builds the decoder, see [`MlpEncoder::new`].
    ///
    /// # Errors
    /// Missing or misshapen parameters.
    pub fn new(params: &Params, config: &MlpConfig, rates: &[usize], features: usize) -> Result<Self> {
        let inputs = Self::inputs(rates);
        Ok(Self { layers: Layers::new(params, inputs, config.decoder, features)?, rates: rates.to_vec() })
    }

    /// As [`CatDecoder::forward`](super::CatDecoder::forward).
    ///
    /// # Errors
    /// [`Error::Rate`] for a number of uses outside the set.
    pub fn forward(&self, received: &Estimates) -> Result<Tensor> {
        let uses: Vec<usize> = received.conditions.iter().map(|c| c.uses).collect();
        let symbols = frame::to_tokens(&received.symbols, &received.reliability, 1, &uses)?.squeeze(1)?;
        let conditions = describe(&received.conditions, &self.rates)?.to_device(symbols.device())?;
        self.layers.forward(&Tensor::cat(&[&symbols, &conditions], 1)?)
    }

    /// Parameters and multiply-accumulates for one frame.
    pub fn cost(config: &MlpConfig, rates: &[usize], features: usize) -> Cost {
        Layers::cost(Self::inputs(rates), config.decoder, features)
    }

    fn inputs(rates: &[usize]) -> usize {
        3 * rates.last().copied().unwrap_or(0) + description_len(rates)
    }
}
