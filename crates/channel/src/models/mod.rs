//! The channel models: one file each, behind one trait, put together by [`crate::Chain`].
//!
//! A model changes the symbols of one frame in place and notes what an ideal receiver would know of it. Everything random is drawn from the
//! [`Draws`] that it is given. `docs/CHANNELS.md` has the equations and a page on adding one.

mod adc;
mod awgn;
mod cfo;
mod gilbert_elliott;
mod impulsive;
mod iq_imbalance;
mod phase_noise;
mod playback;
mod rayleigh;
mod rician;
mod shadowing;
mod tdl;

use std::fmt;
use std::sync::Arc;

use num_complex::Complex32;

use crate::spec::{Parameter, Reader};
use crate::{ChannelKind, ChannelState, Draws, Error, Result, SnrDb};

pub(crate) use awgn::Awgn;

/// One stage of a chain.
pub trait Model: fmt::Debug + Send + Sync {
    /// Sends one frame through: the same draws and symbols give the same bits, and the first payload symbols never depend on
    /// how many pilots there are.
    fn apply(&self, draws: &Draws, frame: &mut Passage<'_>);

    /// What the stage is to a chain.
    fn role(&self) -> Role {
        Role::Impairment
    }
}

/// What a stage is to a chain.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Role {
    /// The receiver noise, from which a chain has its SNR: exactly one.
    Noise(SnrDb),
    /// Small-scale fading of this kind: at most one.
    Fading {
        /// What the fading is to a codec.
        kind: ChannelKind,
        /// Blocks that differ within one frame, so that its first symbols do not tell of all.
        blocks: bool,
    },
    /// Anything else.
    Impairment,
}

/// A frame on its way through a chain.
#[derive(Debug)]
pub struct Passage<'a> {
    /// Pilots, sent before the payload: the last one at time -1.
    pub pilots: &'a mut [Complex32],
    /// Payload, the first symbol at time 0.
    pub symbols: &'a mut [Complex32],
    /// y = h x + n so far, as far as it is the propagation's doing: what a receiver is told where it is told the channel. Impairments of
    /// the radios themselves are not part of it.
    pub state: &'a mut ChannelState,
    /// The SNR for this frame.
    pub snr: SnrDb,
    /// Impulse responses behind `state`, from a model that has several taps.
    pub taps: Option<Taps>,
    /// Power of what came to the noise over the power of the noise drawn, in dB; from the stage that draws it.
    pub snr_db_realised: f32,
}

/// Impulse responses of one frame: y_n = sum over l of h_l x_(n-l).
#[derive(Debug, Clone, PartialEq)]
pub struct Taps {
    /// The lag l of the first tap in symbols; negative for what comes before the strongest, whose lag is 0.
    pub first: i32,
    /// Taps of a response.
    pub count: usize,
    /// `count` coefficients for each block of the state.
    pub values: Vec<Complex32>,
}

/// What is known of a model without building it.
#[derive(Debug)]
pub struct Description {
    /// Its name in files and commands.
    pub name: &'static str,
    /// What it does, in one line.
    pub summary: &'static str,
    /// Its parameters.
    pub parameters: &'static [Parameter],
    /// It is small-scale fading, of which a chain has at most one stage; then its [`Role`] says so, too.
    pub fading: bool,
    pub(crate) build: fn(&Reader<'_>) -> Result<Arc<dyn Model>>,
}

/// Every model, the usual ones first.
pub const ALL: [&Description; 12] = [
    &awgn::DESCRIPTION,
    &rayleigh::DESCRIPTION,
    &rician::DESCRIPTION,
    &tdl::DESCRIPTION,
    &playback::DESCRIPTION,
    &shadowing::DESCRIPTION,
    &cfo::DESCRIPTION,
    &phase_noise::DESCRIPTION,
    &iq_imbalance::DESCRIPTION,
    &adc::DESCRIPTION,
    &impulsive::DESCRIPTION,
    &gilbert_elliott::DESCRIPTION,
];

/// The model of this name.
///
/// # Errors
/// [`Error::UnknownModel`] with those that exist.
pub fn find(name: &str) -> Result<&'static Description> {
    ALL.into_iter().find(|description| description.name == name).ok_or_else(|| Error::UnknownModel {
        name: name.to_owned(),
        known: ALL.map(|description| description.name).join(", "),
    })
}

impl Passage<'_> {
    /// Pilots and payload with their times, in symbols from the first payload symbol.
    pub(crate) fn timed(&mut self) -> impl Iterator<Item = (i64, &mut Complex32)> {
        let pilots = self.pilots.len() as i64;
        (-pilots..).zip(self.pilots.iter_mut().chain(self.symbols.iter_mut()))
    }

    /// Pilots and payload, one after the other.
    pub(crate) fn both(&mut self) -> impl Iterator<Item = &mut Complex32> {
        self.pilots.iter_mut().chain(self.symbols.iter_mut())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Responses, StageSpec};

    #[test]
    fn descriptions_and_roles_agree_on_what_is_fading() {
        let library = |_: &str| Ok(Responses { taps: 1, values: vec![Complex32::ONE].into() });
        for description in ALL {
            let spec = match description.name {
                "awgn" => StageSpec::new("awgn").with("snr_db", 3.0),
                "playback" => StageSpec::new("playback").with_value("file", crate::Value::Text("hall".into())),
                name => StageSpec::new(name),
            };
            let role = spec.build(&library).unwrap().role();
            assert_eq!(matches!(role, Role::Fading { .. }), description.fading, "{}", description.name);
        }
    }
}
