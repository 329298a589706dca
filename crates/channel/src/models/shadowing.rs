//! Obstacles that are large against the wavelength.

use std::sync::Arc;

use num_complex::Complex32;

use crate::gaussian::Gaussian;
use crate::models::{Description, Model, Passage};
use crate::spec::{Kind, Parameter};
use crate::{ChannelKind, ChannelState, Draws, Substream};

pub(crate) const DESCRIPTION: Description = Description {
    name: "shadowing",
    summary: "log-normal shadowing, the same over a frame or several",
    parameters: &[
        Parameter {
            name: "sigma_db",
            meaning: "standard deviation of the gain in dB",
            kind: Kind::Number(0.0, 30.0, Some(8.0)),
        },
        Parameter {
            name: "frames",
            meaning: "consecutive frames of a stream with the same gain",
            kind: Kind::Whole(1, 1 << 40, 1),
        },
    ],
    fading: false,
    build: |reader| Ok(Arc::new(Shadowing { sigma_db: reader.number("sigma_db")?, frames: reader.whole("frames")? })),
};

/// y = g x with 20 log10 g ~ N(0, sigma_db^2), as TR 38.901 has it (section 7.4.4): the SNR is the median over the shadowing.
#[derive(Debug, Clone, Copy)]
struct Shadowing {
    sigma_db: f64,
    frames: u64,
}

impl Model for Shadowing {
    fn apply(&self, draws: &Draws, frame: &mut Passage<'_>) {
        let generator = draws.shared_by(self.frames).generator(Substream::Shadowing);
        // The real part of CN(0, 2) is N(0, 1).
        let gain_db = self.sigma_db * f64::from(Gaussian::new(generator, 2.0).draw().re);
        let gain = libm::pow(10.0, gain_db / 20.0) as f32;
        frame.both().for_each(|x| *x *= gain);
        let h = vec![Complex32::new(gain, 0.0)];
        let state = ChannelState { kind: ChannelKind::Awgn, h, coherence: 0, noise_var: 0.0 };
        *frame.state = frame.state.then(state, frame.symbols.len());
    }
}
