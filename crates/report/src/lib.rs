//! Reports that people hand on: one HTML file that holds everything it shows, and the charts that also stand alone as SVG.
//!
//! A [`Document`] is made of [`Section`]s with texts, [`Table`]s and figures. It opens without a network, needs no script, follows the
//! reader's choice of light or dark, and prints. Every text that goes into it is escaped, so names from data sets, bundles and command
//! lines may hold anything.

mod chart;
mod confusion;
mod document;
mod error;
mod escape;
mod image;
mod output;
mod reliability;
mod spark;
mod style;
mod table;

pub use chart::{Axis, Chart, Corner, Line, Mark, Stroke, Svg, panels};
pub use confusion::Confusion;
pub use document::{Document, Section};
pub use error::{Error, Result};
pub use escape::escape;
pub use image::Image;
pub use output::Output;
pub use reliability::{Bin, Reliability};
pub use spark::spark;
pub use style::Tone;
pub use table::{Cell, Table};
