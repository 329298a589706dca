//! Symbols that are lost in bursts.

use std::sync::Arc;

use num_complex::Complex32;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::models::{Description, Model, Passage};
use crate::spec::{Kind, Parameter};
use crate::{ChannelKind, ChannelState, Draws, Substream};

pub(crate) const DESCRIPTION: Description = Description {
    name: "gilbert_elliott",
    summary: "erasures in bursts",
    parameters: &[
        Parameter {
            name: "to_bad",
            meaning: "probability of going from the good state to the bad one, for each symbol",
            kind: Kind::Number(0.0, 1.0, Some(0.01)),
        },
        Parameter {
            name: "to_good",
            meaning: "probability of going from the bad state to the good one, for each symbol",
            kind: Kind::Number(0.0, 1.0, Some(0.2)),
        },
        Parameter {
            name: "erase_good",
            meaning: "probability that a symbol is erased in the good state",
            kind: Kind::Number(0.0, 1.0, Some(0.0)),
        },
        Parameter {
            name: "erase_bad",
            meaning: "probability that a symbol is erased in the bad state",
            kind: Kind::Number(0.0, 1.0, Some(1.0)),
        },
    ],
    fading: false,
    build: |reader| {
        let (to_bad, to_good) = (reader.number("to_bad")?, reader.number("to_good")?);
        if to_bad + to_good == 0.0 {
            return Err(reader.refused("to_good", "0, and to_bad, too", "above 0 for one of them"));
        }
        let erase = [reader.number("erase_good")?, reader.number("erase_bad")?];
        Ok(Arc::new(GilbertElliott { to_bad, to_good, erase }))
    },
};

/// A Markov chain of two states, started from its stationary law, bad with to_bad / (to_bad + to_good); a symbol is erased, y = 0, with
/// the probability of its state (Gilbert 1960, Elliott 1963). A receiver that is told the channel is told h = 0 for it.
#[derive(Debug, Clone, Copy)]
struct GilbertElliott {
    to_bad: f64,
    to_good: f64,
    /// In the good state and in the bad one.
    erase: [f64; 2],
}

impl GilbertElliott {
    /// Erases symbols; whether it began in the bad state is `bad`.
    fn erase<'a>(
        &self,
        generator: &mut ChaCha8Rng,
        mut bad: bool,
        symbols: impl Iterator<Item = &'a mut Complex32>,
        mut erased: impl FnMut(usize),
    ) {
        for (i, x) in symbols.enumerate() {
            if generator.random::<f64>() < self.erase[usize::from(bad)] {
                *x = Complex32::ZERO;
                erased(i);
            }
            bad ^= generator.random::<f64>() < if bad { self.to_good } else { self.to_bad };
        }
    }
}

impl Model for GilbertElliott {
    fn apply(&self, draws: &Draws, frame: &mut Passage<'_>) {
        let mut generator = draws.generator(Substream::Erasures);
        let bad = generator.random::<f64>() < self.to_bad / (self.to_bad + self.to_good);
        let mut kept = vec![Complex32::ONE; frame.symbols.len()];
        let mut any = false;
        self.erase(&mut generator, bad, frame.symbols.iter_mut(), |i| {
            kept[i] = Complex32::ZERO;
            any = true;
        });
        if !frame.pilots.is_empty() {
            // Such a chain is the same backwards; one step lies between the first payload symbol and the last pilot.
            let mut generator = draws.generator(Substream::PilotErasures);
            let step = generator.random::<f64>() < if bad { self.to_good } else { self.to_bad };
            self.erase(&mut generator, bad ^ step, frame.pilots.iter_mut().rev(), |_| {});
        }
        if any {
            let state = ChannelState { kind: ChannelKind::Awgn, h: kept, coherence: 1, noise_var: 0.0 };
            // The noise of the symbols that are kept: they are not attenuated, and of the others a receiver knows by h = 0.
            let noise_var = frame.state.noise_var;
            *frame.state = ChannelState { noise_var, ..frame.state.then(state, frame.symbols.len()) };
        }
    }
}
