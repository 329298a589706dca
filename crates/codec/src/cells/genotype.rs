//! Which operations connect the nodes of a cell: what an architecture search finds.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::Operation;
use crate::{Error, Result};

/// The two kinds of cells of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CellKind {
    /// Keeps height, width and channels.
    Normal,
    /// Halves height and width (rounded up), doubles the channels.
    Reduction,
}

/// One edge of a cell: an operation on an earlier state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edge {
    /// The state that it reads: 0 the output of the cell before the previous one, 1 that of the previous cell, 2 and up the cell's own
    /// nodes.
    pub from: usize,
    /// What it does.
    pub op: Operation,
}

/// For each node of a cell, in order, the edges that it sums.
pub type Cell = Vec<Vec<Edge>>;

/// The cells of a network, as a file `genotype.json` holds them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Genotype {
    /// [`Genotype::VERSION`].
    pub version: u32,
    /// Cells that keep the resolution.
    pub normal: Cell,
    /// Cells that halve it.
    pub reduction: Cell,
}

impl Genotype {
    /// The version of the format, and of what the operations' names mean.
    pub const VERSION: u32 = 1;

    /// Reads the content of a `genotype.json`.
    ///
    /// # Errors
    /// Another version, an unknown operation, edges that lead nowhere; named.
    pub fn parse(text: &str) -> Result<Self> {
        let fault = |fault: String| Error::Config { what: "genotype", faults: vec![fault] };
        let value: serde_json::Value = serde_json::from_str(text).map_err(|e| fault(e.to_string()))?;
        match value.get("version").and_then(serde_json::Value::as_u64) {
            Some(version) if version == u64::from(Self::VERSION) => {}
            Some(version) => {
                return Err(fault(format!("version {version}, this program reads version {}", Self::VERSION)));
            }
            None => return Err(fault("has no version".into())),
        }
        let genotype: Self = serde_json::from_value(value).map_err(|e| fault(e.to_string()))?;
        genotype.validate()?;
        Ok(genotype)
    }

    /// Readable JSON, one line for each node.
    pub fn to_json(&self) -> String {
        let cell = |cell: &Cell| {
            let nodes: Vec<String> =
                cell.iter().map(|edges| serde_json::to_string(edges).unwrap_or_default()).collect();
            format!("[\n    {}\n  ]", nodes.join(",\n    "))
        };
        let mut text = String::new();
        let _ = writeln!(
            text,
            "{{\n  \"version\": {},\n  \"normal\": {},\n  \"reduction\": {}\n}}",
            self.version,
            cell(&self.normal),
            cell(&self.reduction)
        );
        text
    }

    /// The cell of a kind.
    pub fn cell(&self, kind: CellKind) -> &Cell {
        match kind {
            CellKind::Normal => &self.normal,
            CellKind::Reduction => &self.reduction,
        }
    }

    /// Checks that every node has edges, each from an earlier state and with an operation.
    ///
    /// # Errors
    /// [`Error::Config`] with all faults.
    pub fn validate(&self) -> Result<()> {
        let mut faults = Vec::new();
        if self.version != Self::VERSION {
            faults.push(format!("version {}, expected {}", self.version, Self::VERSION));
        }
        for (name, cell) in [("normal", &self.normal), ("reduction", &self.reduction)] {
            if !(1..=16).contains(&cell.len()) {
                faults.push(format!("{name} has {} nodes, expected 1 to 16", cell.len()));
            }
            for (node, edges) in cell.iter().enumerate() {
                if edges.is_empty() {
                    faults.push(format!("{name}[{node}] has no edge"));
                }
                for (i, edge) in edges.iter().enumerate() {
                    if edge.from >= 2 + node {
                        faults.push(format!("{name}[{node}] reads state {}, expected 0 to {}", edge.from, 1 + node));
                    }
                    if edge.op == Operation::None {
                        faults.push(format!("{name}[{node}] has an edge with operation none: leave the edge out"));
                    }
                    if edges[..i].contains(edge) {
                        faults.push(format!("{name}[{node}] has the edge {} from {} twice", edge.op.name(), edge.from));
                    }
                }
            }
        }
        if faults.is_empty() { Ok(()) } else { Err(Error::Config { what: "genotype", faults }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"{
  "version": 1,
  "normal": [
    [{"from":0,"op":"sep_conv_3x3"},{"from":1,"op":"skip"}],
    [{"from":2,"op":"conv_3x3"},{"from":1,"op":"max_pool_3x3"}]
  ],
  "reduction": [
    [{"from":0,"op":"conv_3x3"},{"from":1,"op":"conv_1x1"}]
  ]
}
"#;

    #[test]
    fn a_genotype_is_written_as_it_is_read() {
        assert_eq!(Genotype::parse(TEXT).unwrap().to_json(), TEXT);
    }

    #[test]
    fn other_versions_and_unknown_operations_are_refused_by_name() {
        let refusal = |from: &str, to: &str| Genotype::parse(&TEXT.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(refusal("\"version\": 1", "\"version\": 7").contains("version 7"));
        assert!(refusal("\"version\": 1,", "").contains("no version"));
        assert!(refusal("sep_conv_3x3", "sep_conv_9x9").contains("sep_conv_9x9"));
        assert!(refusal("\"skip\"", "\"none\"").contains("none"));
        assert!(refusal("\"from\":2", "\"from\":3").contains("normal[1] reads state 3"));
        assert!(refusal("\"op\"", "\"operation\"").contains("operation"));
    }
}
