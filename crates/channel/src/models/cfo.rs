//! An oscillator that is off.

use std::sync::Arc;

use crate::Draws;
use crate::fading::{self, unit};
use crate::models::{Description, Model, Passage};
use crate::spec::{Kind, Parameter};

pub(crate) const DESCRIPTION: Description = Description {
    name: "cfo",
    summary: "carrier frequency offset between transmitter and receiver",
    parameters: &[
        Parameter {
            name: "offset",
            meaning: "frequency offset times the symbol period, in cycles per symbol",
            kind: Kind::Number(-0.5, 0.5, Some(0.0)),
        },
        Parameter {
            name: "phase_deg",
            meaning: "phase at the first payload symbol of frame 0, in degrees",
            kind: Kind::Number(-360.0, 360.0, Some(0.0)),
        },
        fading::SPACING,
    ],
    fading: false,
    build: |reader| {
        Ok(Arc::new(Cfo {
            offset: reader.number("offset")?,
            turns: reader.number("phase_deg")? / 360.0,
            spacing: reader.whole("spacing")?,
        }))
    },
};

/// y_t = x_t e^(j (2 pi offset t + phase)).
#[derive(Debug, Clone, Copy)]
struct Cfo {
    offset: f64,
    turns: f64,
    spacing: u64,
}

impl Model for Cfo {
    fn apply(&self, draws: &Draws, frame: &mut Passage<'_>) {
        let start = draws.key().frame as f64 * self.spacing as f64;
        let start = self.turns + self.offset * start;
        for (t, x) in frame.timed() {
            *x *= unit(start + self.offset * t as f64);
        }
    }
}
