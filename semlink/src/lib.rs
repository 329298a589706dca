//! The command line's parts: the sweep, its files and pictures, the demo, and the commands for running services.

pub mod demo;
pub mod files;
pub mod grid;
pub mod images;
pub mod plot;
pub mod remote;
pub mod sweep;
pub mod terminal;
