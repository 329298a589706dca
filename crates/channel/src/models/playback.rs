//! A measured channel.

use std::sync::Arc;

use num_complex::Complex32;

use crate::fir::Fir;
use crate::models::{Description, Model, Passage, Role};
use crate::spec::{Kind, Parameter, Responses};
use crate::{ChannelKind, Draws};

/// Longest response.
pub(crate) const MAX_TAPS: usize = 1024;

pub(crate) const DESCRIPTION: Description = Description {
    name: "playback",
    summary: "recorded or measured impulse responses, one for each frame",
    parameters: &[
        Parameter {
            name: "file",
            meaning: "recording of impulse responses at the symbol rate, in the directory of recordings",
            kind: Kind::Responses,
        },
        Parameter {
            name: "frames",
            meaning: "consecutive frames of a stream with the same response",
            kind: Kind::Whole(1, 1 << 40, 1),
        },
        Parameter {
            name: "scale",
            meaning: "unit: the mean power of all responses becomes 1, as the SNR supposes; none: as they are",
            kind: Kind::Choice(&["unit", "none"]),
        },
    ],
    fading: true,
    build: |reader| {
        let Responses { taps, values } = reader.responses("file")?;
        if taps > MAX_TAPS {
            return Err(reader.refused("file", format!("of {taps} taps"), format!("of at most {MAX_TAPS}")));
        }
        let mut power = vec![0f64; taps];
        for response in values.chunks(taps) {
            power.iter_mut().zip(response).for_each(|(power, h)| *power += f64::from(h.norm_sqr()));
        }
        let responses = values.len() / taps;
        let mean = power.iter().sum::<f64>() / responses as f64;
        if mean <= 0.0 {
            return Err(reader.refused("file", "all zero", "responses with power"));
        }
        let strongest = (0..taps).max_by(|a, b| power[*a].total_cmp(&power[*b])).unwrap_or(0);
        let scale = if reader.choice("scale")? == "unit" { mean.sqrt().recip() as f32 } else { 1.0 };
        Ok(Arc::new(Playback { taps, values, scale, strongest, frames: reader.whole("frames")? }))
    },
};

/// y_n = sum h_l x_(n-l) with response number frame / `frames` mod their number; lags count from the tap that is strongest over all
/// responses, to which the receiver is synchronised.
#[derive(Debug, Clone)]
struct Playback {
    taps: usize,
    values: Arc<[Complex32]>,
    scale: f32,
    strongest: usize,
    frames: u64,
}

impl Model for Playback {
    fn apply(&self, draws: &Draws, frame: &mut Passage<'_>) {
        let responses = (self.values.len() / self.taps) as u64;
        let number = (draws.key().frame / self.frames) % responses;
        let begin = number as usize * self.taps;
        let mut fir = Fir::new(frame, ChannelKind::Rayleigh, 0, self.strongest, self.taps);
        let response: Vec<Complex32> = self.values.iter().skip(begin).take(self.taps).map(|h| h * self.scale).collect();
        fir.block(frame, &response);
        fir.finish(frame);
    }

    fn role(&self) -> Role {
        Role::Fading { kind: ChannelKind::Rayleigh, blocks: false }
    }
}
