//! What encoder and decoder are told about the channel, as numbers.

use candle_core::{Device, Tensor};
use semlink_channel::ChannelKind;
use semlink_nn::layers::Linear;
use semlink_nn::{Activation, Params, ops};

use super::{CatConfig, Csi};
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
    /// What a receiver knows of a frame of `uses` symbols. Pilots do not tell the kind of channel, and the error of their estimate of h
    /// counts as noise of the frame.
    pub fn at_receiver(csi: &Csi, uses: usize) -> Self {
        let db = |ratio: f32| 10.0 * ratio.max(1e-9).log10();
        match csi {
            Csi::Perfect(state) => {
                let gain = state.h.iter().map(|h| h.norm_sqr()).sum::<f32>() / state.h.len().max(1) as f32;
                let snr_db = state.snr_db();
                Self { snr_db: Some(snr_db), frame_snr_db: Some(snr_db + db(gain)), kind: Some(state.kind), uses }
            }
            Csi::Estimated(estimate) => {
                let state = estimate.state();
                Self {
                    snr_db: Some(estimate.snr_db()),
                    frame_snr_db: Some(db(estimate.h.norm_sqr()) + state.snr_db()),
                    kind: None,
                    uses,
                }
            }
            Csi::None => Self { snr_db: None, frame_snr_db: None, kind: None, uses },
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
            first: Linear::new(&params.sub("first"), description_len(&config.rates), Self::WIDTH)?,
            second: Linear::new(&params.sub("second"), Self::WIDTH, Self::WIDTH)?,
        })
    }

    pub(super) fn cost(config: &CatConfig) -> crate::Cost {
        crate::Cost::linear(description_len(&config.rates), Self::WIDTH) + crate::Cost::linear(Self::WIDTH, Self::WIDTH)
    }

    /// \[n, `WIDTH`\]
    ///
    /// # Errors
    /// [`Error::Rate`] for a number of uses outside the set.
    pub(super) fn forward(&self, conditions: &[Condition]) -> Result<Tensor> {
        let x = describe(conditions, &self.rates)?.to_device(self.first.weight().device())?;
        let x = ops::activate(&self.first.forward(&x)?, Activation::Gelu)?;
        Ok(ops::activate(&self.second.forward(&x)?, Activation::Gelu)?)
    }
}

/// Numbers that describe a condition, see [`describe`].
pub(super) fn description_len(rates: &[usize]) -> usize {
    FIXED + rates.len()
}

/// Conditions as numbers \[n, `description_len`\].
///
/// # Errors
/// [`Error::Rate`] for a number of uses outside the set.
pub(super) fn describe(conditions: &[Condition], rates: &[usize]) -> Result<Tensor> {
    let mut numbers = Vec::with_capacity(conditions.len() * description_len(rates));
    // -10 to 20 dB becomes -1 to 1; what lies far outside is treated as the edge of what was learnt.
    let scaled = |db: f32| ((db - 5.0) / 15.0).clamp(-2.0, 3.0);
    let known = |db: Option<f32>| [f32::from(u8::from(db.is_some())), db.map_or(0.0, scaled)];
    for condition in conditions {
        if !rates.contains(&condition.uses) {
            return Err(Error::Rate { uses: condition.uses, rates: rates.to_vec() });
        }
        numbers.extend(known(condition.snr_db));
        numbers.extend(known(condition.frame_snr_db));
        numbers.extend(ChannelKind::ALL.map(|kind| f32::from(u8::from(condition.kind == Some(kind)))));
        numbers.push((condition.uses as f32).log2() / 4.0 - 1.25);
        numbers.extend(rates.iter().map(|rate| f32::from(u8::from(*rate == condition.uses))));
    }
    Ok(Tensor::from_vec(numbers, (conditions.len(), description_len(rates)), &Device::Cpu)?)
}
