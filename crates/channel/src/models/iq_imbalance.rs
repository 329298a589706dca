//! A mixer whose branches differ.

use std::sync::Arc;

use num_complex::Complex32;

use crate::Draws;
use crate::models::{Description, Model, Passage};
use crate::spec::{Kind, Parameter};

pub(crate) const DESCRIPTION: Description = Description {
    name: "iq_imbalance",
    summary: "gain and phase mismatch between I and Q, and their offset",
    parameters: &[
        Parameter {
            name: "gain_db",
            meaning: "gain of Q over that of I, in dB",
            kind: Kind::Number(-20.0, 20.0, Some(0.0)),
        },
        Parameter {
            name: "phase_deg",
            meaning: "angle between the branches less 90 degrees",
            kind: Kind::Number(-90.0, 90.0, Some(0.0)),
        },
        Parameter { name: "dc_i", meaning: "offset of I, for Es = 1", kind: Kind::Number(-10.0, 10.0, Some(0.0)) },
        Parameter { name: "dc_q", meaning: "offset of Q, for Es = 1", kind: Kind::Number(-10.0, 10.0, Some(0.0)) },
    ],
    fading: false,
    build: |reader| {
        let gain = 10f64.powf(reader.number("gain_db")? / 20.0);
        let (sin, cos) = libm::sincos(reader.number("phase_deg")?.to_radians());
        let part = |re: f64, im: f64| Complex32::new(re as f32, im as f32);
        Ok(Arc::new(IqImbalance {
            direct: part(0.5 * (1.0 + gain * cos), -0.5 * gain * sin),
            image: part(0.5 * (1.0 - gain * cos), -0.5 * gain * sin),
            offset: part(reader.number("dc_i")?, reader.number("dc_q")?),
        }))
    },
};

/// y = mu x + nu x* + d with mu = (1 + g e^(-j phi)) / 2 and nu = (1 - g e^(j phi)) / 2, at the receiver: the image lies
/// |mu|^2 / |nu|^2 below the signal (Valkama, Renfors and Koivunen 2001).
#[derive(Debug, Clone, Copy)]
struct IqImbalance {
    direct: Complex32,
    image: Complex32,
    offset: Complex32,
}

impl Model for IqImbalance {
    fn apply(&self, _draws: &Draws, frame: &mut Passage<'_>) {
        for x in frame.both() {
            *x = self.direct * *x + self.image * x.conj() + self.offset;
        }
    }
}
