//! CAT, the channel-aware transformer: channel encoder and decoder, told the channel's state, with frames of any length of a set.

mod blocks;
mod condition;
mod config;
mod decoder;
mod encoder;
mod frame;
mod link;
mod mlp;
mod slices;

pub use condition::Condition;
pub use config::{BlocksConfig, CatConfig};
pub use decoder::CatDecoder;
pub use encoder::CatEncoder;
pub use link::{Csi, CsiSource, Estimates, Passage, through_channel};
pub use mlp::{MlpConfig, MlpDecoder, MlpEncoder};
