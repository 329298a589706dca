//! The student encoder, in either of its families.

use candle_core::Tensor;
use semlink_nn::{Mode, Params};
use serde::{Deserialize, Serialize};

use crate::cells::{CellConfig, CellNet};
use crate::{Cost, ResidualConfig, ResidualNet, Result};

/// Which network turns an image into a feature vector on the edge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StudentConfig {
    /// A residual network, made by hand.
    Residual(ResidualConfig),
    /// A network of searched cells.
    Cells(CellConfig),
}

impl StudentConfig {
    /// Length of the feature vector.
    pub fn features(&self) -> usize {
        match self {
            Self::Residual(config) => config.features,
            Self::Cells(config) => config.layout.features,
        }
    }

    /// Checks every field.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) with all faults.
    pub fn validate(&self) -> Result<()> {
        match self {
            Self::Residual(config) => config.validate(),
            Self::Cells(config) => config.validate(),
        }
    }

    /// Parameters and multiply-accumulates for one image of `height` x `width` x `channels`.
    pub fn cost(&self, height: usize, width: usize, channels: usize) -> Cost {
        match self {
            Self::Residual(config) => config.cost(height, width, channels),
            Self::Cells(config) => config.cost(height, width, channels),
        }
    }
}

/// The network of a [`StudentConfig`].
#[derive(Debug, Clone)]
pub enum StudentNet {
    /// See [`ResidualNet`].
    Residual(ResidualNet),
    /// See [`CellNet`].
    Cells(CellNet),
}

impl StudentNet {
    /// Builds the network for images of `channels` channels.
    ///
    /// # Errors
    /// A faulty configuration; missing or misshapen parameters.
    pub fn new(params: &Params, config: &StudentConfig, channels: usize) -> Result<Self> {
        Ok(match config {
            StudentConfig::Residual(config) => Self::Residual(ResidualNet::new(params, config, channels)?),
            StudentConfig::Cells(config) => Self::Cells(CellNet::new(params, config, channels)?),
        })
    }

    /// Images \[n, h, w, channels\], preprocessed, to feature vectors \[n, features\]. Built from frozen parameters it takes
    /// [`images_last`](semlink_nn::ops::images_last()) as well, and gives a row for each of the sixteen of a group.
    ///
    /// # Errors
    /// Another number of channels, or images smaller than the strides need.
    pub fn forward(&self, images: &Tensor, mode: Mode) -> Result<Tensor> {
        match self {
            Self::Residual(net) => net.forward(images, mode),
            Self::Cells(net) => net.forward(images, mode),
        }
    }
}
