//! The head that turns a feature vector into class scores: the teacher's, and the receiver's.

use candle_core::Tensor;
use semlink_nn::Params;
use semlink_nn::layers::Linear;

use crate::{Cost, Result};

/// One linear layer from features to logits.
#[derive(Debug, Clone)]
pub struct Classifier {
    linear: Linear,
}

impl Classifier {
    /// From `features` to `classes`.
    ///
    /// # Errors
    /// Missing or misshapen parameters.
    pub fn new(params: &Params, features: usize, classes: usize) -> Result<Self> {
        Ok(Self { linear: Linear::new(&params.sub("linear"), features, classes)? })
    }

    /// Features \[n, features\] to logits \[n, classes\].
    ///
    /// # Errors
    /// Another number of features.
    pub fn forward(&self, features: &Tensor) -> Result<Tensor> {
        Ok(self.linear.forward(features)?)
    }

    /// Weight \[classes, features\] and bias \[classes\].
    pub fn weights(&self) -> (&Tensor, Option<&Tensor>) {
        (self.linear.weight(), self.linear.bias())
    }

    /// Parameters and multiply-accumulates.
    pub fn cost(features: usize, classes: usize) -> Cost {
        Cost::linear(features, classes)
    }
}
