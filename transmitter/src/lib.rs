//! The transmitter.
mod batch;
mod config;
mod feedback;
mod model;
pub mod rate;
pub use config::Config;
