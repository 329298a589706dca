//! Sizes of the channel-aware transformer.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Sizes of encoder and decoder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatConfig {
    /// Tokens that the feature vector becomes.
    pub tokens: usize,
    /// Payload channel uses k that the codec can send, ascending.
    pub rates: Vec<usize>,
    /// Codewords among which the encoder decides by itself, softly; 0: none. As many as there are classes let it send the class.
    #[serde(default)]
    pub codewords: usize,
    /// The edge half.
    pub encoder: BlocksConfig,
    /// The server half.
    pub decoder: BlocksConfig,
}

/// A stack of transformer blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlocksConfig {
    /// Width of a token.
    pub width: usize,
    /// Number of blocks.
    pub blocks: usize,
    /// Attention heads; divide the width.
    pub heads: usize,
    /// Width of the hidden layer over the width of a token.
    pub expansion: usize,
}

impl CatConfig {
    /// Checks every field.
    ///
    /// # Errors
    /// [`Error::Config`] with all faults.
    pub fn validate(&self) -> Result<()> {
        let mut faults = Vec::new();
        if !(1..=256).contains(&self.tokens) {
            faults.push(format!("tokens = {}, expected 1 to 256", self.tokens));
        }
        let ascending = self.rates.windows(2).all(|pair| pair[0] < pair[1]);
        if self.rates.is_empty() || self.rates.len() > 32 || !ascending || self.rates[0] == 0 {
            faults.push(format!("rates = {:?}, expected 1 to 32 ascending numbers of channel uses", self.rates));
        }
        let most = self.max_uses();
        if most > 65_536 || (self.tokens > 0 && !most.is_multiple_of(self.tokens)) {
            faults.push(format!(
                "rates: the largest, {most}, must be at most 65536 and a multiple of {} tokens",
                self.tokens
            ));
        }
        if self.codewords > 4096 {
            faults.push(format!("codewords = {}, expected 0 to 4096", self.codewords));
        }
        for (name, half) in [("encoder", &self.encoder), ("decoder", &self.decoder)] {
            if !(1..=1024).contains(&half.width) {
                faults.push(format!("{name}.width = {}, expected 1 to 1024", half.width));
            }
            if half.blocks > 32 {
                faults.push(format!("{name}.blocks = {}, expected 0 to 32", half.blocks));
            }
            if half.heads == 0 || !half.width.is_multiple_of(half.heads) {
                faults.push(format!("{name}.heads = {} must divide {name}.width = {}", half.heads, half.width));
            }
            if !(1..=16).contains(&half.expansion) {
                faults.push(format!("{name}.expansion = {}, expected 1 to 16", half.expansion));
            }
        }
        if faults.is_empty() { Ok(()) } else { Err(Error::Config { what: "cat", faults }) }
    }

    /// The largest k.
    pub fn max_uses(&self) -> usize {
        self.rates.last().copied().unwrap_or(0)
    }
}
