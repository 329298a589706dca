//! Layers: named parameters together with the operator that uses them.
//!
//! A layer takes its tensors from a [`crate::Params`] when it is built and is then a plain value with a `forward`. Weights are
//! stored as the operators read them: `[out, in]` for linear layers, `[kernel_h, kernel_w, in/groups, out]` for convolutions.

mod conv;
mod linear;
mod norm;
mod transformer;

pub use conv::{Conv2d, ConvBn, ConvConfig};
pub use linear::Linear;
pub use norm::{BN_EPS, BN_MOMENTUM, BatchNorm2d, Scale};
pub use transformer::{LayerNorm, SelfAttention};
