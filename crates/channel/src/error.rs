//! The one error type of this crate.

/// Result of this crate's fallible functions.
pub type Result<T> = std::result::Result<T, Error>;

/// What was wrong, in which field, with the value found and the values allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A number outside its range, or not a number at all.
    #[error("{field} is {value}, must be {range}")]
    OutOfRange {
        /// Name of the setting or argument.
        field: &'static str,
        /// The value as it was given.
        value: String,
        /// The allowed values, with their unit.
        range: &'static str,
    },
    /// A channel kind that does not exist.
    #[error("channel kind is {value:?}, must be awgn, rayleigh or rician")]
    UnknownKind {
        /// The text as it was given.
        value: String,
    },
    /// A NaN or an infinity among complex values.
    #[error("{field}[{index}] is {value}, must be finite")]
    NonFinite {
        /// Name of the sequence.
        field: &'static str,
        /// Index of the first such complex value, from 0.
        index: usize,
        /// The value found.
        value: String,
    },
    /// Bytes that are no whole number of `cf32_le` symbols.
    #[error("iq has {bytes} bytes, must be a multiple of 8 (cf32_le)")]
    PartialSymbol {
        /// Number of bytes given.
        bytes: usize,
    },
    /// A sequence whose length does not fit the other arguments.
    #[error("{field} has {actual} values, must have {expected}")]
    Length {
        /// Name of the sequence.
        field: &'static str,
        /// Its length.
        actual: usize,
        /// The length that was needed.
        expected: usize,
    },
    /// A frame without any power cannot be scaled to power 1.
    #[error("symbols have mean power 0 over {symbols} symbols, cannot be normalised to 1")]
    ZeroPower {
        /// Number of symbols in the frame.
        symbols: usize,
    },
}
