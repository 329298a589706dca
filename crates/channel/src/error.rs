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
    /// A model that does not exist.
    #[error("model is {name:?}, must be one of {known}")]
    UnknownModel {
        /// The name as it was given.
        name: String,
        /// Those that exist.
        known: String,
    },
    /// A parameter that its model does not have.
    #[error("{model} has no parameter {name:?}, only {known}")]
    UnknownParameter {
        /// Name of the model.
        model: &'static str,
        /// The name as it was given.
        name: String,
        /// Those that exist.
        known: String,
    },
    /// A parameter without a default that was not given.
    #[error("{model}: {name} is missing, must be {range}")]
    MissingParameter {
        /// Name of the model.
        model: &'static str,
        /// Name of the parameter.
        name: &'static str,
        /// The allowed values.
        range: String,
    },
    /// A parameter outside its range, of the wrong type, or not together with the others.
    #[error("{model}: {name} is {value}, must be {range}")]
    Parameter {
        /// Name of the model.
        model: &'static str,
        /// Name of the parameter.
        name: &'static str,
        /// The value as it was given.
        value: String,
        /// The allowed values.
        range: String,
    },
    /// A stage's text that cannot be read.
    #[error("stage {text:?}: {part:?} is no NAME=VALUE or there for the second time, expected MODEL,NAME=VALUE,...")]
    StageText {
        /// The whole text.
        text: String,
        /// The part that is wrong.
        part: String,
    },
    /// Impulse responses that cannot be had or used.
    #[error("impulse responses {file:?}: {problem}")]
    Responses {
        /// Their name.
        file: String,
        /// What is wrong.
        problem: String,
    },
    /// Stages that make no chain.
    #[error("stages: {problem}")]
    Chain {
        /// What is wrong, and what to do.
        problem: String,
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
