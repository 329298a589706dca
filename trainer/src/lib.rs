//! Offline training of a semantic codec: teacher, distillation, robust stage, evaluation, bundle.
//!
//! A [`recipe::Recipe`] describes the experiment, a [`Context`] runs its [`Stage`]s in a folder of its own.

mod augment;
mod data;
pub mod dataset;
mod error;
mod fit;
#[doc(hidden)]
pub mod fuzzing;
pub mod gather;
pub mod group;
mod json;
pub mod page;
mod plot;
mod progress;
pub mod recipe;
pub mod report;
mod search;
mod source;
mod stages;
pub mod teachers;
#[doc(hidden)]
pub mod testing;

pub use augment::AugmentConfig;
pub use error::{Error, Result};
pub use fit::{FitConfig, OptimizerKind};
pub use search::{CostMeasure, LatencyTable, SearchConfig, SearchReport, Trial, TrialsConfig};
pub use stages::{Context, Stage};
