//! Operators on channels-last f32 tensors, each with a gradient of its own.
//!
//! All of them take contiguous or strided tensors (strided ones are copied first), refuse other types than f32 and devices that the build
//! does not serve by name. On a GPU (feature `cuda`) they leave for the kernels of `crate::cuda`; on the CPU they split their work over the rayon pool in chunks whose size does not depend on the number
//! of threads.

mod activation;
mod attention;
mod concat;
mod conv;
mod images_last;
mod layer_norm;
mod linear;
mod loss;
mod math;
mod matrix;
mod modulate;
mod norm;
mod pool;
pub(crate) mod raw;
mod softmax;
pub(crate) mod vectorise;
mod views;

pub use activation::{Activation, activate, add_activate, sum_activate};
pub use attention::attention;
pub use concat::concat;
#[cfg(feature = "cuda")]
pub(crate) use conv::ConvGeometry;
pub use conv::{Conv2dSpec, conv2d, conv2d_bias_act};
pub use images_last::images_last;
pub use layer_norm::layer_norm;
pub use linear::linear;
pub(crate) use linear::linear_transposed;
pub use loss::{cross_entropy, mse};
pub use modulate::{gated_add, modulate};
pub use norm::{BatchStats, batch_norm_eval, batch_norm_train};
pub use pool::{Pool2dSpec, avg_pool2d, global_avg_pool, max_pool2d};
pub use softmax::softmax;
pub use views::{View, render_views};
