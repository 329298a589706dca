//! Noise in rare strong bursts, as of ignitions and switches.

use std::sync::Arc;

use num_complex::Complex32;
use rand::Rng;

use crate::gaussian::Gaussian;
use crate::models::{Description, Model, Passage};
use crate::spec::{Kind, Parameter};
use crate::{Draws, Substream};

pub(crate) const DESCRIPTION: Description = Description {
    name: "impulsive",
    summary: "impulsive noise: a Gaussian impulse now and then",
    parameters: &[
        Parameter {
            name: "probability",
            meaning: "of an impulse, for each symbol",
            kind: Kind::Number(0.0, 1.0, Some(0.01)),
        },
        Parameter {
            name: "power_db",
            meaning: "mean power of an impulse over Es = 1, in dB",
            kind: Kind::Number(-60.0, 60.0, Some(10.0)),
        },
    ],
    fading: false,
    build: |reader| {
        let variance = 10f64.powf(reader.number("power_db")? / 10.0);
        Ok(Arc::new(Impulsive { probability: reader.number("probability")?, variance: variance as f32 }))
    },
};

/// y = x + b g, b = 1 with `probability`, else 0, and g ~ CN(0, power), all independent: Bernoulli-Gaussian noise (Ghosh 1996). A receiver that is told
/// N0 is told that of its mean power, probability x power, too.
#[derive(Debug, Clone, Copy)]
struct Impulsive {
    probability: f64,
    variance: f32,
}

impl Impulsive {
    fn strike(&self, draws: &Draws, when: Substream, values: Substream, symbols: &mut [Complex32]) {
        let mut when = draws.generator(when);
        let struck = symbols.iter_mut().filter(|_| when.random::<f64>() < self.probability);
        let struck: Vec<&mut Complex32> = struck.collect();
        let mut impulses = vec![Complex32::ZERO; struck.len()];
        Gaussian::new(draws.generator(values), self.variance).fill(&mut impulses);
        for (x, impulse) in struck.into_iter().zip(impulses) {
            *x += impulse;
        }
    }
}

impl Model for Impulsive {
    fn apply(&self, draws: &Draws, frame: &mut Passage<'_>) {
        self.strike(draws, Substream::Impulses, Substream::ImpulseValues, frame.symbols);
        self.strike(draws, Substream::PilotImpulses, Substream::PilotImpulseValues, frame.pilots);
        frame.state.noise_var += self.probability as f32 * self.variance;
    }
}
