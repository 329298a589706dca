//! Operators with gradients, layers, optimisers and schedules on [candle](candle_core) tensors.
//!
//! Activations are `[batch, height, width, channels]`, convolution weights `[kernel_h, kernel_w, in/groups, out]`, everything is
//! f32: the lanes of a SIMD register then hold channels and no operator converts a layout, forward or backward.
//!
//! Every operator in [`ops`] has a gradient of its own, checked in the tests against finite differences and against golden
//! values from PyTorch. Parallel reductions run over chunks of a fixed size, so that a result does not depend on the number of
//! threads. Nothing here draws from a global generator: initial weights come from (seed, name), see [`Params::init`].

pub mod checkpoint;
#[cfg(feature = "cuda")]
pub mod cuda;
mod device;
mod error;
pub mod grad;
pub mod layers;
pub mod ops;
pub mod optim;
mod params;
pub mod runtime;
pub mod schedule;
mod simd;
mod tape;

pub use device::DeviceChoice;
pub use error::{Error, Result};
pub use ops::Activation;
pub use params::{Buffer, Init, Params};
pub use tape::value_and_grad;

/// Whether a network learns from a batch or is applied to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Batch-norm uses and records the batch's statistics.
    Train,
    /// Batch-norm uses the batch's statistics and records nothing: a step that learns something else than the weights, such as
    /// an architecture, must not move them.
    Probe,
    /// Batch-norm uses the recorded statistics; nothing changes.
    Eval,
}

impl Mode {
    /// Whether batch-norm normalises with the batch's own statistics.
    pub fn uses_batch_statistics(self) -> bool {
        self != Mode::Eval
    }
}
