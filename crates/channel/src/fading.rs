//! What the fading models with one coefficient at a time share.

use std::f64::consts::TAU;

use num_complex::Complex32;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::doppler::Scatter;
use crate::gaussian::Gaussian;
use crate::models::{Model, Passage, Role};
use crate::spec::{Kind, Parameter, Reader};
use crate::state::{block_len, blocks};
use crate::{ChannelKind, ChannelState, Draws, Result, RicianK, Substream};

pub(crate) const COHERENCE: Parameter = Parameter {
    name: "coherence",
    meaning: "symbols over which the fading is held; 0: the frame, with Doppler a single symbol",
    kind: Kind::Whole(0, u32::MAX as u64, 0),
};
pub(crate) const DOPPLER: Parameter = Parameter {
    name: "doppler",
    meaning: "largest Doppler shift times the symbol period, in cycles per symbol; 0: independent blocks",
    kind: Kind::Number(0.0, 0.5, Some(0.0)),
};
pub(crate) const SPACING: Parameter = Parameter {
    name: "spacing",
    meaning: "symbol periods from one frame's start to the next's: phases and fading with Doppler then go on from frame to frame; 0: each frame anew",
    kind: Kind::Whole(0, 1 << 40, 0),
};

/// How fading changes with time.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Motion {
    pub(crate) coherence: usize,
    pub(crate) doppler: f64,
    pub(crate) spacing: u64,
}

/// A direct path.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LineOfSight {
    pub(crate) k_factor: RicianK,
    /// In parts of the largest shift.
    pub(crate) doppler: f64,
}

/// Scatter, and a line of sight or none; see the `rayleigh` and `rician` models for the equations.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fading {
    pub(crate) kind: ChannelKind,
    pub(crate) line_of_sight: Option<LineOfSight>,
    pub(crate) motion: Motion,
}

impl Motion {
    pub(crate) fn read(reader: &Reader<'_>) -> Result<Motion> {
        Ok(Motion {
            coherence: reader.whole("coherence")? as usize,
            doppler: reader.number("doppler")?,
            spacing: reader.whole("spacing")?,
        })
    }

    /// Symbols over which a coefficient is held, 0 for the frame.
    pub(crate) fn held(&self) -> usize {
        if self.doppler > 0.0 { self.coherence.max(1) } else { self.coherence }
    }

    /// Scatter of this variance with Doppler: of a process that goes on from frame to frame, the power is right in the course of time; of
    /// one that is drawn for each frame, over the frames.
    pub(crate) fn scatter(&self, generator: &mut ChaCha8Rng, variance: f32) -> Scatter {
        let drawn = Scatter::draw(generator, self.doppler, variance);
        if self.spacing == 0 { drawn } else { drawn.balanced(variance) }
    }

    /// Whether the fading jumps within a frame.
    pub(crate) fn has_blocks(&self) -> bool {
        self.doppler == 0.0 && self.coherence != 0
    }

    /// The draws of the process that the frame is part of, and the time of its first payload symbol in it; without Doppler each frame is one.
    pub(crate) fn process(&self, draws: &Draws) -> (Draws, f64) {
        if self.doppler == 0.0 || self.spacing == 0 {
            return (*draws, 0.0);
        }
        (draws.shared_by(0), draws.key().frame as f64 * self.spacing as f64)
    }
}

impl LineOfSight {
    /// Its amplitude and the variance of the scatter around it, together of power 1.
    pub(crate) fn split(&self) -> (f32, f32) {
        let k = self.k_factor.linear();
        ((k / (k + 1.0)).sqrt(), 1.0 / (k + 1.0))
    }

    /// Its phase at time 0 as a part of a turn.
    pub(crate) fn phase(draws: &Draws) -> f64 {
        f64::from(draws.generator(Substream::LineOfSight).random::<f32>())
    }
}

impl Fading {
    /// Draws the coefficients of a frame, one for each block.
    pub(crate) fn draw(&self, draws: &Draws, symbols: usize, h: &mut Vec<Complex32>) {
        let held = self.motion.held();
        h.clear();
        h.resize(blocks(symbols, held), Complex32::ZERO);
        self.fill(draws, 0, held, h);
    }

    /// The coefficients at times `start`, `start + step` ..., in symbols from the frame's first payload symbol.
    fn fill(&self, draws: &Draws, start: i64, step: usize, h: &mut [Complex32]) {
        let Motion { doppler, .. } = self.motion;
        let (amplitude, scatter) = self.line_of_sight.map_or((0.0, 1.0), |los| los.split());
        let (draws, frame_start) = self.motion.process(draws);
        let start = frame_start + start as f64;
        if doppler > 0.0 {
            self.motion.scatter(&mut draws.generator(Substream::Paths), scatter).sample(start, step as f64, h);
        } else {
            Gaussian::new(draws.generator(Substream::Scatter), scatter).fill(h);
        }
        if let Some(los) = self.line_of_sight {
            let phase = LineOfSight::phase(&draws);
            let shift = los.doppler * doppler;
            for (i, h) in h.iter_mut().enumerate() {
                *h += amplitude * unit(phase + shift * (start + i as f64 * step as f64));
            }
        }
    }
}

impl Model for Fading {
    fn apply(&self, draws: &Draws, frame: &mut Passage<'_>) {
        let coherence = self.motion.held();
        let mut h = Vec::new();
        self.draw(draws, frame.symbols.len(), &mut h);
        multiply(frame.symbols, &h, coherence);
        if self.motion.doppler > 0.0 {
            let mut before = vec![Complex32::ZERO; frame.pilots.len()];
            self.fill(draws, -(frame.pilots.len() as i64), 1, &mut before);
            multiply(frame.pilots, &before, 1);
        } else if let Some(first) = h.first() {
            multiply(frame.pilots, &[*first], 0);
        }
        let state = ChannelState { kind: self.kind, h, coherence, noise_var: 0.0 };
        *frame.state = frame.state.then(state, frame.symbols.len());
    }

    fn role(&self) -> Role {
        Role::Fading { kind: self.kind, blocks: self.motion.has_blocks() }
    }
}

/// Multiplies each block by its coefficient.
pub(crate) fn multiply(symbols: &mut [Complex32], h: &[Complex32], coherence: usize) {
    let len = block_len(symbols.len(), coherence);
    for (block, h) in symbols.chunks_mut(len).zip(h) {
        block.iter_mut().for_each(|x| *x *= h);
    }
}

/// e^(2 pi j turns); with the same bits everywhere, which the platform's sine does not promise.
pub(crate) fn unit(turns: f64) -> Complex32 {
    let (sin, cos) = libm::sincos(TAU * (turns - turns.floor()));
    Complex32::new(cos as f32, sin as f32)
}
