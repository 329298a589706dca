//! Random architectures of a given cost: what a search must beat.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use semlink_codec::cells::{Cell, CellLayout, Edge, Genotype, Operation};

use super::SearchConfig;
use super::architecture::KEPT;
use super::cost::CostTable;
use crate::{Error, Result};

/// How far from the target a random architecture may lie.
const TOLERANCE: f64 = 0.05;
/// Draws before giving up.
const DRAWS: usize = 2_000_000;

/// Each node reads two different states, each through a random operation; the first such genotype within 5 % of the search's target.
///
/// # Errors
/// No draw comes near the target.
pub(crate) fn random_genotype(
    seed: u64,
    config: &SearchConfig,
    layout: &CellLayout,
    size: (usize, usize, usize),
) -> Result<Genotype> {
    let costs = CostTable::new(&config.cost, layout, &config.operations, size)?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let operations: Vec<Operation> = config.operations.iter().copied().filter(|op| *op != Operation::None).collect();
    for _ in 0..DRAWS {
        let mut cell = || -> Cell {
            let node = |node: usize| {
                let mut sources = rand::seq::index::sample(&mut rng, 2 + node, KEPT).into_vec();
                sources.sort_unstable();
                let edge = |from| Edge { from, op: operations[rng.random_range(0..operations.len())] };
                sources.into_iter().map(edge).collect()
            };
            (0..layout.nodes).map(node).collect()
        };
        let genotype = Genotype { version: Genotype::VERSION, normal: cell(), reduction: cell() };
        if (costs.of(&genotype) / config.target - 1.0).abs() <= TOLERANCE {
            return Ok(genotype);
        }
    }
    Err(Error::Split(format!("no architecture of {DRAWS} random ones costs {} within 5 %", config.target)))
}
