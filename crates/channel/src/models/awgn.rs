//! Receiver noise.

use std::sync::Arc;

use crate::gaussian::{Gaussian, Powers};
use crate::models::{Description, Model, Passage, Role};
use crate::spec::{Kind, Parameter};
use crate::{Draws, SnrDb, Substream};

pub(crate) const DESCRIPTION: Description = Description {
    name: "awgn",
    summary: "additive white Gaussian noise",
    parameters: &[Parameter {
        name: "snr_db",
        meaning: "Es/N0 in dB for Es = 1, averaged over fading",
        kind: Kind::Number(-60.0, 100.0, None),
    }],
    fading: false,
    build: |reader| Ok(Arc::new(Awgn { snr: SnrDb::try_new(reader.number("snr_db")? as f32)? })),
};

/// y = x + n, n ~ CN(0, N0), N0 = 10^(-snr_db / 10) in total per complex symbol, independent between symbols.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Awgn {
    pub(crate) snr: SnrDb,
}

impl Model for Awgn {
    fn apply(&self, draws: &Draws, frame: &mut Passage<'_>) {
        let n0 = frame.snr.noise_var();
        let Powers { signal, noise } = Gaussian::new(draws.generator(Substream::Noise), n0).add(frame.symbols);
        frame.snr_db_realised = (10.0 * (signal / noise).log10()) as f32;
        if !frame.pilots.is_empty() {
            Gaussian::new(draws.generator(Substream::PilotNoise), n0).add(frame.pilots);
        }
        frame.state.noise_var += n0;
    }

    fn role(&self) -> Role {
        Role::Noise(self.snr)
    }
}
