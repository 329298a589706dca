//! The one error type of this crate.

use std::path::PathBuf;

use candle_core::DType;

/// `std::result::Result` with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong in operators, layers, parameters, optimisers and checkpoints.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An error of the tensor library.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),

    /// A GPU cannot be used.
    #[error("GPU {ordinal}: {what}; `nvidia-smi` lists GPUs and the driver, --device cpu does without")]
    Gpu {
        /// Its number.
        ordinal: usize,
        /// What the driver says.
        what: String,
    },

    /// An operator was given a tensor of a shape that it cannot take.
    #[error("{op}: {what} has shape {got:?}, expected {expected}")]
    Shape {
        /// The operator.
        op: &'static str,
        /// Which argument.
        what: &'static str,
        /// What the operator takes, in words or numbers.
        expected: String,
        /// What it was given.
        got: Vec<usize>,
    },

    /// A type that the operator does not compute in (operators compute in f32 only) or that a file cannot hold.
    #[error("{op}: cannot take {got:?} tensors")]
    Dtype {
        /// The operator.
        op: &'static str,
        /// What it was given.
        got: DType,
    },

    /// The operator has no kernel for the tensor's device.
    #[error("{op}: not implemented on this device ({device})")]
    Device {
        /// The operator.
        op: &'static str,
        /// Where the tensor lives.
        device: String,
    },

    /// An argument that is not a tensor is outside its range.
    #[error("{op}: {what}")]
    Argument {
        /// The operator, layer or function.
        op: &'static str,
        /// What is wrong with which argument.
        what: String,
    },

    /// A checkpoint lacks a tensor that a layer asked for.
    #[error("parameter {name} is missing")]
    MissingParam {
        /// Full name.
        name: String,
    },

    /// A tensor has another shape than the layer or the state asked for.
    #[error("parameter {name} has shape {got:?}, expected {expected:?}")]
    ParamShape {
        /// Full name.
        name: String,
        /// The shape asked for.
        expected: Vec<usize>,
        /// The shape found.
        got: Vec<usize>,
    },

    /// A name was asked for both as a weight and as a buffer.
    #[error("{name} is used both as a trainable parameter and as a buffer")]
    ParamKind {
        /// Full name.
        name: String,
    },

    /// A checkpoint holds tensors that no layer asked for.
    #[error("tensors that no layer uses: {}", names.join(", "))]
    UnusedParams {
        /// Their full names.
        names: Vec<String>,
    },

    /// Variables that a loss does not depend on.
    #[error("no gradient for: {}", names.join(", "))]
    MissingGradient {
        /// Their full names.
        names: Vec<String>,
    },

    /// Variables whose gradient is zero everywhere or not finite.
    #[error("bad gradient: {}", offenders.join(", "))]
    BadGradient {
        /// Full name and what is wrong with its gradient.
        offenders: Vec<String>,
    },

    /// A saved optimiser state does not fit the variables.
    #[error("optimiser state: {what}")]
    OptimizerState {
        /// What does not fit.
        what: String,
    },

    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },

    /// A file is not a valid safetensors file, or holds tensors that cannot be taken.
    #[error("{}: {what}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}
