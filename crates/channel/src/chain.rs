//! Models one after the other.

use std::sync::Arc;

use num_complex::Complex32;

use crate::fading::{Fading, LineOfSight, Motion};
use crate::models::{Awgn, Model, Passage, Role, Taps};
use crate::spec::{Library, StageSpec};
use crate::{ChannelConfig, ChannelKind, ChannelState, Error, FrameKey, Result, SnrDb};

/// Most stages of a chain.
const MAX_STAGES: usize = 32;

/// A channel: stages that every frame passes in order. Cheap to clone.
///
/// It has exactly one stage of noise, which gives it its SNR, and at most one of fading. The draws of a stage are named by the frame's
/// key, the model and the stage's number among those of its model: another stage more does not change them.
///
/// ```
/// use semlink_channel::{Chain, Complex32, FrameKey, StageSpec};
///
/// # fn main() -> Result<(), semlink_channel::Error> {
/// let stages = [
///     StageSpec::new("rayleigh").with("doppler", 0.01),
///     StageSpec::new("awgn").with("snr_db", 12.0),
///     "adc,bits=4,full_scale=2.5".parse()?,
/// ];
/// let chain = Chain::new(&stages)?;
/// let mut symbols = vec![Complex32::ONE; 64];
/// let key = FrameKey { seed: 7, link: 0, stream: 0, frame: 42 };
/// let passed = chain.apply(key, chain.snr(), &mut [], &mut symbols);
/// assert_eq!(passed.state.h.len(), 64); // with Doppler, one coefficient for each symbol
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Chain {
    stages: Arc<[Stage]>,
    specs: Arc<[StageSpec]>,
    kind: ChannelKind,
    blocks: bool,
    snr: SnrDb,
}

#[derive(Debug)]
struct Stage {
    model: Arc<dyn Model>,
    instance: u32,
}

/// What a chain did to a frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Passed {
    /// The propagation as one channel with one tap: what a receiver is told where it is told.
    pub state: ChannelState,
    /// The impulse responses behind it, where fading has several taps and they are not too many to be told.
    pub taps: Option<Taps>,
    /// Power of what came to the noise over the power of the noise drawn, of this frame alone, in dB; NaN for an empty one.
    pub snr_db_realised: f32,
}

impl Chain {
    /// A chain of stages that need no impulse responses.
    ///
    /// # Errors
    /// Those of [`Chain::with_library`].
    pub fn new(specs: &[StageSpec]) -> Result<Chain> {
        Chain::with_library(specs, &|_| Err("there is no directory of recordings".to_owned()))
    }

    /// A chain; impulse responses come from `library`.
    ///
    /// # Errors
    /// Those of the first stage that cannot be built, with its model and parameter; [`Error::Chain`] unless there are at most 32 stages, one
    /// of them noise and at most one fading.
    pub fn with_library(specs: &[StageSpec], library: Library<'_>) -> Result<Chain> {
        if specs.len() > MAX_STAGES {
            return Err(Error::Chain {
                problem: format!("there are {}, at most {MAX_STAGES} are accepted", specs.len()),
            });
        }
        let models = specs.iter().map(|spec| spec.build(library)).collect::<Result<Vec<_>>>()?;
        let (mut noises, mut fadings) = (Vec::new(), Vec::new());
        for model in &models {
            match model.role() {
                Role::Noise(snr) => noises.push(snr),
                Role::Fading { kind, blocks } => fadings.push((kind, blocks)),
                Role::Impairment => {}
            }
        }
        let &[snr] = noises.as_slice() else {
            let problem = format!("{} are awgn, exactly one must be: it gives the channel its SNR", noises.len());
            return Err(Error::Chain { problem });
        };
        if fadings.len() > 1 {
            let problem = format!("{} are fading, at most one may be: chain two emulators instead", fadings.len());
            return Err(Error::Chain { problem });
        }
        let (kind, blocks) = fadings.first().copied().unwrap_or((ChannelKind::Awgn, false));
        let instance = |i: usize| specs[..i].iter().filter(|earlier| earlier.model == specs[i].model).count();
        let stages = models.into_iter().enumerate();
        let stages = stages.map(|(i, model)| Stage { model, instance: instance(i) as u32 }).collect();
        Ok(Chain { stages, specs: specs.into(), kind, blocks, snr })
    }

    /// The stages as they were given.
    pub fn specs(&self) -> &[StageSpec] {
        &self.specs
    }

    /// What the fading is to a codec.
    pub fn kind(&self) -> ChannelKind {
        self.kind
    }

    /// Whether fading jumps within a frame, so that pilots before the payload do not tell of all of it.
    pub fn has_blocks(&self) -> bool {
        self.blocks
    }

    /// The SNR that the noise stage was given.
    pub fn snr(&self) -> SnrDb {
        self.snr
    }

    /// Sends one frame through in place, with this SNR: that of [`Chain::snr`], or what a schedule makes of it.
    ///
    /// The payload should have mean power 1; noise is drawn for Es = 1 and is not scaled to the power sent.
    pub fn apply(&self, key: FrameKey, snr: SnrDb, pilots: &mut [Complex32], symbols: &mut [Complex32]) -> Passed {
        let mut state = ChannelState::identity();
        let mut passage = Passage { pilots, symbols, state: &mut state, snr, taps: None, snr_db_realised: f32::NAN };
        for Stage { model, instance } in self.stages.iter() {
            model.apply(&key.draws(*instance), &mut passage);
        }
        let Passage { taps, snr_db_realised, .. } = passage;
        Passed { state, taps, snr_db_realised }
    }
}

/// One tap of fading, then noise: the channel that training and the limit know.
impl From<ChannelConfig> for Chain {
    fn from(config: ChannelConfig) -> Chain {
        let ChannelConfig { kind, snr, k_factor, coherence } = config;
        let mut stages = Vec::new();
        if let Some(fading) = config.fading() {
            let mut spec = StageSpec::new(kind.as_str());
            if kind == ChannelKind::Rician {
                spec = spec.with_value("k_factor_db", k_factor.db().into());
            }
            if coherence != 0 {
                spec = spec.with("coherence", coherence as f64);
            }
            stages.push((Arc::new(fading) as Arc<dyn Model>, spec));
        }
        stages.push((Arc::new(Awgn { snr }), StageSpec::new("awgn").with_value("snr_db", snr.db().into())));
        let (models, specs): (Vec<_>, Vec<_>) = stages.into_iter().unzip();
        let stages = models.into_iter().map(|model| Stage { model, instance: 0 }).collect();
        let blocks = kind != ChannelKind::Awgn && coherence != 0;
        Chain { stages, specs: specs.into(), kind, blocks, snr }
    }
}

impl ChannelConfig {
    /// The fading of this channel, `None` for AWGN.
    pub(crate) fn fading(&self) -> Option<Fading> {
        let motion = Motion { coherence: self.coherence, ..Motion::default() };
        let line_of_sight = Some(LineOfSight { k_factor: self.k_factor, doppler: 0.0 });
        match self.kind {
            ChannelKind::Awgn => None,
            ChannelKind::Rayleigh => Some(Fading { kind: self.kind, line_of_sight: None, motion }),
            ChannelKind::Rician => Some(Fading { kind: self.kind, line_of_sight, motion }),
        }
    }
}
