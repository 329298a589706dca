//! Networks of searched cells: the space of KDL-DARTS and the network of one point of it.

mod genotype;
mod network;
mod operation;

pub use genotype::{Cell, CellKind, Edge, Genotype};
pub use network::{CellConfig, CellInput, CellLayout, CellNet, Place, Stem};
pub use operation::{Operation, OperationLayer};
