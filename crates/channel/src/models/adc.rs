//! A converter of few bits.

use std::sync::Arc;

use num_complex::Complex32;

use crate::Draws;
use crate::models::{Description, Model, Passage};
use crate::spec::{Kind, Parameter};

pub(crate) const DESCRIPTION: Description = Description {
    name: "adc",
    summary: "quantisation and clipping of an analogue-to-digital converter",
    parameters: &[
        Parameter { name: "bits", meaning: "bits of each axis", kind: Kind::Whole(1, 24, 8) },
        Parameter {
            name: "full_scale",
            meaning: "amplitude of each axis at which it clips; one axis of a signal with Es = 1 has the deviation 0.71",
            kind: Kind::Number(1e-3, 1e3, Some(3.0)),
        },
    ],
    fading: false,
    build: |reader| {
        let (bits, full_scale) = (reader.whole("bits")?, reader.number("full_scale")?);
        Ok(Arc::new(Adc { full_scale: full_scale as f32, step: (2.0 * full_scale / (1u64 << bits) as f64) as f32 }))
    },
};

/// Each axis: y = D (floor(x / D) + 1/2), clipped to the outermost of the 2^bits levels, D = 2 full_scale / 2^bits: a uniform quantiser without a level
/// at zero. For a signal that uses many levels the error has the variance D^2 / 12 on each axis (Bennett 1948).
#[derive(Debug, Clone, Copy)]
struct Adc {
    full_scale: f32,
    step: f32,
}

impl Adc {
    fn axis(&self, x: f32) -> f32 {
        let top = self.full_scale - 0.5 * self.step;
        (self.step * ((x / self.step).floor() + 0.5)).clamp(-top, top)
    }
}

impl Model for Adc {
    fn apply(&self, _draws: &Draws, frame: &mut Passage<'_>) {
        for x in frame.both() {
            *x = Complex32::new(self.axis(x.re), self.axis(x.im));
        }
    }
}
