//! The architecture parameters: for each kind of cell an alpha for each edge and operation and a beta for each edge.
//!
//! p = softmax(alpha) over the operations of an edge, b = softmax(beta) over the edges into a node (edge normalisation, PC-DARTS). A node keeps
//! [`KEPT`] edges at last, so that an operation counts with r p, r = KEPT b: in the mixed network as its factor, in the expected cost as its
//! probability.

use candle_core::{D, Device, Tensor};
use rand::Rng;
use semlink_codec::cells::{Cell, CellKind, CellLayout, Edge, Genotype, Operation, Place};
use semlink_nn::layers::Scale;
use semlink_nn::{Init, Params, ops};

use super::cost::CostTable;
use crate::Result;

/// Edges of a node that discretisation keeps, as in DARTS.
pub(crate) const KEPT: usize = 2;

/// Draws for each candidate that is wanted before the space is held to be too small for so many.
const DRAWS_PER_CANDIDATE: usize = 50;

/// Kinds of cells, by their index in everything that has one entry for each.
pub(crate) const KINDS: [CellKind; 2] = [CellKind::Normal, CellKind::Reduction];

pub(crate) fn kind_index(kind: CellKind) -> usize {
    usize::from(kind == CellKind::Reduction)
}

/// The edges of a cell of `nodes` nodes: for each node its possible sources, as ranges of a flat list.
pub(crate) fn edges_of(nodes: usize) -> Vec<std::ops::Range<usize>> {
    let mut start = 0;
    let range = |node| {
        let range = start..start + 2 + node;
        start = range.end;
        range
    };
    (0..nodes).map(range).collect()
}

/// Alphas and betas of the cells of a layout.
#[derive(Debug, Clone)]
pub(crate) struct Architecture {
    pub(crate) operations: Vec<Operation>,
    nodes: Vec<std::ops::Range<usize>>,
    /// For each kind that the layout has.
    cells: [Option<CellParams>; 2],
}

#[derive(Debug, Clone)]
struct CellParams {
    /// \[edges, operations\]
    alpha: Tensor,
    /// \[edges\]
    beta: Tensor,
}

/// For one kind of cell, log p of each edge and operation, `none` left out, and log r of each edge.
#[derive(Debug, Clone)]
struct Logs {
    operations: Vec<Vec<f64>>,
    edges: Vec<f64>,
}

/// r p for one kind of cell.
#[derive(Debug, Clone)]
pub(crate) struct Gates {
    /// \[edges, operations\]
    operations: Tensor,
    /// \[edges\]
    edges: Tensor,
}

/// The factors of one cell of the mixed network.
pub(crate) struct CellScales {
    /// By edge and operation.
    pub(crate) operations: Vec<Vec<Scale>>,
    /// By edge, for the channels that pass the operations by.
    pub(crate) edges: Vec<Scale>,
}

/// What the metrics tell about an architecture, apart from its cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Summary {
    /// Mean entropy of p over the edges, in units of its largest value.
    pub(crate) entropy: f64,
    /// Share of operations without parameters (skips and pools at stride 1) among the edges of the discretised normal cell.
    pub(crate) free_share: f64,
}

impl Architecture {
    /// Parameters near zero: every operation as likely as any other.
    pub(crate) fn new(params: &Params, layout: &CellLayout, operations: &[Operation]) -> Result<Self> {
        let nodes = edges_of(layout.nodes);
        let edges = nodes.last().map_or(0, |range| range.end);
        let cell = |kind: CellKind| -> Result<Option<CellParams>> {
            if !layout.cells.contains(&kind) {
                return Ok(None);
            }
            let params = params.sub(if kind == CellKind::Normal { "normal" } else { "reduction" });
            let init = Init::Normal { std: 1e-3 };
            Ok(Some(CellParams {
                alpha: params.weight("alpha", &[edges, operations.len()], init)?,
                beta: params.weight("beta", &[edges], init)?,
            }))
        };
        Ok(Self { operations: operations.to_vec(), nodes, cells: [cell(KINDS[0])?, cell(KINDS[1])?] })
    }

    fn device(&self) -> &Device {
        self.cells.iter().flatten().next().map_or(&Device::Cpu, |cell| cell.alpha.device())
    }

    fn edges(&self) -> usize {
        self.nodes.last().map_or(0, |range| range.end)
    }

    /// \[edges\]: r of each edge.
    fn kept(&self, cell: &CellParams) -> Result<Tensor> {
        let node = |range: &std::ops::Range<usize>| {
            let beta = cell.beta.narrow(0, range.start, range.len())?.unsqueeze(0)?;
            let kept = range.len().min(KEPT) as f64;
            Ok(ops::softmax(&beta)?.squeeze(0)?.affine(kept, 0.0)?)
        };
        Ok(Tensor::cat(&self.nodes.iter().map(node).collect::<Result<Vec<_>>>()?, 0)?)
    }

    /// The gates of each kind of cell; with gradient unless `detached`.
    pub(crate) fn gates(&self, detached: bool) -> Result<[Option<Gates>; 2]> {
        let gates = |cell: &Option<CellParams>| -> Result<Option<Gates>> {
            let Some(cell) = cell else { return Ok(None) };
            let edges = self.kept(cell)?;
            let operations = ops::softmax(&cell.alpha)?.broadcast_mul(&edges.unsqueeze(1)?)?;
            let free = |t: Tensor| if detached { t.detach() } else { t };
            Ok(Some(Gates { operations: free(operations), edges: free(edges) }))
        };
        Ok([gates(&self.cells[0])?, gates(&self.cells[1])?])
    }

    /// The gates of a discretised network: 1 where the genotype has an edge, 0 elsewhere.
    pub(crate) fn discrete_gates(&self, genotype: &Genotype) -> Result<[Option<Gates>; 2]> {
        let gates = |kind: CellKind| -> Result<Option<Gates>> {
            if self.cells[kind_index(kind)].is_none() {
                return Ok(None);
            }
            let columns = self.operations.len();
            let mut table = vec![0f32; self.edges() * columns];
            let mut kept = vec![0f32; self.edges()];
            for (range, edges) in self.nodes.iter().zip(genotype.cell(kind)) {
                for edge in edges {
                    let row = range.start + edge.from;
                    if let Some(column) = self.operations.iter().position(|op| *op == edge.op) {
                        table[row * columns + column] = 1.0;
                        kept[row] = 1.0;
                    }
                }
            }
            Ok(Some(Gates {
                operations: Tensor::from_vec(table, (self.edges(), columns), self.device())?,
                edges: Tensor::from_vec(kept, self.edges(), self.device())?,
            }))
        };
        Ok([gates(KINDS[0])?, gates(KINDS[1])?])
    }

    /// Expected cost: what does not depend on the architecture plus the sum over edges and operations of r p cost, a scalar with gradient.
    pub(crate) fn expected_cost(&self, costs: &CostTable) -> Result<Tensor> {
        let mut total = Tensor::new(costs.fixed as f32, self.device())?;
        for (cell, table) in self.cells.iter().zip(&costs.edges) {
            let Some(cell) = cell else { continue };
            let values: Vec<f32> = table.iter().flatten().map(|cost| *cost as f32).collect();
            let table = Tensor::from_vec(values, (self.edges(), self.operations.len()), self.device())?;
            // An edge whose softmax says `none` is not kept; what is kept costs what the other operations cost.
            let p = self.without_none(&ops::softmax(&cell.alpha)?)?;
            let per_edge = (p * table)?.sum(D::Minus1)?;
            total = (total + (per_edge * self.kept(cell)?)?.sum_all()?)?;
        }
        Ok(total)
    }

    /// p, with `none` left out and the rest scaled to sum to 1.
    fn without_none(&self, p: &Tensor) -> Result<Tensor> {
        let keep: Vec<f32> = self.operations.iter().map(|op| f32::from(u8::from(*op != Operation::None))).collect();
        let keep = Tensor::new(keep, self.device())?;
        let p = p.broadcast_mul(&keep)?;
        Ok(p.broadcast_div(&(p.sum_keepdim(D::Minus1)? + 1e-12)?)?)
    }

    /// Mean over the edges of log sum exp(alpha) - mean(alpha): the regulariser of beta-DARTS (Ye et al. 2022), which keeps any operation's
    /// alpha, the skip's above all, from running away. The mean makes it blind to what softmax is blind to, a shift of all alphas of an edge:
    /// without it all of them sink, and under Adam those of noisy gradients sink slowest, which is a preference that nothing earned.
    pub(crate) fn beta_decay(&self) -> Result<Tensor> {
        let mut total = Tensor::zeros((), candle_core::DType::F32, self.device())?;
        for cell in self.cells.iter().flatten() {
            total = (total + (cell.alpha.log_sum_exp(D::Minus1)?.mean_all()? - cell.alpha.mean_all()?)?)?;
        }
        Ok(total)
    }

    pub(crate) fn summary(&self, genotype: &Genotype) -> Result<Summary> {
        let (mut entropy, mut edges) = (0.0, 0.0);
        for cell in self.cells.iter().flatten() {
            for row in ops::softmax(&cell.alpha.detach())?.to_vec2::<f32>()? {
                let row = row.iter().map(|p| f64::from(*p));
                entropy -= row.filter(|p| *p > 0.0).map(|p| p * p.ln()).sum::<f64>();
                edges += 1.0;
            }
        }
        let most = (self.operations.len() as f64).ln().max(f64::MIN_POSITIVE);
        let kind = if self.cells[0].is_some() { KINDS[0] } else { KINDS[1] };
        let all: Vec<&Edge> = genotype.cell(kind).iter().flatten().collect();
        let free = all.iter().filter(|e| matches!(e.op, Operation::Skip | Operation::MaxPool3 | Operation::AvgPool3));
        let free_share = free.count() as f64 / all.len().max(1) as f64;
        Ok(Summary { entropy: entropy / edges / most, free_share })
    }

    fn logs(&self) -> Result<[Option<Logs>; 2]> {
        let logs = |cell: &Option<CellParams>| -> Result<Option<Logs>> {
            let Some(cell) = cell else { return Ok(None) };
            let log = |p: &f32| f64::from(*p).max(1e-30).ln();
            let p = self.without_none(&ops::softmax(&cell.alpha.detach())?)?.to_vec2::<f32>()?;
            let operations = p.iter().map(|row| row.iter().map(log).collect()).collect();
            Ok(Some(Logs { operations, edges: self.kept(cell)?.detach().to_vec1::<f32>()?.iter().map(log).collect() }))
        };
        Ok([logs(&self.cells[0])?, logs(&self.cells[1])?])
    }

    /// At most `count` different genotypes, each derived as [`Architecture::derive`] does: the likeliest, then those of architectures drawn around
    /// this one. Gumbel noise of scale `temperature` on log p makes the largest a draw from softmax(alpha / temperature).
    pub(crate) fn candidates(
        &self,
        costs: &CostTable,
        target: Option<(f64, f64)>,
        count: usize,
        temperature: f64,
        rng: &mut impl Rng,
    ) -> Result<Vec<Genotype>> {
        let logs = self.logs()?;
        let mut found = vec![self.likeliest(&logs, costs, target)];
        for _ in 0..count * DRAWS_PER_CANDIDATE {
            if found.len() >= count {
                break;
            }
            let mut noisy = logs.clone();
            for cell in noisy.iter_mut().flatten() {
                for value in cell.operations.iter_mut().flatten().chain(&mut cell.edges) {
                    let uniform: f64 = rng.random::<f64>().max(f64::MIN_POSITIVE);
                    *value -= temperature * (-uniform.ln()).ln();
                }
            }
            let drawn = self.likeliest(&noisy, costs, target);
            let near = target.is_none_or(|(cost, tolerance)| (costs.of(&drawn) / cost - 1.0).abs() <= tolerance);
            if near && !found.contains(&drawn) {
                found.push(drawn);
            }
        }
        Ok(found)
    }

    /// The likeliest genotype: each node keeps the edges of largest r p with the best operation of each, `none` excepted. With a
    /// `target`, the likeliest one found whose cost comes within `tolerance` of it: log-probabilities are charged a price per unit of cost, the
    /// price nearest to zero that meets the target wins, and single exchanges close what gap remains.
    pub(crate) fn derive(&self, costs: &CostTable, target: Option<(f64, f64)>) -> Result<Genotype> {
        Ok(self.likeliest(&self.logs()?, costs, target))
    }

    fn likeliest(&self, logs: &[Option<Logs>; 2], costs: &CostTable, target: Option<(f64, f64)>) -> Genotype {
        let at_price = |price: f64| -> Choice {
            let kind = |k: usize| {
                let Some(Logs { operations: p, edges: r }) = &logs[k] else { return Vec::new() };
                let node = |range: &std::ops::Range<usize>| {
                    let edge = |from: usize| {
                        let row = range.start + from;
                        let score = |column: usize| p[row][column] - price * costs.edges[k][row][column];
                        let columns = (0..self.operations.len()).filter(|c| self.operations[*c] != Operation::None);
                        let best = columns.max_by(|a, b| score(*a).total_cmp(&score(*b))).unwrap_or(0);
                        (r[row] + score(best), from, best)
                    };
                    let mut edges: Vec<_> = (0..range.len()).map(edge).collect();
                    edges.sort_by(|a, b| b.0.total_cmp(&a.0));
                    let mut kept: Vec<_> = edges.iter().take(KEPT).map(|(_, from, column)| (*from, *column)).collect();
                    kept.sort_unstable();
                    kept
                };
                self.nodes.iter().map(node).collect()
            };
            [kind(0), kind(1)]
        };
        let cost = |choice: &Choice| {
            let edge = |k: usize| {
                let node = move |(range, kept): (&std::ops::Range<usize>, &Vec<(usize, usize)>)| -> f64 {
                    kept.iter().map(|(from, column)| costs.edges[k][range.start + from][*column]).sum()
                };
                self.nodes.iter().zip(&choice[k]).map(node).sum::<f64>()
            };
            costs.fixed + edge(0) + edge(1)
        };
        let mut best = at_price(0.0);
        if let Some((target, tolerance)) = target {
            let off = |choice: &Choice| (cost(choice) / target - 1.0).abs();
            // Prices grow from one thousandth of a nat to a thousand nats per target's worth of cost, either sign.
            let prices = (0..=240).map(|i| 1e-3 * 10f64.powf(f64::from(i) / 40.0) / target);
            let signed = prices.flat_map(|price| [price, -price]);
            for price in signed {
                if off(&best) <= tolerance {
                    break;
                }
                let choice = at_price(price);
                if off(&choice) < off(&best) {
                    best = choice;
                }
            }
            while off(&best) > tolerance {
                let Some(better) = self.exchanges(&best).min_by(|a, b| off(a).total_cmp(&off(b))) else { break };
                if off(&better) >= off(&best) {
                    break;
                }
                best = better;
            }
        }
        self.genotype(&best)
    }

    /// All choices that differ in the operation of one edge.
    fn exchanges<'a>(&'a self, choice: &'a Choice) -> impl Iterator<Item = Choice> + 'a {
        let places = (0..2).flat_map(move |k| {
            let nodes = choice[k].iter().enumerate();
            nodes.flat_map(move |(n, kept)| (0..kept.len()).map(move |e| (k, n, e)))
        });
        places.flat_map(move |(k, n, e)| {
            let columns = (0..self.operations.len()).filter(|c| self.operations[*c] != Operation::None);
            columns.map(move |column| {
                let mut other = choice.clone();
                other[k][n][e].1 = column;
                other
            })
        })
    }

    fn genotype(&self, choice: &Choice) -> Genotype {
        let cell = |k: usize| -> Cell {
            if choice[k].is_empty() {
                // The layout has no such cell; any will do.
                return self.nodes.iter().map(|_| vec![Edge { from: 1, op: Operation::Skip }]).collect();
            }
            let edge = |(from, column): &(usize, usize)| Edge { from: *from, op: self.operations[*column] };
            choice[k].iter().map(|kept| kept.iter().map(edge).collect()).collect()
        };
        Genotype { version: Genotype::VERSION, normal: cell(0), reduction: cell(1) }
    }
}

/// For each kind and node, the kept edges: source and operation's column.
type Choice = [Vec<Vec<(usize, usize)>>; 2];

impl Gates {
    /// The factors of a cell at `place`, whose operations work on `channels` channels.
    pub(crate) fn scales(&self, place: &Place, channels: usize, parts: usize) -> Result<CellScales> {
        debug_assert!(channels * parts == place.width);
        let (_, columns) = self.operations.dims2()?;
        let operations = Scale::all(&self.operations.flatten_all()?, channels)?;
        Ok(CellScales {
            operations: operations.chunks(columns).map(<[Scale]>::to_vec).collect(),
            edges: Scale::all(&self.edges, channels)?,
        })
    }
}
