//! Wireless channels as pure maths: slices of complex symbols in, slices out, parameters and keys passed in.
//!
//! A frame of symbols `x` with mean power 1 becomes `y = h x + n` with `E|h|^2 = 1` and `n ~ CN(0, N0)`,
//! `N0 = 10^(-snr_db / 10)` in total per complex symbol, N0/2 on each axis. Which `h` and `n` a frame meets is decided by
//! its [`FrameKey`] alone, so that a replay is bit-identical whatever the order or concurrency.
//!
//! ```
//! use semlink_channel::{ChannelConfig, ChannelKind, Complex32, FrameKey, RicianK, SnrDb, equalize, power};
//!
//! # fn main() -> Result<(), semlink_channel::Error> {
//! let mut symbols = vec![Complex32::new(0.3, -0.4); 64];
//! power::normalize(&mut symbols)?;
//!
//! let channel = ChannelConfig {
//!     kind: ChannelKind::Rician,
//!     snr: SnrDb::try_new(10.0)?,
//!     k_factor: RicianK::try_new_db(6.0)?,
//!     coherence: 16,
//! };
//! let key = FrameKey { seed: 7, link: 0, stream: 0, frame: 42 };
//! let applied = channel.apply(key, &mut symbols);
//! assert_eq!(applied.state.h.len(), 4); // one coefficient for each 16 of the 64 symbols
//!
//! let equalized = equalize::mmse(&symbols, &applied.state)?;
//! assert_eq!(equalized.symbols.len(), 64);
//! # Ok(())
//! # }
//! ```

mod chain;
mod config;
mod doppler;
mod error;
mod fading;
mod fir;
mod gaussian;
mod key;
mod spec;
mod state;
mod types;

pub mod equalize;
pub mod iq;
pub mod limit;
pub mod models;
pub mod noise;
pub mod pilots;
pub mod power;
pub mod stats;

pub use chain::{Chain, Passed};
pub use config::{Applied, ChannelConfig};
pub use error::{Error, Result};
pub use key::{Draws, FrameKey, Substream};
pub use num_complex::Complex32;
pub use spec::{Kind, Library, Parameter, Responses, StageSpec, Value};
pub use state::ChannelState;
pub use types::{ChannelKind, ChannelUses, RicianK, SnrDb};
