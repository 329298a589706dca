//! An oscillator that wanders.

use std::f64::consts::TAU;
use std::sync::Arc;

use num_complex::Complex32;
use rand_chacha::ChaCha8Rng;

use crate::fading::unit;
use crate::gaussian::Gaussian;
use crate::models::{Description, Model, Passage};
use crate::spec::{Kind, Parameter};
use crate::{Draws, Substream};

pub(crate) const DESCRIPTION: Description = Description {
    name: "phase_noise",
    summary: "phase noise of a free-running oscillator",
    parameters: &[Parameter {
        name: "linewidth",
        meaning: "width of the oscillator's Lorentzian line at half its height times the symbol period",
        kind: Kind::Number(0.0, 1.0, Some(1e-4)),
    }],
    fading: false,
    build: |reader| {
        let linewidth = reader.number("linewidth")?;
        Ok(Arc::new(PhaseNoise { deviation: (TAU * linewidth).sqrt() }))
    },
};

/// y_t = x_t e^(j phi_t), phi_0 = 0, phi_(t+1) - phi_t ~ N(0, 2 pi linewidth): a Wiener process, whose line is a Lorentzian of this width,
/// `E[e^(j (phi_(t+s) - phi_t))] = e^(-pi linewidth |s|)` (Demir, Mehrotra and Roychowdhury 2000).
#[derive(Debug, Clone, Copy)]
struct PhaseNoise {
    /// Of one step, in radians.
    deviation: f64,
}

impl PhaseNoise {
    fn walk<'a>(&self, generator: ChaCha8Rng, symbols: impl ExactSizeIterator<Item = &'a mut Complex32>, first: bool) {
        // The real part of CN(0, 2) is N(0, 1).
        let mut steps = vec![Complex32::ZERO; symbols.len()];
        Gaussian::new(generator, 2.0).fill(&mut steps);
        if first && let Some(step) = steps.first_mut() {
            *step = Complex32::ZERO;
        }
        let mut phase = 0.0;
        for (x, step) in symbols.zip(steps) {
            phase += self.deviation * f64::from(step.re);
            *x *= unit(phase / TAU);
        }
    }
}

impl Model for PhaseNoise {
    fn apply(&self, draws: &Draws, frame: &mut Passage<'_>) {
        self.walk(draws.generator(Substream::PhaseNoise), frame.symbols.iter_mut(), true);
        // Backwards in time a Wiener process is one, too.
        self.walk(draws.generator(Substream::PilotPhaseNoise), frame.pilots.iter_mut().rev(), false);
    }
}
