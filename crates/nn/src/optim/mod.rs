//! Optimisers that update variables in place and whose state can be saved.
//!
//! A step refuses variables without gradient instead of skipping them: a parameter that silently does not learn is a bug in
//! the network. The updates are those of PyTorch, in the same order of operations.

mod adamw;
mod average;
mod sgd;
mod slots;

use std::collections::BTreeMap;

use candle_core::Tensor;
use candle_core::backprop::GradStore;

pub use adamw::{AdamW, AdamWConfig};
pub use average::Average;
pub use sgd::{Sgd, SgdConfig};

use crate::Result;

/// A rule that turns gradients into new values of variables.
pub trait Optimizer {
    /// Updates every variable by its gradient with learning rate `lr`.
    ///
    /// # Errors
    /// A variable has no gradient; no variable is changed then.
    fn step(&mut self, grads: &GradStore, lr: f64) -> Result<()>;

    /// What the optimiser remembers between steps, as named tensors: a snapshot.
    fn state(&self) -> Result<BTreeMap<String, Tensor>>;

    /// Continues from a saved state.
    ///
    /// # Errors
    /// A tensor is missing, has another shape, or belongs to no variable; nothing is changed then.
    fn load_state(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()>;
}
