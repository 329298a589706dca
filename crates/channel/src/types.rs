//! Quantities that cannot hold a wrong value: built by `try_new`, parsed and deserialised with the same checks.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Average signal-to-noise ratio Es/N0 in dB, finite, in [-60, 100], with Es = 1 and `E|h|^2 = 1`.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f32", into = "f32")]
pub struct SnrDb(f32);

/// Rician factor K in dB, finite, in [-40, 60]: power of the line of sight over power of the scattered part.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f32", into = "f32")]
pub struct RicianK(f32);

/// Number of complex payload symbols of one frame, 1 to 65536.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "usize", into = "usize")]
pub struct ChannelUses(usize);

/// Which fading model a frame meets; as text `awgn`, `rayleigh` or `rician`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChannelKind {
    /// No fading, h = 1.
    Awgn,
    /// h ~ CN(0, 1) per block.
    Rayleigh,
    /// A line of sight plus scatter per block.
    Rician,
}

impl SnrDb {
    /// Lowest SNR that is accepted, in dB.
    pub const MIN: SnrDb = SnrDb(-60.0);
    /// Highest SNR that is accepted, in dB.
    pub const MAX: SnrDb = SnrDb(100.0);

    /// Checks a value in dB.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for NaN, infinities and values outside [-60, 100].
    pub fn try_new(db: f32) -> Result<SnrDb> {
        if (Self::MIN.0..=Self::MAX.0).contains(&db) {
            Ok(SnrDb(db))
        } else {
            Err(out_of_range("snr_db", db, "in [-60, 100] dB"))
        }
    }

    /// The value in dB.
    pub fn db(self) -> f32 {
        self.0
    }

    /// N0 = 10^(-snr_db / 10): noise variance in total per complex symbol of unit mean power, N0/2 per axis.
    pub fn noise_var(self) -> f32 {
        10f64.powf(-f64::from(self.0) / 10.0) as f32
    }
}

impl RicianK {
    /// Smallest factor that is accepted, in dB: in effect Rayleigh.
    pub const MIN: RicianK = RicianK(-40.0);
    /// Largest factor that is accepted, in dB: in effect no fading but a random phase.
    pub const MAX: RicianK = RicianK(60.0);

    /// Checks a value in dB.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for NaN, infinities and values outside [-40, 60].
    pub fn try_new_db(db: f32) -> Result<RicianK> {
        if (Self::MIN.0..=Self::MAX.0).contains(&db) {
            Ok(RicianK(db))
        } else {
            Err(out_of_range("k_factor_db", db, "in [-40, 60] dB"))
        }
    }

    /// The value in dB.
    pub fn db(self) -> f32 {
        self.0
    }

    /// The power ratio K = 10^(k_factor_db / 10).
    pub fn linear(self) -> f32 {
        10f64.powf(f64::from(self.0) / 10.0) as f32
    }
}

/// 6 dB, a common outdoor value with a clear line of sight.
impl Default for RicianK {
    fn default() -> Self {
        RicianK(6.0)
    }
}

impl ChannelUses {
    /// The longest frame.
    pub const MAX: ChannelUses = ChannelUses(65_536);

    /// Checks a number of symbols.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for 0 and for more than 65536.
    pub fn try_new(uses: usize) -> Result<ChannelUses> {
        if (1..=Self::MAX.0).contains(&uses) {
            Ok(ChannelUses(uses))
        } else {
            Err(out_of_range("uses", uses, "in [1, 65536]"))
        }
    }

    /// The number of symbols.
    pub fn get(self) -> usize {
        self.0
    }
}

impl ChannelKind {
    /// Every kind, in order.
    pub const ALL: [ChannelKind; 3] = [ChannelKind::Awgn, ChannelKind::Rayleigh, ChannelKind::Rician];

    /// The kind as text: `awgn`, `rayleigh` or `rician`.
    pub fn as_str(self) -> &'static str {
        match self {
            ChannelKind::Awgn => "awgn",
            ChannelKind::Rayleigh => "rayleigh",
            ChannelKind::Rician => "rician",
        }
    }
}

impl fmt::Display for ChannelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for ChannelKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<ChannelKind> {
        ChannelKind::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| Error::UnknownKind { value: text.to_owned() })
    }
}

/// Display, parsing and conversions of a checked number; text and serde carry the bare number.
macro_rules! number {
    ($type:ident, $inner:ty, $build:path, $field:literal, $range:literal) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $type {
            type Err = Error;

            fn from_str(text: &str) -> Result<$type> {
                let value = text.trim().parse::<$inner>();
                $build(value.map_err(|_| out_of_range($field, format!("{text:?}"), $range))?)
            }
        }

        impl TryFrom<$inner> for $type {
            type Error = Error;

            fn try_from(value: $inner) -> Result<$type> {
                $build(value)
            }
        }

        impl From<$type> for $inner {
            fn from(value: $type) -> $inner {
                value.0
            }
        }
    };
}

number!(SnrDb, f32, SnrDb::try_new, "snr_db", "a number in [-60, 100] dB");
number!(RicianK, f32, RicianK::try_new_db, "k_factor_db", "a number in [-40, 60] dB");
number!(ChannelUses, usize, ChannelUses::try_new, "uses", "a whole number in [1, 65536]");

fn out_of_range(field: &'static str, value: impl ToString, range: &'static str) -> Error {
    Error::OutOfRange { field, value: value.to_string(), range }
}
