//! Fading without a line of sight.

use std::sync::Arc;

use crate::ChannelKind;
use crate::fading::{self, Fading, Motion};
use crate::models::Description;

/// h ~ CN(0, 1): |h| has the Rayleigh distribution with `E|h|^2 = 1`, |h|^2 the exponential one with mean 1.
///
/// Without `doppler` h is constant over `coherence` symbols and independent between blocks. With it, h is a stationary process with Clarke's
/// autocorrelation `E[h(t) h*(t + s)] = J0(2 pi doppler s)`, see [`crate::doppler`].
pub(crate) const DESCRIPTION: Description = Description {
    name: "rayleigh",
    summary: "fading without a line of sight, in blocks or with Doppler",
    parameters: &[fading::COHERENCE, fading::DOPPLER, fading::SPACING],
    fading: true,
    build: |reader| {
        Ok(Arc::new(Fading { kind: ChannelKind::Rayleigh, line_of_sight: None, motion: Motion::read(reader)? }))
    },
};
