//! What encoder and decoder are told about the channel, as numbers.

use candle_core::{Device, Tensor};
use semlink_channel::{ChannelKind, ChannelState};
use semlink_nn::layers::Linear;
use semlink_nn::{Activation, Params, ops};

use super::CatConfig;
use crate::{Error, Result};

/// The channel state of one frame, from the point of view of one end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Condition {
    /// Average Es/N0 in dB, if known.
    pub snr_db: Option<f32>,
    /// Es/N0 of this very frame, mean of abs(h)^2 over N0, in dB: only a receiver with channel state information knows it.
    pub frame_snr_db: Option<f32>,
    /// The kind of channel, if known.
    pub kind: Option<ChannelKind>,
    /// Channel uses k of the frame.
    pub uses: usize,
}

impl Condition {
    /// What a receiver knows of a frame of `uses` symbols: all of `state`, or nothing but its length.
    pub fn at_receiver(state: Option<&ChannelState>, uses: usize) -> Self {
        let Some(state) = state else { return Self { snr_db: None, frame_snr_db: None, kind: None, uses } };
        let snr_db = -10.0 * state.noise_var.log10();
        let gain = state.h.iter().map(|h| h.norm_sqr()).sum::<f32>() / state.h.len().max(1) as f32;
        Self {
            snr_db: Some(snr_db),
            frame_snr_db: Some(snr_db + 10.0 * gain.max(1e-9).log10()),
            kind: Some(state.kind),
            uses,
        }
    }
}

/// Numbers before the one-hot rate.
const FIXED: usize = 8;

/// Conditions to vectors: two linear layers.
#[derive(Debug, Clone)]
pub(super) struct Embedding {
    rates: Vec<usize>,
    first: Linear,
    second: Linear,
}

impl Embedding {
    /// Length of the vectors.
    pub(super) const WIDTH: usize = 32;

    pub(super) fn new(params: &Params, config: &CatConfig) -> Result<Self> {
        Ok(Self {
            rates: config.rates.clone(),
            first: Linear::new(&params.sub("first"), FIXED + config.rates.len(), Self::WIDTH)?,
            second: Linear::new(&params.sub("second"), Self::WIDTH, Self::WIDTH)?,
        })
    }

    pub(super) fn cost(config: &CatConfig) -> crate::Cost {
        crate::Cost::linear(FIXED + config.rates.len(), Self::WIDTH) + crate::Cost::linear(Self::WIDTH, Self::WIDTH)
    }

    /// \[n, `WIDTH`\]
    ///
    /// # Errors
    /// [`Error::Rate`] for a number of uses outside the set.
    pub(super) fn forward(&self, conditions: &[Condition]) -> Result<Tensor> {
        let mut numbers = Vec::with_capacity(conditions.len() * (FIXED + self.rates.len()));
        for condition in conditions {
            self.describe(condition, &mut numbers)?;
        }
        let x = Tensor::from_vec(numbers, (conditions.len(), FIXED + self.rates.len()), &Device::Cpu)?;
        let x = ops::activate(&self.first.forward(&x)?, Activation::Gelu)?;
        Ok(ops::activate(&self.second.forward(&x)?, Activation::Gelu)?)
    }

    fn describe(&self, condition: &Condition, numbers: &mut Vec<f32>) -> Result<()> {
        // -10 to 20 dB becomes -1 to 1; what lies far outside is treated as the edge of what was learnt.
        let scaled = |db: f32| ((db - 5.0) / 15.0).clamp(-2.0, 3.0);
        let known = |db: Option<f32>| [f32::from(u8::from(db.is_some())), db.map_or(0.0, scaled)];
        numbers.extend(known(condition.snr_db));
        numbers.extend(known(condition.frame_snr_db));
        numbers.extend(ChannelKind::ALL.map(|kind| f32::from(u8::from(condition.kind == Some(kind)))));
        numbers.push((condition.uses as f32).log2() / 4.0 - 1.25);
        let before = numbers.len();
        numbers.extend(self.rates.iter().map(|rate| f32::from(u8::from(*rate == condition.uses))));
        if numbers[before..].iter().all(|x| *x == 0.0) {
            return Err(Error::Rate { uses: condition.uses, rates: self.rates.clone() });
        }
        Ok(())
    }
}
