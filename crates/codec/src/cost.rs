//! The one counter of parameters and multiply-accumulates.

use std::ops::{Add, AddAssign};

use serde::{Deserialize, Serialize};

/// What a network costs for one image.
///
/// A multiply-accumulate (MAC) is one product added to a sum; those of convolutions and linear layers are counted, those of
/// normalisation, activation and pooling are not. Parameters are the trainable ones: weights, biases, batch-norm scale and offset, but
/// not running statistics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// Trainable scalars.
    pub params: usize,
    /// Multiply-accumulates.
    pub macs: u64,
}

impl Cost {
    /// A dense convolution without bias and its affine batch-norm, over `pixels` output pixels.
    pub fn conv_bn(kernel: usize, inputs: usize, outputs: usize, pixels: usize) -> Self {
        let weights = kernel * kernel * inputs * outputs;
        Self { params: weights, macs: (weights * pixels) as u64 } + Self::norm(outputs)
    }

    /// A depthwise convolution without bias, over `pixels` output pixels.
    pub fn depthwise(kernel: usize, channels: usize, pixels: usize) -> Self {
        let weights = kernel * kernel * channels;
        Self { params: weights, macs: (weights * pixels) as u64 }
    }

    /// Scale and offset of a batch-norm.
    pub fn norm(channels: usize) -> Self {
        Self { params: 2 * channels, macs: 0 }
    }

    /// A linear layer with bias.
    pub fn linear(inputs: usize, outputs: usize) -> Self {
        Self::linear_over(inputs, outputs, 1)
    }

    /// A linear layer with bias, applied to each of `rows` vectors.
    pub fn linear_over(inputs: usize, outputs: usize, rows: usize) -> Self {
        Self { params: inputs * outputs + outputs, macs: (inputs * outputs * rows) as u64 }
    }
}

impl Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { params: self.params + other.params, macs: self.macs + other.macs }
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl std::iter::Sum for Cost {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::default(), Add::add)
    }
}
