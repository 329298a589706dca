//! Fading around a line of sight.

use std::sync::Arc;

use crate::fading::{self, Fading, LineOfSight, Motion};
use crate::models::Description;
use crate::spec::{Kind, Parameter};
use crate::{ChannelKind, RicianK};

/// h = sqrt(K/(K+1)) e^(j (theta + 2 pi los_doppler doppler t)) + sqrt(1/(K+1)) CN(0, 1), so that `E|h|^2 = 1` for every K.
///
/// theta, the phase of the line of sight, is drawn once per frame, uniformly over [0, 2 pi); the scattered part is drawn as that of
/// `rayleigh`, from the same draws with the same key.
pub(crate) const DESCRIPTION: Description = Description {
    name: "rician",
    summary: "fading around a line of sight, in blocks or with Doppler",
    parameters: &[
        Parameter {
            name: "k_factor_db",
            meaning: "power of the line of sight over power of the scatter, in dB",
            kind: Kind::Number(-40.0, 60.0, Some(6.0)),
        },
        fading::COHERENCE,
        fading::DOPPLER,
        LOS_DOPPLER,
        fading::SPACING,
    ],
    fading: true,
    build: |reader| {
        let k_factor = RicianK::try_new_db(reader.number("k_factor_db")? as f32)?;
        let line_of_sight = Some(LineOfSight { k_factor, doppler: reader.number("los_doppler")? });
        Ok(Arc::new(Fading { kind: ChannelKind::Rician, line_of_sight, motion: Motion::read(reader)? }))
    },
};

pub(crate) const LOS_DOPPLER: Parameter = Parameter {
    name: "los_doppler",
    meaning: "Doppler shift of the line of sight, in parts of `doppler`; 0.7 in TR 38.901",
    kind: Kind::Number(-1.0, 1.0, Some(0.7)),
};
